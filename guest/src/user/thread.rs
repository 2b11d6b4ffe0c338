//! A thread of a program, and the kernel thread that runs it: into user mode, and whatever takes it out.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Poll, Waker};

use guest_files::{Descriptors, System};
use hypercall::Hypervisor;
use linux_raw_sys::general as linux;
use spin::Once;

use super::access::User;
use super::call;
use super::errno::{Errno, RESTART, Result, Room};
use super::memory::{Access, Memory, Refused};
use super::process::{self, Process};
use super::signal::{self, Fault, Stack};
use super::usage::Usage;
use super::{deliver, files, futex};
use crate::lock::Lock;
use crate::rank;
use crate::task::{self, Hooks, JoinHandle};
use crate::trap;
use crate::usermode::{self, Bases, Called, Context, Exit, Extended, Serve};
use crate::xen::HV;

/// A thread of a program.
pub(crate) struct Thread {
    /// Its number; that of a process' first thread is the process'.
    pub(crate) number: u32,
    /// What it shares with the other threads of its process.
    pub(crate) process: Arc<Process>,
    /// Signals that wait until it wants them.
    pub(crate) mask: AtomicU64,
    /// Signals sent to it alone.
    pub(crate) pending: AtomicU64,
    /// What it did wrong, until it is told.
    pub(crate) fault: Lock<Option<Fault>, rank::Thread>,
    /// The mask that comes back once a signal was waited for with another.
    pub(crate) saved_mask: Lock<Option<u64>, rank::Thread>,
    /// The system call that a signal interrupted, by its number and one.
    pub(crate) interrupted: AtomicU64,
    /// Its stack for signals.
    pub(crate) stack: Lock<Stack, rank::Thread>,
    /// Where a 0 is written when it ends, for whoever waits for that.
    pub(crate) clear_at_end: AtomicU64,
    /// Where its number is written when it begins.
    pub(crate) set_at_start: AtomicU64,
    /// Its list of robust futexes.
    pub(crate) robust: AtomicU64,
    /// Whether it is to end without a look at its program.
    doomed: AtomicBool,
    /// Whether it cannot go on as its program left off, so that the whole process is to end.
    lost: AtomicBool,
    bases: Lock<Bases, rank::Thread>,
    extended: Lock<Extended, rank::ThreadRegisters>,
    /// What it used.
    pub(crate) usage: Usage,
    /// Wakes it where it waits, once it runs.
    waker: Once<Waker>,
}

/// The thread that runs on this vCPU, with its registers.
pub(crate) struct Current<'a> {
    pub(crate) thread: &'a Arc<Thread>,
    pub(crate) context: &'a mut Context,
    /// Whether all of them are there: a call that looks at others than its arguments is made then.
    pub(crate) has_all_registers: bool,
    /// The memory of its process.
    pub(crate) memory: Arc<Memory>,
    /// The open files of its process.
    pub(crate) files: Arc<Descriptors>,
    /// All files.
    pub(crate) system: Arc<System>,
}

impl Current<'_> {
    /// The memory of its process, to copy from and to.
    pub(crate) fn user(&self) -> User<'_> {
        User(&self.memory)
    }
}

impl Hooks for Thread {
    fn switched_out(&self, has_hooks: bool) {
        self.extended.lock().save();
        // A thread of a program enters its own memory instead.
        if !has_hooks {
            Memory::leave();
        }
    }

    fn switching_in(&self) {
        // Without memory it has left its program already.
        let entered = match self.process.memory() {
            Some(memory) => memory.enter(),
            None => Err(Errno::ESRCH),
        };
        if let Err(e) = entered {
            if e != Errno::ESRCH {
                log::error!(target: "user", "thread {}: its memory cannot be entered: {e:?}", self.number);
                self.lose();
            }
            // That of the thread before may be given back from here on.
            Memory::leave();
        }
        self.load_bases();
        self.extended.lock().restore();
    }

    fn ran(&self, ticks: u64) {
        self.usage.run(ticks);
        self.process.usage.run(ticks);
    }
}

impl Thread {
    /// A thread that does not run yet; `None` without memory for its registers.
    pub(crate) fn new(number: u32, process: Arc<Process>) -> Option<Arc<Thread>> {
        Some(Arc::new(Thread {
            number,
            process,
            mask: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            fault: Lock::new(None),
            saved_mask: Lock::new(None),
            interrupted: AtomicU64::new(0),
            stack: Lock::new(Stack::default()),
            clear_at_end: AtomicU64::new(0),
            set_at_start: AtomicU64::new(0),
            robust: AtomicU64::new(0),
            doomed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            bases: Lock::new(Bases::default()),
            extended: Lock::new(Extended::new()?),
            usage: Usage::default(),
            waker: Once::new(),
        }))
    }

    /// A thread that goes on as this one, which runs on this vCPU.
    pub(crate) fn duplicate(&self, number: u32, process: Arc<Process>) -> Option<Arc<Thread>> {
        let stack = *self.stack.lock();
        let bases = self.bases();
        let mut extended = self.extended.lock();
        extended.save();
        Some(Arc::new(Thread {
            number,
            process,
            mask: AtomicU64::new(self.mask.load(Ordering::Relaxed)),
            pending: AtomicU64::new(0),
            fault: Lock::new(None),
            saved_mask: Lock::new(None),
            interrupted: AtomicU64::new(0),
            stack: Lock::new(stack),
            clear_at_end: AtomicU64::new(0),
            set_at_start: AtomicU64::new(0),
            robust: AtomicU64::new(0),
            doomed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            bases: Lock::new(bases),
            extended: Lock::new(extended.duplicate()?),
            usage: Usage::default(),
            waker: Once::new(),
        }))
    }

    /// Has a kernel thread run it. If there is none to be had, it is as if it never was.
    ///
    /// # Errors
    /// `EAGAIN`.
    pub(crate) fn start(self: &Arc<Thread>, context: Context) -> Result<()> {
        let thread = self.clone();
        let main = move || main(&thread, context);
        let mut running = RUNNING.lock();
        running.retain(|handle| !handle.is_over());
        running.room(1)?;
        let spawned = task::Spawn::new("program").hooks(self.clone()).start(main);
        match spawned {
            Ok(handle) => running.push(handle),
            Err(e) => {
                log::warn!(target: "user", "thread {}: {e}", self.number);
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }

    /// Where FS and GS lead.
    pub(crate) fn bases(&self) -> Bases {
        *self.bases.lock()
    }

    /// Has FS and GS lead elsewhere: before it runs, or while it runs on this vCPU.
    pub(crate) fn set_bases(&self, bases: Bases) {
        *self.bases.lock() = bases;
    }

    /// Has the registers beside the general ones as a new program finds them, on this vCPU, where the
    /// thread runs.
    pub(crate) fn load_fresh(&self) {
        let mut extended = self.extended.lock();
        extended.reset();
        extended.restore();
        drop(extended);
        self.load_bases();
    }

    /// Has FS and GS lead where they lead for it, on this vCPU.
    fn load_bases(&self) {
        if let Err(e) = self.bases().load() {
            log::error!(target: "user", "thread {}: its segments: {e}", self.number);
            self.lose();
        }
    }

    /// The registers beside the general ones.
    pub(crate) fn extended<R>(&self, f: impl FnOnce(&mut Extended) -> R) -> R {
        f(&mut self.extended.lock())
    }

    /// Has it end as soon as it can.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
        self.wake();
    }

    /// Has its process be killed as soon as it can: what it was to go on with is not there.
    fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
        self.doom();
    }

    /// Whether it is to end.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    /// Has it look up from whatever it waits for.
    pub(crate) fn wake(&self) {
        self.waker.get().into_iter().for_each(Waker::wake_by_ref);
    }

    /// What wakes it, which calls.
    #[inline]
    pub(crate) fn waker(&self) -> &Waker {
        self.waker.call_once(task::waker)
    }

    /// Whether a signal waits for it that it wants, or its end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_doomed() || self.wanted() != 0
    }

    /// The signals that wait for it and that it wants.
    pub(crate) fn wanted(&self) -> u64 {
        let all = self.pending.load(Ordering::Acquire) | self.process.signals.pending();
        all & !self.mask.load(Ordering::Relaxed)
    }
}

/// The kernel threads that run programs, but for some that have ended.
static RUNNING: Lock<Vec<JoinHandle<()>>, rank::Programs> = Lock::new(Vec::new());

/// Waits until no kernel thread runs a program any more.
pub(crate) fn join_all() {
    let all = core::mem::take(&mut *RUNNING.lock());
    for handle in all {
        handle.join();
    }
}

/// Waits until `poll` has something, or a signal comes: then it is `RESTART`.
///
/// # Errors
/// That, or what `poll` has.
pub(crate) fn wait<T>(
    thread: &Thread,
    mut poll: impl FnMut(&Waker) -> Poll<Result<T>>,
) -> Result<T> {
    let waker = thread.waker();
    loop {
        match poll(waker) {
            Poll::Ready(result) => return result,
            Poll::Pending if thread.is_interrupted() => return Err(RESTART),
            Poll::Pending => task::park(),
        }
    }
}

/// As [`wait`], up to a time on the kernel's clock: then it is `None`.
///
/// # Errors
/// As [`wait`].
pub(crate) fn wait_until_time<T>(
    thread: &Thread,
    deadline: u64,
    mut poll: impl FnMut(&Waker) -> Poll<Result<T>>,
) -> Result<Option<T>> {
    let waited = task::wait_until_time(deadline, |waker| match poll(waker) {
        Poll::Ready(result) => Some(result),
        Poll::Pending if thread.is_interrupted() => Some(Err(RESTART)),
        Poll::Pending => None,
    });
    waited.transpose()
}

/// Runs a program's thread up to its end.
fn main(thread: &Arc<Thread>, mut context: Context) {
    thread.waker();
    // Those of a process stay the same up to its end, but for the memory, which `execve` replaces.
    if let (Some(memory), Some(files), Ok(system)) = (
        thread.process.memory(),
        thread.process.files(),
        files::system(),
    ) {
        let mut current = Current {
            thread,
            context: &mut context,
            has_all_registers: false,
            memory,
            files,
            system,
        };
        run(&mut current);
        if thread.lost.load(Ordering::Relaxed) {
            process::end(&thread.process, signal::killed_by(linux::SIGKILL));
        }
        futex::leave(thread, &current.memory);
    }
    // The space may be given back from here on.
    Memory::leave();
    process::thread_ended(thread);
}

/// Runs a program's thread as long as it is in its program.
fn run(current: &mut Current<'_>) {
    let thread = current.thread;
    let number = thread.set_at_start.swap(0, Ordering::Relaxed);
    if number != 0 {
        // A bad address is the program's own affair, as it is under Linux.
        let _ = current.user().write(number, &thread.number);
    }
    loop {
        // First: whoever comes back to a vCPU may be lost, and is not to go to user mode then.
        task::yield_if_needed();
        if thread.is_interrupted() || thread.interrupted.load(Ordering::Relaxed) != 0 {
            deliver::signals(current);
            if thread.is_doomed() {
                break;
            }
        }
        let exit = usermode::run(current);
        // An event that waits is taken here.
        let taken = match exit {
            Ok(Exit::Interrupt(vector)) => trap::interrupt_of_user_mode(vector),
            _ => true,
        };
        HV.restore_upcalls(false);
        match exit {
            Ok(exit) if taken => serve(current, exit),
            Ok(exit) => {
                log::error!(target: "user", "thread {}: ended by {exit:?}", thread.number);
                process::end(&thread.process, signal::killed_by(linux::SIGKILL));
            }
            Err(e) => {
                log::error!(target: "user", "thread {}: {e}", thread.number);
                process::end(&thread.process, signal::killed_by(linux::SIGKILL));
            }
        }
    }
}

/// Does what took a program out of user mode.
fn serve(current: &mut Current<'_>, exit: Exit) {
    let thread = current.thread;
    match exit {
        Exit::SystemCall => {
            current.has_all_registers = true;
            current.call();
            current.has_all_registers = false;
        }
        Exit::PageFault { address, error } => {
            current.page_fault(address, error);
        }
        Exit::Exception { vector, .. } if u64::from(vector) == trap::nmi::VECTOR => {
            trap::nmi::report(current.context.frame(), false);
        }
        Exit::Exception { vector, .. } => {
            let fault = Fault::of(vector, current.context.frame().rip);
            signal::raise(thread, fault);
        }
        Exit::Interrupt(_) | Exit::Event | Exit::Served => {}
    }
}

impl Serve for Current<'_> {
    #[inline]
    fn context(&mut self) -> &mut Context {
        self.context
    }

    #[inline(always)]
    fn call(&mut self) -> Called {
        call::serve(self)
    }

    #[inline]
    fn page_fault(&mut self, address: u64, error: u64) -> bool {
        let thread = self.thread;
        for usage in [&thread.usage, &thread.process.usage] {
            usage.fault();
        }
        let served = self.memory.fault(address, Access::of(error));
        if let Err(refused) = served {
            refuse(thread, self.context, address, refused);
        }
        served.is_ok()
    }

    #[inline(always)]
    fn goes_on(&self) -> bool {
        task::yield_if_needed();
        !self.thread.is_interrupted()
    }
}

/// A fault that is the program's mistake, or for which there is no memory.
fn refuse(thread: &Arc<Thread>, context: &Context, address: u64, refused: Refused) {
    log::debug!(
        target: "user",
        "process {}: {refused:?} at {address:#x}, by the instruction at {:#x}",
        thread.process.number, context.frame().rip
    );
    let fault = match refused {
        Refused::Nothing => Fault::new(linux::SIGSEGV, linux::SEGV_MAPERR, address),
        Refused::Rights => Fault::new(linux::SIGSEGV, linux::SEGV_ACCERR, address),
        Refused::Bus => Fault::new(linux::SIGBUS, linux::BUS_ADRERR, address),
        Refused::NoMemory => {
            if let Some(ended) = process::make_room(&thread.process) {
                log::warn!(
                    target: "user",
                    "out of memory: process {ended} is killed, as process {} touches {address:#x} by the \
                     instruction at {:#x}",
                    thread.process.number, context.frame().rip
                );
            }
            // Who is ended has its turn; if it was not the one that touched, that touches again.
            return task::yield_now();
        }
    };
    signal::raise(thread, fault);
}
