//! Threads of the kernel: each has a stack of its own, and runs until it waits.
//!
//! ```text
//! let handle = task::spawn("name", move || work())?;      // runs it, on some vCPU
//! let value = handle.join();                              // waits for its end
//! let item = task::wait_until(|waker| queue.take_or_keep(waker));
//! ```
//!
//! What was booted is a thread as well, and so is what each other vCPU does by itself. Who waits parks,
//! and gives its waker to what it waits for (`wait`); a thread that is woken is queued (`run`), and a
//! vCPU without threads sleeps in Xen. Nothing here has a fixed number of places.
//!
//! A thread may give its vCPU away where it holds no lock, and in a lazy section, which goes on with it.
//! Where it goes on it may be on another vCPU. Handlers never do; they wake.

mod call;
mod fifo;
mod mailbox;
mod run;
mod run_queue;
mod state;
mod switch;
mod thread;
mod timer;
mod vcpu;
mod wait;
mod words;

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;

use heapless::Vec as Few;
use hypercall::abi::xen::VIRQ_TIMER;
use hypercall::event::Port;
use hypercall::{Errno, Hypervisor};
use marks::init;

pub(crate) use call::{NotCalled, call, call_all, post};
pub(crate) use run::{yield_if_needed, yield_now};
pub(crate) use thread::{
    Hooks, JoinHandle, Spawn, SpawnError, Thread, Told, current, exit, running, spawn, tell,
};
pub(crate) use timer::{Timer, wake_at};
pub(crate) use vcpu::are_here;
pub(crate) use wait::{park, park_until, sleep_until, wait_until, wait_until_time, waker};

use crate::event::{self, BindError};
use crate::init::initcall;
use crate::options::Options;
use crate::refused::Refused;
use crate::selection::Selection;
use crate::xen::HV;
use vcpu::Vcpu;

/// Ports that a thread can wait for at once; for more it keeps its vCPU meanwhile.
const WATCHED: usize = 4;

/// Why a vCPU does not run threads.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// The heap has no room.
    NoMemory,
    /// There is no thread for it to idle in.
    Spawn(SpawnError),
    /// A port that it needs.
    Port(BindError),
}

impl fmt::Display for NotBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotBegun::NoMemory => f.write_str("the heap has no room for its threads"),
            NotBegun::Spawn(e) => e.fmt(f),
            NotBegun::Port(e) => e.fmt(f),
        }
    }
}

impl From<TryReserveError> for NotBegun {
    fn from(_: TryReserveError) -> NotBegun {
        NotBegun::NoMemory
    }
}

impl From<SpawnError> for NotBegun {
    fn from(error: SpawnError) -> NotBegun {
        NotBegun::Spawn(error)
    }
}

impl From<BindError> for NotBegun {
    fn from(error: BindError) -> NotBegun {
        NotBegun::Port(error)
    }
}

/// What the boot does becomes a thread.
#[init]
fn begin(options: &Options<'_>) -> Result<(), Refused> {
    if options.rules != Selection::None || options.differential.is_some() {
        log::info!(target: "task", "no threads: the rules have the timer and the ports of all vCPUs");
        return Ok(());
    }
    let vcpu = Vcpu::boot();
    let begun = bind(vcpu).and_then(|()| begin_on(vcpu, "main"));
    match begun {
        Ok(()) => {
            event::wait_by(wait_for_ports);
            event::come_again_by(|| vcpu::here().timers.look_soon());
        }
        Err(e) => panic!("threads: {e}"),
    }
    Ok(())
}
initcall!("threads", Service, after ["events"], needs EVERYWHERE, begin);

/// What a vCPU other than the boot vCPU needs to run threads.
pub(crate) struct Room(&'static Vcpu);

/// Makes what vCPU `number`, which does not run yet, needs to run threads.
///
/// # Errors
/// See [`NotBegun`].
pub(crate) fn make_room(number: u32) -> Result<Room, NotBegun> {
    let mut vcpu = Vec::new();
    vcpu.try_reserve_exact(1)?;
    vcpu.push(Vcpu::new(number));
    Ok(Room(&vcpu.leak()[0]))
}

impl Room {
    /// Binds the ports of the vCPU, as in a restored domain once more.
    ///
    /// # Errors
    /// [`NotBegun::Port`].
    pub(crate) fn bind(&self) -> Result<(), NotBegun> {
        bind(self.0)
    }

    /// Begins to run threads on the vCPU that calls, which is this one; what it does so far becomes one
    /// that stays here.
    ///
    /// # Errors
    /// See [`NotBegun`].
    pub(crate) fn begin(&self, name: &str) -> Result<(), NotBegun> {
        begin_on(self.0, name)?;
        self.0.list();
        Ok(())
    }

    /// The vCPU, which calls with upcalls masked, is about to go down: nobody calls anything there any
    /// more. If it goes `for_good`, as far as threads can know, others get those that wait for it.
    pub(crate) fn leave(&self, for_good: bool) {
        if for_good {
            self.0.set_open(false);
            run::hand_over(self.0);
        }
        call::close(self.0);
    }

    /// Goes on with threads on the vCPU, which calls and was away.
    pub(crate) fn go_on(&self) {
        self.0.set_open(true);
        self.0.letters.set_open(true);
        self.0.timers.set_anew();
    }
}

fn begin_on(vcpu: &'static Vcpu, name: &str) -> Result<(), NotBegun> {
    let idle = Thread::idle("idle", vcpu, run::idle)?;
    let main = Thread::running(name, vcpu)?;
    vcpu.begin_here(main, idle);
    Ok(())
}

/// Binds the port that wakes a vCPU, and that of its timer. Where a machine has no timer that interrupts,
/// a vCPU on which somebody waits for a time looks at the clock instead of sleeping.
fn bind(vcpu: &'static Vcpu) -> Result<(), NotBegun> {
    let number = vcpu.number();
    let refused = |e| NotBegun::Port(BindError::Refused(e));
    let kick = hypercall::event::bind_ipi(&HV, number).map_err(refused)?;
    let _ = event::make_urgent(kick).map_err(refused)?;
    core::mem::forget(event::bind_on(number, kick, &kicked)?);
    vcpu.kick.store(kick.0, Ordering::Release);
    bind_timer(vcpu)
}

/// Binds the port of a vCPU's timer.
fn bind_timer(vcpu: &'static Vcpu) -> Result<(), NotBegun> {
    match hypercall::event::bind_virq(&HV, VIRQ_TIMER, vcpu.number()) {
        Ok(port) => {
            event::make_urgent(port).map_err(|e| NotBegun::Port(BindError::Refused(e)))?;
            core::mem::forget(event::bind_on(vcpu.number(), port, &timer_came)?);
            vcpu.timer.store(port.0, Ordering::Relaxed);
            vcpu.timers.set_lent(false);
            Ok(())
        }
        Err(e) if e.errno == Errno::ENODEV => Ok(()),
        Err(e) => Err(NotBegun::Port(BindError::Refused(e))),
    }
}

/// The port that wakes a vCPU was raised: it looks for threads as this returns.
fn kicked() {
    if are_here() {
        call::serve();
    }
}

/// The time that the timer of this vCPU was set to has come.
fn timer_came() {
    if are_here() {
        let here = vcpu::here();
        here.timers.serve(here);
    }
}

/// Binds the boot vCPU's ports anew: in a restored domain none is.
///
/// # Errors
/// [`NotBegun::Port`].
pub(crate) fn begin_anew() -> Result<(), NotBegun> {
    if !are_here() {
        return Ok(());
    }
    bind(Vcpu::boot())?;
    Vcpu::boot().timers.set_anew();
    Ok(())
}

/// The boot vCPU's timer, for somebody else to use. Dropped, it is the threads' again; until then nobody
/// there is woken at a time.
#[must_use = "dropped, it is given back"]
pub(crate) struct Lent(());

/// Lends the boot vCPU's timer, whose port is closed meanwhile.
pub(crate) fn lend_timer() -> Lent {
    let timers = &Vcpu::boot().timers;
    if !timers.is_lent() {
        timers.set_lent(true);
        // A port that Xen does not close stays the timer's, which whoever binds it is told.
        let _ = event::close(Port(Vcpu::boot().timer.load(Ordering::Relaxed)));
        // What was asked for is no time of the borrower's. Refused, it comes once too often.
        let _ = hypercall::time::set_timer(&HV, 0);
    }
    Lent(())
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(e) = bind_timer(Vcpu::boot()) {
            log::warn!(target: "task", "the timer that was lent: {e}");
        }
        Vcpu::boot().timers.set_anew();
    }
}

/// Waits for ports as a thread does; false where it cannot: not yet, in a handler, or with a lock held.
fn wait_for_ports(ports: &[Port], deadline: u64) -> bool {
    let masked = HV.mask_upcalls();
    HV.restore_upcalls(masked);
    if masked || !are_here() || vcpu::here().timers.is_lent() {
        return false;
    }
    let waker = waker();
    let mut watches = Few::<_, WATCHED>::new();
    for port in ports {
        let Ok(watch) = event::watch(*port, &waker) else {
            return false;
        };
        if watches.push(watch).is_err() {
            return false;
        }
    }
    match deadline {
        0 => park(),
        _ => park_until(deadline),
    }
    true
}
