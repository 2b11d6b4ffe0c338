//! # R16: A store to a table faults, except where Xen emulates it
//!
//! A kernel's store to a read-only mapping of an L1 table is turned into an update if the
//! writable-page-tables assist is on, **and in dom0 even if it is off**. In any other domain it
//! faults, and so does a store to a table of a higher level, for everybody. A kernel that was only
//! ever run as dom0 can be full of stores it should not make.
//!
//! **Why.** The assist is for guests that were not changed enough. For dom0 Xen looks at the same
//! faults for the sake of read-only device memory, and finds the table on the way.
//!
//! **Source.** xen/arch/x86/traps.c: `fixup_page_fault`; pv/ro-page-fault.c: `pv_ro_page_fault`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let window = bench.window()?;
    let page = bench.page()?;
    let at = |table: &crate::Page, index: u64| table.va + index * 8;
    let dom0 = bench.kind() == Kind::Dom0;
    let value = entry(page.mfn, READ);
    let check = |emulated: bool, what: &str| -> Check {
        let stored = machine.write(at(&window.l1, 5), value);
        expect_eq!(stored.is_ok(), emulated, "a store to an L1 table, {what}");
        if let Err(fault) = stored {
            expect!(fault.is_protection(), "fault code {:#x}", fault.code);
        } else {
            expect_eq!(word(&window.l1, 5) & FRAME, value & FRAME, "the entry stored");
            let rewritten = word(&window.l1, 5) & G;
            expect_eq!(rewritten, G, "the entry stored, rewritten like any other");
        }
        let stored = machine.write(at(&window.l2, 5), 0);
        expect!(stored.is_err(), "a store to an L2 table succeeds, {what}");
        Ok(())
    };
    check(dom0, "assist off")?;
    let about = machine.about();
    if about.kind == Kind::Shim && !about.model && about.version < (4, 18) {
        // R49: without a fault address Xen does not see that a table was meant.
        return Ok(());
    }
    let assist = |on: bool| bench.call(Op::VmAssist, [!on as u64, 2, 0, 0, 0]);
    expect_result!(assist(true), 0, "switching the assist on");
    let result = check(true, "assist on");
    expect_result!(assist(false), 0, "switching the assist off");
    result
}
