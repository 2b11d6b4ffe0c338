//! The operations, one table entry each.

use super::{BASE, Bench, CURVE, OTHER, SIZES, user_ops};
use crate::mm::spaces::NotDestroyed;
use crate::mm::{Flags, MmError, Value};

/// An operation to measure.
pub(crate) struct Op {
    /// Its name, as printed and selected.
    pub(crate) name: &'static str,
    /// The numbers of pages that it is done on.
    pub(crate) sizes: &'static [u64],
    /// Does it once, with [`Bench::measure`] around what counts.
    pub(crate) run: Run,
}

type Run = fn(&mut Bench<'_>) -> Result<(), MmError>;

/// Whose way depends on the number of pages.
const fn sized(name: &'static str, run: Run) -> Op {
    Op {
        name,
        sizes: &CURVE,
        run,
    }
}

const fn by_program(name: &'static str, run: Run) -> Op {
    Op {
        name,
        sizes: &SIZES,
        run,
    }
}

const fn single(name: &'static str, run: Run) -> Op {
    Op {
        name,
        sizes: &[1],
        run,
    }
}

/// Every operation.
pub(crate) const OPS: &[Op] = &[
    sized("map", map),
    sized("protect_ro", protect_ro),
    sized("protect_rw", protect_rw),
    sized("unmap", unmap),
    sized("move_unaligned", move_unaligned),
    sized("move_aligned", move_aligned),
    sized("set_ptes", set_ptes),
    single("lazy_empty", lazy_empty),
    single("space_lock", space_lock),
    single("lazy_nested_8", lazy_nested),
    single("set_pte_flags", set_pte_flags),
    single("space_create_destroy", space),
    single("space_reuse", space_reuse),
    by_program("user_map", user_ops::map),
    by_program("user_unmap", user_ops::unmap),
    by_program("fork", user_ops::fork),
    by_program("copy_on_write", user_ops::copy_on_write),
];

// SAFETY (all operations): the ranges are the benchmark's own, in a part of the address space that
// nothing else uses; the frames are the pool's, whose memory nobody touches.

fn setup(bench: &mut Bench<'_>, at: u64) -> Result<(), MmError> {
    // SAFETY: the range and the frames are the benchmark's own.
    unsafe {
        bench
            .tables
            .map(at, bench.pool.frames(bench.pages), Flags::DATA)
    }?
    .commit(bench.tables)
}

fn teardown(bench: &mut Bench<'_>, at: u64) -> Result<(), MmError> {
    // SAFETY: the range and the frames are the benchmark's own.
    unsafe { bench.tables.unmap(at, bench.pages) }?.commit(bench.tables)
}

fn map(bench: &mut Bench<'_>) -> Result<(), MmError> {
    bench.measure(|tables, pool, pages| {
        // SAFETY: the range and the frames are the benchmark's own.
        unsafe { tables.map(BASE, pool.frames(pages), Flags::DATA) }?.commit(tables)
    })?;
    teardown(bench, BASE)
}

fn unmap(bench: &mut Bench<'_>) -> Result<(), MmError> {
    setup(bench, BASE)?;
    bench.measure(|tables, _, pages| {
        // SAFETY: the range and the frames are the benchmark's own.
        unsafe { tables.unmap(BASE, pages) }?.commit(tables)
    })
}

fn protect_ro(bench: &mut Bench<'_>) -> Result<(), MmError> {
    setup(bench, BASE)?;
    bench.measure(|tables, _, pages| {
        // SAFETY: the range and the frames are the benchmark's own.
        unsafe { tables.protect(BASE, pages, Flags::empty(), Flags::WRITABLE) }?.commit(tables)
    })?;
    teardown(bench, BASE)
}

fn protect_rw(bench: &mut Bench<'_>) -> Result<(), MmError> {
    setup(bench, BASE)?;
    // SAFETY: the range and the frames are the benchmark's own.
    unsafe {
        bench
            .tables
            .protect(BASE, bench.pages, Flags::empty(), Flags::WRITABLE)
    }?
    .commit(bench.tables)?;
    bench.measure(|tables, _, pages| {
        // SAFETY: the range and the frames are the benchmark's own.
        unsafe { tables.protect(BASE, pages, Flags::WRITABLE, Flags::empty()) }?.commit(tables)
    })?;
    teardown(bench, BASE)
}

fn move_unaligned(bench: &mut Bench<'_>) -> Result<(), MmError> {
    let to = OTHER + 5 * 4096;
    setup(bench, BASE)?;
    bench.measure(|tables, _, pages| {
        // SAFETY: the range and the frames are the benchmark's own.
        unsafe { tables.move_pages(BASE, to, pages) }?.commit(tables)
    })?;
    teardown(bench, to)
}

fn move_aligned(bench: &mut Bench<'_>) -> Result<(), MmError> {
    setup(bench, BASE)?;
    bench.measure(|tables, _, pages| {
        // SAFETY: the range and the frames are the benchmark's own.
        unsafe { tables.move_pages(BASE, OTHER, pages) }?.commit(tables)
    })?;
    teardown(bench, OTHER)
}

fn set_ptes(bench: &mut Bench<'_>) -> Result<(), MmError> {
    setup(bench, BASE)?;
    let Some(first) = bench.pool.frames(1).next() else {
        return Ok(());
    };
    bench.measure(|tables, _, pages| {
        // SAFETY: the range is the benchmark's own. The frames from the first on are read only.
        unsafe { tables.set_ptes(BASE, Value::new(first, Flags::CONST), pages) }?.commit(tables)
    })?;
    teardown(bench, BASE)
}

fn lazy_empty(bench: &mut Bench<'_>) -> Result<(), MmError> {
    bench.measure(|tables, _, _| tables.lazily(|_| Ok(())))
}

fn refused(refused: NotDestroyed) -> MmError {
    refused.error
}

/// Working on a space without doing anything: what taking and releasing it costs.
fn space_lock(bench: &mut Bench<'_>) -> Result<(), MmError> {
    let space = bench.tables.create_space()?;
    let measured = bench.measure(|tables, _, _| tables.in_space(&space, |_| Ok(())));
    bench.tables.destroy_space(space).map_err(refused)?;
    measured
}

fn lazy_nested(bench: &mut Bench<'_>) -> Result<(), MmError> {
    bench.measure(|tables, _, _| {
        tables.lazily(|t| {
            t.lazily(|t| {
                t.lazily(|t| {
                    t.lazily(|t| t.lazily(|t| t.lazily(|t| t.lazily(|t| t.lazily(|_| Ok(()))))))
                })
            })
        })
    })
}

fn set_pte_flags(bench: &mut Bench<'_>) -> Result<(), MmError> {
    setup(bench, BASE)?;
    let slot = bench.tables.pte_slot(BASE)?;
    let entry = bench.tables.get(slot);
    let (place, flags) = (
        slot.place(),
        entry.with_flags(entry.flags() | Flags::SOFTWARE0),
    );
    bench.measure(|tables, _, _| {
        // SAFETY: the range and the frames are the benchmark's own.
        unsafe { tables.set_pte(place, BASE, flags) }
    })?;
    teardown(bench, BASE)
}

/// What a process pays for a space, of which another has had the tables.
fn space_reuse(bench: &mut Bench<'_>) -> Result<(), MmError> {
    let space = bench.tables.create_space()?;
    bench.tables.spare_space(space).map_err(refused)?;
    bench.measure(|tables, _, _| {
        let space = tables.create_space()?;
        tables.spare_space(space).map_err(refused)
    })?;
    bench.tables.release_spares()
}

fn space(bench: &mut Bench<'_>) -> Result<(), MmError> {
    bench.measure(|tables, _, _| {
        let space = tables.create_space()?;
        tables.destroy_space(space).map_err(refused)
    })
}
