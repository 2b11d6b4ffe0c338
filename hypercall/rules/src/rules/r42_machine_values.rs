//! # R42: Some of `start_info` are machine values
//!
//! `shared_info` is a machine address, `store_mfn` and `console.domU.mfn` are machine frames, and
//! `shared_info` is in no p2m. `mod_start` is a pseudo-physical frame if `SIF_MOD_START_PFN` is set
//! in the flags, else a virtual address. `cmd_line` has 1024 bytes and maybe no NUL.
//!
//! **Why.** They are what goes into page-table entries; the shared page is Xen's memory.
//!
//! **Source.** xen/include/public/xen.h: `start_info`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let Some(info) = machine.start_info() else {
        skip!("this kernel has not kept start_info");
    };
    let window = bench.window()?;
    let shared = Mfn::truncate(info.shared_info >> 12);
    let result = bench.update(slot(&window.l1, 0), entry(shared, WRITE));
    expect_result!(result, 0, "mapping shared_info as a machine frame");
    if machine.about().kind != Kind::Dom0 {
        let store = Mfn::truncate(info.store_mfn);
        let result = bench.update(slot(&window.l1, 1), entry(store, WRITE));
        expect_result!(result, 0, "mapping the xenstore page as a machine frame");
        let m2p = bench.m2p(store)?;
        expect!(m2p < info.nr_pages, "the M2P says {m2p:#x} for the xenstore page");
    }
    let m2p = bench.m2p(shared)?;
    expect!(m2p >= info.nr_pages, "the M2P says {m2p:#x} for shared_info");
    Ok(())
}
