//! The block of the README that the bench writes: nobody types a figure.

use std::path::{Path, PathBuf};

use super::report::{Kind, Report};
use super::{plot, table};
use crate::exit::{Failure, Result};

const BEGIN: &str = "<!-- bench: written by `cargo xtask bench --readme` -->";
const END: &str = "<!-- bench: end -->";

/// The plot, in the repository.
const PLOT: &str = "ci/bench.svg";

/// The sizes that have columns.
const SMALL: u64 = 1;
const LARGE: u64 = 4096;

/// Writes the block and the plot; returns the files.
pub(super) fn write(root: &Path, report: &Report) -> Result<Vec<PathBuf>> {
    let (readme, svg) = (root.join("README.md"), root.join(PLOT));
    super::write(&svg, &plot::summary(report)?)?;
    let old = match std::fs::read_to_string(&readme) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::file("read", &readme)(error)),
    };
    super::write(&readme, &replaced(&old, &block(report)))?;
    Ok(vec![readme, svg])
}

/// The text with the block in its place, or behind everything if it has none yet.
fn replaced(text: &str, block: &str) -> String {
    let place = text.find(BEGIN).and_then(|begin| {
        let end = begin + text[begin..].find(END)?;
        Some((begin, end + END.len()))
    });
    match place {
        Some((begin, end)) => format!("{}{block}{}", &text[..begin], &text[end..]),
        None if text.is_empty() => format!("## What it costs\n\n{block}\n"),
        None => format!("{}\n\n## What it costs\n\n{block}\n", text.trim_end()),
    }
}

fn block(report: &Report) -> String {
    let mut lines = vec![
        BEGIN.to_owned(),
        format!(
            "Instructions per page of kernel and Xen together, counted by QEMU on Xen {} (kernel \
             built by {}). *Floor* is the cheapest sequence of raw hypercalls for the same, \
             measured in the same boot; *Linux* is Debian's kernel as dom0 on the same Xen.",
            report.xen,
            report.rustc.split(" (").next().unwrap_or_default()
        ),
        String::new(),
        "| operation | 1 page | ÷ floor | ÷ Linux | 4096 pages, each | ÷ floor | ÷ Linux | hypercalls |"
            .to_owned(),
        "|---|--:|--:|--:|--:|--:|--:|--:|".to_owned(),
    ];
    for large in report.of(Kind::Kernel).filter(|m| m.pages == LARGE) {
        let name = large.operation();
        let mut cells = vec![format!("`{name}`")];
        for ours in [report.find(Kind::Kernel, name, SMALL), Some(large)] {
            let Some(ours) = ours else {
                cells.extend([String::new(), String::new(), String::new()]);
                continue;
            };
            cells.push(table::per_page(ours));
            for kind in [Kind::Floor, Kind::Linux] {
                cells.push(table::ratio(ours, report.find(kind, name, ours.pages)));
            }
        }
        cells.push(large.hypercalls.to_string());
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    if let (Some(least), Some(most)) = (report.memory.first(), report.memory.last()) {
        lines.push(String::new());
        lines.push(format!(
            "From the entry to the first line on the console: {}. Until the kernel owns its memory: \
             {} with {} MiB, {} with {} MiB.",
            least.entry_to_first_byte,
            least.entry_to_ready,
            least.mib,
            most.entry_to_ready,
            most.mib
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "![Instructions per page by number of pages]({PLOT})"
    ));
    lines.push(END.to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_rest_of_the_file_stays_and_writing_twice_changes_nothing() {
        let block = block(&report());
        let once = replaced("# Title\n\nText.\n", &block);
        assert!(once.starts_with("# Title\n\nText.\n\n## What it costs\n\n<!-- bench"));
        let between = once.clone() + "\nMore.\n";
        assert_eq!(replaced(&between, &block), between);
        let other = replaced(&between, &block.replace("1 page", "one page"));
        assert!(other.contains("one page") && other.ends_with("\nMore.\n"));
    }

    #[test]
    fn a_file_with_half_a_block_is_added_to() {
        let text = format!("# Title\n{BEGIN}\n");
        assert!(replaced(&text, &block(&report())).ends_with(&format!("{END}\n")));
    }

    #[test]
    fn a_row_has_both_sizes_and_both_ratios() {
        let text = block(&report());
        let row = "| `map` | 300 | 1.50 | 0.33 | 293 | 1.50 | 0.33 | 1 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("200000 with 64 MiB, 200000 with 8192 MiB"));
    }
}
