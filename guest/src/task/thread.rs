//! A thread: what it has of its own, from its making to its end.

extern crate alloc;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use core::task::Waker;

use heapless::String;
use hypercall::Hypervisor;
use hypercall::queue::Section;

use super::fifo::{Link, Linked};
use super::state::State;
use super::vcpu::{self, Vcpu};
use super::{run, switch, wait};
use crate::lock::Lock;
use crate::rank;
use crate::stack::{self, NoStack, Stack};
use crate::xen::HV;
use crate::{heap, time};

/// Bytes of a thread's name that are kept.
const NAME: usize = 24;

/// What more there is to a thread than the kernel's own stack, for those who know of it: an address
/// space, where the processor enters the kernel, registers.
///
/// Both are called with upcalls masked, on whichever vCPU switches; they take no lock that is held
/// while a thread gives its vCPU away.
pub(crate) trait Hooks: Send + Sync {
    /// Another thread gets the vCPU; also called once as the thread ends, before the hooks are dropped. Where
    /// that other one `has_hooks`, they are called next, and find what this thread left.
    fn switched_out(&self, has_hooks: bool);

    /// The thread gets this vCPU.
    fn switching_in(&self);

    /// The thread has run for so long, by the processor's counter: said as it gives its vCPU away, and as it
    /// ends.
    fn ran(&self, _ticks: u64) {}
}

/// A thread.
pub(crate) struct Thread {
    number: u64,
    name: String<NAME>,
    pub(super) state: State,
    link: Link<Thread>,
    /// Whether it runs on its home alone.
    pinned: AtomicBool,
    /// Where it ran last, or is to run first.
    home: AtomicPtr<Vcpu>,
    pub(super) own: Own,
    /// Kept for the one who reaps it; threads that began with a vCPU have none.
    stack: Lock<Option<Stack>, rank::Task>,
    /// Who waits for its end.
    joiner: Lock<Option<Waker>, rank::Task>,
    ended: AtomicBool,
    /// How long it ran, by the processor's counter.
    ran: AtomicU64,
    /// Where it is listed.
    place: AtomicUsize,
}

/// What a thread begins with.
type Start = Box<dyn FnOnce() + Send>;

/// What only the thread itself uses while it runs, and the vCPU that switches from or to it.
pub(super) struct Own(UnsafeCell<Parts>);

/// The parts of [`Own`].
pub(super) struct Parts {
    /// Where its stack was left.
    pub(super) stack: u64,
    /// Its page-table section, while another thread's is the vCPU's.
    pub(super) section: Section,
    pub(super) hooks: Option<Arc<dyn Hooks>>,
    start: Option<Start>,
}

// SAFETY: one uses it at a time, see the type.
unsafe impl Sync for Own {}

impl Own {
    /// The parts.
    ///
    /// # Safety
    /// The caller is the thread itself, or a vCPU that switches from or to it with upcalls masked; what
    /// this returns is used up before anybody else is that.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller says that it is the only one"
    )]
    pub(super) unsafe fn parts(&self) -> &mut Parts {
        // SAFETY: nobody else uses the cell, as the caller says.
        unsafe { &mut *self.0.get() }
    }
}

impl Linked for Thread {
    fn link(&self) -> &Link<Thread> {
        &self.link
    }
}

impl Wake for Thread {
    fn wake(self: Arc<Thread>) {
        if self.state.wake() {
            run::queue(self);
        }
    }

    fn wake_by_ref(self: &Arc<Thread>) {
        if self.state.wake() {
            run::queue(Arc::clone(self));
        }
    }
}

/// Every thread that was not reaped.
static THREADS: Lock<Vec<Arc<Thread>>, rank::Threads> = Lock::new(Vec::new());

/// The number of the next.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Why a thread was not made.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// The heap has no room for it.
    NoMemory,
    /// There is no stack for it.
    Stack(NoStack),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnError::NoMemory => f.write_str("the heap has no room for a thread"),
            SpawnError::Stack(e) => write!(f, "no stack for a thread: {e}"),
        }
    }
}

impl core::error::Error for SpawnError {}

impl From<NoStack> for SpawnError {
    fn from(error: NoStack) -> SpawnError {
        SpawnError::Stack(error)
    }
}

/// What a thread came to, for the one who waits for it.
struct Packet<T>(Lock<Option<T>, rank::Task>);

/// A thread that can be waited for. Dropped, the thread goes on by itself.
pub(crate) struct JoinHandle<T> {
    thread: Arc<Thread>,
    packet: Arc<Packet<T>>,
}

impl<T> JoinHandle<T> {
    /// Waits until the thread has ended and its stack is nobody's any more; what it came to, or `None`
    /// if it ended by [`exit`].
    #[track_caller]
    pub(crate) fn join(self) -> Option<T> {
        wait::wait_until(|waker| {
            let mut joiner = self.thread.joiner.lock();
            if self.is_over() {
                return Some(());
            }
            *joiner = Some(waker.clone());
            None
        });
        self.packet.0.lock().take()
    }

    /// Whether the thread has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.ended.load(Ordering::Acquire)
    }

    /// What wakes the thread.
    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.thread))
    }
}

/// A thread to be made.
#[derive(Default)]
#[must_use = "nothing is made of it before `start`"]
pub(crate) struct Spawn<'a> {
    name: &'a str,
    hooks: Option<Arc<dyn Hooks>>,
    pinned: Option<u32>,
}

/// Makes a thread that calls `f`, and has it run.
///
/// # Errors
/// No memory for it.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, SpawnError> {
    Spawn::new(name).start(f)
}

impl<'a> Spawn<'a> {
    /// With a name, of which the first bytes are kept.
    pub(crate) fn new(name: &'a str) -> Spawn<'a> {
        Spawn {
            name,
            ..Spawn::default()
        }
    }

    /// With hooks.
    pub(crate) fn hooks(self, hooks: Arc<dyn Hooks>) -> Spawn<'a> {
        Spawn {
            hooks: Some(hooks),
            ..self
        }
    }

    /// To run on a vCPU that runs threads, and on no other.
    pub(crate) fn pinned(self, number: u32) -> Spawn<'a> {
        Spawn {
            pinned: Some(number),
            ..self
        }
    }

    /// Makes it and has it run `f`.
    ///
    /// # Errors
    /// No memory for it.
    pub(crate) fn start<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, SpawnError> {
        // What is boxed below, with room for what is around it: it is not asked for in vain then.
        if !heap::grow_to(size_of_val(&f) + 2 * size_of::<Thread>() + size_of::<T>() + 1024) {
            return Err(SpawnError::NoMemory);
        }
        let packet = Arc::new(Packet(Lock::new(None)));
        let theirs = Arc::clone(&packet);
        let start = Box::new(move || {
            let value = f();
            *theirs.0.lock() = Some(value);
        });
        let thread = self.make(start)?;
        run::queue(Arc::clone(&thread));
        Ok(JoinHandle { thread, packet })
    }

    fn make(self, start: Start) -> Result<Arc<Thread>, SpawnError> {
        let home = vcpu::all().find(|vcpu| Some(vcpu.number()) == self.pinned);
        let stack = stack::get(stack::Size::Thread)?;
        // SAFETY: the stack is new, or was given back.
        let left = unsafe { switch::prepare(stack.top(), begin) };
        let parts = Parts {
            stack: left,
            section: Section::new(),
            hooks: self.hooks,
            start: Some(start),
        };
        let thread = Thread::new(self.name, State::queued(), home, parts);
        thread
            .pinned
            .store(self.pinned.is_some(), Ordering::Relaxed);
        *thread.stack.lock() = Some(stack);
        let thread = Arc::new(thread);
        if list(&thread) {
            return Ok(thread);
        }
        if let Some(stack) = thread.stack.lock().take() {
            stack::give_back(stack);
        }
        Err(SpawnError::NoMemory)
    }
}

impl Thread {
    fn new(name: &str, state: State, home: Option<&'static Vcpu>, parts: Parts) -> Thread {
        let mut kept = String::new();
        // What does not fit is cut.
        let _ = name.chars().try_for_each(|letter| kept.push(letter));
        Thread {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name: kept,
            state,
            link: Link::new(),
            pinned: AtomicBool::new(false),
            home: AtomicPtr::new(
                core::ptr::from_ref(home.unwrap_or_else(|| vcpu::here_or_boot())).cast_mut(),
            ),
            own: Own(UnsafeCell::new(parts)),
            stack: Lock::new(None),
            joiner: Lock::new(None),
            ended: AtomicBool::new(false),
            ran: AtomicU64::new(0),
            place: AtomicUsize::new(0),
        }
    }

    /// One that runs already, on a stack that is nobody's to give back.
    pub(super) fn running(name: &str, home: &'static Vcpu) -> Result<Arc<Thread>, SpawnError> {
        let parts = Parts {
            stack: 0,
            section: Section::new(),
            hooks: None,
            start: None,
        };
        let thread = Thread::new(name, State::running(), Some(home), parts);
        thread.pinned.store(true, Ordering::Relaxed);
        let thread = Arc::new(thread);
        list(&thread).then_some(thread).ok_or(SpawnError::NoMemory)
    }

    /// One that is run where there is nothing else, and waits in no queue.
    pub(super) fn idle(
        name: &str,
        home: &'static Vcpu,
        f: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Thread>, SpawnError> {
        let thread = Spawn::new(name).make(Box::new(f))?;
        thread.pinned.store(true, Ordering::Relaxed);
        thread.set_home(home);
        thread.state.picked();
        Ok(thread)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its stack begins, growing down, a multiple of 16: where the processor may enter the kernel
    /// from the thread's user mode, which is when the stack is empty. A thread that began with its vCPU
    /// has none that is its own.
    pub(crate) fn stack_top(&self) -> Option<u64> {
        self.stack.lock().as_ref().map(Stack::top)
    }

    /// Whether it runs on its home alone.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Where it ran last.
    pub(super) fn home(&self) -> &'static Vcpu {
        // SAFETY: a vCPU that was listed for good.
        unsafe { &*self.home.load(Ordering::Relaxed) }
    }

    pub(super) fn set_home(&self, vcpu: &'static Vcpu) {
        let vcpu = core::ptr::from_ref(vcpu).cast_mut();
        self.home.store(vcpu, Ordering::Relaxed);
    }

    pub(super) fn add_time(&self, ticks: u64) {
        // One vCPU at a time runs it.
        let ran = self.ran.load(Ordering::Relaxed);
        self.ran.store(ran.wrapping_add(ticks), Ordering::Relaxed);
    }
}

/// Lists a thread; false if there is no memory for that.
fn list(thread: &Arc<Thread>) -> bool {
    let mut threads = THREADS.lock();
    if threads.try_reserve(1).is_err() {
        return false;
    }
    thread.place.store(threads.len(), Ordering::Relaxed);
    threads.push(Arc::clone(thread));
    true
}

/// Does what is left to do when nobody runs on the stack of a thread that has ended. Upcalls are masked.
pub(super) fn reap(thread: Arc<Thread>) {
    let listed = {
        let mut threads = THREADS.lock();
        let place = thread.place.load(Ordering::Relaxed);
        let listed = threads.swap_remove(place);
        if let Some(moved) = threads.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
        listed
    };
    drop(listed);
    let stack = thread.stack.lock().take();
    if let Some(stack) = stack {
        stack::give_back(stack);
    }
    let joiner = {
        let mut joiner = thread.joiner.lock();
        thread.ended.store(true, Ordering::Release);
        joiner.take()
    };
    if let Some(joiner) = joiner {
        joiner.wake();
    }
}

/// Where a thread begins, on its own stack, with upcalls masked.
extern "C" fn begin() -> ! {
    run::arrived();
    let thread = current();
    // SAFETY: this is the thread itself.
    let start = unsafe { thread.own.parts() }.start.take();
    drop(thread);
    HV.restore_upcalls(false);
    if let Some(start) = start {
        start();
    }
    exit()
}

/// Ends the thread that calls; nothing of what its functions have on its stack is dropped.
///
/// # Panics
/// It holds a lock, or has masked upcalls, or it is one that began with its vCPU.
#[track_caller]
pub(crate) fn exit() -> ! {
    let thread = current();
    assert!(
        thread.stack.lock().is_some(),
        "the thread '{}' began with its vCPU, and does not end before that does",
        thread.name
    );
    let hooks = {
        let masked = HV.mask_upcalls();
        // SAFETY: this is the thread itself.
        let hooks = unsafe { thread.own.parts() }.hooks.take();
        if let Some(hooks) = &hooks {
            hooks.ran(running());
            hooks.switched_out(false);
        }
        HV.restore_upcalls(masked);
        hooks
    };
    // Nothing is dropped behind the last line.
    drop((hooks, thread));
    run::leave(|state| {
        state.end();
        true
    });
    unreachable!("a thread goes on that has ended")
}

/// For how long the thread that calls has run since it got its vCPU, by the processor's counter.
pub(crate) fn running() -> u64 {
    time::tsc().saturating_sub(vcpu::here().since())
}

/// The thread that calls.
///
/// # Panics
/// There are no threads here yet.
pub(crate) fn current() -> Arc<Thread> {
    // Between the look at the vCPU and that at its thread it may be another vCPU: not so with upcalls
    // masked, or as the kernel is not preempted.
    Arc::clone(&vcpu::here().current())
}

/// What is known of a thread, for people.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// What tells it from others.
    pub(crate) number: u64,
    /// Its name.
    pub(crate) name: String<NAME>,
    /// What it is doing, in a word.
    pub(crate) state: &'static str,
    /// Where it ran last.
    pub(crate) vcpu: u32,
    /// How long it ran, by the processor's counter.
    pub(crate) ran: u64,
}

/// Every thread, in the order in which they were made.
///
/// # Errors
/// The heap has no room for them.
pub(crate) fn tell() -> Result<Vec<Told>, alloc::collections::TryReserveError> {
    // The one that asks has run until now.
    let running = running();
    let me = current();
    let mut all = Vec::new();
    all.try_reserve_exact(THREADS.lock().len() + 8)?;
    let threads = THREADS.lock();
    for thread in threads.iter().take(all.capacity()) {
        let more = if Arc::ptr_eq(thread, &me) { running } else { 0 };
        all.push(Told {
            number: thread.number,
            name: thread.name.clone(),
            state: thread.state.describe(),
            vcpu: thread.home().number(),
            ran: thread.ran.load(Ordering::Relaxed).wrapping_add(more),
        });
    }
    drop(threads);
    all.sort_unstable_by_key(|told| told.number);
    Ok(all)
}
