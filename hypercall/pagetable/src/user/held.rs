//! Memory of user mode's that somebody holds besides the entries that map it: a page of a file, or one that
//! processes share.
//!
//! Its record says that it is held, so that the last entry that goes does not free it, and that no entry
//! has it alone: a write to it where it is private gets a copy, however few map it.

use hypercall::Pfn;

use super::{Tables, check_user_range};
use crate::entry::Flags;
use crate::error::{FrameError, MmError};
use crate::frames::Frame;
use crate::machine::Machine;
use crate::ops::{check_rights, chunks};

/// Memory that its holder has and that user mode may have mapped as well, which reads and writes it at any
/// time: it is looked at by copies only, never by references.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "memory that is held is free only once it is let go"]
pub struct HeldFrame(Pfn);

impl HeldFrame {
    /// Its number.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.0
    }
}

impl<M: Machine> Tables<M> {
    /// Makes a frame memory that user mode may have mapped while the caller holds it.
    ///
    /// # Errors
    /// The frame, with what its record says against it.
    pub fn hold_frame(&self, frame: Frame) -> Result<HeldFrame, (Frame, FrameError)> {
        self.frames().hold(frame).map(HeldFrame)
    }

    /// Ends that: the memory is free, or will be when the last entry that maps it goes.
    ///
    /// # Errors
    /// Its record says that it was not held; it is lost then.
    pub fn let_go_of_frame(&mut self, held: HeldFrame) -> Result<(), MmError> {
        match self.frames().let_go(held.0)? {
            Some(frame) => self.free_frame(frame),
            None => Ok(()),
        }
    }

    /// Maps memory that is held, by its numbers, at consecutive pages from `va` on, where nothing is mapped;
    /// in force when it returns.
    ///
    /// # Errors
    /// As [`Tables::map_user`], and memory that is not held.
    #[track_caller]
    pub fn map_held(&mut self, va: u64, frames: &[Pfn], flags: Flags) -> Result<(), MmError> {
        let pages = frames.len() as u64;
        check_user_range(va, pages)?;
        check_rights(va, flags)?;
        let mut frames = frames.iter();
        for chunk in chunks(va, pages) {
            let these = frames.by_ref().take(chunk.count);
            self.map_user_chunk(chunk, flags, |tables, taken| {
                for &pfn in these {
                    tables.frames().count_held(pfn)?;
                    // There is room: as many as a table has entries.
                    let _ = taken.push(pfn.as_u64() as u32);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
