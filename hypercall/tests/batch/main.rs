//! The batcher against a stand-in for Xen. A program of its own, as Miri runs it too.

#[path = "../common/mod.rs"]
mod common;
mod random;
mod refused;
mod sends;
