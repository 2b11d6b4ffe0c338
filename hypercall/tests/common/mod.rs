//! A stand-in for Xen that knows lists and their results, and nothing of what entries mean.
//!
//! Page-table entries live in a map by machine address. Requests are carried out as Xen does it:
//! in order, up to the first that is refused; a multicall goes on with its next entry, and returns
//! 0. What is refused is decided by a test, by request. Everything is recorded.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod mock;
pub(crate) mod rig;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
};

use hypercall::{
    Errno, Hypervisor, Op,
    abi::{
        mmu::{mmu_update, mmuext_op},
        multicall::multicall_entry,
    },
};

/// One request, as it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    Update { ptr: u64, val: u64 },
    Ext { cmd: u32, arg1: u64 },
    Va { va: u64, val: u64, flags: u64 },
}

#[derive(Default)]
pub(crate) struct Double {
    /// Entries, by machine address.
    pub(crate) memory: RefCell<HashMap<u64, u64>>,
    /// Which machine address maps a virtual one.
    pub(crate) by_va: RefCell<HashMap<u64, u64>>,
    /// The outermost hypercalls.
    pub(crate) traps: RefCell<Vec<Op>>,
    /// Requests carried out or refused, in order.
    pub(crate) requests: RefCell<Vec<(Request, bool)>>,
    /// Requests to refuse, counted over the whole run, with what.
    pub(crate) refuse: RefCell<HashMap<usize, Errno>>,
    /// Machine addresses to which writes are refused.
    pub(crate) refuse_slots: RefCell<HashSet<u64>>,
    /// Operations with this command are refused.
    pub(crate) refuse_cmd: Cell<Option<u32>>,
    /// Multicall entries after which the list becomes unreadable.
    pub(crate) unreadable_after: Cell<Option<usize>>,
    /// Fails whole calls before their list is looked at; by the requests before them, as below.
    pub(crate) refuse_call: RefCell<HashMap<usize, Errno>>,
    /// Fails whole calls after all of their list was carried out.
    pub(crate) fail_after: RefCell<HashMap<usize, Errno>>,
    pub(crate) masked: Cell<bool>,
    /// Requests that came while upcalls were not masked.
    pub(crate) unmasked_requests: Cell<usize>,
}

const ACCESSED_DIRTY: u64 = 0x60;

impl Double {
    pub(crate) fn entry(&self, slot: u64) -> u64 {
        self.memory.borrow().get(&slot).copied().unwrap_or(0)
    }

    pub(crate) fn trap_count(&self) -> usize {
        self.traps.borrow().len()
    }

    pub(crate) fn take_traps(&self) -> Vec<Op> {
        self.traps.take()
    }

    fn admit(&self, request: Request, slot: Option<u64>) -> Result<(), Errno> {
        if !self.masked.get() {
            self.unmasked_requests.set(self.unmasked_requests.get() + 1);
        }
        let number = self.requests.borrow().len();
        let mut refused = self.refuse.borrow().get(&number).copied();
        if slot.is_some_and(|slot| self.refuse_slots.borrow().contains(&slot)) {
            refused = refused.or(Some(Errno::EBUSY));
        }
        if let Request::Ext { cmd, .. } = request
            && self.refuse_cmd.get() == Some(cmd)
        {
            refused = refused.or(Some(Errno::EINVAL));
        }
        self.requests
            .borrow_mut()
            .push((request, refused.is_none()));
        refused.map_or(Ok(()), Err)
    }

    fn update(&self, update: mmu_update) -> Result<(), Errno> {
        let request = Request::Update {
            ptr: update.ptr,
            val: update.val,
        };
        let slot = update.ptr & !3;
        self.admit(request, Some(slot))?;
        let old = self.entry(slot);
        let new = match update.ptr & 3 {
            0 => update.val,
            2 => update.val | old & ACCESSED_DIRTY,
            1 => return Ok(()),
            _ => return Err(Errno::ENOSYS),
        };
        self.memory.borrow_mut().insert(slot, new);
        Ok(())
    }

    fn ext(&self, op: mmuext_op) -> Result<(), Errno> {
        // SAFETY: every argument is plain bits.
        let arg1 = unsafe { op.arg1.mfn };
        self.admit(Request::Ext { cmd: op.cmd, arg1 }, None)
    }

    fn list<T: Copy>(&self, args: [u64; 5], each: impl Fn(T) -> Result<(), Errno>) -> i64 {
        let [list, count, done, domain, _] = args;
        assert_eq!(domain, 0x7ff0);
        let call = self.requests.borrow().len();
        if let Some(errno) = self.refuse_call.borrow_mut().remove(&call) {
            return errno.to_return();
        }
        let mut result = 0;
        let mut carried_out = 0u32;
        for at in 0..count as usize {
            // SAFETY: the caller of a hypercall vouches for its list.
            let item = unsafe { (list as *const T).add(at).read() };
            if let Err(errno) = each(item) {
                result = errno.to_return();
                break;
            }
            carried_out += 1;
        }
        if let Some(errno) = self.fail_after.borrow_mut().remove(&call) {
            result = errno.to_return();
        }
        // SAFETY: the caller of a hypercall vouches for the count.
        unsafe { (done as *mut u32).write(carried_out) };
        result
    }

    fn multicall(&self, list: u64, count: usize) -> i64 {
        for at in 0..count {
            if self.unreadable_after.get().is_some_and(|after| at >= after) {
                return Errno::EFAULT.to_return();
            }
            // SAFETY: the caller of a hypercall vouches for its list.
            let entry = unsafe { (list as *mut multicall_entry).add(at).as_mut().unwrap() };
            let [a, b, c, d, e, _] = entry.args;
            let op = Op::from_number(entry.op).unwrap();
            assert_ne!(op, Op::Multicall);
            let result = self.answer(op, [a, b, c, d, e]);
            // As a debug Xen does.
            entry.op = 0xaaaa_aaaa_aaaa_aaaa;
            entry.args = [0xaaaa_aaaa_aaaa_aaaa; 6];
            entry.result = result as u64;
        }
        0
    }

    fn answer(&self, op: Op, args: [u64; 5]) -> i64 {
        match op {
            Op::MmuUpdate => self.list(args, |update| self.update(update)),
            Op::MmuextOp => self.list(args, |op| self.ext(op)),
            Op::Multicall => self.multicall(args[0], args[1] as usize),
            Op::UpdateVaMapping => {
                let [va, val, flags, ..] = args;
                let slot = self.by_va.borrow().get(&(va & !0xfff)).copied();
                match (self.admit(Request::Va { va, val, flags }, slot), slot) {
                    (Err(errno), _) => errno.to_return(),
                    (Ok(()), None) => Errno::EINVAL.to_return(),
                    (Ok(()), Some(slot)) => {
                        self.memory.borrow_mut().insert(slot, val);
                        0
                    }
                }
            }
            _ => Errno::ENOSYS.to_return(),
        }
    }
}

impl Hypervisor for Double {
    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        self.traps.borrow_mut().push(op);
        self.answer(op, args)
    }

    fn mask_upcalls(&self) -> bool {
        self.masked.replace(true)
    }

    fn restore_upcalls(&self, was: bool) {
        self.masked.set(was);
    }
}
