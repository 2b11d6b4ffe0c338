//! The address space.

use core::ops::Range;

/// The p2m list.
pub const P2M: Range<u64> = 0xffff_c000_0000_0000..0xffff_c080_0000_0000;
