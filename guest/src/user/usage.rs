//! What threads and processes used of the machine: how long they ran, and the pages that they touched first.
//!
//! A vCPU says how long a thread ran when it leaves it, by the processor's counter. What of that was the
//! kernel's on its behalf nobody counts: all of it is the program's.

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use crate::time;

const MICRO: u64 = 1000;
const SECOND: u64 = 1_000_000;

/// What was used so far.
#[derive(Default)]
pub(crate) struct Usage {
    /// By the processor's counter.
    ticks: AtomicU64,
    faults: AtomicU64,
}

impl Usage {
    /// It ran for so long more.
    pub(crate) fn run(&self, ticks: u64) {
        self.ticks.fetch_add(ticks, Ordering::Relaxed);
    }

    /// It touched a page that was not there for it.
    pub(crate) fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Another one's counts as well.
    pub(crate) fn add(&self, other: &Usage) {
        self.run(other.ticks.load(Ordering::Relaxed));
        let faults = other.faults.load(Ordering::Relaxed);
        self.faults.fetch_add(faults, Ordering::Relaxed);
    }

    /// How long it ran, in nanoseconds, with so many ticks that were not said yet.
    pub(crate) fn time(&self, more: u64) -> u64 {
        let ticks = self.ticks.load(Ordering::Relaxed).wrapping_add(more);
        time::of_ticks(ticks)
    }

    /// In Linux' words, with ticks as above.
    pub(crate) fn words(&self, more: u64) -> linux::rusage {
        let micros = self.time(more) / MICRO;
        let none = linux::__kernel_old_timeval {
            tv_sec: 0,
            tv_usec: 0,
        };
        linux::rusage {
            ru_utime: linux::__kernel_old_timeval {
                tv_sec: (micros / SECOND) as i64,
                tv_usec: (micros % SECOND) as i64,
            },
            ru_stime: none,
            ru_maxrss: 0,
            ru_ixrss: 0,
            ru_idrss: 0,
            ru_isrss: 0,
            ru_minflt: self.faults.load(Ordering::Relaxed) as i64,
            ru_majflt: 0,
            ru_nswap: 0,
            ru_inblock: 0,
            ru_oublock: 0,
            ru_msgsnd: 0,
            ru_msgrcv: 0,
            ru_nsignals: 0,
            ru_nvcsw: 0,
            ru_nivcsw: 0,
        }
    }
}
