//! Messages in pieces of any size, and a server that says what it should not.

use super::*;
use crate::event::Popped;
use crate::event::Queue;
use crate::path::Path;
use crate::ring::{Features, Index};
use core::num::NonZeroU32;

fn read() -> Request<'static> {
    Request::Read(Path::new(b"name").unwrap())
}

fn message(kind: u32, id: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let header = Header {
        kind,
        id,
        transaction,
        length,
    };
    [&header.to_bytes()[..], payload].concat()
}

/// Hands bytes over in pieces of `size`.
fn feed(client: &mut Client, queue: &mut Queue<'_>, mut bytes: &[u8], size: usize) {
    while !bytes.is_empty() {
        let input = client.input();
        let count = input.len().min(bytes.len()).min(size);
        assert!(count > 0, "an answer waits");
        input[..count].copy_from_slice(&bytes[..count]);
        client.received(count, queue).unwrap();
        bytes = &bytes[count..];
    }
}

#[test]
fn a_reply_is_found_among_events_whatever_the_pieces() {
    for size in 1..64 {
        let mut memory = [0; 256];
        let mut queue = Queue::new(&mut memory);
        let mut client = Client::new();
        client.request(&read(), None).unwrap();
        let sent = client.output().to_vec();
        assert_eq!(sent, message(abi::XS_READ, 1, 0, b"name\0"));
        client.sent(sent.len());
        let bytes = [
            message(abi::XS_WATCH_EVENT, 0, 0, b"a\0t\0"),
            message(abi::XS_READ, 1, 0, b"guest"),
        ];
        feed(&mut client, &mut queue, &bytes.concat(), size);
        assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(b"guest")))));
        assert_eq!(client.take_answer(), None);
        let event = Event {
            path: b"a",
            token: b"t",
        };
        assert_eq!(queue.pop(), Some(Popped::Event(event)));
        assert!(client.is_idle());
    }
}

#[test]
fn an_empty_value_is_a_value() {
    let mut queue = Queue::new(&mut []);
    let mut client = Client::new();
    client.request(&read(), None).unwrap();
    feed(
        &mut client,
        &mut queue,
        &message(abi::XS_READ, 1, 0, b""),
        16,
    );
    assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(b"")))));
}

#[test]
fn wrong_replies_are_typed() {
    let answer = |bytes: &[u8]| {
        let mut queue = Queue::new(&mut []);
        let mut client = Client::new();
        let transaction = NonZeroU32::new(9).map(Transaction);
        client.request(&read(), transaction).unwrap();
        feed(&mut client, &mut queue, bytes, 4096);
        let answer = client.take_answer().map(|answer| match answer {
            Ok(Ok(Reply::Value(value))) => Ok(Ok(value.to_vec())),
            Ok(Ok(other)) => panic!("{other:?}"),
            Ok(Err(refusal)) => Ok(Err(refusal)),
            Err(fault) => Err(fault),
        });
        (answer, queue.take_faults().map(|(fault, _)| fault))
    };
    assert_eq!(
        answer(&message(abi::XS_READ, 1, 9, b"x")),
        (Some(Ok(Ok(b"x".to_vec()))), None)
    );
    let kind = Fault::Kind {
        asked: Kind::Read,
        got: abi::XS_WRITE,
    };
    assert_eq!(
        answer(&message(abi::XS_WRITE, 1, 9, b"OK\0")),
        (Some(Err(kind)), None)
    );
    let transaction = Fault::Transaction { asked: 9, got: 8 };
    assert_eq!(
        answer(&message(abi::XS_READ, 1, 8, b"x")),
        (Some(Err(transaction)), None)
    );
    let stray = Fault::Stray { kind: 2, id: 7 };
    assert_eq!(
        answer(&message(abi::XS_READ, 7, 9, b"x")),
        (None, Some(stray))
    );
    let refusal = Refusal::Known(crate::Errno::EAGAIN);
    assert_eq!(
        answer(&message(abi::XS_ERROR, 1, 9, b"EAGAIN\0")),
        (Some(Ok(Err(refusal))), None)
    );
    for payload in [&b""[..], b"\0", b"EAGAIN"] {
        let (answer, _) = answer(&message(abi::XS_ERROR, 1, 9, payload));
        assert!(
            matches!(answer, Some(Err(Fault::Malformed(_)))),
            "{answer:?}"
        );
    }
    let (_, fault) = answer(&message(abi::XS_WATCH_EVENT, 0, 0, b"a\0"));
    assert!(matches!(
        fault,
        Some(Fault::Malformed(Malformed { kind: None, .. }))
    ));
}

#[test]
fn a_message_that_is_too_long_breaks_the_connection() {
    let mut queue = Queue::new(&mut []);
    let mut client = Client::new();
    let header = Header {
        kind: 2,
        id: 1,
        transaction: 0,
        length: 4097,
    };
    client.input().copy_from_slice(&header.to_bytes());
    let broken = Broken::Length {
        kind: 2,
        length: 4097,
    };
    assert_eq!(client.received(16, &mut queue), Err(broken));
    assert!(client.input().is_empty());
    assert_eq!(client.received(16, &mut queue), Err(broken));
    assert_eq!(client.request(&read(), None), Err(Busy::Broken(broken)));
    client.reset();
    assert_eq!(client.request(&read(), None), Ok(()));
    // The longest that there may be is none of it.
    let payload = [b'x'; 4096];
    feed(
        &mut client,
        &mut queue,
        &message(abi::XS_READ, 1, 0, &payload),
        1000,
    );
    assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(&payload)))));
}

#[test]
fn a_request_that_is_given_up_leaves_order() {
    let mut queue = Queue::new(&mut []);
    let mut client = Client::new();
    client.request(&read(), None).unwrap();
    client.sent(3);
    assert_eq!(client.request(&read(), None), Err(Busy::UnderWay));
    client.give_up();
    assert_eq!(
        client.request(&read(), None),
        Err(Busy::UnderWay),
        "not all of it is sent"
    );
    client.sent(client.output().len());
    client.request(&read(), None).unwrap();
    feed(
        &mut client,
        &mut queue,
        &message(abi::XS_READ, 1, 0, b"old"),
        16,
    );
    assert!(!client.is_answered());
    assert_eq!(queue.take_faults(), Some((Fault::Late { id: 1 }, 1)));
    feed(
        &mut client,
        &mut queue,
        &message(abi::XS_READ, 1, 0, b"old"),
        16,
    );
    assert_eq!(
        queue.take_faults(),
        Some((Fault::Stray { kind: 2, id: 1 }, 1))
    );
    feed(
        &mut client,
        &mut queue,
        &message(abi::XS_READ, 2, 0, b"new"),
        16,
    );
    assert_eq!(client.take_answer(), Some(Ok(Ok(Reply::Value(b"new")))));
}

#[test]
fn every_fault_is_told_apart() {
    let wrong = Malformed {
        kind: None,
        what: "no token",
    };
    let asked = Kind::Read;
    let faults = [
        (
            Fault::Stray { kind: 2, id: 7 },
            "a message of kind 2 for request 7, which nobody waits for",
        ),
        (
            Fault::Late { id: 7 },
            "the reply to request 7 came too late",
        ),
        (
            Fault::Kind { asked, got: 11 },
            "a reply of kind 11 to READ, which is 2",
        ),
        (
            Fault::Transaction { asked: 9, got: 8 },
            "a reply in transaction 8 to a request in transaction 9",
        ),
        (
            Fault::Malformed(wrong),
            "the event of a watch is none: no token",
        ),
    ];
    for (fault, words) in faults {
        assert_eq!(fault.to_string(), words);
    }
}

#[test]
fn late_replies_are_those_of_requests_given_up() {
    let mut queue = Queue::new(&mut []);
    let mut client = Client::new();
    client.request(&read(), None).unwrap();
    client.sent(21);
    feed(
        &mut client,
        &mut queue,
        &message(abi::XS_READ, 1, 0, b"x"),
        16,
    );
    assert!(client.take_answer().is_some());
    for _ in 2..=3 {
        client.request(&read(), None).unwrap();
        client.sent(21);
        client.give_up();
    }
    for (id, fault) in [
        (1, Fault::Stray { kind: 2, id: 1 }),
        (3, Fault::Late { id: 3 }),
        (4, Fault::Stray { kind: 2, id: 4 }),
        (2, Fault::Late { id: 2 }),
        (2, Fault::Stray { kind: 2, id: 2 }),
    ] {
        feed(
            &mut client,
            &mut queue,
            &message(abi::XS_READ, id, 0, b"x"),
            16,
        );
        assert_eq!(queue.take_faults(), Some((fault, 1)));
    }
}

#[test]
fn numbers_of_requests_wrap_past_0() {
    let mut client = Client::new();
    client.last_id = u32::MAX;
    client.request(&read(), None).unwrap();
    assert_eq!(client.output()[4..8], [1, 0, 0, 0]);
}

#[test]
fn an_exchange_says_whom_to_wake() {
    let page = Page::new();
    let mut queue = Queue::new(&mut []);
    let mut client = Client::new();
    let quiet = Step {
        notify: false,
        more: false,
    };
    assert_eq!(client.exchange(&page, &mut queue), Ok(quiet));
    client.request(&read(), None).unwrap();
    let step = client.exchange(&page, &mut queue).unwrap();
    assert!(step.notify && !step.more);
    page.server_put(&message(abi::XS_READ, 1, 0, b"guest"))
        .unwrap();
    let step = client.exchange(&page, &mut queue).unwrap();
    assert!(step.notify && step.more && client.is_answered());
    // While an answer waits, nothing behind it is taken.
    page.server_put(&message(abi::XS_WATCH_EVENT, 0, 0, b"a\0t\0"))
        .unwrap();
    assert!(!client.exchange(&page, &mut queue).unwrap().notify);
    assert!(client.take_answer().is_some());
    client.exchange(&page, &mut queue).unwrap();
    assert_eq!(queue.pop(), Some(Popped::Lost(1)));
}

#[test]
fn a_full_ring_is_nothing_to_notify_of() {
    let page = Page::new();
    page.put(&[0; 1024]).unwrap();
    let mut client = Client::new();
    client.request(&read(), None).unwrap();
    let step = client.exchange(&page, &mut Queue::new(&mut [])).unwrap();
    assert!(!step.notify && !step.more);
}

#[test]
fn an_exchange_ends_however_fast_the_other_side_writes() {
    /// Says the same again for each event that is taken, and so on, for quite a while.
    struct Endless<'p>(&'p Page, usize);
    impl Endless<'_> {
        fn say(&self) {
            let event = message(abi::XS_WATCH_EVENT, 0, 0, b"a\0t\0");
            self.0.server_put(&event).unwrap();
        }
    }
    impl Listener for Endless<'_> {
        fn event(&mut self, _: Event<'_>) {
            self.1 += 1;
            if self.1 < 10_000 {
                self.say();
            }
        }
        fn fault(&mut self, fault: Fault) {
            panic!("{fault}");
        }
    }
    let page = Page::new();
    let mut endless = Endless(&page, 0);
    (0..5).for_each(|_| endless.say());
    let step = Client::new().exchange(&page, &mut endless).unwrap();
    assert!(step.more && step.notify);
    assert_eq!(endless.1, 5);
}

#[test]
fn what_breaks_a_connection_is_said() {
    let broken = |spoil: fn(&Page)| {
        let page = Page::new();
        spoil(&page);
        let mut client = Client::new();
        client.request(&read(), None).unwrap();
        let broken = client
            .exchange(&page, &mut Queue::new(&mut []))
            .unwrap_err();
        assert_eq!(client.broken(), Some(broken));
        broken.to_string()
    };
    assert!(broken(|page| page.set_index(Index::ReqCons, 1)).starts_with("req_cons is 0x1"));
    assert!(broken(|page| page.set_index(Index::RspProd, 1025)).starts_with("rsp_prod is 0x401"));
    for (error, reason) in [
        (1, "its event channel does not work"),
        (2, "an index of the ring cannot be"),
        (3, "a request is too long"),
        (4, "a reason that is not known here"),
    ] {
        let words = Broken::Stopped(error).to_string();
        let expected = format!("xenstored has stopped with error {error}: {reason}");
        assert_eq!(words, expected);
    }
    let stopped = broken(|page| page.server_says(Features(2), 0, 3));
    assert_eq!(stopped, Broken::Stopped(3).to_string());
}

#[test]
fn nothing_is_touched_before_the_server_is_there() {
    let page = Page::new();
    page.server_says(Features(0), abi::XENSTORE_RECONNECT, 0);
    page.set_index(Index::RspProd, 5000);
    let mut client = Client::new();
    client.request(&read(), None).unwrap();
    let step = client.exchange(&page, &mut Queue::new(&mut [])).unwrap();
    assert!(!step.notify && !step.more);
    assert_eq!(client.output().len(), 21);
}
