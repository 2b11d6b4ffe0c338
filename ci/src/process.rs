//! Programs that this one runs and waits for: cargo, apt, dpkg, rustup.
//!
//! Each gets a process group of its own, so that a signal sent to this program alone reaches all that
//! it started: whoever waits here looks for a request to stop and ends the group. What has to be
//! given up for another reason, such as a full disk, is ended by the same way.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::exit::{Failure, Result};
use crate::interrupt;

/// How often a wait looks around.
const LOOK: Duration = Duration::from_millis(50);

/// How long a group that was asked to end may take for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A line of the standard output, or a piece of the standard error.
enum Said {
    Line(Vec<u8>),
    Error(Vec<u8>),
}

/// This program's file.
static OWN: OnceLock<PathBuf> = OnceLock::new();

/// Remembers where this program is. Tests that run it have cargo put it there anew, and the system
/// then says of the one that runs that it was deleted.
pub(crate) fn remember_own() {
    if let Ok(path) = std::env::current_exe() {
        // The first answer is the right one.
        let _ = OWN.set(path);
    }
}

/// A command that runs this program.
///
/// # Errors
/// The system does not say where it is.
pub(crate) fn own() -> Result<Command> {
    let path = OWN.get().cloned();
    let path = path.map_or_else(std::env::current_exe, Ok);
    let path = path.map_err(Failure::file("find", "the program itself"))?;
    Ok(Command::new(path))
}

/// Runs a program whose output goes where this one's does.
///
/// # Errors
/// What `failed` makes of a program that cannot be run; [`Failure::Interrupted`].
pub(crate) fn status(
    command: &mut Command,
    failed: impl FnOnce(std::io::Error) -> Failure,
) -> Result<ExitStatus> {
    let mut group = match Group::start(command) {
        Ok(group) => group,
        Err(error) => return Err(failed(error)),
    };
    loop {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
        match group.child.try_wait() {
            Ok(Some(status)) => return Ok(group.ended(status)),
            Ok(None) => std::thread::sleep(LOOK),
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Runs a program and returns what it said.
///
/// # Errors
/// As for [`status`].
pub(crate) fn output(
    command: &mut Command,
    failed: impl FnOnce(std::io::Error) -> Failure,
) -> Result<Output> {
    output_while(command, failed, &mut |_| {}, &mut || Ok(()))
}

/// The same; `line` sees each line of the standard output as it comes, and `good` says whether to go
/// on: it is asked all the time, whatever the program does.
///
/// # Errors
/// As for [`status`], and what `good` says.
pub(crate) fn output_while(
    command: &mut Command,
    failed: impl FnOnce(std::io::Error) -> Failure,
    line: &mut dyn FnMut(&str),
    good: &mut dyn FnMut() -> Result<()>,
) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = match Group::start(command) {
        Ok(group) => group,
        Err(error) => return Err(failed(error)),
    };
    let said = group.listen();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        if interrupt::requested() {
            return Err(Failure::Interrupted);
        }
        good()?;
        match said.recv_timeout(LOOK) {
            Ok(Said::Line(bytes)) => {
                line(String::from_utf8_lossy(&bytes).trim_end());
                stdout.extend(bytes);
            }
            Ok(Said::Error(bytes)) => stderr.extend(bytes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // It has closed its output, and may still be busy.
    loop {
        match group.child.try_wait() {
            Ok(Some(status)) => {
                let status = group.ended(status);
                return Ok(Output {
                    status,
                    stdout,
                    stderr,
                });
            }
            Ok(None) if interrupt::requested() => return Err(Failure::Interrupted),
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A running program and all that it started; dropping it ends them.
struct Group {
    child: Child,
    running: bool,
}

impl Group {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        command.process_group(0);
        // SAFETY: the closure runs between fork and exec and makes one system call, which neither
        // allocates nor takes locks.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)
            });
        }
        let child = command.spawn()?;
        Ok(Self {
            child,
            running: true,
        })
    }

    fn ended(&mut self, status: ExitStatus) -> ExitStatus {
        self.running = false;
        status
    }

    /// Reads both outputs in the background, to their ends.
    fn listen(&mut self) -> Receiver<Said> {
        let (sender, said) = channel();
        if let Some(stdout) = self.child.stdout.take() {
            let sender = sender.clone();
            std::thread::spawn(move || lines(BufReader::new(stdout), &sender));
        }
        if let Some(stderr) = self.child.stderr.take() {
            std::thread::spawn(move || pieces(stderr, &sender));
        }
        said
    }

    fn kill(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // One that has ended already cannot be signalled.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.running {
            return;
        }
        self.kill(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        // Whatever of the group is left; the first process of it may be gone already.
        self.kill(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn lines(mut stdout: impl BufRead, sender: &Sender<Said>) {
    loop {
        let mut line = Vec::new();
        match stdout.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if sender.send(Said::Line(line)).is_err() => return,
            Ok(_) => {}
        }
    }
}

fn pieces(mut stderr: impl Read, sender: &Sender<Said>) {
    let mut buffer = [0; 4096];
    loop {
        match stderr.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if sender.send(Said::Error(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn both_outputs_and_the_status_come_back() {
        let mut seen = Vec::new();
        let output = output_while(
            &mut shell("echo one; echo two >&2; printf three; exit 7"),
            Failure::file("run", "sh"),
            &mut |line| seen.push(line.to_owned()),
            &mut || Ok(()),
        )
        .unwrap();
        assert_eq!(seen, ["one", "three"]);
        assert_eq!(output.stdout, b"one\nthree");
        assert_eq!(output.stderr, b"two\n");
        assert_eq!(output.status.code(), Some(7));
        let status = status(&mut shell("exit 3"), Failure::file("run", "sh"));
        assert_eq!(status.unwrap().code(), Some(3));
    }

    #[test]
    fn what_cannot_be_run_is_the_caller_s_to_explain() {
        let mut nothing = Command::new("/nonexistent");
        let failure = output(&mut nothing, |_| Failure::Usage("no such".into())).unwrap_err();
        assert_eq!(failure.status(), 2);
    }

    #[test]
    fn what_is_given_up_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        // Neither hears the first signal, and nothing is ever said.
        let text = format!(
            "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 1; done' & wait",
            pid.display()
        );
        let ready = || std::fs::read_to_string(&pid).unwrap_or_default();
        let failure = output_while(
            &mut shell(&text),
            Failure::file("run", "sh"),
            &mut |_| {},
            &mut || match ready().ends_with('\n') {
                true => Err(Failure::Usage("enough".into())),
                false => Ok(()),
            },
        )
        .unwrap_err();
        assert_eq!(failure.to_string(), "enough");
        let child = std::path::Path::new("/proc").join(ready().trim());
        // What nobody waits for is gone once init has done so.
        while child.exists()
            && !std::fs::read_to_string(child.join("stat"))
                .unwrap_or_default()
                .contains(") Z ")
        {
            std::thread::sleep(LOOK);
        }
    }
}
