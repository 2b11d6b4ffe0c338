//! What is printed, on its way to whoever takes it: whole lines, and a mark where some are missing.
//!
//! The other side may be slow, and may stop. It is waited for as long as it makes any progress, and a
//! bounded time without: a dead daemon must not hold the kernel. What it does not take in that time
//! is lost, but not in silence: it is counted, and when the other side moves again the first thing
//! that it gets is a line that says how much is missing; what follows the mark begins with a line.
//!
//! Lines end in CR LF, as a terminal in raw mode needs it: that of `xl console` is one.
//!
//! ```
//! use xen_pv_rt::console::stream::{Patience, Stream, Wire};
//!
//! /// Takes everything.
//! struct Paper(Vec<u8>);
//!
//! impl Wire for Paper {
//!     fn put(&mut self, bytes: &[u8]) -> usize {
//!         self.0.extend(bytes);
//!         bytes.len()
//!     }
//!     fn pause(&mut self) {}
//!     fn now(&self) -> Option<u64> {
//!         None
//!     }
//! }
//!
//! let mut paper = Paper(Vec::new());
//! Stream::new().write(&mut paper, b"a line\n", Patience::USUAL);
//! assert_eq!(paper.0, b"a line\r\n");
//! ```

use core::fmt::Write;

use heapless::String;

/// A way to the other side.
pub trait Wire {
    /// Hands over as many bytes as there is room for at the moment, and says how many.
    fn put(&mut self, bytes: &[u8]) -> usize;

    /// Lets the other side work, once.
    fn pause(&mut self);

    /// The time in nanoseconds, if there is a clock.
    fn now(&self) -> Option<u64>;

    /// Whether there is somebody to wait for, as far as is known.
    fn is_taken(&self) -> bool {
        true
    }
}

/// How long the other side is waited for without any progress.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// In nanoseconds, by the clock.
    pub nanoseconds: u64,
    /// Without a clock: in pauses, each at least a round trip to the other side.
    pub pauses: u64,
}

impl Patience {
    /// For what is printed on the way.
    pub const USUAL: Patience = Patience::seconds(10);
    /// For what must be known of a run: its verdict.
    pub const LAST: Patience = Patience::seconds(60);

    const fn seconds(seconds: u64) -> Patience {
        Patience {
            nanoseconds: seconds * 1_000_000_000,
            pauses: seconds * 5_000,
        }
    }

    /// Begins to wait.
    #[must_use]
    pub fn begin(self) -> Waiting {
        Waiting {
            patience: self,
            since: None,
            pauses: 0,
        }
    }
}

/// A wait without progress so far.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    patience: Patience,
    since: Option<u64>,
    pauses: u64,
}

impl Waiting {
    /// Waits a little more; false when patience is over.
    pub fn wait(&mut self, wire: &mut impl Wire) -> bool {
        wire.pause();
        self.pauses += 1;
        match (wire.now(), self.since) {
            (Some(now), Some(since)) => now.saturating_sub(since) < self.patience.nanoseconds,
            (Some(now), None) => {
                self.since = Some(now);
                true
            }
            (None, _) => self.pauses < self.patience.pauses,
        }
    }
}

/// What was not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes, as they were printed.
    pub bytes: u64,
    /// Line ends among them.
    pub lines: u64,
}

/// Room for the longest mark.
const MARK: usize = 128;

/// The state of what is printed.
#[derive(Debug)]
pub struct Stream {
    /// The other side was waited for in vain: it is not waited for again before it moves.
    stuck: bool,
    /// Lost since the last mark.
    lost: Lost,
    /// The beginning of the present line is lost, and so is the rest of it.
    torn: bool,
    /// The last byte that was taken.
    last: u8,
    /// The part of a mark that is still to be handed over.
    mark: String<MARK>,
}

impl Stream {
    /// Nothing was printed.
    #[must_use]
    pub const fn new() -> Stream {
        Stream {
            stuck: false,
            lost: Lost { bytes: 0, lines: 0 },
            torn: false,
            last: b'\n',
            mark: String::new(),
        }
    }

    /// Has the other side waited for anew.
    pub fn insist(&mut self) {
        self.stuck = false;
    }

    /// Waits until everything that was handed over has been taken, of which `pending` says how much has
    /// not, or the other side shows no sign of life. What `pending` cannot say is not waited for.
    pub fn drain(
        &mut self,
        wire: &mut impl Wire,
        patience: Patience,
        pending: impl Fn() -> Option<usize>,
    ) {
        let (mut waiting, mut last) = (patience.begin(), usize::MAX);
        while let Some(left @ 1..) = pending() {
            if left < last {
                (waiting, last) = (patience.begin(), left);
            }
            if self.stuck || !wire.is_taken() || !waiting.wait(wire) {
                break;
            }
        }
    }

    /// Writes text.
    pub fn write(&mut self, wire: &mut impl Wire, text: &[u8], patience: Patience) {
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            let taken = if self.torn || !self.mark(wire, patience) {
                0
            } else {
                self.line(wire, piece, patience)
            };
            self.lose(&piece[taken..]);
        }
    }

    /// Says what is missing, if anything is; false if that was not taken whole.
    pub fn mark(&mut self, wire: &mut impl Wire, patience: Patience) -> bool {
        let begun = !self.mark.is_empty();
        if !begun {
            if self.lost == Lost::default() {
                return true;
            }
            let Lost { bytes, lines } = self.lost;
            let start = if self.last == b'\n' { "" } else { "\r\n" };
            // There is room for it.
            let _ = write!(
                self.mark,
                "{start}[console: {bytes} bytes with {lines} line ends are missing here: nobody took them]\r\n"
            );
        }
        let mark = core::mem::take(&mut self.mark);
        let taken = self.push(wire, mark.as_bytes(), patience);
        if taken > 0 && !begun {
            self.lost = Lost::default();
        }
        if taken > 0 || begun {
            // What was said once is not said again with other figures.
            self.mark = mark
                .get(taken..)
                .and_then(|rest| rest.try_into().ok())
                .unwrap_or_default();
        }
        taken == mark.len() && self.lost == Lost::default()
            || taken == mark.len() && self.mark(wire, patience)
    }

    /// Hands over a line or a part of one, and says how many of its bytes were taken.
    fn line(&mut self, wire: &mut impl Wire, piece: &[u8], patience: Patience) -> usize {
        let Some(body) = piece.strip_suffix(b"\n") else {
            return self.push(wire, piece, patience);
        };
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        let taken = self.push(wire, body, patience);
        if taken == body.len() && self.push(wire, b"\r\n", patience) == 2 {
            return piece.len();
        }
        taken
    }

    /// Hands over bytes, waiting as long as the other side moves now and then, and says how many.
    fn push(&mut self, wire: &mut impl Wire, bytes: &[u8], patience: Patience) -> usize {
        let mut taken = 0;
        let mut waiting = patience.begin();
        while taken < bytes.len() {
            match wire.put(&bytes[taken..]) {
                0 if self.stuck || !wire.is_taken() => break,
                0 => self.stuck = !waiting.wait(wire),
                count => {
                    self.stuck = false;
                    taken += count;
                    self.last = bytes[taken - 1];
                    waiting = patience.begin();
                }
            }
        }
        taken
    }

    /// Counts what was not taken.
    fn lose(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        let ends = piece.ends_with(b"\n");
        self.lost.bytes += piece.len() as u64;
        self.lost.lines += u64::from(ends);
        self.torn = !ends;
    }
}

impl Default for Stream {
    fn default() -> Stream {
        Stream::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ring of some bytes, and a daemon that empties it at the times it is told to.
    struct Fake {
        size: usize,
        ring: Vec<u8>,
        seen: Vec<u8>,
        /// Nanoseconds, a millisecond for each pause.
        time: u64,
        clock: bool,
        /// The daemon sleeps in these times.
        asleep: std::ops::Range<u64>,
        /// Whether the other side says that it is there.
        is_there: bool,
    }

    impl Fake {
        fn new(size: usize, asleep: std::ops::Range<u64>) -> Fake {
            Fake {
                size,
                ring: Vec::new(),
                seen: Vec::new(),
                time: 0,
                clock: true,
                asleep,
                is_there: true,
            }
        }

        fn daemon(&mut self) {
            if !self.asleep.contains(&self.time) {
                self.seen.append(&mut self.ring);
            }
        }

        /// Everything that has come, or will.
        fn text(&mut self) -> String {
            self.seen.append(&mut self.ring);
            String::from_utf8(self.seen.clone()).unwrap()
        }
    }

    impl Wire for Fake {
        fn put(&mut self, bytes: &[u8]) -> usize {
            let count = bytes.len().min(self.size - self.ring.len());
            self.ring.extend(&bytes[..count]);
            count
        }

        fn pause(&mut self) {
            self.time += 1_000_000;
            self.daemon();
        }

        fn now(&self) -> Option<u64> {
            self.clock.then_some(self.time)
        }

        fn is_taken(&self) -> bool {
            self.is_there
        }
    }

    type String = std::string::String;

    const SECOND: u64 = 1_000_000_000;

    fn write(stream: &mut Stream, wire: &mut Fake, text: &str) {
        stream.write(wire, text.as_bytes(), Patience::USUAL);
    }

    #[test]
    fn lines_end_as_a_raw_terminal_needs_it() {
        let (mut stream, mut wire) = (Stream::new(), Fake::new(7, 0..0));
        write(&mut stream, &mut wire, "one\ntwo\r\n\nthr");
        write(&mut stream, &mut wire, "ee\n> ");
        assert_eq!(wire.text(), "one\r\ntwo\r\n\r\nthree\r\n> ");
    }

    #[test]
    fn a_slow_daemon_gets_everything() {
        // Nine seconds of sleep are within patience.
        let (mut stream, mut wire) = (Stream::new(), Fake::new(16, 0..9 * SECOND));
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        write(&mut stream, &mut wire, &text);
        assert_eq!(wire.text(), text.replace('\n', "\r\n"));
    }

    #[test]
    fn a_stall_leaves_a_mark_that_says_how_much_is_missing() {
        let (mut stream, mut wire) = (Stream::new(), Fake::new(256, 0..11 * SECOND));
        let line = |n| format!("this is line number {n:3}\n");
        for n in 0..100 {
            write(&mut stream, &mut wire, &line(n));
        }
        assert!(stream.stuck);
        assert!(wire.time < 12 * SECOND, "waited once, not for each line");
        wire.time = 20 * SECOND;
        wire.daemon();
        write(&mut stream, &mut wire, "and on\n");
        write(&mut stream, &mut wire, "verdict: pass\n");
        assert!(!stream.stuck);
        let text = wire.text();
        // Ten lines of 25 bytes fit with their line ends, and six bytes of one more.
        let whole: String = (0..10).map(|n| line(n).replace('\n', "\r\n")).collect();
        let cut = &line(10)[..256 - whole.len()];
        let missing = 90 * 24 - cut.len();
        let expected = format!(
            "{whole}{cut}\r\n[console: {missing} bytes with 90 line ends are missing here: \
             nobody took them]\r\nand on\r\nverdict: pass\r\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn the_verdict_waits_for_a_stalled_daemon() {
        let (mut stream, mut wire) = (Stream::new(), Fake::new(64, 0..40 * SECOND));
        for n in 0..100 {
            write(&mut stream, &mut wire, &format!("line {n}\n"));
        }
        stream.insist();
        stream.write(&mut wire, b"verdict: pass\n", Patience::LAST);
        let text = wire.text();
        assert!(text.contains("\r\n[console: "), "{text}");
        assert!(
            text.ends_with("nobody took them]\r\nverdict: pass\r\n"),
            "{text}"
        );
    }

    #[test]
    fn nobody_is_waited_for_who_says_that_he_is_not_there() {
        let (mut stream, mut wire) = (Stream::new(), Fake::new(64, 0..SECOND));
        wire.is_there = false;
        for n in 0..100 {
            write(&mut stream, &mut wire, &format!("line {n}\n"));
        }
        stream.drain(&mut wire, Patience::USUAL, || Some(64));
        stream.insist();
        stream.write(&mut wire, b"verdict: pass\n", Patience::LAST);
        assert_eq!(wire.time, 0);
        // He comes: what is missing is said, and what follows is waited for.
        wire.is_there = true;
        write(&mut stream, &mut wire, "and on\n");
        assert!(wire.time >= SECOND);
        let text = wire.text();
        assert!(text.ends_with("nobody took them]\r\nand on\r\n"), "{text}");
    }

    #[test]
    fn a_dead_daemon_does_not_hold_the_kernel() {
        for clock in [true, false] {
            let (mut stream, mut wire) = (Stream::new(), Fake::new(64, 0..u64::MAX));
            wire.clock = clock;
            for n in 0..1000 {
                write(&mut stream, &mut wire, &format!("line {n}\n"));
            }
            stream.insist();
            stream.write(&mut wire, b"verdict: pass\n", Patience::LAST);
            assert!(!stream.mark(&mut wire, Patience::USUAL));
            assert!(wire.time < 400 * SECOND, "{} s", wire.time / SECOND);
        }
    }

    proptest! {
        /// Whatever the sizes, the stalls and the pieces: what comes is what was printed, but for
        /// marks, and the marks say what is missing.
        #[test]
        fn what_is_missing_is_said(
            size in 1_usize..200,
            pieces in prop::collection::vec(("[a-c]{0,9}\n?", prop::bool::ANY), 1..80),
        ) {
            let (mut stream, mut wire) = (Stream::new(), Fake::new(size, 0..0));
            let mut printed = 0;
            for (piece, asleep) in &pieces {
                wire.asleep = if *asleep { 0..u64::MAX } else { 0..0 };
                wire.daemon();
                write(&mut stream, &mut wire, piece);
                printed += piece.len() as u64;
            }
            wire.asleep = 0..0;
            stream.insist();
            prop_assert!(stream.mark(&mut wire, Patience::LAST));
            let text = wire.text();
            let (mut missing, mut kept) = (0, 0);
            let mut rest = text.as_str();
            while let Some(at) = rest.find("[console: ") {
                // A mark begins a line; one that was cut off is not the line's own.
                let before = rest[..at].strip_suffix("\r\n");
                let (before, mark) = (before.unwrap_or(&rest[..at]), &rest[at..]);
                prop_assert!(at == 0 || rest[..at].ends_with('\n'), "{text}");
                let (number, after) = mark["[console: ".len()..].split_once(' ').unwrap();
                missing += number.parse::<u64>().unwrap();
                kept += before.chars().filter(|c| c.is_ascii_lowercase()).count();
                rest = after.split_once("\r\n").unwrap().1;
            }
            kept += rest.chars().filter(|c| c.is_ascii_lowercase()).count();
            let letters: usize = pieces
                .iter()
                .map(|(piece, _)| piece.chars().filter(|c| *c != '\n').count())
                .sum();
            prop_assert!(kept <= letters);
            prop_assert!(missing <= printed);
            prop_assert!(letters as u64 <= kept as u64 + missing, "{text}");
        }
    }
}
