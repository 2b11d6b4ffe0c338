//! What a PC has where no Xen hides it: segments, interrupts, a clock, and the devices that stand in
//! for what Xen would answer.
//!
//! Descriptors, interrupts and the clock are the processor's own wherever it delivers to the kernel
//! itself, under Xen's hardware virtualisation as well; the rest is bare metal's alone.

mod apic;
pub(crate) mod back_end;
pub(crate) mod clock;
mod deadlines;
pub(crate) mod descriptors;
pub(crate) mod devices;
pub(crate) mod interrupts;
pub(crate) mod ports;
pub(crate) mod processors;
pub(crate) mod start;
pub(crate) mod summons;
pub(crate) mod timer;
