//! The rest of the library against a stand-in for Xen, by theme: one program, since each that is linked
//! takes longer than its tests.

mod calls;
mod calls_domain;
#[path = "../common/mod.rs"]
mod common;
mod devices;
mod explain;
mod fifo;
mod guards;
mod in_place;
mod instead;
mod interleavings;
mod interrupts;
mod lazy_model;
mod other_vcpu;
mod refusals_model;
mod settling;
