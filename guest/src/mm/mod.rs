//! Memory.

pub mod layout;
