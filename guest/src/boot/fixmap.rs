//! The first thing that every boot tests: a machine frame mapped at a fixed place shows what is in
//! it, and is gone when it is unmapped.
//!
//! Whatever is read before the direct map is read through the fixmap, the same way under every
//! subarch and with every number of levels; if this is wrong, nothing after it can be trusted.

use marks::init;

use crate::mm::layout::Fixed;
use crate::mm::running::Running;
use crate::mm::takeover::Early;
use crate::mm::{Flags, MmError};
use crate::probe;

/// What is looked at: a constant of the image.
static MARK: u64 = 0x6669_786d_6170_2121;

/// Maps the frame of a constant at a fixed place, compares, and unmaps it.
///
/// # Errors
/// Xen's refusal.
///
/// # Panics
/// The place shows something else.
#[init]
pub(super) fn check(early: &mut Early<'_, Running>) -> Result<(), MmError> {
    let address = (&raw const MARK).addr() as u64;
    let mfn = early.image_frame(address)?;
    let page = Fixed::Early.address();
    // SAFETY: a constant, only read.
    unsafe { early.map_fixed(page, mfn, Flags::CONST) }?;
    let found = probe::read(page + address % 4096);
    // SAFETY: read for the last time.
    unsafe { early.unmap_fixed(page) }?;
    let after = probe::read(page);
    assert!(
        found == Ok(MARK) && after.is_err(),
        "the fixmap shows {found:x?} instead of {MARK:#x}, and {after:x?} after unmapping"
    );
    Ok(())
}
