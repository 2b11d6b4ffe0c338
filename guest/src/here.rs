//! What the lock stands on: which vCPU this is, its upcalls, how it waits, and the words that vCPUs
//! share.
//!
//! A room of its own, as a test puts another in its place: one in which every order is tried in which
//! vCPUs can come to those words (`guest/tests/interleavings.rs`).

pub(crate) use core::hint::spin_loop as relax;
pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// How often a lock is looked at before its holder is given the processor, and after that each time.
pub(crate) const SPINS: u32 = 4096;
pub(crate) const SPINS_AGAIN: u32 = 64;

/// What excludes.
pub(crate) type Spin = spin::Mutex<()>;

#[cfg(target_os = "none")]
mod vcpu {
    use hypercall::{Hypervisor, sched};

    use crate::rank::Held;
    use crate::xen::HV;
    use crate::{cpu, time};

    /// How long a vCPU sleeps that waits for a lock, in nanoseconds: at first, and how often that doubles.
    const SLEEP: u64 = 32_000;
    const DOUBLED: u32 = 5;

    /// What the vCPU holds that this runs on.
    #[inline]
    pub(crate) fn held() -> &'static Held {
        &cpu::here().held
    }

    /// Lets the vCPU run that holds a lock: it may wait for this one's processor. `times` before it did not
    /// help.
    ///
    /// Where several wait, a processor that one of them yields goes to another that waits: Xen gives it to
    /// whoever has had the least of it. So it is yielded once, in case the holder is next, and then this
    /// vCPU sleeps, ever longer.
    pub(crate) fn give_way(times: u32) {
        // Without Xen each vCPU has a processor.
        let asleep = times > 0 && HV.devices().is_none();
        if let Some(now) = time::monotonic().filter(|_| asleep) {
            let until = now + (SLEEP << (times - 1).min(DOUBLED));
            if sched::poll(&HV, &[], time::in_xen(until)).is_ok() {
                return;
            }
        }
        // Refused, it is asked again soon.
        let _ = sched::r#yield(&HV);
    }

    #[inline]
    pub(crate) fn mask_upcalls() -> bool {
        HV.mask_upcalls()
    }

    #[inline]
    pub(crate) fn restore_upcalls(was: bool) {
        HV.restore_upcalls(was);
    }
}

/// On the host a thread stands for a vCPU, and there are no upcalls.
#[cfg(not(target_os = "none"))]
mod vcpu {
    use crate::rank::Held;

    std::thread_local! {
        static HELD: Held = const { Held::nothing() };
    }

    pub(crate) fn held() -> &'static Held {
        // SAFETY: the thread itself uses it, for as long as it runs.
        HELD.with(|held| unsafe { &*std::ptr::from_ref(held) })
    }

    pub(crate) fn give_way(_: u32) {
        std::thread::yield_now();
    }

    pub(crate) fn mask_upcalls() -> bool {
        true
    }

    pub(crate) fn restore_upcalls(_: bool) {}
}

pub(crate) use vcpu::{give_way, held, mask_upcalls, restore_upcalls};
