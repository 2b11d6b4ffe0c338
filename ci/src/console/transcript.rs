//! The record of a run: every line of guest and Xen in memory for the judges, in files for people,
//! and live on standard output.
//!
//! What explains a line of a crash stands behind it on the screen and where the last lines are shown,
//! and in a file of its own: no judge sees it, and the files of both consoles are as they were said.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exit::{Failure, Result};
use crate::locate::Locator;
use crate::stack::Job;

/// The file with the lines of a crash and what explains them.
const CRASH: &str = "crash.log";

/// Cuts a byte stream into lines without their line ends.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Adds bytes and returns the lines they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.extend(self.take());
            } else {
                self.partial.push(byte);
            }
        }
        lines
    }

    /// Ends the stream: what has no line end yet is a line too.
    pub(crate) fn finish(&mut self) -> Option<String> {
        if self.partial.is_empty() {
            None
        } else {
            self.take()
        }
    }

    /// What has no line end yet.
    fn rest(&self) -> String {
        text(&self.partial)
    }

    fn take(&mut self) -> Option<String> {
        Some(text(&std::mem::take(&mut self.partial)))
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_matches('\r').to_owned()
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// The kernel under test.
    Guest,
    /// The hypervisor, and the Linux dom0 where there is one.
    Host,
}

/// Tells Xen's lines from a dom0's on the console they share.
pub(crate) fn voice(line: &str) -> Voice {
    if line.starts_with("(XEN)") {
        Voice::Host
    } else {
        Voice::Guest
    }
}

/// What goes to the screen while it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Nothing.
    Nothing,
    /// The guest's console.
    Guest,
}

/// The record of one run.
pub(crate) struct Transcript {
    /// Complete lines of the guest's console.
    pub(crate) guest: Vec<String>,
    /// Complete lines of Xen's.
    pub(crate) host: Vec<String>,
    /// When each of the guest's lines was complete.
    times: Vec<Instant>,
    dir: PathBuf,
    guest_log: File,
    host_log: File,
    copy: Option<File>,
    /// Where a person sees it, if one does.
    screen: Option<Box<dyn Write>>,
    /// How the lines end there.
    line_end: &'static str,
    guest_lines: Lines,
    host_lines: Lines,
    locator: Option<Locator>,
    /// What explains lines, by their places among those of the guest and of Xen.
    explained: [BTreeMap<usize, Vec<String>>; 2],
    crash_log: Option<File>,
    /// Whether Xen has said something that was not on the screen.
    host_unseen: bool,
    /// How many lines of Xen's came before the first bytes of a console that is the guest's alone.
    before_guest: Option<usize>,
}

impl Transcript {
    /// Opens the record in `dir`; `copy` gets the guest's bytes as well.
    pub(crate) fn create(dir: &Path, show: Show, copy: Option<&Path>) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Failure::file("create", dir))?;
        let open = |path: &Path| File::create(path).map_err(Failure::file("create", path));
        Ok(Self {
            guest: Vec::new(),
            host: Vec::new(),
            times: Vec::new(),
            dir: dir.to_path_buf(),
            guest_log: open(&dir.join("guest.log"))?,
            host_log: open(&dir.join("xen.log"))?,
            copy: copy.map(open).transpose()?,
            screen: match show {
                Show::Guest => Some(Box::new(std::io::stdout())),
                Show::Nothing => None,
            },
            line_end: "\n",
            guest_lines: Lines::default(),
            host_lines: Lines::default(),
            locator: None,
            explained: Default::default(),
            crash_log: None,
            host_unseen: false,
            before_guest: None,
        })
    }

    /// Has it explain what is said of a crash of this job.
    pub(crate) fn explaining(mut self, job: &Job) -> Self {
        let symbols = job.symbols.as_deref();
        self.locator = Some(Locator::of(&job.kernel, symbols, job.via.is_first_domain()));
        self
    }

    /// Where the logs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files with all that was said.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let mut names = vec!["guest.log", "xen.log"];
        names.extend(self.crash_log.as_ref().map(|_| CRASH));
        names.iter().map(|name| self.dir.join(name)).collect()
    }

    /// The time from one of the guest's lines to another, by their places among them.
    pub(crate) fn between(&self, from: usize, to: usize) -> Option<Duration> {
        Some(self.times.get(to)?.duration_since(*self.times.get(from)?))
    }

    /// Bytes of a console that is the guest's alone.
    pub(crate) fn guest_bytes(&mut self, bytes: &[u8]) {
        self.before_guest.get_or_insert(self.host.len());
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.live(piece);
            // The line ends of a terminal are not those of a file.
            let plain: Vec<_> = piece.iter().copied().filter(|&b| b != b'\r').collect();
            let _ = self.guest_log.write_all(&plain);
            for line in self.guest_lines.feed(piece) {
                let explained = self.guest(line);
                self.show_lines(&explained);
            }
        }
    }

    /// Bytes of a console that is Xen's, or Xen's and Linux'. Of these a person sees what is explained:
    /// a domain that Xen ends says nothing itself.
    pub(crate) fn host_bytes(&mut self, bytes: &[u8]) {
        self.host_unseen = true;
        let _ = self.host_log.write_all(bytes);
        for line in self.host_lines.feed(bytes) {
            let explained = self.host(line.clone());
            if !explained.is_empty() {
                if !self.guest_lines.rest().is_empty() {
                    self.show_lines(&[String::new()]);
                }
                self.show_lines(&[line]);
                self.show_lines(&explained);
            }
        }
    }

    /// Bytes of the console that Xen and its dom0 share; lines are told apart by Xen's prefix.
    pub(crate) fn shared_bytes(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.live(piece);
            for line in self.guest_lines.feed(piece) {
                let explained = self.sort(line);
                self.show_lines(&explained);
            }
        }
    }

    /// What the guest has said of a line that has no end yet.
    pub(crate) fn partial(&self) -> String {
        let rest = self.guest_lines.rest();
        match voice(&rest) {
            Voice::Guest => rest,
            Voice::Host => String::new(),
        }
    }

    /// Closes the record: partial lines become lines.
    pub(crate) fn finish(&mut self) {
        if let Some(line) = self.guest_lines.finish() {
            self.sort(line);
        }
        if let Some(line) = self.host_lines.finish() {
            self.host(line);
        }
    }

    fn sort(&mut self, line: String) -> Vec<String> {
        match voice(&line) {
            Voice::Guest => {
                let _ = writeln!(self.guest_log, "{line}");
                self.guest(line)
            }
            Voice::Host => {
                let _ = writeln!(self.host_log, "{line}");
                self.host(line)
            }
        }
    }

    /// Takes a line and returns what explains it.
    fn guest(&mut self, line: String) -> Vec<String> {
        let explained = self.explain(Voice::Guest, self.guest.len(), &line);
        self.guest.push(line);
        self.times.push(Instant::now());
        explained
    }

    fn host(&mut self, line: String) -> Vec<String> {
        let explained = self.explain(Voice::Host, self.host.len(), &line);
        self.host.push(line);
        explained
    }

    fn explain(&mut self, voice: Voice, index: usize, line: &str) -> Vec<String> {
        let locator = self.locator.as_mut();
        let lines = locator.map_or_else(Vec::new, |locator| locator.explain(voice, line));
        if !lines.is_empty() {
            self.explained[voice as usize].insert(index, lines.clone());
            if self.crash_log.is_none() {
                self.crash_log = File::create(self.dir.join(CRASH)).ok();
            }
            if let Some(log) = &mut self.crash_log {
                let _ = writeln!(log, "{line}\n{}", lines.join("\n"));
            }
        }
        lines
    }

    fn live(&mut self, bytes: &[u8]) {
        if let Some(copy) = &mut self.copy {
            let _ = copy.write_all(bytes);
        }
        if bytes.ends_with(b"\n") {
            let terminal = bytes.ends_with(b"\r\n");
            self.line_end = if terminal { "\r\n" } else { "\n" };
        }
        self.show(bytes);
    }

    /// Shows lines that end as those of the console do.
    fn show_lines(&mut self, lines: &[String]) {
        for line in lines {
            let line = format!("{line}{}", self.line_end);
            self.show(line.as_bytes());
        }
    }

    fn show(&mut self, bytes: &[u8]) {
        if let Some(screen) = &mut self.screen {
            let _ = screen.write_all(bytes).and_then(|()| screen.flush());
        }
    }

    /// The last lines of what was not on the screen, and where the rest is. How Xen and its dom0 came up
    /// is of no interest once the guest has said something.
    pub(crate) fn unseen(&self, count: usize) -> String {
        let from = self.before_guest.unwrap_or(0);
        let host = self.host_unseen && from < self.host.len();
        self.last(
            count,
            self.screen.is_none().then_some(0),
            host.then_some(from),
        )
    }

    /// The last lines of both, for a message about a run that went wrong.
    pub(crate) fn tail(&self, count: usize) -> String {
        self.last(count, Some(0), Some(0))
    }

    /// The last lines of each, but for those before a place.
    fn last(&self, count: usize, guest: Option<usize>, host: Option<usize>) -> String {
        let mut text = String::new();
        for (from, title, voice, lines) in [
            (guest, "guest", Voice::Guest, &self.guest),
            (host, "Xen", Voice::Host, &self.host),
        ] {
            let Some(from) = from else { continue };
            let first = lines.len().saturating_sub(count).max(from);
            text.push_str(&format!(
                "--- {title}: last {} lines\n",
                lines.len() - first
            ));
            for (index, line) in lines.iter().enumerate().skip(first) {
                let explained = self.explained[voice as usize].get(&index);
                for line in [line].into_iter().chain(explained.into_iter().flatten()) {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        text.push_str(&format!("--- full logs: {}\n", self.dir.display()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> (tempfile::TempDir, Transcript) {
        let dir = tempfile::tempdir().unwrap();
        let transcript = Transcript::create(&dir.path().join("run"), Show::Nothing, None).unwrap();
        (dir, transcript)
    }

    #[test]
    fn lines_survive_any_cut() {
        let text = b"one\r\n\r\ntwo\nthree";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = lines.feed(&text[..cut]);
            found.extend(lines.feed(&text[cut..]));
            found.extend(lines.finish());
            assert_eq!(found, ["one", "", "two", "three"], "cut at {cut}");
        }
    }

    #[test]
    fn a_console_of_its_own_is_logged_as_a_file() {
        let (_dir, mut transcript) = transcript();
        transcript.guest_bytes(b"one\r");
        transcript.guest_bytes(b"\nverdict: pass\r\n");
        assert_eq!(transcript.guest, ["one", "verdict: pass"]);
        let log = std::fs::read_to_string(transcript.dir().join("guest.log")).unwrap();
        assert_eq!(log, "one\nverdict: pass\n");
    }

    #[test]
    fn every_line_of_the_guest_has_its_time() {
        let (_dir, mut transcript) = transcript();
        transcript.shared_bytes(b"one\n(XEN) a\n");
        std::thread::sleep(Duration::from_millis(5));
        transcript.guest_bytes(b"two\nthree");
        transcript.finish();
        assert!(transcript.between(0, 2).unwrap() >= Duration::from_millis(5));
        assert_eq!(transcript.between(0, 3), None);
    }

    #[test]
    fn a_shared_console_is_told_apart_by_prefix() {
        let (_dir, mut transcript) = transcript();
        transcript.shared_bytes(b"(XEN) a\r\nhello (XEN) x\r\n(XEN) b\nverdict: pass");
        transcript.finish();
        assert_eq!(transcript.host, ["(XEN) a", "(XEN) b"]);
        assert_eq!(transcript.guest, ["hello (XEN) x", "verdict: pass"]);
        let log = std::fs::read_to_string(transcript.dir().join("guest.log")).unwrap();
        assert_eq!(log, "hello (XEN) x\nverdict: pass\n");
    }

    /// A kernel for which every address of code is known: this program itself.
    fn explained() -> (tempfile::TempDir, Transcript, String) {
        use object::{Object, ObjectSymbol};
        let own = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&own).unwrap();
        let file = object::File::parse(bytes.as_slice()).unwrap();
        let mut symbols = file.symbols();
        let main = symbols.find(|symbol| symbol.name() == Ok("main")).unwrap();
        let (dir, transcript) = transcript();
        let job = Job::new("x", crate::stack::Via::Xl, own);
        let address = format!("{:016x}", main.address() + 1);
        (dir, transcript.explaining(&job), address)
    }

    #[test]
    fn what_explains_a_crash_is_seen_by_no_judge() {
        let (_dir, mut transcript, address) = explained();
        transcript.guest_bytes(format!("  #0  {address}\r\nend\r\n").as_bytes());
        transcript.host_bytes(format!("(XEN) RIP:    e033:[<{address}>]\n(XEN) x\n").as_bytes());
        assert_eq!(transcript.guest, [format!("  #0  {address}"), "end".into()]);
        assert_eq!(transcript.host.len(), 2);
        let read = |name: &str| std::fs::read_to_string(transcript.dir().join(name)).unwrap();
        assert_eq!(read("guest.log"), format!("  #0  {address}\nend\n"));
        let tail = transcript.tail(9);
        let lines: Vec<_> = tail.lines().collect();
        let raw = lines.iter().position(|line| line.contains("#0")).unwrap();
        assert!(lines[raw + 1].starts_with("        --> "), "{tail}");
        let xen = lines.iter().position(|line| line.contains("RIP")).unwrap();
        assert!(lines[xen + 1].starts_with("        --> "), "{tail}");
        assert_eq!(
            read("crash.log").matches("-->").count(),
            tail.matches("-->").count()
        );
        assert_eq!(transcript.logs().len(), 3);
    }

    /// A screen that a test reads.
    #[derive(Clone, Default)]
    struct Screen(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    #[test]
    fn a_person_sees_what_explains_a_line_behind_it() {
        let (_dir, mut transcript, address) = explained();
        let screen = Screen::default();
        transcript.screen = Some(Box::new(screen.clone()));
        // In pieces, and with more behind the line's end.
        transcript.guest_bytes(b"  #0  ");
        transcript.guest_bytes(format!("{address}\r\nend\r\n# ").as_bytes());
        let text = screen.text();
        let (before, after) = text.split_once("        --> ").unwrap();
        assert_eq!(before, format!("  #0  {address}\r\n"));
        assert!(after.ends_with("\r\nend\r\n# "), "{text:?}");
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());

        screen.0.borrow_mut().clear();
        let registers = format!("(XEN) RIP:    e033:[<{address}>]\n");
        transcript.host_bytes(format!("(XEN) x\n{registers}(XEN) y\n").as_bytes());
        let text = screen.text();
        assert!(
            text.starts_with(&format!("\r\n{}", registers.trim_end())),
            "{text:?}"
        );
        assert!(
            text.contains("        --> ") && !text.contains("(XEN) y"),
            "{text:?}"
        );
    }

    #[test]
    fn what_was_shown_is_not_shown_again() {
        let (dir, mut transcript) = transcript();
        transcript.guest_bytes(b"one\n");
        let unseen = transcript.unseen(9);
        assert!(
            unseen.contains("one") && !unseen.contains("Xen"),
            "{unseen}"
        );
        transcript.screen = Some(Box::new(Screen::default()));
        transcript.shared_bytes(b"(XEN) two\n");
        let unseen = transcript.unseen(9);
        assert!(
            !unseen.contains("one") && !unseen.contains("two"),
            "{unseen}"
        );
        assert!(unseen.contains(&dir.path().display().to_string()));
        // What the Xen below a shim says is on no screen.
        transcript.host_bytes(b"(XEN) three\n");
        let unseen = transcript.unseen(9);
        assert!(
            !unseen.contains("one") && unseen.contains("three"),
            "{unseen}"
        );
    }

    #[test]
    fn what_xen_said_before_the_guest_is_no_part_of_a_failure() {
        let (_dir, mut transcript) = transcript();
        transcript.host_bytes(b"(XEN) boots\n");
        assert!(
            transcript.unseen(9).contains("boots"),
            "the guest is silent"
        );
        transcript.guest_bytes(b"one\n");
        let unseen = transcript.unseen(9);
        assert!(
            !unseen.contains("boots") && !unseen.contains("Xen:"),
            "{unseen}"
        );
        transcript.host_bytes(b"(XEN) d1 crashed\n");
        let unseen = transcript.unseen(9);
        assert!(
            unseen.contains("d1 crashed") && !unseen.contains("boots"),
            "{unseen}"
        );
        assert!(transcript.tail(9).contains("boots"));
    }

    #[test]
    fn the_tail_has_the_last_lines_and_the_place_of_the_rest() {
        let (_dir, mut transcript) = transcript();
        for number in 0..50 {
            transcript.guest_bytes(format!("line {number}\n").as_bytes());
        }
        let tail = transcript.tail(30);
        assert!(
            !tail.contains("line 19\n") && tail.contains("line 20\n"),
            "{tail}"
        );
        assert!(tail.contains(&transcript.dir().display().to_string()));
    }
}
