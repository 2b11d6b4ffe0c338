//! Waiting for several files at once: `poll`, `select`.

use alloc::vec::Vec;
use core::task::{Poll, Waker};

use linux_raw_sys::general::pollfd;

use super::Calls;
use crate::errno::{Errno, Result};
use crate::ready::{Ready, look_twice};

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

impl Sets<'_> {
    fn all(&mut self) -> [Option<&mut [u64]>; 3] {
        [&mut self.read, &mut self.write, &mut self.except].map(|set| set.as_deref_mut())
    }
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
        let mut waker = None;
        self.wait_for(timeout, &mut || {
            let found = self.look(files, waker);
            waker = Some(self.waker);
            Ok(found)
        })
    }

    /// Waits until something is found or the time is over. The first look registers nobody, the
    /// second one does so before it looks at each file.
    fn wait_for(
        &self,
        timeout: Option<u64>,
        look: &mut dyn FnMut() -> Result<usize>,
    ) -> Poll<Result<usize>> {
        look_twice(
            || {},
            || match look() {
                Ok(0) if !self.is_timed_out(timeout) => None,
                done => Some(done),
            },
        )
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
        let mut found = Vec::new();
        if found.try_reserve_exact(words).is_err() {
            return Poll::Ready(Err(Errno::ENOMEM));
        }
        found.resize(words, [0; 3]);
        let mut waker = None;
        let done = self.wait_for(timeout, &mut || {
            let count = self.look_at_sets(count, sets, waker, &mut found);
            waker = Some(self.waker);
            count
        });
        if let Poll::Ready(Ok(_)) = done {
            for (which, set) in sets.all().into_iter().enumerate() {
                for (word, found) in set.into_iter().flat_map(|set| set.iter_mut().zip(&found)) {
                    *word = found[which];
                }
            }
        }
        done
    }

    /// Notes which of the descriptors in the sets are ready, and returns how many bits that is.
    fn look_at_sets(
        &self,
        count: usize,
        sets: &mut Sets<'_>,
        waker: Option<&Waker>,
        found: &mut [[u64; 3]],
    ) -> Result<usize> {
        let mut bits = 0;
        for number in 0..count {
            let (at, bit) = (number / WORD, 1 << (number % WORD));
            let wants = sets
                .all()
                .map(|set| set.is_some_and(|set| set[at] & bit != 0));
            if wants == [false; 3] {
                continue;
            }
            let number = i32::try_from(number).map_err(|_| Errno::EBADF)?;
            let ready = self.descriptors.get(number)?.ready(waker);
            let counts = [READABLE, WRITABLE, EXCEPTIONAL];
            for (which, counts) in counts.into_iter().enumerate() {
                let is_so = wants[which] && ready.intersects(counts);
                let word = &mut found[at][which];
                *word = if is_so { *word | bit } else { *word & !bit };
                bits += usize::from(is_so);
            }
        }
        Ok(bits)
    }
}
