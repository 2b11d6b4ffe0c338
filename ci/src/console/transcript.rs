//! The record of a run: every line of guest and Xen in memory for the judges, in files for people,
//! and live on standard output.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exit::{Failure, Result};

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
    show: Show,
    guest_lines: Lines,
    host_lines: Lines,
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
            show,
            guest_lines: Lines::default(),
            host_lines: Lines::default(),
        })
    }

    /// Where the logs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files with all that was said.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        ["guest.log", "xen.log"]
            .map(|name| self.dir.join(name))
            .to_vec()
    }

    /// The time from one of the guest's lines to another, by their places among them.
    pub(crate) fn between(&self, from: usize, to: usize) -> Option<Duration> {
        Some(self.times.get(to)?.duration_since(*self.times.get(from)?))
    }

    /// Bytes of a console that is the guest's alone.
    pub(crate) fn guest_bytes(&mut self, bytes: &[u8]) {
        self.live(bytes);
        // The line ends of a terminal are not those of a file.
        let plain: Vec<_> = bytes.iter().copied().filter(|&b| b != b'\r').collect();
        let _ = self.guest_log.write_all(&plain);
        for line in self.guest_lines.feed(bytes) {
            self.guest(line);
        }
    }

    /// Bytes of a console that is Xen's, or Xen's and Linux'.
    pub(crate) fn host_bytes(&mut self, bytes: &[u8]) {
        let _ = self.host_log.write_all(bytes);
        let lines = self.host_lines.feed(bytes);
        self.host.extend(lines);
    }

    /// Bytes of the console that Xen and its dom0 share; lines are told apart by Xen's prefix.
    pub(crate) fn shared_bytes(&mut self, bytes: &[u8]) {
        self.live(bytes);
        for line in self.guest_lines.feed(bytes) {
            self.sort(line);
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
        self.host.extend(self.host_lines.finish());
    }

    fn sort(&mut self, line: String) {
        match voice(&line) {
            Voice::Guest => {
                let _ = writeln!(self.guest_log, "{line}");
                self.guest(line);
            }
            Voice::Host => {
                let _ = writeln!(self.host_log, "{line}");
                self.host.push(line);
            }
        }
    }

    fn guest(&mut self, line: String) {
        self.guest.push(line);
        self.times.push(Instant::now());
    }

    fn live(&mut self, bytes: &[u8]) {
        if let Some(copy) = &mut self.copy {
            let _ = copy.write_all(bytes);
        }
        if self.show == Show::Guest {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(bytes).and_then(|()| out.flush());
        }
    }

    /// The last lines of both, for a message about a run that went wrong.
    pub(crate) fn tail(&self, count: usize) -> String {
        let mut text = String::new();
        for (title, lines) in [("guest", &self.guest), ("Xen", &self.host)] {
            let last = &lines[lines.len().saturating_sub(count)..];
            text.push_str(&format!("--- {title}: last {} lines\n", last.len()));
            for line in last {
                text.push_str(line);
                text.push('\n');
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
