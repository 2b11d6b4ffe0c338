//! Function names, for backtraces and for whoever types one.
//!
//! The image reserves a section that `cargo xtask build` fills after linking with the names of its
//! functions, already demangled. Layout, little-endian: magic `SYMS`, u32 count, then `count`
//! pairs (u32 offset of the function from VIRT_BASE, u32 offset of its name from the start of the
//! section) sorted by address, then names, each a u8 length and that many bytes. A section that
//! does not parse, as before it is filled or in an image without the feature `names`, simply has no names:
//! a backtrace must never fail.

/// First bytes of a filled table.
pub const MAGIC: [u8; 4] = *b"SYMS";

/// Bytes that the image reserves. `cargo xtask build` says so if the names need more.
pub const CAPACITY: usize = 176 * 1024;
/// Bytes of a name that are kept. Generic code has names by the line, and all of them lie in memory that
/// Xen maps for the kernel to begin with: a longer one costs every boot.
pub const LONGEST: usize = 80;

/// A view of a symbol table.
#[derive(Clone, Copy)]
pub struct Symbols<'a> {
    bytes: &'a [u8],
    base: u64,
    count: usize,
}

impl<'a> Symbols<'a> {
    /// Reads a table whose offsets count from `base`.
    #[must_use]
    pub fn new(bytes: &'a [u8], base: u64) -> Symbols<'a> {
        let filled = bytes.starts_with(&MAGIC);
        let count = word(bytes, 4).filter(|_| filled).unwrap_or(0) as usize;
        let fits = count.checked_mul(8).is_some_and(|n| n + 8 <= bytes.len());
        Symbols {
            bytes,
            base,
            count: if fits { count } else { 0 },
        }
    }

    /// Where the function begins that has this name, or else the first whose name ends in `::` and this.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<u64> {
        let named = |is_it: &dyn Fn(&str) -> bool| {
            (0..self.count).find_map(|index| {
                let (start, text) = self.entry(index)?;
                is_it(text).then(|| self.base + u64::from(start))
            })
        };
        let ends = |text: &str| {
            let before = text.strip_suffix(name);
            before.is_some_and(|before| before.ends_with("::"))
        };
        named(&|text| text == name).or_else(|| named(&ends))
    }

    /// The start of a function, from the base, and its name.
    fn entry(&self, index: usize) -> Option<(u32, &'a str)> {
        let entry = 8 + index * 8;
        let start = word(self.bytes, entry)?;
        let name = word(self.bytes, entry + 4)? as usize;
        let length = usize::from(*self.bytes.get(name)?);
        let text = self.bytes.get(name + 1..name + 1 + length)?;
        Some((start, core::str::from_utf8(text).ok()?))
    }

    /// The function that `address` lies in or behind, and how far behind its start.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(&'a str, u64)> {
        let offset = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if word(self.bytes, 8 + middle * 8)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let (start, name) = self.entry(low.checked_sub(1)?)?;
        Some((name, u64::from(offset - start)))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// Writes a table, for the tool that fills the section: `functions` are (offset from VIRT_BASE,
/// name), sorted by offset; of a longer name the first [`LONGEST`] bytes are kept.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn encode(functions: &[(u32, String)]) -> Vec<u8> {
    let mut index = Vec::from(MAGIC);
    index.extend((functions.len() as u32).to_le_bytes());
    let mut names = Vec::new();
    let names_start = 8 + functions.len() * 8;
    for (offset, name) in functions {
        index.extend(offset.to_le_bytes());
        index.extend(((names_start + names.len()) as u32).to_le_bytes());
        let mut length = name.len().min(LONGEST);
        while !name.is_char_boundary(length) {
            length -= 1;
        }
        names.push(length as u8);
        names.extend(&name.as_bytes()[..length]);
    }
    index.extend(names);
    index
}

#[cfg(target_os = "none")]
mod section {
    /// The reserved space; only the linker script's symbols refer to it.
    #[cfg(feature = "names")]
    // SAFETY: the linker script gives this section a place of its own in read-only data.
    #[used]
    #[unsafe(link_section = ".symbols")]
    static RESERVED: [u8; super::CAPACITY] = [0; super::CAPACITY];

    /// The symbols of the running image.
    #[must_use]
    pub fn current() -> super::Symbols<'static> {
        super::Symbols::new(crate::symbol_bytes(), crate::VIRT_BASE)
    }
}

#[cfg(target_os = "none")]
pub use section::current;

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    #[test]
    fn an_address_finds_the_function_it_lies_in() {
        let table = encode(&[
            (0x100, "a".into()),
            (0x180, "b::c".into()),
            (0x200, "d".into()),
        ]);
        let symbols = Symbols::new(&table, BASE);
        assert_eq!(symbols.find(BASE + 0xff), None);
        assert_eq!(symbols.find(BASE + 0x100), Some(("a", 0)));
        assert_eq!(symbols.find(BASE + 0x1ff), Some(("b::c", 0x7f)));
        assert_eq!(symbols.find(BASE + 0x5000), Some(("d", 0x4e00)));
        assert_eq!(symbols.find(5), None);
    }

    #[test]
    fn a_name_finds_its_function() {
        let table = encode(&[
            (0x100, "a::run".into()),
            (0x180, "b::run".into()),
            (0x200, "run".into()),
            (0x280, "overrun".into()),
        ]);
        let symbols = Symbols::new(&table, BASE);
        assert_eq!(symbols.address_of("run"), Some(BASE + 0x200));
        assert_eq!(symbols.address_of("b::run"), Some(BASE + 0x180));
        let table = encode(&[(0x80, "overrun".into()), (0x100, "a::run".into())]);
        let symbols = Symbols::new(&table, BASE);
        assert_eq!(symbols.address_of("run"), Some(BASE + 0x100));
        assert_eq!(symbols.address_of("::run"), None);
        assert_eq!(symbols.address_of(""), None);
        assert_eq!(Symbols::new(&[], BASE).address_of("run"), None);
    }

    #[test]
    fn a_table_that_is_empty_cut_or_damaged_has_no_names() {
        assert_eq!(Symbols::new(&[0; 64], BASE).find(BASE), None);
        assert_eq!(Symbols::new(&[], BASE).find(BASE), None);
        let table = encode(&[(0, "first".into())]);
        for length in 0..table.len() {
            assert_eq!(
                Symbols::new(&table[..length], BASE).find(BASE),
                None,
                "{length}"
            );
        }
        let mut huge = table;
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Symbols::new(&huge, BASE).find(BASE), None);
    }
}
