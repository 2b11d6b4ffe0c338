//! vCPUs in address spaces: each in its own beside the others, and all in one.

use core::sync::atomic::{AtomicU64, Ordering};

use super::context::{ABSENT_READ, Context, marked};
use super::smp::{RACERS, need_others};
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::mm::frames::Frame;
use crate::mm::spaces::{AddressSpace, NotDestroyed};
use crate::mm::{self, Flags, MmError};
use crate::{probe, smp};

/// An address of the user half, near the end of an L1 table.
const USER: u64 = 0x12_3456_7000 | 0x1f_d000;
const PAGE: u64 = 4096;
/// Pages that a vCPU works with.
const PAGES: u64 = 6;
/// Times that it does so.
const ROUNDS: u64 = 6;

/// Has every vCPU up to the racers do something, and counts those that fail, whose errors it logs.
pub(super) fn on_racers(what: &str, f: &(dyn Fn(u64) -> Result<(), MmError> + Sync)) -> TestResult {
    let errors = AtomicU64::new(0);
    smp::on_all(&|number| {
        if number >= RACERS {
            return;
        }
        if let Err(e) = f(number.into()) {
            errors.fetch_add(1, Ordering::Relaxed);
            log::error!(target: "smp", "vCPU {number}, {what}: {e}");
        }
    });
    expect_eq!(errors.into_inner(), 0, "vCPUs that failed: {what}");
    Ok(())
}

/// Has this vCPU run in a space, or again in the one that boot ran in.
pub(super) fn enter(space: Option<&AddressSpace>) -> Result<(), MmError> {
    let boot = mm::with(|tables| tables.boot_space());
    // SAFETY: what lies in the user half of the spaces here is looked at through probes.
    unsafe { mm::switch_space(space.unwrap_or(&boot)) }
}

/// Each vCPU runs in a space, and maps, protects, moves and unmaps pages there while the others do, now
/// and then in a lazy section and with work on the kernel's half in between: first in a space of its
/// own, at addresses that are the same for all, then all in one, side by side, so that they share
/// and make tables of every level. Each finds its own pages, and nothing is left.
fn side_by_side(context: &mut Context) -> TestResult {
    need_others()?;
    let kernel = context.area(0);
    let before = mm::with(|tables| tables.frames().counts().free);
    let wrong = AtomicU64::new(0);
    let work = |space: &AddressSpace, user, number| {
        enter(Some(space))?;
        let raced = (0..ROUNDS).try_for_each(|round| {
            let pages = race(space, user, kernel + number * PAGE, number << 32 | round)?;
            wrong.fetch_add(pages, Ordering::Relaxed);
            Ok(())
        });
        raced.and(enter(None))
    };
    on_racers("in a space of its own", &|number| {
        let space = mm::with(|tables| tables.create_space())?;
        let raced = work(&space, USER, number);
        let ended = mm::with(|tables| tables.destroy_space(space));
        raced.and(ended.map_err(|refused| refused.error))
    })?;
    let space = mm::with(|tables| tables.create_space())?;
    let raced = on_racers("in one space", &|number| {
        work(&space, USER + number * 2 * PAGES * PAGE, number)
    });
    let ended = mm::with(|tables| tables.destroy_space(space));
    raced?;
    ended.map_err(|refused| refused.error)?;
    let wrong = wrong.into_inner();
    expect_eq!(
        wrong,
        0,
        "pages that were not what their vCPU had made them"
    );
    let after = mm::with(|tables| tables.frames().counts().free);
    // Empty tables of the kernel's half that stay are the runner's to count.
    expect_eq!(after <= before, true, "frames that are free");
    Ok(())
}
selftest!("smp.spaces", side_by_side, needs XEN_TABLES);

/// One round of a vCPU in a space, with addresses of its own; how many pages were wrong.
fn race(space: &AddressSpace, user: u64, kernel: u64, mark: u64) -> Result<u64, MmError> {
    let (one, two) = (user, user + (PAGES + mark % 3 * 512) * PAGE);
    let lazy = (mark & 1 == 0).then(mm::lazy).transpose()?;
    for page in 0..PAGES {
        let (from, to) = (one + page * PAGE, two + page * PAGE);
        mm::in_space(space, |tables| {
            let mut frame = tables.alloc_frame()?;
            tables.frame_memory(&mut frame)[0] = from ^ mark;
            let pfn = [frame.pfn()].into_iter();
            // SAFETY: the frame is this vCPU's, kept by the entry until it is unmapped below.
            unsafe { tables.map(from, pfn, Flags::DATA)?.commit(tables) }
        })?;
        mm::in_space(space, |tables| {
            // SAFETY: the space is this vCPU's.
            unsafe { tables.protect(from, 1, Flags::empty(), Flags::WRITABLE) }?.commit(tables)
        })?;
        mm::with(|tables| {
            let frame = tables.alloc_frame()?;
            // SAFETY: the address is this vCPU's, and unmapped at once.
            let mapping = tables.map_frames(kernel, [frame], Flags::DATA)?;
            let ended = tables.unmap_and_free(mapping);
            ended.map_err(|refused| refused.error)
        })?;
        mm::in_space(space, |tables| {
            // SAFETY: the space is this vCPU's.
            unsafe { tables.move_pages(from, to, 1) }?.commit(tables)
        })?;
    }
    if let Some(lazy) = lazy {
        lazy.end()?;
    }
    let mut wrong = 0;
    for page in 0..PAGES {
        let (from, to) = (one + page * PAGE, two + page * PAGE);
        wrong += u64::from(probe::read(to) != Ok(from ^ mark));
        // SAFETY: the page is this vCPU's.
        wrong += u64::from(unsafe { probe::write(to, 0) }.is_ok());
        wrong += u64::from(probe::read(from) != ABSENT_READ);
        mm::in_space(space, |tables| {
            let value = tables.pte_val(tables.ptep_get(to)?);
            let pfn = value.ok_or(MmError::NotMapped { va: to })?.pfn;
            // SAFETY: the space is this vCPU's.
            unsafe { tables.unmap(to, 1) }?.commit(tables)?;
            // SAFETY: it was handed out above, and only the entry's number was kept of it.
            tables.free_frame(unsafe { Frame::from_pfn(pfn) })
        })?;
        wrong += u64::from(probe::read(to) != ABSENT_READ);
    }
    Ok(wrong)
}

/// All vCPUs run in one space. What one of them maps, protects and unmaps there, from outside of it or
/// from inside, all see at once; the space is not destroyed before the last has left it.
fn in_one(context: &mut Context) -> TestResult {
    need_others()?;
    context.with_frames(|context, pile| {
        let pages = context.pages();
        let space = mm::with(|tables| tables.create_space())?;
        on_racers("coming there", &|_| enter(Some(&space)))?;
        let seen = [true, false].into_iter().try_for_each(|inside| {
            if !inside {
                enter(None)?;
            }
            let looked_at = [0, pages / 2, pages - 1].map(|page| {
                let mark = pile.pfns().nth(page as usize).map_or(0, marked);
                (USER + page * PAGE, mark)
            });
            // Every vCPU has looked before, and so may have cached what is changed then.
            let look = |what: &str, there: bool, writes: bool| {
                on_racers(what, &|number| {
                    if number == 0 && !inside {
                        return Ok(());
                    }
                    for (va, mark) in looked_at {
                        let expected = if there { Ok(mark) } else { ABSENT_READ };
                        // SAFETY: the pages are the test's, and get what they hold.
                        let write = || unsafe { probe::write(va, mark) }.is_ok();
                        if probe::read(va) != expected || write() != writes {
                            return Err(MmError::NotMapped { va });
                        }
                    }
                    Ok(())
                })
            };
            mm::in_space(&space, |tables| {
                // SAFETY: the frames and the space are the test's.
                unsafe { tables.map(USER, pile.pfns(), Flags::DATA)?.commit(tables) }
            })?;
            look("once it is mapped", true, true)?;
            mm::in_space(&space, |tables| {
                // SAFETY: as above.
                unsafe { tables.protect(USER, pages, Flags::empty(), Flags::WRITABLE) }?
                    .commit(tables)
            })?;
            look("once it is read-only", true, false)?;
            mm::in_space(&space, |tables| {
                // SAFETY: as above.
                unsafe { tables.unmap(USER, pages) }?.commit(tables)
            })?;
            look("once it is unmapped", false, false)
        });
        let refused = mm::with(|tables| tables.destroy_space(space));
        let Err(NotDestroyed {
            space: Some(space), ..
        }) = refused
        else {
            return Err(Trouble::error("a space was destroyed where vCPUs run"));
        };
        on_racers("leaving", &|_| enter(None))?;
        let ended = mm::with(|tables| tables.destroy_space(space));
        seen.and(ended.map_err(|refused| Trouble::from(refused.error)))
    })
}
selftest!("smp.one_space", in_one, &[1, 45, 513], needs XEN_TABLES);
