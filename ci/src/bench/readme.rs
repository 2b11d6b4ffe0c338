//! The block of the README that the bench writes: nobody types a figure.

use std::path::{Path, PathBuf};

use super::report::{Kind, Report};
use super::{plot, run, table};
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

/// How the README's block compares to a run.
pub(crate) enum Compared {
    /// Every figure is the run's.
    Same,
    /// These are not.
    Differs(Vec<String>),
    /// The block is of another Xen or another compiler.
    Elsewhere,
}

/// Compares the block in the README with a run, figure by figure; of Linux only if it was measured.
pub(crate) fn compare(root: &Path, report: &Report) -> Result<Compared> {
    let readme = root.join("README.md");
    let text = std::fs::read_to_string(&readme).map_err(Failure::file("read", &readme))?;
    let old = text.find(BEGIN).and_then(|begin| {
        let end = text[begin..].find(END)?;
        Some(&text[begin..begin + end])
    });
    let Some(old) = old else {
        return Ok(Compared::Differs(vec!["it has no such block".into()]));
    };
    Ok(differences(old, report))
}

fn differences(old: &str, report: &Report) -> Compared {
    if !old.contains(&origin(report)) {
        return Compared::Elsewhere;
    }
    let block = block(report);
    let new: Vec<_> = block.lines().filter_map(figures).collect();
    let old: Vec<_> = old.lines().filter_map(figures).collect();
    let mut found = Vec::new();
    for (name, figures) in &new {
        let Some((_, written)) = old.iter().find(|(other, _)| other == name) else {
            found.push(format!("{name} is missing"));
            continue;
        };
        let pairs = figures
            .iter()
            .zip(written)
            .filter(|(new, _)| !new.is_empty());
        let mut wrong = pairs.filter(|(new, old)| !is_near(new, old));
        if figures.len() != written.len() {
            found.push(format!("{name} has other columns"));
        } else if let Some((new, old)) = wrong.next() {
            found.push(format!("{name}: {old} is written, {new} was counted"));
        }
    }
    let gone = old
        .iter()
        .filter(|(name, _)| !new.iter().any(|(other, _)| other == name));
    found.extend(gone.map(|(name, _)| format!("{name} is not measured any more")));
    match found.is_empty() {
        true => Compared::Same,
        false => Compared::Differs(found),
    }
}

/// What a line says it is of, and its figures: a row of the table, or the sentence about the boot.
fn figures(line: &str) -> Option<(String, Vec<String>)> {
    if let Some(row) = line.strip_prefix("| `") {
        let mut cells = row.trim_end_matches(" |").split(" | ").map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        return Some((name, cells.map(str::to_owned).collect()));
    }
    let boot = line.strip_prefix("From the entry")?;
    let numbers = boot.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter(|number| !number.is_empty());
    Some(("boot".into(), numbers.map(str::to_owned).collect()))
}

/// Whether two figures are the same but for rounding: a unit of the last digit, or a hundredth.
fn is_near(new: &str, old: &str) -> bool {
    let (Ok(a), Ok(b)) = (new.parse::<f64>(), old.parse::<f64>()) else {
        return new == old;
    };
    let digits = new
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len());
    let unit = 10_f64.powi(-i32::try_from(digits).unwrap_or_default());
    (a - b).abs() <= f64::max(unit * 1.001, a.abs() / 100.0)
}

/// Which Xen and which compiler.
fn origin(report: &Report) -> String {
    format!(
        "on Xen {} (kernel built by {})",
        report.xen,
        report.rustc.split(" (").next().unwrap_or_default()
    )
}

/// What each row of the programs' is to come to.
const GOALS: &[(&str, u64, u64)] = &[
    ("syscall_null", SMALL, 750),
    ("fault", SMALL, 2500),
    ("fault", LARGE, 1150),
    ("populate", LARGE, 1000),
    ("munmap", LARGE, 350),
    ("fork", LARGE, 20),
    ("fork_write", LARGE, 3000),
    ("copy_on_write_fault", SMALL, 3000),
    ("brk_touch", SMALL, 4000),
    ("fork_exit_wait", SMALL, 80_000),
    ("vfork_exec_wait", SMALL, 120_000),
    ("fork_exec_wait", SMALL, 150_000),
    ("pipe_ping_pong", SMALL, 8000),
    ("pipe", SMALL, 2500),
    ("pwrite", SMALL, 2000),
    ("pread", SMALL, 2000),
    ("open_close", SMALL, 3500),
    ("entry_to_prompt", SMALL, 5_000_000),
];

/// The table of what programs wait for.
fn programs(report: &Report) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        "What a program waits for, counted by the same program on both kernels: instructions of whole \
         system calls and faults, a page where there are several. `cargo xtask bench --programs --vs linux` \
         counts these alone."
            .to_owned(),
        String::new(),
        "| by a program | pages | instructions | goal | Linux |".to_owned(),
        "|---|--:|--:|--:|--:|".to_owned(),
    ];
    for &(name, pages, goal) in GOALS {
        let Some(ours) = report.find(Kind::Program, name, pages) else {
            continue;
        };
        let linux = report.find(Kind::Linux, name, pages);
        let cells = [
            format!("`program.{name}.{pages}`"),
            pages.to_string(),
            table::per_page(ours),
            goal.to_string(),
            linux.map(table::per_page).unwrap_or_default(),
        ];
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    lines
}

fn block(report: &Report) -> String {
    let mut lines = vec![
        BEGIN.to_owned(),
        format!(
            "Instructions per page of kernel and Xen together, counted by QEMU {}. *Floor* is the cheapest sequence of raw hypercalls for the same, \
             measured in the same boot; *Linux* is Debian's kernel as dom0 on the same Xen, and \
             counts whole system calls: entry, checks and accounting of memory included.",
            origin(report)
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
    lines.extend(programs(report));
    if let (Some(least), Some(most)) = (report.memory.first(), report.memory.last()) {
        lines.push(String::new());
        let lean = report.find(Kind::Kernel, run::LEAN, 1);
        let lean = lean.map_or(String::new(), |lean| {
            format!(", {} with the lean image", lean.instructions)
        });
        lines.push(format!(
            "From the entry to the first line on the console: {}. Until the kernel owns its memory: \
             {} with {} MiB, {} with {} MiB{lean}.",
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

    fn wrong(old: &str, report: &Report) -> Vec<String> {
        match differences(old, report) {
            Compared::Same => Vec::new(),
            Compared::Differs(found) => found,
            Compared::Elsewhere => vec!["elsewhere".into()],
        }
    }

    #[test]
    fn a_figure_that_is_not_the_run_s_is_named() {
        let mut run = report();
        let old = block(&run);
        assert_eq!(wrong(&old, &run), [""; 0]);
        // The gate does not measure Linux.
        run.linux.clear();
        assert_eq!(wrong(&old, &run), [""; 0]);
        // Three of 300 is within rounding, and four are not.
        run.kernel[0].instructions = 303;
        assert_eq!(wrong(&old, &run), [""; 0]);
        run.kernel[0].instructions = 304;
        assert_eq!(wrong(&old, &run), ["map: 300 is written, 304 was counted"]);
        let mut run = report();
        run.memory[0].entry_to_first_byte = 5070;
        assert_eq!(
            wrong(&old, &run),
            ["boot: 5000 is written, 5070 was counted"]
        );
        let none = old.replace("| `map` |", "| `move` |");
        let found = ["map is missing", "move is not measured any more"];
        assert_eq!(wrong(&none, &report()), found);
        run.xen = "4.20".into();
        assert_eq!(wrong(&old, &run), ["elsewhere"]);
    }

    #[test]
    fn the_floor_s_ratio_is_compared_too() {
        let mut run = report();
        let old = block(&run);
        let floor = run.kernel.iter_mut().find(|m| m.name == "floor.map");
        floor.unwrap().instructions = 190;
        assert_eq!(
            wrong(&old, &run),
            ["map: 1.50 is written, 1.58 was counted"]
        );
    }

    #[test]
    fn what_programs_wait_for_has_its_goal_beside_it() {
        let mut run = report();
        let mut add = |name: &str, pages, instructions| {
            let all = if name.starts_with("linux") {
                &mut run.linux
            } else {
                &mut run.programs
            };
            all.push(super::super::report::tests::measurement(
                name,
                pages,
                instructions,
            ));
        };
        add("program.fault", 4096, 4096 * 1100);
        add("linux.fault", 4096, 4096 * 6580);
        let old = block(&run);
        let row = "| `program.fault.4096` | 4096 | 1100 | 1150 | 6580 |";
        assert!(old.contains(row), "{old}");
        run.linux.clear();
        assert_eq!(wrong(&old, &run), [""; 0]);
        run.programs[0].instructions = 4096 * 1200;
        let found = ["program.fault.4096: 1100 is written, 1200 was counted"];
        assert_eq!(wrong(&old, &run), found);
    }

    #[test]
    fn a_row_has_both_sizes_and_both_ratios() {
        let text = block(&report());
        let row = "| `map` | 300 | 1.50 | 0.33 | 293 | 1.50 | 0.33 | 1 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("200000 with 64 MiB, 200000 with 8192 MiB"));
    }
}
