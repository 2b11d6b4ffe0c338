//! A machine without Xen: memory, a processor that keeps what it has walked to, and the tables that the
//! entry by PVH leaves.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use guest::mm::Flags;
use guest::mm::fuzz::Probe;
use guest::mm::layout::{self, Fixed};
use guest::mm::machine::{Machine, Words};
use guest::mm::memory::Memory;
use guest::mm::tables::Fold;
use guest::mm::takeover::{Initial, Segments, Start};
use hypercall::instead::PageTables;
use hypercall::mmu::Scope;
use hypercall::{Hypervisor, Mfn, Op, Pfn};
use pagetable::native::{Cpu, OwnTables};

use crate::own::Own;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const FRAMES: u64 = 6144;
/// What is not memory: the end of the first MiB, and a piece beyond the early mapping.
pub(crate) const HOLES: [std::ops::Range<u64>; 2] = [0x9f..0x100, 0x500..0x510];
/// The early tables, behind the image: L5, L4, L3, L2, two L1, the fixmap's L1.
pub(crate) const TABLES: u64 = 0x200;

/// A processor with its memory.
pub(crate) struct Bare {
    frames: Vec<RefCell<Box<Words>>>,
    pub(crate) memory: Memory,
    fold: Fold,
    root: Cell<u64>,
    /// Translations that a processor may have kept: page to entry.
    tlb: RefCell<HashMap<u64, u64>>,
    protected: Cell<bool>,
}

impl Bare {
    pub(crate) fn words(&self, frame: u64) -> *mut Words {
        // SAFETY: only the address of the words inside the box is taken.
        unsafe { &raw mut **self.frames[frame as usize].as_ptr() }
    }

    /// The entry that maps an address, if one does; its W bit is that of all levels.
    pub(crate) fn translate(&self, va: u64) -> Option<u64> {
        let page = va & !(PAGE - 1);
        if let Some(kept) = self.tlb.borrow().get(&page) {
            return Some(*kept);
        }
        let (mut table, mut rights) = (self.root.get(), !0);
        for level in (1..=u32::from(self.fold.top())).rev() {
            let index = va >> (12 + 9 * (level - 1)) & 511;
            // SAFETY: a table in this memory, used by one thread.
            let word = unsafe { self.entry(table + index * 8).read() };
            if word & 1 == 0 {
                return None;
            }
            assert_eq!(word >> 7 & 1, 0, "a large page at level {level}");
            rights &= word | !2;
            table = word & 0x000f_ffff_ffff_f000;
        }
        let kept = table | rights & 3;
        self.tlb.borrow_mut().insert(page, kept);
        Some(kept)
    }
}

impl Cpu for Bare {
    fn entry(&self, address: u64) -> *mut u64 {
        let frame = address / PAGE;
        if !self.memory.contains(frame) {
            return std::ptr::null_mut();
        }
        self.words(frame)
            .cast::<u64>()
            .wrapping_add((address % PAGE / 8) as usize)
    }

    fn root(&self) -> u64 {
        self.root.get()
    }

    unsafe fn set_root(&self, address: u64) {
        self.root.set(address);
        self.invalidate(Scope::Local, None);
    }

    fn fold(&self) -> Fold {
        self.fold
    }

    fn invalidate(&self, _: Scope, address: Option<u64>) {
        match address {
            Some(va) => drop(self.tlb.borrow_mut().remove(&(va & !(PAGE - 1)))),
            None => self.tlb.borrow_mut().clear(),
        }
    }

    fn maps_page(&self, _: u64) -> bool {
        false
    }

    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R {
        assert!(self.protected.replace(false));
        let result = f();
        self.protected.set(true);
        result
    }
}

/// The one processor of a test, as everybody there reaches it.
#[derive(Clone)]
pub(crate) struct Shared(Rc<Bare>);

impl Cpu for Shared {
    fn entry(&self, address: u64) -> *mut u64 {
        self.0.entry(address)
    }

    fn root(&self) -> u64 {
        self.0.root()
    }

    unsafe fn set_root(&self, address: u64) {
        // SAFETY: `Cpu::set_root` has its caller promise that the tables at `address` map what is in
        // use; it is the same method, of the same processor, with the same address.
        unsafe { self.0.set_root(address) };
    }

    fn fold(&self) -> Fold {
        self.0.fold()
    }

    fn invalidate(&self, scope: Scope, address: Option<u64>) {
        self.0.invalidate(scope, address);
    }

    fn maps_page(&self, address: u64) -> bool {
        self.0.maps_page(address)
    }

    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R {
        self.0.unprotected(f)
    }
}

#[derive(Clone)]
pub(crate) struct Native(OwnTables<Shared>);

impl Native {
    pub(crate) fn new(cpu: &Rc<Bare>) -> Native {
        Native(OwnTables(Shared(Rc::clone(cpu))))
    }

    fn cpu(&self) -> &Bare {
        &self.0.0.0
    }
}

impl Hypervisor for Native {
    /// Nobody is called by number.
    unsafe fn call(&self, op: Op, _: [u64; 5]) -> i64 {
        panic!("{op} by number")
    }
    fn mask_upcalls(&self) -> bool {
        true
    }
    fn restore_upcalls(&self, _: bool) {}
    fn page_tables(&self) -> Option<&dyn PageTables> {
        Some(&self.0)
    }
}

pub(crate) struct BareMachine {
    cpu: Rc<Bare>,
    reach: Cell<u64>,
    direct: Cell<bool>,
}

impl Machine for BareMachine {
    type Hv = Native;
    type Lock = spin::Mutex<()>;
    type Layout = layout::Regions;

    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        Mfn::new(self.cpu.memory.mfn_or_ones(pfn))
    }
    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.cpu.memory.pfn(mfn)
    }
    fn memory(&self, pfn: Pfn) -> *mut Words {
        if pfn.as_u64() >= self.reach.get() || self.mfn(pfn).is_none() {
            return std::ptr::null_mut();
        }
        self.cpu.words(pfn.as_u64())
    }
    fn window(&self, pfn: Pfn) -> u64 {
        let base = if self.direct.get() {
            layout::DIRECT.start
        } else {
            layout::IMAGE.start
        };
        base + pfn.as_u64() * PAGE
    }
    fn set_reach(&self, pages: u64) {
        self.reach.set(pages);
    }
    fn open_direct_map(&self) {
        self.direct.set(true);
    }
    fn direct_map_is_open(&self) -> bool {
        self.direct.get()
    }
}

impl Probe for Native {
    fn load(&mut self, va: u64) -> Option<u64> {
        let entry = self.cpu().translate(va)?;
        // SAFETY: a frame of this memory, used by one thread.
        Some(unsafe { self.cpu().entry((entry & !0xfff) + va % PAGE).read() })
    }

    fn store(&mut self, va: u64, value: u64) -> bool {
        match self.cpu().translate(va) {
            Some(entry) if entry & 2 != 0 => {
                // SAFETY: a frame of this memory, used by one thread.
                unsafe { self.cpu().entry((entry & !0xfff) + va % PAGE).write(value) };
                true
            }
            _ => false,
        }
    }

    fn executes(&mut self, _: u64) -> Option<bool> {
        None
    }
}

pub(crate) type World = (Rc<Bare>, Own<BareMachine>);

/// A machine as the PVH entry leaves it.
pub(crate) fn bare(fold: Fold) -> Rc<Bare> {
    let mut memory = Memory::none();
    for range in [
        0..HOLES[0].start,
        HOLES[0].end..HOLES[1].start,
        HOLES[1].end..FRAMES,
    ] {
        memory.add(range, TABLES);
    }
    let root = match fold {
        Fold::FourLevels => TABLES + 1,
        Fold::FiveLevels => TABLES,
    };
    let cpu = Rc::new(Bare {
        frames: (0..FRAMES)
            .map(|_| RefCell::new(Box::new([0; 512])))
            .collect(),
        memory,
        fold,
        root: Cell::new(root * PAGE),
        tlb: RefCell::default(),
        protected: Cell::new(true),
    });
    let set = |table: u64, index: u64, word: u64| {
        // SAFETY: the memory is this function's.
        unsafe { cpu.entry((TABLES + table) * PAGE + index * 8).write(word) };
    };
    let table = |number: u64| ((TABLES + number) * PAGE) | 0x63;
    set(0, 511, table(1));
    set(1, 511, table(2));
    set(2, 510, table(3));
    set(3, 0, table(4));
    set(3, 1, table(5));
    set(3, 511, table(6));
    for frame in (0..1024).filter(|frame| cpu.memory.contains(*frame)) {
        let is_table = (root..TABLES + 7).contains(&frame);
        let flags = if is_table { 0x61 } else { 0x63 };
        set(4 + frame / 512, frame % 512, (frame * PAGE) | flags);
    }
    cpu
}

pub(crate) fn image() -> Segments {
    let at = |frame: u64| layout::IMAGE.start + frame * PAGE;
    Segments {
        text: at(0x100)..at(0x120),
        kept_text: at(0x100)..at(0x118),
        rodata: at(0x120)..at(0x140),
        data: at(0x140)..at(TABLES),
        guard: at(0x150)..at(0x151),
    }
}

/// The early tables taken over, with one machine frame looked at on the way.
pub(crate) fn world(fold: Fold) -> World {
    let cpu = bare(fold);
    let machine = BareMachine {
        cpu: Rc::clone(&cpu),
        reach: Cell::new(0),
        direct: Cell::new(false),
    };
    let mut tables = Own::new(Native::new(&cpu), machine);
    let root = cpu.root() / PAGE;
    let start = Start {
        nr_pages: FRAMES,
        fold,
        pt_base: layout::IMAGE.start + root * PAGE,
        nr_pt_frames: TABLES + 7 - root,
        p2m_list: None,
        p2m_frames: 0..0,
        start_info: 0,
        shared: [None, None],
        module: 0..0,
        boot_stack: 0,
        image: image(),
    };
    let mut early = Initial::survey(&mut tables, start)
        .unwrap()
        .fixmap()
        .unwrap();
    // A frame that is no memory, as a device's.
    let device = Mfn::truncate(0xf_ee00);
    let va = Fixed::Console.address();
    // SAFETY: nobody reads it.
    unsafe { early.map_fixed(va, device, Flags::DATA) }.unwrap();
    assert_eq!(
        cpu.translate(va).unwrap() >> 12,
        device.as_u64(),
        "{fold:?}"
    );
    early.direct_map().unwrap();
    (cpu, tables)
}

pub(crate) fn clean((_, tables): &mut World) {
    let report = tables.audit().unwrap();
    assert!(report.is_clean(), "{report}");
}
