//! What a thread is doing, and whether it was woken: one word, so that no wake-up is lost.
//!
//! A wake-up leaves a token. A thread that has one does not park, it takes it; so a wake-up that comes
//! before the park is as good as one that comes after. Whoever's token meets a thread that has parked,
//! and only that one, has to queue it. A thread that is about to park still runs on its stack until its
//! vCPU has left it: until then nobody else may queue it, and the vCPU does so itself if a token came
//! meanwhile ([`State::left`]).
//!
//! All orders in which vCPUs can come to the word are tried in `guest/tests/interleavings`.

use super::words::{AtomicUsize, Ordering};

/// A vCPU runs it.
const RUNNING: usize = 0;
/// It waits in a queue for a vCPU, or is about to be put there.
const QUEUED: usize = 1;
/// It gives way to others: its vCPU leaves it, and then queues it.
const YIELDING: usize = 2;
/// It parks: its vCPU leaves it.
const PARKING: usize = 3;
/// It waits to be woken.
const PARKED: usize = 4;
/// It has ended: its vCPU leaves it for good.
const ENDED: usize = 5;
/// Set besides one of these while a wake-up was not taken yet.
const TOKEN: usize = 8;

/// The word.
pub(super) struct State(AtomicUsize);

/// What is to be done with a thread that its vCPU has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing: it will be woken.
    Parked,
    /// It is to be queued.
    Queue,
    /// It is to be reaped.
    Ended,
}

impl State {
    /// That of a thread which is about to be queued for the first time.
    pub(super) fn queued() -> State {
        State(AtomicUsize::new(QUEUED))
    }

    /// That of a thread which runs already.
    pub(super) fn running() -> State {
        State(AtomicUsize::new(RUNNING))
    }

    /// Leaves a token. Whether it is the caller who has to queue the thread.
    pub(super) fn wake(&self) -> bool {
        let parked = self.0.fetch_or(TOKEN, Ordering::AcqRel) == PARKED;
        if parked {
            // Nobody else changes it: whoever comes from here on finds a token.
            self.0.store(QUEUED | TOKEN, Ordering::Release);
        }
        parked
    }

    /// The thread is about to park; false if it has a token, which it takes instead.
    pub(super) fn park(&self) -> bool {
        let parks = self
            .0
            .compare_exchange(RUNNING, PARKING, Ordering::AcqRel, Ordering::Acquire);
        if parks.is_err() {
            self.take_token();
        }
        parks.is_ok()
    }

    /// The thread, which runs, takes its token if it has one.
    pub(super) fn take_token(&self) -> bool {
        self.0.fetch_and(!TOKEN, Ordering::AcqRel) & TOKEN != 0
    }

    /// The thread, which runs, is about to give way.
    pub(super) fn give_way(&self) {
        self.change(RUNNING, YIELDING);
    }

    /// The thread, which runs, is about to end.
    pub(super) fn end(&self) {
        self.change(RUNNING, ENDED);
    }

    /// A vCPU takes it from a queue to run it.
    pub(super) fn picked(&self) {
        self.change(QUEUED, RUNNING);
    }

    /// Its vCPU runs on another stack now. Whoever queues a thread does so after this.
    pub(super) fn left(&self) -> Left {
        match self.0.load(Ordering::Acquire) & !TOKEN {
            PARKING => {
                let parked =
                    self.0
                        .compare_exchange(PARKING, PARKED, Ordering::AcqRel, Ordering::Acquire);
                match parked {
                    Ok(_) => Left::Parked,
                    // A token came, and stays for the thread to take.
                    Err(_) => {
                        self.0.store(QUEUED | TOKEN, Ordering::Release);
                        Left::Queue
                    }
                }
            }
            YIELDING => {
                self.change(YIELDING, QUEUED);
                Left::Queue
            }
            _ => Left::Ended,
        }
    }

    /// Changes what it is doing and leaves a token as it is. Nobody else changes what a thread does in
    /// these states.
    fn change(&self, from: usize, to: usize) {
        // A token may come meanwhile, which changes another bit of the word.
        if from > to {
            self.0.fetch_sub(from - to, Ordering::AcqRel);
        } else {
            self.0.fetch_add(to - from, Ordering::AcqRel);
        }
    }

    /// In a word, for people.
    pub(super) fn describe(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) & !TOKEN {
            RUNNING => "running",
            QUEUED | YIELDING => "runnable",
            PARKING | PARKED => "parked",
            _ => "ended",
        }
    }
}
