//! Frames to map: allocated before anything is counted, remembered in frames of their own that are
//! mapped side by side.

use hypercall::Pfn;

use crate::mm::Running;
use crate::mm::frames::Frame;
use crate::mm::{Flags, MmError, Tables, layout};

/// Frames in the pool.
const FRAMES: u64 = 4096;
/// Pages that their numbers fill.
const PAGES: u64 = FRAMES * 8 / 4096;
/// Where the numbers are mapped.
const LIST: u64 = layout::DYNAMIC.start + (32 << 30);

/// A list of frames.
pub(crate) struct Pool {
    frames: &'static [Pfn],
}

impl Pool {
    /// Allocates all of it.
    pub(crate) fn new(tables: &mut Tables<Running>) -> Result<Pool, MmError> {
        for page in 0..PAGES {
            let mut frame = tables.alloc_frame()?;
            let pfn = frame.pfn();
            for i in 0..512 {
                let number = tables.alloc_frame()?.pfn().as_u64();
                tables.frame_memory(&mut frame)[i] = number;
            }
            // SAFETY: the frame is this list's alone; nothing else uses the place.
            unsafe { tables.map(LIST + page * 4096, core::iter::once(pfn), Flags::CONST) }?
                .commit(tables)?;
        }
        let list = core::ptr::with_exposed_provenance::<Pfn>(LIST as usize);
        // SAFETY: mapped above, filled before with the numbers of frames, which a `Pfn` is laid out
        // as, and written no more.
        let frames = unsafe { core::slice::from_raw_parts(list, FRAMES as usize) };
        Ok(Pool { frames })
    }

    /// The first `count` frames.
    pub(crate) fn frames(&self, count: u64) -> impl ExactSizeIterator<Item = Pfn> + '_ {
        self.frames[..count as usize].iter().copied()
    }

    /// Gives everything back.
    pub(crate) fn free(self, tables: &mut Tables<Running>) -> Result<(), MmError> {
        for pfn in self.frames {
            // SAFETY: the pool's since it was made, of which this is the end.
            tables.free_frame(unsafe { Frame::from_pfn(*pfn) })?;
        }
        for page in 0..PAGES {
            let va = LIST + page * 4096;
            let entry = tables.ptep_get(va)?;
            let list = tables.pte_val(entry).ok_or(MmError::NotMapped { va })?.pfn;
            // SAFETY: the list was read for the last time.
            unsafe { tables.unmap(va, 1) }?.commit(tables)?;
            // SAFETY: the list's since it was made, and read and mapped no more.
            tables.free_frame(unsafe { Frame::from_pfn(list) })?;
        }
        Ok(())
    }
}
