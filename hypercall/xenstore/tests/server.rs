//! A whole client against a stand-in for xenstored, which takes and gives the messages in pieces of any
//! size, is slow, silent, wrong, or begins anew.

mod common;

use common::{Server, Turns, message};
use xenstore_wire::{
    Access, Broken, CallError, Errno, Event, Fault, Features, Index, Page, Path, Permission,
    Popped, Queue, Refusal, RequestError, Session, Store,
};

fn path(text: &str) -> Path<'_> {
    Path::new(text.as_bytes()).unwrap()
}

/// Runs `test` with a server that takes and gives so many bytes at a time.
fn with(bite: usize, test: impl FnOnce(&mut Session<'_, '_, Turns<'_, '_>, &mut Queue<'_>>)) {
    let page = Page::new();
    for index in [Index::ReqProd, Index::ReqCons] {
        page.set_index(index, 0xffff_fff0);
    }
    for index in [Index::RspProd, Index::RspCons] {
        page.set_index(index, 0x1234_5678);
    }
    let mut server = Server::new(&page);
    server.bite = bite;
    let mut memory = [0; 512];
    let mut queue = Queue::new(&mut memory);
    let mut store = Store::new(&page);
    test(&mut Session::new(
        &mut store,
        Turns::new(&mut server),
        &mut queue,
    ));
    assert_eq!(queue.take_faults(), None);
}

/// The sizes of pieces that tests use.
const BITES: [usize; 5] = [1, 15, 16, 100, usize::MAX];

#[test]
fn every_request_works_in_pieces_of_any_size() {
    for bite in BITES {
        with(bite, |session| {
            assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
            session.write(path("data/a"), b"1").unwrap();
            session.make(path("data/b")).unwrap();
            session.make(path("data/a")).unwrap();
            assert_eq!(session.read(path("data/a")), Ok(&b"1"[..]));
            let mut names = Vec::new();
            session
                .list(path("data"), |name| names.push(name.unwrap().to_vec()))
                .unwrap();
            assert_eq!(names, [b"a", b"b"]);
            session.remove(path("data")).unwrap();
            let gone = session.read(path("data/a")).unwrap_err();
            assert!(gone.is(Errno::ENOENT), "{gone}");
            let refused = session.write(path("/forbidden/x"), b"").unwrap_err();
            assert_eq!(refused, CallError::Refused(Refusal::Known(Errno::EACCES)));
            let owner = Permission {
                access: Access::None,
                domain: 7,
            };
            assert_eq!(
                session.permissions(path("name")).unwrap().next(),
                Some(owner)
            );
            session.set_permissions(path("name"), &[owner]).unwrap();
            assert_eq!(session.domain_path(3), Ok(&b"/local/domain/3"[..]));
        });
    }
}

#[test]
fn the_largest_messages_pass() {
    for bite in [7, usize::MAX] {
        with(bite, |session| {
            let value: Vec<u8> = (0..4096 - 4).map(|i| i as u8).collect();
            session.write(path("big"), &value).unwrap();
            assert_eq!(session.read(path("big")), Ok(&value[..]));
            let more = [0; 4096 - 3];
            let long = session.write(path("big"), &more).unwrap_err();
            assert_eq!(long, CallError::Request(RequestError::Long));
            assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
        });
    }
}

#[test]
fn a_long_list_comes_in_parts() {
    with(usize::MAX, |session| {
        for number in 0..2000 {
            session
                .write(path(&format!("list/{number:05}")), b"")
                .unwrap();
        }
        let mut names = Vec::new();
        session
            .list(path("list"), |name| {
                let name = name.expect("nothing changed meanwhile");
                names.push(String::from_utf8(name.to_vec()).unwrap());
            })
            .unwrap();
        assert_eq!(names.len(), 2000);
        assert!(
            names
                .iter()
                .zip(0..)
                .all(|(name, number)| *name == format!("{number:05}"))
        );
    });
}

#[test]
fn a_watch_fires_at_once_and_when_the_node_changes() {
    for bite in BITES {
        let page = Page::new();
        let mut server = Server::new(&page);
        server.bite = bite;
        let mut memory = [0; 512];
        let mut queue = Queue::new(&mut memory);
        let mut store = Store::new(&page);
        let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
        session.watch(path("control"), b"7").unwrap();
        let again = session.watch(path("control"), b"7").unwrap_err();
        assert!(again.is(Errno::EEXIST));
        // The event is behind the reply, and a request may come before it.
        assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
        let token = b"7";
        let event = |path: &'static [u8]| Some(Popped::Event(Event { path, token }));
        assert_eq!(queue.pop(), event(b"control"));
        assert_eq!(queue.pop(), None);

        for _ in 0..3 {
            server.change(b"/local/domain/7/control/shutdown", Some(b"halt"));
        }
        server.change(b"/local/domain/7/controls", Some(b""));
        while server.step() {
            let host = Turns::new(&mut server);
            Session::new(&mut store, host, &mut queue).serve().unwrap();
        }
        // Three of the same are one.
        assert_eq!(queue.pop(), event(b"control/shutdown"));
        assert_eq!(queue.pop(), None);

        let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
        session.unwatch(path("control"), b"7").unwrap();
        assert!(
            session
                .unwatch(path("control"), b"7")
                .unwrap_err()
                .is(Errno::ENOENT)
        );
        server.change(b"/local/domain/7/control/shutdown", Some(b""));
        assert!(!server.step());
    }
}

#[test]
fn a_flood_of_events_does_not_keep_a_reply() {
    let page = Page::new();
    let mut server = Server::new(&page);
    let mut memory = [0; 64];
    let mut queue = Queue::new(&mut memory);
    let mut store = Store::new(&page);
    for number in 0..500_u32 {
        let event = format!("node/{number}\0token\0");
        server.say(&message(common::WATCH_EVENT, 0, 0, event.as_bytes()));
    }
    let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
    assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
    let mut kept = 0;
    loop {
        match queue.pop() {
            Some(Popped::Event(_)) => kept += 1,
            Some(Popped::Lost(lost)) => {
                assert_eq!((kept, kept + lost), (4, 500));
                break;
            }
            None => panic!("nothing is said of what was lost"),
        }
    }
}

#[test]
fn a_transaction_is_repeated_until_nobody_disturbs_it() {
    with(100, |session| {
        let mut tries = 0;
        let value = session.transaction(|session| {
            tries += 1;
            session.write(path("control/shutdown"), b"")?;
            Ok(session.read(path("control/shutdown"))?.len())
        });
        assert_eq!((value, tries), (Ok(0), 1));
    });
    let page = Page::new();
    let mut server = Server::new(&page);
    server.disturb = 3;
    let mut queue = Queue::new(&mut []);
    let mut store = Store::new(&page);
    let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
    let mut tries = 0;
    session
        .transaction(|session| {
            tries += 1;
            session.write(path("a"), b"x")
        })
        .unwrap();
    assert_eq!(tries, 4);
    // What fails has not happened.
    let failed = session.transaction(|session| {
        session.write(path("a"), b"y")?;
        session.read(path("nothing")).map(drop)
    });
    assert!(failed.unwrap_err().is(Errno::ENOENT));
    assert_eq!(session.read(path("a")), Ok(&b"x"[..]));
    server.disturb = u32::MAX;
    let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
    let contended = session.transaction(|session| session.write(path("a"), b"z"));
    assert_eq!(contended, Err(CallError::Contended));
}

#[test]
fn a_server_that_is_silent_is_an_error_and_no_hang() {
    let page = Page::new();
    let mut server = Server::new(&page);
    let mut queue = Queue::new(&mut []);
    let mut store = Store::new(&page);
    let value = [b'v'; 3000];
    for (silent, mute) in [(true, false), (false, true)] {
        (server.silent, server.mute) = (silent, mute);
        let mut host = Turns::new(&mut server);
        host.patience = 5;
        let mut session = Session::new(&mut store, host, &mut queue);
        assert_eq!(session.write(path("a"), &value), Err(CallError::Silent));
        assert_eq!(session.read(path("name")), Err(CallError::Silent));
        (server.silent, server.mute) = (false, false);
        // What was begun is ended, its reply passed over, and the next request made.
        let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
        assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
        assert_eq!(session.read(path("a")), Ok(&value[..]));
    }
    let (fault, _) = queue.take_faults().unwrap();
    assert_eq!(fault, Fault::Late { id: 1 });
}

#[test]
fn a_wrong_answer_is_an_error_and_the_next_is_right() {
    let page = Page::new();
    let mut server = Server::new(&page);
    let mut queue = Queue::new(&mut []);
    let mut store = Store::new(&page);
    server.instead = Some(message(11, 1, 0, b"OK\0"));
    let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
    let wrong = session.read(path("name")).unwrap_err();
    assert!(
        matches!(wrong, CallError::Fault(Fault::Kind { got: 11, .. })),
        "{wrong}"
    );
    assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
    server.instead = Some(message(common::ERROR, 3, 0, b"EDOM\0"));
    let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
    let unknown = session.read(path("name")).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "xenstored refuses with 'EDOM', which is no error it is known for"
    );
}

#[test]
fn a_broken_connection_begins_anew_where_the_server_can() {
    for reconnects in [false, true] {
        let page = Page::new();
        page.server_says(Features(u32::from(reconnects)), 0, 0);
        let mut server = Server::new(&page);
        let mut queue = Queue::new(&mut []);
        let mut store = Store::new(&page);
        page.set_index(Index::RspProd, 5000);
        let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
        let broken = session.read(path("name")).unwrap_err();
        assert!(matches!(broken, CallError::Broken(Broken::Index(e)) if e.value == 5000));
        assert_eq!(session.read(path("name")), Err(broken), "it stays so");
        if !reconnects {
            assert_eq!(session.reconnect(), Err(CallError::Stays));
            continue;
        }
        /// A server that empties the rings at once.
        struct Resets<'p>(&'p Page);
        impl xenstore_wire::Host for Resets<'_> {
            fn begin(&mut self) {}
            fn look(&mut self) {}
            fn notify(&mut self) {
                use Index::{ReqCons, ReqProd, RspCons, RspProd};
                for index in [ReqCons, ReqProd, RspCons, RspProd] {
                    self.0.set_index(index, 0);
                }
                self.0.server_says(Features(1), 0, 0);
            }
            fn is_over(&mut self) -> bool {
                true
            }
            fn wait(&mut self) {}
        }
        Session::new(&mut store, Resets(&page), &mut queue)
            .reconnect()
            .unwrap();
        let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
        assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
    }
}

/// After a restore the page is what it was, and the server another: what the one before had sent, in the
/// middle of a message, is no part of what this one answers.
#[test]
fn a_restored_domain_begins_anew_where_the_ring_is() {
    let page = Page::new();
    let mut server = Server::new(&page);
    let mut queue = Queue::new(&mut []);
    let mut store = Store::new(&page);
    let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
    assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
    assert_eq!(page.server_put(b"a header,"), Ok(9));
    assert!(session.serve().is_ok());
    assert_eq!(page.server_put(b" more of it"), Ok(11));
    store.begin_anew();
    let mut server = Server::new(&page);
    let mut session = Session::new(&mut store, Turns::new(&mut server), &mut queue);
    assert_eq!(session.read(path("name")), Ok(&b"guest"[..]));
    assert_eq!(queue.take_faults(), None);
}
