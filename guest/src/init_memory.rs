//! Init memory: parts of the image that are not needed for good, given back when the boot is over.
//!
//! What only the boot needs is marked `#[init]` where it stands, what only a kernel with page tables
//! of its own needs `#[native]` ([`marks`]); [`linker::Group`] says where each is needed. The build
//! refuses an image in which anything else refers to them. What it cannot see is a pointer that
//! boot code leaves behind in a variable: a handler that is to stay is not marked.

use linker::{Group, Image, InitMemory};

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
pub(crate) fn parts(image: &Image) -> impl Iterator<Item = &InitMemory> {
    let here = subarch::current();
    let unneeded = move |part: &&InitMemory| !part.group.needed_on().has(here);
    image.init_memory.iter().filter(unneeded)
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
    for InitMemory { group, range } in parts(&image) {
        let bytes = range.end - range.start;
        if bytes == 0 {
            continue;
        }
        // SAFETY: what only the boot used is used no more, as the caller promises; the rest is not
        // for this way of running. The build has seen that nothing else refers to either.
        mm::with(|tables| unsafe { tables.release(range.start, bytes / 4096) })?;
        match group {
            Group::Init => given.init += bytes,
            Group::Native => given.others += bytes,
        }
    }
    Ok(given)
}
