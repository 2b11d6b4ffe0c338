//! Parts of the image become memory to hand out.
//!
//! First the pages vanish from where they are linked, so that a mistake in what is taken to be
//! unused faults at once; then their frames become writable in the direct map and cease to be the
//! image's; only then are they free.

use hypercall::Pfn;

use crate::error::MmError;
use crate::frames::Frame;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::state::Kind;
use crate::tables::Tables;

const PAGE: u64 = 4096;
/// Frames that are made free at a time: a bit each in a word.
const AT_ONCE: u64 = u64::BITS as u64;

impl<M: Machine> Tables<M> {
    /// Gives consecutive pages of the image, from `va` on, to the allocator. Those that are the
    /// image's no more are passed over, so that what failed halfway can be asked for again.
    ///
    /// # Errors
    /// Not a range of the image's addresses, or Xen's refusal.
    ///
    /// # Safety
    /// Nobody uses them any more.
    #[track_caller]
    pub unsafe fn release(&mut self, va: u64, pages: u64) -> Result<(), MmError> {
        let end = pages
            .checked_mul(PAGE)
            .and_then(|bytes| va.checked_add(bytes));
        if !end.is_some_and(|end| M::Layout::IMAGE.contains(&va) && end <= M::Layout::IMAGE.end) {
            return Err(MmError::BadRange { va, pages });
        }
        // SAFETY: nobody uses the pages any more, as the caller says.
        unsafe { self.unmap(va, pages) }?.commit(self)?;
        let first = (va - M::Layout::IMAGE.start) / PAGE;
        let end = first + pages;
        (first..end)
            .step_by(AT_ONCE as usize)
            // SAFETY: pages that were unmapped just now, and that nobody uses, as the caller says.
            .try_for_each(|start| unsafe { self.release_frames(start, AT_ONCE.min(end - start)) })
    }

    /// Makes up to [`AT_ONCE`] frames of the image free, which nothing but the window maps.
    ///
    /// # Safety
    /// Nobody uses them any more.
    #[track_caller]
    unsafe fn release_frames(&mut self, first: u64, count: u64) -> Result<(), MmError> {
        let mut asked = 0_u64;
        let result = self.lazily(|tables| {
            for bit in 0..count {
                let pfn = Pfn::truncate(first + bit);
                let (state, _) = tables.frames().states(pfn)?;
                if matches!(
                    state.kind,
                    Kind::ImageConst | Kind::ImageData | Kind::ImageFrozen
                ) {
                    // SAFETY: nobody uses the frames, as the caller says.
                    unsafe { tables.take_from_image(pfn) }?;
                    asked |= 1 << bit;
                }
            }
            Ok(())
        });
        let result = result.and(self.flush());
        // Whatever came true of it is free, also if not all did.
        for bit in (0..count).filter(|bit| asked >> bit & 1 == 1) {
            let pfn = Pfn::truncate(first + bit);
            let (state, _) = self.frames().states(pfn)?;
            if state.kind == Kind::Owned {
                // SAFETY: it was the image's until now, and nobody's `Frame`; the caller of
                // `release` says that nobody uses it.
                self.free_frame(unsafe { Frame::from_pfn(pfn) })?;
            }
        }
        result
    }
}
