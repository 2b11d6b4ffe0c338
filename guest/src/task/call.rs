//! Calls on other vCPUs: a function is left in the vCPU's mailbox, which a port of its own has it look
//! into, wherever it is, but for where it masks upcalls; so it is called soon, as a handler is.
//!
//! Who waits for a call ([`call`], [`call_all`]) parks, or where upcalls are masked does meanwhile what
//! others call for on its vCPU: so no two wait for each other. It holds no lock, for what it calls may take one.
//! A look does what was there when it began: others are served in between, however many come.

extern crate alloc;

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Waker;

use hypercall::Hypervisor;
use hypercall::queue::Access;

use super::mailbox::NotLeft;
use super::vcpu::{self, Vcpu};
use super::wait;
use crate::heap;
use crate::mm::{self, Current};
use crate::xen::HV;

/// A function that is called, and how many calls are not over yet.
#[derive(Clone, Copy)]
pub(super) struct Waited {
    run: &'static (dyn Fn() + Sync),
    left: &'static AtomicUsize,
    /// Wakes who waits, if that is a thread which has parked.
    waker: Option<&'static Waker>,
}

/// What is to be called.
pub(super) enum Letter {
    /// Somebody waits for it.
    Waited(Waited),
    /// Nobody does.
    Posted(Box<dyn FnOnce() + Send>),
}

/// Why a function is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotCalled {
    /// The vCPU of this number does not run.
    NotRunning(u32),
    /// The heap has no room for the call.
    NoMemory,
}

impl fmt::Display for NotCalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotCalled::NotRunning(number) => write!(f, "vCPU {number} does not run"),
            NotCalled::NoMemory => f.write_str("the heap has no room for a call on a vCPU"),
        }
    }
}

impl core::error::Error for NotCalled {}

impl Letter {
    fn open(self) {
        match self {
            Letter::Waited(Waited { run, left, waker }) => {
                run();
                let waker = waker.cloned();
                // Nothing of it is there any more afterwards.
                left.fetch_sub(1, Ordering::Release);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Letter::Posted(run) => run(),
        }
    }
}

/// Leaves a letter for a vCPU.
fn leave(vcpu: &Vcpu, letter: Letter) -> Result<(), NotCalled> {
    match vcpu.letters.leave(letter) {
        Ok(true) => vcpu.kick(),
        Ok(false) => {}
        Err(NotLeft::Closed) => return Err(NotCalled::NotRunning(vcpu.number())),
        Err(NotLeft::NoMemory) => return Err(NotCalled::NoMemory),
    }
    Ok(())
}

/// The vCPU of a number, if it has ever run.
fn find(number: u32) -> Result<&'static Vcpu, NotCalled> {
    let found = vcpu::all().find(|vcpu| vcpu.number() == number);
    found.ok_or(NotCalled::NotRunning(number))
}

/// Has a vCPU call `run`, as a handler, and waits until it has. It may be the one that calls this.
///
/// # Errors
/// The vCPU does not run, or there is no memory for the call.
pub(crate) fn call(number: u32, run: &(dyn Fn() + Sync)) -> Result<(), NotCalled> {
    let vcpu = find(number)?;
    waiting(run, |waited| {
        leave(vcpu, Letter::Waited(waited)).map(|()| 1)
    })
}

/// Has every vCPU that runs call `run`, as a handler, this one too, and waits until all have.
///
/// # Errors
/// There is no memory for a call; then some may have called it.
pub(crate) fn call_all(run: &(dyn Fn() + Sync)) -> Result<(), NotCalled> {
    waiting(run, |waited| {
        let mut calls = 0;
        for vcpu in vcpu::all() {
            match leave(vcpu, Letter::Waited(waited)) {
                Ok(()) => calls += 1,
                // It went down.
                Err(NotCalled::NotRunning(_)) => {}
                Err(e) => {
                    wait(waited, calls);
                    return Err(e);
                }
            }
        }
        Ok(calls)
    })
}

/// Has a vCPU call `run` some time soon, as a handler, and does not wait.
///
/// # Errors
/// The vCPU does not run, or there is no memory for the call.
pub(crate) fn post<F: FnOnce() + Send + 'static>(number: u32, run: F) -> Result<(), NotCalled> {
    let vcpu = find(number)?;
    // So that the box is not asked for in vain.
    if !heap::grow_to(size_of::<F>() + 64) {
        return Err(NotCalled::NoMemory);
    }
    leave(vcpu, Letter::Posted(Box::new(run)))
}

/// Has `ask` leave letters about `run`, and waits for as many calls as it says.
fn waiting(
    run: &(dyn Fn() + Sync),
    ask: impl FnOnce(Waited) -> Result<usize, NotCalled>,
) -> Result<(), NotCalled> {
    // Letters count down from here, and what was left of it is how many were too many.
    let left = AtomicUsize::new(MANY);
    let masked = HV.mask_upcalls();
    HV.restore_upcalls(masked);
    let waker = (!masked).then(wait::waker);
    // SAFETY: only lifetimes change. Nobody has any of the references any more when this returns: every
    // letter that was left was taken and is over, and what is done last with all is to count that.
    let waited = unsafe {
        Waited {
            run: core::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(run),
            left: core::mem::transmute::<&AtomicUsize, &'static AtomicUsize>(&left),
            waker: core::mem::transmute::<Option<&Waker>, Option<&'static Waker>>(waker.as_ref()),
        }
    };
    let calls = ask(waited)?;
    wait(waited, calls);
    Ok(())
}

/// More than there can be calls.
const MANY: usize = usize::MAX / 2;

/// Waits until so many calls are over, and does what others call for meanwhile.
fn wait(waited: Waited, calls: usize) {
    // They may wait for page tables that this vCPU keeps.
    mm::let_go();
    while waited.left.load(Ordering::Acquire) != MANY - calls {
        if waited.waker.is_some() {
            wait::park();
        } else if serve_here() == 0 {
            // Refused, it is asked again.
            let _ = hypercall::sched::r#yield(&HV);
        }
    }
}

/// Does what was left for this vCPU, as a handler would; how much that was.
fn serve_here() -> usize {
    // Who waits looks again and again, and page tables are for all.
    if vcpu::here().letters.len() == 0 {
        return 0;
    }
    let masked = HV.mask_upcalls();
    // Handlers do not nest so deep that they cannot be counted.
    let _ = Current.with(|mmu| mmu.enter_irq());
    let served = serve();
    let _ = Current.with(|mmu| mmu.leave_irq());
    HV.restore_upcalls(masked);
    served
}

/// Does what was left for this vCPU when it began; how much that was. It is called by a handler, or as
/// one.
pub(super) fn serve() -> usize {
    let here = vcpu::here();
    let served = here.letters.len();
    for _ in 0..served {
        if let Some(letter) = here.letters.take() {
            letter.open();
        }
    }
    if here.letters.len() != 0 {
        // Who left them found others there, and told nobody.
        here.kick();
    }
    served
}

/// Closes the mailbox of a vCPU, which calls with upcalls masked and is about to go down, and does what
/// was left there.
pub(super) fn close(here: &'static Vcpu) {
    here.letters.set_open(false);
    serve_here();
}
