//! Parts of the image that are not needed for good, and what the build must know of them.
//!
//! These are what only the boot needs, and what only other ways of running need
//! ([`linker::Group`]). After boot they become free memory. The build follows every reference in the linked image
//! from the *roots*, where the kernel is entered after boot, and refuses an image in which one of
//! these parts can be reached. *Gates* are functions that are called only where their capability
//! is, because their callers ask first: elsewhere they are not followed. What the build cannot see is
//! a pointer that boot code leaves behind in a variable: a handler that is to stay is no boot code.
//!
//! ```text
//! root!("events", needs CALLBACKS, event_entry as *const ());
//! gate!("native back end", needs OWN_TABLES, without_pv as *const ());
//! ```

use linker::tables::Place;
use linker::{Group, Image, Passing};
use linkme::distributed_slice;

use crate::mm::{self, MmError};
use crate::subarch;

/// What was given back, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given {
    /// What only the boot needed.
    pub(crate) init: u64,
    /// What other ways of running need.
    pub(crate) others: u64,
}

/// The parts of the image that the running kernel does not need.
pub(crate) fn parts(image: &Image) -> impl Iterator<Item = &Passing> {
    let here = subarch::current();
    let unneeded = move |part: &&Passing| !part.group.needed_on().has(here);
    image.passing.iter().filter(unneeded)
}

/// Gives them to the allocator.
///
/// # Errors
/// What Xen refused.
///
/// # Safety
/// The boot is over: no code of it is returned to, and none of its variables is used.
pub(crate) unsafe fn give_back() -> Result<Given, MmError> {
    let image = Image::current();
    let mut given = Given::default();
    for Passing { group, range } in parts(&image) {
        let bytes = range.end - range.start;
        if bytes == 0 {
            continue;
        }
        // SAFETY: the caller's promise for what the boot used; the rest is not for this way of
        // running. The build has followed every reference to see that nothing leads there.
        mm::with(|tables| unsafe { tables.release(range.start, bytes / 4096) })?;
        match group {
            Group::Init => given.init += bytes,
            _ => given.others += bytes,
        }
    }
    Ok(given)
}

/// Where the kernel is entered after boot, besides by calls.
#[distributed_slice]
pub(crate) static ROOTS: [Place];

/// What is called only where its capability is.
#[distributed_slice]
pub(crate) static GATES: [Place];

/// Declares a place in a table; see the [module](self).
macro_rules! place {
    ($table:ident, $name:literal, $needs:ident, $at:expr) => {
        const _: () = {
            #[linkme::distributed_slice($crate::passing::$table)]
            static PLACE: linker::tables::Place = linker::tables::Place {
                item: linker::tables::Item {
                    name: $name,
                    needs: &$crate::capability::$needs,
                },
                at: $at,
            };
        };
    };
}
pub(crate) use place;

/// Declares a root; see the [module](self).
macro_rules! root {
    ($name:literal, needs $needs:ident, $at:expr) => {
        $crate::passing::place!(ROOTS, $name, $needs, $at);
    };
}
pub(crate) use root;

/// Declares a gate; see the [module](self).
macro_rules! gate {
    ($name:literal, needs $needs:ident, $at:expr) => {
        $crate::passing::place!(GATES, $name, $needs, $at);
    };
}
pub(crate) use gate;
