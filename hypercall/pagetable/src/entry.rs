//! Page-table entries, one type a level.
//!
//! Two views of an entry, never mixed: the *machine* entry as it stands in a table ([`Entry`],
//! holding an mfn and whatever bits Xen added) and the kernel's *value* ([`Value`], a pfn and the
//! rights the kernel asked for). `make_*` goes one way, `*_val` the other; both ask the machine
//! for the frame number, on every level and whatever is folded, so that no level can be forgotten.
//!
//! A large page cannot be expressed: [`Flags`] has no PSE, and no constructor takes raw bits. A
//! table can still *hold* one, since Xen maps the p2m list with 2 MiB pages where it likes; such an
//! entry is read as [`Entry::is_large`] and never written.
//!
//! Xen rewrites what it is given (`adjust_guest_l1e` and its kin, `xen/arch/x86/pv/mm.h`): kernel
//! pages gain U and bit 52 or G, tables gain U, the hardware sets A and D. Entries are therefore
//! compared modulo [`XEN_BITS`].
//!
//! ```
//! use hypercall::Mfn;
//! use pagetable::{Flags, Pte};
//!
//! let entry = Pte::from_mfn(Mfn::truncate(0x1234), Flags::DATA);
//! assert!(entry.is_present());
//! assert_eq!(entry.mfn(), Some(Mfn::truncate(0x1234)));
//! assert!(entry.flags().contains(Flags::WRITABLE | Flags::NO_EXECUTE));
//! ```

use core::fmt;
use core::marker::PhantomData;

use bitflags::bitflags;
use hypercall::addr::ADDR_MASK;
use hypercall::mmu::Level;
use hypercall::{Mfn, Pfn};

bitflags! {
    /// Rights and attributes the kernel can ask for (SDM volume 3, table 4-20).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// Present.
        const PRESENT = 1 << 0;
        /// Writable.
        const WRITABLE = 1 << 1;
        /// Reachable from user mode. Xen sets it on kernel pages by itself: PV kernels run in ring 3.
        const USER = 1 << 2;
        /// Not cached (PCD): registers of a device. A domU may not ask Xen for it.
        const UNCACHED = 1 << 4;
        /// Was accessed.
        const ACCESSED = 1 << 5;
        /// Was written.
        const DIRTY = 1 << 6;
        /// Free for software, level 1.
        const SOFTWARE0 = 1 << 9;
        /// Not executable.
        const NO_EXECUTE = 1 << 63;
    }
}

impl Flags {
    /// Rights of a table's entry: everything, so that the page's own entry decides.
    pub const TABLE: Flags = Flags::PRESENT
        .union(Flags::WRITABLE)
        .union(Flags::ACCESSED)
        .union(Flags::DIRTY)
        .union(Flags::USER);
    /// Kernel data. A and D are set at once: nobody reads them, and the processor need not.
    pub const DATA: Flags = Flags::PRESENT
        .union(Flags::WRITABLE)
        .union(Flags::ACCESSED)
        .union(Flags::DIRTY)
        .union(Flags::NO_EXECUTE);
    /// Kernel constants, and tables as the kernel may see them.
    pub const CONST: Flags = Flags::PRESENT
        .union(Flags::ACCESSED)
        .union(Flags::NO_EXECUTE);
    /// Kernel code.
    pub const CODE: Flags = Flags::PRESENT.union(Flags::ACCESSED);
    /// What processors note in entries.
    pub(super) const MARKS: Flags = Flags::ACCESSED.union(Flags::DIRTY);
}

/// Bits that Xen or the hardware may change behind the kernel's back: U, A, D, G, bit 52.
pub const XEN_BITS: u64 = 1 << 2 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 52;

const PSE: u64 = 1 << 7;
/// The bit by which Xen marks a page that came without U.
const GUEST_KERNEL: u32 = 52;

mod sealed {
    pub trait Sealed {}
}

/// A level of the page tables, as a type.
pub trait TableLevel: sealed::Sealed + Copy + 'static {
    /// The level's number: 1 maps pages.
    const NUMBER: usize;
    /// Bits of an address below this level's index.
    const SHIFT: u32 = 12 + 9 * (Self::NUMBER as u32 - 1);
    /// Bytes that one entry covers.
    const SPAN: u64 = 1 << Self::SHIFT;
    /// The level as Xen numbers it. The fifth level exists only where Xen does not.
    const XEN: Option<Level>;

    /// Index into a table of this level for an address.
    #[inline]
    #[must_use]
    fn index(address: u64) -> usize {
        (address >> Self::SHIFT & 511) as usize
    }
}

/// A level whose entries refer to tables.
pub trait UpperLevel: TableLevel {
    /// The level of those tables.
    type Below: TableLevel;
}

macro_rules! levels {
    ($($name:ident = $number:literal, $xen:expr, $entry:ident, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name;
            impl sealed::Sealed for $name {}
            impl TableLevel for $name {
                const NUMBER: usize = $number;
                const XEN: Option<Level> = $xen;
            }
            #[doc = concat!("An entry of a level-", stringify!($number), " table.")]
            pub type $entry = Entry<$name>;
        )*
    };
}

levels! {
    L1 = 1, Some(Level::L1), Pte, "The level that maps pages.";
    L2 = 2, Some(Level::L2), Pmd, "The level that refers to L1 tables; one entry covers 2 MiB.";
    L3 = 3, Some(Level::L3), Pud, "The level that refers to L2 tables; one entry covers 1 GiB.";
    L4 = 4, Some(Level::L4), P4d, "The root under PV; one entry covers 512 GiB.";
    L5 = 5, None, Pgd, "The root where the processor has five levels; folded away elsewhere.";
}

impl UpperLevel for L2 {
    type Below = L1;
}
impl UpperLevel for L3 {
    type Below = L2;
}
impl UpperLevel for L4 {
    type Below = L3;
}
impl UpperLevel for L5 {
    type Below = L4;
}

/// An entry as it stands in a table: machine frame and all bits.
#[repr(transparent)]
pub struct Entry<L>(u64, PhantomData<L>);

/// What an entry means to the kernel: pseudo-physical frame and rights.
pub struct Value<L> {
    /// The frame that the entry maps or the table it refers to.
    pub pfn: Pfn,
    /// Its rights.
    pub flags: Flags,
    level: PhantomData<L>,
}

impl<L> Clone for Entry<L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for Entry<L> {}
impl<L> PartialEq for Entry<L> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<L> Eq for Entry<L> {}
impl<L> fmt::Debug for Entry<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}
impl<L> Clone for Value<L> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<L> Copy for Value<L> {}
impl<L> PartialEq for Value<L> {
    fn eq(&self, other: &Self) -> bool {
        (self.pfn, self.flags) == (other.pfn, other.flags)
    }
}
impl<L> Eq for Value<L> {}
impl<L> fmt::Debug for Value<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {} {}", self.pfn, Rights(self.flags))
    }
}

impl<L: TableLevel> Value<L> {
    /// A frame with rights.
    #[inline]
    #[must_use]
    pub const fn new(pfn: Pfn, flags: Flags) -> Self {
        Value {
            pfn,
            flags,
            level: PhantomData,
        }
    }
}

impl<L: TableLevel> Entry<L> {
    /// The entry that maps nothing. Xen treats a non-present entry with an address as an attempt
    /// at L1TF, so this is the only one there is.
    pub const NONE: Self = Entry(0, PhantomData);

    /// An entry for a machine frame. Only the owner of the p2m makes entries from pfns; this is for
    /// it, and for frames that are no part of the domain's memory, such as `shared_info`.
    #[inline]
    #[must_use]
    pub const fn from_mfn(mfn: Mfn, flags: Flags) -> Self {
        Entry(mfn.as_u64() << 12 & ADDR_MASK | flags.bits(), PhantomData)
    }

    /// An entry read from a table.
    #[inline]
    #[must_use]
    pub(super) const fn from_table(bits: u64) -> Self {
        Entry(bits, PhantomData)
    }

    /// All bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether it maps anything.
    #[inline]
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it lets what it leads to be written.
    #[inline]
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & Flags::WRITABLE.bits() != 0
    }

    /// Whether it lets what it leads to be executed.
    #[inline]
    #[must_use]
    pub const fn is_executable(self) -> bool {
        self.0 & Flags::NO_EXECUTE.bits() == 0
    }

    /// Whether it maps a large page. Only ever read.
    #[inline]
    #[must_use]
    pub const fn is_large(self) -> bool {
        L::NUMBER > 1 && self.0 & PSE != 0 && self.is_present()
    }

    /// The machine frame, if present.
    #[inline]
    #[must_use]
    pub const fn mfn(self) -> Option<Mfn> {
        if self.is_present() {
            Some(Mfn::truncate((self.0 & ADDR_MASK) >> 12))
        } else {
            None
        }
    }

    /// The rights among its bits.
    ///
    /// The U that Xen put on a page of the kernel is not among them: written back it would make
    /// the page one of user mode's, whose translations stay cached (G) where only user mode runs.
    #[inline]
    #[must_use]
    pub const fn flags(self) -> Flags {
        Flags::from_bits_truncate(self.asked())
    }

    /// The same frame with other rights.
    ///
    /// Bits that are Xen's business are dropped: Xen adds them again.
    #[inline]
    #[must_use]
    pub const fn with_flags(self, flags: Flags) -> Self {
        Entry(self.0 & ADDR_MASK | flags.bits(), PhantomData)
    }

    /// The same frame with rights changed by masks: [`Keep`] says which bits stay, `add` which
    /// come. For an entry that is not present and `add` empty, that is no entry.
    ///
    /// For loops over whole tables: it neither branches nor looks at what the rights mean.
    #[inline(always)]
    #[must_use]
    pub(super) const fn masked(self, keep: Keep, add: Flags) -> Self {
        Entry(self.asked() & keep.0 | add.bits(), PhantomData)
    }

    /// The bits without the U that Xen adds to a kernel page: bit 52 and U come together, from
    /// Xen, and go together.
    #[inline(always)]
    const fn asked(self) -> u64 {
        self.0 ^ (self.0 >> (GUEST_KERNEL - 2) & Flags::USER.bits())
    }

    /// Whether both mean the same to the kernel: equal but for what Xen and the hardware add.
    #[inline]
    #[must_use]
    pub const fn same(self, other: Self) -> bool {
        (self.asked() ^ other.asked()) & !(XEN_BITS & !Flags::USER.bits()) == 0
    }
}

impl Pte {
    /// Whether a translation that was cached of this entry is not one of `new`: it was present, and more
    /// than software's own bit differs.
    #[inline]
    #[must_use]
    pub(super) const fn is_stale_as(self, new: Pte) -> bool {
        let added = XEN_BITS & !(Flags::USER.bits() | Flags::ACCESSED.bits() | Flags::DIRTY.bits());
        let ignored = Flags::SOFTWARE0.bits() | added;
        self.is_present() && (self.asked() ^ new.asked()) & !ignored != 0
    }

    /// What processors that use it may add to it at any time: A, and D where it lets be written.
    #[inline]
    #[must_use]
    pub(super) const fn may_gain(self) -> Flags {
        let marks = match (self.is_present(), self.is_writable()) {
            (false, _) => Flags::empty(),
            (true, false) => Flags::ACCESSED,
            (true, true) => Flags::MARKS,
        };
        marks.difference(self.flags())
    }

    /// As it may be when it is taken out, if others use it until then: what they may add counts as added.
    #[inline]
    #[must_use]
    pub(super) const fn as_left(self) -> Pte {
        Entry(self.0 | self.may_gain().bits(), PhantomData)
    }

    /// What to write in place of this entry, which others use until then, so that it becomes `new` and none
    /// of the bits is lost that they add; and whether Xen has to keep those that are there when it writes.
    ///
    /// Xen keeps both or none. So if `new` takes one of them, the other counts as added.
    #[must_use]
    pub(super) fn in_use_to(self, new: Pte) -> (Pte, bool) {
        let gain = self.may_gain() - new.flags();
        if gain.is_empty() || self.mfn() != new.mfn() {
            return (new, false);
        }
        let taken = (self.flags() - new.flags()).intersects(Flags::MARKS);
        match taken {
            true => (Entry(new.0 | gain.bits(), PhantomData), false),
            false => (new, true),
        }
    }
}

/// Which bits of an entry stay: the address and some of the rights.
#[derive(Clone, Copy)]
pub(super) struct Keep(u64);

impl Keep {
    /// All but some rights.
    pub(super) const fn all_but(flags: Flags) -> Keep {
        Keep((ADDR_MASK | Flags::all().bits()) & !flags.bits())
    }

    /// The bits of entries that stay as [`Entry::masked`] has it, if they are the same for all of them:
    /// `all` have these bits, and `any` those. Either Xen has added U to each or to none.
    pub(super) const fn alike(self, all: u64, any: u64) -> Option<u64> {
        let added = 1 << GUEST_KERNEL | Flags::USER.bits();
        if all & added == added {
            Some(self.0 & !Flags::USER.bits())
        } else if any & 1 << GUEST_KERNEL == 0 {
            Some(self.0)
        } else {
            None
        }
    }
}

/// Rights as in a listing: `rwx`, `u`ser, `a`ccessed, `d`irty.
pub struct Rights(pub Flags);

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |flag, yes, no| if self.0.contains(flag) { yes } else { no };
        let text: [char; 6] = [
            has(Flags::PRESENT, 'r', '-'),
            has(Flags::WRITABLE, 'w', '-'),
            has(Flags::NO_EXECUTE, '-', 'x'),
            has(Flags::USER, 'u', '-'),
            has(Flags::ACCESSED, 'a', '-'),
            has(Flags::DIRTY, 'd', '-'),
        ];
        text.iter().try_for_each(|c| write!(f, "{c}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_cut_an_address_into_nine_bit_pieces() {
        let address = 0xffff_8880_4020_3456_u64;
        assert_eq!(
            (
                L4::index(address),
                L3::index(address),
                L2::index(address),
                L1::index(address)
            ),
            (273, 1, 1, 3)
        );
        assert_eq!((L1::SPAN, L2::SPAN, L3::SPAN), (4096, 2 << 20, 1 << 30));
    }

    #[test]
    fn what_xen_adds_does_not_count() {
        let asked = Pte::from_mfn(Mfn::truncate(0x1234), Flags::PRESENT | Flags::WRITABLE);
        let found = Pte::from_table(0x0010_0000_0123_4067);
        assert!(asked.same(found));
        assert!(!asked.same(found.with_flags(Flags::PRESENT)));
        assert!(!asked.same(Pte::from_table(0x0010_0000_0123_5067)));
        assert!(
            !asked.same(Pte::from_table(0x0123_4167)),
            "a user page is another thing"
        );
    }

    #[test]
    fn a_kernel_page_is_written_back_as_one() {
        let found = Pte::from_table(0x8010_0000_0123_4067);
        assert_eq!(found.flags(), Flags::DATA);
        assert_eq!(
            found.with_flags(found.flags()).bits(),
            0x8000_0000_0123_4063
        );
        assert!(Pte::from_table(0x1_2345_0165).flags().contains(Flags::USER));
    }

    #[test]
    fn masks_change_what_flags_would() {
        let found = [
            0,
            0x0010_0000_0123_4067,
            0x1234_0025,
            0x8000_0000_1234_0167,
            0x1234_0207,
        ];
        for bits in found {
            let entry = Pte::from_table(bits);
            for (add, remove) in [
                (Flags::empty(), Flags::empty()),
                (Flags::empty(), Flags::WRITABLE),
                (Flags::NO_EXECUTE, Flags::WRITABLE),
            ] {
                let masked = entry.masked(Keep::all_but(remove), add);
                let plain = entry.with_flags((entry.flags() - remove) | add);
                assert_eq!(masked, plain, "{bits:#x}");
            }
        }
        let none = Pte::NONE.masked(Keep::all_but(Flags::WRITABLE), Flags::empty());
        assert_eq!(none, Pte::NONE);
    }

    #[test]
    fn no_flags_make_a_large_page() {
        assert_eq!(Flags::all().bits() & PSE, 0);
        assert!(!Pmd::from_mfn(Mfn::MAX, Flags::all()).is_large());
        assert!(Pmd::from_table(0x83).is_large());
        assert!(!Pte::from_table(0x83).is_large(), "bit 7 of a PTE is PAT");
    }

    #[test]
    fn entries_and_values_are_equal_in_all_their_parts() {
        let [one, two] = [1, 2].map(Pfn::truncate);
        let value = |pfn, flags| Value::<L1>::new(pfn, flags);
        assert!(value(one, Flags::DATA) == value(one, Flags::DATA));
        assert!(value(one, Flags::DATA) != value(two, Flags::DATA));
        assert!(value(one, Flags::DATA) != value(one, Flags::CONST));
        let entry = |mfn, flags| Pte::from_mfn(Mfn::truncate(mfn), flags);
        assert!(entry(1, Flags::DATA) == entry(1, Flags::DATA));
        assert!(entry(1, Flags::DATA) != entry(2, Flags::DATA));
        assert!(entry(1, Flags::DATA) != entry(1, Flags::CONST));
    }

    #[test]
    fn a_non_present_entry_has_no_address() {
        assert_eq!(Pte::NONE.bits(), 0);
        assert_eq!(Pte::from_table(0x1234_5000).mfn(), None);
    }
}
