//! What one run measured, and its form in JSON.

use serde::{Deserialize, Serialize};

/// One operation on so many pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// The operation; `program.` stands before what a program waits for, `floor.`, `sweep.` and `linux.`
    /// before what is not the kernel's path.
    pub(crate) name: String,
    /// Pages, or requests of a batch.
    pub(crate) pages: u64,
    /// Instructions in all.
    pub(crate) instructions: u64,
    /// Hypercalls made.
    pub(crate) hypercalls: u64,
    /// The way that was chosen, where there is a choice: `address`, `entries` or `tables`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) way: Option<String>,
}

/// The boot of a domain of some size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// Memory in MiB.
    pub(crate) mib: u32,
    /// Instructions from the entry to the first line on the console.
    pub(crate) entry_to_first_byte: u64,
    /// Instructions from the entry until the kernel owns its memory.
    pub(crate) entry_to_ready: u64,
}

/// All of one run. The names of the fields are those in JSON, for other programs to rely on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The package version of Xen.
    pub(crate) xen: String,
    /// The compiler that built the kernel.
    pub(crate) rustc: String,
    /// The kernel, the floor and the sweeps.
    pub(crate) kernel: Vec<Measurement>,
    /// Boots by memory size.
    pub(crate) memory: Vec<Boot>,
    /// What programs wait for, where asked for.
    pub(crate) programs: Vec<Measurement>,
    /// The same on Linux, where asked for.
    pub(crate) linux: Vec<Measurement>,
}

/// What a line may say of the way: a request for each page that is found by its address, lists of entries,
/// whole tables.
const WAYS: [&str; 3] = ["address", "entries", "tables"];

impl Measurement {
    /// Reads a line `bench NAME PAGES INSTRUCTIONS PER_PAGE HYPERCALLS [WAY]`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        if words.next()? != "bench" {
            return None;
        }
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        let (pages, instructions) = (number()?, number()?);
        let (_per_page, hypercalls): (u64, u64) = (number()?, number()?);
        let way = words.next().map(str::to_owned);
        let is_way = |way: &String| WAYS.contains(&way.as_str());
        let ends = words.next().is_none() && way.as_ref().is_none_or(is_way);
        (pages > 0 && ends).then_some(Self {
            name,
            pages,
            instructions,
            hypercalls,
            way,
        })
    }

    /// Instructions a page.
    pub(crate) fn per_page(&self) -> f64 {
        self.instructions as f64 / self.pages as f64
    }

    /// What stands before the first dot, where it says that this is not the kernel's path.
    pub(crate) fn kind(&self) -> Kind {
        match self.name.split_once('.') {
            Some(("floor", _)) => Kind::Floor,
            Some(("sweep", _)) => Kind::Sweep,
            Some(("linux", _)) => Kind::Linux,
            Some(("program", _)) => Kind::Program,
            _ => Kind::Kernel,
        }
    }

    /// The operation's name by itself.
    pub(crate) fn operation(&self) -> &str {
        match self.kind() {
            Kind::Kernel => &self.name,
            _ => self
                .name
                .split_once('.')
                .map_or(&self.name, |(_, rest)| rest),
        }
    }
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The kernel's own path.
    Kernel,
    /// Raw hypercalls.
    Floor,
    /// Batches by size.
    Sweep,
    /// A program, on the kernel.
    Program,
    /// A program, on Linux.
    Linux,
}

impl Report {
    /// Measurements of one kind, in the order of measuring.
    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = &Measurement> {
        let all = self.kernel.iter().chain(&self.programs).chain(&self.linux);
        all.filter(move |measurement| measurement.kind() == kind)
    }

    /// What one kind of measurement says about an operation.
    pub(crate) fn find(&self, kind: Kind, operation: &str, pages: u64) -> Option<&Measurement> {
        self.of(kind)
            .find(|measurement| measurement.operation() == operation && measurement.pages == pages)
    }

    /// For other programs, and for people to compare.
    pub(crate) fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text + "\n"
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn measurement(name: &str, pages: u64, instructions: u64) -> Measurement {
        Measurement {
            name: name.into(),
            pages,
            instructions,
            hypercalls: 1,
            way: None,
        }
    }

    pub(crate) fn report() -> Report {
        let mut report = Report {
            xen: "4.17.7-0".into(),
            rustc: "rustc 1.95.0".into(),
            ..Report::default()
        };
        for (pages, scale) in [(1, 1), (32, 32), (512, 500), (4096, 4000)] {
            report.kernel.push(measurement("map", pages, 300 * scale));
            report
                .kernel
                .push(measurement("floor.map", pages, 200 * scale));
            report
                .linux
                .push(measurement("linux.map", pages, 900 * scale));
        }
        for requests in [1, 2, 4] {
            report
                .kernel
                .push(measurement("sweep.map", requests, 400 + 500 * requests));
        }
        report.kernel.push(measurement("lazy_empty", 1, 0));
        for mib in [64, 8192] {
            report.memory.push(Boot {
                mib,
                entry_to_first_byte: 5000,
                entry_to_ready: 200_000,
            });
        }
        report
    }

    #[test]
    fn lines_of_the_guest_are_read_and_others_are_not() {
        let found = Measurement::parse("bench map 512 123414 241 1").unwrap();
        assert_eq!(found, measurement("map", 512, 123_414));
        assert!((found.per_page() - 241.04).abs() < 0.01);
        let found = Measurement::parse("bench map 2 1500 750 2 address").unwrap();
        assert_eq!(found.way.as_deref(), Some("address"));
        for line in [
            "bench: refused",
            "bench map 2 1500 750 2 somehow",
            "bench map 2 1500 750 2 address 7",
            "bench map 512 123414 241",
            "bench map 0 1 1 1",
            "bench map 1 1 1 1 1",
            "a bench map 1 1 1 1",
        ] {
            assert_eq!(Measurement::parse(line), None, "{line}");
        }
    }

    #[test]
    fn kinds_are_told_by_prefix() {
        let floor = measurement("floor.map", 1, 1);
        assert_eq!((floor.kind(), floor.operation()), (Kind::Floor, "map"));
        assert_eq!(measurement("map", 1, 1).kind(), Kind::Kernel);
        let report = report();
        let found = report.find(Kind::Linux, "map", 32).unwrap();
        assert_eq!(found.instructions, 28_800);
    }

    #[test]
    fn json_keeps_its_keys_and_comes_back_the_same() {
        let report = report();
        let json = report.to_json();
        for key in [
            "xen",
            "rustc",
            "kernel",
            "memory",
            "programs",
            "linux",
            "name",
            "pages",
            "instructions",
            "hypercalls",
            "mib",
            "entry_to_first_byte",
            "entry_to_ready",
        ] {
            assert!(json.contains(&format!("\"{key}\"")), "{key}");
        }
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
