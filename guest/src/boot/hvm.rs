//! `hvm_start_info`, checked: what a loader says to a kernel that it enters by the PVH protocol.
//!
//! Everything in it is a physical address of something else, so it is read through a function that
//! copies from physical memory, one page in view at a time; nothing is assumed to be mapped. The
//! memory map, of any length, becomes ordered ranges of whole frames, apart from each other, in which what
//! is claimed twice as anything but memory is none.
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
use hypercall::abi::memory::e820entry;
use marks::init;
use pvh::start_info::{MemmapTableEntry, MemmapType, ModlistEntry, START_MAGIC_VALUE, StartInfo};

use crate::mm::memory::Memory;
use crate::start_info::{BootError, CMDLINE, Module};

const PAGE: u64 = 4096;
/// The frames that the entry has mapped and the kernel starts in, from the image on.
const NEEDED: Range<u64> = 0x200..0x800;
/// Pages that Xen's builder gives every domain at the end of the 32-bit address space for rings and
/// the like (`X86_HVM_NR_SPECIAL_PAGES`, `tools/libs/guest/xg_dom_x86.c`).
const SPECIAL: u64 = 8;
/// Entries of the longest map that Xen has or keeps for a domain (`E820MAX`,
/// `xen/arch/x86/include/asm/e820.h`): a number above is no number of entries.
const MOST_ENTRIES: usize = 1024;
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
    fn map(&mut self, to: &mut [e820entry]) -> Option<usize>;

    /// How many pages the domain has now, if that may be less than its map shows.
    fn pages(&mut self) -> Option<u64>;

    /// A frame of those that the builder keeps for rings, if it is known.
    fn ring(&mut self) -> Option<u64>;
}

/// Nobody can be asked: the loader's word is all there is.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Ask for Nobody {
    fn map(&mut self, _: &mut [e820entry]) -> Option<usize> {
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
        let (memory, others) = match entries {
            0 => survey_asked(ask)?,
            many if many as usize > MOST_ENTRIES => {
                return Err(error("memmap_entries", many.into(), "1024 at most"));
            }
            _ => {
                let place = info.memmap_paddr;
                survey(
                    &mut Loaded {
                        read,
                        place,
                        entries,
                    },
                    ask.ring(),
                )?
            }
        };
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
    let mut there = Memory::none();
    let mut room = 0;
    for range in memory.ranges() {
        let end = range.end.min(range.start + left);
        left -= end - range.start;
        if range.start < end {
            there.add(range.start..end, NEEDED.start);
            // What is shown in one piece with the last: behind it may be something else.
            room = range.end;
        }
    }
    bootable(there.with_room(room), "current_reservation")
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

/// A memory map, wherever it lies.
trait Map {
    /// How many entries it has.
    fn entries(&self) -> u32;

    /// Where an entry's range begins, its length in bytes, and what it is.
    fn entry(&mut self, index: u32) -> (u64, u64, MemmapType);
}

/// The loader's, which is read where it is.
struct Loaded<'a, R> {
    read: &'a mut R,
    place: u64,
    entries: u32,
}

#[init]
impl<R: Read> Map for Loaded<'_, R> {
    fn entries(&self) -> u32 {
        self.entries
    }

    fn entry(&mut self, index: u32) -> (u64, u64, MemmapType) {
        let offset = u64::from(index) * size_of::<MemmapTableEntry>() as u64;
        let entry: MemmapTableEntry = load(self.read, self.place.saturating_add(offset));
        (entry.addr, entry.size, entry.ty())
    }
}

/// Xen's, in a copy.
struct Asked<'a>(&'a [e820entry]);

#[init]
impl Map for Asked<'_> {
    fn entries(&self) -> u32 {
        self.0.len() as u32
    }

    fn entry(&mut self, index: u32) -> (u64, u64, MemmapType) {
        let e820entry { addr, size, r#type } = self.0[index as usize];
        (addr, size, r#type.into())
    }
}

/// As [`survey`], of the map that somebody else knows. Not part of its caller, on whose stack its copy
/// would stay.
#[init]
#[inline(never)]
fn survey_asked(ask: &mut impl Ask) -> Result<(Memory, u64), BootError> {
    let mut map = [e820entry::default(); MOST_ENTRIES];
    match ask.map(&mut map) {
        Some(known @ 1..) => survey(&mut Asked(&map[..known]), ask.ring()),
        _ => Err(error("memmap_entries", 0, "a memory map, here or from Xen")),
    }
}

/// The frames that an entry describes, and whether they are memory: all of a frame that is, any part of one
/// that is not.
#[init]
fn frames(map: &mut impl Map, index: u32) -> (Range<u64>, bool) {
    let (start, size, what) = map.entry(index);
    let end = start.saturating_add(size);
    match what {
        MemmapType::Ram => (start.div_ceil(PAGE)..(end / PAGE).min(MAX_FRAMES), true),
        _ => (start / PAGE..end.div_ceil(PAGE), false),
    }
}

/// The frames of the memory map that are memory and nothing else, and how many pages the domain may
/// have in others. Maps of older tools do not show where the builder's `ring` is.
#[init]
fn survey(map: &mut impl Map, ring: Option<u64>) -> Result<(Memory, u64), BootError> {
    let mut others = 0_u64;
    let mut shown = ring.is_none();
    for index in 0..map.entries() {
        if let (range, false) = frames(map, index) {
            others = others.saturating_add(range.end.saturating_sub(range.start));
            shown |= ring.is_some_and(|ring| range.contains(&ring));
        }
    }
    if !shown {
        others = others.saturating_add(SPECIAL);
    }
    Ok((bootable(only_memory(map), "memmap")?, others))
}

/// The frames that are memory and nothing else, from the first to the last. Where something begins or ends
/// is looked up from one such place to the next: no copy of the map is kept, nor sorted.
#[init]
fn only_memory(map: &mut impl Map) -> Memory {
    let mut memory = Memory::none();
    let mut piece = 0..0;
    let mut at = 0;
    while at < u64::MAX {
        let (mut is_memory, mut is_other, mut next) = (false, false, u64::MAX);
        for index in 0..map.entries() {
            let (range, here) = frames(map, index);
            let covered = range.contains(&at);
            is_memory |= covered && here;
            is_other |= covered && !here;
            for edge in [range.start, range.end] {
                if edge > at {
                    next = next.min(edge);
                }
            }
        }
        if is_memory && !is_other {
            if piece.end != at {
                memory.add(piece, NEEDED.start);
                piece = at..at;
            }
            piece.end = next;
        }
        at = next;
    }
    memory.add(piece, NEEDED.start);
    memory
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
    use crate::mm::memory::MAX_RANGES;
    use proptest::prelude::*;

    impl<F: FnMut(u64, &mut [u8])> Read for F {
        fn read(&mut self, address: u64, to: &mut [u8]) {
            self(address, to);
        }
    }

    /// Physical memory of the loader's data: `hvm_start_info` at 0x1000, the modules at 0x1800, the map at
    /// 0x2000, the command line right before a page's end.
    #[derive(Clone)]
    struct Loader(std::vec::Vec<u8>);

    const START: u64 = 0x1000;
    const MAP: u64 = 0x2000;
    const MODULES: u64 = 0x1800;
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

    /// Of a map of any length nothing ends the boot, and what is left out is counted.
    #[test]
    fn a_long_map_is_taken() {
        let holes = (0..200).map(|at| (0x200_0000 + at * 0x8000, 0x1000, 2));
        let map: std::vec::Vec<_> = [(0, 0x1000_0000, 1)].into_iter().chain(holes).collect();
        let memory = Loader::new(&map, &[], "").parse().unwrap().memory;
        assert_eq!(memory.ranges().len(), MAX_RANGES);
        assert_eq!(memory.end(), 0x1_0000);
        let pages: u64 = memory.ranges().iter().map(|r| r.end - r.start).sum();
        assert_eq!(pages + memory.left_out(), 0x1_0000 - 200);
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
        fn map(&mut self, to: &mut [e820entry]) -> Option<usize> {
            for (to, &(addr, size, r#type)) in to.iter_mut().zip(self.0) {
                *to = e820entry { addr, size, r#type };
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
        fn memory_is_what_is_called_so_and_nothing_else(
            entries in proptest::collection::vec((any::<bool>(), 0_u64..64, 0_u64..24), 0..24)
        ) {
            let map: std::vec::Vec<_> = entries.iter().map(|&(is_memory, start, pages)| e820entry {
                addr: start * PAGE,
                size: pages * PAGE,
                r#type: if is_memory { 1 } else { 2 },
            }).collect();
            let is = |wanted: bool, frame: u64| entries.iter().any(|&(is_memory, start, pages)| {
                is_memory == wanted && (start..start + pages).contains(&frame)
            });
            let memory = only_memory(&mut Asked(&map));
            for frame in 0..100 {
                prop_assert_eq!(memory.contains(frame), is(true, frame) && !is(false, frame));
            }
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
