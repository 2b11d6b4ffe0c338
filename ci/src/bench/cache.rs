//! `cargo xtask bench --cache`: the accesses to memory of each operation that a processor's caches would
//! miss. A count of instructions takes a miss for one of them; it costs as much as a hundred.
//!
//! QEMU runs the same boot with a plugin (`ci/cache-model`) that keeps the caches of the processor which
//! Xen sees, and counts between two stores of the kernel's. The kernel says in its log what it measured,
//! in which order, and where that lies which has a column of its own.

use std::ops::Range;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSymbol};

use super::run::{self, Counted, MEM_MIB, QUIET};
use super::table::aligned;
use crate::exit::{Failure, Result};
use crate::image;
use crate::provision::Provision;
use crate::ui;
use crate::workspace::Workspace;

/// What the kernel stores to.
const MARKS: &str = "bench_marks";

/// What an access is counted for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    accesses: u64,
    first: u64,
    second: u64,
    pages: u64,
    lines: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.accesses += other.accesses;
        self.first += other.first;
        self.second += other.second;
        self.pages += other.pages;
        self.lines += other.lines;
    }
}

/// A page that was accessed between two stores.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    by_xen: bool,
    address: u64,
    counts: Counts,
}

/// A line of the plugin's for a page.
fn page(line: &str) -> Option<Page> {
    let mut words = line.split(' ');
    let by_xen = match words.next()? {
        "k" => false,
        "x" => true,
        _ => return None,
    };
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut number = || words.next()?.parse().ok();
    let counts = Counts {
        accesses: number()?,
        first: number()?,
        second: number()?,
        pages: number()?,
        lines: number()?,
    };
    words.next().is_none().then_some(Page {
        by_xen,
        address,
        counts,
    })
}

/// All windows of the plugin's file.
fn windows(text: &str) -> Option<Vec<Vec<Page>>> {
    let mut windows = Vec::new();
    for line in text.lines() {
        if line == format!("window {}", windows.len()) {
            windows.push(Vec::new());
        } else {
            windows.last_mut()?.push(page(line)?);
        }
    }
    Some(windows)
}

/// What the kernel says in its log: where something lies, and what was measured.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    places: Vec<(String, Range<u64>)>,
    /// The operation, its pages, and how often it was done.
    measured: Vec<(String, u64, usize)>,
}

impl Told {
    fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Told {
        let mut told = Told::default();
        for line in lines {
            let Some((_, said)) = line.split_once(" bench: ") else {
                continue;
            };
            let words: Vec<&str> = said.split(' ').collect();
            match words[..] {
                ["place", name, start, end] => {
                    let address = |text| u64::from_str_radix(text, 16).ok();
                    if let (Some(start), Some(end)) = (address(start), address(end)) {
                        told.places.push((name.into(), start..end));
                    }
                }
                ["measured", name, pages, times] => {
                    if let (Ok(pages), Ok(times)) = (pages.parse(), times.parse()) {
                        told.measured.push((name.into(), pages, times));
                    }
                }
                _ => {}
            }
        }
        told
    }

    /// Rows: what each operation came to the last time it was done, by page. `None` if the windows are
    /// not as many as were measured.
    fn rows(&self, windows: &[Vec<Page>]) -> Option<Vec<Vec<String>>> {
        let mut rows = Vec::new();
        let mut rest = windows;
        for (name, pages, times) in &self.measured {
            let (these, after) = rest.split_at_checked(*times)?;
            rest = after;
            rows.push(self.row(name, *pages, these.last()?));
        }
        rest.is_empty().then_some(rows)
    }

    fn row(&self, name: &str, pages: u64, window: &[Page]) -> Vec<String> {
        let mut all = Counts::default();
        // One more for the rest of the kernel, one for Xen.
        let mut missed = vec![0; self.places.len() + 2];
        for page in window {
            all.add(page.counts);
            let known = self
                .places
                .iter()
                .position(|(_, place)| place.contains(&page.address));
            let column = match page.by_xen {
                true => self.places.len() + 1,
                false => known.unwrap_or(self.places.len()),
            };
            missed[column] += page.counts.first;
        }
        let each = |count: u64| format!("{:.2}", count as f64 / pages as f64);
        let totals = [all.accesses, all.lines, all.first, all.second, all.pages];
        let figures = totals.into_iter().chain(missed).map(each);
        [name.to_owned(), pages.to_string()]
            .into_iter()
            .chain(figures)
            .collect()
    }

    /// What stands above the columns.
    fn header(&self) -> Vec<&str> {
        let places = self.places.iter().map(|(name, _)| name.as_str());
        ["operation", "pages", "accesses", "lines", "L1", "L2", "TLB"]
            .into_iter()
            .chain(places)
            .chain(["kernel", "Xen"])
            .collect()
    }
}

/// The address of what the kernel stores to.
fn marks(image: &Path) -> Result<u64> {
    let bytes = std::fs::read(image).map_err(Failure::file("read", image))?;
    let file = image::parse(&bytes).map_err(Failure::Guest)?;
    let symbol = file.symbol_by_name(MARKS);
    symbol
        .map(|symbol| symbol.address())
        .ok_or_else(|| Failure::Guest(format!("{} has no symbol {MARKS}", image.display())))
}

/// Counts, and returns the table.
pub(super) fn table(
    workspace: &Workspace,
    provision: &Provision,
    image: &Path,
    names: &[String],
) -> Result<String> {
    let plugin = workspace.build_cache_model()?;
    let dir = tempfile::tempdir().map_err(Failure::file("create a directory in", "/tmp"))?;
    let out: PathBuf = dir.path().join("windows");
    let step = ui::spinner("count accesses to memory");
    let said = run::boot(
        workspace,
        provision,
        Counted {
            kernel: image,
            cmdline: &format!("{QUIET},bench=debug {}", run::word(names)),
            mem_mib: MEM_MIB,
            initrd: None,
            plugin: Some(format!(
                "{},marks={:x},out={}",
                plugin.display(),
                marks(image)?,
                out.display()
            )),
        },
    )?;
    step.clear();
    let text = std::fs::read_to_string(&out).map_err(Failure::file("read", &out))?;
    let told = Told::of(said.lines.iter().map(String::as_str));
    let windows = windows(&text)
        .ok_or_else(|| Failure::Guest(format!("{} is not the plugin's", out.display())))?;
    let rows = told.rows(&windows).ok_or_else(|| {
        let measured: usize = told.measured.iter().map(|(_, _, times)| times).sum();
        Failure::Guest(format!(
            "the plugin counted {} times, the kernel measured {measured} times",
            windows.len()
        ))
    })?;
    let table = aligned(&told.header(), &rows).ok_or_else(|| {
        Failure::Usage("none of these names is an operation on page tables".into())
    })?;
    Ok(format!(
        "a page: accesses to memory by kernel and Xen, to how many lines, those that miss a first level of 32 \
         KiB,\na second of 512 KiB, a TLB of 64 pages; then those of the first level by what the kernel accesses, and \
         by Xen; Xen {}\n\n{table}",
        said.xen
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "window 0\nk 1000 9 9 9 9 9\nwindow 1\nk 1000 8 4 2 1 6\nk 5000 4 2 0 0 1\nx 1000 2 2 2 2 1\n";

    fn told(lines: &[&str]) -> Told {
        Told::of(lines.iter().copied())
    }

    #[test]
    fn the_last_time_counts_by_page_and_place() {
        let told = told(&[
            "[ 0.1] debug bench: place queue 1000 2000",
            "[ 0.2] debug bench: measured map 2 2",
            "bench map 2 10 5 1",
        ]);
        let rows = told.rows(&windows(FILE).unwrap()).unwrap();
        let expected = [
            "map", "2", "7.00", "4.00", "4.00", "2.00", "1.50", "2.00", "1.00", "1.00",
        ];
        assert_eq!(rows, [expected]);
        assert_eq!(told.header().len(), expected.len());
    }

    #[test]
    fn what_does_not_fit_together_is_no_table() {
        let windows = windows(FILE).unwrap();
        for times in [1, 3] {
            let line = format!("[ 0.2] debug bench: measured map 2 {times}");
            assert_eq!(told(&[&line]).rows(&windows), None);
        }
        assert_eq!(super::windows("k 1000 9 9 9 9 9\n"), None);
        assert_eq!(super::windows("window 1\n"), None);
        assert_eq!(page("k 1000 9 9 9 9"), None);
    }
}
