//! A stand-in for xenstored: a tree, watches, transactions, over the shared page, byte by byte if need
//! be. It reads and writes messages by itself and not with the crate's own code, so that a mistake there
//! is not made twice.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, VecDeque};

use xenstore_wire::{Host, Page};

/// Numbers of kinds, from the protocol's description.
pub(crate) const ERROR: u32 = 16;
pub(crate) const WATCH_EVENT: u32 = 15;

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

/// A message as it is in the ring.
pub(crate) fn message(kind: u32, id: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [kind, id, transaction, payload.len() as u32] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// The server.
pub(crate) struct Server<'p> {
    page: &'p Page,
    /// Values by path from the root; children are those whose path is one longer.
    pub(crate) tree: Tree,
    generation: u64,
    transactions: BTreeMap<u32, (Tree, u64)>,
    next_transaction: u32,
    pub(crate) watches: Vec<(Vec<u8>, Vec<u8>)>,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Bytes that a step takes and puts at most.
    pub(crate) bite: usize,
    /// Requests that were answered.
    pub(crate) requests: usize,
    /// So many of the next commits find that another changed the same.
    pub(crate) disturb: u32,
    /// It takes nothing and says nothing.
    pub(crate) silent: bool,
    /// It takes requests and says nothing.
    pub(crate) mute: bool,
    /// Said instead of the next reply.
    pub(crate) instead: Option<Vec<u8>>,
}

fn texts(payload: &[u8]) -> Vec<&[u8]> {
    payload.split(|byte| *byte == 0).collect()
}

/// From the root, as of domain 7.
fn absolute(path: &[u8]) -> Vec<u8> {
    match path {
        [b'/' | b'@', ..] => path.to_vec(),
        _ => [b"/local/domain/7/", path].concat(),
    }
}

impl<'p> Server<'p> {
    pub(crate) fn new(page: &'p Page) -> Self {
        let mut server = Server {
            page,
            tree: Tree::new(),
            generation: 0,
            transactions: BTreeMap::new(),
            next_transaction: 1,
            watches: Vec::new(),
            input: Vec::new(),
            output: VecDeque::new(),
            bite: usize::MAX,
            requests: 0,
            disturb: 0,
            silent: false,
            mute: false,
            instead: None,
        };
        server.change(b"/local/domain/7/name", Some(b"guest"));
        server
    }

    /// Changes a node as another domain would.
    pub(crate) fn change(&mut self, path: &[u8], value: Option<&[u8]>) {
        self.generation += 1;
        set(&mut self.tree, path, value);
        self.fire(path);
    }

    fn fire(&mut self, changed: &[u8]) {
        for (path, token) in self.watches.clone() {
            let whole = absolute(&path);
            let below = changed.strip_prefix(&whole[..]);
            if let Some(rest) = below.filter(|rest| matches!(rest, [] | [b'/', ..])) {
                let event = [&path[..], rest, b"\0", &token, b"\0"].concat();
                self.output.extend(message(WATCH_EVENT, 0, 0, &event));
            }
        }
    }

    /// Says these bytes.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
    }

    /// Works for a moment; whether anything moved.
    pub(crate) fn step(&mut self) -> bool {
        if self.silent {
            return false;
        }
        let mut moved = false;
        let mut bytes = [0; 1024];
        let room = self.bite.min(bytes.len());
        let count = self
            .page
            .server_take(&mut bytes[..room])
            .expect("a good index");
        self.input.extend(&bytes[..count]);
        moved |= count > 0;
        while let Some(length) = self.whole() {
            let request: Vec<u8> = self.input.drain(..length).collect();
            self.answer(&request);
        }
        let all = self.output.make_contiguous();
        let count = all.len().min(self.bite);
        let count = self.page.server_put(&all[..count]).expect("a good index");
        self.output.drain(..count);
        moved | (count > 0)
    }

    /// The length of the first message, if it is whole.
    fn whole(&self) -> Option<usize> {
        let length = u32::from_le_bytes(self.input.get(12..16)?.try_into().unwrap());
        assert!(length <= 4096, "xenstored would disconnect: {length} bytes");
        let whole = 16 + length as usize;
        (self.input.len() >= whole).then_some(whole)
    }

    fn answer(&mut self, request: &[u8]) {
        self.requests += 1;
        let field = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let (kind, id, transaction) = (field(0), field(4), field(8));
        assert_ne!(id, 0, "that is the number of events");
        let reply = match self.carry_out(kind, transaction, &request[16..]) {
            Ok(payload) if payload.len() > 4096 => message(ERROR, id, transaction, b"E2BIG\0"),
            Ok(payload) => message(kind, id, transaction, &payload),
            Err(name) => message(ERROR, id, transaction, &[name, b"\0"].concat()),
        };
        if self.mute {
            return;
        }
        let reply = self.instead.take().unwrap_or(reply);
        self.output.extend(reply);
        if let (4, [path, token, ..]) = (kind, &texts(&request[16..])[..]) {
            // A new watch fires at once.
            let event = [path, &b"\0"[..], token, b"\0"].concat();
            self.output.extend(message(WATCH_EVENT, 0, 0, &event));
        }
    }

    fn carry_out(
        &mut self,
        kind: u32,
        transaction: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, &'static [u8]> {
        let parts = texts(payload);
        let path = absolute(parts[0]);
        if !matches!(kind, 6 | 7 | 10 | 21) {
            assert!(good(parts[0]), "{:?}", parts[0].escape_ascii().to_string());
        }
        if kind != 11 {
            assert_eq!(payload.last(), Some(&0), "texts end");
        }
        let ok = b"OK\0".to_vec();
        let tree = match transaction {
            0 => &mut self.tree,
            id => &mut self.transactions.get_mut(&id).ok_or(&b"ENOENT"[..])?.0,
        };
        match kind {
            1 => children(tree, &path),
            22 => {
                let list = children(tree, &path)?;
                let offset: usize = std::str::from_utf8(parts[1]).unwrap().parse().unwrap();
                let mut part = format!("{}\0", self.generation).into_bytes();
                let room = 4096 - part.len() - 1;
                let mut rest = &list[offset.min(list.len())..];
                let mut taken = 0;
                while let Some(end) = rest.iter().position(|byte| *byte == 0)
                    && taken + end < room
                {
                    part.extend(&rest[..=end]);
                    rest = &rest[end + 1..];
                    taken += end + 1;
                }
                if rest.is_empty() {
                    part.push(0);
                }
                Ok(part)
            }
            2 => tree.get(&path).cloned().ok_or(b"ENOENT"),
            3 => tree
                .get(&path)
                .map(|_| b"n7\0r0\0".to_vec())
                .ok_or(b"ENOENT"),
            14 => Ok(ok),
            4 => {
                let watch = (parts[0].to_vec(), parts[1].to_vec());
                if self.watches.contains(&watch) {
                    return Err(b"EEXIST");
                }
                self.watches.push(watch);
                Ok(ok)
            }
            5 => {
                let watch = (parts[0].to_vec(), parts[1].to_vec());
                let at = self.watches.iter().position(|w| *w == watch);
                self.watches.remove(at.ok_or(&b"ENOENT"[..])?);
                Ok(ok)
            }
            6 => {
                let id = self.next_transaction;
                self.next_transaction += 1;
                let state = (self.tree.clone(), self.generation);
                self.transactions.insert(id, state);
                Ok(format!("{id}\0").into_bytes())
            }
            7 => {
                let (tree, generation) = self.transactions.remove(&transaction).expect("found");
                if payload == b"F\0" {
                    return Ok(ok);
                }
                assert_eq!(payload, b"T\0");
                if self.disturb > 0 {
                    self.disturb -= 1;
                    self.generation += 1;
                }
                if generation != self.generation {
                    return Err(b"EAGAIN");
                }
                let old = std::mem::replace(&mut self.tree, tree);
                let changed: Vec<_> = self.tree.keys().chain(old.keys()).cloned().collect();
                for path in changed {
                    if self.tree.get(&path) != old.get(&path) {
                        self.fire(&path);
                    }
                }
                Ok(ok)
            }
            10 => Ok([b"/local/domain/", parts[0], b"\0"].concat()),
            11 => {
                if path.starts_with(b"/forbidden") {
                    return Err(b"EACCES");
                }
                let value = payload[parts[0].len() + 1..].to_vec();
                set(tree, &path, Some(&value));
                self.changed(transaction, &path);
                Ok(ok)
            }
            12 => {
                if !tree.contains_key(&path) {
                    set(tree, &path, Some(b""));
                    self.changed(transaction, &path);
                }
                Ok(ok)
            }
            13 => {
                set(tree, &path, None);
                self.changed(transaction, &path);
                Ok(ok)
            }
            21 => {
                self.watches.clear();
                self.transactions.clear();
                Ok(ok)
            }
            _ => Err(b"ENOSYS"),
        }
    }

    fn changed(&mut self, transaction: u32, path: &[u8]) {
        if transaction == 0 {
            self.generation += 1;
            self.fire(path);
        }
    }
}

/// Whether xenstored would take the path.
fn good(path: &[u8]) -> bool {
    let most = if path.first() == Some(&b'/') {
        3072
    } else {
        2048
    };
    let text = String::from_utf8_lossy(path);
    let known = |c: char| c.is_ascii_alphanumeric() || "-/_@".contains(c);
    let shape = !text.contains("//") && (text == "/" || !text.ends_with('/'));
    !path.is_empty() && path.len() <= most && text.chars().all(known) && shape
}

fn set(tree: &mut Tree, path: &[u8], value: Option<&[u8]>) {
    let Some(value) = value else {
        let below = [path, b"/"].concat();
        tree.retain(|node, _| node != path && !node.starts_with(&below));
        return;
    };
    for (at, _) in path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/') {
        tree.entry(path[..at].to_vec()).or_default();
    }
    tree.insert(path.to_vec(), value.to_vec());
}

fn children(tree: &Tree, path: &[u8]) -> Result<Vec<u8>, &'static [u8]> {
    if path != b"/" && !tree.contains_key(path) {
        return Err(b"ENOENT");
    }
    let base = if path == b"/" { &b""[..] } else { path };
    let mut list = Vec::new();
    for node in tree.keys() {
        if let Some([b'/', name @ ..]) = node.strip_prefix(base)
            && !name.is_empty()
            && !name.contains(&b'/')
        {
            list.extend(name);
            list.push(0);
        }
    }
    Ok(list)
}

/// A host on which the server works while the client waits, and on which waiting in vain ends a test:
/// time passes only in [`Host::wait`], and only so often.
pub(crate) struct Turns<'s, 'p> {
    pub(crate) server: &'s mut Server<'p>,
    /// Waits that a request is given.
    pub(crate) patience: usize,
    waits: usize,
    /// An event is there.
    raised: bool,
    /// Looks for which there was no event: a client that looks on and on is not waiting.
    looks: usize,
}

impl<'s, 'p> Turns<'s, 'p> {
    pub(crate) fn new(server: &'s mut Server<'p>) -> Self {
        Turns {
            server,
            patience: 10_000,
            waits: 0,
            raised: false,
            looks: 0,
        }
    }
}

impl Host for Turns<'_, '_> {
    fn begin(&mut self) {
        (self.waits, self.looks) = (0, 0);
    }

    fn look(&mut self) {
        self.looks = if self.raised { 0 } else { self.looks + 1 };
        self.raised = false;
        let looks = self.looks;
        assert!(looks < 4, "looked {looks} times for nothing");
    }

    fn notify(&mut self) {
        self.raised |= self.server.step();
    }

    fn is_over(&mut self) -> bool {
        self.waits >= self.patience
    }

    fn wait(&mut self) {
        self.waits += 1;
        self.looks = 0;
        assert!(self.waits <= self.patience, "it waits for ever");
        if !self.raised {
            self.server.step();
        }
    }
}
