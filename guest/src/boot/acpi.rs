//! Which processors a machine has, by the tables of ACPI: the one that lists them (MADT, signature
//! `APIC`; ACPI 6.5, 5.2.12), found by the root pointer that the loader names.
//!
//! The tables are the firmware's, and nothing in them is believed that was not looked at: signatures,
//! checksums, and lengths, each of which is bounded before anything is read by it. What is known before
//! the first thing that cannot be right is kept: processors that are listed before a broken entry are
//! there, of a table whose checksum is wrong none is.
//!
//! The crate `acpi` (7.0.0-pre1) does not fit: it goes on with tables whose checksums are wrong, reads an
//! entry by its type whatever length that has, and does not end at one of length 0.

use core::fmt;

use marks::init;

use super::hvm::Read;
use crate::apic_ids::{ApicIds, END};

/// Bytes of a table that are read at most: room for thousands of processors.
const LONGEST: u32 = 1 << 16;
/// Of every table: signature, length, and what is of no concern.
const HEADER: u32 = 36;
/// Of the MADT: the address of APICs and flags before the entries.
const BEFORE_ENTRIES: u32 = HEADER + 8;

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is something else: what was found instead of its signature.
    Signature(u64),
    /// It says that it has so many bytes.
    Length(u32),
    /// Its bytes add up to this and not to 0.
    Checksum(u8),
    /// The entry at this place says that it has so many bytes.
    Entry(u32, u8),
    /// No table in it lists processors.
    NoList,
}

/// A table that cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiError {
    /// Which.
    pub table: &'static str,
    /// Where it is said to lie.
    pub address: u64,
    /// What is wrong.
    pub wrong: Wrong,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, address) = (self.table, self.address);
        write!(f, "ACPI's {table} at {address:#x} ")?;
        match self.wrong {
            Wrong::Signature(found) => {
                let bytes = found.to_le_bytes();
                write!(f, "begins with '{}'", bytes.escape_ascii())
            }
            Wrong::Length(length) => write!(f, "has {length} bytes by its own word"),
            Wrong::Checksum(sum) => write!(f, "has a wrong checksum: its bytes add up to {sum:#x}"),
            Wrong::Entry(at, length) => {
                write!(
                    f,
                    "has an entry at byte {at} of {length} bytes by its own word"
                )
            }
            Wrong::NoList => f.write_str("names no table that lists processors"),
        }
    }
}

/// What the tables say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processors {
    /// The ids of those that can be started.
    pub ids: ApicIds,
    /// How many others are listed whose ids have more than eight bits.
    pub beyond: u32,
    /// What was wrong; what is behind it is not known.
    pub error: Option<AcpiError>,
}

/// Reads the tables by the root pointer at a physical address.
#[init]
pub fn processors(root: u64, read: &mut impl Read) -> Processors {
    let mut found = Processors::default();
    found.error = Tables(read).processors(root, &mut found).err();
    found
}

struct Tables<'a, R>(&'a mut R);

#[init]
impl<R: Read> Tables<'_, R> {
    fn processors(&mut self, root: u64, found: &mut Processors) -> Result<(), AcpiError> {
        let (list, width) = self.list(root)?;
        let length = self.length(
            list,
            "list of tables",
            Some(if width == 8 { b"XSDT" } else { b"RSDT" }),
        )?;
        for at in (HEADER..length).step_by(width as usize) {
            if at + width > length {
                break;
            }
            let place = list.saturating_add(at.into());
            let table = match width {
                8 => self.number::<8>(place),
                _ => self.number::<4>(place),
            };
            if self.number::<4>(table) == u64::from(u32::from_le_bytes(*b"APIC")) {
                return self.entries(table, found);
            }
        }
        Err(AcpiError {
            table: "list of tables",
            address: list,
            wrong: Wrong::NoList,
        })
    }

    /// The list of tables, and how wide its entries are, by the root pointer.
    fn list(&mut self, root: u64) -> Result<(u64, u32), AcpiError> {
        let wrong = |wrong| AcpiError {
            table: "root pointer",
            address: root,
            wrong,
        };
        let signature = self.number::<8>(root);
        if signature != u64::from_le_bytes(*b"RSD PTR ") {
            return Err(wrong(Wrong::Signature(signature)));
        }
        self.check_sum(root, 20).map_err(wrong)?;
        let at = |offset: u64| root.saturating_add(offset);
        let revision = self.number::<1>(at(15));
        let narrow = self.number::<4>(at(16));
        if revision < 2 {
            return Ok((narrow, 4));
        }
        let length = self.number::<4>(at(20)) as u32;
        if !(36..=LONGEST).contains(&length) {
            return Err(wrong(Wrong::Length(length)));
        }
        self.check_sum(root, length).map_err(wrong)?;
        Ok(match self.number::<8>(at(24)) {
            0 => (narrow, 4),
            wide => (wide, 8),
        })
    }

    /// The length of a table, all of whose bytes add up to 0.
    fn length(
        &mut self,
        address: u64,
        table: &'static str,
        signature: Option<&[u8; 4]>,
    ) -> Result<u32, AcpiError> {
        let wrong = |wrong| AcpiError {
            table,
            address,
            wrong,
        };
        let found = self.number::<4>(address);
        if signature.is_some_and(|signature| u64::from(u32::from_le_bytes(*signature)) != found) {
            return Err(wrong(Wrong::Signature(found)));
        }
        let length = self.number::<4>(address.saturating_add(4)) as u32;
        if !(HEADER..=LONGEST).contains(&length) {
            return Err(wrong(Wrong::Length(length)));
        }
        self.check_sum(address, length).map_err(wrong)?;
        Ok(length)
    }

    /// Adds the processors that the table at an address lists.
    fn entries(&mut self, address: u64, found: &mut Processors) -> Result<(), AcpiError> {
        const TABLE: &str = "list of processors";
        let wrong = |wrong| AcpiError {
            table: TABLE,
            address,
            wrong,
        };
        let length = self.length(address, TABLE, None)?;
        if length < BEFORE_ENTRIES {
            return Err(wrong(Wrong::Length(length)));
        }
        let mut at = BEFORE_ENTRIES;
        while at < length {
            let place = address.saturating_add(at.into());
            let [kind, size] = self.bytes::<2>(place);
            // A processor by its local APIC, or by one that has a wider id.
            let least = match kind {
                0 => 8,
                9 => 16,
                _ => 2,
            };
            if size < least || at + u32::from(size) > length {
                return Err(wrong(Wrong::Entry(at, size)));
            }
            match kind {
                0 => {
                    let id = self.number::<1>(place.saturating_add(3)) as u32;
                    // All ones are none.
                    if id < END {
                        self.add(id, place.saturating_add(4), found);
                    }
                }
                9 => {
                    let id = self.number::<4>(place.saturating_add(4)) as u32;
                    self.add(id, place.saturating_add(8), found);
                }
                _ => {}
            }
            at += u32::from(size);
        }
        Ok(())
    }

    /// Adds a processor if it can be started, by the flags at an address.
    fn add(&mut self, id: u32, flags: u64, found: &mut Processors) {
        if self.number::<4>(flags) & 1 == 0 {
            return;
        }
        if !found.ids.insert(id) {
            found.beyond += 1;
        }
    }

    fn bytes<const N: usize>(&mut self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read(address, &mut bytes);
        bytes
    }

    fn number<const N: usize>(&mut self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.bytes::<N>(address));
        u64::from_le_bytes(bytes)
    }

    /// Bytes that add up to 0.
    fn check_sum(&mut self, address: u64, count: u32) -> Result<(), Wrong> {
        let mut sum = 0_u8;
        let mut at = 0;
        while at < count {
            let mut bytes = [0; 64];
            let piece = &mut bytes[..(count - at).min(64) as usize];
            self.0.read(address.saturating_add(at.into()), piece);
            sum = piece.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte));
            at += piece.len() as u32;
        }
        match sum {
            0 => Ok(()),
            _ => Err(Wrong::Checksum(sum)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Bytes = std::vec::Vec<u8>;

    const ROOT: usize = 0x40;
    const LIST: usize = 0x100;
    const OTHER: usize = 0x200;
    const MADT: usize = 0x300;

    /// Sets the byte that has a table's bytes add up to 0.
    fn sign(table: &mut [u8], at: usize) {
        table[at] = 0;
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        table[at] = sum.wrapping_neg();
    }

    fn table(signature: &[u8; 4], content: &[u8]) -> Bytes {
        let mut table = vec![0; HEADER as usize];
        table[..4].copy_from_slice(signature);
        table.extend_from_slice(content);
        let length = table.len() as u32;
        table[4..8].copy_from_slice(&length.to_le_bytes());
        sign(&mut table, 9);
        table
    }

    /// A processor by its local APIC.
    fn narrow(id: u8, flags: u32) -> Bytes {
        let mut entry = vec![0, 8, id, id];
        entry.extend(flags.to_le_bytes());
        entry
    }

    /// One by an APIC that has a wider id.
    fn wide(id: u32, flags: u32) -> Bytes {
        let mut entry = vec![9, 16, 0, 0];
        entry.extend(id.to_le_bytes());
        entry.extend(flags.to_le_bytes());
        entry.extend([0; 4]);
        entry
    }

    /// The content of a MADT with these entries.
    fn madt(entries: &[Bytes]) -> Bytes {
        let mut content = vec![0; 8];
        content.extend(entries.concat());
        content
    }

    /// Physical memory with the tables, of the first revision or a later one.
    fn memory(revision: u8, madt: &[u8]) -> Bytes {
        let mut memory = vec![0; MADT + HEADER as usize + madt.len()];
        let width = if revision < 2 { 4 } else { 8 };
        let mut root = vec![0; 36];
        root[..8].copy_from_slice(b"RSD PTR ");
        root[15] = revision;
        let list: &[u8; 4] = if width == 4 {
            root[16] = 0x00;
            root[17] = 0x01;
            b"RSDT"
        } else {
            root[20] = 36;
            root[25] = 0x01;
            b"XSDT"
        };
        sign(&mut root[..20], 8);
        sign(&mut root, 32);
        let mut pointers = vec![0; 2 * width];
        pointers[..2].copy_from_slice(&(OTHER as u16).to_le_bytes());
        pointers[width..width + 2].copy_from_slice(&(MADT as u16).to_le_bytes());
        for (at, table) in [
            (ROOT, root),
            (LIST, table(list, &pointers)),
            (OTHER, table(b"FACP", &[0; 12])),
            (MADT, table(b"APIC", madt)),
        ] {
            memory[at..at + table.len()].copy_from_slice(&table);
        }
        memory
    }

    /// Memory from address 0 on; what is not there reads as all ones. How often it may be read is counted
    /// down.
    struct From<'a>(&'a [u8], u32);

    impl Read for From<'_> {
        fn read(&mut self, address: u64, to: &mut [u8]) {
            self.1 = self.1.checked_sub(1).expect("it ends");
            for (at, byte) in (address..).zip(to) {
                *byte = self.0.get(at as usize).copied().unwrap_or(!0);
            }
        }
    }

    fn find(memory: &[u8]) -> Processors {
        processors(ROOT as u64, &mut From(memory, 100_000))
    }

    fn ids(found: &Processors) -> std::vec::Vec<u32> {
        found.ids.iter().collect()
    }

    #[test]
    fn processors_that_can_be_started_are_found_by_either_list() {
        let entries = [
            narrow(0, 1),
            // Of no concern: the APIC of a machine's devices.
            vec![1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            narrow(2, 1),
            // Not there: off, to be plugged in later, or by its id.
            narrow(4, 0),
            narrow(6, 2),
            narrow(255, 1),
            wide(254, 1),
            wide(8, 2),
        ];
        for revision in [0, 2, 6] {
            let found = find(&memory(revision, &madt(&entries)));
            assert_eq!(ids(&found), [0, 2, 254], "{revision}");
            assert_eq!((found.ids.count(), found.beyond, found.error), (3, 0, None));
        }
    }

    #[test]
    fn ids_that_are_too_wide_are_counted() {
        let entries = [
            narrow(1, 1),
            wide(255, 1),
            wide(256, 1),
            wide(!0, 1),
            wide(!0, 0),
        ];
        let found = find(&memory(2, &madt(&entries)));
        assert_eq!((ids(&found), found.beyond), (vec![1], 3));
        assert_eq!(found.error, None);
    }

    /// What is wrong, of tables in which two processors are listed, after something was done to memory.
    fn wrong(change: impl FnOnce(&mut Bytes)) -> (u32, std::string::String) {
        let mut memory = memory(2, &madt(&[narrow(0, 1), narrow(1, 1)]));
        change(&mut memory);
        let found = find(&memory);
        let error = found.error.expect("nothing is wrong with it");
        (found.ids.count(), error.to_string())
    }

    #[test]
    fn what_cannot_be_right_is_said_and_not_believed() {
        let says = |change: fn(&mut Bytes), text: &str| {
            let (count, said) = wrong(change);
            assert_eq!((count, said.as_str()), (0, text));
        };
        says(
            |memory| memory[ROOT] = b'X',
            "ACPI's root pointer at 0x40 begins with 'XSD PTR '",
        );
        says(
            |memory| memory[ROOT + 10] += 1,
            "ACPI's root pointer at 0x40 has a wrong checksum: its bytes add up to 0x1",
        );
        says(
            |memory| {
                memory[ROOT + 20..ROOT + 24].fill(0xff);
                sign(&mut memory[ROOT..ROOT + 36], 32);
            },
            "ACPI's root pointer at 0x40 has 4294967295 bytes by its own word",
        );
        says(
            |memory| memory[LIST] = b'R',
            "ACPI's list of tables at 0x100 begins with 'RSDT\\x00\\x00\\x00\\x00'",
        );
        says(
            |memory| memory[LIST + 4] = 35,
            "ACPI's list of tables at 0x100 has 35 bytes by its own word",
        );
        says(
            |memory| {
                memory[MADT] = b'a';
                let end = MADT + 60;
                sign(&mut memory[MADT..end], 9);
            },
            "ACPI's list of tables at 0x100 names no table that lists processors",
        );
        says(
            |memory| *memory.last_mut().unwrap() = 9,
            "ACPI's list of processors at 0x300 has a wrong checksum: its bytes add up to 0x9",
        );
        says(
            |memory| memory[MADT + 6] = 2,
            "ACPI's list of processors at 0x300 has 131132 bytes by its own word",
        );
    }

    #[test]
    fn processors_before_a_broken_entry_are_kept() {
        for (size, text) in [
            (0, "an entry at byte 52 of 0 bytes"),
            (1, "an entry at byte 52 of 1 bytes"),
            (7, "an entry at byte 52 of 7 bytes"),
            (9, "an entry at byte 52 of 9 bytes"),
        ] {
            let (count, said) = wrong(|memory| {
                memory[MADT + 53] = size;
                sign(&mut memory[MADT..], 9);
            });
            assert_eq!(count, 1);
            assert!(said.contains(text), "{said}");
        }
    }

    proptest! {
        /// Whatever the tables hold, it ends, and no processor comes out of one that is not signed.
        #[test]
        fn any_tables_are_survived(
            changes in prop::collection::vec((ROOT..MADT + 100, any::<u8>()), 0..20),
            signed in any::<bool>(),
        ) {
            let entries: [_; 4] = core::array::from_fn(|id| narrow(id as u8, 1));
            let mut memory = memory(2, &madt(&entries));
            for (at, byte) in changes {
                if let Some(place) = memory.get_mut(at) {
                    *place = byte;
                }
            }
            if signed {
                sign(&mut memory[MADT..], 9);
            }
            let found = find(&memory);
            prop_assert!(found.ids.count() <= 255);
            let list = &memory[MADT..];
            let sum = list.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            let length = u32::from_le_bytes([4, 5, 6, 7].map(|at| list[at]));
            if sum != 0 && length as usize == list.len() && found.error.is_none() {
                prop_assert_eq!(found.ids.count(), 0);
            }
        }
    }
}
