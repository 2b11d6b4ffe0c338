//! A dump of a PV domain as Xen's tools write it (`docs/misc/dump-core-format.txt`), read as a
//! debugger would: what the domain had must be in it, and its page tables must be found.
//!
//! A dump is as large as the domain and lies in the dom0, so only the parts that are looked at are
//! fetched, by a function that its caller brings.

use std::io::Read;
use std::mem::{offset_of, size_of};

use hypercall::abi::arch::vcpu_guest_context;
use hypercall::abi::shared_info::shared_info;
use object::elf::{FileHeader64, SectionHeader64};
use object::{LittleEndian, pod};

const PAGE: u64 = 4096;
/// Entries of a page table, and of a page of the p2m list.
const ENTRIES: usize = 512;
/// The machine frame in an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// What a dump has for a frame that it does not have.
const INVALID: u64 = u64::MAX;

/// When a dump is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dump {
    /// By `xl dump-core`, of the domain that runs, once it has said this.
    Live(&'static str),
    /// By xl, which was told so in the domain's configuration, when the domain has crashed.
    Crash,
}

/// Why a dump could not be read.
#[derive(Debug)]
pub(super) enum DumpError<E> {
    /// A part could not be fetched.
    Fetch(E),
    /// It is not what it should be.
    Wrong(String),
}

impl<E> From<String> for DumpError<E> {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

/// What was found in a dump.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Pages of the domain, all there.
    pub(super) pages: u64,
    /// Page tables from the vCPU's CR3 to the p2m list.
    pub(super) tables: usize,
}

type Result<T, E> = std::result::Result<T, DumpError<E>>;

/// Reads a dump. `fetch` gives bytes of the file from an offset on.
pub(super) fn read<E>(
    fetch: &mut dyn FnMut(u64, usize) -> std::result::Result<Vec<u8>, E>,
) -> Result<Found, E> {
    let mut file = File { fetch };
    let [status, shared, p2m, pages] = file.sections()?;
    let count = pages.bytes / PAGE;
    let known = file.p2m(p2m)?;
    if count == 0 || known.len() as u64 != count {
        return Err(format!("{count} pages, {} of them with numbers", known.len()).into());
    }
    // Numbers are missing where memory was given back; the list says so as well.
    let lacking = known.iter().enumerate().find(|(i, (pfn, mfn))| {
        let before = i.checked_sub(1).map(|before| known[before].0);
        before.is_some_and(|before| before >= *pfn) || *pfn == INVALID || *mfn == INVALID
    });
    if let Some((index, (pfn, mfn))) = lacking {
        return Err(format!("page {index} of {count} is pfn {pfn:#x}, mfn {mfn:#x}").into());
    }
    let page = |file: &mut File<'_, E>, mfn: u64, what: &str| {
        let index = known.iter().position(|(_, other)| *other == mfn);
        let index = index.ok_or(format!("{what}, mfn {mfn:#x}, is not in the dump"))?;
        file.words(pages.at + index as u64 * PAGE, ENTRIES)
    };

    let cr3 = file.word(status.at + offset_of!(vcpu_guest_context, ctrlreg) as u64 + 3 * 8)?;
    let list = file.word(shared.at + offset_of!(shared_info, arch.p2m_vaddr) as u64)?;
    let mut next = cr3 >> 12;
    for level in (1..=4).rev() {
        let table = page(&mut file, next, &format!("the L{level} table"))?;
        let entry = table[(list >> (12 + 9 * (level - 1))) as usize % ENTRIES];
        if entry & 1 == 0 {
            return Err(
                format!("the L{level} table, mfn {next:#x}, has no entry for {list:#x}").into(),
            );
        }
        next = (entry & FRAME) >> 12;
    }
    // What the guest has at that address is what the tools have taken for it.
    let first = page(&mut file, next, "the p2m list's first page")?;
    let dumped = |pfn: u64| {
        let at = known.binary_search_by_key(&pfn, |(pfn, _)| *pfn);
        at.map_or(INVALID, |at| known[at].1)
    };
    let last = known.last().map_or(0, |(pfn, _)| *pfn);
    let mut listed = (0..=last).zip(&first);
    match listed.position(|(pfn, mine)| *mine != dumped(pfn)) {
        Some(index) => {
            Err(format!("entry {index} of the p2m list is not what the dump says").into())
        }
        None => Ok(Found {
            pages: count,
            tables: 4,
        }),
    }
}

/// A part of the file.
#[derive(Debug, Clone, Copy)]
struct Section {
    at: u64,
    bytes: u64,
}

struct File<'a, E> {
    fetch: &'a mut dyn FnMut(u64, usize) -> std::result::Result<Vec<u8>, E>,
}

impl<E> File<'_, E> {
    /// Bytes of the file, all of them.
    fn bytes(&mut self, at: u64, count: u64) -> Result<Vec<u8>, E> {
        let wanted = usize::try_from(count).map_err(|_| format!("{count} bytes in one piece"))?;
        let bytes = (self.fetch)(at, wanted).map_err(DumpError::Fetch)?;
        if bytes.len() != wanted {
            let found = bytes.len();
            return Err(format!("the file ends {found} bytes behind {at:#x}, of {wanted}").into());
        }
        Ok(bytes)
    }

    fn words(&mut self, at: u64, count: usize) -> Result<Vec<u64>, E> {
        let bytes = self.bytes(at, count as u64 * 8)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn word(&mut self, at: u64) -> Result<u64, E> {
        self.words(at, 1).map(|words| words[0])
    }

    /// The sections of the first vCPU's registers, of `shared_info`, of numbers and of pages.
    fn sections(&mut self) -> Result<[Section; 4], E> {
        type Header = FileHeader64<LittleEndian>;
        type Entry = SectionHeader64<LittleEndian>;
        const LITTLE: LittleEndian = LittleEndian;
        let bytes = self.bytes(0, size_of::<Header>() as u64)?;
        let bad = |what: &str| DumpError::Wrong(format!("no ELF file: {what}"));
        let (header, _) = pod::from_bytes::<Header>(&bytes).map_err(|()| bad("too short"))?;
        if header.e_ident.magic != object::elf::ELFMAG {
            return Err(bad("no magic number"));
        }
        let count = usize::from(header.e_shnum.get(LITTLE));
        let bytes = self.bytes(
            header.e_shoff.get(LITTLE),
            (count * size_of::<Entry>()) as u64,
        )?;
        let (entries, _) = pod::slice_from_bytes::<Entry>(&bytes, count)
            .map_err(|()| bad("no section headers"))?;
        let section = |entry: &Entry| Section {
            at: entry.sh_offset.get(LITTLE),
            bytes: entry.sh_size.get(LITTLE),
        };
        let names = entries
            .get(usize::from(header.e_shstrndx.get(LITTLE).0))
            .map(section)
            .ok_or_else(|| bad("no names of sections"))?;
        let names = self.bytes(names.at, names.bytes)?;
        let named = |name: &str| {
            let found = entries.iter().find(|entry| {
                let at = entry.sh_name.get(LITTLE) as usize;
                let rest = names.get(at..).unwrap_or_default();
                rest.split(|byte| *byte == 0).next() == Some(name.as_bytes())
            });
            found
                .map(section)
                .ok_or_else(|| DumpError::Wrong(format!("no section {name}")))
        };
        Ok([
            named(".xen_prstatus")?,
            named(".xen_shared_info")?,
            named(".xen_p2m")?,
            named(".xen_pages")?,
        ])
    }

    /// Pairs of pfn and mfn.
    fn p2m(&mut self, section: Section) -> Result<Vec<(u64, u64)>, E> {
        let bytes = self.bytes(section.at, section.bytes)?;
        let (pairs, _) = bytes.as_chunks::<16>();
        Ok(pairs
            .iter()
            .map(|pair| {
                let (pair, _) = pair.as_chunks::<8>();
                (u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1]))
            })
            .collect())
    }
}

/// What `piece` in `init.sh` has made of bytes, made back; what it could not pack is not there.
pub(super) fn unpacked(lines: &[String]) -> Vec<u8> {
    let digits: Vec<u8> = lines.iter().flat_map(|line| line.trim().bytes()).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or_default() as u8;
    let (pairs, _) = digits.as_chunks::<2>();
    let packed: Vec<u8> = pairs
        .iter()
        .map(|[high, low]| digit(*high) << 4 | digit(*low))
        .collect();
    let mut bytes = Vec::new();
    match flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames: a table of each level, the p2m list's page, and what makes 512.
    const COUNT: u64 = 512;
    const FIRST_MFN: u64 = 0x1000;
    const LIST: u64 = 0xffff_c000_0000_0000;

    /// A dump as the tools write it, with a section more to pass over.
    #[derive(Clone)]
    struct Made {
        bytes: Vec<u8>,
        p2m: usize,
        pages: usize,
    }

    fn made() -> Made {
        let names = b"\0.shstrtab\0.xen_prstatus\0.xen_shared_info\0.xen_p2m\0.xen_pages\0";
        let place = |name: &str| {
            let at = names.windows(name.len()).position(|w| w == name.as_bytes());
            at.unwrap() as u32
        };
        let sizes = [
            (".shstrtab", names.len()),
            (".xen_prstatus", size_of::<vcpu_guest_context>()),
            (".xen_shared_info", 4096),
            (".xen_p2m", COUNT as usize * 16),
            (".xen_pages", COUNT as usize * 4096),
        ];
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[40..48].copy_from_slice(&64_u64.to_le_bytes());
        bytes[60..62].copy_from_slice(&6_u16.to_le_bytes());
        bytes[62..64].copy_from_slice(&1_u16.to_le_bytes());
        bytes.extend([0; 64]);
        let mut at = 64 * 7;
        let mut places = Vec::new();
        for (name, size) in sizes {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&place(name).to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend(header);
            places.push(at);
            at += size;
        }
        bytes.resize(at, 0);
        let [strings, status, shared, p2m, pages] = places[..] else {
            panic!()
        };
        bytes[strings..][..names.len()].copy_from_slice(names);
        let mut made = Made { bytes, p2m, pages };
        made.put(
            status + offset_of!(vcpu_guest_context, ctrlreg) + 24,
            FIRST_MFN << 12,
        );
        made.put(shared + offset_of!(shared_info, arch.p2m_vaddr), LIST);
        for pfn in 0..COUNT {
            made.put(p2m + pfn as usize * 16, pfn);
            made.put(p2m + pfn as usize * 16 + 8, FIRST_MFN + pfn);
            // The list is the fifth page, below four tables.
            made.put(pages + 4 * 4096 + pfn as usize * 8, FIRST_MFN + pfn);
        }
        for level in 0..4 {
            let entry = (FIRST_MFN + level + 1) << 12 | 1;
            let slot = LIST >> (39 - 9 * level) & 511;
            made.put(pages + level as usize * 4096 + slot as usize * 8, entry);
        }
        made
    }

    impl Made {
        fn put(&mut self, at: usize, word: u64) {
            self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }

        fn read(&self) -> std::result::Result<Found, String> {
            let found = read::<()>(&mut |at, count| {
                let bytes = self.bytes.iter().skip(at as usize).take(count);
                Ok(bytes.copied().collect())
            });
            found.map_err(|e| match e {
                DumpError::Wrong(what) => what,
                DumpError::Fetch(()) => panic!(),
            })
        }
    }

    #[test]
    fn a_whole_dump_is_understood() {
        let found = Found {
            pages: COUNT,
            tables: 4,
        };
        assert_eq!(made().read(), Ok(found));
    }

    #[test]
    fn what_lacks_in_a_dump_is_said() {
        let says = |change: &dyn Fn(&mut Made), what: &str| {
            let mut dump = made();
            change(&mut dump);
            let said = dump.read().unwrap_err();
            assert!(said.contains(what), "{said}");
        };
        says(&|d| d.bytes.clear(), "the file ends 0 bytes behind 0x0");
        says(&|d| d.bytes[0] = 0, "no magic number");
        says(&|d| d.bytes.truncate(0x300), "the file ends");
        // Where the tools know of no pages they write none.
        let last = |d: &Made| d.p2m + (COUNT as usize - 1) * 16;
        says(&|d| d.put(last(d) + 8, INVALID), "page 511 of 512 is pfn");
        says(&|d| d.put(last(d), INVALID), "page 511 of 512 is pfn");
        says(
            &|d| d.put(d.p2m + 16 + 8, 5),
            "the L3 table, mfn 0x1001, is not",
        );
        says(
            &|d| {
                let empty = vec![0; 4096];
                let at = d.pages + 2 * 4096;
                d.bytes[at..at + 4096].copy_from_slice(&empty);
            },
            "the L2 table, mfn 0x1002, has no entry",
        );
        says(
            &|d| d.put(d.pages + 4 * 4096 + 80, 7),
            "entry 10 of the p2m",
        );
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"four tables").unwrap();
        let digits: String = packed
            .finish()
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let (first, rest) = digits.split_at(30);
        assert_eq!(unpacked(&[first.into(), rest.into()]), b"four tables");
        assert!(unpacked(&["piece: no such file".into()]).is_empty());
    }
}
