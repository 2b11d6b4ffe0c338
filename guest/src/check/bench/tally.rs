//! What was counted, the least of several rounds: an interrupt that Xen takes in the middle of a
//! round adds to it and is no part of the cost.

use heapless::{String, Vec};

use crate::println;
use crate::refused::Refused;
use crate::selection::Selection;
use crate::time::tsc;

/// Rounds of which the cheapest counts.
pub(super) const ROUNDS: usize = 3;

/// What the name of a floor starts with.
const FLOOR: &str = "floor.";

/// The way in which pages changed.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// By a request each, found by its address.
    Address,
    /// By lists of entries.
    Entries,
    /// By whole tables.
    Tables,
}

impl Way {
    /// What was chosen for so many pages, of which Xen applied so many updates.
    pub(super) fn of(pages: u64, applied: u64, hypercalls: u64) -> Way {
        match () {
            () if applied < pages => Way::Tables,
            () if hypercalls < pages => Way::Entries,
            () => Way::Address,
        }
    }

    /// As a line says it.
    fn word(self) -> &'static str {
        match self {
            Way::Address => " address",
            Way::Entries => " entries",
            Way::Tables => " tables",
        }
    }
}

struct Row {
    name: &'static str,
    pages: u64,
    ticks: u64,
    hypercalls: u64,
    way: Option<Way>,
}

/// Costs by name and size.
#[derive(Default)]
pub(super) struct Tally {
    rows: Vec<Row, 16>,
}

impl Tally {
    /// Counts what `f` costs, on so many pages; it returns the number of hypercalls it made.
    pub(super) fn count(
        &mut self,
        name: &'static str,
        pages: u64,
        f: impl FnOnce() -> Result<u64, Refused>,
    ) -> Result<(), Refused> {
        let start = tsc();
        let result = f();
        let ticks = tsc() - start - overhead();
        self.note(name, pages, ticks, result?, None);
        Ok(())
    }

    /// Adds what was counted elsewhere.
    pub(super) fn note(
        &mut self,
        name: &'static str,
        pages: u64,
        ticks: u64,
        hypercalls: u64,
        way: Option<Way>,
    ) {
        let known = |row: &&mut Row| row.name == name && row.pages == pages;
        match self.rows.iter_mut().find(known) {
            Some(row) => row.ticks = row.ticks.min(ticks),
            None => {
                let row = Row {
                    name,
                    pages,
                    ticks,
                    hypercalls,
                    way,
                };
                let full = self.rows.push(row).is_err();
                debug_assert!(!full, "more rows than a tally holds");
            }
        }
    }

    /// Prints the selected rows and says how many they were. A floor is selected by the name of its
    /// operation as well.
    pub(super) fn print(&self, selection: &Selection<'_>) -> usize {
        let mut lines = 0;
        for row in &self.rows {
            let operation = row.name.strip_prefix(FLOOR).unwrap_or(row.name);
            if !selection.includes(row.name) && !selection.includes(operation) {
                continue;
            }
            println!(
                "bench {} {} {} {} {}{}",
                row.name,
                row.pages,
                row.ticks,
                row.ticks / row.pages,
                row.hypercalls,
                row.way.map_or("", Way::word)
            );
            lines += 1;
        }
        lines
    }
}

/// Whether the floor of an operation is selected.
pub(super) fn selects_floor(selection: &Selection<'_>, operation: &str) -> bool {
    let mut name = String::<64>::new();
    // A name too long for this is no floor's.
    let whole = name.push_str(FLOOR).and_then(|()| name.push_str(operation));
    selection.includes(operation) || (whole.is_ok() && selection.includes(&name))
}

/// What reading the counter twice costs by itself.
pub(super) fn overhead() -> u64 {
    let start = tsc();
    let end = tsc();
    end - start
}
