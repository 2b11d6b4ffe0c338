//! `hvm_start_info`, checked: what a loader says to a kernel that it enters by the PVH protocol.
//!
//! Everything in it is a physical address of something else, so it is read through a function that
//! copies from physical memory, one page in view at a time; nothing is assumed to be mapped. The
//! memory map becomes ordered ranges of whole frames, apart from each other, in which what is
//! claimed twice as anything but memory is none.
//!
//! Version 0 of the structure has no memory map (Xen makes it for a PVH dom0, and its tools did up to
//! 4.11), and a loader of version 1 may leave it out; Xen can be asked for one then. What a map shows
//! is what the domain may have one day. Where it has less (`maxmem` above `memory`: Xen populates on
//! demand, and ends a domain that demands more than it has), the kernel takes the lowest frames, as
//! many as there are pages. Xen counts those that are populated and those in store for demands
//! (`xen/arch/x86/mm/p2m-pod.c`); of the former are the builder's own, which stand in the map as
//! something else than memory: rings and tables of ACPI.

use core::mem::size_of;
use core::ops::Range;

use heapless::Vec;
use hypercall::Pfn;
use marks::init;
use pvh::start_info::{MemmapTableEntry, MemmapType, ModlistEntry, START_MAGIC_VALUE, StartInfo};

use crate::mm::native::{MAX_RANGES, Memory, Ranges};
use crate::start_info::{BootError, CMDLINE, Module};

const PAGE: u64 = 4096;
/// The frames that the entry has mapped and the kernel starts in, from the image on.
const NEEDED: Range<u64> = 0x200..0x800;
/// Pages that Xen's builder gives every domain at the end of the 32-bit address space for rings and
/// the like (`X86_HVM_NR_SPECIAL_PAGES`, `tools/libs/guest/xg_dom_x86.c`).
const SPECIAL: u64 = 8;
/// Entries of a memory map that are looked at.
pub const MAX_ENTRIES: u32 = 128;
/// What is taken of one.
const EXPECTED: &str = "at most 128 entries that describe 32 ranges of memory";
/// The largest memory: what the direct map has room for.
const MAX_FRAMES: u64 = 1 << 32;

/// What the loader told the kernel, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HvmInfo {
    /// The command line, up to as much as [`cmdline`](crate::options) can refuse for its length.
    pub cmdline: Vec<u8, CMDLINE>,
    /// Where memory is.
    pub memory: Memory,
    /// The module, if one was loaded.
    pub module: Option<Module>,
    /// Where the root pointer of ACPI's tables is; 0 if the loader names none.
    pub rsdp: u64,
}

/// Structures of integers, which any bytes are a value of.
///
/// # Safety
/// The type has no padding and no invalid values.
unsafe trait Plain: Default {}
// SAFETY: integers without padding, in C's layout.
unsafe impl Plain for StartInfo {}
// SAFETY: integers without padding, in C's layout.
unsafe impl Plain for MemmapTableEntry {}
// SAFETY: integers without padding, in C's layout.
unsafe impl Plain for ModlistEntry {}

#[init]
fn load<T: Plain>(read: &mut impl Read, address: u64) -> T {
    let mut value = T::default();
    let bytes = (&raw mut value).cast::<u8>();
    // SAFETY: the bytes of a value that any bytes are good for.
    read.read(address, unsafe {
        core::slice::from_raw_parts_mut(bytes, size_of::<T>())
    });
    value
}

fn error(field: &'static str, value: u64, expected: &'static str) -> BootError {
    BootError {
        field,
        value,
        expected,
    }
}

/// Who reads physical memory. No closure: an instance of what calls those has no mark, and stays.
pub trait Read {
    /// Copies bytes from `address` on.
    fn read(&mut self, address: u64, to: &mut [u8]);
}

/// Who else can be asked about memory: Xen, where there is one.
pub trait Ask {
    /// The domain's memory map, into `to`; how many entries it has, if somebody knows.
    fn map(&mut self, to: &mut [MemmapTableEntry]) -> Option<usize>;

    /// How many pages the domain has now, if that may be less than its map shows.
    fn pages(&mut self) -> Option<u64>;

    /// A frame of those that the builder keeps for rings, if it is known.
    fn ring(&mut self) -> Option<u64>;
}

/// Nobody can be asked: the loader's word is all there is.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Ask for Nobody {
    fn map(&mut self, _: &mut [MemmapTableEntry]) -> Option<usize> {
        None
    }

    fn pages(&mut self) -> Option<u64> {
        None
    }

    fn ring(&mut self) -> Option<u64> {
        None
    }
}

#[init]
impl HvmInfo {
    /// Reads what lies at physical address `start`. `read` copies bytes from physical memory, `ask`
    /// knows what the loader does not say.
    ///
    /// # Errors
    /// The first field that cannot be right.
    pub fn parse(
        start: u64,
        read: &mut impl Read,
        ask: &mut impl Ask,
    ) -> Result<HvmInfo, BootError> {
        let info: StartInfo = load(read, start);
        if info.magic != START_MAGIC_VALUE {
            return Err(error("magic", info.magic.into(), "0x336ec578"));
        }
        // Fields that later versions append are of no concern: none is taken away.
        let entries = if info.version == 0 {
            0
        } else {
            info.memmap_entries
        };
        let mut map = [MemmapTableEntry::default(); MAX_ENTRIES as usize];
        let full = || error("memmap", entries.into(), EXPECTED);
        let known = if entries > 0 {
            let mut place = info.memmap_paddr;
            for entry in map.get_mut(..entries as usize).ok_or_else(full)? {
                *entry = load(read, place);
                place = place.saturating_add(size_of::<MemmapTableEntry>() as u64);
            }
            entries as usize
        } else {
            let known = ask.map(&mut map).filter(|known| *known > 0);
            known.ok_or(error("memmap_entries", 0, "a memory map, here or from Xen"))?
        };
        let (memory, others) = survey(&map[..known], ask.ring())?;
        let memory = match ask.pages() {
            Some(pages) => what_there_is(memory, pages.saturating_sub(others))?,
            None => memory,
        };
        Ok(HvmInfo {
            cmdline: cmdline(read, info.cmdline_paddr),
            module: module(read, &info, &memory)?,
            memory,
            rsdp: info.rsdp_paddr,
        })
    }
}

/// Of the memory that a map shows, what a domain has whose memory has so many pages.
#[init]
fn what_there_is(memory: Memory, pages: u64) -> Result<Memory, BootError> {
    let shown: u64 = memory
        .ranges()
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    if shown <= pages {
        return Ok(memory);
    }
    let mut left = pages;
    let mut ranges = Ranges::new();
    let mut room = 0;
    for range in memory.ranges() {
        let end = range.end.min(range.start + left);
        left -= end - range.start;
        if range.start < end {
            // No more ranges than there were.
            let _ = ranges.push(range.start..end);
            // What is shown in one piece with the last: behind it may be something else.
            room = range.end;
        }
    }
    bootable(Memory::new(ranges).with_room(room), "current_reservation")
}

/// The memory, if what the kernel starts in is part of it.
#[init]
fn bootable(memory: Memory, field: &'static str) -> Result<Memory, BootError> {
    match NEEDED.clone().find(|frame| !memory.contains(*frame)) {
        None => Ok(memory),
        Some(hole) => Err(error(field, hole * PAGE, "memory from 2 to 8 MiB")),
    }
}

fn cmdline(read: &mut impl Read, address: u64) -> Vec<u8, CMDLINE> {
    let byte = |offset: u64| {
        let mut byte = [0];
        read.read(address.saturating_add(offset), &mut byte);
        byte[0]
    };
    let there = if address == 0 { 0 } else { CMDLINE as u64 };
    (0..there).map(byte).take_while(|byte| *byte != 0).collect()
}

/// The frames of the memory map that are memory and nothing else, and how many pages the domain may
/// have in others. Maps of older tools do not show where the builder's `ring` is.
#[init]
fn survey(map: &[MemmapTableEntry], ring: Option<u64>) -> Result<(Memory, u64), BootError> {
    let full = || error("memmap", map.len() as u64, EXPECTED);
    let frames = |entry: &MemmapTableEntry| -> (Range<u64>, bool) {
        let end = entry.addr.saturating_add(entry.size);
        if entry.ty() == MemmapType::Ram {
            (
                entry.addr.div_ceil(PAGE)..(end / PAGE).min(MAX_FRAMES),
                true,
            )
        } else {
            (entry.addr / PAGE..end.div_ceil(PAGE), false)
        }
    };
    let mut ranges: Ranges = Vec::new();
    for entry in map {
        if let (range, true) = frames(entry) {
            add(&mut ranges, range).ok_or_else(full)?;
        }
    }
    let mut others = 0_u64;
    let mut shown = ring.is_none();
    for entry in map {
        if let (range, false) = frames(entry) {
            others = others.saturating_add(range.end.saturating_sub(range.start));
            shown |= ring.is_some_and(|ring| range.contains(&ring));
            remove(&mut ranges, range).ok_or_else(full)?;
        }
    }
    if !shown {
        others = others.saturating_add(SPECIAL);
    }
    Ok((bootable(Memory::new(ranges), "memmap")?, others))
}

/// Adds a range; `None` if there are too many.
#[init]
fn add(ranges: &mut Ranges, mut range: Range<u64>) -> Option<()> {
    if range.start >= range.end {
        return Some(());
    }
    // What it overlaps or touches becomes part of it.
    ranges.retain(|other| {
        let apart = other.end < range.start || range.end < other.start;
        if !apart {
            range = other.start.min(range.start)..other.end.max(range.end);
        }
        apart
    });
    ranges.push(range).ok()?;
    ranges.sort_unstable_by_key(|range| range.start);
    Some(())
}

/// Takes a range away; `None` if too many pieces are left.
#[init]
fn remove(ranges: &mut Ranges, range: Range<u64>) -> Option<()> {
    if range.start >= range.end {
        return Some(());
    }
    let mut left: Vec<Range<u64>, { MAX_RANGES + 1 }> = Vec::new();
    for old in ranges.iter() {
        let before = old.start..old.end.min(range.start);
        let after = old.start.max(range.end)..old.end;
        for piece in [before, after] {
            if piece.start < piece.end {
                left.push(piece).ok()?;
            }
        }
    }
    *ranges = Vec::from_slice(&left).ok()?;
    Some(())
}

#[init]
fn module(
    read: &mut impl Read,
    info: &StartInfo,
    memory: &Memory,
) -> Result<Option<Module>, BootError> {
    if info.nr_modules == 0 {
        return Ok(None);
    }
    let entry: ModlistEntry = load(read, info.modlist_paddr);
    let pfn = Pfn::new(entry.paddr / PAGE).filter(|pfn| memory.contains(pfn.as_u64()));
    let last = entry.paddr.checked_add(entry.size.max(1) - 1);
    let inside = last.is_some_and(|last| memory.contains(last / PAGE));
    match pfn.filter(|_| inside && entry.paddr.is_multiple_of(PAGE)) {
        Some(pfn) => Ok(Some(Module {
            pfn,
            bytes: entry.size,
        })),
        None => Err(error(
            "modlist",
            entry.paddr,
            "a page-aligned address in memory",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl<F: FnMut(u64, &mut [u8])> Read for F {
        fn read(&mut self, address: u64, to: &mut [u8]) {
            self(address, to);
        }
    }

    /// Physical memory of the loader's data: `hvm_start_info` at 0x1000, the map at 0x2000, the
    /// modules at 0x2800, the command line right before a page's end.
    #[derive(Clone)]
    struct Loader(std::vec::Vec<u8>);

    const START: u64 = 0x1000;
    const MAP: u64 = 0x2000;
    const MODULES: u64 = 0x2800;
    const TEXT: u64 = 0x3ff8;

    fn bytes<T: Plain>(value: &T) -> &[u8] {
        // SAFETY: the bytes of a structure without padding.
        unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
    }

    impl Loader {
        fn new(map: &[(u64, u64, u32)], modules: &[(u64, u64)], text: &str) -> Loader {
            let info = StartInfo {
                magic: START_MAGIC_VALUE,
                version: 1,
                nr_modules: modules.len() as u32,
                modlist_paddr: MODULES,
                cmdline_paddr: TEXT,
                memmap_paddr: MAP,
                memmap_entries: map.len() as u32,
                ..StartInfo::default()
            };
            let mut loader = Loader(vec![0; 0x6000]);
            loader.put(START, bytes(&info));
            for (index, &(addr, size, ty)) in map.iter().enumerate() {
                let entry = MemmapTableEntry {
                    addr,
                    size,
                    ty,
                    reserved: 0,
                };
                loader.put(MAP + index as u64 * 24, bytes(&entry));
            }
            for (index, &(paddr, size)) in modules.iter().enumerate() {
                let entry = ModlistEntry {
                    paddr,
                    size,
                    ..ModlistEntry::default()
                };
                loader.put(MODULES + index as u64 * 32, bytes(&entry));
            }
            loader.put(TEXT, text.as_bytes());
            loader
        }

        fn put(&mut self, at: u64, bytes: &[u8]) {
            self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
        }

        fn parse(&self) -> Result<HvmInfo, BootError> {
            self.parse_asking(&mut Nobody)
        }

        fn parse_asking(&self, ask: &mut impl Ask) -> Result<HvmInfo, BootError> {
            let mut read = |address: u64, to: &mut [u8]| {
                for (to, address) in to.iter_mut().zip(address..) {
                    *to = self.0.get(address as usize).copied().unwrap_or(0);
                }
            };
            HvmInfo::parse(START, &mut read, ask)
        }
    }

    /// What QEMU says of its PC with 64 MiB.
    const PC: &[(u64, u64, u32)] = &[
        (0, 0x9_fc00, 1),
        (0x9_fc00, 0x400, 2),
        (0xf_0000, 0x1_0000, 2),
        (0x10_0000, 0x3ee_0000, 1),
        (0x3fe_0000, 0x2_0000, 2),
    ];

    #[test]
    fn a_good_pc_is_understood() {
        let info = Loader::new(PC, &[(0x20_0000, 5)], "log=warn no5lvl")
            .parse()
            .unwrap();
        assert_eq!(info.cmdline, b"log=warn no5lvl");
        let hole = 0x9f..0x100;
        assert!(info.memory.holes(0x3fe0).eq([hole]));
        assert_eq!(info.memory.end(), 0x3fe0);
        let module = info.module.unwrap();
        assert_eq!((module.pfn.as_u64(), module.bytes), (0x200, 5));
    }

    #[test]
    fn what_is_claimed_twice_is_not_memory() {
        let map = &[
            (0, 0x100_0000, 1),
            (0xd0_0800, 0x800, 2),
            (0x80_0000, 0x100_0000, 1),
        ];
        let info = Loader::new(map, &[], "").parse().unwrap();
        let hole = 0xd00..0xd01;
        assert!(info.memory.holes(0x1800).eq([hole]));
    }

    #[test]
    fn what_cannot_be_right_is_named() {
        let field = |loader: Loader| loader.parse().unwrap_err().field;
        assert_eq!(field(Loader(vec![0; 0x6000])), "magic");
        assert_eq!(field(Loader::new(&[], &[], "")), "memmap_entries");
        assert_eq!(field(Loader::new(&PC[..3], &[], "")), "memmap");
        assert_eq!(field(Loader::new(&[(0, 0x20_0000, 1)], &[], "")), "memmap");
        assert_eq!(field(Loader::new(PC, &[(0x20_0800, 5)], "")), "modlist");
        assert_eq!(
            field(Loader::new(PC, &[(0x9f_f000_0000, 5)], "")),
            "modlist"
        );
        assert_eq!(
            field(Loader::new(PC, &[(0x20_0000, u64::MAX)], "")),
            "modlist"
        );
    }

    #[test]
    fn a_command_line_is_taken_as_it_is() {
        let line = |text: &str| Loader::new(PC, &[], text).parse().unwrap().cmdline;
        assert_eq!(line("a\u{1}b\u{fc}"), "a\u{1}b\u{fc}".as_bytes());
        // Long enough to be refused for it.
        assert_eq!(line(&"x".repeat(3000)).len(), CMDLINE);
    }

    /// A Xen that knows this map and this number of pages.
    struct Knows<'a>(&'a [(u64, u64, u32)], u64);

    impl Ask for Knows<'_> {
        fn map(&mut self, to: &mut [MemmapTableEntry]) -> Option<usize> {
            for (to, &(addr, size, ty)) in to.iter_mut().zip(self.0) {
                *to = MemmapTableEntry {
                    addr,
                    size,
                    ty,
                    reserved: 0,
                };
            }
            Some(self.0.len())
        }

        fn pages(&mut self) -> Option<u64> {
            Some(self.1)
        }

        fn ring(&mut self) -> Option<u64> {
            Some(RING)
        }
    }

    /// Where Xen's tools put the console's ring.
    const RING: u64 = 0xf_efff;

    #[test]
    fn a_map_that_the_loader_does_not_give_is_asked_for() {
        let mut old = Loader::new(&[], &[], "log=warn");
        let mut xen = Knows(PC, u64::MAX);
        let version_1 = old.parse_asking(&mut xen).unwrap();
        assert_eq!(version_1.memory.end(), 0x3fe0);
        // In version 0 nothing stands where later ones have the map.
        old.put(START + 4, &[0; 4]);
        old.put(START + 40, &[0xff; 16]);
        assert_eq!(old.parse_asking(&mut xen).unwrap(), version_1);
        assert_eq!(old.parse().unwrap_err().field, "memmap_entries");
        assert!(old.parse_asking(&mut Knows(&[], 0)).is_err());
    }

    #[test]
    fn no_more_is_taken_than_the_domain_has() {
        let acpi = (0xfc00_0000, 0x8800, 4);
        let special = (0xfeff_8000, 0x8000, 2);
        let new = &[(0, 0x1000_0000, 1), special, acpi];
        let old = &[(0, 0x1000_0000, 1), acpi];
        for map in [&new[..], &old[..]] {
            let loader = Loader::new(map, &[], "");
            let memory = |pages| loader.parse_asking(&mut Knows(&[], pages)).unwrap().memory;
            assert_eq!(memory(0x1_0000 + 17).end(), 0x1_0000);
            assert_eq!(memory(0x1_0000 + 16).end(), 0xffff);
            assert_eq!(memory(0x8000 + 17).end(), 0x8000);
        }
        let loader = Loader::new(new, &[], "");
        let little = loader.parse_asking(&mut Knows(&[], 0x300)).unwrap_err();
        assert_eq!(little.field, "current_reservation");
    }

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_frames(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..64, 0_u64..24), 0..24)
        ) {
            let mut ranges = Ranges::new();
            let mut set = std::collections::BTreeSet::new();
            for (adds, start, length) in steps {
                let range = start..start + length;
                if adds {
                    set.extend(range.clone());
                    add(&mut ranges, range).unwrap();
                } else {
                    set.retain(|frame| !range.contains(frame));
                    remove(&mut ranges, range).unwrap();
                }
            }
            let listed: std::vec::Vec<u64> = ranges.iter().cloned().flatten().collect();
            prop_assert_eq!(listed, set.into_iter().collect::<std::vec::Vec<_>>());
        }

        #[test]
        fn no_bytes_can_make_it_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..0x3000
        ) {
            let mut loader = Loader::new(PC, &[(0x20_0000, 5)], "x");
            loader.put(at as u64, &noise);
            let _ = loader.parse();
        }
    }
}
