//! The FIFO ABI's queues against Xen's side of them (`xen/common/event_fifo.c`), one access to memory
//! at a time: several processors of Xen's raise ports, move them and unmask them between any two accesses
//! of the guest's, in an order that follows from a seed. No event is lost; whatever a Xen writes that means
//! harm, the guest's side ends.

use std::cell::{Cell, RefCell};

use hypercall::abi::event::EVTCHN_FIFO_BUSY;
use hypercall::event::Port;
use hypercall::fifo::{LINK, LINKED, MASKED, PENDING, QUEUES, Reader, Shared, Taken};

const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
const PORTS: u32 = 12;
const VCPUS: usize = 2;
/// Requests that Xen works on at once.
const PROCESSORS: usize = 3;

/// A random sequence (xorshift).
struct Random(Cell<u64>);

impl Random {
    fn below(&self, end: u32) -> u32 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        ((x >> 33) % u64::from(end)) as u32
    }
}

/// A queue: a vCPU and a priority.
type Place = (usize, usize);

#[derive(Clone, Copy, Default)]
struct Queue {
    tail: u32,
    locked: bool,
}

/// A request that a processor of Xen's works on, and how far it is.
#[derive(Clone, Copy, Debug)]
struct Request {
    port: u32,
    step: u32,
    place: Place,
    old: Place,
    seen: u32,
    busy: bool,
    tries: u32,
    linked: bool,
}

const UNMASK: u32 = 0;
const RAISE: u32 = 1;
const DONE: u32 = 10;

/// Xen with its domain.
struct Xen {
    random: Random,
    words: Vec<Cell<u32>>,
    ready: [Cell<u32>; VCPUS],
    heads: [[Cell<u32>; QUEUES]; VCPUS],
    announced: [Cell<bool>; VCPUS],
    queues: RefCell<[[Queue; QUEUES]; VCPUS]>,
    /// Where each port is to be raised, and in which queue it was last.
    places: RefCell<Vec<(Place, Place)>>,
    requests: RefCell<Vec<Request>>,
    /// Requests that are still to be begun.
    left: Cell<u32>,
    moves: Cell<bool>,
}

impl Xen {
    fn new(seed: u64, requests: u32, moves: bool) -> Xen {
        Xen {
            random: Random(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
            words: (0..PORTS).map(|_| Cell::new(0)).collect(),
            ready: Default::default(),
            heads: Default::default(),
            announced: Default::default(),
            queues: RefCell::default(),
            places: RefCell::new((0..PORTS).map(|_| ((0, 7), (0, 7))).collect()),
            requests: RefCell::default(),
            left: Cell::new(requests),
            moves: Cell::new(moves),
        }
    }

    fn word(&self, port: u32) -> &Cell<u32> {
        &self.words[port as usize]
    }

    fn request(&self, port: u32, step: u32) -> Request {
        Request {
            port,
            step,
            place: (0, 0),
            old: (0, 0),
            seen: 0,
            busy: false,
            tries: 0,
            linked: true,
        }
    }

    /// Some accesses of Xen's.
    fn run(&self) {
        for _ in 0..self.random.below(8) {
            let mut requests = self.requests.borrow_mut();
            if requests.len() < PROCESSORS && self.left.get() > 0 {
                self.left.set(self.left.get() - 1);
                let port = 1 + self.random.below(PORTS - 1);
                if self.moves.get() && self.random.below(4) == 0 {
                    let to = (self.random.below(VCPUS as u32), self.random.below(3));
                    self.places.borrow_mut()[port as usize].0 = (to.0 as usize, to.1 as usize);
                }
                requests.push(self.request(port, RAISE));
            }
            if requests.is_empty() {
                return;
            }
            let which = self.random.below(requests.len() as u32) as usize;
            self.step(&mut requests[which]);
            requests.retain(|request| request.step != DONE);
        }
    }

    /// One access of a request's.
    fn step(&self, request: &mut Request) {
        let word = self.word(request.port);
        let mut queues = self.queues.borrow_mut();
        let Request { place, old, .. } = *request;
        match request.step {
            UNMASK => {
                word.set(word.get() & !MASKED);
                request.step = if word.get() & PENDING != 0 {
                    RAISE
                } else {
                    DONE
                };
            }
            RAISE => {
                let (place, old) = self.places.borrow()[request.port as usize];
                if queues[place.0][place.1].locked || queues[old.0][old.1].locked {
                    return;
                }
                queues[place.0][place.1].locked = true;
                queues[old.0][old.1].locked = true;
                (request.place, request.old, request.step) = (place, old, 2);
            }
            2 => {
                word.set(word.get() | PENDING);
                request.step = 3;
            }
            3 => request.step = if word.get() & MASKED != 0 { 8 } else { 4 },
            4 => {
                request.step = if word.get() & LINKED != 0 { 8 } else { 5 };
                word.set(word.get() | LINKED);
            }
            5 => {
                if queues[old.0][old.1].tail == request.port {
                    queues[old.0][old.1].tail = 0;
                }
                if old != place {
                    self.places.borrow_mut()[request.port as usize].1 = place;
                    queues[old.0][old.1].locked = false;
                    request.old = place;
                }
                request.linked = false;
                let tail = queues[place.0][place.1].tail;
                request.step = if tail == 0 { 7 } else { 6 };
                request.seen = self.word(tail).get();
            }
            6 => {
                let tail = self.word(queues[place.0][place.1].tail);
                if request.seen & LINKED == 0 {
                    if request.busy {
                        tail.set(tail.get() & !BUSY);
                    }
                    request.step = 7;
                } else if tail.get() == request.seen {
                    tail.set(request.seen & !(BUSY | LINK) | request.port);
                    queues[place.0][place.1].tail = request.port;
                    (request.linked, request.step) = (true, 8);
                } else {
                    request.tries += 1;
                    assert!(
                        request.tries <= 4,
                        "the guest changes a word without an end"
                    );
                    request.busy = true;
                    tail.set(tail.get() | BUSY);
                    request.seen = tail.get();
                }
            }
            7 => {
                self.heads[place.0][place.1].set(request.port);
                queues[place.0][place.1].tail = request.port;
                request.step = 8;
            }
            8 => {
                queues[place.0][place.1].locked = false;
                queues[old.0][old.1].locked = false;
                request.step = 9;
            }
            _ => {
                let ready = &self.ready[place.0];
                if !request.linked && ready.get() >> place.1 & 1 == 0 {
                    ready.set(ready.get() | 1 << place.1);
                    self.announced[place.0].set(true);
                }
                request.step = DONE;
            }
        }
    }

    /// `EVTCHNOP_unmask`, beside what other processors do.
    fn unmask(&self, port: u32) {
        let mut request = self.request(port, UNMASK);
        while request.step != DONE {
            self.run();
            self.step(&mut request);
        }
    }
}

/// A vCPU's view of it.
struct View<'a>(&'a Xen, usize);

impl Shared for View<'_> {
    fn take_ready(&self) -> u32 {
        self.0.run();
        self.0.ready[self.1].take()
    }

    fn head(&self, queue: usize) -> u32 {
        self.0.run();
        self.0.heads[self.1][queue].get()
    }

    fn clear(&self, port: Port, bits: u32) -> Option<u32> {
        self.0.run();
        let word = self.0.words.get(port.0 as usize)?;
        Some(word.replace(word.get() & !bits))
    }
}

/// Takes an upcall as a kernel does, and says which ports were served.
fn upcall(xen: &Xen, vcpu: usize, reader: &mut Reader, served: &mut [u32]) {
    let view = View(xen, vcpu);
    while let Some(taken) = reader.next(&view) {
        let Taken::Port(Port(port), word) = taken else {
            panic!("{taken:?}");
        };
        if word & PENDING == 0 || word & MASKED != 0 {
            continue;
        }
        let at_home = xen.places.borrow()[port as usize].0.0 == vcpu;
        if !at_home || xen.random.below(8) == 0 {
            // Passed on, or held back for a while.
            xen.word(port).set(xen.word(port).get() | MASKED);
            xen.run();
            xen.unmask(port);
            continue;
        }
        view.clear(Port(port), PENDING);
        served[port as usize] += 1;
    }
}

/// Runs a sequence to its end.
fn play(seed: u64, moves: bool) {
    let xen = Xen::new(seed, 60, moves);
    let mut readers = [Reader::new(), Reader::new()];
    let mut served = [0; PORTS as usize];
    loop {
        xen.run();
        let vcpu = xen.random.below(VCPUS as u32) as usize;
        if xen.announced[vcpu].take() {
            upcall(&xen, vcpu, &mut readers[vcpu], &mut served);
        }
        let announced = xen.announced.iter().any(Cell::get);
        if xen.left.get() == 0 && xen.requests.borrow().is_empty() && !announced {
            break;
        }
    }
    for (port, word) in xen.words.iter().enumerate() {
        let word = word.get();
        assert_eq!(word, 0, "seed {seed}: port {port} is left with {word:#x}");
    }
    assert!(served.iter().sum::<u32>() > 0, "seed {seed}");
}

#[test]
fn no_event_is_lost_in_any_order() {
    for seed in 0..20_000 {
        play(seed, false);
    }
}

#[test]
fn no_event_is_lost_when_its_port_comes_to_another_vcpu_or_priority() {
    for seed in 0..20_000 {
        play(seed, true);
    }
}

/// Raises a port at once.
fn raise(xen: &Xen, port: u32, place: Place) {
    xen.places.borrow_mut()[port as usize].0 = place;
    let mut request = xen.request(port, RAISE);
    while request.step != DONE {
        xen.step(&mut request);
    }
}

#[test]
fn ports_come_by_priority_and_then_in_their_order() {
    let xen = Xen::new(1, 0, false);
    for (port, priority) in [(5, 7), (3, 7), (8, 15), (2, 0), (9, 7)] {
        raise(&xen, port, (0, priority));
    }
    let (mut reader, mut order) = (Reader::new(), Vec::new());
    while let Some(Taken::Port(port, word)) = reader.next(&View(&xen, 0)) {
        assert_eq!(word & (PENDING | LINKED | MASKED), PENDING | LINKED);
        if order.is_empty() {
            // Of higher priority than those that it finds waiting.
            raise(&xen, 4, (0, 1));
        }
        order.push(port.0);
    }
    assert_eq!(order, [2, 4, 5, 3, 9, 8]);
}

#[test]
fn a_port_that_is_raised_twice_is_found_once() {
    let xen = Xen::new(1, 0, false);
    raise(&xen, 5, (0, 7));
    raise(&xen, 5, (0, 7));
    let mut reader = Reader::new();
    assert!(reader.next(&View(&xen, 0)).is_some());
    assert_eq!(reader.next(&View(&xen, 0)), None);
}

/// A Xen that writes anything at any time.
struct Hostile(Random, Cell<bool>);

impl Shared for Hostile {
    fn take_ready(&self) -> u32 {
        if self.1.get() {
            self.0.below(u32::MAX)
        } else {
            0
        }
    }

    fn head(&self, queue: usize) -> u32 {
        assert!(queue < QUEUES);
        self.0.below(1 << 18)
    }

    fn clear(&self, port: Port, bits: u32) -> Option<u32> {
        assert_eq!(bits, LINKED | LINK);
        assert!(port.0 != 0, "port 0 is nobody's");
        (port.0 < 1024).then(|| self.0.below(u32::MAX))
    }
}

#[test]
fn a_hostile_xen_gets_one_look_a_call_and_stops_with_its_last_word() {
    for seed in 1..2000 {
        let xen = Hostile(Random(Cell::new(seed)), Cell::new(true));
        let mut reader = Reader::new();
        for _ in 0..100 {
            let _ = reader.next(&xen);
        }
        // What it has said so far can be a chain of any length, while it makes one up. Of what a queue
        // has at its end nothing is left.
        xen.1.set(false);
        let mut ports = 0;
        while reader.next(&xen).is_some() {
            ports += 1;
            assert!(ports < 10_000, "seed {seed}");
        }
    }
}

#[test]
fn a_stray_link_ends_its_queue_and_no_other() {
    let xen = Xen::new(1, 0, false);
    for (port, priority) in [(5, 3), (6, 7)] {
        raise(&xen, port, (0, priority));
    }
    xen.word(5).set(xen.word(5).get() | 0x1_ffff);
    let view = View(&xen, 0);
    let mut reader = Reader::new();
    let mut next = || reader.next(&view);
    assert!(matches!(next(), Some(Taken::Port(Port(5), _))));
    assert_eq!(next(), Some(Taken::Stray(0x1_ffff)));
    assert!(matches!(next(), Some(Taken::Port(Port(6), _))));
    assert_eq!(next(), None);
}

#[test]
fn a_ring_of_links_ends_where_it_began() {
    let xen = Xen::new(1, 0, false);
    raise(&xen, 5, (0, 3));
    raise(&xen, 6, (0, 3));
    xen.word(6).set(xen.word(6).get() | 5);
    let (view, mut reader) = (View(&xen, 0), Reader::new());
    let count = core::iter::from_fn(|| reader.next(&view)).count();
    assert_eq!(count, 3);
}
