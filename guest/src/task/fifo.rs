//! Threads that wait for a vCPU, in the order in which they came.
//!
//! A thread brings the link by which it waits, so that queueing one, which handlers do, needs no memory,
//! and a queue has room for all.

extern crate alloc;

use alloc::sync::Arc;
use core::cell::UnsafeCell;

/// What can wait in a queue.
pub(super) trait Linked: Sized {
    /// Its link.
    fn link(&self) -> &Link<Self>;
}

/// The one that comes behind; used by the queue in which its owner waits.
pub(super) struct Link<T>(UnsafeCell<Option<Arc<T>>>);

// SAFETY: the queue that its owner waits in uses it, and a queue is used by one at a time; it is moved
// from one to the other with what it holds.
unsafe impl<T: Send + Sync> Sync for Link<T> {}
// SAFETY: the queue that its owner waits in uses it, and a queue is used by one at a time; it is moved
// from one to the other with what it holds.
unsafe impl<T: Send + Sync> Send for Link<T> {}

impl<T> Link<T> {
    pub(super) const fn new() -> Link<T> {
        Link(UnsafeCell::new(None))
    }
}

/// First in, first out.
pub(super) struct Fifo<T> {
    first: Option<Arc<T>>,
    /// The last of those that the first leads to, or null.
    last: *const T,
    length: usize,
}

// SAFETY: the pointer is to one of those that it owns.
unsafe impl<T: Send + Sync> Send for Fifo<T> {}

impl<T: Linked> Fifo<T> {
    pub(super) const fn new() -> Fifo<T> {
        Fifo {
            first: None,
            last: core::ptr::null(),
            length: 0,
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Adds one behind the others.
    ///
    /// # Safety
    /// It waits in no queue.
    pub(super) unsafe fn push(&mut self, item: Arc<T>) {
        let last = core::mem::replace(&mut self.last, Arc::as_ptr(&item));
        // SAFETY: null, or one that this queue owns, which is why it is there and why nobody else uses
        // its link.
        match unsafe { last.as_ref() } {
            // SAFETY: nobody else uses the link of what this queue owns; what was there is none, as it was the last.
            Some(last) => unsafe { *last.link().0.get() = Some(item) },
            None => self.first = Some(item),
        }
        self.length += 1;
    }

    /// Takes the first that `may` be taken.
    pub(super) fn take(&mut self, may: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let mut before: *const T = core::ptr::null();
        let mut place: *mut Option<Arc<T>> = &raw mut self.first;
        loop {
            // SAFETY: the place is this queue's own, or the link of one that it owns; nobody else uses
            // either.
            let item = unsafe { &mut *place }.take_if(|item| may(item));
            if let Some(item) = item {
                // SAFETY: it was one of this queue's until now.
                let behind = unsafe { (*item.link().0.get()).take() };
                if behind.is_none() {
                    self.last = before;
                }
                // SAFETY: it was one of this queue's until now.
                unsafe { *place = behind };
                self.length -= 1;
                return Some(item);
            }
            // SAFETY: it was one of this queue's until now.
            let item = unsafe { (*place).as_ref() }?;
            before = Arc::as_ptr(item);
            place = item.link().0.get();
        }
    }
}
