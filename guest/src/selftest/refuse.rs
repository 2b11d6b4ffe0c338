//! Requests that must not succeed: refused with a typed error before Xen is asked where the kernel
//! can know, and otherwise by Xen, with an account of what was done, what was not, and why.

use hypercall::batch::{Failed, Reason};
use hypercall::queue::{Access, MmuError};
use hypercall::{Errno, ExtOp, FlushError, Level, Pfn, Update};

use super::context::{Context, PAGE, in_table};
use super::{Outcome, Trouble, expect_eq, expect_matches, selftest};
use crate::mm::entry::{L2, P4d, Pmd, XEN_BITS};
use crate::mm::frames::FrameError;
use crate::mm::{self, Current, Flags, MmError, Pte, Value, layout};

/// Hypercalls made so far.
fn hypercalls() -> u64 {
    Current.with(|mmu| mmu.batch().stats().hypercalls)
}

/// The frame of the L1 table that maps `va`.
fn table_of(va: u64) -> Result<Pfn, Trouble> {
    let table = mm::with(|tables| {
        let slot = tables.pmd_slot(va)?;
        Ok::<_, MmError>(tables.pmd_val(tables.get(slot)).map(|v| v.pfn))
    })?;
    table.ok_or_else(|| Trouble::error("no table maps the area"))
}

/// What Xen refused, if that is what came of it.
fn refusal(result: Result<(), MmError>) -> Result<FlushError, Trouble> {
    match result {
        Err(MmError::Flush(error)) => Ok(error),
        other => Err(Trouble::fail(format_args!(
            "expected Xen's refusal, found {other:x?}"
        ))),
    }
}

/// A page table may be mapped, but not writable, and its mapping may not become so: the kernel's
/// own record says so before Xen is asked.
fn writable_table(context: &mut Context) -> Outcome {
    let va = context.area(0);
    mm::with(|tables| tables.ensure_pte_table(va))?;
    let table = table_of(va)?;
    mm::with(|tables| {
        // SAFETY: tables may be read.
        unsafe { tables.map(va, [table].into_iter(), Flags::CONST) }?.commit(tables)
    })?;
    let before = hypercalls();
    let result = mm::with(|tables| {
        // SAFETY: refused.
        unsafe { tables.protect(va, 1, Flags::WRITABLE, Flags::empty()) }.map(|_| ())
    });
    expect_matches!(
        result,
        Err(MmError::MustStayReadOnly { va: at }) if at == va,
        "giving the right to write to a mapping of a table"
    );
    expect_eq!(hypercalls() - before, 0, "hypercalls made");
    Ok(())
}
selftest!("refuse.writable_table", writable_table, needs EVERYWHERE);

/// Mapping a page table writable is refused as well, where its entry would go into a table that
/// exists and where a new table is built around it; nothing is mapped and no frame is lost.
fn map_table(context: &mut Context) -> Outcome {
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

/// An entry that would link a table of the wrong level, or a frame that is no table, is refused by
/// the record; nothing changes in it and Xen is not asked.
fn wrong_table(context: &mut Context) -> Outcome {
    let va = context.area(0);
    let before = hypercalls();
    let (root, wrong, plain) = mm::with(|tables| {
        let slot = tables.pmd_slot(va)?;
        let root = tables.root();
        let states = |tables: &crate::mm::Tables<_>| tables.frames().states(tables.machine(), root);
        let was = states(tables);
        let entry: Pmd = tables.make_pmd(Value::new(root, Flags::TABLE))?;
        // SAFETY: refused.
        let wrong = unsafe { tables.set_pmd(slot, entry) };
        let same = was == states(tables);
        let frame = tables.alloc_frame()?;
        let entry: Pmd = tables.make_pmd(Value::new(frame.pfn(), Flags::TABLE))?;
        // SAFETY: refused.
        let plain = unsafe { tables.set_pmd(slot, entry) };
        tables.free_frame(frame)?;
        Ok::<_, MmError>((same, wrong, plain))
    })?;
    expect_matches!(
        wrong,
        Err(MmError::Frame(FrameError::Illegal(..))),
        "the root as an L1 table"
    );
    expect_matches!(
        plain,
        Err(MmError::Frame(FrameError::Illegal(..))),
        "ordinary memory as an L1 table"
    );
    expect_eq!(root, true, "the root's record is as it was");
    expect_eq!(hypercalls() - before, 0, "hypercalls made");
    Ok(())
}
selftest!("refuse.wrong_table", wrong_table, needs EVERYWHERE);

/// Ranges and rights that can be seen to be wrong.
fn arguments(context: &mut Context) -> Outcome {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        let pfn = pile.pfns().next().unwrap_or_default();
        let before = hypercalls();
        let map = |va, flags| {
            // SAFETY: refused.
            mm::with(|tables| unsafe { tables.map(va, [pfn].into_iter(), flags) }.map(|_| ()))
        };
        expect_matches!(
            map(va + 8, Flags::DATA),
            Err(MmError::BadRange { .. }),
            "an address within a page"
        );
        expect_matches!(
            map(1 << 47, Flags::DATA),
            Err(MmError::BadRange { .. }),
            "an address that is not canonical"
        );
        let both = Flags::DATA - Flags::NO_EXECUTE;
        expect_matches!(
            map(va, both),
            Err(MmError::WriteAndExecute { .. }),
            "writable and executable"
        );
        let far = Pfn::truncate(1 << 39);
        let nowhere = mm::with(|tables| {
            // SAFETY: refused.
            unsafe { tables.map(va, [far].into_iter(), Flags::DATA) }.map(|_| ())
        });
        expect_matches!(
            nowhere,
            Err(MmError::NoMemory { .. } | MmError::NoFrame { .. }),
            "a pfn beyond the domain"
        );
        context.expect_absent(va, 1)?;
        context.map(va, pile, Flags::CODE)?;
        // SAFETY: refused.
        let gains = mm::with(|tables| unsafe {
            tables
                .protect(va, 1, Flags::WRITABLE, Flags::empty())
                .map(|_| ())
        });
        expect_matches!(
            gains,
            Err(MmError::WriteAndExecute { .. }),
            "writable, of an executable page"
        );
        context.note(format_args!("({} hypercalls)", hypercalls() - before));
        Ok(())
    })
}
selftest!("refuse.arguments", arguments, &[1], needs EVERYWHERE);

/// Xen stops a list at the first request that it refuses. Of ten queued, the seventh maps a page
/// table writable: six are applied, one refused, three not tried; the error names the entry, its
/// address, old and new value, the rule and the line that queued it; the tables hold what the
/// account says, and the queue is empty.
fn account(context: &mut Context) -> Outcome {
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
                unsafe { tables.set_pte(slot, at, new) }?;
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

/// A reserved slot of the root: Xen refuses, the error says why, and the record of the table that
/// would have been linked is as it was.
fn reserved_slot(_: &mut Context) -> Outcome {
    let (result, same) = mm::with(|tables| {
        let none = MmError::NoTable { va: 0, level: 4 };
        let p4d = |tables: &crate::mm::Tables<_>, va| {
            let pgd = tables.pgd_offset(va)?;
            tables.p4d_offset(pgd, va)
        };
        let own = p4d(tables, layout::DIRECT.start).ok_or(none)?;
        let entry: P4d = tables.get(own).with_flags(Flags::TABLE);
        let table = tables.p4d_val(entry).ok_or(none)?.pfn;
        let before = tables.frames().states(tables.machine(), table);
        let reserved = p4d(tables, layout::XEN.start + (15 << 39)).ok_or(none)?;
        // SAFETY: refused.
        let result = unsafe { tables.set_p4d(reserved, entry) };
        tables.flush()?;
        let same = before == tables.frames().states(tables.machine(), table);
        Ok::<_, MmError>((result, same))
    })?;
    let error = refusal(result)?;
    expect_eq!(error.error.errno, Errno::EINVAL, "errno");
    expect_eq!(error.why(), Reason::XenSlot, "the rule");
    expect_eq!(same, true, "the record of the table is as it was");
    Ok(())
}
selftest!("refuse.reserved_slot", reserved_slot, needs XEN_TABLES);

/// A request made beneath the types, as raw bits: what Xen says, and whether the rule it broke is
/// found from the errno.
fn raw(level: Level, va: u64, value: u64) -> Result<FlushError, Trouble> {
    let slot = mm::with(|tables| {
        Ok::<_, MmError>(match level {
            Level::L1 => tables.pte_slot(va)?.machine(),
            _ => tables.pmd_slot(va)?.machine(),
        })
    })?;
    // SAFETY: Xen refuses every request made here; were one accepted, it would map a frame of the
    // test's in an area of the test's.
    let result = Current.with(|mmu| unsafe { mmu.set(Update::new(level, slot, value)) });
    refusal(result.map_err(MmError::from))
}

/// A large page cannot be expressed; asked for as raw bits, Xen refuses it.
fn large_page(context: &mut Context) -> Outcome {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        let pfn = pile.pfns().next().unwrap_or_default();
        let entry: Pmd = mm::with(|tables| tables.make(Value::<L2>::new(pfn, Flags::DATA)))?;
        let error = raw(Level::L2, va, entry.bits() | 1 << 7)?;
        expect_eq!(error.error.errno, Errno::EINVAL, "errno");
        expect_eq!(error.why(), Reason::LargePage, "the rule");
        Ok(())
    })
}
selftest!("refuse.large_page", large_page, &[1], needs EVERYWHERE);

/// Mapping a page table writable as raw bits, at once and outside of any section: the same rule as
/// in a list.
fn raw_writable_table(context: &mut Context) -> Outcome {
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
fn cache_bits(context: &mut Context) -> Outcome {
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
fn pins(context: &mut Context) -> Outcome {
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

/// An address that no table leads to has no entry.
fn no_table(context: &mut Context) -> Outcome {
    let va = context.area(2);
    let get = mm::with(|tables| tables.ptep_get(va));
    expect_matches!(
        get,
        Err(MmError::NoTable { level: 2, va: at }) if at == va,
        "the entry of a page without a table"
    );
    Ok(())
}
selftest!("refuse.no_table", no_table, needs EVERYWHERE);
