//! How many changes a millisecond one of two vCPUs makes to a page, and how many both, each in a space of
//! its own and in one that they share, by the kernel's page tables and by hypercalls alone (`raw`):
//! remarked, and judged by nobody, as it is the host's processors that decide.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::VirtAddr;
use hypercall::mmu::{Scope, VaFlush, update_va_mapping};

use super::context::{Context, PAGE};
use super::race::{need_others, on_racers};
use super::smp_spaces::enter;
use super::{TestResult, Trouble, selftest};
use crate::mm::spaces::AddressSpace;
use crate::mm::{self, Flags, MmError};
use crate::time;
use crate::xen::HV;

/// vCPUs that are asked.
const BOTH: u64 = 2;
/// An address of the user half.
const USER: u64 = 0x23_4567_8000;
/// Times that it is tried; the best counts. No more is tried after so many nanoseconds.
const ROUNDS: u32 = 5;
const LONG: u64 = 1_000_000_000;

/// Where vCPUs work.
#[derive(Clone, Copy)]
enum Spaces {
    /// Each in one of its own, which nobody else has cached.
    Own,
    /// All in one, at a page of its own.
    Shared,
}

impl Spaces {
    /// Changes that each vCPU makes. In a shared space each waits until another processor has forgotten
    /// what it had cached, which on a busy host is a long time.
    const fn changes(self) -> u64 {
        match self {
            Spaces::Own => 2000,
            Spaces::Shared => 100,
        }
    }
}

/// What a vCPU does to a page in its space, so many times; how far it came if Xen refused.
type Work = dyn Fn(Spaces, &AddressSpace, u64) -> Result<(), MmError> + Sync;

/// Has the first `count` of two vCPUs do the same at the same time; changes a millisecond of all of them.
/// In a shared space are both, whoever works: the other's processor has to forget what is changed.
fn pace(count: u64, spaces: Spaces, work: &Work) -> Result<u64, Trouble> {
    let (ready, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let (first, last) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let now = || time::monotonic().unwrap_or(0);
    let until = |counter: &AtomicU64, all| {
        while counter.load(Ordering::Acquire) < all {
            core::hint::spin_loop();
        }
    };
    let shared = mm::with(|tables| tables.create_space())?;
    let worked = on_racers("at its pace", &|number| {
        if number >= BOTH {
            return Ok(());
        }
        let at_its_pace = |space: &AddressSpace| {
            at_page(space, USER + number * PAGE, |va| {
                ready.fetch_add(1, Ordering::AcqRel);
                until(&ready, BOTH);
                if number >= count {
                    until(&done, count);
                    return Ok(());
                }
                first.fetch_min(now(), Ordering::AcqRel);
                let worked = work(spaces, space, va);
                last.fetch_max(now(), Ordering::AcqRel);
                done.fetch_add(1, Ordering::AcqRel);
                worked
            })
        };
        let worked = match spaces {
            Spaces::Own => in_own_space(at_its_pace),
            Spaces::Shared => at_its_pace(&shared),
        };
        if worked.is_err() {
            // The other waits for no more than this.
            ready.fetch_add(1, Ordering::AcqRel);
            done.fetch_add(1, Ordering::AcqRel);
        }
        worked
    });
    let ended = mm::with(|tables| tables.destroy_space(shared));
    worked?;
    ended.map_err(|refused| refused.error)?;
    let took = last.into_inner().saturating_sub(first.into_inner()).max(1);
    Ok(count * spaces.changes() * 1_000_000 / took)
}

/// Runs `f` with a new space.
fn in_own_space(f: impl FnOnce(&AddressSpace) -> Result<(), MmError>) -> Result<(), MmError> {
    let space = mm::with(|tables| tables.create_space())?;
    let done = f(&space);
    let ended = mm::with(|tables| tables.destroy_space(space));
    done.and(ended.map_err(|refused| refused.error))
}

/// Runs `f` in a space, with a page mapped at the address.
fn at_page(
    space: &AddressSpace,
    va: u64,
    f: impl FnOnce(u64) -> Result<(), MmError>,
) -> Result<(), MmError> {
    let frame = mm::with(|tables| tables.alloc_frame())?;
    enter(Some(space))?;
    let done = mm::in_space(space, |tables| {
        let pfn = [frame.pfn()].into_iter();
        // SAFETY: the frame is this function's, and nobody looks at it here.
        unsafe { tables.map(va, pfn, Flags::DATA)?.commit(tables) }
    });
    let done = done.and_then(|()| f(va));
    let gone = mm::in_space(space, |tables| {
        // SAFETY: the page is this function's.
        unsafe { tables.unmap(va, 1)?.commit(tables) }
    });
    enter(None)?;
    mm::with(|tables| tables.free_frame(frame))?;
    done.and(gone)
}

/// Takes the right to write a page and gives it back, by the kernel's page tables.
fn by_tables(spaces: Spaces, space: &AddressSpace, va: u64) -> Result<(), MmError> {
    for change in 0..spaces.changes() {
        let (add, remove) = match change % 2 {
            0 => (Flags::empty(), Flags::WRITABLE),
            _ => (Flags::WRITABLE, Flags::empty()),
        };
        mm::in_space(space, |tables| {
            // SAFETY: nobody looks at the page.
            unsafe { tables.protect(va, 1, add, remove)?.commit(tables) }
        })?;
    }
    Ok(())
}

/// The same by hypercalls alone.
fn by_hypercalls(spaces: Spaces, space: &AddressSpace, va: u64) -> Result<(), MmError> {
    let page = VirtAddr::new_truncate(va);
    let scope = match spaces {
        Spaces::Own => Scope::Local,
        Spaces::Shared => Scope::All,
    };
    let writable = mm::in_space(space, |tables| tables.ptep_get(va))?;
    let [writable, constant] =
        [Flags::DATA, Flags::CONST].map(|flags| writable.with_flags(flags).bits());
    for change in 0..spaces.changes() {
        let value = if change % 2 == 0 { constant } else { writable };
        // SAFETY: nobody looks at the page, whose frame stays.
        let refused = unsafe { update_va_mapping(&HV, page, value, VaFlush::Page(scope)) };
        if refused.is_err() {
            return Err(MmError::NotMapped { va });
        }
    }
    Ok(())
}

/// Changes a millisecond that one vCPU makes, and two together.
struct Paces((u64, u64));

impl fmt::Display for Paces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Paces((one, two)) = *self;
        write!(f, "{one} to {two}")
    }
}

/// Two vCPUs in spaces of their own do not wait for each other's locks, and in one space they get done no
/// less than one alone.
fn side_by_side(context: &mut Context) -> TestResult {
    need_others()?;
    let now = || time::monotonic().unwrap_or(0);
    let best = |count, spaces, work: &Work| {
        let (began, mut best) = (now(), 0);
        for _ in 0..ROUNDS {
            best = pace(count, spaces, work)?.max(best);
            if now() - began > LONG {
                break;
            }
        }
        Ok::<_, Trouble>(best)
    };
    let mut paces = [(0, 0); 4];
    let works: [(Spaces, &Work); 4] = [
        (Spaces::Own, &by_tables),
        (Spaces::Own, &by_hypercalls),
        (Spaces::Shared, &by_tables),
        (Spaces::Shared, &by_hypercalls),
    ];
    for (paces, (spaces, work)) in paces.iter_mut().zip(works) {
        *paces = (best(1, spaces, work)?, best(BOTH, spaces, work)?);
    }
    let [own, own_raw, shared, shared_raw] = paces.map(Paces);
    context.note(format_args!(
        "(own {own}/ms, raw {own_raw}; shared {shared}, raw {shared_raw})",
    ));
    Ok(())
}
selftest!("smp.pace", side_by_side, needs EVERYWHERE);
