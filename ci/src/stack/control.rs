//! The control port of the Linux dom0, where its shell obeys (`init.sh`): what is sent there, and what
//! the lines that come are.
//!
//! A call is a line with its number, the length of its command and the command. The shell asks for a
//! line again of which something is missing, and carries out none twice. Between the answers come the
//! sign of life and what xl reports by itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::console::transcript::Lines;

/// This side of the port.
pub(super) struct Control {
    lines: Lines,
    /// Lines that answer a command.
    answers: VecDeque<String>,
    /// Lines that xl sent by itself.
    pub(super) reports: VecDeque<String>,
    /// The last sign of life.
    alive: Instant,
    calls: u64,
}

/// A command that is to be carried out.
pub(super) struct Call {
    number: u64,
    /// What is sent for it, and sent again.
    pub(super) line: String,
}

/// What the shell says to a call.
pub(super) enum Answer {
    /// It is carried out, and printed this.
    Done(Vec<String>),
    /// Something of a line is missing, which came as this.
    Again(String),
}

/// A command as the dom0's shell takes it: with a number of its own, and its length.
pub(super) fn request(number: u64, command: &str) -> String {
    format!("{number} {} {command}", command.len())
}

impl Control {
    /// A port on which nothing came yet.
    pub(super) fn new() -> Self {
        Self {
            lines: Lines::default(),
            answers: VecDeque::new(),
            reports: VecDeque::new(),
            alive: Instant::now(),
            calls: 0,
        }
    }

    /// Takes what came.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for line in self.lines.feed(bytes) {
            match line.strip_prefix("xl: ") {
                Some(report) => self.reports.push_back(report.to_owned()),
                None if line == "alive" => self.alive = Instant::now(),
                None => self.answers.push_back(line),
            }
        }
    }

    /// Whether the shell has begun; what it said until then is no answer.
    pub(super) fn is_ready(&mut self) -> bool {
        let ready = self.answers.iter().any(|line| line == "ready");
        if ready {
            self.answers.clear();
        }
        ready
    }

    /// How long ago the last sign of life came.
    pub(super) fn silence(&self) -> Duration {
        self.alive.elapsed()
    }

    /// Begins a call, whose line is to be sent.
    pub(super) fn call(&mut self, command: &str) -> Call {
        self.calls += 1;
        Call {
            number: self.calls,
            line: request(self.calls, command) + "\n",
        }
    }

    /// What has come for a call.
    pub(super) fn answer(&mut self, call: &Call) -> Option<Answer> {
        let mark = format!("done {}", call.number);
        if let Some(index) = self.answers.iter().position(|line| *line == mark) {
            let lines = self.answers.drain(..=index);
            // What was asked for twice is answered twice.
            let lines = lines.filter(|line| !line.starts_with("done "));
            return Some(Answer::Done(lines.collect()));
        }
        let mut answers = self.answers.iter();
        let index = answers.position(|line| line.starts_with("again: "))?;
        self.answers.remove(index).map(Answer::Again)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::super::rootfs::INIT;
    use super::*;

    /// The shell of the dom0 carries out a line once, and asks again for half a line.
    #[test]
    fn the_control_port_survives_half_a_line() {
        let (_, obey) = INIT.split_once("\nlast=").unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut shell = Command::new("sh")
            .args(["-c", &format!("exec 3<&0\nlast={obey}")])
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        let mut answers = BufReader::new(ours.try_clone().unwrap()).lines();
        let mut ours = ours;
        assert_eq!(answers.next().unwrap().unwrap(), "ready");
        let calls = [
            ("1 12 seen=1; echo", vec!["", "done 1"]),
            ("2 18 seen=$((seen + 1))", vec!["done 2"]),
            ("2 18 seen=$((seen + 1))", vec!["done 2"]),
            ("3 20 ; xl destroy 1", vec!["again: 3 20 ; xl destroy 1"]),
            ("", vec!["again:   "]),
            ("4 10 echo $seen5 1 f", vec!["again: 4 10 echo $seen5 1 f"]),
            ("4 10 echo $seen", vec!["2", "done 4"]),
        ];
        for (line, expected) in calls {
            writeln!(ours, "{line}").unwrap();
            for expected in expected {
                let answer = answers.next().unwrap().unwrap();
                assert_eq!(answer, expected, "to {line:?}");
                let mut control = Control::new();
                control.feed(format!("{answer}\n").as_bytes());
                let call = control.call("never answered");
                let call = Call { number: 9, ..call };
                let again = matches!(control.answer(&call), Some(Answer::Again(_)));
                assert_eq!(again, expected.starts_with("again"));
            }
        }
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(shell.wait().unwrap().success());
    }

    #[test]
    fn an_answer_is_what_came_for_the_call() {
        let mut control = Control::new();
        let [first, second] = ["one", "two"].map(|command| control.call(command));
        assert_eq!(
            (first.line.as_str(), second.line.as_str()),
            ("1 3 one\n", "2 3 two\n")
        );
        assert!(!control.is_ready());
        control.feed(b"noise\nready\n");
        assert!(control.is_ready());
        control.feed(b"a\nxl: exit 0\nalive\ndone 1\ndone 1\nb\ndone ");
        let done = |answer| match answer {
            Some(Answer::Done(lines)) => lines,
            _ => panic!("no answer"),
        };
        assert_eq!(done(control.answer(&first)), ["a"]);
        assert!(control.answer(&second).is_none());
        control.feed(b"2\n");
        assert_eq!(done(control.answer(&second)), ["b"]);
        assert_eq!(control.reports, ["exit 0"]);
    }
}
