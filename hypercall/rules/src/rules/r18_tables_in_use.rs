//! # R18: A table stays a table while a CR3 names it
//!
//! Unpinning a root does not end its use: as long as a vCPU's kernel or user CR3 holds it, it is an
//! L4, and mapping it writable fails with `EBUSY`. The same is true of one that a vCPU gave up only
//! lazily. Free a table after every vCPU has let go of it.
//!
//! **Why.** A CR3 is a reference like an entry.
//!
//! **Source.** xen/arch/x86/mm.c: `new_guest_cr3`, `MMUEXT_NEW_USER_BASEPTR`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let l4 = bench.table()?;
    let user = |mfn: u64| bench.ext(MMUEXT_NEW_USER_BASEPTR, mfn, 0);
    expect_result!(user(l4.mfn.as_u64()), 0, "loading a user L4 that was not pinned");
    expect!(!machine.set_writable(&l4, true), "the user L4 was mapped writable");
    expect_result!(bench.pin(Level::L4, &l4), 0, "pinning it");
    expect_result!(bench.unpin(&l4), 0, "unpinning it");
    expect!(!machine.set_writable(&l4, true), "the unpinned user L4 was mapped writable");
    expect_result!(user(0), 0, "letting go of it");
    bench.set_writable(&l4, true)
}
