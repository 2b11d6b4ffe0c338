//! Locks of parts of files by `fcntl(2)`.
//!
//! A lock belongs to a table of descriptors, or to an open file where that was asked for. The first kind
//! goes with any descriptor of the file that the table loses, as Linux has it: whoever opens a file and
//! closes it gives away what he locked there.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Poll, Waker};

use crate::errno::{Errno, Result};
use crate::lock::Mutex;
use crate::ready::Watchers;

/// A file: its file system and inode.
pub(crate) type Key = (u64, u64);

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    /// One that there was not before.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A lock of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) owner: Owner,
    /// The process that took it, for others to be told; none, for what an open file holds.
    pub(crate) process: i32,
    pub(crate) start: u64,
    /// The last byte.
    pub(crate) last: u64,
    /// Whether nobody else may have one.
    pub(crate) exclusive: bool,
}

impl Record {
    fn meets(&self, other: &Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    fn refuses(&self, other: &Self) -> bool {
        self.owner != other.owner && self.meets(other) && (self.exclusive || other.exclusive)
    }
}

/// The locks of parts of all files.
#[derive(Default)]
pub(crate) struct Records {
    held: Mutex<BTreeMap<Key, Vec<Record>>>,
    waiting: Watchers,
}

impl Records {
    /// The first lock that stands against `wanted`.
    pub(crate) fn against(&self, key: Key, wanted: &Record) -> Option<Record> {
        let held = self.held.lock();
        let mut records = held.get(&key)?.iter().filter(|held| held.refuses(wanted));
        let first = records.next()?;
        Some(*records.fold(first, |first, next| {
            if next.start < first.start {
                next
            } else {
                first
            }
        }))
    }

    /// Takes a lock in place of what the owner has there; with a waker it is waited for.
    ///
    /// # Errors
    /// `EAGAIN` if another stands against it, `ENOMEM`.
    pub(crate) fn take(&self, key: Key, wanted: Record, waker: Option<&Waker>) -> Poll<Result<()>> {
        if let Some(waker) = waker {
            self.waiting.register(waker);
        }
        let mut held = self.held.lock();
        let records = held.entry(key).or_default();
        if records.iter().any(|held| held.refuses(&wanted)) {
            return match waker {
                Some(_) => Poll::Pending,
                None => Poll::Ready(Err(Errno::EAGAIN)),
            };
        }
        let done = cut(records, &wanted).and_then(|()| {
            records.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let joined = join(records, wanted);
            records.push(joined);
            Ok(())
        });
        drop(held);
        // What was exclusive may be shared now.
        self.waiting.wake();
        Poll::Ready(done)
    }

    /// Gives back what the owner of `part` has of those bytes.
    ///
    /// # Errors
    /// `ENOMEM`: a lock falls into two.
    pub(crate) fn release(&self, key: Key, part: &Record) -> Result<()> {
        let mut held = self.held.lock();
        let Some(records) = held.get_mut(&key) else {
            return Ok(());
        };
        cut(records, part)?;
        if records.is_empty() {
            held.remove(&key);
        }
        drop(held);
        self.waiting.wake();
        Ok(())
    }

    /// Gives back all that an owner has of a file, or of all files.
    pub(crate) fn forget(&self, key: Option<Key>, owner: Owner) {
        let mut held = self.held.lock();
        held.retain(|file, records| {
            if key.is_none_or(|key| key == *file) {
                records.retain(|record| record.owner != owner);
            }
            !records.is_empty()
        });
        drop(held);
        self.waiting.wake();
    }
}

/// Makes one of a lock and those of the same owner and kind that end where it begins, or begin where it
/// ends.
fn join(records: &mut Vec<Record>, mut wanted: Record) -> Record {
    records.retain(|held| {
        let is_alike = held.owner == wanted.owner && held.exclusive == wanted.exclusive;
        let before = held.last.checked_add(1) == Some(wanted.start);
        let after = wanted.last.checked_add(1) == Some(held.start);
        let joins = is_alike && (before || after);
        if joins {
            wanted.start = wanted.start.min(held.start);
            wanted.last = wanted.last.max(held.last);
        }
        !joins
    });
    wanted
}

/// Takes the bytes of `part` from the locks of its owner.
fn cut(records: &mut Vec<Record>, part: &Record) -> Result<()> {
    let is_cut = |record: &Record| record.owner == part.owner && record.meets(part);
    let splits = |record: &Record| record.start < part.start && record.last > part.last;
    let more = records
        .iter()
        .filter(|record| is_cut(record) && splits(record));
    let more = more.count();
    records.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
    for place in 0..records.len() {
        let record = records[place];
        if is_cut(&record) && splits(&record) {
            records[place].last = part.start - 1;
            records.push(Record {
                start: part.last + 1,
                ..record
            });
        }
    }
    for record in records.iter_mut().filter(|record| is_cut(record)) {
        if record.start < part.start {
            record.last = part.start - 1;
        } else if record.last > part.last {
            record.start = part.last + 1;
        }
    }
    records.retain(|record| !is_cut(record));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (1, 2);

    fn record(owner: Owner, start: u64, last: u64, exclusive: bool) -> Record {
        Record {
            owner,
            process: 1,
            start,
            last,
            exclusive,
        }
    }

    /// Every byte of a small file, after locks at random, has whom a table of bytes says.
    #[test]
    fn every_byte_has_the_locks_that_were_taken() {
        const BYTES: u64 = 12;
        let owners = [Owner::new(), Owner::new()];
        let records = Records::default();
        let mut bytes = [[None; BYTES as usize]; 2];
        let mut state = 1_u64;
        let mut draw = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..20_000 {
            let (who, start) = (draw(2) as usize, draw(BYTES));
            let last = start + draw(BYTES - start);
            let part = record(owners[who], start, last, draw(2) == 0);
            let range = start as usize..=last as usize;
            if draw(3) == 0 {
                records.release(KEY, &part).unwrap();
                bytes[who][range].fill(None);
                continue;
            }
            let other = &bytes[1 - who][range.clone()];
            let refused = other
                .iter()
                .any(|held| held.is_some_and(|exclusive: bool| exclusive || part.exclusive));
            let taken = records.take(KEY, part, None);
            assert_eq!(
                taken,
                Poll::Ready(if refused { Err(Errno::EAGAIN) } else { Ok(()) })
            );
            if !refused {
                bytes[who][range].fill(Some(part.exclusive));
            }
            for (who, table) in bytes.iter().enumerate() {
                for (at, held) in (0..).zip(table) {
                    let asked = record(owners[1 - who], at, at, true);
                    let found = records.against(KEY, &asked).map(|found| found.exclusive);
                    assert_eq!(found, *held, "byte {at}");
                }
            }
        }
        records.forget(None, owners[0]);
        records.forget(Some(KEY), owners[1]);
        assert!(records.held.lock().is_empty());
    }

    #[test]
    fn who_waits_is_woken_and_may_have_it() {
        let (one, two) = (Owner::new(), Owner::new());
        let records = Records::default();
        let all = |owner| record(owner, 0, u64::MAX, true);
        assert_eq!(records.take(KEY, all(one), None), Poll::Ready(Ok(())));
        let waits = records.take(KEY, all(two), Some(Waker::noop()));
        assert_eq!(waits, Poll::Pending);
        records.forget(None, one);
        let taken = records.take(KEY, all(two), Some(Waker::noop()));
        assert_eq!(taken, Poll::Ready(Ok(())));
    }

    #[test]
    fn neighbours_are_one_lock() {
        let (one, two) = (Owner::new(), Owner::new());
        let records = Records::default();
        for (start, last) in [(0, 1), (4, 5), (2, 3)] {
            let taken = records.take(KEY, record(one, start, last, true), None);
            assert_eq!(taken, Poll::Ready(Ok(())));
        }
        let found = records.against(KEY, &record(two, 3, 3, false));
        assert_eq!(found, Some(record(one, 0, 5, true)));
    }
}
