//! Watches that fired, and a queue that keeps them until somebody has time.
//!
//! How many events come is not for this domain to say: whoever may write to a node that is watched
//! makes them. So a [`Queue`] lives in memory that its owner gives it, an event that waits already is
//! not kept twice, and what does not fit is counted and said, in its turn: who reads that looks at
//! everything that it watches.
//!
//! ```
//! use xenstore_wire::event::Event;
//!
//! let event = Event::parse(b"control/shutdown\0mine\0")?;
//! assert_eq!((event.path, event.token), (&b"control/shutdown"[..], &b"mine"[..]));
//! assert!(Event::parse(b"control/shutdown").is_err());
//! # Ok::<(), xenstore_wire::reply::Malformed>(())
//! ```

use core::fmt;

use crate::client::Fault;
use crate::reply::{Malformed, split};

/// A node changed, or might have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The node: the one that is watched or one below it. Relative, if the watch is.
    pub path: &'a [u8],
    /// What the watch was set with.
    pub token: &'a [u8],
}

impl<'a> Event<'a> {
    /// Understands what is behind the header of an event.
    ///
    /// # Errors
    /// It is not a path and a token.
    pub fn parse(payload: &'a [u8]) -> Result<Event<'a>, Malformed> {
        let wrong = |what| Malformed { kind: None, what };
        let (path, rest) = split(payload).ok_or(wrong("a path that does not end"))?;
        let (token, rest) = split(rest).ok_or(wrong("no token, or one that does not end"))?;
        match (path, rest) {
            ([], _) => Err(wrong("an empty path")),
            (_, []) => Ok(Event { path, token }),
            _ => Err(wrong("something behind the token")),
        }
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, token) = (self.path.escape_ascii(), self.token.escape_ascii());
        write!(f, "Event({path}, {token})")
    }
}

/// Who is told of what xenstored says without being asked.
pub trait Listener {
    /// A watch fired.
    fn event(&mut self, event: Event<'_>);

    /// It said something that it should not have.
    fn fault(&mut self, fault: Fault);
}

impl<L: Listener + ?Sized> Listener for &mut L {
    fn event(&mut self, event: Event<'_>) {
        (**self).event(event);
    }

    fn fault(&mut self, fault: Fault) {
        (**self).fault(fault);
    }
}

/// What a queue gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popped<'a> {
    /// An event.
    Event(Event<'a>),
    /// So many did not fit: anything that is watched may have changed.
    Lost(u64),
}

/// Bytes before each event: the lengths of its path and of its token.
const LENGTHS: usize = 4;

/// Events that wait, the oldest first, each once.
#[derive(Debug)]
pub struct Queue<'b> {
    memory: &'b mut [u8],
    /// Where the oldest begins.
    start: usize,
    /// Where the youngest ends.
    end: usize,
    lost: u64,
    faults: u64,
    fault: Option<Fault>,
}

impl<'b> Queue<'b> {
    /// An empty queue in this memory. An event takes four bytes, its path and its token: the largest
    /// that there can be, 4098 bytes.
    #[must_use]
    pub fn new(memory: &'b mut [u8]) -> Queue<'b> {
        Queue {
            memory,
            start: 0,
            end: 0,
            lost: 0,
            faults: 0,
            fault: None,
        }
    }

    /// Takes the oldest event out; after the last, what did not fit, if anything.
    pub fn pop(&mut self) -> Option<Popped<'_>> {
        let Some((event, length)) = at(&self.memory[self.start..self.end]) else {
            let lost = core::mem::take(&mut self.lost);
            return (lost > 0).then_some(Popped::Lost(lost));
        };
        self.start += length;
        Some(Popped::Event(event))
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end && self.lost == 0
    }

    /// How many faults there were since the last call, and the first of them.
    pub fn take_faults(&mut self) -> Option<(Fault, u64)> {
        let count = core::mem::take(&mut self.faults);
        self.fault.take().map(|fault| (fault, count))
    }

    /// Whether this very event waits.
    fn has(&self, event: Event<'_>) -> bool {
        let mut rest = &self.memory[self.start..self.end];
        while let Some((waiting, length)) = at(rest) {
            if waiting == event {
                return true;
            }
            rest = &rest[length..];
        }
        false
    }
}

/// The event at the beginning of the memory, and how many bytes it takes.
fn at(memory: &[u8]) -> Option<(Event<'_>, usize)> {
    let (lengths, rest) = memory.split_first_chunk::<LENGTHS>()?;
    let [a, b, c, d] = *lengths;
    let (path, rest) = rest.split_at_checked(u16::from_le_bytes([a, b]).into())?;
    let token = rest.get(..u16::from_le_bytes([c, d]).into())?;
    let length = LENGTHS + path.len() + token.len();
    Some((Event { path, token }, length))
}

impl Listener for Queue<'_> {
    fn event(&mut self, event: Event<'_>) {
        // What was lost comes behind what waits: an event that waits was before that.
        if self.has(event) {
            return;
        }
        let lengths = (
            u16::try_from(event.path.len()),
            u16::try_from(event.token.len()),
        );
        let need = LENGTHS + event.path.len() + event.token.len();
        let used = self.end - self.start;
        let (true, (Ok(path), Ok(token))) = (need <= self.memory.len() - used, lengths) else {
            self.lost = self.lost.saturating_add(1);
            return;
        };
        if need > self.memory.len() - self.end {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, used);
        }
        let pieces = [
            &path.to_le_bytes()[..],
            &token.to_le_bytes(),
            event.path,
            event.token,
        ];
        for piece in pieces {
            self.memory[self.end..][..piece.len()].copy_from_slice(piece);
            self.end += piece.len();
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.faults = self.faults.saturating_add(1);
        self.fault.get_or_insert(fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event<'a>(path: &'a [u8], token: &'a [u8]) -> Event<'a> {
        Event { path, token }
    }

    #[test]
    fn events_are_a_path_and_a_token() {
        assert_eq!(Event::parse(b"a/b\0t\0"), Ok(event(b"a/b", b"t")));
        assert_eq!(Event::parse(b"a\0\0"), Ok(event(b"a", b"")));
        for payload in [
            &b""[..],
            b"a",
            b"a\0",
            b"a\0t",
            b"\0t\0",
            b"a\0t\0x",
            b"a\0t\0\0",
        ] {
            assert!(Event::parse(payload).is_err(), "{payload:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_after_what_does() {
        let mut memory = [0; 16];
        let mut queue = Queue::new(&mut memory);
        queue.event(event(b"abc", b"1"));
        queue.event(event(b"too long", b"2"));
        queue.event(event(b"abc", b"1"));
        queue.event(event(b"def", b"3"));
        queue.event(event(b"g", b"4"));
        assert!(!queue.is_empty());
        assert_eq!(queue.pop(), Some(Popped::Event(event(b"abc", b"1"))));
        assert_eq!(queue.pop(), Some(Popped::Event(event(b"def", b"3"))));
        assert!(!queue.is_empty(), "what was lost waits to be said");
        assert_eq!(queue.pop(), Some(Popped::Lost(2)));
        assert_eq!(queue.pop(), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn faults_are_counted_and_the_first_is_kept() {
        let mut queue = Queue::new(&mut []);
        assert_eq!(queue.take_faults(), None);
        for id in [3, 4] {
            queue.fault(Fault::Stray { kind: 2, id });
        }
        assert_eq!(
            queue.take_faults(),
            Some((Fault::Stray { kind: 2, id: 3 }, 2))
        );
        assert_eq!(queue.take_faults(), None);
    }

    proptest! {
        /// Against a list: what comes out is what went in, in order, each once, until room is over.
        #[test]
        fn a_queue_is_a_list(
            size in 0_usize..64,
            steps in proptest::collection::vec(
                proptest::option::of((1_usize..6, 0_usize..4, 0_u8..3)), 0..64)
        ) {
            let mut memory = vec![0; size];
            let mut queue = Queue::new(&mut memory);
            let mut list = std::collections::VecDeque::<(Vec<u8>, Vec<u8>)>::new();
            let mut lost = 0_u64;
            for step in steps {
                if let Some((path, token, letter)) = step {
                    let new = (vec![b'a' + letter; path], vec![b't'; token]);
                    queue.event(event(&new.0, &new.1));
                    let used: usize = list.iter().map(|(p, t)| 4 + p.len() + t.len()).sum();
                    if list.contains(&new) {
                    } else if used + 4 + path + token <= size {
                        list.push_back(new);
                    } else {
                        lost += 1;
                    }
                    continue;
                }
                let popped = match queue.pop() {
                    None => None,
                    Some(Popped::Event(e)) => Some(Ok((e.path.to_vec(), e.token.to_vec()))),
                    Some(Popped::Lost(count)) => Some(Err(count)),
                };
                let expected = match list.pop_front() {
                    None if lost > 0 => Some(Err(core::mem::take(&mut lost))),
                    None => None,
                    Some(front) => Some(Ok(front)),
                };
                prop_assert_eq!(popped, expected);
            }
        }
    }
}
