//! Interrupts where the processor delivers them to the kernel itself.
//!
//! Their gates are interrupt gates: a handler runs with RFLAGS.IF clear, on the stack of what it
//! interrupted, and is not interrupted itself. The flag is what masks upcalls here; it is clear
//! until events are opened.

use x86_64::instructions::interrupts::{are_enabled, disable, enable};

use crate::event;

/// The first vector of an interrupt: those below are exceptions' (SDM volume 3, 6.2).
pub(crate) const FIRST: u8 = 0x20;
/// The last one that has a gate: by which Xen brings events.
pub(crate) const EVENT: u8 = 0x30;

/// Turns interrupts off and says whether they were off before.
pub(crate) fn mask() -> bool {
    let was = !are_enabled();
    disable();
    was
}

/// Turns interrupts on. What waits is delivered before this returns: the flag takes effect one
/// instruction later, which is part of it.
pub(crate) fn unmask() {
    enable();
}

/// Takes an interrupt; false if there is none of that vector.
pub(crate) fn take(vector: u64) -> bool {
    if vector != u64::from(EVENT) {
        return false;
    }
    event::interrupted();
    true
}
