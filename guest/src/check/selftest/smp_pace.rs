//! How much more vCPUs get done together than one does alone, each in a space of its own: remarked, and
//! judged by nobody, as it is the host's processors that decide.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::VirtAddr;
use hypercall::mmu::{Scope, VaFlush, update_va_mapping};

use super::context::Context;
use super::race::{need_others, on_racers};
use super::smp_spaces::enter;
use super::{TestResult, Trouble, selftest};
use crate::mm::spaces::AddressSpace;
use crate::mm::{self, Flags, MmError};
use crate::time;
use crate::xen::HV;

/// An address of the user half.
const USER: u64 = 0x23_4567_8000;
/// Changes that each vCPU makes.
const CHANGES: u64 = 2000;
/// Times that it is tried; the best counts.
const ROUNDS: u32 = 5;

/// What a vCPU does in its space, so many times; how far it came if Xen refused.
type Work = dyn Fn(&AddressSpace) -> Result<(), MmError> + Sync;

/// Has the first `count` vCPUs do the same at the same time; changes a second of all of them.
fn pace(count: u64, work: &Work) -> Result<u64, Trouble> {
    let ready = AtomicU64::new(0);
    let (first, last) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let now = || time::monotonic().unwrap_or(0);
    on_racers("at its pace", &|number| {
        if number >= count {
            return Ok(());
        }
        let done = in_own_space(|space| {
            ready.fetch_add(1, Ordering::AcqRel);
            while ready.load(Ordering::Acquire) < count {
                core::hint::spin_loop();
            }
            first.fetch_min(now(), Ordering::AcqRel);
            let done = work(space);
            last.fetch_max(now(), Ordering::AcqRel);
            done
        });
        if done.is_err() {
            // The others wait for no more than this.
            ready.fetch_add(1, Ordering::AcqRel);
        }
        done
    })?;
    let took = last.into_inner().saturating_sub(first.into_inner()).max(1);
    Ok(count * CHANGES * 1_000_000_000 / took)
}

/// Runs `f` in a new space, with a page mapped at the address.
fn in_own_space(f: impl FnOnce(&AddressSpace) -> Result<(), MmError>) -> Result<(), MmError> {
    let space = mm::with(|tables| tables.create_space())?;
    let frame = mm::with(|tables| tables.alloc_frame())?;
    enter(Some(&space))?;
    let done = mm::in_space(&space, |tables| {
        let pfn = [frame.pfn()].into_iter();
        // SAFETY: the frame is this function's, and nobody looks at it here.
        unsafe { tables.map(USER, pfn, Flags::DATA)?.commit(tables) }
    });
    let done = done.and_then(|()| f(&space));
    let gone = mm::in_space(&space, |tables| {
        // SAFETY: the space is this function's.
        unsafe { tables.unmap(USER, 1)?.commit(tables) }
    });
    enter(None)?;
    mm::with(|tables| {
        let ended = tables.destroy_space(space);
        ended.map_err(|refused| refused.error)?;
        tables.free_frame(frame)
    })?;
    done.and(gone)
}

/// Takes the right to write a page and gives it back, by the kernel's page tables.
fn by_tables(space: &AddressSpace) -> Result<(), MmError> {
    for change in 0..CHANGES {
        let (add, remove) = match change % 2 {
            0 => (Flags::empty(), Flags::WRITABLE),
            _ => (Flags::WRITABLE, Flags::empty()),
        };
        mm::in_space(space, |tables| {
            // SAFETY: nobody looks at the page.
            unsafe { tables.protect(USER, 1, add, remove)?.commit(tables) }
        })?;
    }
    Ok(())
}

/// The same by hypercalls alone.
fn by_hypercalls(space: &AddressSpace) -> Result<(), MmError> {
    let page = VirtAddr::new_truncate(USER);
    let writable = mm::in_space(space, |tables| tables.ptep_get(USER))?;
    let [writable, constant] =
        [Flags::DATA, Flags::CONST].map(|flags| writable.with_flags(flags).bits());
    for change in 0..CHANGES {
        let value = if change % 2 == 0 { constant } else { writable };
        // SAFETY: nobody looks at the page, whose frame stays.
        let refused = unsafe { update_va_mapping(&HV, page, value, VaFlush::Page(Scope::Local)) };
        if refused.is_err() {
            return Err(MmError::NotMapped { va: USER });
        }
    }
    Ok(())
}

/// Two vCPUs in spaces of their own do not wait for each other's locks.
fn side_by_side(context: &mut Context) -> TestResult {
    need_others()?;
    let best = |count, work: &Work| {
        (0..ROUNDS).try_fold(0, |best, _| Ok::<_, Trouble>(pace(count, work)?.max(best)))
    };
    let ratio = |work: &Work| {
        let (one, two) = (best(1, work)?, best(2, work)?);
        Ok::<_, Trouble>(two * 100 / one.max(1))
    };
    let (tables, hypercalls) = (ratio(&by_tables)?, ratio(&by_hypercalls)?);
    context.note(format_args!(
        "(two vCPUs change {tables} % of what one does, by hypercalls alone {hypercalls} %)"
    ));
    Ok(())
}
selftest!("smp.pace", side_by_side, needs EVERYWHERE);
