//! Random input from both sides: a server that writes anything into the page, and a caller that asks
//! anything.
//!
//! An input is one request and all that happens until it ends. How many there are says
//! `XENSTORE_FUZZ`, the first of them `XENSTORE_FUZZ_FROM`; one that fails is named by its number, and
//! is the same again with `XENSTORE_FUZZ_FROM=NUMBER XENSTORE_FUZZ=1`.

mod common;

use common::{Server, Turns, message};
use xenstore_wire::{
    Access, CallError, Errno, Features, Host, Index, Page, Path, Permission, Popped, Queue,
    Request, RequestError, Session, Store,
};

/// Numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1);
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// One of them.
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// The inputs to make.
fn inputs(default: u64) -> std::ops::Range<u64> {
    let variable = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect(name))
    };
    let from = variable("XENSTORE_FUZZ_FROM").unwrap_or(0);
    from..from + variable("XENSTORE_FUZZ").unwrap_or(default)
}

/// Names the input that was under way when a test failed.
struct Input(u64);

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input {}", self.0);
        }
    }
}

/// A request that is likely to be good, or likely not to be.
fn request<'a>(
    random: &mut Random,
    path: Path<'a>,
    bytes: &'a [u8],
    permissions: &'a [Permission],
) -> Request<'a> {
    match random.below(15) {
        0 => Request::Directory(path),
        1 => Request::DirectoryPart(path, random.next() as u32),
        2 => Request::Mkdir(path),
        3 => Request::Rm(path),
        4 => Request::GetPermissions(path),
        5 => Request::SetPermissions(path, permissions),
        6 => Request::Watch(path, bytes),
        7 => Request::Unwatch(path, bytes),
        8 => Request::TransactionStart,
        9 => Request::GetDomainPath(random.next() as u16),
        10 => Request::ResetWatches,
        11 | 12 => Request::Write(path, bytes),
        _ => Request::Read(path),
    }
}

/// Xenstored as the worst that there can be.
struct Hostile<'p> {
    page: &'p Page,
    random: Random,
    waits: usize,
    looks: usize,
    /// The number of the last request that it saw.
    id: u32,
}

impl Hostile<'_> {
    fn act(&mut self) {
        let random = &mut self.random;
        let mut request = [0; 1024];
        if !random.one_in(8) {
            let room = random.below(1025);
            if let Ok(16..) = self.page.server_take(&mut request[..room]) {
                self.id = u32::from_le_bytes(request[4..8].try_into().unwrap());
            }
        }
        for _ in 0..random.below(4) {
            let bytes = match random.below(16) {
                0 => random.bytes(1100),
                1 => {
                    // A header that lies about what is behind it.
                    let mut bytes = message(2, self.id, 0, &random.bytes(30));
                    let lie = random.next() as u32;
                    bytes[12..16].copy_from_slice(&random.of(&[lie, 4096, 4097, 0]).to_le_bytes());
                    bytes
                }
                2 => {
                    let all = [
                        Index::ReqCons,
                        Index::ReqProd,
                        Index::RspCons,
                        Index::RspProd,
                    ];
                    let (index, value) = (random.of(&all), random.next() as u32);
                    self.page.set_index(index, value);
                    continue;
                }
                3 => {
                    let [features, connection, error] =
                        [8, 3, 6].map(|end| random.below(end) as u32);
                    self.page.server_says(Features(features), connection, error);
                    continue;
                }
                _ => {
                    let id = self.id.wrapping_add(random.of(&[0, 0, 0, 0, 1, u32::MAX]));
                    let kind = random.below(24) as u32;
                    let kind = random.of(&[2, 1, 6, 11, common::ERROR, common::WATCH_EVENT, kind]);
                    let noise = random.bytes(40);
                    let good: &[&[u8]] = &[
                        b"OK\0",
                        b"a\0b\0",
                        b"EAGAIN\0",
                        b"E2BIG\0",
                        b"17\0",
                        b"1\0a\0",
                        b"n0\0r7\0",
                        &noise,
                        b"",
                    ];
                    let transaction = random.of(&[0, 0, 0, 17]);
                    message(kind, id, transaction, random.of(good))
                }
            };
            // A ring that the indices have made impossible takes nothing.
            let _ = self.page.server_put(&bytes);
        }
    }
}

impl Host for &mut Hostile<'_> {
    fn begin(&mut self) {
        (self.waits, self.looks) = (0, 0);
    }

    fn look(&mut self) {
        self.looks += 1;
        assert!(self.looks < 1000, "a request does not end");
    }

    fn notify(&mut self) {
        self.act();
    }

    fn is_over(&mut self) -> bool {
        self.waits >= 3 || self.looks > 200
    }

    fn wait(&mut self) {
        self.waits += 1;
        self.act();
    }
}

#[test]
fn a_server_can_say_anything() {
    let mut granted = 0_u64;
    let mut refused = 0_u64;
    let mut wrong = [0_u64; 3];
    let inputs = inputs(100_000);
    let count = inputs.end - inputs.start;
    let mut inputs = inputs.peekable();
    while inputs.peek().is_some() {
        // A connection lives for some inputs, and is broken after that, more often than not.
        let page = Page::new();
        let mut memory = [0; 128];
        let mut events = Queue::new(&mut memory);
        let mut store = Store::new(&page);
        for number in inputs.by_ref().take(16) {
            let _input = Input(number);
            let mut hostile = Hostile {
                page: &page,
                random: Random(number),
                waits: 0,
                looks: 0,
                id: 0,
            };
            let mut random = Random(!number);
            let (bytes, path) = (random.bytes(40), Path::new(b"some/path").unwrap());
            let permissions = [Permission {
                access: Access::Both,
                domain: 1,
            }];
            let mut session = Session::new(&mut store, &mut hostile, &mut events);
            let result = match random.below(8) {
                0 => {
                    let mut names = 0;
                    session.list(path, |name| names += name.map_or(0, <[u8]>::len))
                }
                1 => session
                    .transaction(|session| session.write(path, b""))
                    .map_err(|e| match e {
                        CallError::Contended => panic!("it cannot answer so often"),
                        e => e,
                    }),
                2 => session.serve().map_err(CallError::Broken),
                3 => session.reconnect(),
                _ => session
                    .call(&request(&mut random, path, &bytes, &permissions))
                    .map(drop),
            };
            match result {
                Ok(()) => granted += 1,
                Err(CallError::Refused(_)) => refused += 1,
                Err(CallError::Fault(_)) => wrong[0] += 1,
                Err(CallError::Broken(_)) => wrong[1] += 1,
                Err(CallError::Silent) => wrong[2] += 1,
                // Random tokens have NULs.
                Err(CallError::Request(e)) => assert_eq!(e, RequestError::Token),
                Err(CallError::Contended | CallError::Stays) => {}
            }
            let mut popped = 0;
            while let Some(event) = events.pop() {
                popped += 1;
                if let Popped::Event(event) = event {
                    assert!(!event.path.is_empty() && !event.path.contains(&0));
                }
            }
            assert!(popped <= 128 / 5 + 1);
            events.take_faults();
        }
    }
    // Otherwise the server is not as hostile as it should be, or too much.
    let all = [granted, refused, wrong[0], wrong[1], wrong[2]];
    assert!(
        count < 1000 || all.iter().all(|some| *some > count / 1000),
        "{all:?}"
    );
}

#[test]
fn a_caller_can_ask_anything() {
    let inputs = inputs(50_000);
    let mut inputs = inputs.peekable();
    while inputs.peek().is_some() {
        let page = Page::new();
        let mut server = Server::new(&page);
        let mut memory = [0; 1024];
        let mut events = Queue::new(&mut memory);
        let mut store = Store::new(&page);
        for number in inputs.by_ref().take(64) {
            let _input = Input(number);
            let mut random = Random(number);
            let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFG0123456789-_/@";
            let noise = random.bytes(4);
            let name: Vec<u8> = match random.below(4) {
                0 => {
                    let length = random.of(&[1, 2047, 2048, 2049, 3071, 3072, 3073, 5000]);
                    let first = random.of(b"/a");
                    [first]
                        .into_iter()
                        .chain(std::iter::repeat_n(b'x', length))
                        .take(length)
                        .collect()
                }
                1 => noise,
                _ => (0..=random.below(12)).map(|_| random.of(letters)).collect(),
            };
            // The server judges by itself whether it would have taken the path.
            let Ok(path) = Path::new(&name) else { continue };
            let most = random.of(&[0, 8, 40, 1022, 4000, 5000]);
            let bytes = random.bytes(most);
            let permissions: Vec<_> = (0..random.of(&[0, 1, 3, 700]))
                .map(|_| Permission {
                    access: random.of(&[Access::None, Access::Read, Access::Write, Access::Both]),
                    domain: random.next() as u16,
                })
                .collect();
            server.bite = random.of(&[usize::MAX, usize::MAX, 1000, 100]);
            let mut session = Session::new(&mut store, Turns::new(&mut server), &mut events);
            let request = request(&mut random, path, &bytes, &permissions);
            match session.call(&request) {
                Ok(_) => {
                    if let Request::Write(..) = request {
                        assert_eq!(session.read(path), Ok(&bytes[..]));
                    }
                }
                Err(CallError::Refused(_)) => {}
                Err(CallError::Request(e)) => {
                    let long = name.len() + bytes.len() >= 4096 || permissions.len() > 500;
                    let token = bytes.contains(&0) || bytes.len() > 1022;
                    match e {
                        RequestError::Long => assert!(long),
                        RequestError::Token => assert!(token),
                        RequestError::NoOwner => assert!(permissions.is_empty()),
                    }
                }
                Err(e) => panic!("{request:?}: {e}"),
            }
            // Whatever was asked, the connection is in order.
            match session.read(Path::new(b"name").unwrap()) {
                Ok(_) => {}
                Err(e) => assert!(e.is(Errno::ENOENT), "{e}"),
            }
            assert_eq!(events.take_faults(), None);
            while events.pop().is_some() {}
        }
    }
}
