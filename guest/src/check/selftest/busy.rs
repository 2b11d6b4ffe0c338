//! Threads that sleep and wake each other for ever, to see that they go on whatever becomes of the domain
//! meanwhile: a vCPU that goes, a save and what comes after it.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;

use crate::control::End;
use crate::lock::Lock;
use crate::monitor::Monitor;
use crate::monitor::commands::command;
use crate::rank;
use crate::{println, task, time};

/// Nanoseconds between two turns of a thread that sleeps.
const PAUSE: u64 = 1_000_000;
/// Nanoseconds after which a thread that made no turn stands still.
const PATIENCE: u64 = 10_000_000_000;
/// Turns that each is to make while it is looked at.
const TURNS: u64 = 3;

/// How many turns each has made.
static TURNS_MADE: Lock<Vec<Arc<AtomicU64>>, rank::Check> = Lock::new(Vec::new());

fn now() -> u64 {
    time::monotonic().unwrap_or(0)
}

/// Begins a pair: one sleeps and wakes the other, which parks until then.
fn begin() -> Result<(), task::SpawnError> {
    let made = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let [sleeps, parks] = made.clone();
    let parked = task::spawn("parks", move || {
        loop {
            task::park();
            parks.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    let other: Waker = parked.waker();
    // It never ends, and nobody waits for that.
    drop(parked);
    let sleeper = task::spawn("sleeps", move || {
        loop {
            task::sleep_until(now() + PAUSE);
            sleeps.fetch_add(1, Ordering::Relaxed);
            other.wake_by_ref();
        }
    })?;
    drop(sleeper);
    let mut all = TURNS_MADE.lock();
    if all.try_reserve(made.len()).is_ok() {
        all.extend(made);
    }
    Ok(())
}

/// Waits until each has made some turns; the number of one that does not.
fn look() -> Option<usize> {
    let before: Vec<_> = turns().collect();
    let deadline = now() + PATIENCE;
    loop {
        let mut slow = turns().zip(&before);
        let slow = slow.position(|(turns, before)| turns < before + TURNS);
        if slow.is_none() || now() > deadline {
            return slow;
        }
        task::sleep_until(now() + PAUSE);
    }
}

/// How many turns each has made by now.
fn turns() -> impl Iterator<Item = u64> {
    let turns = |number| {
        let all = TURNS_MADE.lock();
        let turns: &Arc<AtomicU64> = all.get(number)?;
        Some(turns.load(Ordering::Relaxed))
    };
    (0..).map_while(turns)
}

fn busy(_: &mut Monitor, argument: &str) -> Option<End> {
    match argument.parse::<u32>() {
        _ if argument.is_empty() => {}
        Ok(pairs) => {
            for _ in 0..pairs {
                if let Err(e) = begin() {
                    println!("busy: {e}");
                    break;
                }
            }
        }
        Err(_) => println!("busy takes a number of pairs of threads, or nothing"),
    }
    match look() {
        None => println!("busy: all {} threads go on", turns().count()),
        Some(number) => println!("busy: thread {number} stands still"),
    }
    None
}
command!(
    "busy",
    "[PAIRS]",
    "have threads sleep and wake each other from now on; say whether all of them go on",
    needs EVERYWHERE,
    busy
);
