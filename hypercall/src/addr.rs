//! Frame numbers and addresses, each space its own type.
//!
//! A PV guest counts its memory twice. *Pseudo-physical* frames ([`Pfn`]) run from 0 without a gap
//! and are what the kernel's allocators speak; *machine* frames ([`Mfn`]) are the host's, and are
//! what page tables hold. Xen's names for both are kept. Invariant: no function of this crate
//! turns one into the other, so a mixed-up frame number does not compile.
//!
//! The width is the architecture's: 52 bits of address, 40 bits of frame number (SDM vol. 3,
//! "Paging"; `PADDR_BITS` in Xen's `asm/page.h`).
//!
//! ```
//! use hypercall::{MachAddr, Mfn, Pfn};
//!
//! let table = Mfn::truncate(0x1234);
//! assert_eq!(table.addr().as_u64(), 0x123_4000);
//! let slot = MachAddr::of_entry(table, 7);
//! assert_eq!((slot.as_u64(), slot.frame(), slot.entry_index()), (0x123_4038, table, 7));
//! assert_eq!(Pfn::truncate(3).addr().as_u64(), 0x3000);
//! ```

use core::fmt;

/// Bytes in a page, as shift.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Bits in a physical or machine address.
pub const ADDR_BITS: u32 = 52;
/// The bits of a page-table entry that hold the frame's address.
pub const ADDR_MASK: u64 = ((1 << ADDR_BITS) - 1) & !(PAGE_SIZE - 1);

macro_rules! frame_number {
    ($(#[$doc:meta])* $frame:ident, $(#[$addr_doc:meta])* $addr:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $frame(u64);

        impl $frame {
            /// The largest frame number there can be.
            pub const MAX: Self = Self((1 << (ADDR_BITS - PAGE_SHIFT)) - 1);

            /// The frame with this number, if a 52-bit address can reach it.
            #[inline]
            pub const fn new(number: u64) -> Option<Self> {
                if number <= Self::MAX.0 { Some(Self(number)) } else { None }
            }

            /// The frame with the low 40 bits of `number`.
            #[inline]
            pub const fn truncate(number: u64) -> Self {
                Self(number & Self::MAX.0)
            }

            /// The number.
            #[inline]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address of the frame's first byte.
            #[inline]
            pub const fn addr(self) -> $addr {
                $addr(self.0 << PAGE_SHIFT)
            }

            /// The frame `n` after this one, if there is one.
            #[inline]
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(number) => Self::new(number),
                    None => None,
                }
            }

            /// The frame `n` after this one.
            ///
            /// # Panics
            /// Beyond [`Self::MAX`].
            #[inline]
            #[track_caller]
            #[allow(clippy::should_implement_trait, reason = "frames are not added to frames")]
            pub const fn add(self, n: u64) -> Self {
                match self.checked_add(n) {
                    Some(frame) => frame,
                    None => panic!("frame number beyond 52 bits of address"),
                }
            }
        }

        $(#[$addr_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $addr(u64);

        impl $addr {
            /// The address, if it has at most 52 bits.
            #[inline]
            pub const fn new(addr: u64) -> Option<Self> {
                if addr >> ADDR_BITS == 0 { Some(Self(addr)) } else { None }
            }

            /// The low 52 bits of `addr`.
            #[inline]
            pub const fn truncate(addr: u64) -> Self {
                Self(addr & ((1 << ADDR_BITS) - 1))
            }

            /// The byte `offset` of `frame`; only the low 12 bits of `offset` count.
            #[inline]
            pub const fn from_frame(frame: $frame, offset: u64) -> Self {
                Self(frame.0 << PAGE_SHIFT | offset & (PAGE_SIZE - 1))
            }

            /// The address as a number.
            #[inline]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The frame it lies in.
            #[inline]
            pub const fn frame(self) -> $frame {
                $frame(self.0 >> PAGE_SHIFT)
            }

            /// The offset within that frame, in bytes.
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The address `bytes` further on, if there is one.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(addr) => Self::new(addr),
                    None => None,
                }
            }

            /// The address `bytes` further on.
            ///
            /// # Panics
            /// Beyond 52 bits.
            #[inline]
            #[track_caller]
            #[allow(clippy::should_implement_trait, reason = "addresses are not added to addresses")]
            pub const fn add(self, bytes: u64) -> Self {
                match self.checked_add(bytes) {
                    Some(addr) => addr,
                    None => panic!("address beyond 52 bits"),
                }
            }

            /// Whether it is a multiple of `align`, a power of two.
            #[inline]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
        }

        frame_number!(@fmt $frame);
        frame_number!(@fmt $addr);
    };
    (@fmt $type:ident) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::LowerHex for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

frame_number!(
    /// A pseudo-physical frame number: the guest's own, dense count of its pages.
    Pfn,
    /// A pseudo-physical address: [`Pfn`] and offset.
    PhysAddr
);
frame_number!(
    /// A machine frame number: the host's count, and what page-table entries hold.
    Mfn,
    /// A machine address: [`Mfn`] and offset. The address of a page-table entry is one.
    MachAddr
);

impl MachAddr {
    /// The machine address of entry `index` (its low 9 bits) of the page table in `table`.
    #[inline]
    pub const fn of_entry(table: Mfn, index: usize) -> Self {
        Self::from_frame(table, (index as u64 & 511) * 8)
    }

    /// Which of a table's 512 entries this address falls on.
    #[inline]
    pub const fn entry_index(self) -> usize {
        (self.0 >> 3 & 511) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(Mfn::new(1 << 40), None);
        assert_eq!(Mfn::new((1 << 40) - 1), Some(Mfn::MAX));
        assert_eq!(MachAddr::new(1 << 52), None);
        assert_eq!(Mfn::MAX.checked_add(1), None);
        assert_eq!(Pfn::MAX.checked_add(u64::MAX), None);
        assert_eq!(Mfn::MAX.addr().checked_add(PAGE_SIZE), None);
    }

    #[test]
    fn entries_are_addressed() {
        let slot = MachAddr::of_entry(Mfn::truncate(0x1234), 511);
        assert_eq!(slot.as_u64(), 0x1234ff8);
        assert_eq!(slot.entry_index(), 511);
        assert_eq!(slot.frame(), Mfn::truncate(0x1234));
        assert_eq!(slot.page_offset(), 0xff8);
        assert_eq!(
            format!("{slot} {slot:?} {slot:x}"),
            "0x1234ff8 MachAddr(0x1234ff8) 1234ff8"
        );
    }
}
