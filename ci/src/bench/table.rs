//! The tables on standard output: figures right-aligned, operations in the order of measuring.

use super::curve;
use super::report::{Kind, Measurement, Report};

/// Batch sizes that have a column.
const BATCHES: &[u64] = &[1, 2, 8, 32, 128, 512, 2048];

/// Every table that the report has something for.
pub(super) fn all(report: &Report) -> String {
    let tables = [
        operations(report),
        curves(report),
        programs(report),
        singles(report, Kind::Floor, "raw hypercalls", "count"),
        singles(report, Kind::Linux, "Linux only", "pages"),
        batches(report),
        memory(report),
    ];
    let origin = format!(
        "instructions of kernel and Xen together; Xen {}, {}",
        report.xen, report.rustc
    );
    let tables: Vec<_> = std::iter::once(origin)
        .chain(tables.into_iter().flatten())
        .collect();
    tables.join("\n\n")
}

/// How often `other` goes into `one`.
pub(super) fn ratio(one: &Measurement, other: Option<&Measurement>) -> String {
    match other {
        Some(other) if other.instructions > 0 => {
            let ratio = one.instructions as f64 / other.instructions as f64;
            format!("{ratio:.2}")
        }
        _ => String::new(),
    }
}

/// Instructions a page, with a decimal where it matters.
pub(super) fn per_page(measurement: &Measurement) -> String {
    let value = measurement.per_page();
    if value < 100.0 && measurement.pages > 1 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn operations(report: &Report) -> Option<String> {
    let with_linux = !report.linux.is_empty();
    let mut header = vec![
        "operation",
        "pages",
        "instructions",
        "per page",
        "hypercalls",
        "floor",
        "ratio",
    ];
    if with_linux {
        header.extend(["Linux", "ratio"]);
    }
    let mut rows = Vec::new();
    // Sizes without a floor are told of by the curve.
    let floors: Vec<_> = report.of(Kind::Floor).map(|floor| floor.pages).collect();
    let has_row = |ours: &&Measurement| ours.way.is_none() || floors.contains(&ours.pages);
    for ours in report.of(Kind::Kernel).filter(has_row) {
        let mut row = vec![
            ours.name.clone(),
            ours.pages.to_string(),
            ours.instructions.to_string(),
            per_page(ours),
            ours.hypercalls.to_string(),
        ];
        for kind in [Kind::Floor, Kind::Linux] {
            if kind == Kind::Linux && !with_linux {
                continue;
            }
            let other = report.find(kind, ours.operation(), ours.pages);
            row.push(other.map(per_page).unwrap_or_default());
            row.push(ratio(ours, other));
        }
        rows.push(row);
    }
    aligned(&header, &rows)
}

/// What a page costs by the number of pages.
fn curves(report: &Report) -> Option<String> {
    let (header, rows) = curve::table(report);
    let header: Vec<_> = header.iter().map(String::as_str).collect();
    let table = aligned(&header, &rows)?;
    Some([table, curve::LEGEND.to_owned()].join("\n"))
}

/// What programs wait for, beside the same on Linux.
fn programs(report: &Report) -> Option<String> {
    let rows: Vec<_> = report
        .of(Kind::Program)
        .map(|ours| {
            let linux = report.find(Kind::Linux, ours.operation(), ours.pages);
            vec![
                ours.operation().to_owned(),
                ours.pages.to_string(),
                ours.instructions.to_string(),
                per_page(ours),
                linux.map(per_page).unwrap_or_default(),
                ratio(ours, linux),
            ]
        })
        .collect();
    let header = [
        "programs",
        "pages",
        "instructions",
        "each",
        "Linux",
        "ratio",
    ];
    aligned(&header, &rows)
}

/// What has no counterpart among the kernel's operations.
fn singles(report: &Report, kind: Kind, title: &str, unit: &str) -> Option<String> {
    let rows: Vec<_> = report
        .of(kind)
        .filter(|m| {
            let ours = [Kind::Kernel, Kind::Program]
                .into_iter()
                .find_map(|kind| report.find(kind, m.operation(), m.pages));
            ours.is_none()
        })
        .map(|m| {
            vec![
                m.operation().to_owned(),
                m.pages.to_string(),
                m.instructions.to_string(),
                per_page(m),
            ]
        })
        .collect();
    aligned(&[title, unit, "instructions", "each"], &rows)
}

/// Instructions a request by size of the batch.
fn batches(report: &Report) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for measurement in report.of(Kind::Sweep) {
        if !names.contains(&measurement.operation()) {
            names.push(measurement.operation());
        }
    }
    let sizes: Vec<_> = BATCHES.iter().map(u64::to_string).collect();
    let mut header = vec!["a request, in a batch of"];
    header.extend(sizes.iter().map(String::as_str));
    let cell = |name: &str, size: u64| {
        let found = report.find(Kind::Sweep, name, size);
        found.map(per_page).unwrap_or_default()
    };
    let rows: Vec<_> = names
        .iter()
        .map(|name| {
            let cells = BATCHES.iter().map(|&size| cell(name, size));
            std::iter::once((*name).to_owned()).chain(cells).collect()
        })
        .collect();
    aligned(&header, &rows)
}

fn memory(report: &Report) -> Option<String> {
    let rows: Vec<_> = report
        .memory
        .iter()
        .map(|boot| {
            vec![
                format!("{} MiB", boot.mib),
                boot.entry_to_first_byte.to_string(),
                boot.entry_to_ready.to_string(),
            ]
        })
        .collect();
    aligned(&["memory", "entry to first byte", "entry to ready"], &rows)
}

/// Columns of equal width, the first to the left and all others to the right; none without rows.
pub(super) fn aligned(header: &[&str], rows: &[Vec<String>]) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    let header: Vec<_> = header.iter().map(|&word| word.to_owned()).collect();
    let lines: Vec<_> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let text = lines.iter().map(|line| {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    Some(text.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{measurement, report};
    use super::*;

    #[test]
    fn figures_line_up_and_ratios_are_of_the_same_size() {
        let mut report = report();
        let text = all(&report);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[2],
            "operation   pages  instructions  per page  hypercalls  floor  ratio  Linux  ratio"
        );
        assert_eq!(
            lines[3],
            "map             1           300       300           1    200   1.50    900   0.33"
        );
        assert!(text.contains("8192 MiB"), "{text}");
        report.linux.clear();
        assert!(!all(&report).contains("Linux"));
    }

    #[test]
    fn a_floor_without_an_operation_has_a_table_of_its_own() {
        let mut report = report();
        report
            .kernel
            .push(measurement("floor.hypercall_null", 1, 250));
        let text = all(&report);
        assert!(
            text.contains("hypercall_null      1           250   250"),
            "{text}"
        );
    }

    #[test]
    fn nothing_divides_by_nothing() {
        let zero = measurement("lazy_empty", 1, 0);
        assert_eq!(ratio(&zero, Some(&zero)), "");
        assert_eq!(ratio(&zero, None), "");
    }
}
