//! The root in memory and what stands in it, by theme: one program, since each that is linked takes longer
//! than its tests.

#[path = "../common/mod.rs"]
mod common;
mod links;
mod memory;
mod ramdisk;
mod shown;
mod terminal;
mod waiting;
