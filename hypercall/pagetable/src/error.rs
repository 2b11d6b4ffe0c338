//! Why a request to the memory system fails: what was asked, where, and what stands in the way.
//!
//! ```
//! use pagetable::MmError;
//!
//! let error = MmError::WriteAndExecute { va: 0xffff_c900_0000_0000 };
//! assert!(error.to_string().contains("0xffffc90000000000"));
//! ```

use core::fmt;

use hypercall::Pfn;
use hypercall::batch::FlushError;
use hypercall::lazy::LazyError;
use hypercall::queue::MmuError;

use crate::state::Illegal;

/// Why a frame cannot be had or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No free frame is left.
    OutOfMemory,
    /// The transition is not allowed.
    Illegal(Pfn, Illegal),
    /// More transitions or frames in waiting than fit: flush first.
    Full,
    /// What the frame is another vCPU's queue decides, or this one would while another's speaks of it.
    Busy(Pfn),
    /// No memory of the domain, or none that is mapped yet.
    NoRecord(Pfn),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::OutOfMemory => f.write_str("out of memory: no free frame"),
            FrameError::Illegal(pfn, illegal) => write!(f, "pfn {pfn}: {illegal}"),
            FrameError::Full => f.write_str("too many frame changes queued at once"),
            FrameError::Busy(pfn) => write!(
                f,
                "pfn {pfn}: another vCPU's queue is about to change the frame"
            ),
            FrameError::NoRecord(pfn) => write!(f, "pfn {pfn}: not mapped memory of this domain"),
        }
    }
}

/// Why a request fails. Unless it is [`MmError::Flush`], nothing was sent to Xen by the step that
/// failed.
#[derive(Clone, Copy, Debug)]
pub enum MmError {
    /// No frame, or a frame in the wrong state.
    Frame(FrameError),
    /// Xen refused.
    Flush(FlushError),
    /// Lazy sections do not match.
    Lazy(LazyError),
    /// No table leads to this address at this level.
    NoTable {
        /// The address.
        va: u64,
        /// Level of the entry that is not present.
        level: usize,
    },
    /// Another vCPU may be working on the tables there: they must be [held](crate::locks).
    NotHeld {
        /// The address.
        va: u64,
    },
    /// Other vCPUs may be working on tables, all of which must be [held](crate::locks).
    NotAlone,
    /// Something is mapped there.
    Occupied {
        /// The first address in the way.
        va: u64,
    },
    /// Nothing is mapped there.
    NotMapped {
        /// The first such address.
        va: u64,
    },
    /// A large page of Xen's: it is read, never changed.
    Large {
        /// The address.
        va: u64,
        /// Its level.
        level: usize,
    },
    /// Not page-aligned, empty, not canonical, or not in a region that may be changed.
    BadRange {
        /// First address.
        va: u64,
        /// Length in pages.
        pages: u64,
    },
    /// In no region of the kernel's: the entries of its half of a root stand from boot on.
    KernelHalf {
        /// The address.
        va: u64,
    },
    /// Writable and executable at once.
    WriteAndExecute {
        /// The address.
        va: u64,
    },
    /// A frame that must not be writable was to become so.
    MustStayReadOnly {
        /// The address.
        va: u64,
    },
    /// A machine frame that has no place in the domain's memory.
    Foreign {
        /// The address it is mapped at.
        va: u64,
        /// The frame.
        mfn: u64,
    },
    /// A frame without memory behind it was to be mapped.
    NoFrame {
        /// The address.
        va: u64,
    },
    /// A space of other tables.
    NoSpace {
        /// The frame of what would be its root.
        root: u64,
    },
    /// The tables that Xen built were not taken over yet.
    NotTakenOver,
    /// No memory behind this pfn.
    NoMemory {
        /// The pfn.
        pfn: u64,
    },
}

impl From<FrameError> for MmError {
    fn from(error: FrameError) -> Self {
        MmError::Frame(error)
    }
}

impl From<FlushError> for MmError {
    fn from(error: FlushError) -> Self {
        MmError::Flush(error)
    }
}

impl From<LazyError> for MmError {
    fn from(error: LazyError) -> Self {
        MmError::Lazy(error)
    }
}

impl From<MmuError> for MmError {
    fn from(error: MmuError) -> Self {
        match error {
            MmuError::Lazy(e) => MmError::Lazy(e),
            MmuError::Flush(e) => MmError::Flush(e),
        }
    }
}

impl fmt::Display for MmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MmError::Frame(e) => e.fmt(f),
            MmError::Flush(e) => e.fmt(f),
            MmError::Lazy(e) => e.fmt(f),
            MmError::NoTable { va, level } => {
                write!(f, "{va:#x}: no table: L{level} entry not present")
            }
            MmError::NotHeld { va } => {
                write!(
                    f,
                    "{va:#x}: this vCPU does not hold the tables that lead there"
                )
            }
            MmError::NotAlone => f.write_str("this vCPU does not hold all tables"),
            MmError::Occupied { va } => write!(f, "{va:#x}: mapped already"),
            MmError::NotMapped { va } => write!(f, "{va:#x}: not mapped"),
            MmError::Large { va, level } => {
                write!(
                    f,
                    "{va:#x}: mapped by a large L{level} entry of Xen's, which is never changed"
                )
            }
            MmError::BadRange { va, pages } => {
                write!(
                    f,
                    "{pages} pages at {va:#x}: not a range that may be changed"
                )
            }
            MmError::KernelHalf { va } => {
                write!(
                    f,
                    "{va:#x}: the kernel's entries of the root stand from boot on, and none is for this"
                )
            }
            MmError::WriteAndExecute { va } => {
                write!(f, "{va:#x}: would be writable and executable")
            }
            MmError::MustStayReadOnly { va } => {
                write!(f, "{va:#x}: maps a frame that must stay read-only")
            }
            MmError::Foreign { va, mfn } => {
                write!(f, "{va:#x}: mfn {mfn:#x} is no memory of this domain")
            }
            MmError::NoFrame { va } => {
                write!(f, "{va:#x}: no memory behind the frame to be mapped there")
            }
            MmError::NoSpace { root } => {
                write!(f, "pfn {root:#x} is no root of an address space here")
            }
            MmError::NotTakenOver => f.write_str("the page tables were not taken over yet"),
            MmError::NoMemory { pfn } => write!(f, "pfn {pfn:#x}: no memory behind it"),
        }
    }
}

impl core::error::Error for MmError {}
