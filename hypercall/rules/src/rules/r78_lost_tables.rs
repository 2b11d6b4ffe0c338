//! # R78: Xen can lose a table in a failed validation
//!
//! Validation of an L4 goes down through L3 to L2. If an L2 fails after its first slot, in slot 0
//! of its L3, and that L3 is in any slot but 0 of the L4, Xen forgets to clean up the L2: it keeps a
//! use and references for good, and can never be mapped writable or freed. A debug Xen stops in an
//! assertion. So what R53 promises holds for tables that a kernel builds rightly: do not let Xen
//! find the mistakes.
//!
//! **Why.** A vCPU has room to remember one table to clean up. A failure in slot 0 does not pass
//! the memory on to the level above, which then overwrites it with itself.
//!
//! **Source.** xen/arch/x86/mm.c: `promote_l3_table` and `promote_l4_table`, the failure paths
//! (`if ( i )`, `old_guest_table`); found by random requests, seen on 4.17 and 4.20, there by
//! reading in 4.23.
//!
//! **Costs.** As long as the domain lives, the L2 and what its entries before the bad one refer to;
//! when it is destroyed, the L2 alone: one page of the host for each validation that fails so, until
//! the host is restarted. Nothing but the domain's memory bounds how often: a domain of 32768 pages
//! left 32250 behind. It stays as a zombie, which `xl list` shows as `(null)` and Xen's debug key `q`
//! with `dying=2`, the number of pages, and each page with `caf=00000001`, the reference that nobody
//! drops.
//!
//! **Kills.** A debug Xen, and two pages of memory.
//!
//! **Withheld.** It concerns Xen itself, and Xen's security team has not judged it yet: a draft of
//! the report is `ci/reports/lost-table.md`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let about = machine.about();
    if about.model {
        skip!("the model cleans up");
    }
    if about.debug {
        skip!("a debug Xen would stop in an assertion");
    }
    let bench = TestBench::new(machine);
    // Not the test bench's: they cannot be given back. What the lost table named is lost with it.
    let (Some(lost), Some(good)) = (machine.alloc(), machine.alloc()) else {
        return Err(error("the machine is out of pages"));
    };
    bench.set_writable(&good, false)?;
    set_word(&lost, 1, entry(good.mfn, TABLE));
    set_word(&lost, 2, entry(good.mfn, TABLE | PSE));
    bench.set_writable(&lost, false)?;
    let l3 = bench.table_with(&[entry(lost.mfn, TABLE)])?;
    let l4 = bench.table_with(&[0, entry(l3.mfn, TABLE)])?;
    expect_result!(bench.pin(Level::L4, &l4), EINVAL, "pinning an L4 above a bad L2");
    bench.set_writable(&l3, true)?;
    bench.set_writable(&l4, true)?;
    let freed = machine.set_writable(&lost, true);
    if freed {
        bench.set_writable(&good, true)?;
        machine.free(lost);
        machine.free(good);
        fail!("the L2 was cleaned up: this Xen does not lose it");
    }
    Ok(())
}
