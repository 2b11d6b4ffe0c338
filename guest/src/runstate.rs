//! How each vCPU spends its time: a place for each where Xen keeps that up to date (`vcpu.h`), so that
//! nobody has to ask.
//!
//! A place is named to Xen by its machine address where it takes one (4.18 and later); an earlier one gets a
//! virtual address, and writes there by whichever tables the vCPU runs with. Xen forgets both over a
//! restore.

extern crate alloc;

use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use hypercall::abi::vcpu::{XEN_RUNSTATE_UPDATE, vcpu_runstate_info};
use hypercall::vcpu::{AreaPlace, register_runstate};
use hypercall::vm_assist::{self, Assist};
use hypercall::{MachAddr, VirtAddr, XenError};
use marks::init;

use crate::init::initcall;
use crate::lock::Lock;
use crate::mm::{self, MmError};
use crate::options::Options;
use crate::refused::Refused;
use crate::selection::Selection;
use crate::xen::HV;
use crate::{cpu, rank};

/// A vCPU's, which lies within a page.
#[repr(C, align(64))]
struct Place {
    info: UnsafeCell<vcpu_runstate_info>,
    number: u32,
}

// SAFETY: Xen writes the information, whole or with a flag that says when not; others only read it.
unsafe impl Sync for Place {}

/// Those that Xen knows.
static PLACES: Lock<Vec<&'static Place>, rank::Runstates> = Lock::new(Vec::new());

/// Readies the boot vCPU's.
#[init]
fn init(options: &Options<'_>) -> Result<(), Refused> {
    // What the rules try is not to be disturbed.
    if options.rules != Selection::None || options.differential.is_some() {
        return Ok(());
    }
    begin(0);
    Ok(())
}
initcall!("runstate", Service, after [], needs HYPERCALLS, init);

/// Has Xen keep up to date how a vCPU spends its time, of which it knows nothing yet. Where it does not,
/// it is asked instead.
pub(crate) fn begin(number: u32) {
    match place(number).and_then(register) {
        Ok(by) => log::debug!("of vCPU {number} by {by} address"),
        Err(e) => log::info!("Xen keeps none for vCPU {number}: {e}"),
    }
}

/// The place of a vCPU, for good.
fn place(number: u32) -> Result<&'static Place, Refused> {
    let known = |places: &Vec<&'static Place>| {
        let mut all = places.iter();
        all.find(|place| place.number == number).copied()
    };
    if let Some(place) = known(&PLACES.lock()) {
        return Ok(place);
    }
    let mut memory = Vec::new();
    let mut places = PLACES.lock();
    if memory.try_reserve_exact(1).is_err() || places.try_reserve(1).is_err() {
        return Err(MmError::Frame(mm::frames::FrameError::OutOfMemory).into());
    }
    memory.push(Place {
        info: UnsafeCell::new(vcpu_runstate_info::default()),
        number,
    });
    let place: &'static Place = &memory.leak()[0];
    places.push(place);
    Ok(place)
}

/// Tells Xen of a place, and says by which kind of address.
fn register(place: &'static Place) -> Result<&'static str, Refused> {
    let va = place.info.get().expose_provenance() as u64;
    let entry = mm::with(|tables| tables.ptep_get(va))?;
    let mfn = entry.mfn().ok_or(MmError::NotMapped { va })?;
    // Refused, Xen sets no flag while it writes, and what is read is looked at twice all the same.
    let _ = vm_assist::set(&HV, Assist::RunstateUpdateFlag, true);
    let by = |at| {
        // SAFETY: aligned as it is it lies within its page, which the heap never gives up.
        let result: Result<(), XenError> = unsafe { register_runstate(&HV, place.number, at) };
        result
    };
    match by(AreaPlace::Machine(MachAddr::from_frame(mfn, va))) {
        Ok(()) => Ok("machine"),
        Err(_) => {
            by(AreaPlace::Virtual(VirtAddr::new_truncate(va)))?;
            Ok("virtual")
        }
    }
}

/// How a vCPU spent its time, by what Xen wrote last; `None` where it writes nothing.
pub(crate) fn of(number: u32) -> Option<vcpu_runstate_info> {
    let place = {
        let places = PLACES.lock();
        let mut all = places.iter();
        *all.find(|place| place.number == number)?
    };
    let info = place.info.get();
    // SAFETY: an aligned word of the place, which Xen writes.
    let since = unsafe { AtomicU64::from_ptr(&raw mut (*info).state_entry_time) };
    loop {
        let before = since.load(Ordering::Acquire);
        // SAFETY: integers, mapped for good; one that is read while Xen writes is thrown away.
        let found = unsafe { info.read_volatile() };
        fence(Ordering::Acquire);
        let is_whole = before & XEN_RUNSTATE_UPDATE == 0;
        if is_whole && since.load(Ordering::Relaxed) == before {
            // Nothing was ever written where a registration was refused.
            return (before != 0).then_some(found);
        }
    }
}

/// Registers the boot vCPU's again: in a restored domain Xen knows of none.
pub(crate) fn begin_anew() {
    if !PLACES.lock().is_empty() {
        begin(cpu::here().number());
    }
}
