//! Everything the model knows, behind one `RefCell`: memory, the domain, its vCPUs, the counters.
//!
//! Invariant: no call out of the model (an upcall, a guest's handler) happens while the state is
//! borrowed.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use hypercall::{Errno, MachAddr, Mfn, Op, abi::arch::trap_info};

use crate::{
    config::{Kind, Version},
    counters::Counters,
    entry::Rights,
    event::Port,
    frame::Memory,
    inject::Injection,
    remote::RemoteFlushes,
    tlb::Tlb,
};

/// Behaviour a guest has switched with `vm_assist`.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Assists {
    pub(crate) writable_pagetables: bool,
    pub(crate) architectural_iopl: bool,
    pub(crate) runstate_update_flag: bool,
    pub(crate) m2p_strict: bool,
}

/// A virtual CPU.
pub(crate) struct Vcpu {
    /// The L4 table in kernel mode; 0 before the vCPU was given one.
    pub(crate) kernel_l4: Mfn,
    /// The L4 table in user mode, if there is one.
    pub(crate) user_l4: Option<Mfn>,
    /// What this vCPU remembers of its tables.
    pub(crate) tlb: Tlb,
    /// Where its `vcpu_info` is.
    pub(crate) info: MachAddr,
    /// It was moved there by the guest, which can be done once.
    pub(crate) info_moved: bool,
    pub(crate) up: bool,
    pub(crate) initialised: bool,
    pub(crate) gdt: Vec<Mfn>,
    pub(crate) ldt: (u64, u32),
    pub(crate) kernel_stack: (u64, u64),
    /// Entry points by `CALLBACKTYPE_*`.
    pub(crate) callbacks: BTreeMap<u16, u64>,
    pub(crate) traps: HashMap<u8, trap_info>,
    pub(crate) segment_bases: [u64; 4],
    pub(crate) debug_registers: [u64; 8],
    pub(crate) ts: bool,
    pub(crate) iopl: u32,
    pub(crate) timer: u64,
}

/// The model's state.
pub(crate) struct State {
    pub(crate) mem: Memory,
    pub(crate) kind: Kind,
    pub(crate) version: Version,
    /// Xen is a debug build.
    pub(crate) debug: bool,
    /// The CPU has the L1TF flaw, so that non-present entries are looked at.
    pub(crate) l1tf: bool,
    /// Translations are told apart by mode, and none is global.
    pub(crate) pcid: bool,
    pub(crate) domid: u16,
    pub(crate) assists: Assists,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) current: usize,
    /// Ticks with every flush and every type given up: orders the two.
    pub(crate) clock: u64,
    /// The L4 entry under which every table shows the M2P.
    pub(crate) m2p_slot: u64,
    /// The L4 entry of Xen's other slots.
    pub(crate) xen_slot: u64,
    /// First frame of the M2P itself.
    pub(crate) m2p: Mfn,
    pub(crate) shared_info: Mfn,
    /// Pages the domain has, and may have.
    pub(crate) pages: (u64, u64),
    /// Frames the domain gave back, or let go of.
    pub(crate) freed: Vec<Mfn>,
    pub(crate) ports: Vec<Port>,
    pub(crate) counters: Counters,
    pub(crate) injections: Vec<Injection>,
    pub(crate) in_multicall: bool,
    /// Requests until the next preemption that no event caused, and how often there is one.
    pub(crate) preempt: Option<(u64, u64)>,
    /// A cached translation that does not allow an access faults by itself.
    pub(crate) faults_from_tlb: bool,
    /// How flushes that a guest asks for reach other vCPUs, and those that have not reached them yet.
    pub(crate) remote_flushes: RemoteFlushes,
    pub(crate) late_flushes: Vec<(usize, Option<u64>)>,
    /// Somebody takes upcalls.
    pub(crate) has_upcall: bool,
    pub(crate) console: Vec<u8>,
    pub(crate) input: Vec<u8>,
    pub(crate) shutdown: Option<u32>,
    pub(crate) crashed: Option<String>,
    /// Crashing ends the domain quietly instead of panicking.
    pub(crate) survive: bool,
}

/// What becomes of a hypercall.
pub(crate) enum Outcome {
    /// It is over.
    Done(i64),
    /// It was interrupted, and goes on with these arguments when the guest runs again.
    Preempted(Op, [u64; 5]),
}

impl From<Result<i64, Errno>> for Outcome {
    fn from(result: Result<i64, Errno>) -> Self {
        Self::Done(result.unwrap_or_else(Errno::to_return))
    }
}

impl State {
    pub(crate) fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpus[self.current]
    }

    pub(crate) fn rights(&self) -> Rights {
        Rights {
            cache: self.kind.has_io(),
            debug: self.debug,
        }
    }

    /// Ends the domain, as Xen does with a guest that it cannot let run on.
    pub(crate) fn crash(&mut self, why: fmt::Arguments<'_>) {
        if self.crashed.is_none() {
            self.crashed = Some(why.to_string());
        }
    }

    /// What the M2P says about a frame.
    pub(crate) fn m2p_read(&self, mfn: Mfn) -> u64 {
        let (frame, index) = self.m2p_slot_of(mfn);
        self.mem.read(frame, index)
    }

    pub(crate) fn m2p_write(&mut self, mfn: Mfn, pfn: u64) {
        let (frame, index) = self.m2p_slot_of(mfn);
        self.mem.write(frame, index, pfn);
    }

    fn m2p_slot_of(&self, mfn: Mfn) -> (Mfn, usize) {
        let number = mfn.as_u64();
        (self.m2p.add(number / 512), (number % 512) as usize)
    }

    /// Whether a list call is to stop here and let the guest take an event first.
    pub(crate) fn preempt_check(&mut self) -> bool {
        if let Some((left, every)) = &mut self.preempt {
            *left -= 1;
            if *left == 0 {
                *left = *every;
                self.counters.preemptions += 1;
                return true;
            }
        }
        let preempt = self.has_upcall && self.upcall_due();
        self.counters.preemptions += preempt as u64;
        preempt
    }
}

/// Whether `len` bytes at `ptr` can be a guest's: not at address 0, not Xen's.
pub(crate) fn handle_ok(ptr: u64, len: u64) -> bool {
    len == 0
        || (ptr >= 4096
            && ptr.checked_add(len - 1).is_some_and(|last| {
                crate::entry::is_guest_va(ptr) && crate::entry::is_guest_va(last)
            }))
}

/// Copies a structure from the guest.
pub(crate) fn copy_from<T: Copy>(ptr: u64) -> Result<T, Errno> {
    if !handle_ok(ptr, size_of::<T>() as u64) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: the caller of `Hypervisor::call` vouched for the pointers among its arguments, for
    // what the hypercall reads and writes; addresses that no guest can own were refused above.
    Ok(unsafe { (ptr as *const T).read_unaligned() })
}

/// Copies a structure to the guest.
pub(crate) fn copy_to<T: Copy>(ptr: u64, value: T) -> Result<(), Errno> {
    if !handle_ok(ptr, size_of::<T>() as u64) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: as in `copy_from`.
    unsafe { (ptr as *mut T).write_unaligned(value) };
    Ok(())
}
