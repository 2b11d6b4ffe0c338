//! Futexes: threads that wait for a word of their program's memory to change.
//!
//! A word is known by the memory and the address, or by the place in a file where that is shared. Who waits is listed before the word is looked at, so that a change and its wake-up
//! in between are not missed.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Poll, Waker};

use linux_raw_sys::general as linux;

use super::access::User;
use super::copy;
use super::errno::{Errno, Result, Room};
use super::memory::Memory;
use super::thread::{self, Thread};
use crate::lock::Lock;
use crate::rank;

/// One who waits.
struct Waiter {
    word: Lock<Word, rank::FutexWaker>,
    bits: u32,
    woken: AtomicBool,
    waker: Lock<Option<Waker>, rank::FutexWaker>,
}

static WAITING: Lock<Vec<Arc<Waiter>>, rank::Futexes> = Lock::new(Vec::new());

/// A word as all know it who have it.
type Word = (usize, u64);

fn word(memory: &Arc<Memory>, address: u64) -> Word {
    let shared = memory.shared_place(address);
    shared.unwrap_or((Arc::as_ptr(memory).addr(), address))
}

/// Waits until it is woken, if a word is as expected; up to a time on the kernel's clock.
///
/// # Errors
/// `EAGAIN` if the word is another, `ETIMEDOUT`, `EFAULT`, `ENOMEM`, or a signal came.
pub(crate) fn wait(
    thread: &Thread,
    memory: &Arc<Memory>,
    address: u64,
    expected: u32,
    bits: u32,
    deadline: Option<u64>,
) -> Result<()> {
    check(address, bits)?;
    let waiter = Arc::new(Waiter {
        word: Lock::new(word(memory, address)),
        bits,
        woken: AtomicBool::new(false),
        waker: Lock::new(None),
    });
    {
        let mut waiting = WAITING.lock();
        waiting.room(1)?;
        waiting.push(waiter.clone());
    }
    let result = User(memory).read::<u32>(address).and_then(|word| {
        if word != expected {
            return Err(Errno::EAGAIN);
        }
        let poll = |waker: &Waker| {
            *waiter.waker.lock() = Some(waker.clone());
            if waiter.woken.load(Ordering::Acquire) {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        };
        match deadline {
            Some(deadline) => {
                thread::wait_until_time(thread, deadline, poll)?.ok_or(Errno::ETIMEDOUT)
            }
            None => thread::wait(thread, poll),
        }
    });
    WAITING.lock().retain(|other| !Arc::ptr_eq(other, &waiter));
    // Whoever woke it counts on that.
    if waiter.woken.load(Ordering::Acquire) {
        Ok(())
    } else {
        result
    }
}

fn check(address: u64, bits: u32) -> Result<()> {
    if !address.is_multiple_of(4) || bits == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Wakes up to `most` that wait for a word; returns how many.
///
/// # Errors
/// `EINVAL` for a bad address.
pub(crate) fn wake(memory: &Arc<Memory>, address: u64, most: u32, bits: u32) -> Result<u32> {
    check(address, bits)?;
    let mut count = 0;
    let word = word(memory, address);
    WAITING.lock().retain(|waiter| {
        let is_meant = *waiter.word.lock() == word && waiter.bits & bits != 0;
        if !is_meant || count >= most {
            return true;
        }
        count += 1;
        waiter.woken.store(true, Ordering::Release);
        waiter.waker.lock().take().into_iter().for_each(Waker::wake);
        false
    });
    Ok(count)
}

/// Has up to `most` that wait for a word wait for another one; returns how many.
///
/// # Errors
/// `EINVAL` for a bad address.
pub(crate) fn requeue(memory: &Arc<Memory>, from: u64, to: u64, most: u32) -> Result<u32> {
    check(from, 1)?;
    check(to, 1)?;
    let mut count = 0;
    let (from, to) = (word(memory, from), word(memory, to));
    for waiter in WAITING.lock().iter() {
        let mut word = waiter.word.lock();
        if *word == from && count < most {
            count += 1;
            *word = to;
        }
    }
    Ok(count)
}

/// Does what a thread asked for at its end: robust futexes are given up, and a word is cleared for
/// whoever waits for the end.
pub(crate) fn leave(thread: &Thread, memory: &Arc<Memory>) {
    let user = User(memory);
    let head = thread.robust.swap(0, Ordering::Relaxed);
    if head != 0 {
        // A list that the program broke has no robust futexes.
        let _ = give_up(thread, memory, head);
    }
    let clear = thread.clear_at_end.swap(0, Ordering::Relaxed);
    if clear != 0 && user.write(clear, &0_u32).is_ok() {
        let _ = wake(memory, clear, 1, !0);
    }
}

/// Marks the futexes of a robust list as those of an owner who died (`struct robust_list_head`).
fn give_up(thread: &Thread, memory: &Arc<Memory>, head: u64) -> Result<()> {
    /// Entries that are looked at: a list may lead back into itself (`ROBUST_LIST_LIMIT`).
    const MOST: u32 = linux::ROBUST_LIST_LIMIT;
    let user = User(memory);
    let (mut entry, offset, pending): (u64, u64, u64) = (
        user.read(head)?,
        user.read(head + 8)?,
        user.read(head + 16)?,
    );
    let mark = |entry: u64| {
        // The lowest bit says that the futex inherits priority.
        let address = (entry & !1).wrapping_add(offset);
        let word: u32 = user.read(address)?;
        if word & linux::FUTEX_TID_MASK == thread.number {
            let dead = word & linux::FUTEX_WAITERS | linux::FUTEX_OWNER_DIED;
            copy::to_user(address, &dead.to_le_bytes());
            if word & linux::FUTEX_WAITERS != 0 {
                wake(memory, address, 1, !0)?;
            }
        }
        Ok::<(), Errno>(())
    };
    for _ in 0..MOST {
        if entry & !1 == head {
            break;
        }
        let next: u64 = user.read(entry & !1)?;
        if entry != pending {
            mark(entry)?;
        }
        entry = next;
    }
    if pending != 0 {
        mark(pending)?;
    }
    Ok(())
}
