//! Files that are waited for, several at once, and clocks that are files.

use linux_raw_sys::general as linux;

use super::{CLOSED, bad, calls, close, file, open, pipe, read, say, show, write};
use crate::system::{at, to};

calls! {
    poll __NR_poll,
    ppoll __NR_ppoll,
    select __NR_select,
    pselect __NR_pselect6,
    epoll_create __NR_epoll_create,
    epoll_create1 __NR_epoll_create1,
    epoll_ctl __NR_epoll_ctl,
    epoll_wait __NR_epoll_wait,
    epoll_pwait __NR_epoll_pwait,
    eventfd __NR_eventfd,
    eventfd2 __NR_eventfd2,
    timerfd_create __NR_timerfd_create,
    timerfd_settime __NR_timerfd_settime,
    timerfd_gettime __NR_timerfd_gettime,
}

fn entry(fd: u64, events: u32) -> linux::pollfd {
    linux::pollfd {
        fd: fd as i32,
        events: events as i16,
        revents: -1,
    }
}

pub(super) fn run() {
    polls();
    selects();
    epolls();
    events();
    timers();
}

fn polls() {
    // SAFETY: as the list says.
    unsafe {
        let [r, w] = pipe(0);
        let (both, all) = (linux::POLLIN | linux::POLLOUT, 0x7fff);
        let f = file(c"polled", b"");
        let mut list = [
            entry(r, both),
            entry(w, both),
            entry(f, all),
            entry(CLOSED, both),
            entry(u64::MAX, both),
            entry(open([at(c"/dev/null"), 2]) as u64, all),
        ];
        say("poll", poll([to(&mut list), 6, 0]));
        show("poll", list.map(|entry| entry.revents));
        write([w, at(b"x"), 1]);
        say("poll then", poll([to(&mut list), 2, u64::MAX]));
        show("poll then", (list[0].revents, list[1].revents));
        say("poll nothing for a while", poll([0, 0, 5]));
        say("poll too many", poll([to(&mut list), 1 << 30, 0]));
        bad("poll", |list| poll([list, 1, 0]));
        close([w]);
        poll([to(&mut list), 1, 0]);
        show("poll a pipe without writers", list[0].revents);
        read([r, to(&mut [0_u8; 4]), 4]);
        poll([to(&mut list), 1, 0]);
        show("poll it when it is empty", list[0].revents);
        let [r, w] = pipe(0);
        close([r]);
        list[0] = entry(w, both);
        poll([to(&mut list), 1, 0]);
        show("poll a pipe without readers", list[0].revents);
        say("ppoll", ppoll([to(&mut list), 1, at(&[0_u64, 0]), 0, 8]));
        say(
            "ppoll of a wrong time",
            ppoll([to(&mut list), 1, at(&[0_u64, u64::MAX]), 0, 8]),
        );
        say(
            "ppoll of a mask of another size",
            ppoll([to(&mut list), 1, 0, at(&0_u64), 4]),
        );
        bad("ppoll", |time| ppoll([to(&mut list), 1, time, 0, 8]));
    }
}

fn selects() {
    // SAFETY: as the list says.
    unsafe {
        let [r, w] = pipe(0);
        let (mut reads, mut writes, mut others) =
            ([1_u64 << r | 1 << w], [1_u64 << w], [1_u64 << r]);
        let none = [0_u64; 2];
        say(
            "select",
            select([
                w + 1,
                to(&mut reads),
                to(&mut writes),
                to(&mut others),
                at(&none),
            ]),
        );
        show("select", (reads[0] >> r & 1, writes[0] >> w & 1, others[0]));
        say("select nothing", select([0, 0, 0, 0, at(&[0_u64, 1000])]));
        say("select below 0", select([u64::MAX, 0, 0, 0, at(&none)]));
        say(
            "select a closed one",
            select([60, to(&mut [1_u64 << 59]), 0, 0, at(&none)]),
        );
        say(
            "select for a time below 0",
            select([0, 0, 0, 0, at(&[u64::MAX, 0])]),
        );
        say(
            "select for more than a second of microseconds",
            select([0, 0, 0, 0, at(&[0_u64, 1_000_001 - 1_000_000])]),
        );
        bad("select", |set| select([10, set, 0, 0, at(&none)]));
        bad("select for", |time| select([10, 0, 0, 0, time]));
        write([w, at(b"x"), 1]);
        reads = [1 << r];
        say("select then", select([w + 1, to(&mut reads), 0, 0, 0]));
        say(
            "pselect",
            pselect([w + 1, to(&mut reads), 0, 0, at(&none), 0]),
        );
        say(
            "pselect of a wrong time",
            pselect([0, 0, 0, 0, at(&[0_u64, u64::MAX]), 0]),
        );
        let mut time = [3_u64, 0];
        select([w + 1, to(&mut reads), 0, 0, to(&mut time)]);
        show("select says what is left", time[0] == 2);
    }
}

/// Events and data, packed.
fn event(events: u32, data: u64) -> [u32; 3] {
    [events, data as u32, (data >> 32) as u32]
}

fn epolls() {
    // SAFETY: as the list says.
    unsafe {
        say("epoll_create of 0", epoll_create([0]));
        say("epoll_create1 of flags", epoll_create1([1]));
        let set = epoll_create1([linux::EPOLL_CLOEXEC.into()]) as u64;
        let [r, w] = pipe(0);
        let add = |fd: u64, events: u32| {
            epoll_ctl([set, linux::EPOLL_CTL_ADD.into(), fd, at(&event(events, fd))])
        };
        say("epoll adds", add(r, linux::EPOLLIN));
        say("epoll adds again", add(r, linux::EPOLLIN));
        say("epoll adds what is closed", add(CLOSED, linux::EPOLLIN));
        say("epoll adds itself", add(set, linux::EPOLLIN));
        say(
            "epoll adds a file",
            add(file(c"epolled", b""), linux::EPOLLIN),
        );
        say(
            "epoll adds a directory",
            add(open([at(c"."), 0]) as u64, linux::EPOLLIN),
        );
        say(
            "epoll changes what it has not",
            epoll_ctl([set, linux::EPOLL_CTL_MOD.into(), w, at(&event(1, 1))]),
        );
        say(
            "epoll removes what it has not",
            epoll_ctl([set, linux::EPOLL_CTL_DEL.into(), w, 0]),
        );
        say(
            "epoll of an unknown kind",
            epoll_ctl([set, 9, w, at(&event(1, 1))]),
        );
        say(
            "epoll_ctl of no set",
            epoll_ctl([r, linux::EPOLL_CTL_ADD.into(), w, at(&event(1, 1))]),
        );
        bad("epoll_ctl", |event| {
            epoll_ctl([set, linux::EPOLL_CTL_ADD.into(), w, event])
        });
        let mut found = [[0_u32; 3]; 4];
        say("epoll_wait", epoll_wait([set, to(&mut found), 4, 0]));
        write([w, at(b"xy"), 2]);
        say(
            "epoll_wait then",
            epoll_wait([set, to(&mut found), 4, u64::MAX]),
        );
        show(
            "epoll_wait then",
            (found[0][0], u64::from(found[0][1]) == r),
        );
        say(
            "epoll_wait for none",
            epoll_wait([set, to(&mut found), 0, 0]),
        );
        say(
            "epoll_wait below 0",
            epoll_wait([set, to(&mut found), u64::MAX, 0]),
        );
        bad("epoll_wait", |into| epoll_wait([set, into, 4, 0]));
        say(
            "epoll_wait of no set",
            epoll_wait([r, to(&mut found), 4, 0]),
        );
        say(
            "epoll at an edge",
            epoll_ctl([
                set,
                linux::EPOLL_CTL_MOD.into(),
                r,
                at(&event(linux::EPOLLIN | linux::EPOLLET, 5)),
            ]),
        );
        show(
            "an edge once",
            (
                epoll_wait([set, to(&mut found), 4, 0]),
                epoll_wait([set, to(&mut found), 4, 0]),
            ),
        );
        write([w, at(b"z"), 1]);
        show(
            "an edge anew",
            (
                epoll_wait([set, to(&mut found), 4, 0]),
                epoll_wait([set, to(&mut found), 4, 0]),
            ),
        );
        epoll_ctl([
            set,
            linux::EPOLL_CTL_MOD.into(),
            r,
            at(&event(linux::EPOLLIN | linux::EPOLLONESHOT, 5)),
        ]);
        show(
            "one shot",
            (
                epoll_wait([set, to(&mut found), 4, 0]),
                epoll_wait([set, to(&mut found), 4, 0]),
            ),
        );
        close([w]);
        epoll_ctl([set, linux::EPOLL_CTL_MOD.into(), r, at(&event(0, 6))]);
        say(
            "epoll_wait for a hang-up",
            epoll_wait([set, to(&mut found), 4, 0]),
        );
        show("a hang-up", found[0][0]);
        close([r]);
        say(
            "epoll_wait when all are closed",
            epoll_wait([set, to(&mut found), 4, 0]),
        );
        let other = epoll_create1([0]) as u64;
        say(
            "epoll in epoll",
            epoll_ctl([set, linux::EPOLL_CTL_ADD.into(), other, at(&event(1, 1))]),
        );
        say(
            "a loop of epolls",
            epoll_ctl([other, linux::EPOLL_CTL_ADD.into(), set, at(&event(1, 1))]),
        );
        say(
            "epoll_pwait",
            epoll_pwait([set, to(&mut found), 4, 0, 0, 8]),
        );
    }
}

fn events() {
    // SAFETY: as the list says.
    unsafe {
        let e = eventfd2([3, linux::O_NONBLOCK.into()]) as u64;
        let mut count = 0_u64;
        say("eventfd read", read([e, to(&mut count), 8]));
        show("eventfd", count);
        say("eventfd read again", read([e, to(&mut count), 8]));
        say("eventfd read of less", read([e, to(&mut count), 4]));
        say("eventfd write", write([e, at(&(u64::MAX - 1)), 8]));
        say("eventfd write above", write([e, at(&1_u64), 8]));
        say("eventfd write of -1", write([e, at(&u64::MAX), 8]));
        say("eventfd write of less", write([e, at(&1_u64), 7]));
        say("eventfd of flags", eventfd2([0, 1 << 20]));
        let s = eventfd2([2, 1]) as u64;
        read([s, to(&mut count), 8]);
        show("a semaphore", count);
        let mut list = [entry(e, 5), entry(s, 5)];
        say("poll of events", poll([to(&mut list), 2, 0]));
        show("poll of events", list.map(|entry| entry.revents));
        say("eventfd without flags", eventfd([0]).clamp(-1, 0));
    }
}

fn timers() {
    // SAFETY: as the list says.
    unsafe {
        let t = timerfd_create([1, linux::O_NONBLOCK.into()]) as u64;
        let mut count = 0_u64;
        say("timerfd of an unknown clock", timerfd_create([99, 0]));
        say("timerfd of flags", timerfd_create([1, 1]));
        say("timerfd before", read([t, to(&mut count), 8]));
        say(
            "timerfd_settime",
            timerfd_settime([t, 0, at(&[0_u64, 0, 0, 1_000_000]), 0]),
        );
        say("poll for it", poll([to(&mut [entry(t, 1)]), 1, 1000]));
        say("timerfd read", read([t, to(&mut count), 8]));
        show("timerfd", count);
        say("timerfd read of less", read([t, to(&mut count), 4]));
        let mut left = [9_u64; 4];
        say("timerfd_gettime", timerfd_gettime([t, to(&mut left)]));
        show("timerfd_gettime", left);
        say(
            "timerfd_settime of a wrong time",
            timerfd_settime([t, 0, at(&[0_u64, 0, 0, 1_000_000_000]), 0]),
        );
        say(
            "timerfd_settime of flags",
            timerfd_settime([t, 9, at(&[0_u64; 4]), 0]),
        );
        say(
            "timerfd_settime of a file",
            timerfd_settime([open([at(c"/dev/null"), 0]) as u64, 0, at(&[0_u64; 4]), 0]),
        );
        say(
            "timerfd_settime of nothing",
            timerfd_settime([CLOSED, 0, at(&[0_u64; 4]), 0]),
        );
        bad("timerfd_settime", |new| timerfd_settime([t, 0, new, 0]));
        bad("timerfd_gettime", |into| timerfd_gettime([t, into]));
        say(
            "timerfd long past",
            timerfd_settime([t, 1, at(&[0_u64, 0, 0, 1]), 0]),
        );
        say("timerfd read of it", read([t, to(&mut count), 8]));
    }
}
