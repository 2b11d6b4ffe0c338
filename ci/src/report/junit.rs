//! `--junit`: a report in the form that CI systems show, a `testcase` a row. There is no standard of
//! it; what is written is what GitLab, Jenkins and GitHub's actions read alike.

use std::borrow::Cow;
use std::io::Write;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::{Content, Facts, Row, State};

/// The report as an XML document.
pub(super) fn render(content: &Content) -> std::io::Result<Vec<u8>> {
    let mut rows = content.rows.clone();
    rows.extend(content.besides().map(|(state, message)| Row {
        group: "cargo xtask".into(),
        name: content.command.into(),
        state,
        message: message.into(),
        seconds: None,
        facts: Facts::default(),
    }));
    let mut groups: Vec<&str> = Vec::new();
    for row in &rows {
        if !groups.contains(&row.group.as_str()) {
            groups.push(&row.group);
        }
    }
    let all: Vec<_> = rows.iter().collect();
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer
        .create_element("testsuites")
        .with_attribute(("name", format!("cargo xtask {}", content.command).as_str()))
        .with_attributes(borrowed(&counts(&all)))
        .with_attribute(("time", time(content.since.elapsed().as_secs_f64()).as_str()))
        .write_inner_content(|writer| {
            for group in groups {
                let rows: Vec<_> = rows.iter().filter(|row| row.group == group).collect();
                suite(writer, group, &rows)?;
            }
            Ok(())
        })?;
    let mut bytes = writer.into_inner();
    bytes.push(b'\n');
    Ok(bytes)
}

fn suite<W: Write>(writer: &mut Writer<W>, group: &str, rows: &[&Row]) -> std::io::Result<()> {
    let seconds = rows.iter().filter_map(|row| row.seconds).sum();
    writer
        .create_element("testsuite")
        .with_attribute(("name", &*clean(group)))
        .with_attributes(borrowed(&counts(rows)))
        .with_attribute(("time", time(seconds).as_str()))
        .write_inner_content(|writer| rows.iter().try_for_each(|row| case(writer, row)))
        .map(drop)
}

fn case<W: Write>(writer: &mut Writer<W>, row: &Row) -> std::io::Result<()> {
    let mut element = writer
        .create_element("testcase")
        .with_attribute(("classname", &*clean(&row.group)))
        .with_attribute(("name", &*clean(&row.name)));
    if let Some(seconds) = row.seconds {
        element = element.with_attribute(("time", time(seconds).as_str()));
    }
    element
        .write_inner_content(|writer| {
            properties(writer, row)?;
            let mut out: Vec<_> = (row.facts.logs.iter())
                .map(|path| format!("log: {}", path.display()))
                .collect();
            match element_of(row.state) {
                Some(name) => {
                    let first = row.message.lines().next().unwrap_or_default();
                    writer
                        .create_element(name)
                        .with_attribute(("type", row.state.name()))
                        .with_attribute(("message", &*clean(first)))
                        .write_text_content(BytesText::new(&clean(&row.message)))?;
                }
                None if row.message.is_empty() => {}
                None => out.insert(0, row.message.clone()),
            }
            if !out.is_empty() {
                writer
                    .create_element("system-out")
                    .write_text_content(BytesText::new(&clean(&out.join("\n"))))?;
            }
            Ok(())
        })
        .map(drop)
}

fn properties<W: Write>(writer: &mut Writer<W>, row: &Row) -> std::io::Result<()> {
    if row.facts.figures.is_empty() {
        return Ok(());
    }
    writer
        .create_element("properties")
        .write_inner_content(|writer| {
            for (name, value) in &row.facts.figures {
                writer
                    .create_element("property")
                    .with_attribute(("name", &*clean(name)))
                    .with_attribute(("value", &*clean(value)))
                    .write_empty()?;
            }
            Ok(())
        })
        .map(drop)
}

/// What a state is called here; a pass has no element.
fn element_of(state: State) -> Option<&'static str> {
    match state {
        State::Pass => None,
        State::Skip => Some("skipped"),
        State::Fail | State::Crash | State::Timeout => Some("failure"),
        State::Error | State::Interrupted => Some("error"),
    }
}

fn counts(rows: &[&Row]) -> [(&'static str, String); 4] {
    let count = |name| {
        let of = rows
            .iter()
            .filter(|row| element_of(row.state) == Some(name));
        of.count().to_string()
    };
    [
        ("tests", rows.len().to_string()),
        ("failures", count("failure")),
        ("errors", count("error")),
        ("skipped", count("skipped")),
    ]
}

fn borrowed<'a>(
    attributes: &'a [(&'static str, String)],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    attributes
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
}

fn time(seconds: f64) -> String {
    format!("{seconds:.3}")
}

/// A text without the characters that no XML 1.0 document can hold, escaped or not
/// (<https://www.w3.org/TR/xml/#charsets>): a control character, which consoles send to colour
/// their lines, becomes its picture, and the rest U+FFFD. A carriage return would come back as a
/// line end, and is pictured too.
fn clean(text: &str) -> Cow<'_, str> {
    let held = |c: char| match c {
        '\t' | '\n' => true,
        c => c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'),
    };
    if text.chars().all(held) {
        return text.into();
    }
    let picture = |c: char| match c {
        c if held(c) => c,
        c if c < ' ' => {
            char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        _ => char::REPLACEMENT_CHARACTER,
    };
    text.chars().map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quick_xml::Reader;
    use std::time::{Instant, SystemTime};

    fn row(group: &str, name: &str, state: State, message: &str) -> Row {
        Row {
            group: group.into(),
            name: name.into(),
            state,
            message: message.into(),
            seconds: Some(0.25),
            facts: Facts::default(),
        }
    }

    fn document(rows: Vec<Row>) -> String {
        let content = Content {
            command: "test",
            started: SystemTime::now(),
            since: Instant::now(),
            rows,
            ended: Some(super::super::Ended {
                status: 0,
                error: None,
            }),
        };
        String::from_utf8(render(&content).unwrap()).unwrap()
    }

    /// The names of all elements, and all that stands between them and in their attributes.
    fn parsed(document: &str) -> (Vec<String>, String) {
        let mut reader = Reader::from_str(document);
        let (mut names, mut said) = (Vec::new(), String::new());
        loop {
            match reader.read_event().unwrap() {
                Event::Eof => return (names, said),
                Event::Start(element) | Event::Empty(element) => {
                    names.push(element.name().as_ref().to_owned());
                    for attribute in element.attributes() {
                        let value = attribute.unwrap().value;
                        said += &format!("{}\n", quick_xml::escape::unescape(&value).unwrap());
                    }
                }
                Event::Text(text) => said += &text,
                _ => {}
            }
        }
    }

    #[test]
    fn every_state_is_an_element_and_counted() {
        let document = document(vec![
            row("dom0", "a", State::Pass, ""),
            row("xl", "b", State::Fail, "why\nand more"),
            row("dom0", "c", State::Crash, "#PF"),
            row("dom0", "d", State::Timeout, "late"),
            row("dom0", "e", State::Error, "no QEMU"),
            row("dom0", "f", State::Skip, "not here"),
        ]);
        assert!(
            document.contains("tests=\"6\" failures=\"3\" errors=\"1\" skipped=\"1\""),
            "{document}"
        );
        assert!(document.contains("<testsuite name=\"xl\" tests=\"1\" failures=\"1\""));
        assert!(
            document.contains("<failure type=\"fail\" message=\"why\">why\nand more</failure>")
        );
        let (names, _) = parsed(&document);
        let count = |name: &str| names.iter().filter(|found| *found == name).count();
        assert_eq!((count("testsuite"), count("testcase")), (2, 6));
    }

    #[test]
    fn what_xml_cannot_hold_is_pictured() {
        let said = "\u{1b}[31mred\u{1b}[0m\0 a\rb \u{ffff}\u{fffe} <&>\"' ]]> \u{7f} \u{9} ä";
        let mut bad = row(said, said, State::Fail, said);
        bad.facts.figures = vec![("reason".into(), said.into())];
        bad.facts.logs = vec![said.into()];
        let document = document(vec![bad]);
        let control = |c: char| c < ' ' && c != '\n' && c != '\t';
        assert!(!document.contains(control), "{document:?}");
        assert!(!document.contains(['\u{fffe}', '\u{ffff}']));
        assert!(!document.contains("]]>"));
        let (_, text) = parsed(&document);
        assert!(
            text.contains("␛[31mred␛[0m␀ a␍b \u{fffd}\u{fffd} "),
            "{text}"
        );
    }

    #[test]
    fn figures_logs_and_words_of_a_pass_are_there() {
        let mut good = row("dom0", "guest", State::Pass, "the console says hello");
        good.facts.figures = vec![("pages".into(), "32768".into())];
        good.facts.logs = vec!["/l/guest.log".into(), "/l/xen.log".into()];
        let document = document(vec![good]);
        for part in [
            "<property name=\"pages\" value=\"32768\"/>",
            "time=\"0.250\"",
            "<system-out>the console says hello\nlog: /l/guest.log\nlog: /l/xen.log</system-out>",
        ] {
            assert!(document.contains(part), "{document}");
        }
    }
}
