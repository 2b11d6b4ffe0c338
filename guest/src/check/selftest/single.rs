//! Operations on single entries, and runs of them; A and D bits as the processor sets them.

use hypercall::Pfn;
use hypercall::queue::Access;

use super::context::{ABSENT_READ, Context, PAGE, READ_ONLY, SIZES, SPAN};
use super::{TestResult, Trouble, expect_eq, expect_matches, selftest};
use crate::capability::{self, HYPERCALLS};
use crate::mm::layout::Fixed;
use crate::mm::{self, Current, Flags, MmError, Pte, Value};
use crate::{cpu, probe};
use linker::Image;

/// Data whose A and D bits the processor has yet to set.
const UNTOUCHED: Flags = Flags::PRESENT
    .union(Flags::WRITABLE)
    .union(Flags::NO_EXECUTE);

/// The first of `pages` consecutive pfns that all have memory.
fn consecutive(pages: u64) -> Result<Pfn, Trouble> {
    let found = mm::with(|tables| {
        let total = tables.frames().counts().total;
        let hole = |pfn| tables.mfn(Pfn::truncate(pfn)).is_err();
        (0..total.saturating_sub(pages - 1))
            .step_by(512)
            .find(|&first| !(first..first + pages).any(hole))
    });
    match found {
        Some(first) => Ok(Pfn::truncate(first)),
        None => Err(Trouble::skip(format_args!(
            "too little memory: no {pages} pages in a row"
        ))),
    }
}

/// `set_ptes` maps consecutive frames to consecutive pages, across the ends of tables, with the
/// rights asked for, and replaces what was mapped. Any memory will do, as it is mapped read-only;
/// but it is not written to, to see whether that faults: some of it are page tables, and for dom0
/// Xen would carry out the store.
fn set_ptes(context: &mut Context) -> TestResult {
    let pages = context.pages();
    let first = consecutive(pages)?;
    for offset in [0, 300 * PAGE] {
        let va = context.area(0) + offset;
        mm::with(|tables| {
            for at in (va..va + pages * PAGE + SPAN).step_by(SPAN as usize) {
                tables.ensure_pte_table(at)?;
            }
            // SAFETY: the area is the test's; the memory is only read.
            unsafe { tables.set_ptes(va, Value::new(first, Flags::CONST), pages) }?.commit(tables)
        })?;
        for i in 0..pages {
            let at = va + i * PAGE;
            let value = mm::with(|tables| Ok::<_, MmError>(tables.pte_val(tables.ptep_get(at)?)))?;
            let found = value.map(|v| (v.pfn, v.flags.contains(Flags::WRITABLE)));
            let expected = Some((first.add(i), false));
            expect_eq!(found, expected, "frame of page {i}, and W");
            expect_eq!(probe::read(at).is_ok(), true, "page {i} can be read");
        }
        context.expect_absent(va + pages * PAGE, 1)?;
    }
    Ok(())
}
selftest!("mm.set_ptes", set_ptes, SIZES, needs EVERYWHERE);

/// `ptep_get_and_clear` returns the entry with the A and D bits that the processor has set up to
/// then: neither on a page nobody touched, A where it was read, both where it was written. What another
/// vCPU could have set by the time the entry is cleared counts as set. Then the page is gone, from the
/// TLB as well.
fn get_and_clear(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, UNTOUCHED)?;
        for (i, pfn) in (0..).zip(pile.pfns()) {
            let at = va + i * PAGE;
            let expected = match i % 3 {
                0 => {
                    // SAFETY: the frame is the test's.
                    expect_eq!(unsafe { probe::write(at, i) }, Ok(()), "write");
                    Flags::ACCESSED | Flags::DIRTY
                }
                1 => {
                    expect_eq!(probe::read(at).is_ok(), true, "read");
                    Flags::ACCESSED
                }
                _ => Flags::empty(),
            };
            let (old, now) = mm::with(|tables| {
                // SAFETY: the area is the test's.
                let old = unsafe { tables.ptep_get_and_clear(at) }?;
                Ok::<_, MmError>((old, tables.ptep_get(at)?))
            })?;
            let both = Flags::ACCESSED | Flags::DIRTY;
            let expected = if cpu::running() > 1 { both } else { expected };
            let bits = old.flags() & both;
            expect_eq!(bits, expected, "A and D of page {i}");
            let frame = mm::with(|tables| tables.pte_val(old).map(|v| v.pfn));
            expect_eq!(frame, Some(pfn), "frame of page {i}");
            expect_eq!(now, Pte::NONE, "entry of page {i} afterwards");
            expect_eq!(probe::read(at), ABSENT_READ, "page {i} afterwards");
        }
        Ok(())
    })
}
selftest!("mm.get_and_clear", get_and_clear, SIZES, needs EVERYWHERE);

/// `ptep_set_wrprotect` takes the right to write and nothing else: D that the processor has set
/// stays (Xen would lose it without PRESERVE_AD), also where the request waited in a lazy section
/// while the page was still written. The next write faults.
fn wrprotect(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let va = context.area(0);
        context.map(va, pile, UNTOUCHED)?;
        let dirty = Flags::ACCESSED | Flags::DIRTY;
        for i in 0..pages {
            let at = va + i * PAGE;
            let lazy = i % 2 == 1;
            let section = if lazy { Some(mm::lazy()?) } else { None };
            if !lazy {
                // SAFETY: the frame is the test's.
                expect_eq!(unsafe { probe::write(at, i) }, Ok(()), "write before");
            }
            // SAFETY: nobody relies on writing there.
            mm::with(|tables| unsafe { tables.ptep_set_wrprotect(at) })?;
            if let Some(section) = section {
                // SAFETY: the frame is the test's. The request is still queued.
                expect_eq!(unsafe { probe::write(at, i) }, Ok(()), "write while queued");
                section.end()?;
            }
            let entry = mm::with(|tables| tables.ptep_get(at))?;
            let bits = entry.flags() & (Flags::WRITABLE | dirty);
            expect_eq!(bits, dirty, "W, A and D of page {i}, lazy: {lazy}");
        }
        context.expect_writes(va, pages, READ_ONLY, "after")
    })
}
selftest!("mm.wrprotect", wrprotect, SIZES, needs EVERYWHERE);

/// `ptep_test_and_clear_young` sees A as the processor sets it, and clears it so that it is set
/// again by the next access: the translation must be flushed, or the processor would not look at
/// the entry again. Frames and contents stay.
fn young(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let va = context.area(0);
        context.map(va, pile, UNTOUCHED)?;
        let test = |at| mm::with(|tables| tables.ptep_test_and_clear_young(at));
        for i in 0..pages {
            expect_eq!(
                test(va + i * PAGE)?,
                false,
                "page {i} before it was touched"
            );
        }
        for round in 0..2 {
            context.expect_mapped(va, pile)?;
            for i in 0..pages {
                let at = va + i * PAGE;
                expect_eq!(test(at)?, true, "page {i} after it was read, round {round}");
                expect_eq!(test(at)?, false, "page {i} again, round {round}");
            }
        }
        context.expect_mapped(va, pile)?;
        let nowhere = test(va + pages * PAGE);
        expect_matches!(
            nowhere,
            Err(MmError::NotMapped { .. } | MmError::NoTable { .. }),
            "a page that is not mapped"
        );
        Ok(())
    })
}
selftest!("mm.young", young, SIZES, needs EVERYWHERE);

/// A single machine frame that is no memory of the domain's own can be looked at, as before there
/// was a direct map: `shared_info`, a second time and read-only; where there is none, a page of the
/// image's constants. What its first mapping holds shows, the place is refused while it is taken,
/// and in a lazy section it can be had by pausing.
fn early(context: &mut Context) -> TestResult {
    let va = Fixed::Test.address();
    let first = if capability::is_here(&HYPERCALLS) {
        Fixed::SharedInfo.address()
    } else {
        Image::current().rodata.end - PAGE
    };
    let mfn = mm::with(|tables| tables.ptep_get(first))?.mfn();
    let mfn = mfn.ok_or_else(|| Trouble::error("the page is not mapped"))?;
    let map = || {
        // SAFETY: only read, at a place that is for this.
        mm::with(|tables| unsafe { tables.map_machine(va, mfn, Flags::CONST) })
    };
    let clear = || {
        mm::with(|tables| {
            let slot = tables.pte_slot(va)?;
            // SAFETY: the place is the test's.
            unsafe { tables.set_pte(slot.place(), va, Pte::NONE) }
        })
    };
    expect_eq!(probe::read(va), ABSENT_READ, "the place, before");
    map()?;
    // The wall clock's version and seconds do not change by themselves.
    let clock = core::mem::offset_of!(hypercall::abi::shared_info::shared_info, wc_version) as u64;
    expect_eq!(
        probe::read(va + clock),
        probe::read(first + clock),
        "the same word through both mappings"
    );
    context.expect_writes(va, 1, READ_ONLY, "mapped read-only")?;
    expect_matches!(map(), Err(MmError::Occupied { .. }), "a second time");
    clear()?;
    expect_eq!(probe::read(va), ABSENT_READ, "the place, afterwards");
    let section = mm::lazy()?;
    map()?;
    expect_eq!(
        Current.with(|mmu| mmu.batch().len()),
        1,
        "requests queued in a lazy section"
    );
    let pause = mm::pause()?;
    expect_eq!(
        probe::read(va + clock),
        probe::read(first + clock),
        "the same word, while paused"
    );
    pause.end()?;
    clear()?;
    section.end()?;
    expect_eq!(probe::read(va), ABSENT_READ, "the place, at the end");
    Ok(())
}
selftest!("mm.early", early, needs EVERYWHERE);
