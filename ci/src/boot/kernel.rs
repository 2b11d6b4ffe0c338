//! What a file given by `--kernel` is, judged before anything boots: Xen's own answer to a file that
//! is no kernel is a panic, and xl's names a function of its library.
//!
//! The rules are those of Xen's builders (`xen/common/libelf/libelf-dominfo.c`): a PV kernel says so
//! in ELF notes of the name `Xen`, or in the older section `__xen_guest`, is made for the generic
//! loader or is Linux, and speaks the interface `xen-3.0`. What is entered without PV has a note with
//! its 32-bit entry. A compressed Linux is let through as it is: its notes are packed as well.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use object::elf;
use object::read::elf::{ElfFile, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, FileKind, Object, ObjectSection};

use crate::exit::{Failure, Result};
use crate::stack::Via;

/// Numbers of xen/include/public/elfnote.h.
mod note {
    pub(super) const XEN_VERSION: u32 = 5;
    pub(super) const GUEST_OS: u32 = 6;
    pub(super) const LOADER: u32 = 8;
    pub(super) const PHYS32_ENTRY: u32 = 18;
}

/// Where a Linux image has its magic, and what it is.
const LINUX: (usize, &[u8]) = (0x202, b"HdrS");

/// How a gzip stream starts.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Refuses a file that this way of running could not enter.
pub(crate) fn check(path: &Path, via: Via) -> Result<()> {
    let bytes = std::fs::read(path).map_err(Failure::file("read", path))?;
    judge(&bytes, via).map_err(|why| Failure::Usage(format!("--kernel {}: {why}", path.display())))
}

/// Whether a file is the kernel of this repository, by its note GUEST_OS (`guest/src/entry/pv.rs`): it
/// takes words that others do not know.
pub(super) fn is_ours(path: &Path) -> bool {
    let mut bytes = std::fs::read(path).unwrap_or_default();
    if bytes.starts_with(GZIP) {
        let mut unpacked = Vec::new();
        // One that does not unpack is refused before.
        let _ = flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked);
        bytes = unpacked;
    }
    marks::<elf::FileHeader64<Endianness>>(&bytes)
        .is_ok_and(|marks| marks.text(note::GUEST_OS, "GUEST_OS") == "rust-xen-pv")
}

fn judge(bytes: &[u8], via: Via) -> std::result::Result<(), String> {
    if bytes.starts_with(GZIP) {
        let mut unpacked = Vec::new();
        return match flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut unpacked) {
            Ok(_) => judge(&unpacked, via),
            Err(error) => Err(format!("a gzip file that does not unpack: {error}")),
        };
    }
    if bytes.get(LINUX.0..LINUX.0 + LINUX.1.len()) == Some(LINUX.1) {
        return Ok(());
    }
    let broken = |error| format!("an ELF file that cannot be read: {error}");
    let marks = match FileKind::parse(bytes) {
        Ok(FileKind::Elf64) => marks::<elf::FileHeader64<Endianness>>(bytes).map_err(broken)?,
        Ok(FileKind::Elf32) => marks::<elf::FileHeader32<Endianness>>(bytes).map_err(broken)?,
        _ => return Err(format!("{}, and no ELF file", looks_like(bytes))),
    };
    if via.is_pv() { marks.pv() } else { marks.pvh() }
}

/// What a file that is no ELF file is, as far as it matters.
fn looks_like(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".into(),
        _ if bytes
            .iter()
            .take(512)
            .all(|byte| byte.is_ascii() && *byte != 0) =>
        {
            "a text file".into()
        }
        _ => format!("a file of {} bytes", bytes.len()),
    }
}

/// What an ELF file says of itself to Xen.
#[derive(Debug, Default)]
struct Marks {
    /// Its kind, in words.
    kind: &'static str,
    /// Notes of the name `Xen`.
    notes: BTreeMap<u32, Vec<u8>>,
    /// The older section: `KEY=VALUE` separated by commas.
    guest: Option<String>,
}

fn marks<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> object::Result<Marks> {
    let file = ElfFile::<H>::parse(bytes)?;
    let endian = file.endian();
    let mut marks = Marks {
        kind: match (file.architecture(), H::is_type_64_sized()) {
            (object::Architecture::X86_64, _) => "an x86-64 ELF file",
            (object::Architecture::I386, _) => "a 32-bit x86 ELF file",
            _ => "an ELF file for another processor",
        },
        ..Marks::default()
    };
    // Xen looks into sections only where no segment has notes.
    for segment in file.elf_program_headers() {
        if let Some(mut notes) = segment.notes(endian, bytes)? {
            while let Some(note) = notes.next()? {
                marks.take(note.name(), note.n_type(endian).0, note.desc());
            }
        }
    }
    if marks.notes.is_empty() {
        for section in file.elf_section_table().iter() {
            if let Some(mut notes) = section.notes(endian, bytes)? {
                while let Some(note) = notes.next()? {
                    marks.take(note.name(), note.n_type(endian).0, note.desc());
                }
            }
        }
    }
    if let Some(section) = file.section_by_name("__xen_guest") {
        let text = section.data()?;
        marks.guest = Some(String::from_utf8_lossy(text).into_owned());
    }
    Ok(marks)
}

impl Marks {
    fn take(&mut self, name: &[u8], kind: u32, value: &[u8]) {
        if name == b"Xen" {
            self.notes.insert(kind, value.to_vec());
        }
    }

    /// The text of a note, or of its older form.
    fn text(&self, kind: u32, key: &str) -> String {
        if let Some(value) = self.notes.get(&kind) {
            let text = String::from_utf8_lossy(value);
            return text.trim_end_matches('\0').to_owned();
        }
        let pairs = self.guest.iter().flat_map(|text| text.split([',', '\0']));
        let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    }

    fn pv(&self) -> std::result::Result<(), String> {
        let Self { kind, .. } = self;
        if self.notes.is_empty() && self.guest.is_none() {
            return Err(format!(
                "{kind}, but no PV kernel: it has no ELF notes of Xen's (nor a section \
                 __xen_guest), by which Xen finds the entry"
            ));
        }
        let loader = self.text(note::LOADER, "LOADER");
        let system = self.text(note::GUEST_OS, "GUEST_OS");
        if !loader.starts_with("generic") && !system.starts_with("linux") {
            let only = match self.notes.contains_key(&note::PHYS32_ENTRY) {
                true => "; it can be entered without PV (--via pvh, bare)",
                false => "",
            };
            return Err(format!(
                "{kind} with ELF notes of Xen's, but no PV kernel: the note LOADER is \
                 \"{loader}\" and not \"generic\"{only}"
            ));
        }
        let version = self.text(note::XEN_VERSION, "XEN_VER");
        if !version.contains("xen-3.0") {
            return Err(format!(
                "{kind} with ELF notes of Xen's, but the note XEN_VERSION is \"{version}\" and not \
                 \"xen-3.0\""
            ));
        }
        Ok(())
    }

    fn pvh(&self) -> std::result::Result<(), String> {
        if self.notes.contains_key(&note::PHYS32_ENTRY) {
            return Ok(());
        }
        Err(format!(
            "{}, but no kernel that is entered without PV: it lacks the ELF note PHYS32_ENTRY",
            self.kind
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file whose one segment holds notes.
    fn image(notes: &[(u32, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in notes {
            let padded = value.len().next_multiple_of(4);
            for word in [4, value.len() as u32, *kind] {
                body.extend(word.to_le_bytes());
            }
            body.extend(b"Xen\0");
            body.extend(*value);
            body.resize(body.len() + padded - value.len(), 0);
        }
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
        half(&mut file, 2);
        half(&mut file, 62);
        file.extend(1_u32.to_le_bytes());
        for word in [0_u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for value in [64, 56, 1, 0, 0, 0] {
            half(&mut file, value);
        }
        file.extend(4_u32.to_le_bytes());
        file.extend(4_u32.to_le_bytes());
        let size = body.len() as u64;
        for word in [120_u64, 0, 0, size, size, 4] {
            file.extend(word.to_le_bytes());
        }
        file.extend(body);
        file
    }

    const PV: &[(u32, &[u8])] = &[(8, b"generic\0"), (5, b"xen-3.0\0")];

    #[test]
    fn what_is_no_kernel_is_refused_by_what_it_is_and_what_it_lacks() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let other_version = image(&[(8, b"generic\0"), (5, b"xen-9\0")]);
        let only_pvh = image(&[(18, &[0; 8])]);
        let refused: &[(&[u8], Via, &[&str])] = &[
            (b"", Via::Dom0, &["an empty file"]),
            (b"#!/bin/sh\n", Via::Xl, &["a text file", "no ELF file"]),
            (b"\x7fELF", Via::Dom0, &["no ELF file"]),
            (&own, Via::Dom0, &["x86-64 ELF", "no ELF notes of Xen's"]),
            (&own, Via::Bare, &["x86-64 ELF", "PHYS32_ENTRY"]),
            (&other_version, Via::Shim, &["XEN_VERSION is \"xen-9\""]),
            (&only_pvh, Via::Xl, &["LOADER is \"\"", "--via pvh"]),
            (&image(PV), Via::Pvh, &["lacks the ELF note PHYS32_ENTRY"]),
        ];
        for (bytes, via, says) in refused {
            let why = judge(bytes, *via).unwrap_err();
            for text in *says {
                assert!(why.contains(text), "{text} is not in: {why}");
            }
        }
    }

    #[test]
    fn kernels_are_let_through() {
        assert_eq!(judge(&image(PV), Via::Dom0), Ok(()));
        assert_eq!(judge(&image(&[(18, &[0; 8])]), Via::Bare4), Ok(()));
        let mut linux = vec![0; 0x300];
        linux[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(judge(&linux, Via::Xl), Ok(()));
    }

    #[test]
    fn a_packed_kernel_is_looked_into() {
        use std::io::Write;
        let packed = |bytes: &[u8]| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        };
        assert_eq!(judge(&packed(&image(PV)), Via::Dom0), Ok(()));
        assert!(judge(&packed(b"text"), Via::Dom0).is_err());
        assert!(
            judge(GZIP, Via::Dom0)
                .unwrap_err()
                .contains("does not unpack")
        );
    }
}
