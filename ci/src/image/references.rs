//! Whether anything that is used after boot leads to what is given back then.
//!
//! The pieces of the image and the relocations between them are a graph. For each subarch it is
//! followed from the roots that the kernel declares, its self-tests and its commands; what needs a
//! capability that the subarch lacks is not followed, nor are the gates that do. If a piece that is
//! given back on that subarch is met, the way to it is told. A piece is followed whole: what it
//! refers to is taken to be used.

use std::collections::{BTreeMap, VecDeque};

use linker::Group;
use linker::subarch::Subarch;
use object::{Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, elf};

use super::map::Piece;
use super::tables::Tables;

/// What lies in a section is given back where its group is not needed.
pub(super) fn group(section: &str) -> Option<Group> {
    let group = section
        .strip_prefix('.')
        .and_then(|name| name.split_once('.'));
    match (group, section) {
        (Some(("init", _)), _) | (_, "linkme_INIT_CALLS" | "linkme_ROOTS" | "linkme_GATES") => {
            Some(Group::Init)
        }
        (Some(("pv", _)), _) => Some(Group::Pv),
        (Some(("native", _)), _) => Some(Group::Native),
        _ => None,
    }
}

/// The pieces and what each refers to, by index.
#[derive(Debug, Default)]
struct Graph {
    pieces: Vec<Piece>,
    refers: Vec<Vec<usize>>,
}

impl Graph {
    fn new(pieces: &[Piece]) -> Self {
        Graph {
            pieces: pieces.to_vec(),
            refers: vec![Vec::new(); pieces.len()],
        }
    }

    /// The piece at an address.
    fn at(&self, address: u64) -> Option<usize> {
        let after = self
            .pieces
            .partition_point(|piece| piece.at.start <= address);
        let index = after.checked_sub(1)?;
        self.pieces[index].at.contains(&address).then_some(index)
    }

    /// Notes that what is at `from` refers to `to`. If `vague`, to that or to up to four bytes
    /// behind: a relocation in the middle of an instruction does not tell how long the rest is.
    fn refer(&mut self, from: u64, to: u64, vague: bool) {
        let Some(from) = self.at(from) else { return };
        let last = if vague { to + 4 } else { to };
        for to in [to, last] {
            if let Some(to) = self.at(to).filter(|to| *to != from) {
                self.refers[from].push(to);
            }
        }
    }

    /// Follows everything from `starts` but the gates; the way to the first piece that is refused.
    fn way(
        &self,
        starts: impl Iterator<Item = usize>,
        is_gate: impl Fn(usize) -> bool,
        is_refused: impl Fn(&Piece) -> bool,
    ) -> Option<Vec<usize>> {
        let mut from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::new();
        for start in starts.filter(|start| !is_gate(*start)) {
            from.insert(start, start);
            queue.push_back(start);
        }
        while let Some(at) = queue.pop_front() {
            if is_refused(&self.pieces[at]) {
                let mut way = vec![at];
                let mut at = at;
                while from[&at] != at {
                    at = from[&at];
                    way.push(at);
                }
                way.reverse();
                return Some(way);
            }
            for &next in &self.refers[at] {
                if !is_gate(next) && !from.contains_key(&next) {
                    from.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

/// Checks an image.
pub(super) fn check(
    file: &object::File<'_>,
    pieces: &[Piece],
    tables: &Tables,
) -> Result<(), String> {
    let mut graph = Graph::new(pieces);
    relocations(file, &mut graph)?;
    judge(&graph, tables)
}

/// Reads what refers to what.
fn relocations(file: &object::File<'_>, graph: &mut Graph) -> Result<(), String> {
    let mut count = 0;
    for section in file.sections().filter(|section| section.address() != 0) {
        for (from, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = file
                .symbol_by_index(index)
                .map_err(|error| format!("a relocation without symbol: {error}"))?;
            count += 1;
            // The script's own symbols bound sections; what is found between them is walked, as the
            // linker tables are.
            if symbol.name().is_ok_and(|name| name.starts_with("__")) {
                continue;
            }
            let target = symbol.address().wrapping_add_signed(relocation.addend());
            let RelocationFlags::Elf { r_type } = relocation.flags() else {
                continue;
            };
            match r_type {
                elf::R_X86_64_PLT32 => graph.refer(from, target.wrapping_add(4), false),
                elf::R_X86_64_64 | elf::R_X86_64_32 | elf::R_X86_64_32S => {
                    graph.refer(from, target, false);
                }
                // Relative to the end of the instruction.
                _ => graph.refer(from, target.wrapping_add(4), true),
            }
        }
    }
    match count {
        0 => Err("no relocations: link it with --emit-relocs".into()),
        _ => Ok(()),
    }
}

/// Follows the graph on every subarch.
fn judge(graph: &Graph, tables: &Tables) -> Result<(), String> {
    for subarch in Subarch::ALL {
        let here = |item: &&linker::read::ItemRead| item.needs.subarches.has(subarch);
        let places = [&tables.roots, &tables.self_tests, &tables.commands];
        let mut starts = Vec::new();
        for item in places.into_iter().flatten().filter(here) {
            let start = graph.at(item.run);
            starts.push(start.ok_or(format!(
                "{} is at {:#x}, which is no code",
                item.name, item.run
            ))?);
        }
        let closed = tables.gates.iter().filter(|item| !here(item));
        let closed: Vec<_> = closed.filter_map(|item| graph.at(item.run)).collect();
        let given_back = |piece: &Piece| {
            group(&piece.section).is_some_and(|group| !group.needed_on().has(subarch))
        };
        let way = graph.way(
            starts.into_iter(),
            |piece| closed.contains(&piece),
            given_back,
        );
        if let Some(way) = way {
            return Err(describe(graph, &way, subarch));
        }
    }
    Ok(())
}

fn describe(graph: &Graph, way: &[usize], subarch: Subarch) -> String {
    let mut text = format!("on {subarch}, what is given back after boot is still used:");
    for &index in way {
        let piece = &graph.pieces[index];
        text += &format!(
            "\n  {} ({} at {:#x})",
            piece.name, piece.section, piece.at.start
        );
    }
    text + "\nkeep the last one (guest/build.rs names what is given back), or declare a gate \
            (guest/src/passing.rs) where a caller asks how the kernel runs"
}

#[cfg(test)]
mod tests {
    use super::*;
    use linker::read::{CapabilityRead, ItemRead};
    use linker::subarch::Subarches;

    fn piece(start: u64, section: &str, name: &str) -> Piece {
        Piece {
            at: start..start + 0x10,
            section: section.into(),
            name: name.into(),
        }
    }

    /// root → kept → gate → native, and boot, which nobody refers to yet.
    fn graph() -> Graph {
        let mut graph = Graph::new(&[
            piece(0x100, ".init.text", "boot"),
            piece(0x200, ".native.text", "native"),
            piece(0x300, ".text", "root"),
            piece(0x310, ".text", "kept"),
            piece(0x320, ".text", "gate"),
            piece(0x400, ".rodata", "table"),
        ]);
        graph.refer(0x304, 0x310, false);
        graph.refer(0x314, 0x320, false);
        graph.refer(0x324, 0x200, false);
        graph
    }

    fn place(name: &str, at: u64, subarches: Subarches) -> ItemRead {
        ItemRead {
            address: 0,
            name: name.into(),
            needs: CapabilityRead {
                name: "x".into(),
                because: String::new(),
                subarches,
            },
            run: at,
        }
    }

    fn tables() -> Tables {
        Tables {
            roots: vec![place("root", 0x300, Subarches::all())],
            gates: vec![place(
                "gate",
                0x320,
                Subarches::XEN_PVH.union(Subarches::BARE),
            )],
            ..Tables::default()
        }
    }

    #[test]
    fn what_is_used_behind_a_gate_is_not_used_elsewhere() {
        assert_eq!(judge(&graph(), &tables()), Ok(()));
    }

    #[test]
    fn without_the_gate_the_way_is_told() {
        let mut tables = tables();
        tables.gates.clear();
        let error = judge(&graph(), &tables).unwrap_err();
        let way: Vec<_> = error
            .lines()
            .filter_map(|line| line.trim().split_once(" (."))
            .map(|(name, _)| name)
            .collect();
        assert!(error.starts_with("on xen-pv,"), "{error}");
        assert_eq!(way, ["root", "kept", "gate", "native"]);
    }

    #[test]
    fn boot_code_is_used_nowhere_not_even_by_a_constant() {
        let mut graph = graph();
        graph.refer(0x400, 0x100, false);
        assert_eq!(judge(&graph, &tables()), Ok(()), "nobody uses the constant");
        graph.refer(0x318, 0x400, false);
        let error = judge(&graph, &tables()).unwrap_err();
        assert!(error.contains("table"), "{error}");
    }

    #[test]
    fn a_self_test_is_followed_where_it_runs() {
        let mut graph = graph();
        graph.pieces[0].section = ".pv.text".into();
        let mut tables = tables();
        tables.self_tests = vec![place("test", 0x104, Subarches::XEN_PV)];
        assert_eq!(judge(&graph, &tables), Ok(()));
        tables.self_tests = vec![place("test", 0x104, Subarches::all())];
        let error = judge(&graph, &tables).unwrap_err();
        assert!(error.starts_with("on xen-pvh,"), "{error}");
        tables.self_tests = vec![place("test", 0x999, Subarches::all())];
        assert!(judge(&graph, &tables).unwrap_err().contains("no code"));
    }

    #[test]
    fn a_vague_reference_may_be_to_what_lies_behind() {
        let mut graph = Graph::new(&[
            piece(0x100, ".text", "a"),
            piece(0x110, ".text", "b"),
            piece(0x120, ".init.text", "c"),
        ]);
        graph.refer(0x100, 0x11d, true);
        assert_eq!(graph.refers[0], [1, 2]);
        graph.refer(0x110, 0x100, true);
        assert_eq!(graph.refers[1], [0, 0]);
    }
}
