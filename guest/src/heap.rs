//! The kernel heap: talc over pages that are mapped side by side as they are needed.
//!
//! Frames need not be neighbours: the heap grows at the end of its own part of the address space.
//! Memory that runs out is an error, not a panic, for whoever uses the `try_` functions of `alloc`;
//! the page-table path itself never allocates here, so that growth cannot need growth.

extern crate alloc;

use core::alloc::Layout;
use core::ptr::NonNull;

use talc::TalcLock;
use talc::base::binning::Binning;
use talc::base::{CHUNK_UNIT, Talc};
use talc::source::Source;

use crate::lock::RawLock;
use crate::mm::{self, Flags, layout};
use crate::rank;

const PAGE: u64 = 4096;
/// Least growth, in pages: mapping several at once is cheaper than one by one.
const STEP: u64 = 16;

#[global_allocator]
static HEAP: TalcLock<RawLock<rank::Heap>, Pages> = TalcLock::new(Pages {
    end: None,
    pages: 0,
});

/// Where heap memory comes from.
#[derive(Debug)]
struct Pages {
    /// End of what talc was given.
    end: Option<NonNull<u8>>,
    /// Pages mapped so far.
    pages: u64,
}

// SAFETY: the pointer is only an address here: the end of memory that every vCPU maps alike.
unsafe impl Send for Pages {}

// SAFETY: nothing here allocates: the page-table path has fixed memory of its own.
unsafe impl Source for Pages {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the allocation itself, its alignment and talc's own tags; the first time also
        // for talc's bookkeeping, which fits in a step.
        let bytes = layout.size() + layout.align() + 4 * CHUNK_UNIT;
        let wanted = (bytes as u64).div_ceil(PAGE).max(STEP);
        let start = layout::HEAP.start + talc.source.pages * PAGE;
        if wanted > (layout::HEAP.end - start) / PAGE {
            return Err(());
        }
        let mapped = map(start, wanted);
        talc.source.pages += mapped;
        if mapped == 0 {
            return Err(());
        }
        let base = core::ptr::with_exposed_provenance_mut::<u8>(start as usize);
        let bytes = (mapped * PAGE) as usize;
        let end = match talc.source.end {
            // SAFETY: the pages behind the heap's end were mapped just now, for nobody else.
            Some(end) => Some(unsafe { talc.extend(end, base.wrapping_add(bytes)) }),
            // SAFETY: the first pages of the heap were mapped just now, for nobody else.
            None => unsafe { talc.claim(base, bytes) },
        };
        talc.source.end = end;
        end.map(drop).ok_or(())
    }
}

/// Maps up to `pages` new frames from `va` on, for good, and says how many.
fn map(va: u64, pages: u64) -> u64 {
    let grown = mm::try_with(|tables| {
        for page in 0..pages {
            let frame = tables.alloc_frame();
            let mapped = frame.and_then(|f| tables.map_frames(va + page * PAGE, [f], Flags::DATA));
            if let Err(e) = mapped {
                return (page, Some(e));
            }
        }
        (pages, None)
    });
    // The page tables are in use: whoever holds them may not allocate.
    let (mapped, error) = grown.unwrap_or((0, None));
    if let Some(e) = error {
        log::warn!(target: "heap", "grew by {mapped} of {pages} pages: {e}");
    }
    mapped
}

/// Grows the heap until it can serve `bytes` at once; false if it cannot.
///
/// Frames that the heap takes stay its own: whoever counts frames has it grown before.
pub(crate) fn grow_to(bytes: usize) -> bool {
    alloc::vec::Vec::<u8>::new()
        .try_reserve_exact(bytes)
        .is_ok()
}

/// Pages that the heap has grown to. It does not shrink.
pub(crate) fn pages() -> u64 {
    HEAP.lock().source.pages
}
