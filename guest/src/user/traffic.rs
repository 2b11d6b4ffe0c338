//! What the page tables of programs ask of Xen: how many requests go out with a hypercall when a program
//! forks, executes another, or moves memory.
//!
//! A kernel that is thorough about batching sends few hypercalls with many requests. Each vCPU counts its
//! own; what a program does here stays on one.

use core::fmt;

use core::sync::atomic::{AtomicU32, Ordering};

use hypercall::batch::{SIZE_CLASSES, Stats};

use crate::mm;

/// What a program does.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    Fork,
    Exec,
    Move,
}

const WORK: [(Work, &str); 3] = [
    (Work::Fork, "fork"),
    (Work::Exec, "exec"),
    (Work::Move, "mremap"),
];

struct Counts {
    times: AtomicU32,
    hypercalls: AtomicU32,
    /// Hypercalls by class of size.
    sizes: [AtomicU32; SIZE_CLASSES],
}

static COUNTS: [Counts; WORK.len()] = [const {
    Counts {
        times: AtomicU32::new(0),
        hypercalls: AtomicU32::new(0),
        sizes: [const { AtomicU32::new(0) }; SIZE_CLASSES],
    }
}; WORK.len()];

fn now() -> Stats {
    mm::with(|tables| *tables.stats())
}

/// Counts what `f` asks of Xen.
pub(crate) fn counted<R>(work: Work, f: impl FnOnce() -> R) -> R {
    let before = now();
    let result = f();
    let after = now();
    let counts = &COUNTS[work as usize];
    let add = |count: &AtomicU32, more: u32| count.fetch_add(more, Ordering::Relaxed);
    add(&counts.times, 1);
    add(
        &counts.hypercalls,
        after.hypercalls.wrapping_sub(before.hypercalls) as u32,
    );
    let sizes = after.sizes.iter().zip(before.sizes);
    for (count, (after, before)) in counts.sizes.iter().zip(sizes) {
        if *after != before {
            add(count, after.wrapping_sub(before));
        }
    }
    result
}

/// Takes what it shows.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let take = |count: &AtomicU32| count.swap(0, Ordering::Relaxed);
        let (times, hypercalls) = (take(&self.times), take(&self.hypercalls));
        write!(
            f,
            "{times} times, {hypercalls} hypercalls; with so many requests:"
        )?;
        for (class, count) in self.sizes.iter().map(take).enumerate() {
            match class {
                _ if count == 0 => {}
                0 | 1 => write!(f, " {class}: {count}")?,
                _ => write!(f, " {}-{}: {count}", 1 << (class - 1), (1 << class) - 1)?,
            }
        }
        Ok(())
    }
}

/// Says what was counted, and begins anew.
pub(super) fn tell() {
    for ((_, name), counts) in WORK.iter().zip(&COUNTS) {
        if counts.times.load(Ordering::Relaxed) > 0 {
            log::info!(target: "user", "{name}: {counts}");
        }
    }
}
