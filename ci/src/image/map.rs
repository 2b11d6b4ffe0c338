//! The linker's map: which piece of which object file lies where.
//!
//! A function, and a constant even without a name, is a piece of its own, so that the pieces are
//! what refers and is referred to.

use std::ops::Range;

/// A piece of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its addresses.
    pub(super) at: Range<u64>,
    /// The section of the image that it is in.
    pub(super) section: String,
    /// What it is, as well as that can be said: a function's name, or its section's in the object
    /// file.
    pub(super) name: String,
}

/// Reads the map that LLD writes: columns of VMA, LMA, size and alignment, then, indented by
/// depth, a section of the image, or a piece of it as `FILE:(SECTION)`, or a symbol.
pub(super) fn parse(text: &str) -> Vec<Piece> {
    let mut section = String::new();
    let mut pieces = Vec::new();
    for line in text.lines().skip(1) {
        let Some((address, size, rest)) = columns(line) else {
            continue;
        };
        let what = rest.trim_start();
        match rest.len() - what.len() {
            // One blank parts the columns.
            1 if !what.contains('=') => section = what.to_owned(),
            9 if size > 0 => {
                if let Some((_, input)) = what.rsplit_once(":(") {
                    pieces.push(Piece {
                        at: address..address + size,
                        section: section.clone(),
                        name: name(input.trim_end_matches(')')),
                    });
                }
            }
            _ => {}
        }
    }
    pieces.sort_by_key(|piece| piece.at.start);
    pieces
}

/// Address and size of a line, and what is behind the columns with its indentation.
fn columns(line: &str) -> Option<(u64, u64, &str)> {
    let mut rest = line;
    let mut column = || {
        let start = rest.trim_start();
        let (word, after) = start.split_once(' ')?;
        rest = after;
        u64::from_str_radix(word, 16).ok()
    };
    let address = column()?;
    column()?;
    let size = column()?;
    column()?;
    // The blank behind the last column is back where it was.
    Some((address, size, &line[line.len() - rest.len() - 1..]))
}

fn name(section: &str) -> String {
    let mangled = section.find("_R").map(|start| &section[start..]);
    let symbol = mangled.and_then(|name| rustc_demangle::try_demangle(name).ok());
    symbol.map_or_else(|| section.to_owned(), |name| format!("{name:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_with_their_section_and_name() {
        let text = "\
             VMA              LMA     Size Align Out     In      Symbol
               0                0        0     1 VIRT_BASE = 0xffffffff80000000
ffffffff80100000           100000    57000    16 .init.text
ffffffff80100000           100000        0     1         __text_start = .
ffffffff80100190           100190      1a3    16         /x/a.o:(.text._RNvNtCs1234_5guest4boot5parse)
ffffffff80100190           100190      1a3     1                 guest::boot::parse
ffffffff801c9000           1c9000       18     8 .rodata
ffffffff801c9000           1c9000       18     8         /x/a.o:(.rodata..Lanon.12.3)
";
        let pieces = parse(text);
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].at, 0xffff_ffff_8010_0190..0xffff_ffff_8010_0333);
        assert_eq!(
            (pieces[0].section.as_str(), pieces[0].name.as_str()),
            (".init.text", "guest::boot::parse")
        );
        assert_eq!(
            (pieces[1].section.as_str(), pieces[1].name.as_str()),
            (".rodata", ".rodata..Lanon.12.3")
        );
    }
}
