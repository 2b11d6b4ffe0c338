//! A domain that said its last word, and whose end xl does not report. What tells xl of it is an event
//! that passes Xen, Linux and xenstored; when it is overdue, `ended` (`init.sh`) asks Xen instead. The
//! guest's verdict is no end by itself: a kernel may stand still behind it.

use std::time::{Duration, Instant};

use crate::console::verdict::Verdict;

/// How long xl has, and until it is asked again.
const PATIENCE: Duration = Duration::from_secs(10);

/// When to ask.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    /// The guest's lines that were looked at.
    seen: usize,
    at: Option<Instant>,
}

impl Overdue {
    /// When to ask about a guest that has said `lines` so far, if ever.
    pub(super) fn at(&mut self, lines: &[String], now: Instant) -> Option<Instant> {
        let new = lines.get(self.seen..).unwrap_or_default();
        if new.iter().any(|line| Verdict::parse(line).is_some()) {
            self.at = Some(now + PATIENCE);
        }
        self.seen = lines.len();
        self.at
    }

    /// Whether it is time, and if so, when it is the next time.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            self.at = Some(now + PATIENCE);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_domain_that_said_its_last_word_is_overdue() {
        let now = Instant::now();
        let mut overdue = Overdue::default();
        let mut lines = vec!["boot".to_owned()];
        assert_eq!(overdue.at(&lines, now), None);
        assert!(!overdue.is_due(now + PATIENCE));
        lines.push("verdict: pass".to_owned());
        assert_eq!(overdue.at(&lines, now), Some(now + PATIENCE));
        // A look later on changes nothing about when.
        assert_eq!(overdue.at(&lines, now + PATIENCE), Some(now + PATIENCE));
        assert!(!overdue.is_due(now));
        assert!(overdue.is_due(now + PATIENCE));
        assert!(!overdue.is_due(now + PATIENCE));
        assert!(overdue.is_due(now + 2 * PATIENCE));
    }
}
