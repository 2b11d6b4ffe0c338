//! What a page of the window should map, and the report when it does not.

use core::fmt;

use crate::entry::{Flags, Pte};
use crate::error::MmError;

const KERNELS: u64 = 1 << 52;
/// Bit of [`Page`] and the right it stands for. A and D are the processor's.
const RIGHTS: [(u32, Flags); 4] = [
    (1 << 16, Flags::WRITABLE),
    (1 << 17, Flags::NO_EXECUTE),
    (1 << 18, Flags::USER),
    (1 << 19, Flags::SOFTWARE0),
];

/// A frame of the pool and rights, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Page(u32);

impl Page {
    pub(super) const NONE: Page = Page(0);

    pub(super) fn new(frame: usize, flags: Flags) -> Page {
        let rights = RIGHTS.iter().filter(|(_, flag)| flags.contains(*flag));
        Page((frame as u32 + 1) | rights.map(|(bit, _)| bit).sum::<u32>())
    }

    /// The frame's place in the pool.
    pub(super) fn frame(self) -> Option<usize> {
        (self.0 & 0xffff).checked_sub(1).map(|frame| frame as usize)
    }

    pub(super) fn is_mapped(self) -> bool {
        self != Page::NONE
    }

    pub(super) fn flags(self) -> Flags {
        let rights = RIGHTS.iter().filter(|(bit, _)| self.0 & bit != 0);
        rights.fold(Flags::PRESENT, |flags, (_, flag)| flags | *flag)
    }

    pub(super) fn with_flags(self, flags: Flags) -> Page {
        self.frame()
            .map_or(Page::NONE, |frame| Page::new(frame, flags))
    }
}

/// Whether an entry lets user mode in: Xen sets U on all, and marks those that came without.
pub(super) fn is_user(entry: Pte) -> bool {
    entry.bits() & Flags::USER.bits() != 0 && entry.bits() & KERNELS == 0
}

/// What was found to be different.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The entry as software sees it.
    Entry,
    /// The entry in the table, while nothing was queued.
    Table,
    /// What a read of the page gave: the processor has another translation.
    Load,
    /// Whether the page can be written.
    Store,
    /// Whether the page can be executed.
    Execute,
    /// Whether user mode can read the page.
    User,
    /// The number of requests queued.
    Queue,
    /// Whether lazy mode is on.
    Lazy,
    /// A frame handed out twice (`va` is its number), or written to by somebody else.
    Frame,
    /// How many frames are free.
    FreeFrames,
    /// The operation failed, and should not have, or with something else.
    Error(MmError),
    /// The operation should have failed.
    NoError,
}

/// The kernel's page tables and the reference differ.
#[derive(Clone, Copy, Debug)]
pub struct Divergence {
    /// The run's seed.
    pub seed: u64,
    /// The number of the operation, from 0.
    pub step: u64,
    /// The operation.
    pub op: super::Op,
    /// Where.
    pub va: u64,
    /// In what.
    pub what: What,
    /// What the reference says.
    pub expected: u64,
    /// What there is.
    pub found: u64,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {:#x} step {} {:?}: {:#x}: ",
            self.seed, self.step, self.op, self.va
        )?;
        match self.what {
            What::Error(e) => write!(f, "failed: {e}"),
            what => write!(
                f,
                "{what:?} is {:#x}, expected {:#x}",
                self.found, self.expected
            ),
        }
    }
}

impl core::error::Error for Divergence {}
