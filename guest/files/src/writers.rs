//! Who may write to a file that is run: nobody, and nobody runs what somebody has open to write
//! (`ETXTBSY`).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicI32, Ordering};

use crate::errno::{Errno, Result};
use crate::inode::Inode;

/// How many have a file open to write or, below 0, how many run it (`i_writecount` in Linux'
/// `include/linux/fs.h`).
#[derive(Default)]
pub struct Writers(AtomicI32);

/// One who writes to a file, or runs it, until this is dropped.
#[must_use = "dropped, it is over"]
pub struct Held {
    inode: Arc<dyn Inode>,
    /// 1 for one who writes, -1 for one who runs it.
    one: i32,
}

impl Held {
    fn new(inode: &Arc<dyn Inode>, one: i32) -> Result<Option<Self>> {
        let Some(Writers(count)) = inode.writers() else {
            return Ok(None);
        };
        let more = |count: i32| (count.signum() != -one).then(|| count + one);
        match count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Some(Self {
                inode: inode.clone(),
                one,
            })),
            Err(_) => Err(Errno::ETXTBSY),
        }
    }

    /// One who writes to it; none for what no program is made of.
    ///
    /// # Errors
    /// `ETXTBSY` if somebody runs it.
    pub(crate) fn to_write(inode: &Arc<dyn Inode>) -> Result<Option<Self>> {
        Self::new(inode, 1)
    }

    /// One who runs it; none for what no program is made of.
    ///
    /// # Errors
    /// `ETXTBSY` if somebody has it open to write.
    pub fn to_run(inode: &Arc<dyn Inode>) -> Result<Option<Self>> {
        Self::new(inode, -1)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(Writers(count)) = self.inode.writers() {
            count.fetch_sub(self.one, Ordering::Relaxed);
        }
    }
}
