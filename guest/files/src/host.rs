//! What the kernel gives: pages, clocks, random bytes, signals, and who calls.

use alloc::sync::Arc;
use core::cell::Cell;
use core::task::Waker;

use crate::inode::Inode;
use crate::transfer::{Sink, Source};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A page that was never written.
pub(crate) static ZEROS: [u8; PAGE] = [0; PAGE];

/// A page of a file's data. Programs may have it mapped too, so its bytes change under whoever
/// looks at them.
pub trait Page: Send + Sync {
    /// Copies up to `count` bytes from byte `at` on into `sink`, and returns how many it took.
    fn read(&self, at: usize, count: usize, sink: &mut dyn Sink) -> usize;
    /// Copies up to `count` bytes of `source` to byte `at` on, and returns how many came.
    fn write(&self, at: usize, count: usize, source: &mut dyn Source) -> usize;
    /// Clears `count` bytes from byte `at` on.
    fn clear(&self, at: usize, count: usize);
    /// By what the kernel knows it, such as its frame's number, to map it.
    fn id(&self) -> u64;
}

/// A point in time, from 1970 on or from the boot on, as the clock has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below a thousand million.
    pub nanos: u32,
}

/// The kernel around the files. Nothing here may wait.
pub trait Host: Send + Sync {
    /// A page of zeros, or `None` if memory is short.
    fn page(&self) -> Option<Arc<dyn Page>>;
    /// The time of day.
    fn now(&self) -> Time;

    /// The time that is noted of files: no more exact than it has to be.
    fn stamp(&self) -> Time {
        self.now()
    }
    /// Nanoseconds since the boot.
    fn since_boot(&self) -> u64;
    /// Fills `bytes` at random.
    fn random(&self, bytes: &mut [u8]);
    /// Wakes `waker` once [`Host::since_boot`] has come to `time`. Later calls do not undo it, and
    /// may say the same again.
    fn wake_at(&self, time: u64, waker: &Waker);
    /// Sends a signal to all processes of a group.
    fn signal_group(&self, group: u32, signal: u32);
    /// A file has become as small as `size`: programs that have mapped more of it find nothing there.
    fn cut(&self, _inode: &Arc<dyn Inode>, _size: u64) {}
}

/// Who a process is to the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user that files are judged by.
    pub user: u32,
    /// The group that files are judged by.
    pub group: u32,
    /// The other groups.
    pub groups: alloc::vec::Vec<u32>,
}

impl Identity {
    /// The one who may everything.
    pub const ROOT: Self = Self {
        user: 0,
        group: 0,
        groups: alloc::vec::Vec::new(),
    };

    /// Whether the rights of files do not bind it.
    pub fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Whether it is in `group`.
    pub fn is_in(&self, group: u32) -> bool {
        self.group == group || self.groups.contains(&group)
    }
}

/// The thread that makes a call. A terminal asks who it is.
pub trait Caller {
    /// Its process.
    fn process(&self) -> u32;
    /// Its thread.
    fn thread(&self) -> u32;
    /// Its process group.
    fn group(&self) -> u32;
    /// Its session.
    fn session(&self) -> u32;
    /// Whether it ignores or blocks a signal.
    fn ignores(&self, signal: u32) -> bool;
    /// Whether nobody outside of its group but in its session could continue it once it stopped.
    fn is_orphaned(&self) -> bool;
    /// The session of a process group; `None` if there is no such group.
    fn session_of_group(&self, group: u32) -> Option<u32>;
    /// The limit on what number a descriptor may have (`RLIMIT_NOFILE`).
    fn descriptor_limit(&self) -> u32;
    /// The limit on a file's size (`RLIMIT_FSIZE`); the kernel sends `SIGXFSZ` on `EFBIG`.
    fn size_limit(&self) -> u64 {
        u64::MAX
    }
}

/// A call on an open file: who makes it, and how it waits.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Who calls.
    pub caller: &'a dyn Caller,
    /// Who that is to files.
    pub who: &'a Identity,
    /// What is woken when a call that gave `Poll::Pending` is worth making again.
    pub waker: &'a Waker,
    /// Gives `EAGAIN` rather than `Poll::Pending` (`O_NONBLOCK`).
    pub nonblock: bool,
    /// When it was first made, in nanoseconds since the boot; `None` until it notes that.
    pub began: &'a Cell<Option<u64>>,
}

impl Call<'_> {
    /// The same, which gives `EAGAIN` rather than wait.
    pub(crate) fn without_waiting(&self) -> Self {
        Self {
            nonblock: true,
            ..*self
        }
    }

    /// When it was first made, which is now if it never was.
    pub fn began(&self, now: u64) -> u64 {
        let began = self.began.get().unwrap_or(now);
        self.began.set(Some(began));
        began
    }
}
