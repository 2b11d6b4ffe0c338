//! What Xen reads of the image before it runs: ELF notes and segments. A mistake here shows as a
//! domain that does not build, with little said about why; this says why.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use object::Endianness;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use super::Suite;
use crate::exit::{Failure, Result};

/// Numbers of xen/include/public/elfnote.h.
mod note {
    pub(super) const ENTRY: u32 = 1;
    pub(super) const HYPERCALL_PAGE: u32 = 2;
    pub(super) const VIRT_BASE: u32 = 3;
    pub(super) const PADDR_OFFSET: u32 = 4;
    pub(super) const XEN_VERSION: u32 = 5;
    pub(super) const GUEST_OS: u32 = 6;
    pub(super) const GUEST_VERSION: u32 = 7;
    pub(super) const LOADER: u32 = 8;
    pub(super) const FEATURES: u32 = 10;
    pub(super) const INIT_P2M: u32 = 15;
    pub(super) const MOD_START_PFN: u32 = 16;
    pub(super) const SUPPORTED_FEATURES: u32 = 17;
    pub(super) const PHYS32_ENTRY: u32 = 18;
}

/// Every note the image carries, by name.
const REQUIRED: &[(u32, &str)] = &[
    (note::ENTRY, "ENTRY"),
    (note::HYPERCALL_PAGE, "HYPERCALL_PAGE"),
    (note::VIRT_BASE, "VIRT_BASE"),
    (note::PADDR_OFFSET, "PADDR_OFFSET"),
    (note::XEN_VERSION, "XEN_VERSION"),
    (note::GUEST_OS, "GUEST_OS"),
    (note::GUEST_VERSION, "GUEST_VERSION"),
    (note::LOADER, "LOADER"),
    (note::FEATURES, "FEATURES"),
    (note::INIT_P2M, "INIT_P2M"),
    (note::MOD_START_PFN, "MOD_START_PFN"),
    (note::SUPPORTED_FEATURES, "SUPPORTED_FEATURES"),
    (note::PHYS32_ENTRY, "PHYS32_ENTRY"),
];

/// XENFEAT_dom0: without it Xen refuses the kernel as its first domain.
const FEATURE_DOM0: u32 = 11;

const PAGE: u64 = 4096;

/// The R, W and X bits of a segment.
const R: u32 = 4;
const RW: u32 = 6;
const RX: u32 = 5;

/// A program header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    rights: u32,
    virt: u64,
    phys: u64,
    size: u64,
    align: u64,
}

impl Segment {
    fn contains(&self, address: u64) -> bool {
        address >= self.virt && address - self.virt < self.size
    }
}

/// All that Xen looks at.
#[derive(Debug, Clone, Default)]
struct Image {
    loads: Vec<Segment>,
    notes_at: Vec<Segment>,
    notes: BTreeMap<u32, Vec<u8>>,
}

type Verdict = std::result::Result<(), String>;
type Check = fn(&Image) -> Verdict;

/// Reads the image and applies every check.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let path = suite.kernel()?;
    let image = read(&path)?;
    for (name, check) in CHECKS {
        suite.report(&format!("notes: {name}"), Instant::now(), check(&image));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Image> {
    let bytes = std::fs::read(path).map_err(Failure::file("read", path))?;
    parse(&bytes)
        .map_err(|error| Failure::Guest(format!("{}: no ELF64 file: {error}", path.display())))
}

fn parse(bytes: &[u8]) -> object::Result<Image> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let mut image = Image::default();
    for segment in header.program_headers(endian, bytes)? {
        match segment.p_type(endian) {
            elf::PT_LOAD => image.loads.push(describe(segment, endian)),
            elf::PT_NOTE => {
                image.notes_at.push(describe(segment, endian));
                let Some(mut notes) = segment.notes(endian, bytes)? else {
                    continue;
                };
                while let Some(note) = notes.next()? {
                    if note.name() == b"Xen" {
                        image
                            .notes
                            .insert(note.n_type(endian).0, note.desc().to_vec());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(image)
}

fn describe(segment: &ProgramHeader64<Endianness>, endian: Endianness) -> Segment {
    Segment {
        rights: segment.p_flags(endian).0,
        virt: segment.p_vaddr(endian),
        phys: segment.p_paddr(endian),
        size: segment.p_memsz(endian),
        align: segment.p_align(endian),
    }
}

impl Image {
    fn bytes(&self, kind: u32) -> std::result::Result<&[u8], String> {
        let name = REQUIRED
            .iter()
            .find(|(number, _)| *number == kind)
            .map_or("?", |found| found.1);
        self.notes
            .get(&kind)
            .map(Vec::as_slice)
            .ok_or_else(|| format!("no note {name}"))
    }

    /// A numeric note: Xen reads four or eight bytes.
    fn number(&self, kind: u32) -> std::result::Result<u64, String> {
        let bytes = self.bytes(kind)?;
        match bytes.len() {
            4 | 8 => Ok(bytes
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte))),
            other => Err(format!("note {kind} has {other} bytes instead of 4 or 8")),
        }
    }

    fn text(&self, kind: u32) -> std::result::Result<&str, String> {
        let bytes = self.bytes(kind)?;
        let text = bytes
            .strip_suffix(&[0])
            .ok_or(format!("note {kind} has no terminating zero"))?;
        std::str::from_utf8(text).map_err(|_| format!("note {kind} is not text"))
    }

    fn load_with(&self, rights: u32) -> std::result::Result<&Segment, String> {
        self.loads
            .iter()
            .find(|segment| segment.rights == rights)
            .ok_or_else(|| format!("no segment with rights {rights:#x}"))
    }
}

fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if condition { Ok(()) } else { Err(otherwise()) }
}

/// Every check with its name.
const CHECKS: &[(&str, Check)] = &[
    ("every note is there", |image| {
        let missing: Vec<_> = REQUIRED
            .iter()
            .filter(|(kind, _)| !image.notes.contains_key(kind))
            .map(|(_, name)| *name)
            .collect();
        ensure(missing.is_empty(), || {
            format!("missing: {}", missing.join(", "))
        })
    }),
    (
        "one note segment, aligned to 4, inside a loaded one",
        |image| {
            let [notes] = image.notes_at.as_slice() else {
                return Err(format!(
                    "{} PT_NOTE segments instead of 1",
                    image.notes_at.len()
                ));
            };
            ensure(notes.align == 4, || {
                format!("PT_NOTE is aligned to {}, Xen reads 4", notes.align)
            })?;
            ensure(
                image.loads.iter().any(|load| load.contains(notes.virt)),
                || "PT_NOTE is not loaded".into(),
            )
        },
    ),
    ("code, constants and variables are separate", |image| {
        let mut rights: Vec<_> = image.loads.iter().map(|segment| segment.rights).collect();
        rights.sort_unstable();
        ensure(rights == [R, RX, RW], || {
            format!("segments have rights {rights:x?}, not R RX RW")
        })
    }),
    ("segments start on pages and share none", |image| {
        for segment in &image.loads {
            ensure(
                segment.virt.is_multiple_of(PAGE) && segment.align == PAGE,
                || {
                    format!(
                        "segment at {:#x} is aligned to {:#x}",
                        segment.virt, segment.align
                    )
                },
            )?;
        }
        let mut loads = image.loads.clone();
        loads.sort_by_key(|segment| segment.virt);
        loads.windows(2).try_for_each(|pair| {
            let end = (pair[0].virt + pair[0].size).next_multiple_of(PAGE);
            ensure(end <= pair[1].virt, || {
                format!("segments overlap at {:#x}", pair[1].virt)
            })
        })
    }),
    (
        "load addresses follow VIRT_BASE and PADDR_OFFSET",
        |image| {
            let base = image.number(note::VIRT_BASE)?;
            let offset = image.number(note::PADDR_OFFSET)?;
            image.loads.iter().try_for_each(|segment| {
                let expected = segment.virt.wrapping_sub(base).wrapping_add(offset);
                ensure(segment.phys == expected, || {
                    format!(
                        "{:#x} loads at {:#x}, not {expected:#x}",
                        segment.virt, segment.phys
                    )
                })
            })
        },
    ),
    ("the entry is code", |image| {
        let entry = image.number(note::ENTRY)?;
        ensure(image.load_with(RX)?.contains(entry), || {
            format!("{entry:#x} is not code")
        })
    }),
    ("the PVH entry is code, by its physical address", |image| {
        let entry = image.number(note::PHYS32_ENTRY)?;
        let size = image.bytes(note::PHYS32_ENTRY)?.len();
        // QEMU reads eight bytes of a 64-bit image, and enters with paging off.
        ensure(size == 8 && entry <= u64::from(u32::MAX), || {
            format!("{entry:#x} in {size} bytes is no 32-bit address in 8")
        })?;
        let code = image.load_with(RX)?;
        ensure(entry >= code.phys && entry - code.phys < code.size, || {
            format!("{entry:#x} is not code")
        })
    }),
    ("the hypercall page is a page of code", |image| {
        let page = image.number(note::HYPERCALL_PAGE)?;
        ensure(page.is_multiple_of(PAGE), || {
            format!("{page:#x} is not page-aligned")
        })?;
        let code = image.load_with(RX)?;
        ensure(
            code.contains(page) && code.contains(page + PAGE - 1),
            || format!("{page:#x} is not code: Xen would write its stubs over something else"),
        )
    }),
    ("the p2m lies outside the image", |image| {
        let p2m = image.number(note::INIT_P2M)?;
        let base = image.number(note::VIRT_BASE)?;
        ensure(p2m.is_multiple_of(PAGE) && p2m < base, || {
            format!("INIT_P2M is {p2m:#x}")
        })
    }),
    ("the words that Xen's builders look for", |image| {
        for (kind, word) in [(note::LOADER, "generic"), (note::XEN_VERSION, "xen-3.0")] {
            let text = image.text(kind)?;
            ensure(text == word, || format!("\"{text}\" instead of \"{word}\""))?;
        }
        for kind in [note::GUEST_OS, note::GUEST_VERSION] {
            ensure(!image.text(kind)?.is_empty(), || {
                format!("note {kind} is empty")
            })?;
        }
        image.text(note::FEATURES).map(drop)
    }),
    ("dom0 is among the supported features", |image| {
        let features = image.number(note::SUPPORTED_FEATURES)?;
        ensure(features >> FEATURE_DOM0 & 1 == 1, || {
            format!("SUPPORTED_FEATURES {features:#x} lacks bit {FEATURE_DOM0}")
        })
    }),
    ("the initial RAM disk comes by frame number", |image| {
        let value = image.number(note::MOD_START_PFN)?;
        ensure(value == 1, || format!("MOD_START_PFN is {value}"))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn segment(rights: u32, phys: u64, align: u64) -> Segment {
        Segment {
            rights,
            virt: BASE + phys,
            phys,
            size: 0x2000,
            align,
        }
    }

    fn good() -> Image {
        let text = |text: &str| [text.as_bytes(), &[0]].concat();
        let number = |number: u64| number.to_le_bytes().to_vec();
        Image {
            loads: vec![
                segment(RX, 0x10_0000, PAGE),
                segment(R, 0x10_2000, PAGE),
                segment(RW, 0x10_4000, PAGE),
            ],
            notes_at: vec![segment(R, 0x10_2100, 4)],
            notes: BTreeMap::from([
                (note::ENTRY, number(BASE + 0x10_0000)),
                (note::HYPERCALL_PAGE, number(BASE + 0x10_1000)),
                (note::VIRT_BASE, number(BASE)),
                (note::PADDR_OFFSET, number(0)),
                (note::XEN_VERSION, text("xen-3.0")),
                (note::GUEST_OS, text("os")),
                (note::GUEST_VERSION, text("1")),
                (note::LOADER, text("generic")),
                (note::FEATURES, text("!writable_page_tables")),
                (note::INIT_P2M, number(0xffff_c000_0000_0000)),
                (note::MOD_START_PFN, 1u32.to_le_bytes().to_vec()),
                (note::SUPPORTED_FEATURES, 0x800u32.to_le_bytes().to_vec()),
                (note::PHYS32_ENTRY, number(0x10_0000)),
            ]),
        }
    }

    fn failing(image: &Image) -> Vec<&'static str> {
        CHECKS
            .iter()
            .filter(|(_, check)| check(image).is_err())
            .map(|(name, _)| *name)
            .collect()
    }

    #[test]
    fn a_good_image_passes_every_check() {
        assert_eq!(failing(&good()), Vec::<&str>::new());
    }

    #[test]
    fn every_check_can_fail() {
        let mut caught = Vec::new();
        let mut spoil = |change: &dyn Fn(&mut Image)| {
            let mut image = good();
            change(&mut image);
            let found = failing(&image);
            assert!(!found.is_empty());
            caught.extend(found);
        };
        spoil(&|image| drop(image.notes.remove(&note::FEATURES)));
        spoil(&|image| image.notes_at[0].align = 8);
        spoil(&|image| image.loads[2].rights = 7);
        spoil(&|image| image.loads[1].virt += 0x10);
        spoil(&|image| image.loads[0].phys += PAGE);
        let set = |image: &mut Image, kind, value: u64| {
            image.notes.insert(kind, value.to_le_bytes().to_vec());
        };
        spoil(&|image| set(image, note::ENTRY, BASE + 0x10_2000));
        spoil(&|image| set(image, note::PHYS32_ENTRY, BASE + 0x10_0000));
        spoil(&|image| set(image, note::HYPERCALL_PAGE, BASE + 0x10_0800));
        spoil(&|image| set(image, note::INIT_P2M, BASE + 0x20_0000));
        spoil(&|image| set(image, note::SUPPORTED_FEATURES, 0x401));
        spoil(&|image| set(image, note::MOD_START_PFN, 0));
        spoil(&|image| drop(image.notes.insert(note::LOADER, b"generic".to_vec())));
        for (name, _) in CHECKS {
            assert!(caught.contains(name), "nothing here fails: {name}");
        }
    }

    #[test]
    fn what_is_no_elf_file_is_an_error() {
        assert!(parse(b"\x7fELF").is_err());
    }
}
