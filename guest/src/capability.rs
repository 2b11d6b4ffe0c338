//! What the kernel can do on some ways of running and not on others, with the reason.
//!
//! Everything that registers itself in a linker table names one of these, and is used only where
//! that is; what the running subarch lacks is said at boot. A module that knows a further one
//! declares it in the same table.

use linker::tables::{Capability, Item, by_name};
use linkme::distributed_slice;

use crate::subarch::{self, Subarch};

/// All of them, in no order.
#[distributed_slice]
pub(crate) static CAPABILITIES: [Capability];

/// Declares one: where it is, and why nowhere else, in a sentence that is said at boot.
macro_rules! capability {
    ($(#[$doc:meta])* $ident:ident, $name:literal, on [$($on:ident),*], $because:literal) => {
        linker::record!(
            "capability", stringify!($ident), $name, $because $(, stringify!($on))*
        );
        $(#[$doc])*
        #[linkme::distributed_slice($crate::capability::CAPABILITIES)]
        pub(crate) static $ident: linker::tables::Capability = linker::tables::Capability::only(
            $name,
            linker::subarch::Subarches::empty()$(.union(linker::subarch::Subarches::$on))*,
            $because,
        );
    };
}

linker::record!(
    "capability",
    "EVERYWHERE",
    "kernel",
    "",
    "XEN_PV",
    "XEN_PVH",
    "BARE"
);
/// What needs nothing but the kernel itself.
#[distributed_slice(CAPABILITIES)]
pub(crate) static EVERYWHERE: Capability = Capability::everywhere("kernel");

capability!(
    /// Xen between the kernel and its page tables, with types, pins and refusals; it calls back where
    /// interrupts and exceptions would come.
    XEN_TABLES, "page tables that Xen checks", on [XEN_PV],
    "only a PV guest's page tables are checked by Xen"
);

capability!(
    /// Interrupts and exceptions that come to the kernel by vectors of its own.
    OWN_VECTORS, "own interrupt vectors", on [XEN_PVH, BARE],
    "Xen takes a PV guest's interrupts and exceptions, and calls it back"
);

capability!(
    /// A Xen that answers hypercalls.
    HYPERCALLS, "hypercalls", on [XEN_PV, XEN_PVH],
    "there is no Xen to ask"
);

capability!(
    /// `shared_info` in the place of a frame that the kernel gave for it.
    SHARED_FRAME, "own place for shared_info", on [XEN_PVH],
    "only a PVH guest chooses the frame of shared_info"
);

capability!(
    /// The devices of a PC.
    PC, "PC devices", on [BARE],
    "Xen gives its guests no PC devices"
);

/// Whether the running subarch has it.
#[inline]
pub(crate) fn is_here(capability: &Capability) -> bool {
    capability.is_on(subarch::current())
}

/// Whether what is registered has a meaning here; otherwise the reason.
pub(crate) fn admits(item: &Item) -> Result<(), Lacking> {
    let here = subarch::current();
    if item.needs.is_on(here) {
        return Ok(());
    }
    Err(Lacking {
        here,
        capability: item.needs,
    })
}

/// A capability that the running subarch does not have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lacking {
    here: Subarch,
    capability: &'static Capability,
}

impl core::fmt::Display for Lacking {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "not on {}: {}", self.here, self.capability.because())
    }
}

/// The capabilities that the running subarch lacks, by name.
pub(crate) fn lacking() -> impl Iterator<Item = &'static Capability> {
    by_name(&CAPABILITIES, Capability::name).filter(|capability| !is_here(capability))
}
