//! What page-table operations cost, counted.
//!
//! Under QEMU's `-icount shift=0,sleep=off` the time-stamp counter counts instructions, guest's and
//! Xen's together, the same to the digit in every run; elsewhere the figures are cycles of some
//! clock and mean little. Each operation stands in one table ([`ops::OPS`]); each is done on 1, 32,
//! 512 and 4096 pages of memory that was allocated before, without clearing it. The *floor* of an
//! operation is what the cheapest raw hypercalls for it cost in the same boot.
//!
//! Output: a line an operation and size, `bench NAME PAGES INSTRUCTIONS PER_PAGE HYPERCALLS`.

mod ops;
mod pool;

use crate::boot::cmdline::Selection;
use crate::mm::Running;
use crate::mm::{self, MmError, Tables, layout};
use crate::println;
use crate::time::tsc;

pub(crate) use pool::Pool;

/// Numbers of pages that operations are measured on.
const SIZES: [u64; 4] = [1, 32, 512, 4096];

/// Where operations map: whole 2 MiB and well apart.
const BASE: u64 = layout::DYNAMIC.start + (64 << 30);
/// A second place, for moves.
const OTHER: u64 = BASE + (1 << 30);

/// What an operation is measured with.
pub(crate) struct Bench<'a> {
    pub(crate) tables: &'a mut Tables<Running>,
    pub(crate) pool: &'a Pool,
    pub(crate) pages: u64,
    ticks: u64,
    hypercalls: u64,
}

impl Bench<'_> {
    /// Counts what `f` costs. Called once by each operation; what comes before and after is not
    /// counted.
    pub(crate) fn measure<R>(
        &mut self,
        f: impl FnOnce(&mut Tables<Running>, &Pool, u64) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        let calls = self.tables.stats().hypercalls;
        let start = tsc();
        let result = f(self.tables, self.pool, self.pages);
        let end = tsc();
        self.ticks = end - start - overhead();
        self.hypercalls = self.tables.stats().hypercalls - calls;
        result
    }
}

/// What reading the counter twice costs by itself.
fn overhead() -> u64 {
    let start = tsc();
    let end = tsc();
    end - start
}

/// Measures the selected operations and prints a line for each.
///
/// # Errors
/// The first operation that fails.
// Its stack frame is large: nobody else is to carry it.
#[inline(never)]
pub(crate) fn run(selection: &Selection<'_>) -> Result<usize, MmError> {
    println!(
        "bench entry_to_first_byte 1 {0} {0} 0",
        crate::boot::run::ticks_to_first_byte()
    );
    println!(
        "bench entry_to_ready 1 {0} {0} 0",
        crate::boot::run::ticks_to_ready()
    );
    let pool = mm::with(Pool::new)?;
    let mut lines = 2;
    for op in ops::OPS.iter().filter(|op| selection.includes(op.name)) {
        for pages in SIZES.into_iter().filter(|pages| op.sized || *pages == 1) {
            let (ticks, hypercalls) = mm::with(|tables| {
                let mut bench = Bench {
                    tables,
                    pool: &pool,
                    pages,
                    ticks: 0,
                    hypercalls: 0,
                };
                // Twice: the first time makes tables that later ones find.
                (op.run)(&mut bench)?;
                (op.run)(&mut bench)?;
                Ok::<_, MmError>((bench.ticks, bench.hypercalls))
            })?;
            println!(
                "bench {} {pages} {ticks} {} {hypercalls}",
                op.name,
                ticks / pages
            );
            lines += 1;
        }
    }
    mm::with(|tables| pool.free(tables))?;
    Ok(lines)
}
