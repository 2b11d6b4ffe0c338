//! What a switch from one thread to another costs, and a wake-up: two threads that take turns on the
//! boot vCPU, counted by the turn.

extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use super::tally::{ROUNDS, Tally};
use crate::refused::Refused;
use crate::selection::Selection;
use crate::{stack, task};

/// Turns of a round, in each of which there and back.
const TURNS: u64 = 32;

/// What is measured here.
const NAMES: [&str; 4] = [
    "thread_switch",
    "thread_wake",
    "thread_call_here",
    "thread_spawn_join",
];

/// Whether any of it is to be measured.
pub(super) fn is_selected(selection: &Selection<'_>) -> bool {
    NAMES.iter().any(|name| selection.includes(name))
}

/// Measures, and prints a line for each that is selected.
///
/// # Panics
/// There is no memory for a thread.
#[inline(never)]
pub(super) fn run(selection: &Selection<'_>) -> Result<usize, Refused> {
    let mut tally = Tally::default();
    let switches = 2 * TURNS;
    let over = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&over);
    let yields = move || {
        while !theirs.load(Ordering::Relaxed) {
            task::yield_now();
        }
    };
    let other = task::Spawn::new("yields").pinned(0).start(yields);
    let other = made(other);
    task::yield_now();
    for _ in 0..ROUNDS {
        tally.count("thread_switch", switches, || {
            (0..TURNS).for_each(|_| task::yield_now());
            Ok(0)
        })?;
    }
    over.store(true, Ordering::Relaxed);
    let _ = other.join();

    let (main, theirs) = (task::waker(), Arc::clone(&over));
    over.store(false, Ordering::Relaxed);
    let answers = move || {
        while !theirs.load(Ordering::Relaxed) {
            task::park();
            main.wake_by_ref();
        }
    };
    let other = task::Spawn::new("answers").pinned(0).start(answers);
    let other = made(other);
    let waker = other.waker();
    let turn = || {
        waker.wake_by_ref();
        task::park();
    };
    turn();
    for _ in 0..ROUNDS {
        tally.count("thread_wake", switches, || {
            (0..TURNS).for_each(|_| turn());
            Ok(0)
        })?;
    }
    over.store(true, Ordering::Relaxed);
    waker.wake_by_ref();
    let _ = other.join();

    for _ in 0..ROUNDS {
        tally.count("thread_call_here", 1, || {
            // It is there: this vCPU runs.
            let _ = task::call(0, &|| {});
            Ok(1)
        })?;
        tally.count("thread_spawn_join", 1, || {
            let _ = made(task::spawn("short", || {})).join();
            Ok(0)
        })?;
    }
    stack::trim_all()?;
    Ok(tally.print(selection))
}

fn made<T>(thread: Result<T, task::SpawnError>) -> T {
    thread.unwrap_or_else(|e| panic!("a thread to be measured: {e}"))
}
