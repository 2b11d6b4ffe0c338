//! The domain builder: where everything is when the kernel's first instruction runs
//! (`tools/libs/guest/xg_dom_x86.c` for a domU, `xen/arch/x86/pv/dom0_build.c` for dom0 and the
//! shim's guest).
//!
//! The tables are written as plain memory and then validated like any guest's: what comes out is
//! what the kernel finds. Invariant: the initial mapping is one run of pseudo-physical frames from
//! `virt_base` on; the p2m, if it has a place of its own, is another.

use hypercall::{
    MachAddr, Mfn, Pfn,
    abi::start_info::{
        SIF_INITDOMAIN, SIF_MOD_START_PFN, SIF_PRIVILEGED, start_info, start_info_console,
        start_info_console_dom0, start_info_console_domU,
    },
    mmu::Level,
};

use crate::{
    config::{Kind, Layout},
    entry::{self, A, D, GUEST_KERNEL, P, PSE, RW, U},
    event::Bound,
    frame::Type,
    state::State,
};

/// Bytes that the initial mapping is rounded to.
const ROUND: u64 = 4 << 20;
/// Bytes at its end that are mapped and free, at least.
const PADDING: u64 = 512 << 10;
/// Flags of entries above L1.
const TABLE: u64 = P | RW | U | A | D;

/// What the kernel is told, and a little more. All of it is in `start_info` as well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Boot {
    /// Pages the domain has.
    pub nr_pages: u64,
    /// Where pseudo-physical address 0 is mapped.
    pub virt_base: u64,
    /// One past the initial mapping.
    pub virt_end: u64,
    /// Of `start_info`, as RSI says.
    pub start_info_va: u64,
    /// Its frame.
    pub start_info_pfn: Pfn,
    /// Of the page shared with Xen; it is in no p2m.
    pub shared_info: Mfn,
    /// Of the xenstore ring; none for dom0.
    pub store_mfn: Mfn,
    /// Of the console ring; none for dom0.
    pub console_mfn: Mfn,
    /// Port of the xenstore ring.
    pub store_evtchn: u32,
    /// Port of the console ring.
    pub console_evtchn: u32,
    /// Where the L4 table is mapped, read-only; the others follow.
    pub pt_base: u64,
    /// How many tables there are from there on.
    pub nr_pt_frames: u64,
    /// The first table's frame number.
    pub pt_pfn: Pfn,
    /// Where the p2m is mapped.
    pub mfn_list: u64,
    /// First frame of the p2m and its tables, if it has a mapping of its own.
    pub first_p2m_pfn: u64,
    /// How many those are.
    pub nr_p2m_frames: u64,
    /// As in `start_info`: a virtual address, or a frame number.
    pub mod_start: u64,
    /// Bytes of initrd.
    pub mod_len: u64,
    /// One past the boot stack: RSP.
    pub stack_top: u64,
    /// The L4 table.
    pub l4: Mfn,
}

/// A table to be: level, number within the level, and where.
struct Table {
    level: Level,
    number: u64,
    pfn: u64,
}

struct Builder<'a> {
    state: &'a mut State,
    layout: &'a Layout,
    p2m: &'a mut Vec<Mfn>,
    tables: Vec<Table>,
    boot: Boot,
    /// The next frame that nothing is in.
    next: u64,
}

/// How many entries of `level` the range touches.
fn count(from: u64, to: u64, level: Level) -> u64 {
    let shift = 12 + 9 * (level as u32 - 1);
    ((to - 1) >> shift) - (from >> shift) + 1
}

/// The number of the table of `level` that translates `va`, over the whole address space.
fn number(va: u64, level: Level) -> u64 {
    (va & 0xffff_ffff_ffff) >> (12 + 9 * level as u32)
}

/// Lays out the domain in frames `p2m`, which may be changed where the p2m gets large pages, and
/// starts vCPU 0 on its tables.
pub(crate) fn build(
    state: &mut State,
    layout: &Layout,
    p2m: &mut Vec<Mfn>,
    large: &mut dyn Iterator<Item = Mfn>,
) -> Boot {
    let mut builder = Builder {
        state,
        layout,
        p2m,
        tables: Vec::new(),
        boot: Boot::default(),
        next: 0,
    };
    builder.place();
    builder.image_tables();
    builder.p2m_tables(large);
    builder.numbers();
    builder.start_info();
    builder.launch();
    builder.boot
}

impl Builder<'_> {
    fn va(&self, pfn: u64) -> u64 {
        self.layout.virt_base + (pfn << 12)
    }

    fn take(&mut self, pages: u64) -> u64 {
        self.next += pages;
        assert!(
            self.next <= self.layout.nr_pages,
            "{} pages are too few for this layout",
            self.layout.nr_pages
        );
        self.next - pages
    }

    /// Gives everything in the initial mapping its frames: kernel, initrd, p2m, start_info,
    /// xenstore, console, tables, stack, padding.
    fn place(&mut self) {
        let layout = self.layout;
        let (_, kernel_end) = layout.kernel;
        self.take((kernel_end - layout.virt_base).div_ceil(4096));
        self.boot.nr_pages = layout.nr_pages;
        self.boot.virt_base = layout.virt_base;
        let initrd_pages = layout.initrd_len.div_ceil(4096);
        if layout.initrd_len > 0 && !layout.unmapped_initrd {
            let pfn = self.take(initrd_pages);
            self.boot.mod_start = self.va(pfn);
        }
        self.boot.mod_len = layout.initrd_len;
        if layout.init_p2m.is_none() {
            let pfn = self.take((layout.nr_pages * 8).div_ceil(4096));
            self.boot.mfn_list = self.va(pfn);
        }
        let pfn = self.take(1);
        self.boot.start_info_pfn = Pfn::truncate(pfn);
        self.boot.start_info_va = self.va(pfn);
        if layout.kind != Kind::Dom0 {
            let pfn = self.take(2);
            self.boot.store_mfn = self.p2m[pfn as usize];
            self.boot.console_mfn = self.p2m[pfn as usize + 1];
        }
        let (tables, end) = match layout.kind {
            Kind::DomU => self.size_as_libxc(),
            Kind::Dom0 | Kind::Shim => self.size_as_xen(),
        };
        let pfn = self.take(tables);
        self.boot.pt_base = self.va(pfn);
        self.boot.pt_pfn = Pfn::truncate(pfn);
        self.boot.nr_pt_frames = tables;
        let stack = self.take(1);
        self.boot.stack_top = self.va(stack + 1);
        self.boot.virt_end = end;
        self.take((end - self.va(self.next)) >> 12);
        self.order_tables();
        if layout.initrd_len > 0 && layout.unmapped_initrd {
            if layout.kind != Kind::DomU {
                // Xen allocates the initial mapping as a power of two.
                self.next = self.next.next_power_of_two();
            }
            self.boot.mod_start = self.take(initrd_pages);
        }
    }

    fn tables_for(&self, end: u64) -> u64 {
        let base = self.layout.virt_base;
        1 + count(base, end, Level::L4) + count(base, end, Level::L3) + count(base, end, Level::L2)
    }

    fn size_as_libxc(&self) -> (u64, u64) {
        let start = self.va(self.next);
        let extra = 1 + PADDING / 4096;
        let mut pages = extra;
        loop {
            let last = (start + pages * 4096) | (ROUND - 1);
            let tables = self.tables_for(last.wrapping_add(1).max(last));
            pages = tables + extra;
            if start + pages * 4096 - 1 <= last {
                return (tables, last + 1);
            }
        }
    }

    fn size_as_xen(&self) -> (u64, u64) {
        let start = self.va(self.next);
        for tables in 2.. {
            let stack_end = start + (tables + 1) * 4096;
            let mut end = stack_end.next_multiple_of(ROUND);
            if end - stack_end < PADDING {
                end += ROUND;
            }
            if self.tables_for(end) <= tables {
                return (tables, end);
            }
        }
        unreachable!("the range is endless")
    }

    /// A domU's tables come by level, from the root; Xen's come as they are needed on the way
    /// through the mapping, lowest first.
    fn order_tables(&mut self) {
        let (base, end) = (self.layout.virt_base, self.boot.virt_end);
        let mut order = vec![(Level::L4, 0)];
        let numbers = |level| number(base, level)..=number(end - 1, level);
        match self.layout.kind {
            Kind::DomU => {
                for level in [Level::L3, Level::L2, Level::L1] {
                    order.extend(numbers(level).map(|number| (level, number)));
                }
            }
            Kind::Dom0 | Kind::Shim => {
                for l1 in numbers(Level::L1) {
                    order.push((Level::L1, l1));
                    for (level, number) in [(Level::L2, l1 >> 9), (Level::L3, l1 >> 18)] {
                        if !order.contains(&(level, number)) {
                            order.push((level, number));
                        }
                    }
                }
            }
        }
        let first = self.boot.pt_pfn.as_u64();
        self.tables = (first..)
            .zip(order)
            .map(|(pfn, (level, number))| Table { level, number, pfn })
            .collect();
    }

    fn mfn(&self, pfn: u64) -> Mfn {
        self.p2m[pfn as usize]
    }

    /// The table of `level` for `va`, if it has one.
    fn table(&self, va: u64, level: Level) -> Option<Mfn> {
        let wanted = if level == Level::L4 {
            0
        } else {
            number(va, level)
        };
        self.tables
            .iter()
            .find(|table| table.level == level && table.number == wanted)
            .map(|table| self.mfn(table.pfn))
    }

    fn write(&mut self, va: u64, level: Level, value: u64) {
        let table = self.table(va, level).expect("the table was placed");
        self.state.mem.write(table, entry::index(va, level), value);
    }

    /// Enters `table` of `level`, which translates `va`, into the one above.
    fn link(&mut self, va: u64, level: Level, table: Mfn) {
        let above = match level {
            Level::L1 => Level::L2,
            Level::L2 => Level::L3,
            _ => Level::L4,
        };
        self.write(va, above, entry::entry(table, TABLE));
    }

    fn page_flags(&self) -> u64 {
        match self.layout.kind {
            Kind::DomU => P | RW | A,
            Kind::Dom0 | Kind::Shim => P | RW | U | A | GUEST_KERNEL,
        }
    }

    /// Whether Xen, when it builds a domain, writes to the page through the domain's own mapping.
    fn is_written(&self, va: u64) -> bool {
        let (start, end) = self.layout.kernel;
        (start..end).contains(&va) || va == self.boot.start_info_va
    }

    fn image_tables(&mut self) {
        let (first, last) = {
            let first = self.boot.pt_pfn.as_u64();
            (first, first + self.boot.nr_pt_frames)
        };
        for pfn in 0..(self.boot.virt_end - self.layout.virt_base) >> 12 {
            let va = self.va(pfn);
            let read_only = (first..last).contains(&pfn);
            let mut flags = self.page_flags() & if read_only { !RW } else { !0 };
            if self.layout.kind != Kind::DomU && self.is_written(va) {
                flags |= D;
            }
            self.write(va, Level::L1, entry::entry(self.mfn(pfn), flags));
        }
        for index in 1..self.tables.len() {
            let table = &self.tables[index];
            let (level, mfn) = (table.level, self.mfn(table.pfn));
            let shift = 12 + 9 * level as u32;
            let va = table.number << shift;
            self.link(va, level, mfn);
        }
    }

    /// The p2m in a place of its own: first the list, then its tables (a domU), or each table
    /// right before what it maps (dom0). The tables are mapped nowhere.
    fn p2m_tables(&mut self, large: &mut dyn Iterator<Item = Mfn>) {
        let Some(base) = self.layout.init_p2m else {
            return;
        };
        self.boot.mfn_list = base;
        self.boot.first_p2m_pfn = self.next;
        let end = base + self.layout.nr_pages * 8;
        let pages = (self.layout.nr_pages * 8).div_ceil(4096);
        if self.layout.kind == Kind::DomU {
            let list = self.take(pages);
            for level in [Level::L3, Level::L2, Level::L1] {
                for number in number(base, level)..=number(end - 1, level) {
                    let va = number << (12 + 9 * level as u32);
                    self.p2m_table(va, level);
                }
            }
            for page in 0..pages {
                let value = entry::entry(self.mfn(list + page), self.page_flags());
                self.write(base + (page << 12), Level::L1, value);
            }
        } else {
            let mut va = base;
            while va < end {
                for level in [Level::L3, Level::L2] {
                    self.p2m_table(va, level);
                }
                let flags = self.page_flags() | D;
                if self.layout.large_p2m && end - va >= 2 << 20 && va % (2 << 20) == 0 {
                    let pfn = self.take(512);
                    for page in 0..512 {
                        let mfn = large.next().expect("large pages were reserved");
                        self.p2m[(pfn + page) as usize] = mfn;
                    }
                    // Not something a guest could write: it goes in after validation.
                    self.write(va, Level::L2, entry::entry(self.mfn(pfn), flags | PSE));
                    va += 2 << 20;
                } else {
                    self.p2m_table(va, Level::L1);
                    let pfn = self.take(1);
                    self.write(va, Level::L1, entry::entry(self.mfn(pfn), flags));
                    va += 4096;
                }
            }
        }
        self.boot.nr_p2m_frames = self.next - self.boot.first_p2m_pfn;
    }

    fn p2m_table(&mut self, va: u64, level: Level) {
        if self.table(va, level).is_some() {
            return;
        }
        let pfn = self.take(1);
        self.tables.push(Table {
            level,
            number: number(va, level),
            pfn,
        });
        self.link(va, level, self.mfn(pfn));
    }

    /// Fills in p2m and M2P.
    fn numbers(&mut self) {
        for pfn in 0..self.layout.nr_pages {
            let mfn = self.mfn(pfn);
            self.state.m2p_write(mfn, pfn);
            let va = self.boot.mfn_list + pfn * 8;
            let (frame, _) = self
                .state
                .walk(self.mfn(self.boot.pt_pfn.as_u64()), va)
                .page
                .expect("the p2m was mapped");
            self.state
                .mem
                .write(frame, (va as usize & 4095) / 8, mfn.as_u64());
        }
    }

    fn start_info(&mut self) {
        let dom0 = self.layout.kind == Kind::Dom0;
        if !dom0 {
            for port in [&mut self.boot.store_evtchn, &mut self.boot.console_evtchn] {
                *port = self
                    .state
                    .bind(Bound::Interdomain(0, 0), 0)
                    .expect("ports are free");
            }
        }
        let boot = &self.boot;
        let mut flags = match self.layout.kind {
            Kind::DomU => 0,
            Kind::Dom0 => SIF_PRIVILEGED | SIF_INITDOMAIN | 1 << 8,
            Kind::Shim => 1 << 9,
        };
        if boot.mod_len > 0 && self.layout.unmapped_initrd {
            flags |= SIF_MOD_START_PFN;
        }
        let console = if dom0 {
            start_info_console {
                dom0: start_info_console_dom0 {
                    info_off: 0,
                    info_size: 0,
                },
            }
        } else {
            start_info_console {
                domU: start_info_console_domU {
                    mfn: boot.console_mfn.as_u64(),
                    evtchn: boot.console_evtchn,
                },
            }
        };
        let mut info = start_info {
            magic: [0; 32],
            nr_pages: boot.nr_pages,
            shared_info: self.state.shared_info.addr().as_u64(),
            flags,
            store_mfn: boot.store_mfn.as_u64(),
            store_evtchn: boot.store_evtchn,
            console,
            pt_base: boot.pt_base,
            nr_pt_frames: boot.nr_pt_frames,
            mfn_list: boot.mfn_list,
            mod_start: boot.mod_start,
            mod_len: boot.mod_len,
            cmd_line: [0; 1024],
            first_p2m_pfn: boot.first_p2m_pfn,
            nr_p2m_frames: boot.nr_p2m_frames,
        };
        for (to, from) in info.magic.iter_mut().zip(b"xen-3.0-x86_64") {
            *to = *from as _;
        }
        for (to, from) in info.cmd_line.iter_mut().zip(self.layout.cmd_line.bytes()) {
            *to = from as _;
        }
        let frame = self.mfn(boot.start_info_pfn.as_u64());
        // SAFETY: the frame is page-aligned, 4096 bytes, and a `start_info` fits in.
        unsafe { self.state.mem.ptr(frame).cast::<start_info>().write(info) };
    }

    /// Validates the tables, by pinning the root, and loads them.
    fn launch(&mut self) {
        let l4 = self.mfn(self.boot.pt_pfn.as_u64());
        self.boot.l4 = l4;
        self.boot.shared_info = self.state.shared_info;
        let large = self.hide_large_pages();
        self.state
            .pin(l4, Level::L4)
            .expect("the builder's tables are valid");
        for (place, value) in large {
            self.state
                .mem
                .write(place.frame(), place.entry_index(), value);
            for page in 0..512 {
                let mfn = entry::frame(value).add(page);
                self.state
                    .get_page_and_type(mfn, Type::Writable)
                    .expect("large pages are nothing else");
            }
        }
        self.state.new_baseptr(l4).expect("the root is valid");
    }

    /// Takes the large mappings out of the tables, which would not pass with them.
    fn hide_large_pages(&mut self) -> Vec<(MachAddr, u64)> {
        let mut large = Vec::new();
        for table in self.tables.iter().filter(|t| t.level == Level::L2) {
            let mfn = self.p2m[table.pfn as usize];
            for index in 0..512 {
                let value = self.state.mem.read(mfn, index);
                if value & (P | PSE) == P | PSE {
                    large.push((MachAddr::of_entry(mfn, index), value));
                    self.state.mem.write(mfn, index, 0);
                }
            }
        }
        large
    }
}
