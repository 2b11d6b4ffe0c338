//! Connected sockets: a pipe each way.

use alloc::sync::Arc;
use core::task::{Poll, Waker};

use linux_raw_sys::ioctl;

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::{Call, Host, PAGE};
use crate::inode::Where;
use crate::lock::Mutex;
use crate::pipe::{Pipe, PipeEnd};
use crate::ready::Ready;
use crate::transfer::{Argument, Sink, Source};

/// Bytes that one way holds, about what Linux gives a socket (`net.core.wmem_default`).
const CAPACITY: usize = 64 * PAGE;

/// One of two connected sockets.
pub(crate) struct SocketEnd {
    /// What the other side writes; `None` once this side reads no more.
    from: Mutex<Option<Arc<PipeEnd>>>,
    /// What the other side reads; `None` once this side writes no more.
    to: Mutex<Option<Arc<PipeEnd>>>,
}

/// Which directions end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shut {
    Read,
    Write,
    Both,
}

impl Shut {
    /// As `shutdown(2)` has it.
    pub(crate) fn from_program(how: u32) -> Option<Self> {
        Some(match how {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Both,
            _ => return None,
        })
    }
}

impl SocketEnd {
    /// Two that are connected.
    pub(crate) fn pair(host: &Arc<dyn Host>) -> [Self; 2] {
        let pipes = [(); 2].map(|()| {
            let pipe = Pipe::new(host.clone());
            // It cannot fail: the size is allowed, and nothing is in it.
            let _ = pipe.set_capacity(CAPACITY);
            pipe
        });
        [(0, 1), (1, 0)].map(|(from, to): (usize, usize)| Self {
            from: Mutex::new(Some(Arc::new(pipes[from].open(true, false)))),
            to: Mutex::new(Some(Arc::new(pipes[to].open(false, true)))),
        })
    }

    pub(crate) fn shut(&self, how: Shut) {
        // Taken first and dropped without the lock, since that wakes the other side.
        if how != Shut::Write {
            let _end = self.from.lock().take();
        }
        if how != Shut::Read {
            let _end = self.to.lock().take();
        }
    }

    fn from(&self) -> Option<Arc<PipeEnd>> {
        self.from.lock().clone()
    }

    fn to(&self) -> Option<Arc<PipeEnd>> {
        self.to.lock().clone()
    }
}

impl File for SocketEnd {
    fn read(&self, call: &Call<'_>, _at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        match self.from() {
            Some(end) => end.pipe.read(call, to),
            None => Poll::Ready(Ok(0)),
        }
    }

    fn write(
        &self,
        call: &Call<'_>,
        _at: Where,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        match self.to() {
            Some(end) => end.pipe.write(call, from).map_ok(|count| (0, count)),
            None => Poll::Ready(Err(Errno::EPIPE)),
        }
    }

    fn ready(&self, waker: Option<&Waker>) -> Ready {
        let reads = self.from().map(|end| end.ready(waker));
        let writes = self.to().map(|end| end.ready(waker));
        let is_over = reads.is_none_or(|ready| ready.contains(Ready::HUP));
        let is_shut = writes.is_none_or(|ready| ready.contains(Ready::ERR));
        let mut ready = reads.unwrap_or_default() | writes.unwrap_or_default();
        ready.remove(Ready::ERR | Ready::HUP);
        if is_over {
            ready |= Ready::READ | Ready::RDHUP;
        }
        if is_shut {
            ready |= Ready::WRITE;
        }
        ready.set(Ready::HUP, is_over && is_shut);
        ready
    }

    fn ioctl(
        &self,
        _call: &Call<'_>,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        let count = match request {
            ioctl::FIONREAD => self.from().map_or(0, |end| end.pipe.filled()),
            ioctl::TIOCOUTQ => self.to().map_or(0, |end| end.pipe.filled()),
            _ => return Poll::Ready(Err(Errno::ENOTTY)),
        };
        Poll::Ready(argument.put_number(count as i32))
    }
}
