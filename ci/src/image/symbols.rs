//! Function names go into the section that the image reserves for them, so that the kernel's
//! backtraces read without a debugger.

use std::collections::BTreeMap;

use linker::symbols::encode;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::ui;

/// Fills the symbol section of an image, whose bytes these are, if it has room for any.
pub(super) fn fill(bytes: &mut [u8], file: &object::File<'_>) {
    let at = |name| {
        file.symbol_by_name(name)
            .map_or(0, |symbol| symbol.address())
    };
    // Behind what is reserved the section is filled up to a whole page.
    let size = at("__symbols_end") - at("__symbols_start");
    let section = file.section_by_name(".symbols");
    let Some((offset, _)) = section.and_then(|section| section.file_range()) else {
        return;
    };
    if size == 0 {
        return;
    }
    let place = &mut bytes[offset as usize..][..size as usize];
    let functions: Vec<_> = functions(file).into_iter().collect();
    let table = encode(&functions);
    match place.get_mut(..table.len()) {
        Some(place) => place.copy_from_slice(&table),
        None => ui::say(format!(
            "backtraces will lack names: they need {} bytes and the image reserves {}; raise \
             CAPACITY in linker/src/symbols.rs",
            table.len(),
            place.len()
        )),
    }
}

/// Functions by offset from the image's base, names demangled.
fn functions(file: &object::File<'_>) -> BTreeMap<u32, String> {
    file.symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let offset = symbol.address().checked_sub(linker::VIRT_BASE)?;
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            // The alternate form leaves out the hash.
            Some((
                u32::try_from(offset).ok()?,
                format!("{:#}", rustc_demangle::demangle(name)),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use linker::symbols::{LONGEST, Symbols};

    #[test]
    fn the_kernel_reads_what_is_written() {
        let long = "x".repeat(300);
        let functions = [
            (0x1000, "guest::start".to_owned()),
            (0x1040, "guest::run::<u8>".to_owned()),
            (0x2000, long.clone()),
        ];
        let mut bytes = encode(&functions);
        bytes.resize(bytes.len() + 100, 0);
        let symbols = Symbols::new(&bytes, linker::VIRT_BASE);
        let find = |offset| symbols.find(linker::VIRT_BASE + offset);
        assert_eq!(find(0xfff), None);
        assert_eq!(find(0x1000), Some(("guest::start", 0)));
        assert_eq!(find(0x1045), Some(("guest::run::<u8>", 5)));
        assert_eq!(find(0x2001), Some((&long[..LONGEST], 1)));
    }
}
