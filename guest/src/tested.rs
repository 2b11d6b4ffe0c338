//! What self-tests came to, for those who pass it on.

use core::fmt;

/// How a run ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    /// Tests that were made.
    pub(crate) run: u32,
    /// Those that did not pass.
    pub(crate) failed: u32,
    /// Those that have no meaning here.
    pub(crate) skipped: u32,
    /// The first that did not pass.
    pub(crate) first: Option<&'static str>,
    /// Whether the kernel was asked to end before all were made.
    pub(crate) cut_short: bool,
}

impl Summary {
    /// Whether everything passed or was skipped for a reason, and there was anything to run.
    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.run > 0 && !self.cut_short
    }

    /// Both runs together.
    pub(crate) fn and(self, later: Summary) -> Summary {
        Summary {
            run: self.run + later.run,
            failed: self.failed + later.failed,
            skipped: self.skipped + later.skipped,
            first: self.first.or(later.first),
            cut_short: self.cut_short || later.cut_short,
        }
    }

    /// What went wrong, in a few words.
    pub(crate) fn reason(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| match self.first {
            Some(first) => write!(
                f,
                "{} of {} self-tests failed, the first is {first}",
                self.failed, self.run
            ),
            None if self.cut_short => {
                write!(f, "asked to end after {} of the self-tests", self.run)
            }
            None => f.write_str("no self-test of this name"),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            run,
            failed,
            skipped,
            ..
        } = self;
        write!(f, "selftests={run} failed={failed} skipped={skipped}")
    }
}
