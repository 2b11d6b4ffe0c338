//! Whether what stays of the image refers to what is given back, as Linux' modpost asks it.
//!
//! The linker has left the relocations in the image: each says where it stands and, by its symbol,
//! which section it refers to. What is marked lies in sections of its own ([`Part`]), so that the
//! sections of both ends say whether a reference may be.

use std::collections::BTreeMap;
use std::fmt::Write;

use linker::Group;
use object::{
    Object, ObjectSection, ObjectSymbol, RelocationKind, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind,
};

/// What a section is, as far as references go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It stays.
    Kept,
    /// It goes where its group is not needed.
    Marked(Group),
    /// It stays, and refers to native code only where that stayed as well.
    AsksFirst,
    /// It stays, and nobody follows what goes: what loaders read, the table of init calls when they
    /// were made, addresses of instructions that are not executed any more.
    NotFollowed,
}

/// What a section of the image is.
pub(super) fn part(section: &str) -> Part {
    match section {
        ".init.text" | ".init.bss" => Part::Marked(Group::Init),
        ".native.text" | ".native.bss" => Part::Marked(Group::Native),
        ".ref.text" => Part::AsksFirst,
        "linkme_INIT_CALLS" | ".entry.rodata" | ".note.Xen" | ".ex_table" => Part::NotFollowed,
        _ => Part::Kept,
    }
}

/// Whether one may refer to the other.
fn may_refer(from: Part, to: Part) -> bool {
    match to {
        Part::Marked(Group::Init) => {
            matches!(from, Part::Marked(Group::Init) | Part::NotFollowed)
        }
        // The boot does not refer to it before it knows how it runs, and is over when it goes.
        Part::Marked(Group::Native) => from != Part::Kept,
        _ => true,
    }
}

/// A reference that may not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wrong {
    from: String,
    to: String,
    marked: String,
}

/// Checks an image.
pub(super) fn check(file: &object::File<'_>) -> Result<(), String> {
    let names = Names::new(file);
    let mut wrong = Vec::new();
    let mut count = 0;
    for section in file.sections().filter(|section| section.address() != 0) {
        let from = part(section.name().unwrap_or_default());
        for (address, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = file
                .symbol_by_index(index)
                .map_err(|error| format!("a relocation without symbol: {error}"))?;
            count += 1;
            // The script's own symbols bound sections: who has them does not use what is between.
            let name = symbol.name().unwrap_or_default();
            let Some(to) = symbol.section_index().filter(|_| !name.starts_with("__")) else {
                continue;
            };
            let to = section_name(file, to)?;
            if may_refer(from, part(to)) {
                continue;
            }
            let target = symbol.address().wrapping_add_signed(relocation.addend());
            // Only a function itself refers to its middle, by a table that it jumps through.
            let exact = relocation.kind() == RelocationKind::Absolute;
            if exact && section.kind() != SectionKind::Text && names.is_inside(target) {
                continue;
            }
            wrong.push(Wrong {
                from: names.at(address),
                // What is relative counts from the end of an instruction of unknown length.
                to: names.at(if exact {
                    target
                } else {
                    target.wrapping_add(4)
                }),
                marked: to.to_owned(),
            });
        }
    }
    if count == 0 {
        return Err("no relocations: link it with --emit-relocs".into());
    }
    refuse(wrong)
}

fn section_name<'a>(file: &'a object::File<'_>, index: SectionIndex) -> Result<&'a str, String> {
    let section = file.section_by_index(index);
    let name = section
        .map_err(|error| format!("a symbol without section: {error}"))?
        .name();
    name.map_err(|error| format!("a section without name: {error}"))
}

fn refuse(mut wrong: Vec<Wrong>) -> Result<(), String> {
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.sort();
    wrong.dedup();
    let mut text = String::from("what stays after boot refers to what is given back then:");
    for Wrong { from, to, marked } in &wrong {
        // A String takes it.
        let _ = write!(text, "\n  {from} refers to {to} in {marked}");
    }
    Err(text
        + "\nmark the first as well, or take the mark from the second (`marks` says what they mean); \
           a closure or an instance of a generic function cannot be marked, the function around it \
           can")
}

/// What lies where, by name; the length where it is known.
struct Names(BTreeMap<u64, (String, u64)>);

impl Names {
    fn new(file: &object::File<'_>) -> Self {
        let symbols = file.symbols().filter(|symbol| {
            // Labels of assembly have no kind.
            let has_name = symbol.name().is_ok_and(|name| !name.is_empty());
            symbol.is_definition() && has_name && symbol.kind() != SymbolKind::Section
        });
        let name = |symbol: object::Symbol<'_, '_>| {
            let name = symbol.name().ok()?;
            let name = format!("{:#}", rustc_demangle::demangle(name));
            Some((symbol.address(), (name, symbol.size())))
        };
        Names(symbols.filter_map(name).collect())
    }

    fn at(&self, address: u64) -> String {
        match self.0.range(..=address).next_back() {
            Some((start, (name, size))) if address < start + size.max(&1) => name.clone(),
            _ => format!("what is at {address:#x}"),
        }
    }

    /// Whether something begins before the address and ends behind it.
    fn is_inside(&self, address: u64) -> bool {
        let before = self.0.range(..address).next_back();
        !self.0.contains_key(&address)
            && before.is_some_and(|(start, (_, size))| address < start + size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(from: &str, to: &str) -> bool {
        may_refer(part(from), part(to))
    }

    #[test]
    fn only_the_boot_refers_to_the_boot() {
        for from in [
            ".text",
            ".ref.text",
            ".native.text",
            ".rodata",
            ".data",
            ".bss",
        ] {
            assert!(!may(from, ".init.text"), "{from}");
            assert!(!may(from, ".init.bss"), "{from}");
        }
        assert!(may(".init.text", ".init.bss"));
        assert!(may("linkme_INIT_CALLS", ".init.text"));
        assert!(!may("linkme_SELFTESTS", ".init.text"));
    }

    #[test]
    fn native_code_is_for_those_who_ask() {
        assert!(!may(".text", ".native.text"));
        assert!(!may(".rodata", ".native.bss"));
        for from in [".ref.text", ".native.text", ".init.text"] {
            assert!(may(from, ".native.text"), "{from}");
        }
    }

    #[test]
    fn what_stays_is_for_everybody() {
        for from in [".text", ".init.text", ".native.text", ".rodata"] {
            assert!(may(from, ".text") && may(from, ".ref.text") && may(from, ".data"));
        }
    }

    #[test]
    fn a_table_of_jumps_is_told_from_a_pointer_to_a_function() {
        let names = Names([(0x100, ("f".into(), 0x20)), (0x120, ("g".into(), 0x10))].into());
        assert!(names.is_inside(0x110) && names.is_inside(0x121));
        for start in [0x100, 0x120, 0x130, 0xff] {
            assert!(!names.is_inside(start), "{start:#x}");
        }
        assert_eq!(names.at(0x11f), "f");
        assert_eq!(names.at(0x140), "what is at 0x140");
    }

    #[test]
    fn a_refusal_names_both_ends_once() {
        assert_eq!(refuse(Vec::new()), Ok(()));
        let one = Wrong {
            from: "guest::mm::map".into(),
            to: "guest::boot::parse".into(),
            marked: ".init.text".into(),
        };
        let text = refuse(vec![one.clone(), one]).unwrap_err();
        assert_eq!(
            text.matches("guest::mm::map refers to guest::boot::parse in .init.text")
                .count(),
            1,
            "{text}"
        );
    }
}
