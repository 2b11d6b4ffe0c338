//! What a vCPU has of its own to run threads: the one that runs, those that wait for it, the one that
//! runs when none does, and its timer.
//!
//! They are listed in the order in which they came, for good: a vCPU that goes down keeps what it has
//! and is only closed, so that nobody puts a thread there.

extern crate alloc;

use alloc::sync::Arc;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hypercall::event::Port;
use spin::Once;

use super::call::Letter;
use super::mailbox::Mailbox;
use super::run_queue::RunQueue;
use super::thread::Thread;
use super::timer::Timers;
use crate::cpu;
use crate::xen::HV;

/// A vCPU.
pub(super) struct Vcpu {
    number: u32,
    queue: RunQueue<Thread>,
    /// The thread that it runs; this is a reference of its own, see [`Vcpu::run_next`].
    current: AtomicPtr<Thread>,
    /// The one that it ran before, while it goes from one to the other; a reference as well.
    before: AtomicPtr<Thread>,
    /// What it runs when there is nothing else.
    idle: Once<Arc<Thread>>,
    /// When the one that runs began to, by the processor's counter.
    since: AtomicU64,
    /// Whether the one that runs has had its time while others wait.
    pub(super) overdue: AtomicBool,
    pub(super) timers: Timers,
    /// What others have it call.
    pub(super) letters: Mailbox<Letter>,
    /// Raised to have it look, and when its timer's time has come.
    pub(super) kick: AtomicU32,
    pub(super) timer: AtomicU32,
    next: AtomicPtr<Vcpu>,
}

/// The boot vCPU, and the first of the list.
static BOOT: Vcpu = Vcpu::new(0);

/// How many vCPUs idle: nobody is looked for where none does.
static IDLING: AtomicUsize = AtomicUsize::new(0);

/// Every vCPU that has run threads.
pub(super) fn all() -> impl Iterator<Item = &'static Vcpu> {
    core::iter::successors(Some(&BOOT), |vcpu| {
        // SAFETY: null, or a vCPU that was listed for good.
        unsafe { vcpu.next.load(Ordering::Acquire).as_ref() }
    })
}

/// The vCPU that this runs on. It is another after a switch.
///
/// # Panics
/// No thread runs here yet.
#[inline]
pub(super) fn here() -> &'static Vcpu {
    let vcpu = cpu::here().threads().cast::<Vcpu>();
    // SAFETY: null, or what `begin_here` was given, which lives for good.
    unsafe { vcpu.as_ref() }.expect("a thread is asked for before there are any")
}

/// The same, or the boot vCPU where no thread runs yet.
pub(super) fn here_or_boot() -> &'static Vcpu {
    if are_here() { here() } else { &BOOT }
}

/// Whether this vCPU runs threads.
#[inline]
pub(crate) fn are_here() -> bool {
    !cpu::here().threads().is_null()
}

impl Vcpu {
    pub(super) const fn new(number: u32) -> Vcpu {
        Vcpu {
            number,
            queue: RunQueue::new(),
            current: AtomicPtr::new(core::ptr::null_mut()),
            before: AtomicPtr::new(core::ptr::null_mut()),
            idle: Once::new(),
            since: AtomicU64::new(0),
            overdue: AtomicBool::new(false),
            timers: Timers::new(),
            letters: Mailbox::new(),
            kick: AtomicU32::new(0),
            timer: AtomicU32::new(0),
            next: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// That of the boot.
    pub(super) fn boot() -> &'static Vcpu {
        &BOOT
    }

    /// Lists a vCPU. One is started at a time.
    pub(super) fn list(&'static self) {
        let last = all().last().unwrap_or(&BOOT);
        last.next
            .store(core::ptr::from_ref(self).cast_mut(), Ordering::Release);
    }

    /// Its number, as Xen knows it.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Begins to run threads on the vCPU that calls, which is this one: what it does so far is `current`,
    /// and `idle` is what it runs when there is nothing else.
    pub(super) fn begin_here(&'static self, current: Arc<Thread>, idle: Arc<Thread>) {
        self.since.store(crate::time::tsc(), Ordering::Relaxed);
        self.idle.call_once(|| idle);
        self.current
            .store(Arc::into_raw(current).cast_mut(), Ordering::Relaxed);
        cpu::here().set_threads(core::ptr::from_ref(self).cast_mut().cast());
    }

    /// The thread that the vCPU, which calls, runs.
    pub(super) fn current(&self) -> ManuallyDrop<Arc<Thread>> {
        let current = self.current.load(Ordering::Relaxed);
        // SAFETY: it came of `Arc::into_raw`, and the reference stays the vCPU's: this one is not
        // dropped, and used only by the thread itself, which runs as long as it is that.
        ManuallyDrop::new(unsafe { Arc::from_raw(current) })
    }

    /// What it runs when there is nothing else.
    pub(super) fn idle(&self) -> Option<&Arc<Thread>> {
        self.idle.get()
    }

    /// Notes that the vCPU, which calls, goes from the thread that it runs to another, and how long that
    /// ran, which it returns.
    pub(super) fn run_next(&self, next: Arc<Thread>) -> u64 {
        let now = crate::time::tsc();
        let ran = now.saturating_sub(self.since.swap(now, Ordering::Relaxed));
        self.current().add_time(ran);
        let next = Arc::into_raw(next).cast_mut();
        let before = self.current.swap(next, Ordering::Relaxed);
        self.before.store(before, Ordering::Relaxed);
        ran
    }

    /// The thread that the vCPU, which calls, has left just now.
    pub(super) fn take_before(&self) -> Option<Arc<Thread>> {
        let before = self.before.swap(core::ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: null, or what came of `Arc::into_raw`, whose reference is taken here.
        (!before.is_null()).then(|| unsafe { Arc::from_raw(before) })
    }

    /// Puts a thread behind those that wait, which is said to be queued and waits nowhere; gives it back
    /// if the vCPU is closed. What is returned else is whether nobody waited before.
    pub(super) fn push(&self, thread: Arc<Thread>) -> Result<bool, Arc<Thread>> {
        // One that runs nowhere else waits until the vCPU is back.
        let stays = thread.is_pinned();
        // SAFETY: who queues a thread is told so once, by its state; it then waits nowhere.
        unsafe { self.queue.push(thread, stays) }
    }

    /// Takes the first thread that waits.
    pub(super) fn pop(&self) -> Option<Arc<Thread>> {
        self.take(|_| true)
    }

    /// Takes the first that waits and `may` be taken.
    pub(super) fn take(&self, may: impl Fn(&Thread) -> bool) -> Option<Arc<Thread>> {
        self.queue.take(may)
    }

    /// How many wait, as it was a moment ago.
    pub(super) fn length(&self) -> usize {
        self.queue.len()
    }

    /// Lets threads be put here, or no more.
    pub(super) fn set_open(&self, open: bool) {
        self.queue.set_open(open);
    }

    /// Notes that it idles. It looks at its queue afterwards, before it sleeps.
    pub(super) fn set_idles(&self) {
        if self.queue.set_idles() {
            IDLING.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Notes that it does not idle, or not for long; whether it did so.
    pub(super) fn claim(&self) -> bool {
        let did = self.queue.claim();
        if did {
            IDLING.fetch_sub(1, Ordering::SeqCst);
        }
        did
    }

    /// Whether threads may be put here.
    pub(super) fn is_open(&self) -> bool {
        self.queue.is_open()
    }

    /// When the one that runs began to, by the processor's counter.
    pub(super) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// Has it look for what it has to do.
    pub(super) fn kick(&self) {
        let port = Port(self.kick.load(Ordering::Acquire));
        // A vCPU that has no port yet looks by itself before it idles.
        if port.0 != 0 {
            // Refused, it is one that does not run, and looks when it does.
            let _ = hypercall::event::send(&HV, port);
        }
    }
}

/// Whether some vCPU idles.
pub(super) fn some_idle() -> bool {
    IDLING.load(Ordering::SeqCst) != 0
}
