//! Plots, as SVG. Both axes are logarithmic: what grows in proportion is a straight line, and a
//! cost per page that is constant lies flat.

use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use super::report::{Kind, Measurement, Report};
use crate::exit::{Failure, Result};

const SIZE: (u32, u32) = (960, 600);

/// Told apart by most eyes, in print too (Okabe and Ito).
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(150, 150, 60),
];

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stroke {
    /// The kernel's own path.
    Solid,
    /// The floor.
    Dashed,
    /// Linux.
    Dotted,
}

#[derive(Debug, Clone, PartialEq)]
struct Line {
    /// Its name in the legend; lines of one name have one colour.
    label: String,
    stroke: Stroke,
    points: Vec<(f64, f64)>,
}

struct Plot {
    title: String,
    x: &'static str,
    y: &'static str,
    /// Where the legend is in nobody's way.
    legend: SeriesLabelPosition,
    lines: Vec<Line>,
}

/// Every plot that the report has something for, by file name.
pub(super) fn all(report: &Report) -> Result<Vec<(&'static str, String)>> {
    let plots = [
        ("per-page.svg", per_page(report)),
        ("total.svg", total(report)),
        ("batch.svg", batch(report)),
        ("memory.svg", memory(report)),
    ];
    let plots = plots.into_iter().filter(|(_, plot)| !plot.lines.is_empty());
    plots.map(|(name, plot)| Ok((name, draw(&plot)?))).collect()
}

/// The one plot for the README.
pub(super) fn summary(report: &Report) -> Result<String> {
    draw(&per_page(report))
}

fn per_page(report: &Report) -> Plot {
    Plot {
        title: title("Instructions per page", report),
        x: "pages",
        y: "instructions per page",
        legend: SeriesLabelPosition::LowerLeft,
        lines: by_pages(report, Measurement::per_page),
    }
}

fn total(report: &Report) -> Plot {
    Plot {
        title: title("Instructions in all", report),
        x: "pages",
        y: "instructions",
        legend: SeriesLabelPosition::UpperLeft,
        lines: by_pages(report, |measurement| measurement.instructions as f64),
    }
}

fn title(what: &str, report: &Report) -> String {
    let linux = match report.linux.is_empty() {
        true => "",
        false => ", dotted: Linux",
    };
    format!("{what} (solid: this kernel, dashed: floor{linux})")
}

/// Lines of all operations that were measured on several sizes.
fn by_pages(report: &Report, value: impl Fn(&Measurement) -> f64) -> Vec<Line> {
    let mut lines = Vec::new();
    for name in names(report, Kind::Kernel) {
        for (kind, stroke) in [
            (Kind::Kernel, Stroke::Solid),
            (Kind::Floor, Stroke::Dashed),
            (Kind::Linux, Stroke::Dotted),
        ] {
            let line = line(report, kind, name, stroke, &value);
            if line.points.len() > 1 {
                lines.push(line);
            }
        }
    }
    lines
}

fn batch(report: &Report) -> Plot {
    let lines = names(report, Kind::Sweep).into_iter().map(|name| {
        // The kernel's path stands among the raw batches.
        let stroke = match name {
            "set_ptes" => Stroke::Solid,
            _ => Stroke::Dashed,
        };
        line(report, Kind::Sweep, name, stroke, Measurement::per_page)
    });
    Plot {
        title: "Instructions per request by size of the batch \
                (dashed: raw mmu_update, solid: this kernel's set_ptes)"
            .into(),
        x: "requests in the batch",
        y: "instructions per request",
        legend: SeriesLabelPosition::UpperRight,
        lines: lines.collect(),
    }
}

fn memory(report: &Report) -> Plot {
    let line = |label: &str, value: fn(&super::report::Boot) -> u64| Line {
        label: label.into(),
        stroke: Stroke::Solid,
        points: report
            .memory
            .iter()
            .map(|boot| (f64::from(boot.mib), value(boot) as f64))
            .collect(),
    };
    let lines = match report.memory.len() {
        0 | 1 => vec![],
        _ => vec![
            line("entry to ready", |boot| boot.entry_to_ready),
            line("entry to first byte", |boot| boot.entry_to_first_byte),
        ],
    };
    Plot {
        title: "Boot by memory size".into(),
        x: "MiB",
        y: "instructions",
        legend: SeriesLabelPosition::MiddleRight,
        lines,
    }
}

/// Operations of a kind, each once.
fn names(report: &Report, kind: Kind) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for measurement in report.of(kind) {
        if !names.contains(&measurement.operation()) {
            names.push(measurement.operation());
        }
    }
    names
}

fn line(
    report: &Report,
    kind: Kind,
    name: &str,
    stroke: Stroke,
    value: impl Fn(&Measurement) -> f64,
) -> Line {
    let points = report.of(kind).filter(|m| m.operation() == name);
    Line {
        label: name.to_owned(),
        stroke,
        points: points
            .map(|m| (m.pages as f64, value(m).max(1.0)))
            .collect(),
    }
}

fn draw(plot: &Plot) -> Result<String> {
    let mut svg = String::new();
    draw_to(plot, &mut svg)
        .map_err(|error| Failure::Guest(format!("cannot plot \"{}\": {error}", plot.title)))?;
    Ok(svg)
}

fn draw_to(plot: &Plot, svg: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let bounds = |values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::MAX, f64::min);
        (low, values.into_iter().fold(low, f64::max))
    };
    let (left, right) = bounds(points().map(|point| point.0).collect());
    let (low, high) = bounds(points().map(|point| point.1).collect());

    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(74)
        .build_cartesian_2d(
            Figures(((left)..(right * 1.02)).log_scale().base(2.0).into()),
            Figures(((low * 0.8)..(high * 1.3)).log_scale().into()),
        )?;
    chart
        .configure_mesh()
        .x_desc(plot.x)
        .y_desc(plot.y)
        .x_labels(14)
        .y_labels(12)
        .light_line_style(TRANSPARENT)
        .draw()?;

    let mut labels: Vec<&str> = Vec::new();
    for line in &plot.lines {
        let known = labels.iter().position(|label| *label == line.label);
        let index = known.unwrap_or(labels.len());
        let color = COLORS[index % COLORS.len()];
        let points = || line.points.iter().copied();
        let series = match line.stroke {
            Stroke::Solid => {
                chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
                chart.draw_series(LineSeries::new(points(), color.stroke_width(2)))?
            }
            Stroke::Dashed => {
                let style = color.stroke_width(1);
                chart.draw_series(DashedLineSeries::new(points(), 8, 5, style))?
            }
            Stroke::Dotted => {
                let style = color.stroke_width(1);
                chart.draw_series(DashedLineSeries::new(points(), 2, 4, style))?
            }
        };
        if known.is_none() {
            labels.push(&line.label);
            series.label(&line.label).legend(move |(x, y)| {
                Rectangle::new([(x, y - 2), (x + 16, y + 2)], color.filled())
            });
        }
    }
    chart
        .configure_series_labels()
        .position(plot.legend.clone())
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A logarithmic axis whose figures have no decimals.
struct Figures(LogCoord<f64>);

impl Ranged for Figures {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.0.map(value, limit)
    }

    fn key_points<Hint: plotters::coord::ranged1d::KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        self.0.key_points(hint)
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0.range()
    }
}

impl ValueFormatter<f64> for Figures {
    fn format(value: &f64) -> String {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn every_plot_is_an_svg_with_its_lines() {
        let plots = all(&report()).unwrap();
        let names: Vec<_> = plots.iter().map(|plot| plot.0).collect();
        assert_eq!(
            names,
            ["per-page.svg", "total.svg", "batch.svg", "memory.svg"]
        );
        for (name, svg) in plots {
            assert!(
                svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
                "{name}"
            );
            assert!(svg.contains("polyline"), "{name}");
        }
    }

    #[test]
    fn a_report_without_figures_has_no_plots() {
        assert!(all(&Report::default()).unwrap().is_empty());
    }

    #[test]
    fn the_same_figures_give_the_same_bytes() {
        assert_eq!(summary(&report()).unwrap(), summary(&report()).unwrap());
    }
}
