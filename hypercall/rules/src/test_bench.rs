//! What a rule's test works with: raw hypercalls, pages, a stretch of address space with tables of its
//! own. All of it is put back when the test ends, however it ends.
//!
//! Invariant: what a [`TestBench`] handed out is, when it is dropped, unpinned, unlinked, writable and
//! given back.

use core::cell::{Cell, RefCell};

use hypercall::{
    MachAddr, Mfn, Op,
    abi::{
        event::{
            EVTCHNOP_bind_ipi, EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_unmask, evtchn_bind_ipi,
            evtchn_close, evtchn_send, evtchn_unmask,
        },
        memory::{XENMEM_machphys_mapping, xen_machphys_mapping},
        mmu::{
            MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_TLB_FLUSH_ALL, MMUEXT_UNPIN_TABLE,
            mmu_update, mmuext_op, mmuext_op_arg1, mmuext_op_arg2,
        },
        multicall::multicall_entry,
        xen::DOMID_SELF,
    },
    mmu::Level,
};

use crate::{Kind, Machine, Outcome, Page, Text};

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const RW: u64 = 2;
/// User.
pub const U: u64 = 4;
/// Write-through.
pub const PWT: u64 = 8;
/// Cache disabled.
pub const PCD: u64 = 0x10;
/// Accessed.
pub const A: u64 = 0x20;
/// Dirty.
pub const D: u64 = 0x40;
/// Large page above L1; a cache bit at L1.
pub const PSE: u64 = 0x80;
/// Global.
pub const G: u64 = 0x100;
/// Xen's mark on a page of the kernel.
pub const GUEST_KERNEL: u64 = 1 << 52;
/// No execution.
pub const NX: u64 = 1 << 63;
/// The flags of a read-only page.
pub const READ: u64 = P | U | A;
/// The flags of a writable page.
pub const WRITE: u64 = READ | RW | D;
/// The flags of an entry that points at a table.
pub const TABLE: u64 = P | RW | U | A | D;
/// The bits of an entry that hold the frame.
pub const FRAME: u64 = hypercall::addr::ADDR_MASK;
/// The bits in which an entry may differ from what was written without anybody having written it.
pub const AD: u64 = A | D;

/// `-EPERM`.
pub const EPERM: i64 = -1;
/// `-ENOENT`.
pub const ENOENT: i64 = -2;
/// `-ESRCH`.
pub const ESRCH: i64 = -3;
/// `-EACCES`.
pub const EACCES: i64 = -13;
/// `-EFAULT`.
pub const EFAULT: i64 = -14;
/// `-EBUSY`.
pub const EBUSY: i64 = -16;
/// `-EEXIST`.
pub const EEXIST: i64 = -17;
/// `-ENODEV`.
pub const ENODEV: i64 = -19;
/// `-EINVAL`.
pub const EINVAL: i64 = -22;
/// `-ENOSYS`.
pub const ENOSYS: i64 = -38;
/// `-EOPNOTSUPP`.
pub const EOPNOTSUPP: i64 = -95;

/// An address that is Xen's: a bad pointer for every guest.
pub const BAD_POINTER: u64 = 0xffff_8100_0000_0000;

/// An entry for `frame`.
pub const fn entry(frame: Mfn, flags: u64) -> u64 {
    frame.addr().as_u64() | flags
}

/// Entry `index` of the table in `page`.
pub const fn slot(page: &Page, index: usize) -> MachAddr {
    MachAddr::of_entry(page.mfn, index)
}

/// The index of the L4 entry that translates `va`.
pub const fn l4_index(va: u64) -> usize {
    (va >> 39 & 511) as usize
}

/// A word of a page, reached without a fault.
pub fn word(page: &Page, index: usize) -> u64 {
    assert!(index < 512);
    // SAFETY: `ptr` is good for the page's 512 words as long as it is mapped, which tests leave
    // it; Xen and the CPU change words of tables, hence volatile.
    unsafe { page.ptr.add(index).read_volatile() }
}

/// Writes a word of a page that is writable.
pub fn set_word(page: &Page, index: usize, value: u64) {
    assert!(index < 512);
    // SAFETY: as in `word`; the page is the test's alone and, as the caller says, writable.
    unsafe { page.ptr.add(index).write_volatile(value) }
}

/// A stretch of address space with tables of its own, empty.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its first address.
    pub va: u64,
    /// The entry of the current L4 that it hangs from.
    pub root: MachAddr,
    /// The L3 table; its entry 0 is in use.
    pub l3: Page,
    /// The L2 table; its entry 0 is in use.
    pub l2: Page,
    /// The L1 table, empty. Entry `n` maps page `n` from `va` on.
    pub l1: Page,
}

/// What a test got to work with.
pub struct TestBench<'m> {
    /// What is tested on.
    pub machine: &'m dyn Machine,
    pages: RefCell<([Option<Page>; TestBench::ROOM], usize)>,
    root: Cell<Option<MachAddr>>,
}

impl<'m> TestBench<'m> {
    /// Pages it can look after.
    pub const ROOM: usize = 20;

    /// One that has handed out nothing yet.
    pub fn new(machine: &'m dyn Machine) -> Self {
        Self {
            machine,
            pages: RefCell::new(([None; Self::ROOM], 0)),
            root: Cell::new(None),
        }
    }

    /// As what the guest runs.
    pub fn kind(&self) -> Kind {
        self.machine.about().kind
    }

    /// Makes a hypercall.
    pub fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        // SAFETY: tests point at their own memory, or at memory that Xen must refuse; what they
        // ask for concerns only what the test bench handed out, or is put back.
        unsafe { self.machine.hv().call(op, args) }
    }

    /// A page, zeroed and writable.
    pub fn page(&self) -> Result<Page, Outcome> {
        let page = self.machine.alloc();
        let (pages, len) = &mut *self.pages.borrow_mut();
        match page {
            Some(page) if *len < Self::ROOM => {
                pages[*len] = Some(page);
                *len += 1;
                Ok(page)
            }
            Some(page) => {
                self.machine.free(page);
                Err(error("the test wants too many pages"))
            }
            None => Err(error("the machine is out of pages")),
        }
    }

    /// A page that can become a table: zeroed and read-only.
    pub fn table(&self) -> Result<Page, Outcome> {
        let page = self.page()?;
        self.set_writable(&page, false)?;
        Ok(page)
    }

    /// A page that can become a table, with this in its first entries.
    pub fn table_with(&self, entries: &[u64]) -> Result<Page, Outcome> {
        let page = self.page()?;
        for (index, &value) in entries.iter().enumerate() {
            set_word(&page, index, value);
        }
        self.set_writable(&page, false)?;
        Ok(page)
    }

    /// Changes the kernel's mapping of a page.
    pub fn set_writable(&self, page: &Page, writable: bool) -> Result<(), Outcome> {
        match self.machine.set_writable(page, writable) {
            true => Ok(()),
            false => Err(error("the machine could not change its mapping of a page")),
        }
    }

    /// Tables for the machine's free stretch of address space, linked into the current L4.
    pub fn window(&self) -> Result<Window, Outcome> {
        let va = self.machine.scratch_va();
        let root = MachAddr::of_entry(self.machine.l4(), l4_index(va));
        let l1 = self.table()?;
        let l2 = self.table_with(&[entry(l1.mfn, TABLE)])?;
        let l3 = self.table_with(&[entry(l2.mfn, TABLE)])?;
        match self.update(root, entry(l3.mfn, TABLE)) {
            0 => self.root.set(Some(root)),
            _ => return Err(error("Xen refused to link fresh tables into the L4")),
        }
        Ok(Window {
            va,
            root,
            l3,
            l2,
            l1,
        })
    }

    /// Writes the L4 entry of the machine's free stretch of address space.
    pub fn hang(&self, value: u64) -> i64 {
        let index = l4_index(self.machine.scratch_va());
        let root = MachAddr::of_entry(self.machine.l4(), index);
        self.root.set(Some(root));
        self.update(root, value)
    }

    /// Carries out requests of `mmu_update`; returns the result and how many were done.
    pub fn updates(&self, requests: &[mmu_update]) -> (i64, u32) {
        self.updates_for(requests, DOMID_SELF)
    }

    /// The same with pages of another domain.
    pub fn updates_for(&self, requests: &[mmu_update], domid: u16) -> (i64, u32) {
        let mut done = 0x5555u32;
        let args = [
            requests.as_ptr() as u64,
            requests.len() as u64,
            &raw mut done as u64,
            domid as u64,
            0,
        ];
        (self.call(Op::MmuUpdate, args), done)
    }

    /// Writes one entry by `mmu_update`.
    pub fn update(&self, slot: MachAddr, value: u64) -> i64 {
        self.updates(&[request(slot, value)]).0
    }

    /// Writes the L1 entry of `va` by `update_va_mapping`.
    pub fn update_va(&self, va: u64, value: u64, flags: u64) -> i64 {
        self.call(Op::UpdateVaMapping, [va, value, flags, 0, 0])
    }

    /// Carries out operations of `mmuext_op`; returns the result and how many were done.
    pub fn exts(&self, ops: &[mmuext_op]) -> (i64, u32) {
        let mut done = 0x5555u32;
        let args = [
            ops.as_ptr() as u64,
            ops.len() as u64,
            &raw mut done as u64,
            DOMID_SELF as u64,
            0,
        ];
        (self.call(Op::MmuextOp, args), done)
    }

    /// Carries out one.
    pub fn ext(&self, cmd: u32, arg1: u64, arg2: u64) -> i64 {
        self.exts(&[ext(cmd, arg1, arg2)]).0
    }

    /// Pins a table.
    pub fn pin(&self, level: Level, page: &Page) -> i64 {
        let cmd = MMUEXT_PIN_L1_TABLE + level as u32 - 1;
        self.ext(cmd, page.mfn.as_u64(), 0)
    }

    /// Unpins one.
    pub fn unpin(&self, page: &Page) -> i64 {
        self.ext(MMUEXT_UNPIN_TABLE, page.mfn.as_u64(), 0)
    }

    /// Carries out a multicall.
    pub fn multicall(&self, calls: &mut [multicall_entry]) -> i64 {
        let args = [calls.as_mut_ptr() as u64, calls.len() as u64, 0, 0, 0];
        self.call(Op::Multicall, args)
    }

    /// A port that sends events to this vCPU 0.
    pub fn bind_ipi(&self) -> Result<u32, Outcome> {
        let mut op = evtchn_bind_ipi { vcpu: 0, port: 0 };
        match self.event_op(EVTCHNOP_bind_ipi, &raw mut op as u64) {
            0 => Ok(op.port),
            _ => Err(error("Xen refused to bind an IPI")),
        }
    }

    /// Unmasks a port.
    pub fn unmask_port(&self, port: u32) -> Result<(), Outcome> {
        let op = evtchn_unmask { port };
        match self.event_op(EVTCHNOP_unmask, &raw const op as u64) {
            0 => Ok(()),
            _ => Err(error("Xen refused to unmask a port")),
        }
    }

    /// Sends to a port.
    pub fn send(&self, port: u32) -> i64 {
        let op = evtchn_send { port };
        self.event_op(EVTCHNOP_send, &raw const op as u64)
    }

    /// Closes a port.
    pub fn close_port(&self, port: u32) -> i64 {
        let op = evtchn_close { port };
        self.event_op(EVTCHNOP_close, &raw const op as u64)
    }

    /// Any operation on event channels, with the address of its argument.
    pub fn event_op(&self, cmd: u32, arg: u64) -> i64 {
        self.call(Op::EventChannelOp, [cmd as u64, arg, 0, 0, 0])
    }

    /// Where the M2P is.
    pub fn m2p_range(&self) -> Result<xen_machphys_mapping, Outcome> {
        let mut map = xen_machphys_mapping::default();
        let args = [XENMEM_machphys_mapping as u64, &raw mut map as u64, 0, 0, 0];
        match self.call(Op::MemoryOp, args) {
            0 => Ok(map),
            _ => Err(error("Xen does not say where the M2P is")),
        }
    }

    /// What the M2P says about a frame.
    pub fn m2p(&self, mfn: Mfn) -> Result<u64, Outcome> {
        let va = self.m2p_range()?.v_start + mfn.as_u64() * 8;
        self.machine
            .read(va)
            .map_err(|_| error("the M2P has no word for a frame"))
    }

    /// Forgets translations everywhere.
    pub fn flush(&self) {
        self.ext(MMUEXT_TLB_FLUSH_ALL, 0, 0);
    }
}

impl Drop for TestBench<'_> {
    fn drop(&mut self) {
        // What was never set says so, and that is all right: the order is what matters. User
        // tables, the window, pins; then nothing holds the pages any more.
        let (pages, len) = *self.pages.borrow();
        if len > 0 {
            self.ext(MMUEXT_NEW_USER_BASEPTR, 0, 0);
        }
        if let Some(root) = self.root.take() {
            self.update(root, 0);
        }
        for page in pages[..len].iter().flatten() {
            self.unpin(page);
        }
        for page in pages[..len].iter().flatten() {
            self.machine.set_writable(page, true);
            self.machine.free(*page);
        }
        self.flush();
    }
}

/// A request of `mmu_update`.
pub const fn request(slot: MachAddr, value: u64) -> mmu_update {
    mmu_update {
        ptr: slot.as_u64(),
        val: value,
    }
}

/// An operation of `mmuext_op`.
pub const fn ext(cmd: u32, arg1: u64, arg2: u64) -> mmuext_op {
    mmuext_op {
        cmd,
        arg1: mmuext_op_arg1 { mfn: arg1 },
        arg2: mmuext_op_arg2 { src_mfn: arg2 },
    }
}

/// An entry of a multicall.
pub const fn entry_for(op: u64, args: [u64; 5]) -> multicall_entry {
    let [a, b, c, d, e] = args;
    multicall_entry {
        op,
        result: 0x5555,
        args: [a, b, c, d, e, 0x6666],
    }
}

/// The test could not be carried out.
pub fn error(why: &str) -> Outcome {
    Outcome::Error(Text::new(format_args!("{why}")))
}

/// There is nothing to test here.
pub fn skipped(why: &str) -> Outcome {
    Outcome::Skip(Text::new(format_args!("{why}")))
}
