//! Which of a set of named things are meant: all, none, or those that a list names.

/// Which of a set of named things to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection<'a> {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// Those whose name starts with one of these comma-separated prefixes.
    Named(&'a str),
}

impl Selection<'_> {
    /// Whether the thing called `name` is selected.
    #[must_use]
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Selection::None => false,
            Selection::All => true,
            Selection::Named(list) => list.split(',').any(|prefix| name.starts_with(prefix)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_matches_prefixes() {
        assert!(Selection::Named("lazy,mm.").includes("mm.protect"));
        assert!(!Selection::Named("lazy").includes("mm.lazy"));
    }
}
