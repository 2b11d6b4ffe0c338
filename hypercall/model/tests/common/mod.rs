//! A small guest: raw hypercalls, and pages to play with.
#![allow(dead_code, reason = "each test file uses a part")]

use hypercall::{
    Errno, Hypervisor, MachAddr, Mfn, Op, Pfn,
    abi::{
        mmu::{mmu_update, mmuext_op, mmuext_op_arg1, mmuext_op_arg2},
        xen::DOMID_SELF,
    },
    mmu::Level,
};
use model::{Kind, Layout, Mode, Model, entry};

pub(crate) const RO: u64 = entry::P | entry::U | entry::A;
pub(crate) const RW: u64 = RO | entry::RW | entry::D;
pub(crate) const TABLE: u64 = entry::P | entry::RW | entry::U | entry::A | entry::D;

pub(crate) struct Guest {
    pub(crate) model: Model,
    next: std::cell::Cell<u64>,
}

pub(crate) fn guest(kind: Kind) -> Guest {
    Guest::new(&Layout::new(kind, 4096))
}

impl Guest {
    pub(crate) fn new(layout: &Layout) -> Self {
        let model = Model::build(layout);
        let boot = model.boot();
        let first = match boot.nr_p2m_frames {
            0 => (boot.virt_end - boot.virt_base) >> 12,
            frames => boot.first_p2m_pfn + frames,
        };
        Self {
            model,
            next: first.into(),
        }
    }

    /// A page that nothing maps.
    pub(crate) fn page(&self) -> Mfn {
        let pfn = self.next.replace(self.next.get() + 1);
        self.model.mfn(Pfn::truncate(pfn)).expect("memory is left")
    }

    pub(crate) fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        // SAFETY: the tests pass pointers to live memory, or ones that Xen refuses.
        unsafe { self.model.call(op, args) }
    }

    pub(crate) fn update_list(&self, list: &[(u64, u64)]) -> (i64, u32) {
        let list: Vec<_> = list
            .iter()
            .map(|&(ptr, val)| mmu_update { ptr, val })
            .collect();
        let mut done = 0u32;
        let args = [
            list.as_ptr() as u64,
            list.len() as u64,
            &raw mut done as u64,
            DOMID_SELF as u64,
            0,
        ];
        (self.call(Op::MmuUpdate, args), done)
    }

    pub(crate) fn update(&self, slot: MachAddr, value: u64) -> i64 {
        self.update_list(&[(slot.as_u64(), value)]).0
    }

    pub(crate) fn ext(&self, cmd: u32, arg1: u64, arg2: u64) -> i64 {
        let op = [mmuext_op {
            cmd,
            arg1: mmuext_op_arg1 { mfn: arg1 },
            arg2: mmuext_op_arg2 { src_mfn: arg2 },
        }];
        let args = [op.as_ptr() as u64, 1, 0, DOMID_SELF as u64, 0];
        self.call(Op::MmuextOp, args)
    }

    pub(crate) fn pin(&self, level: Level, mfn: Mfn) -> i64 {
        self.ext(level as u32 - 1, mfn.as_u64(), 0)
    }

    pub(crate) fn unpin(&self, mfn: Mfn) -> i64 {
        self.ext(4, mfn.as_u64(), 0)
    }

    pub(crate) fn va_mapping(&self, va: u64, value: u64, flags: u64) -> i64 {
        self.call(Op::UpdateVaMapping, [va, value, flags, 0, 0])
    }

    /// Writes a word of a frame as if it were mapped writable.
    pub(crate) fn poke(&self, mfn: Mfn, index: usize, value: u64) {
        // SAFETY: the frame is 512 words, and nobody else touches it meanwhile.
        unsafe { (*self.model.frame_ptr(mfn))[index] = value }
    }

    pub(crate) fn peek(&self, mfn: Mfn, index: usize) -> u64 {
        // SAFETY: as in `poke`.
        unsafe { (*self.model.frame_ptr(mfn))[index] }
    }

    pub(crate) fn l4(&self) -> Mfn {
        self.model.l4(Mode::Kernel).expect("a vCPU has tables")
    }

    /// A free stretch of the address space with tables down to L1; returns the L1 table.
    pub(crate) fn window(&self, va: u64) -> Mfn {
        let (l3, l2, l1) = (self.page(), self.page(), self.page());
        self.poke(l2, entry::index(va, Level::L2), entry::entry(l1, TABLE));
        self.poke(l3, entry::index(va, Level::L3), entry::entry(l2, TABLE));
        let slot = MachAddr::of_entry(self.l4(), entry::index(va, Level::L4));
        assert_eq!(self.update(slot, entry::entry(l3, TABLE)), 0);
        l1
    }

    pub(crate) fn audit(&self) {
        if let Err(wrong) = self.model.check_invariants() {
            panic!("{wrong}");
        }
    }
}

pub(crate) fn err(errno: Errno) -> i64 {
    errno.to_return()
}
