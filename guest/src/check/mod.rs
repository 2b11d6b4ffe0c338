//! What only tests the kernel, or what it runs on: rooms that nothing else imports. They register
//! themselves in [`checks`](crate::checks) and other linker tables; without the feature `check` an image
//! has none of them.

mod bench;
mod fuzz;
mod rulebook;
mod selftest;
