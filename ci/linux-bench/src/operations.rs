//! What is measured.

use crate::processes;
use linux_program::{Refusal, print};

use crate::system::{self, tsc};

/// Numbers of pages, as in the kernel's bench.
const SIZES: [u64; 4] = [1, 32, 512, 4096];
/// Rounds of which the cheapest counts: the others may have had an interrupt in the middle.
const ROUNDS: usize = 3;

pub(crate) const PAGE: u64 = 4096;
/// What one L1 table covers.
const SPAN: u64 = 512 * PAGE;
/// Where pages are mapped: whole tables, with room below.
pub(crate) const HERE: u64 = 0x10_0000_0000 + SPAN;
/// Where they are moved to.
const THERE: u64 = 0x20_0000_0000 + SPAN;

// Values of Linux' headers.
pub(crate) const READ: u64 = 1;
pub(crate) const WRITE: u64 = 2;
const SHARED: u64 = 0x01;
const PRIVATE: u64 = 0x02;
const FIXED: u64 = 0x10;
const ANONYMOUS: u64 = 0x20;
pub(crate) const POPULATE: u64 = 0x8000;
const MAYMOVE_FIXED: u64 = 3;
const NO_FILE: u64 = u64::MAX;

pub(crate) type Measured = Result<u64, Refusal>;

/// An operation: does it once on so many pages and says what it took.
type Operation = fn(u64) -> Measured;

const OPERATIONS: &[(&str, Operation)] = &[
    ("map", map),
    ("unmap", unmap),
    ("protect_ro", protect_ro),
    ("protect_rw", protect_rw),
    ("move_unaligned", move_unaligned),
    ("move_aligned", move_aligned),
    ("populate", populate),
    ("fault", fault),
    ("munmap", munmap),
    ("fork", fork),
];

/// Measures everything and prints a line for each; returns how many were refused.
pub(crate) fn run() -> usize {
    let mut refused = line("syscall_null", 1, least(null, 0));
    for pages in SIZES {
        let neighbours = neighbours(pages);
        for at in neighbours.into_iter().flatten() {
            refused += usize::from(anonymous(at, 1, POPULATE).is_err());
        }
        for &(name, operation) in OPERATIONS {
            refused += line(name, pages, least(|| operation(pages), 1));
        }
        for at in neighbours.into_iter().flatten() {
            refused += usize::from(release(at, 1).is_err());
        }
    }
    refused + processes::run()
}

/// Pages that stay mapped beside the measured ones, as in any program: without them each operation
/// on a few would make and drop page tables of three levels. One keeps the upper tables, and one the
/// table of entries, unless the range fills it.
fn neighbours(pages: u64) -> [Option<u64>; 4] {
    let beside = |at| (pages < 256).then_some(at + SPAN - PAGE);
    let below = |at| Some(at - 2 * PAGE);
    [below(HERE), below(THERE), beside(HERE), beside(THERE)]
}

/// Prints a line; returns 1 if what it is of was refused.
pub(crate) fn line(name: &str, pages: u64, measured: Measured) -> usize {
    match measured {
        Ok(ticks) => print(format_args!(
            "bench linux.{name} {pages} {ticks} {} 0\n",
            ticks / pages
        )),
        Err(refusal) => {
            print(format_args!("{name} {pages}: {refusal}\n"));
            return 1;
        }
    }
    0
}

/// The least of several rounds, after some that do not count.
pub(crate) fn least(mut round: impl FnMut() -> Measured, idle: usize) -> Measured {
    for _ in 0..idle {
        round()?;
    }
    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        least = least.min(round()?);
    }
    Ok(least)
}

/// Counts what `f` takes.
#[inline(always)]
pub(crate) fn count<T>(f: impl FnOnce() -> Result<T, Refusal>) -> Measured {
    let start = tsc();
    let result = f();
    let end = tsc();
    result?;
    let start_of_nothing = tsc();
    let nothing = tsc() - start_of_nothing;
    Ok(end - start - nothing)
}

// SAFETY (all operations): the addresses are far from the program, its stack and each other, and
// nothing but the operation uses them.

fn null() -> Measured {
    // SAFETY: takes no memory.
    count(|| unsafe { system::getpid(0) })
}

/// Anonymous memory, with or without pages.
pub(crate) fn anonymous(at: u64, pages: u64, flags: u64) -> Result<u64, Refusal> {
    let flags = PRIVATE | FIXED | ANONYMOUS | flags;
    // SAFETY: takes no memory.
    unsafe { system::mmap(at, pages * PAGE, READ | WRITE, flags, NO_FILE, 0) }
}

pub(crate) fn release(at: u64, pages: u64) -> Result<u64, Refusal> {
    // SAFETY: takes no memory.
    unsafe { system::munmap(at, pages * PAGE) }
}

/// Maps a file in memory, whose pages exist.
fn file(pages: u64) -> Result<u64, Refusal> {
    static FILE: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
    let mut file = FILE.load(core::sync::atomic::Ordering::Relaxed);
    if file == 0 {
        // SAFETY: the name is a string; the file is new.
        unsafe {
            file = system::memfd_create(c"bench".as_ptr() as u64, 0)?;
            system::ftruncate(file, SIZES[3] * PAGE)?;
        }
        FILE.store(file, core::sync::atomic::Ordering::Relaxed);
    }
    let flags = SHARED | FIXED | POPULATE;
    // SAFETY: the name is a string; the file is new.
    unsafe { system::mmap(HERE, pages * PAGE, READ | WRITE, flags, file, 0) }
}

fn map(pages: u64) -> Measured {
    let ticks = count(|| file(pages))?;
    release(HERE, pages)?;
    Ok(ticks)
}

fn unmap(pages: u64) -> Measured {
    file(pages)?;
    count(|| release(HERE, pages))
}

fn populate(pages: u64) -> Measured {
    let ticks = count(|| anonymous(HERE, pages, POPULATE))?;
    release(HERE, pages)?;
    Ok(ticks)
}

fn munmap(pages: u64) -> Measured {
    anonymous(HERE, pages, POPULATE)?;
    count(|| release(HERE, pages))
}

fn protect(pages: u64, rights: u64) -> Measured {
    // SAFETY: the name is a string; the file is new.
    count(|| unsafe { system::mprotect(HERE, pages * PAGE, rights) })
}

fn protect_ro(pages: u64) -> Measured {
    anonymous(HERE, pages, POPULATE)?;
    let ticks = protect(pages, READ)?;
    release(HERE, pages)?;
    Ok(ticks)
}

fn protect_rw(pages: u64) -> Measured {
    anonymous(HERE, pages, POPULATE)?;
    protect(pages, READ)?;
    let ticks = protect(pages, READ | WRITE)?;
    release(HERE, pages)?;
    Ok(ticks)
}

fn move_to(pages: u64, to: u64) -> Measured {
    anonymous(HERE, pages, POPULATE)?;
    let bytes = pages * PAGE;
    // SAFETY: the name is a string; the file is new.
    let ticks = count(|| unsafe { system::mremap(HERE, bytes, bytes, MAYMOVE_FIXED, to) })?;
    release(to, pages)?;
    Ok(ticks)
}

fn move_unaligned(pages: u64) -> Measured {
    move_to(pages, THERE + 5 * PAGE)
}

fn move_aligned(pages: u64) -> Measured {
    move_to(pages, THERE)
}

fn fault(pages: u64) -> Measured {
    anonymous(HERE, pages, 0)?;
    let ticks = count(|| {
        for page in 0..pages {
            let at = core::ptr::with_exposed_provenance_mut::<u8>((HERE + page * PAGE) as usize);
            // SAFETY: mapped just now.
            unsafe { at.write_volatile(1) };
        }
        Ok(())
    })?;
    release(HERE, pages)?;
    Ok(ticks)
}

fn fork(pages: u64) -> Measured {
    let without = least(fork_once, 1)?;
    anonymous(HERE, pages, POPULATE)?;
    let with = fork_once()?;
    release(HERE, pages)?;
    Ok(with.saturating_sub(without))
}

/// Counts what it takes until the parent goes on.
fn fork_once() -> Measured {
    let mut child = 0;
    let ticks = count(|| {
        // SAFETY: the child is a copy that ends at once.
        child = unsafe { system::fork(0) }?;
        if child == 0 {
            // SAFETY: takes no memory.
            unsafe { system::exit(0) }?;
        }
        Ok(())
    })?;
    // SAFETY: nothing is written.
    unsafe { system::wait4(child, 0, 0, 0) }?;
    Ok(ticks)
}
