//! What a handler of events may do, and what it cannot do to the others.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hypercall::Errno;
use hypercall::event::{Port, bind_ipi, send};

use super::alloc::vec::Vec;
use super::context::Context;
use super::interrupt::Open;
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::event::{self, BindError, Handler, MOST};
use crate::lock::Lock;
use crate::rank;
use crate::xen::HV;
use crate::{console, cpu, mm};

/// Handlers that ran.
static HITS: AtomicU32 = AtomicU32::new(0);

fn print() {
    HITS.fetch_add(1, Ordering::Relaxed);
    console::print(format_args!("(a handler prints) "));
}

/// Raises a port while it is printed.
struct Raises<'a>(&'a Open);

impl fmt::Display for Raises<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        send(&HV, self.0.0).map_err(|_| fmt::Error)?;
        f.write_str("printed in one piece) ")
    }
}

/// A handler prints. One that is called for while the interrupted context prints does so when that is
/// over: a line comes in one piece, and nobody waits for the console's lock.
fn handler_prints(_: &mut Context) -> TestResult {
    HITS.store(0, Ordering::Relaxed);
    let ipi = Open::ipi(&print)?;
    console::print(format_args!(
        "(while it is raised, this is {}",
        Raises(&ipi)
    ));
    expect_eq!(HITS.load(Ordering::Relaxed), 1, "handlers that printed");
    Ok(())
}
selftest!("interrupt.print", handler_prints, needs EVERYWHERE);

/// While a lock is held no handler runs that could ask for it: it runs when the lock is free.
fn handler_locks(_: &mut Context) -> TestResult {
    static LOCK: Lock<u32, rank::Noted> = Lock::new(0);
    fn lock() {
        *LOCK.lock() += 1;
    }
    *LOCK.lock() = 0;
    let ipi = Open::ipi(&lock)?;
    {
        let held = LOCK.lock();
        send(&HV, ipi.0)?;
        expect_eq!(*held, 0, "handlers while the lock is held");
    }
    expect_eq!(*LOCK.lock(), 1, "handlers when it is free");
    Ok(())
}
selftest!("interrupt.lock", handler_locks, needs EVERYWHERE);

/// Ports that storm: each handler raises one of them, its own or the other's.
static PORTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// Calls of each handler.
static CALLS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// Whether they still raise.
static STORM: AtomicBool = AtomicBool::new(false);
/// Calls of the first handler when the innocent one ran.
static BEFORE: AtomicU32 = AtomicU32::new(0);

fn raise(own: usize, other: usize) {
    CALLS[own].fetch_add(1, Ordering::Relaxed);
    if STORM.load(Ordering::Relaxed) {
        // Were it refused, the counts would tell.
        let _ = send(&HV, Port(PORTS[other].load(Ordering::Relaxed)));
    }
}

fn innocent() {
    HITS.fetch_add(1, Ordering::Relaxed);
    BEFORE.store(CALLS[0].load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Begins a storm on these ports.
fn begin(ports: [&Open; 2]) {
    HITS.store(0, Ordering::Relaxed);
    for (i, port) in ports.into_iter().enumerate() {
        PORTS[i].store(port.0.0, Ordering::Relaxed);
        CALLS[i].store(0, Ordering::Relaxed);
    }
    STORM.store(true, Ordering::Relaxed);
}

fn calls(of: usize) -> u32 {
    CALLS[of].load(Ordering::Relaxed)
}

/// Upcalls of this vCPU so far. Each lets on what was held back for long enough, and how long a test takes
/// is the host's to decide: so calls are bounded by these.
fn upcalls() -> u64 {
    cpu::here().upcalls.load(Ordering::Relaxed)
}

/// A port that its own handler raises again, for ever: the interrupted context goes on after a bounded
/// number of calls, with the port held back and not forgotten. Another port that was raised at the
/// same time is served before the first is served again, and is served later as well.
fn own(_: &mut Context) -> TestResult {
    let storm = Open::ipi(&|| raise(0, 0))?;
    let other = Open::ipi(&innocent)?;
    let first = upcalls();
    begin([&storm, &storm]);
    mm::with(|_| send(&HV, storm.0).and_then(|()| send(&HV, other.0)))?;
    let so_far = calls(0);
    let bounded = u64::from(so_far / MOST) <= upcalls() - first;
    expect_eq!(
        bounded && so_far > 0,
        true,
        "{so_far} calls of the storm's handler"
    );
    expect_eq!(
        so_far % MOST,
        0,
        "calls of the storm's handler in an upcall, beyond the most"
    );
    expect_eq!(HITS.load(Ordering::Relaxed), 1, "calls of the other");
    let before = BEFORE.load(Ordering::Relaxed);
    expect_eq!(before <= 1, true, "{before} calls of the storm's before");
    expect_eq!(event::is_raised(storm.0), true, "the event is kept");
    send(&HV, other.0)?;
    expect_eq!(HITS.load(Ordering::Relaxed), 2, "calls of the other, later");
    let so_far = calls(0);
    event::idle();
    expect_eq!(calls(0) >= so_far + MOST, true, "calls when there is time");
    STORM.store(false, Ordering::Relaxed);
    event::idle();
    expect_eq!(calls(0) % MOST, 1, "calls when the storm is over");
    send(&HV, storm.0)?;
    expect_eq!(calls(0) % MOST, 2, "calls as before");
    Ok(())
}
selftest!("interrupt.storm.own", own, needs EVERYWHERE);

/// Two ports whose handlers raise each other: neither is raised while its own handler runs.
fn mutual(_: &mut Context) -> TestResult {
    let ports = [Open::ipi(&|| raise(0, 1))?, Open::ipi(&|| raise(1, 0))?];
    let first = upcalls();
    begin([&ports[0], &ports[1]]);
    send(&HV, ports[0].0)?;
    let sum = calls(0) + calls(1);
    let bounded = u64::from(sum) <= u64::from(2 * MOST) * (upcalls() - first);
    expect_eq!(bounded && sum >= MOST, true, "{sum} calls of both");
    STORM.store(false, Ordering::Relaxed);
    event::idle();
    expect_eq!(
        ports.iter().any(|port| event::is_raised(port.0)),
        false,
        "something is raised when the storm is over"
    );
    Ok(())
}
selftest!("interrupt.storm.mutual", mutual, needs EVERYWHERE);

/// A handler that counts its calls, and knows the port of the last one.
struct Counter {
    calls: AtomicU32,
    port: AtomicU32,
}

impl Handler for Counter {
    fn raised(&self, port: Port) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.port.store(port.0, Ordering::Relaxed);
    }
}

/// More ports than a word of the ABI's bits has.
static COUNTERS: [Counter; 100] = [const {
    Counter {
        calls: AtomicU32::new(0),
        port: AtomicU32::new(0),
    }
}; 100];

/// Many ports at once, each with a handler of its own: every handler is called for its port alone. A
/// PC's event channels without Xen are fewer: there all that can be had are taken.
fn many(context: &mut Context) -> TestResult {
    let mut ports = Vec::new();
    for counter in &COUNTERS {
        let port = match bind_ipi(&HV, 0) {
            Err(e) if e.errno == Errno::ENOSPC => break,
            other => other?,
        };
        let port = Open::new(port, counter)?;
        counter.calls.store(0, Ordering::Relaxed);
        if ports.try_reserve(1).is_err() {
            return Err(Trouble::error("no memory"));
        }
        ports.push(port);
    }
    let bound = ports.len();
    expect_eq!(bound > 32, true, "{bound} ports are many");
    for (i, port) in ports.iter().enumerate() {
        for _ in 0..=i % 3 {
            send(&HV, port.0)?;
        }
    }
    for (i, (port, counter)) in ports.iter().zip(&COUNTERS).enumerate() {
        let calls = counter.calls.load(Ordering::Relaxed);
        expect_eq!(calls, i as u32 % 3 + 1, "calls of handler {i}");
        let last = counter.port.load(Ordering::Relaxed);
        expect_eq!(last, port.0.0, "the port of handler {i}");
    }
    let first = &ports[0];
    let taken = event::bind(first.0, &COUNTERS[1]).err();
    expect_eq!(
        matches!(taken, Some(BindError::Taken)),
        true,
        "a second handler of one port is refused"
    );
    drop(ports);
    context.note(format_args!("({bound} ports)"));
    Ok(())
}
selftest!("interrupt.many", many, needs EVERYWHERE);
