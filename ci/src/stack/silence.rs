//! A guest that says nothing for long. It may be at work; or Xen has left all processors asleep although a
//! domain could run, as it does once in some hours under QEMU's emulation, until an interrupt comes. A key on
//! its console is one, and costs a guest that is at work nothing.

use std::time::{Duration, Instant};

/// How long, until a key is typed, and until the next one.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Xen takes what is typed, says what its clocks are, and gives the console back.
pub(super) const KEYS: &[u8] = b"\x01\x01\x01t\x01\x01\x01";

/// What is noted then.
pub(super) const TYPED: &str = "xen: a key was typed, as the guest was silent";

/// How long a guest has been silent.
#[derive(Debug)]
pub(super) struct Silence {
    /// Bytes that it had said.
    heard: u64,
    since: Instant,
}

impl Silence {
    /// Of a guest that has said nothing so far.
    pub(super) fn new(now: Instant) -> Silence {
        Silence {
            heard: 0,
            since: now,
        }
    }

    /// When a key is to be typed for a guest that has said so many bytes.
    pub(super) fn at(&mut self, heard: u64, now: Instant) -> Instant {
        if heard != self.heard {
            (self.heard, self.since) = (heard, now);
        }
        self.since + PATIENCE
    }

    /// Whether it is time, and if so, it is again as much later.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.since + PATIENCE <= now;
        if due {
            self.since = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_silent_since_its_last_byte() {
        let start = Instant::now();
        let later = start + PATIENCE;
        let mut silence = Silence::new(start);
        assert_eq!(silence.at(0, start), later);
        assert!(!silence.is_due(start));
        assert_eq!(silence.at(5, later), later + PATIENCE);
        assert!(!silence.is_due(later));
        assert_eq!(silence.at(5, later + PATIENCE), later + PATIENCE);
        assert!(silence.is_due(later + PATIENCE));
        assert!(!silence.is_due(later + PATIENCE));
        assert_eq!(silence.at(5, later + PATIENCE), later + 2 * PATIENCE);
    }
}
