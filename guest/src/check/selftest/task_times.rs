//! Times at which threads wake, and that they wait for.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::Waker;

use super::context::Context;
use super::task::{now, trimmed};
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::lock::Lock;
use crate::rank;
use crate::{task, time};

/// Threads that sleep wake in the order of their times, whatever order they came in, and none too early.
fn sleepers(_: &mut Context) -> TestResult {
    // Time for all of them to fall asleep, in nanoseconds: a machine may be slow.
    let mut lead = 20_000_000;
    trimmed(|| {
        while !all_sleep(lead)? {
            lead *= 4;
        }
        Ok(())
    })
}
selftest!("task.sleep", sleepers, needs EVERYWHERE);

/// The same; false if one came too late to sleep.
fn all_sleep(lead: u64) -> Result<bool, Trouble> {
    let first = now()? + lead;
    let woken = Arc::new(Lock::<_, rank::Check>::new(heapless::Vec::<u64, 8>::new()));
    let last_to_sleep = Arc::new(AtomicU64::new(0));
    let mut handles = Vec::new();
    handles.try_reserve_exact(8)?;
    for number in [5, 1, 7, 3, 0, 6, 2, 4] {
        let (woken, last_to_sleep) = (Arc::clone(&woken), Arc::clone(&last_to_sleep));
        let at = first + number * 10_000_000;
        // All on one vCPU, so that two that are late come in order as well.
        let sleeper = task::Spawn::new("sleeps").pinned(0);
        handles.push(sleeper.start(move || {
            let begins = time::monotonic().unwrap_or(u64::MAX);
            last_to_sleep.fetch_max(begins, Ordering::Relaxed);
            task::sleep_until(at);
            let late = time::monotonic().is_some_and(|now| now >= at);
            // There is room for each.
            let _ = woken.lock().push(number);
            late
        })?);
    }
    for handle in handles {
        expect_eq!(handle.join(), Some(true), "the time of a sleeper has come");
    }
    if last_to_sleep.load(Ordering::Relaxed) >= first {
        return Ok(false);
    }
    let order = woken.lock().clone();
    expect_eq!(
        &order[..],
        &[0, 1, 2, 3, 4, 5, 6, 7][..],
        "sleepers as they woke"
    );
    Ok(true)
}

/// A timer that is dropped wakes nobody, and one that is not does; the first of several at the same time
/// as well as the last.
fn timers(_: &mut Context) -> TestResult {
    /// Counts how often it is woken.
    struct Count(AtomicU32);
    impl alloc::task::Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let counts = [(); 4].map(|()| Arc::new(Count(AtomicU32::new(0))));
    let at = now()? + 5_000_000;
    let mut timers: Vec<Option<task::Timer>> = Vec::new();
    timers.try_reserve_exact(4)?;
    for count in &counts {
        timers.push(Some(task::wake_at(at, Waker::from(Arc::clone(count)))?));
    }
    timers[0] = None;
    timers[2] = None;
    task::sleep_until(at + 5_000_000);
    let woken = counts
        .each_ref()
        .map(|count| count.0.load(Ordering::Relaxed));
    expect_eq!(woken, [0, 1, 0, 1], "how often each was woken");
    Ok(())
}
selftest!("task.timers", timers, needs EVERYWHERE);

/// Who waits for what does not come, waits until the time that was named; who waits for what comes, does
/// not.
fn waits_in_time(_: &mut Context) -> TestResult {
    trimmed(|| {
        let begun = now()?;
        let nothing = task::wait_until_time(begun + 3_000_000, |_| None::<u32>);
        expect_eq!(nothing, None, "what never comes");
        expect_eq!(
            now()? >= begun + 3_000_000,
            true,
            "the time that was named has come"
        );
        let place = Arc::new(Lock::<_, rank::Check>::new((None, None::<Waker>)));
        let theirs = Arc::clone(&place);
        let handle = task::spawn("brings", move || {
            let mut place = theirs.lock();
            place.0 = Some(7);
            let waker = place.1.take();
            drop(place);
            if let Some(waker) = waker {
                waker.wake();
            }
        })?;
        let found = task::wait_until_time(now()? + 20_000_000_000, |waker| {
            let mut place = place.lock();
            place.1 = Some(waker.clone());
            place.0
        });
        expect_eq!(found, Some(7), "what a thread brings");
        expect_eq!(handle.join(), Some(()), "the end of a thread");
        Ok(())
    })
}
selftest!("task.wait", waits_in_time, needs EVERYWHERE);
