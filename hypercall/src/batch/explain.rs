//! Why Xen refuses: an errno and an entry, turned back into the likely rule.
//!
//! Xen answers with an errno and, if it is a debug build, a line in its own log. The rules are
//! those of `xen/arch/x86/mm.c` (`mod_l1_entry`, `get_page_from_l1e`, `_get_page_type`,
//! `do_mmuext_op`). Where several could apply, the words say so.

use core::fmt;

use crate::{
    Errno,
    mmu::{ExtOp, Level},
};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const CACHE: u64 = 1 << 3 | 1 << 4;
const PSE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
/// The frame's address.
const FRAME: u64 = crate::addr::ADDR_MASK;
/// The last frame that an entry can name: Xen takes it for "no frame".
const INVALID_FRAME: u64 = FRAME;
/// Slots of an L4 table that are Xen's.
const XEN_SLOTS: core::ops::RangeInclusive<usize> = 256..=271;

/// A rule that was probably broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "`words` says each")]
pub enum Reason {
    LargePage,
    XenSlot,
    CacheBits,
    GlobalAboveL1,
    NotATable,
    TableOfOtherType,
    TableEntryRefused,
    WritableMapOfTable,
    FrameNotOwned,
    DeviceFrame,
    NoFrame,
    XenPage,
    BadFrame,
    PinType,
    NotPinned,
    NoMemory,
    ListUnreadable,
    Race,
    NoDomain,
    Unknown,
    NotSupported,
    Other,
}

impl Reason {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::LargePage => "PSE above L1: PV guests have no large pages",
            Self::XenSlot => "L4 slots 256 to 271 are Xen's",
            Self::CacheBits => {
                "PWT, PCD or PAT set: cache attributes need a domain with I/O resources"
            }
            Self::GlobalAboveL1 => "G set above L1",
            Self::NotATable => {
                "flag bits that Xen does not allow, or the slot lies in a frame that is no page \
                 table of this domain (a GDT, or not its own)"
            }
            Self::TableOfOtherType => {
                "the frame cannot become a table of the level below: it is mapped writable, is in \
                 use at another level, is a GDT or is not this domain's; or a flag bit is not \
                 allowed"
            }
            Self::TableEntryRefused => {
                "an entry of the table being linked is refused: it maps a page table or a GDT \
                 writable, or a frame of another domain; or another vCPU changed the slot meanwhile"
            }
            Self::WritableMapOfTable => {
                "type conflict: the frame is a page table or a GDT, so it cannot be mapped \
                 writable; or it is not this domain's"
            }
            Self::FrameNotOwned => "the frame belongs to another domain",
            Self::DeviceFrame => {
                "the frame is no RAM of this domain, and the domain may not map devices there"
            }
            Self::NoFrame => "the frame number is the invalid one: a hole of the p2m was mapped",
            Self::XenPage => "cache attributes of a page of Xen's own cannot be changed",
            Self::BadFrame => "no such frame, or not this domain's",
            Self::PinType => {
                "the frame cannot be a table of this level: it is mapped writable, is in use as \
                 something else, is pinned already, or an entry in it is not allowed"
            }
            Self::NotPinned => "the frame is not pinned, or not this domain's",
            Self::NoMemory => "Xen is out of memory",
            Self::ListUnreadable => {
                "Xen could not read the requests, or write how far it got (above L2: another vCPU \
                 changed the slot meanwhile)"
            }
            Self::Race => "another vCPU changed the slot meanwhile",
            Self::NoDomain => "no such domain",
            Self::Unknown => "Xen does not know the request",
            Self::NotSupported => "not for this kind of domain",
            Self::Other => "no rule is known for this",
        }
    }

    /// For the hypercall as a whole.
    pub const fn of_call(errno: Errno) -> Self {
        match errno {
            Errno::EFAULT => Self::ListUnreadable,
            Errno::ESRCH => Self::NoDomain,
            Errno::ENOMEM => Self::NoMemory,
            Errno::ENOSYS => Self::Unknown,
            Errno::EOPNOTSUPP => Self::NotSupported,
            _ => Self::Other,
        }
    }

    /// For a change of the M2P.
    pub const fn of_machphys(errno: Errno) -> Self {
        match errno {
            Errno::EINVAL => Self::BadFrame,
            Errno::EPERM => Self::FrameNotOwned,
            _ => Self::of_call(errno),
        }
    }

    /// For an operation.
    pub const fn of_ext(op: &ExtOp, errno: Errno) -> Self {
        match (op, errno) {
            (ExtOp::Unpin(_), Errno::EINVAL) => Self::NotPinned,
            (
                ExtOp::Pin(..) | ExtOp::NewBaseptr(_) | ExtOp::NewUserBaseptr(_),
                Errno::EINVAL | Errno::EBUSY | Errno::EPERM,
            ) => Self::PinType,
            (_, Errno::EINVAL) => Self::BadFrame,
            (_, Errno::EACCES) => Self::CacheBits,
            _ => Self::of_call(errno),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// The likely reason why Xen refused to change entry `index` of a table of this level from `old`
/// to `new`.
pub fn explain(level: Level, index: usize, old: u64, new: u64, errno: Errno) -> Reason {
    let present = new & PRESENT != 0;
    let frame_changes = (old ^ new) & FRAME != 0 || old & PRESENT == 0;
    let gains_write = new & WRITABLE != 0 && (frame_changes || old & WRITABLE == 0);
    match (errno, level) {
        (Errno::EINVAL, Level::L4) if XEN_SLOTS.contains(&index) => Reason::XenSlot,
        (Errno::EINVAL, Level::L1) if present && new & (CACHE | PSE) != 0 => Reason::CacheBits,
        (Errno::EINVAL, Level::L1) if present && new & FRAME == INVALID_FRAME => Reason::NoFrame,
        (Errno::EINVAL, Level::L1) => Reason::NotATable,
        (Errno::EINVAL, _) if present && new & PSE != 0 => Reason::LargePage,
        (Errno::EINVAL, _) if present && new & CACHE != 0 => Reason::CacheBits,
        (Errno::EINVAL, _) if present && new & GLOBAL != 0 => Reason::GlobalAboveL1,
        (Errno::EINVAL, _) if present && frame_changes => Reason::TableOfOtherType,
        (Errno::EINVAL, _) => Reason::NotATable,
        (Errno::EBUSY, Level::L1) if present && gains_write => Reason::WritableMapOfTable,
        (Errno::EBUSY, Level::L1) if present && frame_changes => Reason::FrameNotOwned,
        (Errno::EBUSY, _) if present && frame_changes => Reason::TableEntryRefused,
        (Errno::EBUSY, _) => Reason::Race,
        (Errno::EPERM, Level::L1) => Reason::DeviceFrame,
        (Errno::EPERM, _) => Reason::TableEntryRefused,
        (Errno::EACCES, _) => Reason::XenPage,
        _ => Reason::of_call(errno),
    }
}
