//! Real interrupts: that they come, that they come back, and what they find in lazy mode.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hypercall::abi::xen::VIRQ_TIMER;
use hypercall::event::{Port, bind_ipi, bind_virq, send};
use hypercall::queue::Access;
use hypercall::sched::poll;
use hypercall::{Errno, Hypervisor as _};

use super::context::{Context, PAGE, READ_ONLY, in_table};
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::capability::{PC, is_here};
use crate::event::{self, Bound, Handler};
use crate::lock::Lock;
use crate::mm::{self, Current, Flags, MmError};
use crate::rank;
use crate::xen::HV;
use crate::{cpu, task, time, trap};

/// Interrupts taken.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Where the handlers of these tests work.
static PLACE: AtomicU64 = AtomicU64::new(0);
/// The port that `again` raises.
static PORT: AtomicU32 = AtomicU32::new(0);
static SEEN: Lock<Seen, rank::Noted> = Lock::new(Seen::NOTHING);

/// What a handler saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// Updates queued when it began.
    queued: usize,
    /// Page 0, which the interrupted context has queued to be read-only: writable in the table, and
    /// as read through the queue.
    page0: (bool, bool),
    /// Updates queued after it mapped page 3, for which nothing was queued.
    queued_after_other: usize,
    /// Page 3 is in the table at once, although in a lazy section of the handler's.
    other_mapped: bool,
    /// Updates queued after it wrote page 0, for which something was queued.
    queued_after_same: usize,
    /// Pages 0 and 1 in the table then: writable.
    pages: (bool, bool),
    /// Nothing of it failed.
    worked: bool,
}

impl Seen {
    const NOTHING: Seen = Seen {
        queued: 0,
        page0: (false, false),
        queued_after_other: 0,
        other_mapped: false,
        queued_after_same: 0,
        pages: (false, false),
        worked: false,
    };
}

/// A port, with its handler if it has one; closed when dropped. The last is the threads' timer, which
/// they have back then.
pub(super) struct Open(pub(super) Port, Option<Bound>, Option<task::Lent>);

impl Open {
    pub(super) fn ipi(handler: &'static dyn Handler) -> Result<Open, Trouble> {
        Open::new(bind_ipi(&HV, 0)?, handler)
    }

    pub(super) fn timer(handler: &'static dyn Handler) -> Result<Open, Trouble> {
        let lent = task::lend_timer();
        let port = match bind_virq(&HV, VIRQ_TIMER, 0) {
            Err(e) if e.errno == Errno::ENODEV => {
                return Err(Trouble::skip("this machine has no timer that interrupts"));
            }
            other => other?,
        };
        let mut open = Open::new(port, handler)?;
        open.2 = Some(lent);
        Ok(open)
    }

    /// A port that stays masked.
    pub(super) fn masked(port: Port) -> Open {
        Open(port, None, None)
    }

    #[inline(never)]
    pub(super) fn new(port: Port, handler: &'static dyn Handler) -> Result<Open, Trouble> {
        COUNT.store(0, Ordering::Relaxed);
        let mut open = Open::masked(port);
        open.1 = Some(event::bind(port, handler)?);
        Ok(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.1.is_none() {
            // A port that Xen does not close stays as it is; nothing handles it.
            let _ = event::close(self.0);
        }
    }
}

fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

pub(super) fn counting() {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

#[inline(never)]
fn now() -> Result<u64, Trouble> {
    time::monotonic().ok_or_else(|| match is_here(&PC) {
        true => Trouble::skip("this machine has no clock"),
        false => Trouble::error("no clock"),
    })
}

/// Nanoseconds after which what should have come is not waited for. Far more than a busy machine
/// keeps a processor waiting, which is nothing that a test may judge by.
const AGES: u64 = 20_000_000_000;

/// Waits for the first interrupt.
#[inline(never)]
fn wait() -> TestResult {
    let start = now()?;
    while count() == 0 {
        // It may have come since it was looked for.
        if now()? - start > AGES && count() == 0 {
            return Err(Trouble::fail("expected an interrupt, none in 20 seconds"));
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// An event sent to oneself is taken as soon as the hypercall returns; while upcalls are masked it
/// waits, and is taken as soon as they are not.
fn delivery(_: &mut Context) -> TestResult {
    let ipi = Open::ipi(&counting)?;
    send(&HV, ipi.0)?;
    expect_eq!(count(), 1, "interrupts after sending");
    mm::with(|_| {
        send(&HV, ipi.0)?;
        expect_eq!(count(), 1, "interrupts while masked");
        expect_eq!(event::is_pending(), true, "the upcall is pending");
        Ok::<_, Trouble>(())
    })?;
    expect_eq!(count(), 2, "interrupts after unmasking");
    Ok(())
}
selftest!("interrupt.delivery", delivery, needs EVERYWHERE);

/// An NMI comes whatever is masked, and what it interrupted goes on.
fn non_maskable(_: &mut Context) -> TestResult {
    let before = COUNT.load(Ordering::Relaxed);
    trap::observe(Some(|frame| {
        let is_one = frame.vector == trap::nmi::VECTOR;
        COUNT.fetch_add(is_one.into(), Ordering::Relaxed);
        is_one
    }));
    let was = HV.mask_upcalls();
    let sent = hypercall::vcpu::send_nmi(&HV, cpu::here().number());
    // It comes at the latest with the way back from another hypercall.
    let left = hypercall::sched::r#yield(&HV);
    HV.restore_upcalls(was);
    trap::observe(None);
    sent.and(left)?;
    expect_eq!(COUNT.load(Ordering::Relaxed), before + 1, "NMIs");
    Ok(())
}
selftest!("interrupt.nmi", non_maskable, needs HYPERCALLS);

fn again() {
    if COUNT.fetch_add(1, Ordering::Relaxed) < 9 {
        // Were it refused, the count would tell.
        let _ = send(&HV, Port(PORT.load(Ordering::Relaxed)));
    }
}

/// An event that is raised while its own handler runs is not lost: the handler raises it nine
/// times, and runs ten times. (A kernel that cleared the pending byte after looking for events
/// would lose one.)
fn not_lost(_: &mut Context) -> TestResult {
    let ipi = Open::ipi(&again)?;
    PORT.store(ipi.0.0, Ordering::Relaxed);
    send(&HV, ipi.0)?;
    expect_eq!(count(), 10, "interrupts");
    Ok(())
}
selftest!("interrupt.not_lost", not_lost, needs EVERYWHERE);

/// Lets time pass, without sleeping.
#[inline(never)]
fn pass(nanoseconds: u64) -> TestResult {
    let start = now()?;
    while now()? - start < nanoseconds {
        core::hint::spin_loop();
    }
    Ok(())
}

/// Sets the timer and waits for it: it comes not before its time.
#[inline(never)]
pub(super) fn one_shot(nanoseconds: u64) -> TestResult {
    let deadline = now()? + nanoseconds;
    hypercall::time::set_timer(&HV, deadline)?;
    wait()?;
    let late = now()?;
    expect_eq!(
        late >= deadline,
        true,
        "the timer's time {deadline} has come at {late}"
    );
    Ok(())
}

/// Xen starts every vCPU with a periodic timer of 100 Hz, and a PC's firmware leaves one of 18 Hz. It
/// is stopped: in 60 ms no event comes. One that is asked for comes once.
fn timer(_: &mut Context) -> TestResult {
    let _timer = Open::timer(&counting)?;
    pass(60_000_000)?;
    expect_eq!(count(), 0, "interrupts in 60 ms without a timer");
    one_shot(2_000_000)?;
    pass(20_000_000)?;
    expect_eq!(count(), 1, "interrupts of a one-shot timer");
    Ok(())
}
selftest!("interrupt.timer", timer, needs EVERYWHERE);

/// A timer for far off, which what counts the time may have to come to in several steps, comes once
/// as well.
fn timer_far(_: &mut Context) -> TestResult {
    let _timer = Open::timer(&counting)?;
    one_shot(150_000_000)?;
    expect_eq!(count(), 1, "interrupts of a one-shot timer");
    Ok(())
}
selftest!("interrupt.timer.far", timer_far, needs EVERYWHERE);

/// Sets a timer, and does `change` before its time. On a busy machine it may be too late for that:
/// then it is tried again.
fn before_its_time(change: impl Fn() -> TestResult) -> TestResult {
    const SOON: u64 = 10_000_000;
    for _ in 0..20 {
        COUNT.store(0, Ordering::Relaxed);
        let due = now()? + SOON;
        hypercall::time::set_timer(&HV, due)?;
        change()?;
        if now()? < due {
            return Ok(());
        }
        hypercall::time::set_timer(&HV, 0)?;
        pass(SOON)?;
    }
    Err(Trouble::skip("the machine is too busy"))
}

/// A timer that is set again forgets its old time, and one that is stopped never comes.
fn timer_reset(_: &mut Context) -> TestResult {
    const LATER: u64 = 40_000_000;
    let _timer = Open::timer(&counting)?;
    let due = Cell::new(0);
    before_its_time(|| {
        due.set(now()? + LATER);
        Ok(hypercall::time::set_timer(&HV, due.get())?)
    })?;
    wait()?;
    expect_eq!(now()? >= due.get(), true, "the later time has come");
    expect_eq!(count(), 1, "interrupts of a timer that was set again");
    before_its_time(|| Ok(hypercall::time::set_timer(&HV, 0)?))?;
    pass(LATER)?;
    expect_eq!(count(), 0, "interrupts of a timer that was stopped");
    Ok(())
}
selftest!("interrupt.timer.reset", timer_reset, needs EVERYWHERE);

/// Polls a port until a time has come. What sleeps comes back then, or once or twice before for the
/// sake of another port; what does not sleep comes back at once, however far the time is.
///
/// Xen keeps the time of a sleep by the clock of the pCPU where the timer was armed, which need not
/// be the one that the vCPU runs on. Where the pCPUs' clocks are apart (by 5 to 20 ms in a machine
/// that QEMU emulates with a thread for each), a sleep seems too short by as much, so that the times
/// grow until the difference is small among them.
#[inline(never)]
fn sleep(port: &Open, nanoseconds: u64) -> TestResult {
    let mut longest = 0;
    for time in [1, 4, 16, 64].map(|times| times * nanoseconds) {
        let deadline = now()? + time;
        for _ in 0..3 {
            let start = now()?;
            poll(&HV, &[port.0.0], deadline)?;
            longest = now()?.saturating_sub(start);
            if longest >= time / 2 {
                return Ok(());
            }
        }
    }
    expect_eq!(
        longest >= 32 * nanoseconds,
        true,
        "a poll of {} ns ended after {longest} ns",
        64 * nanoseconds
    );
    Ok(())
}

/// Polls a port that is raised, or will be, long before the sleep would be over.
#[inline(never)]
pub(super) fn sleep_until_raised(port: &Open) -> TestResult {
    let start = now()?;
    poll(&HV, &[port.0.0], start + AGES)?;
    expect_eq!(now()? - start < AGES, true, "the port ended the sleep");
    expect_eq!(event::is_raised(port.0), true, "the port is raised");
    Ok(())
}

/// Polling sleeps until the time that was named, with upcalls open and masked, and no longer than
/// until the port is raised.
fn polling(_: &mut Context) -> TestResult {
    // Never opened, so that it stays masked.
    let port = Open::masked(bind_ipi(&HV, 0)?);
    sleep(&port, 20_000_000)?;
    mm::with(|_| sleep(&port, 5_000_000))?;
    send(&HV, port.0)?;
    sleep_until_raised(&port)
}
selftest!("interrupt.poll", polling, needs EVERYWHERE);

/// A sleep with upcalls masked is ended by a port that has a handler, too; the handler does not run
/// before upcalls are unmasked.
fn polling_masked(_: &mut Context) -> TestResult {
    let timer = Open::timer(&counting)?;
    mm::with(|_| {
        let due = now()? + 3_000_000;
        hypercall::time::set_timer(&HV, due)?;
        sleep_until_raised(&timer)?;
        expect_eq!(now()? >= due, true, "asleep until the timer's time");
        expect_eq!(count(), 0, "interrupts while masked");
        Ok::<_, Trouble>(())
    })?;
    expect_eq!(count(), 1, "interrupts after unmasking");
    Ok(())
}
selftest!("interrupt.poll.masked", polling_masked, needs EVERYWHERE);

/// The entry stub gives back every register that a function may change, to code that has no reason
/// to expect a call: interrupted by a timer, at an instruction of its own choosing.
fn registers(_: &mut Context) -> TestResult {
    let _timer = Open::timer(&counting)?;
    for round in 0..8 {
        COUNT.store(0, Ordering::Relaxed);
        hypercall::time::set_timer(&HV, now()? + 200_000)?;
        let mut values: [u64; 9] = core::array::from_fn(|i| 0x1111_1111_1111_1111 * (i as u64 + 1));
        let expected = values;
        let [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11] = &mut values;
        let left: u64;
        // SAFETY: reads a counter in memory until it is not 0, and changes what it declares.
        unsafe {
            core::arch::asm!(
                "2: cmp dword ptr [{count}], 0",
                "jne 3f",
                "dec {left}",
                "jnz 2b",
                "3:",
                count = in(reg) COUNT.as_ptr(),
                left = inout(reg) 4_000_000_000_u64 => left,
                inout("rax") *rax, inout("rcx") *rcx, inout("rdx") *rdx,
                inout("rsi") *rsi, inout("rdi") *rdi,
                inout("r8") *r8, inout("r9") *r9, inout("r10") *r10, inout("r11") *r11,
            );
        }
        expect_eq!(left != 0, true, "the timer's interrupt came, round {round}");
        expect_eq!(
            values,
            expected,
            "rax rcx rdx rsi rdi r8-r11, round {round}"
        );
    }
    Ok(())
}
selftest!("interrupt.registers", registers, needs EVERYWHERE);

fn writable(va: u64) -> Result<bool, MmError> {
    let entry = mm::with(|tables| in_table(tables, va))?;
    Ok(entry & Flags::WRITABLE.bits() != 0)
}

fn set_writable(va: u64, writable: bool) -> Result<(), MmError> {
    mm::with(|tables| {
        let slot = tables.pte_slot(va)?;
        let old = tables.get(slot);
        let flags = if writable { Flags::DATA } else { Flags::CONST };
        // SAFETY: the page is the test's.
        unsafe { tables.set_pte(slot.place(), va, old.with_flags(flags)) }
    })
}

fn queued() -> usize {
    Current.with(|mmu| mmu.batch().len())
}

/// A handler that writes page tables: maps page 3, for which nothing is queued, and gives page 0
/// the right to write, which the interrupted context has queued to take.
fn intrude() {
    let work = || -> Result<Seen, MmError> {
        let va = PLACE.load(Ordering::Relaxed);
        let mut seen = Seen {
            queued: queued(),
            ..Seen::NOTHING
        };
        let read = mm::with(|tables| tables.ptep_get(va))?;
        seen.page0 = (writable(va)?, read.flags().contains(Flags::WRITABLE));
        let section = mm::lazy()?;
        mm::with(|tables| {
            let frame = tables.ptep_get(va)?;
            let slot = tables.pte_slot(va + 3 * PAGE)?;
            // SAFETY: the pages and the frame are the test's.
            unsafe { tables.set_pte(slot.place(), va + 3 * PAGE, frame.with_flags(Flags::CONST)) }
        })?;
        seen.other_mapped = mm::with(|tables| in_table(tables, va + 3 * PAGE))? & 1 != 0;
        seen.queued_after_other = queued();
        section.end()?;
        set_writable(va, true)?;
        seen.queued_after_same = queued();
        seen.pages = (writable(va)?, writable(va + PAGE)?);
        seen.worked = true;
        Ok(seen)
    };
    let seen = work().unwrap_or(Seen::NOTHING);
    *SEEN.lock() = seen;
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// What the handler must have seen: what was queued, unsent, and as if it were in force; its own
/// write to another slot at once, the queue sent before it; and its write to the slot that had been
/// queued after that, so that the later write is the one that lasts.
const EXPECTED: Seen = Seen {
    queued: 2,
    page0: (true, false),
    queued_after_other: 0,
    other_mapped: true,
    queued_after_same: 0,
    pages: (true, false),
    worked: true,
};

/// An interrupt in the middle of a lazy section, its handler writing to the same tables: raised by
/// `raise`.
fn in_section(context: &mut Context, raise: impl FnOnce() -> TestResult) -> TestResult {
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        context.expect_writes(va, 3, Ok(()), "before")?;
        PLACE.store(va, Ordering::Relaxed);
        let section = mm::lazy()?;
        let inner = mm::lazy()?;
        set_writable(va, false)?;
        set_writable(va + PAGE, false)?;
        raise()?;
        let seen = mm::with(|_| *SEEN.lock());
        expect_eq!(seen, EXPECTED, "seen by the handler");
        // Back in the section, as lazy as before: writable by the handler's word, until told
        // otherwise.
        context.expect_writes(va, 1, Ok(()), "after the handler")?;
        context.expect_writes(va + PAGE, 1, READ_ONLY, "after the handler")?;
        set_writable(va, false)?;
        expect_eq!(queued(), 1, "queued after the handler");
        expect_eq!(writable(va)?, true, "page 0 in the table");
        inner.end()?;
        expect_eq!(queued(), 1, "queued after the inner section");
        section.end()?;
        context.expect_writes(va, 2, READ_ONLY, "after the section")?;
        context.expect_writes(va + 2 * PAGE, 1, Ok(()), "on a page nobody changed")?;
        let mode = Current.with(|mmu| *mmu.lazy());
        expect_eq!(mode, hypercall::LazyMmu::new(), "lazy mode at the end");
        Ok(())
    })
}

/// The interrupt raised by the interrupted context itself, at a known place.
fn lazy_ipi(context: &mut Context) -> TestResult {
    let ipi = Open::ipi(&intrude)?;
    in_section(context, || {
        send(&HV, ipi.0)?;
        expect_eq!(count(), 1, "interrupts");
        Ok(())
    })
}
selftest!("interrupt.lazy.ipi", lazy_ipi, &[3], needs EVERYWHERE);

/// The interrupt by a timer, whenever it comes.
fn lazy_timer(context: &mut Context) -> TestResult {
    let _timer = Open::timer(&intrude)?;
    in_section(context, || {
        hypercall::time::set_timer(&HV, now()? + 300_000)?;
        wait()
    })
}
selftest!("interrupt.lazy.timer", lazy_timer, &[3], needs EVERYWHERE);

/// A handler that looks at the first and the last page of a batch.
fn look() {
    let va = PLACE.load(Ordering::Relaxed);
    let last = va + 511 * PAGE;
    if let (Ok(first), Ok(last)) = (writable(va), writable(last)) {
        *SEEN.lock() = Seen {
            pages: (first, last),
            worked: true,
            ..Seen::NOTHING
        };
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// Xen looks for events between the requests of a list, and would run a handler in the middle of a
/// batch, where half of it is in force. Upcalls are masked over a flush: an event that is pending
/// when it begins is delivered when it is over, with all 512 updates in force.
fn flush_pending(context: &mut Context) -> TestResult {
    let ipi = Open::ipi(&look)?;
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        PLACE.store(va, Ordering::Relaxed);
        let section = mm::lazy()?;
        for i in 0..512 {
            set_writable(va + i * PAGE, false)?;
        }
        mm::with(|tables| {
            send(&HV, ipi.0)?;
            expect_eq!(event::is_pending(), true, "an upcall is pending");
            tables.flush()?;
            expect_eq!(count(), 0, "interrupts during the flush");
            expect_eq!(
                in_table(tables, va + 511 * PAGE)? & 2,
                0,
                "W of the last page"
            );
            Ok::<_, Trouble>(())
        })?;
        expect_eq!(count(), 1, "interrupts after the flush");
        section.end()?;
        let seen = mm::with(|_| *SEEN.lock());
        expect_eq!(
            seen.pages,
            (false, false),
            "W of the first and the last page as the handler saw them"
        );
        Ok(())
    })
}
selftest!("interrupt.flush.pending", flush_pending, &[512], needs EVERYWHERE);

/// The same with events that come during the flush, from a timer, round after round: whenever it
/// strikes, the handler sees all of a batch or nothing.
fn flush_timer(context: &mut Context) -> TestResult {
    let _timer = Open::timer(&look)?;
    context.with_frames(|context, pile| {
        let va = context.area(0);
        context.map(va, pile, Flags::DATA)?;
        PLACE.store(va, Ordering::Relaxed);
        let mut inside = 0;
        for round in 0..32 {
            COUNT.store(0, Ordering::Relaxed);
            let section = mm::lazy()?;
            for i in 0..512 {
                set_writable(va + i * PAGE, round % 2 == 1)?;
            }
            let came = mm::with(|tables| {
                hypercall::time::set_timer(&HV, now()? + 20_000 + round * 5_000)?;
                tables.flush()?;
                Ok::<_, Trouble>(event::is_pending())
            })?;
            inside += u32::from(came);
            wait()?;
            let (first, last) = mm::with(|_| SEEN.lock().pages);
            expect_eq!(
                first,
                last,
                "W of the first page as the handler saw it, round {round}"
            );
            section.end()?;
        }
        context.note(format_args!("({inside} of 32 came during the flush)"));
        Ok(())
    })
}
selftest!("interrupt.flush.timer", flush_timer, &[512], needs EVERYWHERE);
