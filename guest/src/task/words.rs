//! The words that vCPUs share about threads: a module of its own, as a test puts others in their place.

pub(super) use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
