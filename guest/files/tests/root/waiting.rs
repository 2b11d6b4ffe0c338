//! What waits, and what ends the wait: pipes, named pipes, counters, timers, sockets, `poll`,
//! `select`, `epoll`, `flock`.

use std::task::Poll;

use crate::common::{LIMITS, Process, boot, now};
use guest_files::{Drain, Errno, Event, Fill, Number, Opening, Sets, Source};
use linux_raw_sys::general::{self as linux, pollfd};

const SECOND: u64 = 1_000_000_000;

fn poll(process: &Process, files: &[(i32, u32)], timeout: Option<u64>) -> Poll<Vec<u32>> {
    let mut files: Vec<pollfd> = files
        .iter()
        .map(|&(fd, events)| pollfd {
            fd,
            events: events as i16,
            revents: 0,
        })
        .collect();
    let done = process.calls().poll(&mut files, timeout);
    done.map(|count| {
        let found: Vec<u32> = files.iter().map(|file| file.revents as u32).collect();
        let ready = found.iter().filter(|&&found| found != 0).count();
        assert_eq!(count, Ok(ready));
        found
    })
}

#[test]
fn a_reader_waits_for_a_writer_and_is_woken() {
    let process = boot(LIMITS);
    let [from, to] = process.calls().pipe2(0).unwrap();
    assert!(process.poll_read(from, 10).is_pending());
    assert!(!process.woken.take());
    assert_eq!(process.write(to, b"abc"), Ok(3));
    assert!(process.woken.take(), "nobody woke the reader");
    assert_eq!(process.read(from, 10).unwrap(), b"abc");
    assert!(process.poll_read(from, 10).is_pending());
    process.calls().close(to).unwrap();
    assert!(process.woken.take(), "the last writer's end wakes nobody");
    assert_eq!(process.read(from, 10).unwrap(), b"");
}

#[test]
fn a_long_write_goes_on_where_it_waited() {
    let process = boot(LIMITS);
    let [from, to] = process.calls().pipe2(0).unwrap();
    let bytes: Vec<u8> = (0..100_000).map(|at| (at % 251) as u8).collect();
    let mut drain = Drain::new(&bytes);
    assert!(process.calls().write(to, &mut drain).is_pending());
    // What a signal would end here has written this much.
    assert_eq!(drain.taken(), 65_536);
    let mut all = process.read(from, 50_000).unwrap();
    assert!(process.woken.take());
    assert_eq!(now(process.calls().write(to, &mut drain)), Ok(100_000));
    while all.len() < bytes.len() {
        all.extend(process.read(from, 7_000).unwrap());
    }
    assert!(all == bytes);
}

#[test]
fn a_short_write_is_whole_or_waits() {
    let process = boot(LIMITS);
    let [from, to] = process.calls().pipe2(linux::O_NONBLOCK).unwrap();
    assert_eq!(process.write(to, &[1; 65_536 - 4096]), Ok(65_536 - 4096));
    assert_eq!(process.write(to, &[2; 10]), Ok(10));
    // The last page has room for this, though it is full of pages.
    assert_eq!(process.write(to, &[3; 4000]), Ok(4000));
    assert_eq!(process.write(to, &[4; 4000]), Err(Errno::EAGAIN));
    assert_eq!(process.read(from, 4096).unwrap().len(), 4096);
    assert_eq!(process.write(to, &[4; 4000]), Ok(4000));
    // More than a page is written as far as it goes.
    assert_eq!(process.read(from, 4096).unwrap().len(), 4096);
    assert_eq!(process.write(to, &[5; 5000]), Ok(4096));
}

#[test]
fn nobody_left_to_read_is_a_broken_pipe() {
    let process = boot(LIMITS);
    let [from, to] = process.calls().pipe2(0).unwrap();
    let copy = process.calls().dup(from).unwrap();
    process.calls().close(from).unwrap();
    assert_eq!(process.write(to, b"x"), Ok(1));
    process.calls().close(copy).unwrap();
    assert_eq!(process.write(to, b"x"), Err(Errno::EPIPE));
    assert_eq!(
        poll(&process, &[(to, 0)], Some(0)),
        Poll::Ready(vec![linux::POLLERR])
    );
}

#[test]
fn memory_that_is_short_is_an_error_of_the_writer() {
    let process = boot(LIMITS);
    let [_, to] = process.calls().pipe2(0).unwrap();
    *process.host.pages.lock().unwrap() = Some(1);
    assert_eq!(process.write(to, &[0; 4096]), Ok(4096));
    assert_eq!(process.write(to, &[0; 1]), Err(Errno::ENOMEM));
}

#[test]
fn the_size_of_a_pipe_can_be_changed_as_far_as_it_is_empty() {
    let process = boot(LIMITS);
    let [from, to] = process.calls().pipe2(linux::O_NONBLOCK).unwrap();
    let set = |size: u64| {
        process
            .calls()
            .fcntl(to, linux::F_SETPIPE_SZ, &mut Number(size))
    };
    assert_eq!(
        process
            .calls()
            .fcntl(from, linux::F_GETPIPE_SZ, &mut Number(0)),
        Ok(65_536)
    );
    assert_eq!(set(5000), Ok(8192));
    assert_eq!(process.write(to, &[0; 9000]), Ok(8192));
    assert_eq!(set(4096), Err(Errno::EBUSY));
    assert_eq!(set(0), Err(Errno::EINVAL));
    assert_eq!(set(1 << 21), Err(Errno::EPERM));
    assert_eq!(set(1 << 20), Ok(1 << 20));
}

#[test]
fn the_two_sides_of_a_named_pipe_wait_for_each_other() {
    let process = boot(LIMITS);
    let cwd = linux::AT_FDCWD;
    let fifo = linux::S_IFIFO | 0o600;
    process.calls().mknodat(cwd, b"/fifo", fifo, 0).unwrap();
    let flags = linux::O_WRONLY | linux::O_NONBLOCK;
    assert_eq!(process.open("/fifo", flags, 0), Err(Errno::ENXIO));

    let mut reading = Opening::default();
    let open =
        |opening: &mut Opening, flags| process.calls().openat(opening, cwd, b"/fifo", flags, 0);
    assert!(open(&mut reading, linux::O_RDONLY).is_pending());
    let writer = process.open("/fifo", linux::O_WRONLY, 0).unwrap();
    assert!(process.woken.take());
    // The writer is gone before the reader looks, but it was there.
    assert_eq!(process.write(writer, b"x"), Ok(1));
    process.calls().close(writer).unwrap();
    let reader = now(open(&mut reading, linux::O_RDONLY)).unwrap();
    assert_eq!(process.read(reader, 5).unwrap(), b"x");
    assert_eq!(process.read(reader, 5).unwrap(), b"");
    process.calls().close(reader).unwrap();

    // One that is given up was never there.
    let mut writing = Opening::default();
    assert!(open(&mut writing, linux::O_WRONLY).is_pending());
    drop(writing);
    let mut reading = Opening::default();
    assert!(open(&mut reading, linux::O_RDONLY).is_pending());
}

#[test]
fn poll_tells_what_is_ready_and_waits_for_the_rest() {
    let process = boot(LIMITS);
    let [from, to] = process.calls().pipe2(0).unwrap();
    let both = [
        (from, linux::POLLIN),
        (to, linux::POLLOUT),
        (-1, 1),
        (77, 1),
    ];
    let found = vec![0, linux::POLLOUT, 0, linux::POLLNVAL];
    assert_eq!(poll(&process, &both, None), Poll::Ready(found));
    assert!(poll(&process, &[(from, linux::POLLIN)], None).is_pending());
    process.write(to, b"x").unwrap();
    assert!(process.woken.take());
    let ready = Poll::Ready(vec![linux::POLLIN]);
    assert_eq!(poll(&process, &[(from, linux::POLLIN)], None), ready);
    // The time-out runs from the first look on.
    process.read(from, 1).unwrap();
    process.began.set(None);
    assert!(poll(&process, &[(from, linux::POLLIN)], Some(SECOND)).is_pending());
    process.host.advance(SECOND / 2);
    assert!(poll(&process, &[(from, linux::POLLIN)], Some(SECOND)).is_pending());
    process.woken.take();
    process.host.advance(3 * SECOND);
    assert!(process.woken.take(), "the time-out wakes nobody");
    let none = Poll::Ready(vec![0]);
    assert_eq!(poll(&process, &[(from, linux::POLLIN)], Some(SECOND)), none);
}

#[test]
fn select_leaves_what_is_ready_in_the_sets() {
    let process = boot(LIMITS);
    let [from, to] = process.calls().pipe2(0).unwrap();
    let (mut read, mut write) = ([1 << from | 1 << to], [1 << to]);
    let mut sets = Sets {
        read: Some(&mut read),
        write: Some(&mut write),
        except: None,
    };
    assert_eq!(now(process.calls().select(64, &mut sets, Some(0))), Ok(1));
    assert_eq!((read[0], write[0]), (0, 1 << to));
    let mut read = [1 << from];
    let mut sets = Sets {
        read: Some(&mut read),
        ..Sets::default()
    };
    assert!(process.calls().select(64, &mut sets, None).is_pending());
    process.write(to, b"x").unwrap();
    assert!(process.woken.take());
    assert_eq!(now(process.calls().select(64, &mut sets, None)), Ok(1));
    assert_eq!(read[0], 1 << from);
    let mut bad = [1 << 60];
    let mut sets = Sets {
        read: Some(&mut bad),
        ..Sets::default()
    };
    assert_eq!(
        now(process.calls().select(64, &mut sets, None)),
        Err(Errno::EBADF)
    );
}

fn wait(process: &Process, epoll: i32) -> Poll<Vec<Event>> {
    let mut events = Vec::new();
    let done = process.calls().epoll_wait(epoll, 8, None, &mut |event| {
        events.push(event);
        true
    });
    done.map(|count| {
        assert_eq!(count, Ok(events.len()));
        events
    })
}

fn event(events: u32, data: u64) -> Event {
    Event { events, data }
}

#[test]
fn epoll_tells_again_of_what_stays_ready_unless_asked_for_changes() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let [from, to] = calls.pipe2(0).unwrap();
    let epoll = calls.epoll_create1(0).unwrap();
    let add = |events, data| calls.epoll_ctl(epoll, linux::EPOLL_CTL_ADD, from, events, data);
    let change = |events| calls.epoll_ctl(epoll, linux::EPOLL_CTL_MOD, from, events, 8);
    add(linux::EPOLLIN, 7).unwrap();
    assert_eq!(add(linux::EPOLLIN, 7), Err(Errno::EEXIST));
    assert!(wait(&process, epoll).is_pending());
    process.write(to, b"x").unwrap();
    assert!(process.woken.take());
    for _ in 0..3 {
        assert_eq!(wait(&process, epoll), Poll::Ready(vec![event(1, 7)]));
    }
    change(linux::EPOLLIN | linux::EPOLLET).unwrap();
    assert_eq!(wait(&process, epoll), Poll::Ready(vec![event(1, 8)]));
    assert!(wait(&process, epoll).is_pending());
    process.write(to, b"y").unwrap();
    assert!(process.woken.take());
    assert_eq!(wait(&process, epoll), Poll::Ready(vec![event(1, 8)]));
    change(linux::EPOLLIN | linux::EPOLLONESHOT).unwrap();
    assert_eq!(wait(&process, epoll), Poll::Ready(vec![event(1, 8)]));
    process.write(to, b"z").unwrap();
    assert!(wait(&process, epoll).is_pending());
    change(linux::EPOLLIN).unwrap();
    assert_eq!(wait(&process, epoll), Poll::Ready(vec![event(1, 8)]));
    // A set can be watched too, and polled.
    let outer = calls.epoll_create1(0).unwrap();
    calls
        .epoll_ctl(outer, linux::EPOLL_CTL_ADD, epoll, linux::EPOLLIN, 9)
        .unwrap();
    assert_eq!(wait(&process, outer), Poll::Ready(vec![event(1, 9)]));
    let inner = calls.epoll_ctl(epoll, linux::EPOLL_CTL_ADD, outer, linux::EPOLLIN, 9);
    assert_eq!(inner, Err(Errno::ELOOP));
    calls
        .epoll_ctl(epoll, linux::EPOLL_CTL_DEL, from, 0, 0)
        .unwrap();
    assert!(wait(&process, epoll).is_pending());
    let again = calls.epoll_ctl(epoll, linux::EPOLL_CTL_DEL, from, 0, 0);
    assert_eq!(again, Err(Errno::ENOENT));
}

/// Sets in sets are looked at by recursion: whichever side they are built from, they end.
#[test]
fn sets_do_not_lie_too_deep_in_one_another() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let watch =
        |outer, inner| calls.epoll_ctl(outer, linux::EPOLL_CTL_ADD, inner, linux::EPOLLIN, 0);
    for downwards in [true, false] {
        let sets: Vec<i32> = (0..8).map(|_| calls.epoll_create1(0).unwrap()).collect();
        let mut deep = 0;
        for pair in sets.windows(2) {
            let (outer, inner) = if downwards {
                (pair[0], pair[1])
            } else {
                (pair[1], pair[0])
            };
            match watch(outer, inner) {
                Ok(()) => deep += 1,
                Err(error) => {
                    assert_eq!((error, deep), (Errno::ELOOP, 4), "{downwards}");
                    break;
                }
            }
        }
        assert_eq!(deep, 4);
        let [first, last] = if downwards { [0, 4] } else { [4, 0] };
        assert_eq!(watch(sets[last], sets[first]), Err(Errno::ELOOP));
        // What watches it no more does not count.
        let between = if downwards { (0, 1) } else { (4, 3) };
        let (outer, inner) = (sets[between.0], sets[between.1]);
        calls
            .epoll_ctl(outer, linux::EPOLL_CTL_DEL, inner, 0, 0)
            .unwrap();
        assert_eq!(watch(sets[5], inner), Ok(()));
    }
}

#[test]
fn a_file_that_is_closed_is_watched_no_more() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let [from, to] = calls.pipe2(0).unwrap();
    let epoll = calls.epoll_create1(0).unwrap();
    let add = |file| calls.epoll_ctl(epoll, linux::EPOLL_CTL_ADD, file, linux::EPOLLIN, 1);
    add(from).unwrap();
    process.write(to, b"x").unwrap();
    let copy = calls.dup(from).unwrap();
    calls.close(from).unwrap();
    // The open file is still there, under another number.
    assert_eq!(wait(&process, epoll), Poll::Ready(vec![event(1, 1)]));
    calls.close(copy).unwrap();
    assert!(wait(&process, epoll).is_pending());
    process.make("/file", b"");
    let file = process.open("/file", 0, 0).unwrap();
    assert_eq!(add(file), Err(Errno::EPERM));
    assert_eq!(add(epoll), Err(Errno::EINVAL));
    assert_eq!(add(99), Err(Errno::EBADF));
}

#[test]
fn counters_add_up_and_are_taken() {
    let process = boot(LIMITS);
    let number = |number: u64| number.to_ne_bytes();
    let all = process.calls().eventfd2(3, 0).unwrap();
    assert_eq!(process.write(all, &number(4)), Ok(8));
    assert_eq!(process.read(all, 8).unwrap(), number(7));
    assert!(process.poll_read(all, 8).is_pending());
    assert_eq!(process.write(all, &number(1)), Ok(8));
    assert!(process.woken.take());
    assert_eq!(process.read(all, 4), Err(Errno::EINVAL));
    assert_eq!(process.write(all, &[0; 4]), Err(Errno::EINVAL));
    assert_eq!(process.write(all, &number(u64::MAX)), Err(Errno::EINVAL));
    // One write is one number, however long it is.
    assert_eq!(process.write(all, &[0; 24]), Ok(8));
    assert_eq!(process.read(all, 8).unwrap(), number(1));
    assert_eq!(process.write(all, &number(u64::MAX - 1)), Ok(8));
    let one = number(1);
    let mut drain = Drain::new(&one);
    assert!(process.calls().write(all, &mut drain).is_pending());
    assert_eq!(drain.taken(), 0);
    process.read(all, 8).unwrap();
    assert!(process.woken.take());

    let one = process
        .calls()
        .eventfd2(2, linux::EFD_SEMAPHORE | linux::EFD_NONBLOCK)
        .unwrap();
    for _ in 0..2 {
        assert_eq!(process.read(one, 8).unwrap(), number(1));
    }
    assert_eq!(process.read(one, 8), Err(Errno::EAGAIN));
}

#[test]
fn timers_count_how_often_they_expired() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let timer = calls.timerfd_create(linux::CLOCK_MONOTONIC, 0).unwrap();
    assert_eq!(
        calls.timerfd_settime(timer, 0, SECOND, SECOND / 2),
        Ok((0, 0))
    );
    assert!(process.poll_read(timer, 8).is_pending());
    process.host.advance(SECOND / 2);
    assert!(poll(&process, &[(timer, linux::POLLIN)], None).is_pending());
    process.woken.take();
    process.host.advance(2 * SECOND + 1000);
    assert!(process.woken.take());
    assert_eq!(
        poll(&process, &[(timer, linux::POLLIN)], None),
        Poll::Ready(vec![linux::POLLIN])
    );
    assert_eq!(process.read(timer, 8).unwrap(), 3_u64.to_ne_bytes());
    assert!(process.poll_read(timer, 8).is_pending());
    let (left, interval) = calls.timerfd_gettime(timer).unwrap();
    assert!(left <= SECOND / 2 && interval == SECOND / 2);
    calls
        .timerfd_settime(timer, linux::TFD_TIMER_ABSTIME, SECOND, 0)
        .unwrap();
    assert_eq!(process.read(timer, 8).unwrap(), 1_u64.to_ne_bytes());
    assert_eq!(calls.timerfd_gettime(timer), Ok((0, 0)));
    assert_eq!(calls.timerfd_create(99, 0), Err(Errno::EINVAL));
}

#[test]
fn connected_sockets_carry_bytes_both_ways_until_one_is_closed() {
    let process = boot(LIMITS);
    let calls = process.calls();
    let [one, other] = calls.socketpair(1, 1, 0).unwrap();
    assert_eq!(process.write(one, b"to"), Ok(2));
    assert_eq!(process.write(other, b"fro"), Ok(3));
    assert_eq!(process.read(one, 9).unwrap(), b"fro");
    assert_eq!(process.read(other, 9).unwrap(), b"to");
    let ready = |file| poll(&process, &[(file, 0x2005)], Some(0));
    assert_eq!(ready(one), Poll::Ready(vec![linux::POLLOUT]));
    calls.shutdown(other, 1).unwrap();
    assert_eq!(ready(one), Poll::Ready(vec![0x2005]));
    assert_eq!(process.read(one, 9).unwrap(), b"");
    assert_eq!(process.write(other, b"x"), Err(Errno::EPIPE));
    assert_eq!(process.write(one, b"still"), Ok(5));
    calls.close(other).unwrap();
    assert_eq!(process.write(one, b"x"), Err(Errno::EPIPE));
    assert_eq!(ready(one), Poll::Ready(vec![0x2015]));
    assert_eq!(calls.socketpair(2, 1, 0), Err(Errno::EAFNOSUPPORT));
    assert_eq!(calls.shutdown(one, 9), Err(Errno::EINVAL));
}

#[test]
fn locks_of_files_belong_to_the_open_file() {
    let process = boot(LIMITS);
    process.make("/file", b"");
    let calls = process.calls();
    let one = process.open("/file", linux::O_RDWR, 0).unwrap();
    let two = process.open("/file", linux::O_RDWR, 0).unwrap();
    let copy = calls.dup(one).unwrap();
    assert_eq!(now(calls.flock(one, linux::LOCK_EX)), Ok(()));
    assert_eq!(now(calls.flock(copy, linux::LOCK_EX)), Ok(()));
    let nonblocking = linux::LOCK_SH | linux::LOCK_NB;
    assert_eq!(now(calls.flock(two, nonblocking)), Err(Errno::EAGAIN));
    assert!(calls.flock(two, linux::LOCK_SH).is_pending());
    assert_eq!(now(calls.flock(one, linux::LOCK_SH)), Ok(()));
    assert!(process.woken.take());
    assert_eq!(now(calls.flock(two, linux::LOCK_SH)), Ok(()));
    assert!(calls.flock(two, linux::LOCK_EX).is_pending());
    process.woken.take();
    calls.close(one).unwrap();
    assert!(!process.woken.take());
    calls.close(copy).unwrap();
    assert!(process.woken.take());
    assert_eq!(now(calls.flock(two, linux::LOCK_EX)), Ok(()));
    assert_eq!(now(calls.flock(two, 99)), Err(Errno::EINVAL));
}

#[test]
fn those_who_forget_to_come_back_take_no_memory_for_ever() {
    let process = boot(LIMITS);
    let [from, _to] = process.calls().pipe2(0).unwrap();
    // Each of them polls once and is never heard of again; those who wait are woken now and then.
    let first = process.fork(2);
    let waits = |process: &Process| poll(process, &[(from, linux::POLLIN)], None).is_pending();
    assert!(waits(&first));
    let mut woken = 0;
    for pid in 3..1000 {
        assert!(waits(&process.fork(pid)));
        if first.woken.take() {
            woken += 1;
            assert!(waits(&first));
        }
    }
    assert!((1..10).contains(&woken), "woken {woken} times");
    let mut memory = [0; 1];
    let _ = process.calls().read(from, &mut Fill::new(&mut memory));
}
