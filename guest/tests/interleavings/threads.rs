//! Threads of the kernel: no wake-up is lost, none is queued twice, what is left for a vCPU is done.
//!
//! A vCPU that sleeps in Xen is one that has stopped here; that somebody raised its port is a word. What
//! is not to be is a vCPU that sleeps with its port not raised, and something to do.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use crate::fifo::{Link, Linked};
use crate::mailbox::{Mailbox, NotLeft};
use crate::run_queue::RunQueue;
use crate::state::{Left, State};
use crate::{PREEMPTIONS, try_all};

/// What a thread waits for, and its state.
struct Waits {
    state: State,
    has_come: AtomicBool,
    /// How often it was queued.
    queued: AtomicUsize,
}

impl Waits {
    fn new() -> Arc<Waits> {
        let state = State::running();
        // Its word is made here, before there is anybody else.
        state.describe();
        Arc::new(Waits {
            state,
            has_come: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
        })
    }

    /// What a vCPU does that runs the thread: until what it waits for has come, or it has parked.
    fn run(&self) -> bool {
        loop {
            if self.has_come.load(Ordering::Acquire) {
                return true;
            }
            if self.state.park() {
                match self.state.left() {
                    Left::Parked => return false,
                    Left::Queue => self.state.picked(),
                    Left::Ended => unreachable!("a thread has ended that did not"),
                }
            }
        }
    }

    /// What another does that wakes it.
    fn wake(&self) {
        self.has_come.store(true, Ordering::Release);
        if self.state.wake() {
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is over, or was queued once and is over when it runs.
    fn check(&self, over: bool) {
        let queued = self.queued.load(Ordering::Relaxed);
        assert_eq!(queued, usize::from(!over), "who parks is queued, once");
        if !over {
            self.state.picked();
            assert!(self.run(), "it goes on");
        }
    }
}

/// A wake-up before the park, in its midst, or behind it is the same.
#[test]
fn no_wake_up_is_lost() {
    try_all("a thread that parks, and who wakes it", None, || {
        let waits = Waits::new();
        let theirs = Arc::clone(&waits);
        let other = thread::spawn(move || theirs.wake());
        let over = waits.run();
        other.join().unwrap();
        waits.check(over);
    });
}

/// Two wake it: one of them queues it, if either does.
#[test]
fn it_is_queued_once() {
    try_all(
        "a thread that parks, and two that wake it",
        Some(PREEMPTIONS),
        || {
            let waits = Waits::new();
            let others = [(); 2].map(|()| {
                let theirs = Arc::clone(&waits);
                thread::spawn(move || theirs.wake())
            });
            let over = waits.run();
            others.into_iter().for_each(|other| other.join().unwrap());
            waits.check(over);
        },
    );
}

/// A thread that gives way is queued by its vCPU alone, and keeps what woke it meanwhile.
#[test]
fn giving_way_keeps_the_token() {
    try_all("a thread that gives way, and who wakes it", None, || {
        let waits = Waits::new();
        let theirs = Arc::clone(&waits);
        let other = thread::spawn(move || theirs.wake());
        waits.state.give_way();
        assert_eq!(waits.state.left(), Left::Queue);
        waits.state.picked();
        let over = waits.run();
        other.join().unwrap();
        waits.check(over);
    });
}

/// Something that waits in a queue.
struct Item {
    link: Link<Item>,
    number: usize,
}

impl Linked for Item {
    fn link(&self) -> &Link<Item> {
        &self.link
    }
}

fn item(number: usize) -> std::sync::Arc<Item> {
    std::sync::Arc::new(Item {
        link: Link::new(),
        number,
    })
}

/// Raises a port: as Xen does, by one that reads and writes.
fn raise(port: &AtomicBool) {
    port.swap(true, Ordering::AcqRel);
}

/// A vCPU with its queue and its port.
struct Vcpu {
    queue: RunQueue<Item>,
    raised: AtomicBool,
    ran: AtomicUsize,
}

impl Vcpu {
    fn new() -> Arc<Vcpu> {
        let queue = RunQueue::new();
        // Its words are made here.
        queue.set_open(true);
        assert!(queue.take(|_| true).is_none());
        queue.claim();
        Arc::new(Vcpu {
            queue,
            raised: AtomicBool::new(false),
            ran: AtomicUsize::new(0),
        })
    }

    /// Queues something there from another vCPU.
    fn queue(&self, number: usize) -> bool {
        // SAFETY: it is new.
        match unsafe { self.queue.push(item(number), false) } {
            Ok(true) => raise(&self.raised),
            Ok(false) => {}
            Err(_) => return false,
        }
        true
    }

    fn look(&self) -> bool {
        let taken = self.queue.take(|_| true);
        let some = taken.is_some();
        let worth = taken.map_or(0, |item| 1 << (4 * item.number));
        self.ran.fetch_add(worth, Ordering::Relaxed);
        some
    }

    /// What it does until it sleeps with its port not raised.
    fn run(&self) {
        loop {
            self.queue.set_idles();
            if !self.look() && !self.raised.swap(false, Ordering::AcqRel) {
                return;
            }
            self.queue.claim();
        }
    }

    /// What it does if its port is raised after all.
    fn woken(&self) {
        if self.raised.swap(false, Ordering::AcqRel) {
            self.run();
        }
    }
}

/// Two are queued on a vCPU that goes to sleep: it runs both, once.
#[test]
fn who_sleeps_has_nothing_to_run() {
    try_all(
        "a vCPU that idles, and two that queue there",
        Some(PREEMPTIONS),
        || {
            let vcpu = Vcpu::new();
            let others = [0, 1].map(|number| {
                let theirs = Arc::clone(&vcpu);
                thread::spawn(move || assert!(theirs.queue(number)))
            });
            vcpu.run();
            others.into_iter().for_each(|other| other.join().unwrap());
            vcpu.woken();
            assert_eq!(vcpu.ran.load(Ordering::Relaxed), 0x11, "each ran once");
        },
    );
}

/// A vCPU that idles is found by one of two.
#[test]
fn one_of_two_finds_who_idles() {
    try_all("two that look for a vCPU that idles", None, || {
        let vcpu = Vcpu::new();
        assert!(vcpu.queue.set_idles());
        let theirs = Arc::clone(&vcpu);
        let other = thread::spawn(move || theirs.queue.claim());
        let mine = vcpu.queue.claim();
        assert!(mine ^ other.join().unwrap(), "one of them");
    });
}

/// A vCPU closes while another queues something there: it is refused, or handed over.
#[test]
fn nothing_stays_where_it_is_closed() {
    try_all(
        "a vCPU that closes, and one that queues there",
        None,
        || {
            let vcpu = Vcpu::new();
            let theirs = Arc::clone(&vcpu);
            let other = thread::spawn(move || theirs.queue(0));
            vcpu.queue.set_open(false);
            let mut handed = 0;
            while vcpu.queue.take(|_| true).is_some() {
                handed += 1;
            }
            let queued = other.join().unwrap();
            assert_eq!(
                handed,
                usize::from(queued),
                "what was queued is handed over"
            );
        },
    );
}

/// Two vCPUs take from one queue, one of them but what it may: each has one, or one of them both.
#[test]
fn what_is_taken_is_taken_once() {
    try_all("two that take from a queue", Some(PREEMPTIONS), || {
        let vcpu = Vcpu::new();
        assert!(vcpu.queue(0) && vcpu.queue(1));
        let theirs = Arc::clone(&vcpu);
        let other = thread::spawn(move || {
            let taken = theirs.queue.take(|item| item.number == 1);
            taken.map_or(0, |item| 1 << (4 * item.number))
        });
        while vcpu.look() {}
        let stolen = other.join().unwrap();
        assert_eq!(vcpu.ran.load(Ordering::Relaxed) + stolen, 0x11, "each once");
    });
}

/// A mailbox with its port.
struct Post {
    letters: Mailbox<usize>,
    raised: AtomicBool,
    done: AtomicUsize,
}

impl Post {
    fn new() -> Arc<Post> {
        let letters = Mailbox::new();
        // Its words are made here, before there is anybody else.
        letters.set_open(true);
        assert_eq!(letters.len(), 0);
        Arc::new(Post {
            letters,
            raised: AtomicBool::new(false),
            done: AtomicUsize::new(0),
        })
    }

    fn leave(&self, letter: usize) -> bool {
        match self.letters.leave(letter) {
            Ok(true) => raise(&self.raised),
            Ok(false) => {}
            Err(e) => {
                assert_eq!(e, NotLeft::Closed);
                return false;
            }
        }
        true
    }

    /// A look, as a handler's.
    fn serve(&self) {
        for _ in 0..self.letters.len() {
            if let Some(letter) = self.letters.take() {
                self.done.fetch_add(letter, Ordering::Relaxed);
            }
        }
        if self.letters.len() != 0 {
            raise(&self.raised);
        }
    }

    fn handle(&self) {
        while self.raised.swap(false, Ordering::AcqRel) {
            self.serve();
        }
    }
}

/// Two leave letters while the vCPU looks: each is done once, and none stays unseen.
#[test]
fn every_letter_is_read() {
    try_all(
        "two that leave letters, and one that reads them",
        Some(PREEMPTIONS - 1),
        || {
            let post = Post::new();
            let others = [1, 16].map(|letter| {
                let theirs = Arc::clone(&post);
                thread::spawn(move || assert!(theirs.leave(letter)))
            });
            // One that waits for a call of its own looks, raised or not.
            post.serve();
            post.handle();
            others.into_iter().for_each(|other| other.join().unwrap());
            post.handle();
            assert_eq!(post.done.load(Ordering::Relaxed), 17, "each was done once");
        },
    );
}

/// A vCPU closes its mailbox while somebody leaves a letter: it is refused, or read.
#[test]
fn no_letter_stays_where_it_is_closed() {
    try_all(
        "a mailbox that closes, and one that leaves a letter",
        Some(PREEMPTIONS),
        || {
            let post = Post::new();
            let theirs = Arc::clone(&post);
            let other = thread::spawn(move || theirs.leave(1));
            post.letters.set_open(false);
            post.serve();
            let left = other.join().unwrap();
            let done = post.done.load(Ordering::Relaxed);
            assert_eq!(done, usize::from(left), "what was left is read");
        },
    );
}
