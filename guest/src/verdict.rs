//! The one line that ends a run, for whoever watches the console.
//!
//! `verdict: pass|fail|crash key=value ...` at the start of a line. Watchers count exactly one; the
//! words are part of the kernel's interface.

use core::fmt::Display;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::console::print_last;

static GIVEN: AtomicBool = AtomicBool::new(false);

fn first() -> bool {
    !GIVEN.swap(true, Ordering::Relaxed)
}

/// All is well; `facts` are `key=value` pairs.
pub fn pass(facts: impl Display) {
    if first() {
        print_last(format_args!("verdict: pass {facts}\n"));
    }
}

/// The kernel runs but did not do what it was asked to.
pub fn fail(reason: impl Display) {
    if first() {
        print_last(format_args!("verdict: fail reason=\"{reason}\"\n"));
    }
}

/// The kernel cannot go on.
pub fn crash(reason: impl Display) {
    if first() {
        print_last(format_args!("verdict: crash reason=\"{reason}\"\n"));
    }
}
