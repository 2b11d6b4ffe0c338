//! A PV guest's part: what it has of machine frames in pages that the tools read and write.
//!
//! The page tables themselves are the tools' to rewrite, who find an entry that names no memory of the
//! domain's a reason not to save it: so `shared_info` is not mapped meanwhile.

use core::cell::UnsafeCell;

use hypercall::abi::start_info::{start_info, start_info_console, start_info_console_domU};
use hypercall::event::Port;
use hypercall::sched::{self, Resumed};
use hypercall::{MachAddr, Mfn, Pfn};

use super::{SHARED_INFO, Trouble};
use crate::mm::layout::Fixed;
use crate::mm::machine::Machine;
use crate::mm::{self, Flags, MmError};
use crate::shared::{self, P2m};
use crate::xen::HV;

/// The page by which the tools tell a restored domain what it needs to know (`start_info`,
/// `xen/include/public/xen.h`).
#[repr(C, align(4096))]
struct Page(UnsafeCell<start_info>);

// SAFETY: the boot vCPU uses it while no other runs; the tools do while the domain does not.
unsafe impl Sync for Page {}

// SAFETY: integers.
static START_INFO: Page = Page(UnsafeCell::new(unsafe { core::mem::zeroed() }));

/// What such a guest finds when it goes on.
pub(super) struct Told {
    /// The tools' view of the p2m list, from before.
    p2m: P2m,
    shared_info: MachAddr,
}

impl Told {
    /// Writes `start_info` as the tools expect it, and returns what is told to a domain that goes on with
    /// all that it had.
    pub(super) fn prepare(store: Port, console: Port) -> Result<Told, Trouble> {
        let told = Told {
            p2m: shared::p2m().ok_or(Trouble::NotSaved)?,
            shared_info: frame_at(SHARED_INFO)?.addr(),
        };
        let info = START_INFO.0.get();
        // SAFETY: nobody else uses the page, which is memory of the image.
        unsafe {
            (&raw mut (*info).nr_pages).write(told.p2m.pages);
            (&raw mut (*info).shared_info).write(told.shared_info.as_u64());
            (&raw mut (*info).store_mfn).write(memory_at(Fixed::Store.address())?.as_u64());
            (&raw mut (*info).store_evtchn).write(store.0);
            (&raw mut (*info).console).write(start_info_console {
                domU: start_info_console_domU {
                    mfn: memory_at(Fixed::Console.address())?.as_u64(),
                    evtchn: console.0,
                },
            });
        }
        Ok(told)
    }

    /// Suspends the domain, and reads what it is told then: how it goes on, and the ports of xenstore and
    /// console.
    pub(super) fn suspend(&mut self) -> Result<(Resumed, Port, Port), Trouble> {
        let page = START_INFO.0.get();
        let frame = frame_at(page.expose_provenance() as u64)?;
        // SAFETY: what of this kernel holds a machine number stands in `PARTS`, and is not used before it
        // is told the new ones.
        let how = unsafe { sched::suspend(&HV, frame) }?;
        // SAFETY: nobody writes to the page any more, which is memory of the image.
        unsafe {
            let address = (&raw const (*page).shared_info).read_volatile();
            self.shared_info = MachAddr::new(address).unwrap_or_else(|| {
                panic!("after a suspend, shared_info is said to be at {address:#x}")
            });
            let store = Port((&raw const (*page).store_evtchn).read_volatile());
            let console = Port((&raw const (*page).console.domU.evtchn).read_volatile());
            Ok((how, store, console))
        }
    }

    /// Maps `shared_info` where it was.
    pub(super) fn map_shared_info(&self) -> Result<(), Trouble> {
        mm::with(|tables| {
            // SAFETY: the frame is what Xen shares with this domain, and this is its place.
            unsafe { tables.map_machine(SHARED_INFO, self.shared_info.frame(), Flags::DATA) }?;
            tables.flush()
        })?;
        Ok(())
    }

    /// Tells the tools of the p2m list, and of the table that maps it, whose number is another.
    pub(super) fn publish_p2m(&self) -> Result<(), Trouble> {
        let P2m {
            pages, list, whole, ..
        } = self.p2m;
        let root = mm::with(|tables| tables.mfn(tables.root()))?;
        shared::publish_p2m(pages, list, root, whole);
        let before = self.p2m.root;
        if root.addr().as_u64() != before {
            log::debug!(
                target: "suspend",
                "the machine frames are others: the root's {root}, before {:#x}",
                before >> 12
            );
        }
        Ok(())
    }
}

/// The machine frame that is mapped at an address.
fn frame_at(va: u64) -> Result<Mfn, MmError> {
    let entry = mm::with(|tables| tables.ptep_get(va))?;
    entry.mfn().ok_or(MmError::NotMapped { va })
}

/// The frame of the domain's memory that is mapped at an address.
fn memory_at(va: u64) -> Result<Pfn, MmError> {
    let frame = frame_at(va)?;
    mm::with(|tables| tables.machine().pfn(frame)).ok_or(MmError::NotMapped { va })
}

/// Takes `shared_info` out of the page tables.
pub(super) fn unmap_shared_info() -> Result<(), Trouble> {
    mm::with(|tables| {
        // SAFETY: nobody uses the page any more.
        unsafe { tables.ptep_get_and_clear(SHARED_INFO) }?;
        tables.flush_tlb(Some(SHARED_INFO))?;
        tables.flush()
    })?;
    Ok(())
}
