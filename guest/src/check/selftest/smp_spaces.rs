//! vCPUs in address spaces: each in its own beside the others, and all in one.

use core::sync::atomic::{AtomicU64, Ordering};

use super::context::{ABSENT_READ, Context, marked};
use super::race::{Half, need_others, on_racers, race};
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::mm::spaces::{AddressSpace, NotDestroyed};
use crate::mm::{self, Flags, MmError};
use crate::probe;

/// An address of the user half, near the end of an L1 table.
const USER: u64 = 0x12_3456_7000 | 0x1f_d000;
const PAGE: u64 = 4096;
/// Pages that a vCPU works with.
const PAGES: u64 = 6;
/// Times that it does so.
const ROUNDS: u64 = 6;

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
            let mark = number << 32 | round;
            let ranges = [user, user + (PAGES + mark % 3 * 512) * PAGE];
            let beside = || map_briefly(kernel + number * PAGE);
            let pages = race(Half::User(space), ranges, PAGES, mark, beside)?;
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
selftest!("smp.spaces", side_by_side, needs EVERYWHERE);

/// Maps a page of the kernel's half, for a moment.
fn map_briefly(va: u64) -> Result<(), MmError> {
    mm::with(|tables| {
        let frame = tables.alloc_frame()?;
        // SAFETY: the address is this vCPU's, and unmapped at once.
        let mapping = tables.map_frames(va, [frame], Flags::DATA)?;
        let ended = tables.unmap_and_free(mapping);
        ended.map_err(|refused| refused.error)
    })
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
                // SAFETY: the frames and the space are the test's.
                unsafe { tables.protect(USER, pages, Flags::empty(), Flags::WRITABLE) }?
                    .commit(tables)
            })?;
            look("once it is read-only", true, false)?;
            mm::in_space(&space, |tables| {
                // SAFETY: the frames and the space are the test's.
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
selftest!("smp.one_space", in_one, &[1, 45, 513], needs EVERYWHERE);
