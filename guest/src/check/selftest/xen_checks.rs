//! Requests that Xen refuses, which nobody does where there is no Xen: with an account of what was
//! done, what was not, and why.

use hypercall::batch::{Failed, Reason};
use hypercall::queue::{Access, MmuError};
use hypercall::{Errno, ExtOp, Level, Update};

use super::context::{Context, PAGE, in_table};
use super::local_checks::{raw, refusal, table_of};
use super::{TestResult, Trouble, expect_eq, expect_matches, selftest};
use crate::mm::Running;
use crate::mm::entry::{L4, P4d, XEN_BITS};
use crate::mm::tables::Slot;
use crate::mm::{self, Current, Flags, MmError, Pte, Tables, Value, layout};

/// Mapping a page table writable is refused as well, where its entry would go into a table that
/// exists and where a new table is built around it; nothing is mapped and no frame is lost.
fn map_table(context: &mut Context) -> TestResult {
    let va = context.area(0);
    mm::with(|tables| tables.ensure_pte_table(va))?;
    let table = table_of(va)?;
    for at in [va, context.area(1)] {
        let result = mm::with(|tables| {
            // SAFETY: refused.
            unsafe { tables.map(at, [table].into_iter(), Flags::DATA) }.map(|_| ())
        });
        expect_matches!(
            result,
            Err(MmError::MustStayReadOnly { .. } | MmError::Flush(_)),
            "mapping a table writable at {at:#x}"
        );
        context.expect_absent(at, 1)?;
    }
    Ok(())
}
selftest!("refuse.map_table", map_table, needs XEN_TABLES);

/// Xen stops a list at the first request that it refuses. Of ten queued, the seventh maps a page
/// table writable: six are applied, one refused, three not tried; the error names the entry, its
/// address, old and new value, the rule and the line that queued it; the tables hold what the
/// account says, and the queue is empty.
fn account(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        let table = table_of(va)?;
        let bad = mm::with(|tables| tables.make_pte(Value::new(table, Flags::DATA)))?;
        let section = mm::lazy()?;
        let line = mm::with(|tables| {
            let mut line = 0;
            for i in 0..10 {
                let at = va + i * PAGE;
                let slot = tables.pte_slot(at)?;
                let old = tables.get(slot);
                let new = if i == 6 {
                    bad
                } else {
                    old.with_flags(Flags::CONST)
                };
                // SAFETY: the pages are the test's; the one that is not is refused.
                unsafe { tables.set_pte(slot.place(), at, new) }?;
                line = line!() - 1;
            }
            Ok::<_, MmError>(line)
        })?;
        let error = match section.end() {
            Err(MmuError::Flush(error)) => error,
            other => {
                return Err(Trouble::fail(format_args!(
                    "expected Xen's refusal on leaving the section, found {other:x?}"
                )));
            }
        };
        expect_eq!(
            (error.applied, error.refused, error.skipped),
            (6, 1, 3),
            "applied, refused, not tried"
        );
        expect_eq!(error.error.errno, Errno::EBUSY, "errno");
        expect_eq!(error.why(), Reason::WritableMapOfTable, "the rule");
        expect_eq!(error.tlb_stale, false, "TLB flushes were left out");
        let Failed::Update {
            index,
            level,
            va: Some(at),
            old,
            new,
            slot,
        } = error.failed
        else {
            return Err(Trouble::fail(format_args!(
                "expected an update as the request refused, found {:x?}",
                error.failed
            )));
        };
        expect_eq!(
            (index, level, at.as_u64(), slot.entry_index()),
            (6, Level::L1, va + 6 * PAGE, 6),
            "the update, its level, address and index"
        );
        let pfn = pile.pfns().nth(6).unwrap_or_default();
        let mfn = mm::with(|tables| tables.mfn(pfn))?;
        let was = Pte::from_mfn(mfn, Flags::DATA);
        expect_eq!(
            (old & !XEN_BITS, new),
            (was.bits() & !XEN_BITS, bad.bits()),
            "old and new value"
        );
        let caller = error.caller.map(|at| (at.file(), at.line()));
        expect_eq!(caller, Some((file!(), line)), "who queued it");
        let empty = Current.with(|mmu| mmu.batch().is_empty());
        expect_eq!(empty, true, "the queue is empty");
        for i in 0..10 {
            let entry = mm::with(|tables| in_table(tables, va + i * PAGE))?;
            let writable = entry & Flags::WRITABLE.bits() != 0;
            expect_eq!(writable, i >= 6, "W in the table, page {i}");
        }
        log::debug!("refused as expected: {error}");
        Ok(())
    })
}
selftest!("refuse.account", account, &[10], needs XEN_TABLES);

/// The slot of the L4 entry for an address.
fn p4d(tables: &Tables<Running>, va: u64) -> Option<Slot<'_, L4>> {
    let pgd = tables.pgd_offset(va)?;
    tables.p4d_offset(pgd, va)
}

/// A reserved slot of the root: the tables refuse it, as an entry of the kernel's half; a request as
/// such Xen refuses, the error says why, and the record of the table that would have been linked is
/// as it was.
fn reserved_slot(_: &mut Context) -> TestResult {
    let va = layout::XEN.start + (15 << 39);
    let (entry, reserved, table, before) = mm::with(|tables| {
        let none = MmError::NoTable { va: 0, level: 4 };
        let own = p4d(tables, layout::DIRECT.start).ok_or(none)?;
        let entry: P4d = tables.get(own).with_flags(Flags::TABLE);
        let table = tables.p4d_val(entry).ok_or(none)?.pfn;
        let reserved = p4d(tables, va).ok_or(none)?.place();
        let before = tables.frames().states(table)?;
        Ok::<_, MmError>((entry, reserved, table, before))
    })?;
    // SAFETY: refused.
    let result = mm::with(|tables| unsafe { tables.set_p4d(reserved, entry) });
    expect_matches!(result, Err(MmError::KernelHalf { va: at }) if at == va, "by the tables");
    let update = Update::new(Level::L4, reserved.machine(), entry.bits());
    // SAFETY: refused.
    let result = Current.with(|mmu| unsafe { mmu.set(update) });
    let error = refusal(result.map_err(MmError::from))?;
    expect_eq!(error.error.errno, Errno::EINVAL, "errno");
    expect_eq!(error.why(), Reason::XenSlot, "the rule");
    let after = mm::with(|tables| tables.frames().states(table));
    expect_eq!(after, Ok(before), "the record of the table is as it was");
    Ok(())
}
selftest!("refuse.reserved_slot", reserved_slot, needs XEN_TABLES);

/// Mapping a page table writable as raw bits, at once and outside of any section: the same rule as
/// in a list.
fn raw_writable_table(context: &mut Context) -> TestResult {
    let va = context.area(0);
    mm::with(|tables| tables.ensure_pte_table(va))?;
    let table = table_of(va)?;
    let entry = mm::with(|tables| tables.make_pte(Value::new(table, Flags::DATA)))?;
    let error = raw(Level::L1, va, entry.bits())?;
    expect_eq!(error.error.errno, Errno::EBUSY, "errno");
    expect_eq!(error.why(), Reason::WritableMapOfTable, "the rule");
    expect_eq!(
        (error.applied, error.refused, error.skipped),
        (0, 1, 0),
        "applied, refused, not tried"
    );
    Ok(())
}
selftest!("refuse.raw_writable_table", raw_writable_table, needs XEN_TABLES);

/// Cache attributes need a domain with I/O resources: dom0 has them, an ordinary domain is
/// refused.
fn cache_bits(context: &mut Context) -> TestResult {
    if context.is_privileged() {
        return Err(Trouble::skip("dom0 may set cache attributes"));
    }
    context.with_frames(|context, pile| {
        let va = context.area(0);
        mm::with(|tables| tables.ensure_pte_table(va))?;
        let pfn = pile.pfns().next().unwrap_or_default();
        let entry = mm::with(|tables| tables.make_pte(Value::new(pfn, Flags::DATA)))?;
        let error = raw(Level::L1, va, entry.bits() | 1 << 4)?;
        expect_eq!(error.error.errno, Errno::EINVAL, "errno");
        expect_eq!(error.why(), Reason::CacheBits, "the rule");
        Ok(())
    })
}
selftest!("refuse.cache_bits", cache_bits, &[1], needs XEN_TABLES);

/// Pins: of a frame that is mapped writable, and of one that is pinned already. The rule is the
/// same; nothing is pinned afterwards that was not before.
fn pins(context: &mut Context) -> TestResult {
    context.with_frames(|_, pile| {
        let pfn = pile.pfns().next().unwrap_or_default();
        let (plain, root) = mm::with(|tables| {
            let root = tables.root();
            Ok::<_, MmError>((tables.mfn(pfn)?, tables.mfn(root)?))
        })?;
        for (op, what) in [
            (
                ExtOp::Pin(Level::L1, plain),
                "pinning memory that is mapped writable",
            ),
            (ExtOp::Pin(Level::L4, root), "pinning the root again"),
        ] {
            // SAFETY: refused.
            let result = Current.with(|mmu| unsafe { mmu.ext(op, 0) });
            let error = refusal(result.map_err(MmError::from))?;
            expect_eq!(error.error.errno, Errno::EINVAL, "errno of {what}");
            expect_eq!(error.why(), Reason::PinType, "the rule for {what}");
        }
        // SAFETY: refused.
        let result = Current.with(|mmu| unsafe { mmu.ext(ExtOp::Unpin(plain), 0) });
        let error = refusal(result.map_err(MmError::from))?;
        expect_eq!(
            error.why(),
            Reason::NotPinned,
            "the rule for unpinning what is not pinned"
        );
        Ok(())
    })
}
selftest!("refuse.pins", pins, &[1], needs XEN_TABLES);
