//! What only tests the kernel, or what it runs on: the rooms that nothing else imports.

pub(crate) mod bench;
pub(crate) mod fuzz;
pub(crate) mod rulebook;
pub(crate) mod selftest;
