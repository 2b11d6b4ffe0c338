//! The one line that ends a run, for whoever watches the console.
//!
//! `verdict: pass|fail|crash key=value ...` at the start of a line. Watchers count exactly one; the
//! words are part of the kernel's interface.

use core::fmt::Display;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::println;

static GIVEN: AtomicBool = AtomicBool::new(false);

fn first() -> bool {
    !GIVEN.swap(true, Ordering::Relaxed)
}

/// All is well; `facts` are `key=value` pairs.
pub fn pass(facts: impl Display) {
    if first() {
        println!("verdict: pass {facts}");
    }
}

/// The kernel runs but did not do what it was asked to.
pub fn fail(reason: impl Display) {
    if first() {
        println!("verdict: fail reason=\"{reason}\"");
    }
}

/// The kernel cannot go on.
pub fn crash(reason: impl Display) {
    if first() {
        println!("verdict: crash reason=\"{reason}\"");
    }
}
