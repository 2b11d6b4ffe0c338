//! Requests that must not succeed: refused with a typed error before Xen is asked where the kernel
//! can know, and otherwise by Xen, with an account of what was done, what was not, and why.

use hypercall::batch::Reason;
use hypercall::queue::Access;
use hypercall::{Errno, FlushError, Level, Pfn, Update};

use super::context::Context;
use super::{TestResult, Trouble, expect_eq, expect_matches, selftest};
use crate::mm::entry::{L2, Pmd};
use crate::mm::frames::FrameError;
use crate::mm::{self, Current, Flags, MmError, Value};

/// Hypercalls made so far.
fn hypercalls() -> u64 {
    Current.with(|mmu| mmu.batch().stats().hypercalls)
}

/// The frame of the L1 table that maps `va`.
pub(super) fn table_of(va: u64) -> Result<Pfn, Trouble> {
    let table = mm::with(|tables| {
        let slot = tables.pmd_slot(va)?;
        Ok::<_, MmError>(tables.pmd_val(tables.get(slot)).map(|v| v.pfn))
    })?;
    table.ok_or_else(|| Trouble::error("no table maps the area"))
}

/// What Xen refused, if that is what came of it.
pub(super) fn refusal(result: Result<(), MmError>) -> Result<FlushError, Trouble> {
    match result {
        Err(MmError::Flush(error)) => Ok(error),
        other => Err(Trouble::fail(format_args!(
            "expected Xen's refusal, found {other:x?}"
        ))),
    }
}

/// A page table may be mapped, but not writable, and its mapping may not become so: the kernel's
/// own record says so before Xen is asked.
fn writable_table(context: &mut Context) -> TestResult {
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

/// An entry that would link a table of the wrong level, or a frame that is no table, is refused by
/// the record; nothing changes in it and Xen is not asked.
fn wrong_table(context: &mut Context) -> TestResult {
    let va = context.area(0);
    let before = hypercalls();
    let (root, wrong, plain) = mm::with(|tables| {
        let place = tables.pmd_slot(va)?.place();
        let root = tables.root();
        let states = |tables: &crate::mm::Tables<_>| tables.frames().states(root);
        let was = states(tables);
        let entry: Pmd = tables.make_pmd(Value::new(root, Flags::TABLE))?;
        // SAFETY: refused.
        let wrong = unsafe { tables.set_pmd(place, entry) };
        let same = was == states(tables);
        let frame = tables.alloc_frame()?;
        let entry: Pmd = tables.make_pmd(Value::new(frame.pfn(), Flags::TABLE))?;
        // SAFETY: refused.
        let plain = unsafe { tables.set_pmd(place, entry) };
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
fn arguments(context: &mut Context) -> TestResult {
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

/// A request made beneath the types, as raw bits: what Xen says, and whether the rule it broke is
/// found from the errno.
pub(super) fn raw(level: Level, va: u64, value: u64) -> Result<FlushError, Trouble> {
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
fn large_page(context: &mut Context) -> TestResult {
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

/// An address that no table leads to has no entry.
fn no_table(context: &mut Context) -> TestResult {
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
