//! When a whole table is cheaper than its entries, one by one.
//!
//! Instructions of guest and Xen together, counted on Xen 4.17 with one TSC tick an instruction: slopes and
//! beginnings of what `cargo xtask bench` counts for 16 to 512 pages. Only their ratios matter: the choice
//! is between sending `n` updates and having Xen validate a new table and drop the old one.
//!
//! ```
//! use pagetable::cost::PROTECT;
//!
//! assert!(!PROTECT.prefers_table(8, 0), "eight entries are updated");
//! assert!(PROTECT.prefers_table(512, 0), "a whole table is replaced");
//! ```

/// What one operation costs an entry, by way.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// One entry updated in a batch.
    pub update: u64,
    /// One present entry that changes as its table is replaced.
    pub changed: u64,
    /// One present entry that stays as its table is replaced: validated anew and dropped.
    pub kept: u64,
    /// A table made, linked in and the other one freed, with nothing in it, less what a list of updates
    /// costs with nothing in it.
    pub table: u64,
}

/// Changing rights.
pub const PROTECT: Cost = Cost {
    update: 650,
    changed: 293,
    kept: 293,
    table: 31_000,
};
/// Clearing, where something stays in the table.
pub const CLEAR: Cost = Cost {
    update: 465,
    changed: 145,
    kept: 293,
    table: 31_000,
};
/// Clearing all that is in a table, which goes.
pub const DROP: Cost = Cost {
    update: 465,
    changed: 141,
    kept: 0,
    table: 14_500,
};

impl Cost {
    /// Whether to replace the table rather than to update `changed` of its present entries and
    /// leave `kept` others.
    #[must_use]
    pub const fn prefers_table(self, changed: u64, kept: u64) -> bool {
        self.table + self.changed * changed + self.kept * kept < self.update * changed
    }

    /// Fewest changed entries for which replacing a table can pay: nothing need be counted below.
    #[must_use]
    pub const fn break_even(self) -> u64 {
        self.enough(0)
    }

    /// Fewest changed entries for which replacing a table pays that `kept` others are in.
    #[must_use]
    pub const fn enough(self, kept: u64) -> u64 {
        (self.table + self.kept * kept) / (self.update - self.changed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_entries_are_updated_and_many_replaced() {
        assert!(!PROTECT.prefers_table(1, 0));
        assert!(!PROTECT.prefers_table(64, 0));
        assert!(PROTECT.prefers_table(128, 0));
        assert!(PROTECT.prefers_table(512, 0));
        assert!(
            !PROTECT.prefers_table(200, 312),
            "the untouched entries cost as well"
        );
        assert_eq!(PROTECT.break_even(), 87);
        for cost in [CLEAR, DROP, PROTECT] {
            assert_eq!(cost.break_even(), cost.enough(0));
            for kept in [0, 1, 100, 511] {
                let even = cost.enough(kept);
                assert!(cost.prefers_table(even, kept) && !cost.prefers_table(even - 1, kept));
            }
        }
    }
}
