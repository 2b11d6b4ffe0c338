//! Events in hardware virtualisation: `shared_info` by asking for it, upcalls as an interrupt.
//!
//! Xen puts the page in the place of a frame that the guest names (`xenmem_add_to_physmap_one`,
//! `xen/arch/x86/mm/p2m.c`). One of the kernel's own is given for it, so that the frame is recorded
//! as what it then is; the memory that was there goes back to Xen.
//!
//! The interrupt comes while the pending byte is set and RFLAGS.IF with it: the byte is cleared by
//! looking for events, and nothing else acknowledges it.

use core::ptr::NonNull;

use hypercall::{Mfn, Pfn, hvm, memory};
use marks::init;

use crate::init::initcall;
use crate::mm::layout::Fixed;
use crate::mm::{self, Flags, MmError};
use crate::options::Options;
use crate::refused::Refused;
use crate::shared;
use crate::xen::HV;

/// Maps the page and names the vector. The vector's gate is there since the traps' are.
#[init]
fn install(_: &Options<'_>) -> Result<(), Refused> {
    let place = Fixed::SharedInfo.address();
    mm::with(|tables| -> Result<(), Refused> {
        let frame = tables.alloc_frame()?;
        // SAFETY: the frame was handed out just now, and is declared to be shared below.
        if let Err(e) = unsafe { memory::place_shared_info(&HV, frame.pfn()) } {
            tables.free_frame(frame)?;
            return Err(e.into());
        }
        let pfn = tables.share_frame(frame)?;
        // Such a guest's frames have one number.
        let mfn = Mfn::truncate(pfn.as_u64());
        // SAFETY: the frame is the page that Xen shares with this domain, and this is its place.
        Ok(unsafe { tables.map_machine(place, mfn, Flags::DATA) }?)
    })?;
    if let Some(page) = NonNull::new(core::ptr::with_exposed_provenance_mut(place as usize)) {
        // SAFETY: mapped just now, for good.
        unsafe { shared::publish(page) };
    }
    name_vector()
}

/// Names the vector of upcalls to Xen.
fn name_vector() -> Result<(), Refused> {
    // SAFETY: the gate leads to `event::interrupted`, which clears the pending byte.
    Ok(unsafe { hvm::set_callback_vector(&HV, super::VECTOR) }?)
}

/// Places the page again and names the vector: in a restored domain, which has memory in the place of the
/// page. Nobody uses it meanwhile.
///
/// # Errors
/// Xen's refusal.
pub(crate) fn share_anew() -> Result<(), Refused> {
    let va = Fixed::SharedInfo.address();
    let entry = mm::with(|tables| tables.ptep_get(va))?;
    let frame = entry.mfn().ok_or(MmError::NotMapped { va })?;
    // SAFETY: the frame was given away for this at boot, and is declared to be shared. It has the same
    // number in the domain, and nobody uses what is mapped there.
    unsafe { memory::place_shared_info(&HV, Pfn::truncate(frame.as_u64())) }?;
    name_vector()
}
initcall!("vector", Core, after [], needs SHARED_FRAME, install);
