//! The curve of each operation: what a page costs by the number of pages, and by which way.
//!
//! An operation chooses its way by the number of pages. Where it chooses well, a page of many never costs
//! more than one of fewer: [`rises`] finds where it does.

use super::report::{Kind, Measurement, Report};

/// How much more a page may cost than one of the next smaller number, in percent.
pub(crate) const RISE_PERCENT: u64 = 5;

/// The same from one page to two: one has a way of its own, with nothing in it for others.
pub(crate) const RISE_FROM_ONE_PERCENT: u64 = 12;

/// What the letters of the table stand for.
pub(super) const LEGEND: &str = "(a: by address, e: by lists of entries, t: by whole tables; ! is above the size before by more than 5 %, or 12 % from 1 to 2)";

/// The kernel's operations that were measured on several sizes, each with its sizes, smallest first.
fn curves(report: &Report) -> Vec<Vec<&Measurement>> {
    let mut curves: Vec<Vec<&Measurement>> = Vec::new();
    for measurement in report.of(Kind::Kernel) {
        match curves
            .iter_mut()
            .find(|curve| curve[0].name == measurement.name)
        {
            Some(curve) => curve.push(measurement),
            None => curves.push(vec![measurement]),
        }
    }
    curves.retain(|curve| curve.len() > 1);
    for curve in &mut curves {
        curve.sort_by_key(|measurement| measurement.pages);
    }
    curves
}

/// By how many percent a page costs more than one of fewer, if that is too much.
fn rise(fewer: &Measurement, more: &Measurement) -> Option<f64> {
    let allowed = match fewer.pages {
        1 => RISE_FROM_ONE_PERCENT,
        _ => RISE_PERCENT,
    };
    let (one, other) = (
        more.instructions * fewer.pages * 100,
        fewer.instructions * more.pages * (100 + allowed),
    );
    let percent = (more.per_page() / fewer.per_page() - 1.0) * 100.0;
    (one > other).then_some(percent)
}

/// Where a page of more costs more than one of fewer, by more than is allowed.
pub(crate) fn rises(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    for curve in curves(report) {
        for pair in curve.windows(2) {
            let (fewer, more) = (pair[0], pair[1]);
            if let Some(percent) = rise(fewer, more) {
                let way = |of: &Measurement| match &of.way {
                    Some(way) => format!("{:.0} by {way}", of.per_page()),
                    None => format!("{:.0}", of.per_page()),
                };
                found.push(format!(
                    "{}: of {} pages each costs {}, of {} {} (+{percent:.1} %)",
                    more.name,
                    fewer.pages,
                    way(fewer),
                    more.pages,
                    way(more)
                ));
            }
        }
    }
    found
}

/// A row for each operation that has a choice, a column for each size.
pub(super) fn table(report: &Report) -> (Vec<String>, Vec<Vec<String>>) {
    let curves = curves(report);
    let chosen = curves
        .iter()
        .filter(|curve| curve.iter().any(|point| point.way.is_some()));
    let mut header = vec!["a page of so many".to_owned()];
    let mut rows = Vec::new();
    for curve in chosen {
        if header.len() == 1 {
            header.extend(curve.iter().map(|point| point.pages.to_string()));
        }
        let mut row = vec![curve[0].name.clone()];
        let before = std::iter::once(None).chain(curve.iter().map(Some));
        row.extend(curve.iter().zip(before).map(|(point, before)| {
            let rises = before.is_some_and(|before| rise(before, point).is_some());
            let letter = point.way.as_deref().and_then(|way| way.get(..1));
            let letter = letter.unwrap_or_default();
            let mark = if rises { "!" } else { "" };
            format!("{mark}{:.0}{letter}", point.per_page())
        }));
        rows.push(row);
    }
    (header, rows)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::measurement;
    use super::*;

    fn point(pages: u64, each: u64, way: &str) -> Measurement {
        Measurement {
            way: Some(way.into()),
            ..measurement("map", pages, pages * each)
        }
    }

    #[test]
    fn a_page_that_costs_more_than_one_of_fewer_is_found() {
        let mut report = Report {
            // Not in order: what is next is next by size.
            kernel: vec![
                point(4, 900, "entries"),
                point(1, 1000, "address"),
                point(2, 1050, "entries"),
            ],
            ..Report::default()
        };
        report.kernel.push(measurement("space", 1, 70_000));
        assert_eq!(rises(&report), [""; 0]);
        let (header, rows) = table(&report);
        assert_eq!(header, ["a page of so many", "1", "2", "4"]);
        assert_eq!(rows, [["map", "1000a", "1050e", "900e"]]);
        report.kernel.push(point(8, 946, "tables"));
        assert_eq!(
            rises(&report),
            ["map: of 4 pages each costs 900 by entries, of 8 946 by tables (+5.1 %)"]
        );
        assert_eq!(table(&report).1[0][4], "!946t");
        report.kernel[2] = point(2, 1120, "entries");
        assert_eq!(rises(&report).len(), 1);
        report.kernel[2] = point(2, 1121, "entries");
        assert_eq!(rises(&report).len(), 2);
    }
}
