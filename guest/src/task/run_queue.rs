//! The run queue of a vCPU: the threads that wait for it, and whether that idles.
//!
//! A vCPU that idles says so, looks at its queue once more, and sleeps. Who queues a thread looks
//! afterwards whether it was the first: then the vCPU is told, which ends its sleep. So one of the two
//! always sees the other. Whoever finds that a vCPU idles takes that from it ([`RunQueue::claim`]), and so
//! the next looks for another.
//!
//! What may come in what order is tried in `guest/tests/interleavings`.

extern crate alloc;

use alloc::sync::Arc;

use super::fifo::{Fifo, Linked};
use super::words::{AtomicBool, AtomicUsize, Ordering};
use crate::lock::Lock;
use crate::rank;

/// Those that wait.
struct Waiting<T> {
    queue: Fifo<T>,
    /// Whether more may come.
    open: bool,
}

/// A run queue.
pub(super) struct RunQueue<T> {
    waiting: Lock<Waiting<T>, rank::RunQueue>,
    /// How many wait, and whether more may come, for those who only look.
    length: AtomicUsize,
    open: AtomicBool,
    idles: AtomicBool,
}

impl<T: Linked> RunQueue<T> {
    pub(super) const fn new() -> RunQueue<T> {
        RunQueue {
            waiting: Lock::new(Waiting {
                queue: Fifo::new(),
                open: true,
            }),
            length: AtomicUsize::new(0),
            open: AtomicBool::new(true),
            idles: AtomicBool::new(false),
        }
    }

    /// Puts one behind those that wait; whether nobody did before, so that the vCPU has to be told. One
    /// that does not `stay`, whatever comes, is given back where the queue is closed.
    ///
    /// # Safety
    /// It waits in no queue.
    pub(super) unsafe fn push(&self, item: Arc<T>, stays: bool) -> Result<bool, Arc<T>> {
        let mut waiting = self.waiting.lock();
        if !waiting.open && !stays {
            return Err(item);
        }
        // SAFETY: the caller's promise.
        unsafe { waiting.queue.push(item) };
        self.length.store(waiting.queue.len(), Ordering::Relaxed);
        Ok(waiting.queue.len() == 1)
    }

    /// Takes the first that `may` be taken.
    pub(super) fn take(&self, may: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let mut waiting = self.waiting.lock();
        let taken = waiting.queue.take(may);
        self.length.store(waiting.queue.len(), Ordering::Relaxed);
        taken
    }

    /// How many wait, as it was a moment ago.
    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Lets others come, or no more.
    pub(super) fn set_open(&self, open: bool) {
        self.waiting.lock().open = open;
        self.open.store(open, Ordering::Relaxed);
    }

    /// Whether others may come, as it was a moment ago.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Notes that the vCPU idles; whether it did not before. It looks at its queue afterwards.
    pub(super) fn set_idles(&self) -> bool {
        !self.idles.swap(true, Ordering::SeqCst)
    }

    /// Notes that the vCPU does not idle, or not for long; whether it did.
    pub(super) fn claim(&self) -> bool {
        // Often it does not, and a look is cheap.
        self.idles.load(Ordering::SeqCst) && self.idles.swap(false, Ordering::SeqCst)
    }
}
