//! Waiting for several files at once: `poll`, `select`.

use core::task::{Poll, Waker};

use linux_raw_sys::general::pollfd;

use super::Calls;
use crate::errno::{Errno, Result};
use crate::ready::Ready;

/// What `select` counts as readable (`fs/select.c`).
const READABLE: Ready = Ready::READ.union(Ready::HUP).union(Ready::ERR);
/// What `select` counts as writable.
const WRITABLE: Ready = Ready::WRITE.union(Ready::ERR);
/// What `select` counts as exceptional.
const EXCEPTIONAL: Ready = Ready::PRI;

/// Descriptors in a word of a set.
const WORD: usize = u64::BITS as usize;

/// The sets of `select`, a bit for each descriptor: what to look for, and then what was found.
#[derive(Default)]
pub struct Sets<'a> {
    /// To read.
    pub read: Option<&'a mut [u64]>,
    /// To write.
    pub write: Option<&'a mut [u64]>,
    /// Exceptional conditions.
    pub except: Option<&'a mut [u64]>,
}

impl Calls<'_> {
    /// Whether a time-out of so many nanoseconds from the call's begin is over; if not, the waker is
    /// woken when it is.
    pub(crate) fn is_timed_out(&self, timeout: Option<u64>) -> bool {
        let Some(timeout) = timeout else {
            return false;
        };
        if timeout == 0 {
            return true;
        }
        let host = self.system.host();
        let now = host.since_boot();
        let end = self.call().began(now).saturating_add(timeout);
        if now < end {
            host.wake_at(end, self.waker);
        }
        now >= end
    }

    /// Waits until one of the files is ready, at most `timeout` nanoseconds; returns how many are.
    ///
    /// # Errors
    /// `EINVAL` for more files than there may be descriptors.
    pub fn poll(&self, files: &mut [pollfd], timeout: Option<u64>) -> Poll<Result<usize>> {
        if files.len() > self.caller.descriptor_limit() as usize {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        self.look_twice(timeout, |waker| Ok(self.look(files, waker)))
    }

    /// Looks, and if nothing is ready, once more with the waker registered.
    fn look_twice(
        &self,
        timeout: Option<u64>,
        mut look: impl FnMut(Option<&Waker>) -> Result<usize>,
    ) -> Poll<Result<usize>> {
        match look(None) {
            Ok(0) => {}
            done => return Poll::Ready(done),
        }
        if self.is_timed_out(timeout) {
            return Poll::Ready(Ok(0));
        }
        match look(Some(self.waker)) {
            Ok(0) => Poll::Pending,
            done => Poll::Ready(done),
        }
    }

    fn look(&self, files: &mut [pollfd], waker: Option<&Waker>) -> usize {
        let mut count = 0;
        for file in files {
            let ready = match file.fd {
                ..0 => Ready::empty(),
                number => match self.descriptors.get(number) {
                    Ok(open) => open.ready(waker),
                    Err(_) => Ready::NVAL,
                },
            };
            let wanted = Ready::from_bits_retain(u32::from(file.events as u16));
            let found = ready & (wanted | Ready::ALWAYS);
            file.revents = found.bits() as i16;
            count += usize::from(!found.is_empty());
        }
        count
    }

    /// Waits until one of the files below `count` that are in a set is ready for that, at most
    /// `timeout` nanoseconds; leaves those in the sets that are, and returns how many bits that is.
    ///
    /// # Errors
    /// `EBADF` if a set has what is no descriptor, `EINVAL` if a set has no room for `count`.
    pub fn select(
        &self,
        count: usize,
        sets: &mut Sets<'_>,
        timeout: Option<u64>,
    ) -> Poll<Result<usize>> {
        let words = count.div_ceil(WORD);
        let all = [&sets.read, &sets.write, &sets.except];
        if all.into_iter().flatten().any(|set| set.len() < words) {
            return Poll::Ready(Err(Errno::EINVAL));
        }
        let done = self.look_twice(timeout, |waker| {
            self.look_at_sets(count, sets, waker, false)
        });
        if let Poll::Ready(Ok(_)) = done {
            // Found once more and now noted: before, the sets still said what to look for.
            return Poll::Ready(self.look_at_sets(count, sets, None, true));
        }
        done
    }

    fn look_at_sets(
        &self,
        count: usize,
        sets: &mut Sets<'_>,
        waker: Option<&Waker>,
        note: bool,
    ) -> Result<usize> {
        let mut found = 0;
        for number in 0..count {
            let bit = 1 << (number % WORD);
            let mut open = None;
            for (set, wanted) in [
                (&mut sets.read, READABLE),
                (&mut sets.write, WRITABLE),
                (&mut sets.except, EXCEPTIONAL),
            ] {
                let Some(word) = set.as_mut().map(|set| &mut set[number / WORD]) else {
                    continue;
                };
                if *word & bit == 0 {
                    continue;
                }
                let ready = match open {
                    Some(ready) => ready,
                    None => {
                        let number = i32::try_from(number).map_err(|_| Errno::EBADF)?;
                        *open.insert(self.descriptors.get(number)?.ready(waker))
                    }
                };
                if ready.intersects(wanted) {
                    found += 1;
                } else if note {
                    *word &= !bit;
                }
            }
        }
        Ok(found)
    }
}
