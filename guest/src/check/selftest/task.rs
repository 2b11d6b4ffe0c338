//! Threads: that they run, wait, are woken and end, and that nothing is left of them.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::Waker;

use hypercall::Hypervisor;
use hypercall::queue::Access;

use super::context::{Context, PAGE, in_table, marked};
use super::race::RACERS;
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::capability::{PC, is_here};
use crate::lock::Lock;
use crate::mm::spaces::AddressSpace;
use crate::mm::{self, Current, Flags, MmError};
use crate::rank;
use crate::xen::HV;
use crate::{cpu, event, probe, stack, task, time};

/// Runs a test and gives back what its threads had, which is kept for others otherwise.
pub(super) fn trimmed(f: impl FnOnce() -> TestResult) -> TestResult {
    let outcome = f();
    stack::trim_all()?;
    outcome
}

/// What a clock says, where there is one.
pub(super) fn now() -> Result<u64, Trouble> {
    time::monotonic().ok_or_else(|| match is_here(&PC) {
        true => Trouble::skip("this machine has no clock"),
        false => Trouble::error("no clock"),
    })
}

/// A thread does what it is given, and who joins it has what came of it. One that ends by itself has
/// come to nothing.
fn joined(_: &mut Context) -> TestResult {
    trimmed(|| {
        let handle = task::spawn("adds", || 2 + 3)?;
        expect_eq!(handle.join(), Some(5), "what a thread came to");
        let handle = task::spawn("exits", || -> u32 { task::exit() })?;
        expect_eq!(handle.join(), None, "what a thread came to that exits");
        let handle = task::spawn("names", || task::current().name() == "names")?;
        expect_eq!(
            handle.join(),
            Some(true),
            "the name of a thread as it finds it"
        );
        let handle = task::spawn("stands", || {
            let local = 0_u8;
            let place = (&raw const local).addr() as u64;
            let top = task::current().stack_top();
            top.is_some_and(|top| (top - 4096..top).contains(&place))
        })?;
        expect_eq!(handle.join(), Some(true), "a thread is on its own stack");
        Ok(())
    })
}
selftest!("task.join", joined, needs EVERYWHERE);

/// Threads by the hundred, all there at once: each runs, and all that they had is free again.
fn many(context: &mut Context) -> TestResult {
    trimmed(|| {
        let count = Arc::new(AtomicU64::new(0));
        let mut handles = Vec::new();
        handles.try_reserve_exact(context.pages() as usize)?;
        for number in 0..context.pages() {
            let count = Arc::clone(&count);
            let handle = task::spawn("one of many", move || {
                task::yield_now();
                count.fetch_add(number, Ordering::Relaxed);
            })?;
            handles.push(handle);
        }
        for handle in handles {
            expect_eq!(handle.join(), Some(()), "the end of a thread");
        }
        let sum = context.pages() * (context.pages() - 1) / 2;
        expect_eq!(
            count.load(Ordering::Relaxed),
            sum,
            "the sum of their numbers"
        );
        Ok(())
    })
}
selftest!("task.many", many, &[1, 64], needs EVERYWHERE);

/// As many threads as there are, one after the other, on the same few stacks.
fn in_turn(context: &mut Context) -> TestResult {
    trimmed(|| {
        for number in 0..context.pages() {
            let handle = task::spawn("one after the other", move || number)?;
            expect_eq!(handle.join(), Some(number), "what a thread came to");
        }
        Ok(())
    })
}
selftest!("task.in_turn", in_turn, &[1000], needs EVERYWHERE);

/// A thread that was woken before it parks does not park; woken twice, it goes on once.
fn woken_before(_: &mut Context) -> TestResult {
    let waker = task::waker();
    waker.wake_by_ref();
    waker.wake();
    task::park();
    let begun = now()?;
    task::park_until(begun + 2_000_000);
    expect_eq!(
        now()? >= begun + 2_000_000,
        true,
        "asleep until the time that was named"
    );
    Ok(())
}
selftest!("task.woken_before", woken_before, needs EVERYWHERE);

/// A thread that has parked, or is about to, goes on when it is woken, and not before.
fn woken_after(_: &mut Context) -> TestResult {
    trimmed(|| {
        let state = Arc::new(AtomicU32::new(0));
        let theirs = Arc::clone(&state);
        let handle = task::spawn("parks", move || {
            while theirs.load(Ordering::Acquire) == 0 {
                task::park();
            }
        })?;
        task::sleep_until(now()? + 2_000_000);
        expect_eq!(
            handle.is_over(),
            false,
            "the end of a thread that nobody has woken"
        );
        state.store(1, Ordering::Release);
        handle.waker().wake();
        expect_eq!(handle.join(), Some(()), "the end of a thread");
        Ok(())
    })
}
selftest!("task.woken_after", woken_after, needs EVERYWHERE);

/// What two threads pass to and fro.
struct Ball {
    /// Whose turn it is.
    side: AtomicU32,
    wakers: [Lock<Option<Waker>, rank::Check>; 2],
}

impl Ball {
    fn new() -> Arc<Ball> {
        Arc::new(Ball {
            side: AtomicU32::new(0),
            wakers: [const { Lock::new(None) }; 2],
        })
    }

    /// Plays so many rounds on a side: waits for its turn, and gives it to the other.
    fn play(&self, side: u32, rounds: u64) {
        let mine = &self.wakers[side as usize];
        for _ in 0..rounds {
            task::wait_until(|waker| {
                *mine.lock() = Some(waker.clone());
                (self.side.load(Ordering::Acquire) == side).then_some(())
            });
            let other = side ^ 1;
            self.side.store(other, Ordering::Release);
            let waker = self.wakers[other as usize].lock().clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Two threads take turns, each woken by the other. One that was not woken would wait for ever.
fn ping_pong(context: &mut Context) -> TestResult {
    trimmed(|| {
        let rounds = context.pages();
        let ball = Ball::new();
        let mut handles = Vec::new();
        handles.try_reserve_exact(2)?;
        for side in 0..2 {
            let ball = Arc::clone(&ball);
            handles.push(task::spawn("plays", move || ball.play(side, rounds))?);
        }
        for handle in handles {
            expect_eq!(handle.join(), Some(()), "the end of a player");
        }
        Ok(())
    })
}
selftest!("task.ping_pong", ping_pong, &[1000], needs EVERYWHERE);

/// While others wait, a thread on its way to user mode gives way when it has had its time, and not
/// before. Alone it goes on.
fn gives_way(_: &mut Context) -> TestResult {
    trimmed(|| {
        let begun = now()?;
        let ran = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&ran);
        let other = task::Spawn::new("waits").pinned(0).start(move || {
            let at = time::monotonic().unwrap_or(0);
            theirs.store(at, Ordering::Release);
        })?;
        while ran.load(Ordering::Acquire) == 0 && now()? - begun < 20_000_000_000 {
            task::yield_if_needed();
            core::hint::spin_loop();
        }
        let waited = ran.load(Ordering::Acquire).saturating_sub(begun);
        expect_eq!(
            waited >= 5_000_000,
            true,
            "{waited} ns until another had its turn"
        );
        expect_eq!(other.join(), Some(()), "the end of the other");
        Ok(())
    })
}
selftest!("task.gives_way", gives_way, needs EVERYWHERE);

/// An address of the user half.
const USER: u64 = 0x23_4567_8000;

/// A space that a thread runs in.
struct Inside(AddressSpace);

impl task::Hooks for Inside {
    fn switched_out(&self, _: bool) {
        let boot = mm::with(|tables| tables.boot_space());
        // SAFETY: the user half is used by the test's thread alone, which is left.
        if let Err(e) = unsafe { mm::switch_space(&boot) } {
            panic!("leaving a thread's space: {e}");
        }
    }

    fn switching_in(&self) {
        // SAFETY: nobody uses the user half of the boot's space, which has none.
        if let Err(e) = unsafe { mm::switch_space(&self.0) } {
            panic!("entering a thread's space: {e}");
        }
    }
}

/// Rounds of a thread that shares a vCPU with another.
const ROUNDS: u64 = 50;

/// What a thread in a space of its own does: in a lazy section that lasts over all switches, it makes
/// its page read-only and writable again, finds that in the table after each switch, and itself in its
/// space. How many times something was otherwise.
fn beside(page: u64, user: u64, pauses: bool) -> Result<u64, MmError> {
    let mut wrong = 0;
    let lazy = mm::lazy()?;
    let pause = pauses.then(mm::pause).transpose()?;
    let mode = Current.with(|mmu| *mmu.lazy());
    for round in 0..ROUNDS {
        let (clear, set) = match round & 1 {
            0 => (Flags::WRITABLE, Flags::empty()),
            _ => (Flags::empty(), Flags::WRITABLE),
        };
        mm::with(|tables| {
            // SAFETY: the page is the thread's.
            unsafe { tables.protect(page, 1, set, clear) }?.commit(tables)
        })?;
        task::yield_now();
        let entry = mm::with(|tables| in_table(tables, page))?;
        let writable = entry & Flags::WRITABLE.bits() != 0;
        wrong += u64::from(writable != (round & 1 == 1));
        wrong += u64::from(probe::read(USER) != Ok(user));
        wrong += u64::from(Current.with(|mmu| *mmu.lazy()) != mode);
    }
    if let Some(pause) = pause {
        pause.end()?;
    }
    lazy.end()?;
    Ok(wrong)
}

/// Threads in spaces of their own take turns on a vCPU, one in a lazy section, one in one that is paused:
/// what either has queued is in the tables when the other runs, each finds its section as it left it
/// and its own pages, and the thread that waits for them is not lazy.
fn in_spaces(context: &mut Context) -> TestResult {
    trimmed(|| {
        context.with_frames(|context, pile| {
            let area = context.area(0);
            context.map(area, pile, Flags::DATA)?;
            let mut spaces = Vec::new();
            spaces.try_reserve_exact(2)?;
            for pfn in pile.pfns() {
                let space = mm::with(|tables| tables.create_space())?;
                mm::in_space(&space, |tables| {
                    // SAFETY: frame and address are the test's.
                    unsafe { tables.map(USER, [pfn].into_iter(), Flags::DATA) }?.commit(tables)
                })?;
                spaces.push(Arc::new(Inside(space)));
            }
            let mut handles = Vec::new();
            handles.try_reserve_exact(2)?;
            for (number, (space, pfn)) in (0..).zip(spaces.iter().zip(pile.pfns())) {
                let hooks: Arc<dyn task::Hooks> = space.clone();
                let page = area + number * PAGE;
                let inside = task::Spawn::new("inside").pinned(0).hooks(hooks);
                handles.push(inside.start(move || beside(page, marked(pfn), number == 1))?);
            }
            let ends: Vec<_> = handles.into_iter().map(task::JoinHandle::join).collect();
            let lazy = Current.with(|mmu| mmu.lazy().is_lazy());
            for space in spaces.into_iter().filter_map(Arc::into_inner) {
                let destroyed = mm::with(|tables| tables.destroy_space(space.0));
                destroyed.map_err(|refused| refused.error)?;
            }
            for end in ends {
                let wrong = end.transpose()?;
                expect_eq!(
                    wrong,
                    Some(0),
                    "what a thread found otherwise than it left it"
                );
            }
            expect_eq!(lazy, false, "the thread that waited is lazy");
            Ok(())
        })
    })
}
selftest!("task.spaces", in_spaces, &[2], needs EVERYWHERE);

/// Each vCPU calls what it is told to, once, itself too; one that does not run calls nothing, and says so.
fn calls(_: &mut Context) -> TestResult {
    let running = cpu::running();
    for number in 0..running {
        let called = AtomicU64::new(u64::MAX);
        task::call(number, &|| {
            called.store(cpu::here().number().into(), Ordering::Relaxed)
        })?;
        expect_eq!(
            called.into_inner(),
            number.into(),
            "the vCPU that was called"
        );
    }
    let calls = AtomicU32::new(0);
    task::call_all(&|| {
        calls.fetch_add(1, Ordering::Relaxed);
    })?;
    expect_eq!(calls.into_inner(), running, "calls on all vCPUs");
    let refused = task::call(running, &|| {});
    expect_eq!(
        refused,
        Err(task::NotCalled::NotRunning(running)),
        "a call on a vCPU that does not run"
    );
    Ok(())
}
selftest!("task.call", calls, needs EVERYWHERE);

/// All vCPUs call each other at once, with upcalls masked and open, and each call comes back: nobody
/// waits for somebody who waits for him.
fn calls_cross(context: &mut Context) -> TestResult {
    trimmed(|| {
        let (running, rounds) = (cpu::running().min(RACERS), context.pages());
        let sum = Arc::new(AtomicU64::new(0));
        let mut handles = Vec::new();
        handles.try_reserve_exact(running as usize)?;
        for number in 0..running {
            let sum = Arc::clone(&sum);
            let calls = move || {
                let mut refused = 0;
                for round in 0..rounds {
                    let other = (number + 1 + round as u32 % running) % running;
                    let masked = round & 1 == 1 && HV.mask_upcalls();
                    let called = task::call(other, &|| {
                        sum.fetch_add(1, Ordering::Relaxed);
                    });
                    if round & 1 == 1 {
                        HV.restore_upcalls(masked);
                    }
                    refused += u32::from(called.is_err());
                }
                refused
            };
            handles.push(task::Spawn::new("calls").pinned(number).start(calls)?);
        }
        for handle in handles {
            expect_eq!(handle.join(), Some(0), "calls that were refused");
        }
        let expected = u64::from(running) * rounds;
        expect_eq!(sum.load(Ordering::Relaxed), expected, "calls of all vCPUs");
        Ok(())
    })
}
selftest!("task.call.crossed", calls_cross, &[300], needs EVERYWHERE);

/// What is posted is called in the order in which it was, with nobody waiting for it; also what posts
/// itself again, which keeps neither others from being called nor the one that it interrupts from going
/// on.
fn posts(_: &mut Context) -> TestResult {
    let last = cpu::running() - 1;
    let order = Arc::new(Lock::<_, rank::Check>::new(heapless::Vec::<u32, 8>::new()));
    for number in 0..8 {
        let order = Arc::clone(&order);
        task::post(last, move || {
            // There is room for each.
            let _ = order.lock().push(number);
        })?;
    }
    // Behind them.
    task::call(last, &|| {})?;
    expect_eq!(
        &order.lock()[..],
        &[0, 1, 2, 3, 4, 5, 6, 7][..],
        "calls as they came"
    );
    let left = Arc::new(AtomicU32::new(AGAIN));
    again(last, Arc::clone(&left));
    for _ in 0..10 {
        task::call(last, &|| {})?;
    }
    let begun = now()?;
    while left.load(Ordering::Relaxed) != 0 && now()? - begun < 20_000_000_000 {
        core::hint::spin_loop();
    }
    expect_eq!(left.load(Ordering::Relaxed), 0, "calls that were not made");
    Ok(())
}
selftest!("task.call.posted", posts, needs EVERYWHERE);

/// More than a handler is called for by one upcall.
const AGAIN: u32 = 3 * event::MOST;

/// Has a vCPU call this again and again.
fn again(number: u32, left: Arc<AtomicU32>) {
    if left.fetch_sub(1, Ordering::Relaxed) > 1 {
        // Were it refused, the count would tell.
        let _ = task::post(number, move || again(number, left));
    }
}

/// A wake-up reaches a thread on another vCPU that sleeps in Xen, and comes back: to and fro between two
/// vCPUs.
fn across(context: &mut Context) -> TestResult {
    if cpu::running() < 2 {
        return Err(Trouble::skip("one vCPU runs"));
    }
    trimmed(|| {
        let rounds = context.pages();
        let ball = Ball::new();
        let mut handles = Vec::new();
        handles.try_reserve_exact(2)?;
        for side in 0..2 {
            let ball = Arc::clone(&ball);
            let player = task::Spawn::new("plays").pinned(side);
            handles.push(player.start(move || ball.play(side, rounds))?);
        }
        for handle in handles {
            expect_eq!(handle.join(), Some(()), "the end of a player");
        }
        Ok(())
    })
}
selftest!("task.across", across, &[300], needs EVERYWHERE);

/// Threads that wait where others run go to vCPUs that have nothing to do: while one keeps its vCPU, all
/// others come to their end.
fn spread(_: &mut Context) -> TestResult {
    let running = cpu::running();
    if running < 2 {
        return Err(Trouble::skip("one vCPU runs"));
    }
    trimmed(|| {
        let ended = Arc::new(AtomicU32::new(0));
        let mut handles = Vec::new();
        handles.try_reserve_exact(16)?;
        for _ in 0..16 {
            let ended = Arc::clone(&ended);
            handles.push(task::spawn("spreads", move || {
                for _ in 0..10 {
                    task::yield_now();
                }
                ended.fetch_add(1, Ordering::Relaxed);
            })?);
        }
        let begun = now()?;
        // This one never gives its vCPU away meanwhile.
        while ended.load(Ordering::Relaxed) < 16 && now()? - begun < 20_000_000_000 {
            core::hint::spin_loop();
        }
        let alone = ended.load(Ordering::Relaxed);
        for handle in handles {
            expect_eq!(handle.join(), Some(()), "the end of a thread");
        }
        expect_eq!(alone, 16, "threads that ended while one kept the boot vCPU");
        Ok(())
    })
}
selftest!("task.spread", spread, needs EVERYWHERE);
