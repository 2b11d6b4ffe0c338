//! What the page tables make of a domain of the model, by theme: one program, since each that is linked
//! takes longer than its tests.

mod audit;
mod balloon;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod elsewhere;
mod fresh;
mod hand_over;
mod inject;
mod limits;
mod links;
mod locks;
mod logs;
mod memory;
mod native;
mod ops;
mod owning;
mod pv;
mod renumber;
mod rights;
mod spaces;
mod switch;
mod tables;
mod takeover;
mod user;
mod vcpus;
mod walk;
