//! `--json`: all of a report, one object. `format` is raised when a field changes its meaning or
//! goes; one that is added changes nothing for who reads the others.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::{Content, Row, State};

/// Of the fields below.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    format: u32,
    /// Behind `cargo xtask`.
    command: &'a str,
    /// When it began, in seconds since 1970, UTC.
    started: u64,
    /// How long it has taken.
    seconds: f64,
    /// Whether it came to its end, by itself or by a signal.
    finished: bool,
    /// Its exit status, if it did.
    status: Option<u8>,
    /// Why that is not 0.
    error: Option<&'a str>,
    rows: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    group: &'a str,
    name: &'a str,
    verdict: State,
    message: &'a str,
    /// Numbers where they are some.
    figures: Map<String, Value>,
    /// None where it took no time of its own.
    seconds: Option<f64>,
    logs: &'a [PathBuf],
}

/// The object as text.
pub(super) fn render(content: &Content) -> std::io::Result<Vec<u8>> {
    let started = content.started.duration_since(SystemTime::UNIX_EPOCH);
    let report = Report {
        format: FORMAT,
        command: content.command,
        started: started.map_or(0, |since| since.as_secs()),
        seconds: content.since.elapsed().as_secs_f64(),
        finished: content.ended.is_some(),
        status: content.ended.as_ref().map(|ended| ended.status),
        error: content
            .ended
            .as_ref()
            .and_then(|ended| ended.error.as_deref()),
        rows: content.rows.iter().map(line).collect(),
    };
    let mut bytes = serde_json::to_vec_pretty(&report)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn line(row: &Row) -> Line<'_> {
    let figures = row.facts.figures.iter();
    Line {
        group: &row.group,
        name: &row.name,
        verdict: row.state,
        message: &row.message,
        figures: figures
            .map(|(name, value)| (name.clone(), figure(value)))
            .collect(),
        seconds: row.seconds,
        logs: &row.facts.logs,
    }
}

/// A number in decimal digits as a number, anything else as it is.
fn figure(text: &str) -> Value {
    match text.parse::<u64>() {
        Ok(number) if number.to_string() == text => Value::Number(Number::from(number)),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_the_same_is_a_number() {
        assert_eq!(figure("32768"), 32768);
        for text in [
            "007",
            "+1",
            "0x1f",
            "-1",
            "4 levels",
            "",
            "99999999999999999999",
        ] {
            assert_eq!(figure(text), text);
        }
    }
}
