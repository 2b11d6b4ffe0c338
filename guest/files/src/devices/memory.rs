//! `/dev/null`, `zero`, `full`, `random` and `urandom`.

use alloc::sync::Arc;
use core::task::Poll;

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::{Call, Host, PAGE, ZEROS};
use crate::inode::Where;
use crate::system::Device;
use crate::transfer::{Sink, Source};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Nothing comes from it, anything goes to it.
    Null,
    /// Zeros come from it, anything goes to it.
    Zero,
    /// Zeros come from it, nothing fits into it.
    Full,
    /// Random bytes come from it, anything goes to it.
    Random,
}

impl Memory {
    pub(super) fn of(self, host: Arc<dyn Host>) -> MemoryDevice {
        MemoryDevice { what: self, host }
    }
}

/// A device of memory.
#[derive(Clone)]
pub(super) struct MemoryDevice {
    what: Memory,
    host: Arc<dyn Host>,
}

impl Device for MemoryDevice {
    fn open(&self, _call: &Call<'_>, _flags: u32) -> Result<Arc<dyn File>> {
        Ok(Arc::new(self.clone()))
    }
}

/// Random bytes that are made at a time.
const STEP: usize = 512;

impl File for MemoryDevice {
    fn has_positions(&self) -> bool {
        true
    }

    fn read(&self, _call: &Call<'_>, _at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        let mut done = 0;
        while to.room() > 0 && self.what != Memory::Null {
            let (count, copied) = match self.what {
                Memory::Random => {
                    let mut bytes = [0; STEP];
                    let count = to.room().min(STEP);
                    self.host.random(&mut bytes[..count]);
                    (count, to.put(&bytes[..count]))
                }
                _ => {
                    let count = to.room().min(PAGE);
                    (count, to.put(&ZEROS[..count]))
                }
            };
            done += copied;
            if copied < count {
                if done == 0 {
                    return Poll::Ready(Err(Errno::EFAULT));
                }
                break;
            }
        }
        Poll::Ready(Ok(done))
    }

    fn write(
        &self,
        _call: &Call<'_>,
        _at: Where,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        if self.what == Memory::Full {
            return Poll::Ready(Err(Errno::ENOSPC));
        }
        let all = from.left();
        Poll::Ready(Ok((0, from.skip(all))))
    }

    fn can_be_watched(&self) -> bool {
        self.what == Memory::Random
    }

    fn fixed_position(&self) -> Option<u64> {
        Some(0)
    }
}
