//! What page-table operations cost, counted.
//!
//! Under QEMU's `-icount shift=0,sleep=off` the time-stamp counter counts instructions, guest's and
//! Xen's together, the same to the digit in every run; elsewhere the figures are cycles of some
//! clock and mean little. Each operation stands in one table ([`ops::OPS`]); those whose way depends on
//! the number of pages are done on 1 to 4096, by powers of two, others on some of these, in memory that
//! was allocated before, without clearing it. The *floor* of an operation is what the cheapest raw
//! hypercalls for it cost in the same boot, on 1, 32, 512 and 4096 pages.
//!
//! Output: a line an operation and size, `bench NAME PAGES INSTRUCTIONS PER_PAGE HYPERCALLS`, with the
//! [way](tally::Way) that was chosen behind it where there is a choice. A name with the prefix `floor.` is
//! the floor of the operation that follows, or of a hypercall; `sweep.` stands before the cost of batches
//! by size.

mod calls;
mod floor;
mod ops;
mod pool;
mod sweep;
mod tally;
mod threads;
mod user_ops;

use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use linkme::distributed_slice;

use crate::checks::{self, Asked, CHECKS, Check, Facts, Failed, NAMED, Named};
use crate::mm::Running;
use crate::mm::{self, MmError, Tables, layout};
use crate::refused::Refused;
use crate::selection::Selection;
use crate::time::tsc;
use crate::{println, subarch};

pub(crate) use pool::Pool;
use tally::{ROUNDS, Tally, Way};

/// Numbers of pages that floors are measured on.
const SIZES: [u64; 4] = [1, 32, 512, 4096];

/// Numbers of pages between which no page may cost more the more there are.
const CURVE: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Where operations map: whole 2 MiB and well apart.
const BASE: u64 = layout::DYNAMIC.start + (64 << 30);
/// A second place, for moves.
const OTHER: u64 = BASE + (1 << 30);

/// Stored to before what is measured, and after it: a plugin of QEMU that counts accesses to memory counts
/// those between (`ci/cache-model`).
#[unsafe(export_name = "bench_marks")]
static MARKS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Stores to one of them, there and nowhere else.
fn mark(which: usize) {
    compiler_fence(Ordering::SeqCst);
    MARKS[which].store(1, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
}

/// What an operation is measured with.
pub(crate) struct Bench<'a> {
    pub(crate) tables: &'a mut Tables<Running>,
    pub(crate) pool: &'a Pool,
    pub(crate) pages: u64,
    ticks: u64,
    hypercalls: u64,
    way: Way,
}

impl Bench<'_> {
    /// Counts what `f` costs. Called once by each operation; what comes before and after is not
    /// counted.
    pub(crate) fn measure<R>(
        &mut self,
        f: impl FnOnce(&mut Tables<Running>, &Pool, u64) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        let before = *self.tables.stats();
        mark(0);
        let start = tsc();
        let result = f(self.tables, self.pool, self.pages);
        let end = tsc();
        mark(1);
        self.ticks = end - start - tally::overhead();
        let stats = self.tables.stats();
        self.hypercalls = stats.hypercalls - before.hypercalls;
        self.way = Way::of(self.pages, stats.applied - before.applied, self.hypercalls);
        result
    }
}

/// Whether a name of something that can be measured begins so.
fn exists(name: &str) -> bool {
    let selection = Selection::Named(name);
    let measured = ops::OPS
        .iter()
        .any(|op| tally::selects_floor(&selection, op.name));
    let whole = ["entry_to_first_byte", "entry_to_ready"];
    let raw =
        subarch::is_pv() && (calls::is_selected(&selection) || sweep::is_selected(&selection));
    let threads = threads::is_selected(&selection);
    measured || raw || threads || whole.iter().any(|other| other.starts_with(name))
}

#[distributed_slice(NAMED)]
static NAMES: Named = Named {
    word: "bench",
    exists,
};

#[distributed_slice(CHECKS)]
static CHECK: Check = Check {
    order: 2,
    run: check,
};

/// Measures, if that is asked for.
fn check(asked: &Asked<'_>, _: &mut Facts) -> Result<(), Failed> {
    match &asked.options.bench {
        Selection::None => Ok(()),
        selection => checks::or_fail("bench", run(selection)).map(drop),
    }
}

/// Measures the selected operations and prints a line for each.
///
/// # Errors
/// The first operation that fails.
// Its stack frame is large: nobody else is to carry it.
#[inline(never)]
fn run(selection: &Selection<'_>) -> Result<usize, Refused> {
    println!(
        "bench entry_to_first_byte 1 {0} {0} 0",
        crate::boot::common::ticks_to_first_byte()
    );
    println!(
        "bench entry_to_ready 1 {0} {0} 0",
        crate::boot::common::ticks_to_ready()
    );
    let mut lines = 2;
    // Elsewhere nobody takes raw hypercalls for page tables.
    let raw = subarch::is_pv();
    if raw {
        lines += calls::run(selection)?;
    }
    if threads::is_selected(selection) {
        lines += threads::run(selection)?;
    }
    let chosen = ops::OPS
        .iter()
        .any(|op| tally::selects_floor(selection, op.name));
    let sweeps = raw && sweep::is_selected(selection);
    if !chosen && !sweeps {
        return Ok(lines);
    }
    let pool = mm::with(Pool::new)?;
    mm::with(|tables| tell_places(tables));
    for op in ops::OPS.iter().filter(|op| selection.includes(op.name)) {
        for &pages in op.sizes {
            lines += measure(op, pages, &pool)?.print(selection);
        }
    }
    if raw && chosen {
        lines += floor::run(selection, &pool)?;
    }
    if sweeps {
        lines += sweep::run(selection, &pool)?;
    }
    mm::with(|tables| pool.free(tables))?;
    Ok(lines)
}

/// Says where that lies which a plugin of QEMU counts accesses to apart.
fn tell_places(tables: &Tables<Running>) {
    let queue = core::ptr::from_ref(tables).addr();
    let places = [
        ("queue", queue..queue + size_of::<Tables<Running>>()),
        ("records", tables.frames().place_of_records()),
        ("p2m", layout::P2M.start as usize..layout::P2M.end as usize),
        (
            "memory",
            layout::DIRECT.start as usize..layout::DIRECT.end as usize,
        ),
    ];
    for (name, place) in places {
        log::debug!(target: "bench", "place {name} {:x} {:x}", place.start, place.end);
    }
}

fn measure(op: &ops::Op, pages: u64, pool: &Pool) -> Result<Tally, MmError> {
    let mut tally = Tally::default();
    mm::with_all(|tables| {
        let mut bench = Bench {
            tables,
            pool,
            pages,
            ticks: 0,
            hypercalls: 0,
            way: Way::Tables,
        };
        // The first time makes tables that later ones find.
        (op.run)(&mut bench)?;
        for _ in 0..ROUNDS {
            (op.run)(&mut bench)?;
            let way = (op.sizes.len() == CURVE.len()).then_some(bench.way);
            tally.note(op.name, pages, bench.ticks, bench.hypercalls, way);
        }
        log::debug!(target: "bench", "measured {} {pages} {}", op.name, ROUNDS + 1);
        Ok(tally)
    })
}
