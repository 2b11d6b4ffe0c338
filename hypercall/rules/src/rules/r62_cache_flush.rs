//! # R62: Flushing the cache is for domains with devices
//!
//! `FLUSH_CACHE` gives `EACCES` without I/O memory or ports (R2), and flushes with them.
//!
//! **Why.** It is slow for the whole machine, and only who has uncached mappings needs it.
//!
//! **Source.** xen/arch/x86/mm.c: `MMUEXT_FLUSH_CACHE`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let expected = match bench.kind() {
        Kind::Dom0 => 0,
        Kind::DomU | Kind::Shim => EACCES,
    };
    expect_result!(bench.ext(MMUEXT_FLUSH_CACHE, 0, 0), expected, "FLUSH_CACHE");
    Ok(())
}
