//! Pipes, with names and without.
//!
//! A pipe holds its bytes in slots of a page, as Linux' does, since programs can tell: a write of
//! up to a page (`PIPE_BUF`) is whole or waits, and a pipe is full when its slots are, not its
//! bytes.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::task::{Poll, Waker};

use linux_raw_sys::{general as linux, ioctl};

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::{Call, Host, PAGE, Page};
use crate::inode::Where;
use crate::lock::Mutex;
use crate::ready::{Ready, Watchers, attempt, look_twice};
use crate::transfer::{Argument, Sink, Source};

/// Slots of a new pipe, 64 KiB (`PIPE_DEF_BUFFERS` in Linux' `include/linux/pipe_fs_i.h`).
const SLOTS: usize = 16;

/// Slots that a pipe can be given, 1 MiB (Linux' `fs.pipe-max-size`).
const MOST_SLOTS: usize = 256;

/// A pipe.
pub(crate) struct Pipe {
    host: Arc<dyn Host>,
    state: Mutex<State>,
    /// Those who wait for bytes.
    readers: Watchers,
    /// Those who wait for room.
    writers: Watchers,
}

struct State {
    slots: VecDeque<Slot>,
    most: usize,
    /// An empty page that the next slot takes.
    spare: Option<Arc<dyn Page>>,
    readers: u32,
    writers: u32,
    /// How often it was opened to read, and to write.
    opened: (u64, u64),
}

struct Slot {
    page: Arc<dyn Page>,
    from: usize,
    to: usize,
}

impl Pipe {
    /// A pipe that nobody has open.
    pub(crate) fn new(host: Arc<dyn Host>) -> Arc<Self> {
        Arc::new(Self {
            host,
            state: Mutex::new(State {
                slots: VecDeque::new(),
                most: SLOTS,
                spare: None,
                readers: 0,
                writers: 0,
                opened: (0, 0),
            }),
            readers: Watchers::new(),
            writers: Watchers::new(),
        })
    }

    /// Opens an end of it.
    pub(crate) fn open(self: &Arc<Self>, reads: bool, writes: bool) -> PipeEnd {
        let mut state = self.state.lock();
        let silent_at = (state.writers == 0).then_some(state.opened.1);
        state.readers += u32::from(reads);
        state.writers += u32::from(writes);
        state.opened.0 += u64::from(reads);
        state.opened.1 += u64::from(writes);
        drop(state);
        self.wake();
        PipeEnd {
            pipe: self.clone(),
            reads,
            writes,
            silent_at,
        }
    }

    fn wake(&self) {
        self.readers.wake();
        self.writers.wake();
    }

    /// Reads what is there; waits while that is nothing and someone may write.
    pub(crate) fn read(&self, call: &Call<'_>, to: &mut dyn Sink) -> Poll<Result<usize>> {
        if to.room() == 0 {
            return Poll::Ready(Ok(0));
        }
        let done = attempt(
            call,
            || self.readers.register(call.waker),
            || self.state.lock().read(to),
        );
        if let Poll::Ready(Ok(1..)) = done {
            self.writers.wake();
        }
        done
    }

    /// Writes what fits; waits while that is nothing.
    pub(crate) fn write(&self, call: &Call<'_>, from: &mut dyn Source) -> Poll<Result<usize>> {
        let done = attempt(
            call,
            || self.writers.register(call.waker),
            || self.state.lock().write(&*self.host, from),
        );
        if let Poll::Ready(Ok(1..)) = done {
            self.readers.wake();
        }
        done
    }

    /// Bytes that can be read.
    pub(crate) fn filled(&self) -> usize {
        self.state.lock().filled()
    }

    /// Slots times their size.
    pub(crate) fn capacity(&self) -> usize {
        self.state.lock().most * PAGE
    }

    /// Gives it room for `bytes`, rounded up to a power of two of pages, and returns how much.
    ///
    /// # Errors
    /// `EBUSY` if more is in it, `EPERM` above 1 MiB, `EINVAL` for 0.
    pub(crate) fn set_capacity(&self, bytes: usize) -> Result<usize> {
        if bytes == 0 || bytes > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let slots = bytes.div_ceil(PAGE).next_power_of_two();
        let mut state = self.state.lock();
        if slots > state.most && slots > MOST_SLOTS {
            return Err(Errno::EPERM);
        }
        if slots < state.slots.len() {
            return Err(Errno::EBUSY);
        }
        state.most = slots;
        drop(state);
        self.writers.wake();
        Ok(slots * PAGE)
    }

    /// How many have it open to read, and to write.
    pub(crate) fn ends(&self) -> (u32, u32) {
        let state = self.state.lock();
        (state.readers, state.writers)
    }

    /// Has a waker woken when bytes come, or room.
    pub(crate) fn register(&self, reads: bool, writes: bool, waker: &Waker) {
        if reads {
            self.readers.register(waker);
        }
        if writes {
            self.writers.register(waker);
        }
    }
}

impl State {
    fn filled(&self) -> usize {
        self.slots.iter().map(|slot| slot.to - slot.from).sum()
    }

    fn read(&mut self, to: &mut dyn Sink) -> Option<Result<usize>> {
        let mut done = 0;
        while to.room() > 0 {
            let Some(slot) = self.slots.front_mut() else {
                break;
            };
            let count = (slot.to - slot.from).min(to.room());
            let copied = slot.page.read(slot.from, count, to);
            slot.from += copied;
            done += copied;
            if slot.from == slot.to {
                self.spare = self.slots.pop_front().map(|slot| slot.page);
            }
            if copied < count {
                return Some(match done {
                    0 => Err(Errno::EFAULT),
                    _ => Ok(done),
                });
            }
        }
        match done {
            0 if self.writers > 0 => None,
            _ => Some(Ok(done)),
        }
    }

    fn write(&mut self, host: &dyn Host, from: &mut dyn Source) -> Option<Result<usize>> {
        if from.left() == 0 {
            return Some(Ok(0));
        }
        if self.readers == 0 {
            return Some(Err(Errno::EPIPE));
        }
        let mut done = 0;
        // What is left over of whole pages joins the last slot, if it fits there as a whole.
        let odd = from.left() % PAGE;
        if odd > 0
            && from.taken() == 0
            && let Some(slot) = self.slots.back_mut()
            && slot.to + odd <= PAGE
        {
            done = slot.page.write(slot.to, odd, from);
            slot.to += done;
            if done < odd {
                return Some(match done {
                    0 => Err(Errno::EFAULT),
                    _ => Ok(done),
                });
            }
        }
        let error = loop {
            if from.left() == 0 || self.slots.len() >= self.most {
                break None;
            }
            if self.slots.try_reserve(1).is_err() {
                break Some(Errno::ENOMEM);
            }
            let Some(page) = self.spare.take().or_else(|| host.page()) else {
                break Some(Errno::ENOMEM);
            };
            let count = from.left().min(PAGE);
            let copied = page.write(0, count, from);
            if copied == 0 {
                self.spare = Some(page);
                break Some(Errno::EFAULT);
            }
            self.slots.push_back(Slot {
                page,
                from: 0,
                to: copied,
            });
            done += copied;
            if copied < count {
                break Some(Errno::EFAULT);
            }
        };
        match (done, error) {
            (0, Some(error)) => Some(Err(error)),
            (0, None) => None,
            _ => Some(Ok(done)),
        }
    }
}

/// An open end of a pipe, or both.
pub(crate) struct PipeEnd {
    pub(crate) pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// How often it had been opened to write when this end came, if nobody wrote then.
    silent_at: Option<u64>,
}

impl PipeEnd {
    /// Whether the other side of a named pipe came since this end was opened, or is there.
    pub(crate) fn met(&self, before: (u64, u64)) -> bool {
        let state = self.pipe.state.lock();
        match (self.reads, self.writes) {
            (true, true) => true,
            (true, false) => state.writers > 0 || state.opened.1 != before.1,
            _ => state.readers > 0 || state.opened.0 != before.0,
        }
    }

    /// How often the pipe was opened to read and to write.
    pub(crate) fn opened(&self) -> (u64, u64) {
        self.pipe.state.lock().opened
    }
}

impl File for PipeEnd {
    fn read(&self, call: &Call<'_>, _at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        self.pipe.read(call, to)
    }

    fn write(
        &self,
        call: &Call<'_>,
        _at: Where,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        self.pipe
            .write(call, from)
            .map(|done| done.map(|count| (0, count)))
    }

    fn ready(&self, waker: Option<&Waker>) -> Ready {
        if let Some(waker) = waker {
            self.pipe.register(self.reads, self.writes, waker);
        }
        let state = self.pipe.state.lock();
        let mut ready = Ready::empty();
        if self.reads {
            ready.set(Ready::READ, !state.slots.is_empty());
            // A named pipe that nobody has written to since it was opened is not hung up yet.
            let had_writer = self.silent_at != Some(state.opened.1);
            ready.set(Ready::HUP, state.writers == 0 && had_writer);
        }
        if self.writes {
            ready.set(Ready::WRITE, state.slots.len() < state.most);
            ready.set(Ready::ERR, state.readers == 0);
        }
        ready
    }

    fn ioctl(
        &self,
        _call: &Call<'_>,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        Poll::Ready(match request {
            ioctl::FIONREAD => argument.put_number(self.pipe.filled() as i32),
            _ => Err(Errno::ENOTTY),
        })
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= u32::from(self.reads);
        state.writers -= u32::from(self.writes);
        if state.readers == 0 && state.writers == 0 {
            // As with Linux, what nobody read is gone when a named pipe is opened next.
            state.slots.clear();
            state.spare = None;
        }
        drop(state);
        self.pipe.wake();
    }
}

/// Opening a named pipe: an end that waits for the other side.
pub(crate) struct Meeting {
    end: Arc<PipeEnd>,
    before: (u64, u64),
}

impl Meeting {
    /// Opens an end of a named pipe.
    ///
    /// # Errors
    /// `ENXIO` for one that would write, may not wait, and has no reader.
    pub(crate) fn new(pipe: &Arc<Pipe>, flags: u32) -> Result<Self> {
        let mode = flags & linux::O_ACCMODE;
        let reads = mode != linux::O_WRONLY;
        let writes = mode != linux::O_RDONLY;
        if !reads && flags & linux::O_NONBLOCK != 0 && pipe.ends().0 == 0 {
            return Err(Errno::ENXIO);
        }
        let end = Arc::new(pipe.open(reads, writes));
        let before = end.opened();
        Ok(Self { end, before })
    }

    /// The open file, once the other side was there.
    pub(crate) fn poll(&self, call: &Call<'_>, flags: u32) -> Poll<Arc<dyn File>> {
        let waits = flags & linux::O_NONBLOCK == 0;
        look_twice(
            || self.end.pipe.register(true, true, call.waker),
            || (!waits || self.end.met(self.before)).then(|| self.end.clone() as Arc<dyn File>),
        )
    }
}
