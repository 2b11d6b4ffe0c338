//! What the kernel can do on some ways of running and not on others, with the reason.
//!
//! Everything that registers itself in a linker table names one of these, and is used only where
//! that is; what the running subarch lacks is said at boot. A module that knows a further one
//! declares it in the same table.

use linker::subarch::Subarches;
use linker::tables::{Capability, Item, by_name};
use linkme::distributed_slice;

use crate::subarch::{self, Subarch};

/// All of them, in no order.
#[distributed_slice]
pub(crate) static CAPABILITIES: [Capability];

/// What needs nothing but the kernel itself.
#[distributed_slice(CAPABILITIES)]
pub(crate) static EVERYWHERE: Capability = Capability::everywhere("kernel");

/// Xen between the kernel and its page tables, with types, pins and refusals.
#[distributed_slice(CAPABILITIES)]
pub(crate) static XEN_TABLES: Capability = Capability::only(
    "page tables that Xen checks",
    Subarches::XEN_PV,
    "no Xen looks at these page tables",
);

/// Page tables that the kernel writes by itself, with four levels or five.
#[distributed_slice(CAPABILITIES)]
pub(crate) static OWN_TABLES: Capability = Capability::only(
    "own page tables",
    Subarches::XEN_PVH.union(Subarches::BARE),
    "Xen owns them, with four levels",
);

/// Calls from Xen where interrupts and exceptions would come.
#[distributed_slice(CAPABILITIES)]
pub(crate) static CALLBACKS: Capability = Capability::only(
    "callbacks",
    Subarches::XEN_PV,
    "what comes, comes by vectors",
);

/// Interrupts and exceptions that come to the kernel by vectors of its own.
#[distributed_slice(CAPABILITIES)]
pub(crate) static OWN_VECTORS: Capability = Capability::only(
    "own vectors",
    Subarches::XEN_PVH.union(Subarches::BARE),
    "Xen takes what comes, and calls back",
);

/// A Xen that answers hypercalls.
#[distributed_slice(CAPABILITIES)]
pub(crate) static HYPERCALLS: Capability = Capability::only(
    "hypercalls",
    Subarches::XEN_PV.union(Subarches::XEN_PVH),
    "there is no Xen to ask",
);

/// `shared_info` in the place of a frame that the kernel gave for it.
#[distributed_slice(CAPABILITIES)]
pub(crate) static SHARED_FRAME: Capability = Capability::only(
    "frame for shared_info",
    Subarches::XEN_PVH,
    "none of the kernel's takes its place",
);

/// The devices of a PC.
#[distributed_slice(CAPABILITIES)]
pub(crate) static PC: Capability =
    Capability::only("PC devices", Subarches::BARE, "Xen stands in for them");

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
