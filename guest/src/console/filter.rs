//! What the console shows: a level for everything and exceptions by module.
//!
//! `info,mm=trace` shows info and worse from everywhere, and everything from `mm` and the modules
//! inside it. The longest module name that matches decides.

use core::fmt;

use heapless::{String, Vec};
use log::LevelFilter;

/// Longest module name, in bytes.
const NAME: usize = 32;

/// What writes to the log, by the name under which it does, and what such a name begins with; a test
/// keeps the list complete.
const KNOWN: &[&str] = &[
    "balloon",
    "bench",
    "boot",
    "check",
    "check::selftest::xen_checks",
    "control",
    "event",
    "heap",
    "init",
    "mm",
    "mmu",
    "pc",
    "runstate",
    "smp",
    "suspend",
    "task",
    "user",
    "xenstore",
];

/// A level for everything, and exceptions by module.
#[derive(Clone, Debug)]
pub struct Filter {
    default: LevelFilter,
    /// Room for each of them: none has two.
    modules: Vec<(String<NAME>, LevelFilter), { KNOWN.len() }>,
}

/// Why a filter does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError<'a> {
    /// Not a level.
    Level(&'a str),
    /// A module name that is empty or too long.
    Module(&'a str),
    /// A module that writes nothing to the log, or is not there.
    Unknown(&'a str),
    /// A second level for the same module.
    Twice(&'a str),
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
            FilterError::Unknown(m) => {
                write!(f, "no module '{m}' writes to the log; those that do are")?;
                KNOWN.iter().try_for_each(|known| write!(f, " {known}"))
            }
            FilterError::Twice(m) => write!(f, "a second level for module '{m}'"),
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
                    if !KNOWN.contains(&module) {
                        return Err(FilterError::Unknown(module));
                    }
                    if filter.modules.iter().any(|(known, _)| known == module) {
                        return Err(FilterError::Twice(module));
                    }
                    let entry = (name, level(l)?);
                    filter
                        .modules
                        .push(entry)
                        .map_err(|_| FilterError::Twice(module))?;
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
        let f = Filter::parse("warn,check=debug,check::selftest::xen_checks=trace").unwrap();
        assert_eq!(f.level_for("console"), LevelFilter::Warn);
        assert_eq!(f.level_for("check::bench"), LevelFilter::Debug);
        assert_eq!(
            f.level_for("check::selftest::xen_checks"),
            LevelFilter::Trace
        );
        assert_eq!(f.level_for("checks"), LevelFilter::Warn);
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
        for (text, error) in [
            ("warn,foo=trace", FilterError::Unknown("foo")),
            ("mm::nosuch=trace", FilterError::Unknown("mm::nosuch")),
            ("mm=info,mm=trace", FilterError::Twice("mm")),
        ] {
            assert_eq!(Filter::parse(text).unwrap_err(), error);
        }
    }

    /// Every name under which a file of the kernel writes to the log.
    fn names_in(
        dir: &std::path::Path,
        module: &str,
        names: &mut std::vec::Vec<std::string::String>,
    ) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = match (module, stem.as_str()) {
                (_, "mod" | "lib" | "main") => module.to_owned(),
                ("", stem) => stem.to_owned(),
                (module, stem) => format!("{module}::{stem}"),
            };
            if path.is_dir() {
                names_in(&path, &inner, names);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for level in ["error", "warn", "info", "debug", "trace"] {
                for call in text.split(&format!("log::{level}!(")).skip(1) {
                    let target = call.trim_start().strip_prefix("target: \"");
                    let target = target.and_then(|rest| rest.split('"').next());
                    names.push(target.unwrap_or(&inner).to_owned());
                }
            }
        }
    }

    #[test]
    fn every_module_that_writes_to_the_log_is_known_and_no_other() {
        let mut names = std::vec::Vec::new();
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        names_in(&source, "", &mut names);
        for name in &names {
            assert!(KNOWN.contains(&name.as_str()), "{name} is not in the list");
        }
        for known in KNOWN {
            let begins = |name: &std::string::String| {
                let rest = name.strip_prefix(known);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            };
            assert!(names.iter().any(begins), "{known} writes nothing");
        }
    }
}
