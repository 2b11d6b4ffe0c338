//! What a command comes to: one type for every way of not succeeding, and the exit status that
//! each stands for, so that a script can tell a bad kernel from a bad host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::interrupt;

/// Why a command did not succeed. Every message says what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The kernel, or the code under test, is at fault.
    #[error("{0}")]
    Guest(String),
    /// The command was given something it cannot use.
    #[error("{0}")]
    Usage(String),
    /// The machine lacks something.
    #[error("{missing}\n  what to do: {remedy}")]
    Host {
        /// What is missing.
        missing: String,
        /// What the reader can do about it.
        remedy: String,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing ended within the time given.
    #[error("{0}")]
    TimedOut(String),
    /// A signal, or the person at the keyboard, ended it.
    #[error("interrupted")]
    Interrupted,
}

/// The result of nearly everything here.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A host that lacks something, with what to do about it.
    pub(crate) fn host(missing: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Host {
            missing: missing.into(),
            remedy: remedy.into(),
        }
    }

    /// Turns an I/O error into a failure that names the file.
    pub(crate) fn file(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// The exit status, as `--help` documents it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Guest(_) => 1,
            Self::Usage(_) => 2,
            Self::Host { .. } | Self::File { .. } => 3,
            Self::TimedOut(_) => 4,
            Self::Interrupted => interrupt::status(),
        }
    }

    /// [`Failure::status`] in the form `main` returns.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_documented_status() {
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(Failure::Guest(String::new()).status(), 1);
        assert_eq!(Failure::Usage(String::new()).status(), 2);
        assert_eq!(Failure::host("qemu", "pass --qemu").status(), 3);
        assert_eq!(Failure::file("read", "/x")(io).status(), 3);
        assert_eq!(Failure::TimedOut(String::new()).status(), 4);
        assert_eq!(Failure::Interrupted.status(), 130);
    }

    #[test]
    fn a_host_failure_says_what_to_do() {
        let text = Failure::host("no QEMU", "pass --qemu PATH").to_string();
        assert!(
            text.contains("no QEMU") && text.contains("--qemu PATH"),
            "{text}"
        );
    }
}
