//! What a run came to, for other programs: the files of `--junit` and `--json`.
//!
//! A file that was left by an earlier run must not pass for this one's. So each is written as soon
//! as the run begins, with the word that it is not finished, then again after every row and at the
//! end: what is there after a crash or a signal is true as well, and a place that cannot be written
//! to is known before anything has taken time.

mod json;
mod junit;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::cli::ReportArgs;
use crate::console::transcript::Transcript;
use crate::console::verdict::Verdict;
use crate::exit::{Failure, Result};

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub(crate) enum State {
    /// As it should.
    Pass,
    /// It was left out, for a reason that is given.
    Skip,
    /// As it should not.
    Fail,
    /// The guest crashed, by its own account or Xen's.
    Crash,
    /// Not within its time.
    Timeout,
    /// It could not be run, or not be judged.
    Error,
    /// A signal, or the person at the keyboard, ended the run.
    Interrupted,
}

impl State {
    /// The word for it.
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Interrupted => "interrupted",
        }
    }

    fn is_bad(self) -> bool {
        !matches!(self, Self::Pass | Self::Skip)
    }
}

impl From<State> for &'static str {
    fn from(state: State) -> Self {
        state.name()
    }
}

impl From<&Failure> for State {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Guest(_) => Self::Fail,
            Failure::TimedOut(_) => Self::Timeout,
            Failure::Interrupted => Self::Interrupted,
            Failure::Usage(_) | Failure::Host { .. } | Failure::File { .. } => Self::Error,
        }
    }
}

/// What is known of a row beside how it ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    /// Names and values, such as those of the kernel's verdict, in their order.
    pub(crate) figures: Vec<(String, String)>,
    /// Files with all that was said.
    pub(crate) logs: Vec<PathBuf>,
}

impl Facts {
    /// Those of a boot.
    pub(crate) fn of(transcript: &Transcript) -> Self {
        let mut verdicts = transcript
            .guest
            .iter()
            .filter_map(|line| Verdict::parse(line));
        Self {
            figures: verdicts.next().map_or_else(Vec::new, |found| found.fields),
            logs: transcript.logs(),
        }
    }
}

/// One thing that was judged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// What it belongs to: a way of running, a group of tests, a target of the rule book.
    pub(crate) group: String,
    /// Its name, which no other of the group has.
    pub(crate) name: String,
    /// How it ended.
    pub(crate) state: State,
    /// Why, or what there is to say of it; several lines or none.
    pub(crate) message: String,
    /// How long it took, where it took a time of its own.
    pub(crate) seconds: Option<f64>,
    /// The rest.
    pub(crate) facts: Facts,
}

/// How a run ended: its exit status, and why that is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ended {
    status: u8,
    error: Option<String>,
}

/// All that is written.
struct Content {
    command: &'static str,
    started: SystemTime,
    since: Instant,
    rows: Vec<Row>,
    ended: Option<Ended>,
}

impl Content {
    /// What is wrong with the run and in none of its rows.
    fn besides(&self) -> Option<(State, &str)> {
        match &self.ended {
            None => Some((
                State::Error,
                "the run has not come to its end: it goes on, or was killed",
            )),
            Some(Ended { error: None, .. }) => None,
            Some(_) if self.rows.iter().any(|row| row.state.is_bad()) => None,
            Some(Ended {
                error: Some(error), ..
            }) => Some((State::Error, error)),
        }
    }
}

/// The files that were asked for.
pub(crate) struct Report {
    content: Content,
    files: Vec<Output>,
    /// The first that went wrong with one of them.
    trouble: Option<Failure>,
}

/// One file.
struct Output {
    path: PathBuf,
    file: File,
    /// Whether it can be written anew; a pipe or a terminal cannot, and gets the end alone.
    regular: bool,
    render: fn(&Content) -> std::io::Result<Vec<u8>>,
}

impl Report {
    /// Opens the files that the flags name.
    ///
    /// # Errors
    /// One cannot be written, or is named twice.
    pub(crate) fn open(command: &'static str, arguments: &ReportArgs) -> Result<Self> {
        let mut report = Self {
            content: Content {
                command,
                started: SystemTime::now(),
                since: Instant::now(),
                rows: Vec::new(),
                ended: None,
            },
            files: Vec::new(),
            trouble: None,
        };
        if let (Some(junit), Some(json)) = (&arguments.junit, &arguments.json)
            && same(junit, json)
        {
            return Err(Failure::Usage(format!(
                "--junit and --json name the same file, {}",
                json.display()
            )));
        }
        if let Some(path) = &arguments.junit {
            report.files.push(Output::open(path, junit::render)?);
        }
        if let Some(path) = &arguments.json {
            report.files.push(Output::open(path, json::render)?);
        }
        report.write();
        report.trouble.take().map_or(Ok(report), Err)
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, row: Row) {
        self.content.rows.push(row);
        self.write();
    }

    /// Whether a row says that the run was interrupted.
    pub(crate) fn says_interrupted(&self) -> bool {
        let mut rows = self.content.rows.iter();
        rows.any(|row| row.state == State::Interrupted)
    }

    /// Writes how the run ended, and returns that.
    ///
    /// # Errors
    /// Those of the run, or else that a file could not be written.
    pub(crate) fn close(mut self, result: Result<()>) -> Result<()> {
        self.content.ended = Some(Ended {
            status: result.as_ref().map_or_else(Failure::status, |()| 0),
            error: result.as_ref().err().map(Failure::to_string),
        });
        self.write();
        result.and(self.trouble.map_or(Ok(()), Err))
    }

    fn write(&mut self) {
        for output in &mut self.files {
            if let Err(error) = output.write(&self.content) {
                let failure = Failure::file("write", &output.path)(error);
                self.trouble.get_or_insert(failure);
            }
        }
    }
}

impl Output {
    fn open(path: &Path, render: fn(&Content) -> std::io::Result<Vec<u8>>) -> Result<Self> {
        let open = || {
            // What is there stays until there is something to put into its place.
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            let regular = file.metadata()?.is_file();
            Ok((file, regular))
        };
        let (file, regular) = open().map_err(Failure::file("write", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            regular,
            render,
        })
    }

    fn write(&mut self, content: &Content) -> std::io::Result<()> {
        if !self.regular && content.ended.is_none() {
            return Ok(());
        }
        let bytes = (self.render)(content)?;
        if self.regular {
            self.file.seek(SeekFrom::Start(0))?;
        }
        self.file.write_all(&bytes)?;
        match self.regular {
            true => self.file.set_len(bytes.len() as u64),
            false => Ok(()),
        }
    }
}

/// Whether two names are one file.
fn same(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => {
            one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, state: State) -> Row {
        Row {
            group: "dom0".into(),
            name: name.into(),
            state,
            message: String::new(),
            seconds: Some(1.5),
            facts: Facts {
                figures: vec![("pages".into(), "32768".into()), ("via".into(), "x".into())],
                logs: vec!["/l/guest.log".into()],
            },
        }
    }

    fn arguments(dir: &Path) -> ReportArgs {
        ReportArgs {
            junit: Some(dir.join("junit.xml")),
            json: Some(dir.join("report.json")),
        }
    }

    fn read(dir: &Path) -> (String, serde_json::Value) {
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
        (
            read("junit.xml"),
            serde_json::from_str(&read("report.json")).unwrap(),
        )
    }

    #[test]
    fn what_is_there_is_true_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than what comes, and of an earlier run.
        std::fs::write(dir.path().join("junit.xml"), "pass".repeat(9999)).unwrap();
        let mut report = Report::open("boot", &arguments(dir.path())).unwrap();
        let (junit, json) = read(dir.path());
        assert!(junit.contains("errors=\"1\"") && junit.contains("not come to its end"));
        assert_eq!(
            (&json["finished"], &json["status"]),
            (&false.into(), &().into())
        );

        report.add(row("guest", State::Pass));
        let (junit, json) = read(dir.path());
        assert!(junit.contains("name=\"guest\"") && junit.contains("errors=\"1\""));
        assert_eq!(json["rows"][0]["figures"]["pages"], 32768);

        report.close(Ok(())).unwrap();
        let (junit, json) = read(dir.path());
        assert!(
            junit.contains("tests=\"1\" failures=\"0\" errors=\"0\""),
            "{junit}"
        );
        assert_eq!(
            (&json["finished"], &json["status"]),
            (&true.into(), &0.into())
        );
    }

    #[test]
    fn a_run_that_fails_or_is_interrupted_is_written_with_its_status() {
        for (failure, status, counts) in [
            (
                Failure::host("no QEMU", "get one"),
                3,
                "tests=\"2\" failures=\"0\" errors=\"1\"",
            ),
            (
                Failure::Interrupted,
                130,
                "tests=\"2\" failures=\"0\" errors=\"1\"",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut report = Report::open("test", &arguments(dir.path())).unwrap();
            report.add(row("passes", State::Pass));
            let failure = report.close(Err(failure)).unwrap_err();
            let (junit, json) = read(dir.path());
            assert_eq!(failure.status(), status);
            assert_eq!(json["status"], status);
            assert_eq!(json["error"], failure.to_string());
            assert!(junit.contains(counts), "{junit}");
        }
    }

    #[test]
    fn readme_names_every_field_and_every_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::open("boot", &arguments(dir.path())).unwrap();
        report.add(row("guest", State::Pass));
        report.close(Ok(())).unwrap();
        let (_, json) = read(dir.path());
        let fields = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let states = [
            State::Pass,
            State::Skip,
            State::Fail,
            State::Crash,
            State::Timeout,
            State::Error,
            State::Interrupted,
        ];
        let names = states.map(|state| state.name().to_owned());
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        // Wherever its lines end.
        let mut paragraphs = readme
            .split("\n\n")
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        let told = paragraphs.find_map(|text| {
            let (_, told) = text.split_once("The JSON is one object:")?;
            Some(told.to_owned())
        });
        let told = told.unwrap();
        for name in [fields(&json), fields(&json["rows"][0]), names.to_vec()].concat() {
            assert!(told.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn a_row_that_failed_is_not_told_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::open("test", &arguments(dir.path())).unwrap();
        report.add(row("a", State::Fail));
        report.add(row("b", State::Interrupted));
        assert!(report.says_interrupted());
        let _ = report.close(Err(Failure::Interrupted));
        let (junit, _) = read(dir.path());
        assert!(
            junit.contains("tests=\"2\" failures=\"1\" errors=\"1\""),
            "{junit}"
        );
    }

    #[test]
    fn a_place_that_cannot_be_written_is_known_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("none/x.json"), dir.path().to_path_buf()] {
            let arguments = ReportArgs {
                junit: None,
                json: Some(path.clone()),
            };
            let failure = Report::open("boot", &arguments).err().unwrap();
            assert_eq!(failure.status(), 3);
            assert!(failure.to_string().contains(&path.display().to_string()));
        }
        let full = ReportArgs {
            junit: Some("/dev/full".into()),
            json: None,
        };
        let report = Report::open("boot", &full).unwrap();
        assert_eq!(report.close(Ok(())).unwrap_err().status(), 3);
    }

    #[test]
    fn one_file_for_both_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for json in [file.clone(), link] {
            let arguments = ReportArgs {
                junit: Some(file.clone()),
                json: Some(json),
            };
            assert_eq!(Report::open("boot", &arguments).err().unwrap().status(), 2);
        }
    }

    #[test]
    fn every_failure_is_one_of_the_states() {
        for (failure, state) in [
            (Failure::Guest(String::new()), State::Fail),
            (Failure::TimedOut(String::new()), State::Timeout),
            (Failure::Usage(String::new()), State::Error),
            (Failure::Interrupted, State::Interrupted),
        ] {
            assert_eq!(State::from(&failure), state);
        }
        for state in [State::Crash, State::Skip, State::Timeout] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }
}
