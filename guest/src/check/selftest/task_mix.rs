//! Threads that do everything that threads do, in an order that is drawn: what one does meets what
//! another does at every point that there is.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;

use hypercall::queue::Access;

use super::context::{Context, PAGE};
use super::race::RACERS;
use super::{TestResult, expect_eq, selftest};
use crate::lock::Lock;
use crate::mm::fuzz::Rng;
use crate::mm::{self, Current, Flags, MmError};
use crate::rank;
use crate::{cpu, stack, task, time};

/// Threads at a time.
const THREADS: usize = 12;

/// What they share.
struct Shared {
    wakers: Lock<Vec<Waker>, rank::Check>,
    calls: AtomicU64,
    called: AtomicU64,
    wrong: AtomicU64,
}

/// Does one thing; whether it came out as it must.
fn act(draw: &mut Rng, shared: &Arc<Shared>, page: u64) -> Result<bool, MmError> {
    let soon = |nanoseconds| time::monotonic().unwrap_or(0) + nanoseconds;
    match draw.below(7) {
        0 => task::yield_now(),
        1 => task::sleep_until(soon(draw.below(200_000))),
        // It may be woken, or not.
        2 => task::park_until(soon(draw.below(300_000))),
        3 => {
            let waker = {
                let wakers = shared.wakers.lock();
                wakers.get(draw.below(THREADS as u64) as usize).cloned()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        4 => {
            let running = u64::from(cpu::running().min(RACERS));
            let called = task::call(draw.below(running) as u32, &|| {
                shared.called.fetch_add(1, Ordering::Relaxed);
            });
            shared.calls.fetch_add(1, Ordering::Relaxed);
            return Ok(called.is_ok());
        }
        5 => {
            let number = draw.below(1 << 32);
            let child = task::spawn("child", move || number);
            return Ok(child.is_ok_and(|child| child.join() == Some(number)));
        }
        _ => {
            let lazy = mm::lazy()?;
            let mode = Current.with(|mmu| *mmu.lazy());
            for (set, clear) in [
                (Flags::empty(), Flags::WRITABLE),
                (Flags::WRITABLE, Flags::empty()),
            ] {
                mm::with(|tables| {
                    // SAFETY: the page is the thread's.
                    unsafe { tables.protect(page, 1, set, clear) }?.commit(tables)
                })?;
                task::yield_now();
            }
            let same = Current.with(|mmu| *mmu.lazy()) == mode;
            lazy.end()?;
            return Ok(same);
        }
    }
    Ok(true)
}

/// Each thread does so many things, on whichever vCPU it comes to: all of them end, every call was made,
/// and nothing is lazy that was not.
fn mix(context: &mut Context) -> TestResult {
    let rounds = context.pages();
    let mut handles = Vec::new();
    handles.try_reserve_exact(THREADS)?;
    let shared = Arc::new(Shared {
        wakers: Lock::new(Vec::new()),
        calls: AtomicU64::new(0),
        called: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
    });
    shared.wakers.lock().try_reserve_exact(THREADS)?;
    let area = context.area(0);
    mm::with(|tables| {
        for page in 0..THREADS as u64 {
            let frame = tables.alloc_frame()?;
            // Unmapped below, where its frame is taken back.
            let _ = tables.map_frames(area + page * PAGE, [frame], Flags::DATA)?;
        }
        Ok::<_, MmError>(())
    })?;
    let seed = time::tsc() | 1;
    for number in 0..THREADS as u64 {
        let theirs = Arc::clone(&shared);
        let handle = task::spawn("mixes", move || {
            let mut draw = Rng::new(seed.wrapping_mul(2 * number + 1));
            for _ in 0..rounds {
                if !matches!(act(&mut draw, &theirs, area + number * PAGE), Ok(true)) {
                    theirs.wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
        })?;
        shared.wakers.lock().push(handle.waker());
        handles.push(handle);
    }
    let ended = handles.into_iter().filter_map(task::JoinHandle::join);
    let ended = ended.count();
    mm::with(|tables| {
        for page in 0..THREADS as u64 {
            let va = area + page * PAGE;
            let value = tables.pte_val(tables.ptep_get(va)?);
            let pfn = value.ok_or(MmError::NotMapped { va })?.pfn;
            // SAFETY: the page was a thread's that has ended.
            unsafe { tables.unmap(va, 1) }?.commit(tables)?;
            // SAFETY: it was handed out above, and only this page's number was kept of it.
            tables.free_frame(unsafe { mm::frames::Frame::from_pfn(pfn) })?;
        }
        Ok::<_, MmError>(())
    })?;
    shared.wakers.lock().clear();
    stack::trim_all()?;
    expect_eq!(ended, THREADS, "threads that ended, of seed {seed:#x}");
    let wrong = shared.wrong.load(Ordering::Relaxed);
    expect_eq!(
        wrong,
        0,
        "things that came out otherwise, of seed {seed:#x}"
    );
    let (calls, called) = (&shared.calls, &shared.called);
    expect_eq!(
        called.load(Ordering::Relaxed),
        calls.load(Ordering::Relaxed),
        "calls that were made, of seed {seed:#x}"
    );
    Ok(())
}
selftest!("task.mix", mix, &[200], needs EVERYWHERE);
