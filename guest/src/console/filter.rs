//! What the console shows: a level for everything and exceptions by module.
//!
//! `info,mm=trace` shows info and worse from everywhere, and everything from `mm` and the modules
//! inside it. The longest module name that matches decides.

use core::fmt;

use heapless::{String, Vec};
use log::LevelFilter;

/// Exceptions that fit in one filter.
const MODULES: usize = 8;
/// Longest module name, in bytes.
const NAME: usize = 32;

/// A level for everything, and exceptions by module.
#[derive(Clone, Debug)]
pub struct Filter {
    default: LevelFilter,
    modules: Vec<(String<NAME>, LevelFilter), MODULES>,
}

/// Why a filter does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError<'a> {
    /// Not a level.
    Level(&'a str),
    /// A module name that is empty or too long.
    Module(&'a str),
    /// More exceptions than fit.
    TooMany,
    /// A second level for everything.
    SecondDefault(&'a str),
}

impl fmt::Display for FilterError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterError::Level(l) => {
                write!(f, "'{l}' is not a level (off error warn info debug trace)")
            }
            FilterError::Module(m) => write!(f, "module name '{m}' must have 1 to {NAME} bytes"),
            FilterError::TooMany => write!(f, "more than {MODULES} modules"),
            FilterError::SecondDefault(l) => write!(f, "a second level for everything: '{l}'"),
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Filter::new()
    }
}

impl Filter {
    /// Info and worse from everywhere.
    #[must_use]
    pub const fn new() -> Self {
        Filter {
            default: LevelFilter::Info,
            modules: Vec::new(),
        }
    }

    /// Parses `LEVEL[,MODULE=LEVEL...]`; the parts may stand in any order.
    ///
    /// # Errors
    /// The first part that is not understood.
    pub fn parse(text: &str) -> Result<Filter, FilterError<'_>> {
        let level = |s| level(s).ok_or(FilterError::Level(s));
        let mut filter = Filter::default();
        let mut default = None;
        for part in text.split(',') {
            match part.split_once('=') {
                None if default.is_some() => return Err(FilterError::SecondDefault(part)),
                None => default = Some(level(part)?),
                Some((module, l)) => {
                    let name = String::try_from(module)
                        .ok()
                        .filter(|n| !n.is_empty())
                        .ok_or(FilterError::Module(module))?;
                    let entry = (name, level(l)?);
                    filter
                        .modules
                        .push(entry)
                        .map_err(|_| FilterError::TooMany)?;
                }
            }
        }
        filter.default = default.unwrap_or(filter.default);
        Ok(filter)
    }

    /// The most verbose level that anything can have: what `log` is told to let through.
    #[must_use]
    pub fn max(&self) -> LevelFilter {
        self.modules
            .iter()
            .map(|(_, l)| *l)
            .fold(self.default, core::cmp::max)
    }

    /// The level for a module path such as `mm::takeover`.
    #[must_use]
    pub fn level_for(&self, path: &str) -> LevelFilter {
        let inside = |name: &str| {
            path.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.modules
            .iter()
            .filter(|(name, _)| inside(name))
            .max_by_key(|(name, _)| name.len())
            .map_or(self.default, |(_, l)| *l)
    }
}

fn level(name: &str) -> Option<LevelFilter> {
    // `log` parses without regard to case; command lines here are exact.
    name.bytes()
        .all(|b| b.is_ascii_lowercase())
        .then(|| name.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_module_decides() {
        let f = Filter::parse("warn,mm=debug,mm::takeover=trace").unwrap();
        assert_eq!(f.level_for("console"), LevelFilter::Warn);
        assert_eq!(f.level_for("mm::walk"), LevelFilter::Debug);
        assert_eq!(f.level_for("mm::takeover"), LevelFilter::Trace);
        assert_eq!(f.level_for("mmx"), LevelFilter::Warn);
        assert_eq!(f.max(), LevelFilter::Trace);
    }

    #[test]
    fn modules_alone_keep_the_default() {
        assert_eq!(
            Filter::parse("mm=off").unwrap().level_for("trap"),
            LevelFilter::Info
        );
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            Filter::parse("loud").unwrap_err(),
            FilterError::Level("loud")
        );
        assert_eq!(
            Filter::parse("INFO").unwrap_err(),
            FilterError::Level("INFO")
        );
        assert_eq!(
            Filter::parse("info,warn").unwrap_err(),
            FilterError::SecondDefault("warn")
        );
        assert_eq!(
            Filter::parse("info,=warn").unwrap_err(),
            FilterError::Module("")
        );
        let many = "a=info,".repeat(9) + "warn";
        assert_eq!(Filter::parse(&many).unwrap_err(), FilterError::TooMany);
    }
}
