//! Terminals where a second process, time or another side is needed: job control, stops, sizes,
//! `VMIN` and `VTIME`, pseudo-terminals.

use std::sync::{Arc, Mutex};
use std::task::Poll;

use crate::common::{LIMITS, Process, Woken, boot, now};
use guest_files::{
    Argument, ConsoleDevice, DeviceNumber, Drain, Errno, Number, Output, OwnTerminalDevice, Result,
    Terminal, add_device, add_pseudo_terminals,
};
use linux_raw_sys::{general as linux, ioctl};

/// A screen that takes so much at a time.
struct Screen {
    shown: Mutex<Vec<u8>>,
    room: Mutex<usize>,
}

impl Output for Screen {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut room = self.room.lock().unwrap();
        let count = bytes.len().min(*room);
        *room -= count;
        self.shown.lock().unwrap().extend(&bytes[..count]);
        count
    }
}

impl Screen {
    fn take(&self) -> String {
        let shown = std::mem::take(&mut *self.shown.lock().unwrap());
        String::from_utf8(shown).unwrap()
    }
}

struct Bytes(Vec<u8>);

impl Argument for Bytes {
    fn value(&self) -> u64 {
        0
    }
    fn get(&mut self, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(self.0.get(..into.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

impl Bytes {
    fn number(number: i32) -> Self {
        Self(number.to_ne_bytes().into())
    }

    fn as_number(&self) -> i32 {
        i32::from_ne_bytes(self.0[..].try_into().unwrap())
    }
}

struct Console {
    process: Process,
    terminal: Arc<Terminal>,
    screen: Arc<Screen>,
    file: i32,
}

/// A process that leads session 1 and has the console.
fn console() -> Console {
    let process = boot(LIMITS);
    let screen = Arc::new(Screen {
        shown: Mutex::default(),
        room: Mutex::new(usize::MAX),
    });
    let terminal = Terminal::new(process.host.clone(), screen.clone());
    let own = Arc::new(OwnTerminalDevice::default());
    own.add(&terminal);
    add_pseudo_terminals(&process.system, &own).unwrap();
    let device = Arc::new(ConsoleDevice(terminal.clone()));
    add_device(
        &process.system,
        "console",
        0o600,
        DeviceNumber::new(5, 1),
        device,
    )
    .unwrap();
    let file = process.open("/dev/console", linux::O_RDWR, 0).unwrap();
    assert_eq!(terminal.session(), Some(1));
    Console {
        process,
        terminal,
        screen,
        file,
    }
}

impl Console {
    fn type_in(&self, text: &str) {
        assert_eq!(self.terminal.type_in(text.as_bytes(), None), text.len());
    }

    fn signals(&self) -> Vec<(u32, u32)> {
        std::mem::take(&mut *self.process.host.signals.lock().unwrap())
    }

    /// Changes the flags of `c_lflag`, and `VMIN` and `VTIME`.
    fn set(&self, add: u32, remove: u32, least: u8, time: u8) {
        let mut settings = Bytes(Vec::new());
        ioctl_of(&self.process, self.file, ioctl::TCGETS, &mut settings).unwrap();
        let flags = u32::from_ne_bytes(settings.0[12..16].try_into().unwrap());
        settings.0[12..16].copy_from_slice(&((flags | add) & !remove).to_ne_bytes());
        settings.0[17 + linux::VMIN as usize] = least;
        settings.0[17 + linux::VTIME as usize] = time;
        ioctl_of(&self.process, self.file, ioctl::TCSETS, &mut settings).unwrap();
    }
}

fn ioctl_of(
    process: &Process,
    file: i32,
    request: u32,
    argument: &mut dyn Argument,
) -> Result<u64> {
    now(process.calls().ioctl(file, request, argument))
}

#[test]
fn a_line_is_read_when_it_ends_and_as_far_as_asked() {
    let console = console();
    let process = &console.process;
    assert!(process.poll_read(console.file, 10).is_pending());
    console.type_in("echo");
    assert!(process.poll_read(console.file, 10).is_pending());
    process.woken.take();
    console.type_in("\n");
    assert!(process.woken.take());
    assert_eq!(process.read(console.file, 2).unwrap(), b"ec");
    assert_eq!(process.read(console.file, 10).unwrap(), b"ho\n");
    assert_eq!(console.screen.take(), "echo\r\n");
}

#[test]
fn words_are_erased_as_a_whole() {
    let console = console();
    console.type_in("one foo_2\x17two - -\x17\n");
    assert_eq!(console.process.read(console.file, 20).unwrap(), b"one \n");
}

#[test]
fn a_line_can_be_shown_again() {
    let console = console();
    console.type_in("ab\x01\x12c\n");
    assert_eq!(console.screen.take(), "ab^A^R\r\nab^Ac\r\n");
    assert_eq!(
        console.process.read(console.file, 20).unwrap(),
        b"ab\x01c\n"
    );
}

#[test]
fn a_full_line_keeps_its_begin_and_its_end() {
    let console = console();
    let process = &console.process;
    let long = "a".repeat(5000);
    console.type_in(&long);
    console.type_in("b\n");
    let line = process.read(console.file, 5000).unwrap();
    assert_eq!(line.len(), 4096);
    assert!(
        line.starts_with(b"aaa") && line.ends_with(b"a\n"),
        "{:?}",
        &line[4090..]
    );
    // Whole lines that nobody reads are kept, and more has to wait.
    let lines = "0123456789abcde\n".repeat(300);
    let woken = Arc::new(Woken::default());
    let taken = console
        .terminal
        .type_in(lines.as_bytes(), Some(&woken.clone().into()));
    assert_eq!(taken, 4095);
    assert_eq!(
        process.read(console.file, 100).unwrap(),
        b"0123456789abcde\n"
    );
    assert!(woken.take(), "nobody tells that there is room");
}

#[test]
fn keys_send_signals_to_the_foreground_and_drop_the_line() {
    let console = console();
    console.type_in("half");
    console.type_in("\x03");
    console.type_in("\x1c\x1a");
    let signals = [linux::SIGINT, linux::SIGQUIT, linux::SIGTSTP];
    assert_eq!(console.signals(), signals.map(|signal| (1, signal)));
    assert_eq!(console.screen.take(), "half^C^\\^Z");
    console.type_in("x\n");
    assert_eq!(console.process.read(console.file, 10).unwrap(), b"x\n");
}

#[test]
fn the_background_is_told_and_waits() {
    let console = console();
    let mut other = console.process.fork(7);
    other.group = 7;
    let read = |other: &Process| other.poll_read(console.file, 10);
    console.type_in("line\n");
    assert!(read(&other).is_pending());
    assert_eq!(console.signals(), [(7, linux::SIGTTIN)]);
    // Writing is let through, unless the terminal says not to.
    assert_eq!(other.write(console.file, b"x"), Ok(1));
    console.set(linux::TOSTOP, 0, 1, 0);
    let mut drain = Drain::new(b"y");
    assert!(other.calls().write(console.file, &mut drain).is_pending());
    assert_eq!(console.signals(), [(7, linux::SIGTTOU)]);
    other.ignored = vec![linux::SIGTTOU];
    assert_eq!(other.write(console.file, b"z"), Ok(1));
    other.ignored = vec![linux::SIGTTIN];
    assert_eq!(read(&other), Poll::Ready(Err(Errno::EIO)));
    other.ignored.clear();
    other.orphaned = true;
    assert_eq!(read(&other), Poll::Ready(Err(Errno::EIO)));
    other.orphaned = false;
    // It comes to the foreground: whoever waited is woken, and reads.
    assert!(read(&other).is_pending());
    let set = |process: &Process, group| {
        ioctl_of(
            process,
            console.file,
            ioctl::TIOCSPGRP,
            &mut Bytes::number(group),
        )
    };
    assert_eq!(set(&console.process, 7), Ok(0));
    assert!(other.woken.take());
    assert_eq!(other.read(console.file, 10).unwrap(), b"line\n");
    let mut group = Bytes(Vec::new());
    ioctl_of(&other, console.file, ioctl::TIOCGPGRP, &mut group).unwrap();
    assert_eq!(group.as_number(), 7);
    assert_eq!(set(&other, 555), Err(Errno::ESRCH));
    assert_eq!(set(&other, -1), Err(Errno::EINVAL));
    other.session = 9;
    assert_eq!(set(&other, 7), Err(Errno::ENOTTY));
}

#[test]
fn stopped_output_waits_and_goes_on() {
    let console = console();
    console.type_in("\x13");
    let mut drain = Drain::new(b"waits");
    let write = |drain: &mut Drain<'_>| console.process.calls().write(console.file, drain);
    assert!(write(&mut drain).is_pending());
    assert_eq!(console.screen.take(), "");
    console.type_in("\x11");
    assert!(console.process.woken.take());
    assert_eq!(now(write(&mut drain)), Ok(5));
    assert_eq!(console.screen.take(), "waits");
}

#[test]
fn a_screen_that_is_slow_loses_nothing() {
    let console = console();
    *console.screen.room.lock().unwrap() = 10;
    let text = "0123456789".repeat(1000);
    let mut drain = Drain::new(text.as_bytes());
    let mut shown = String::new();
    loop {
        let done = console.process.calls().write(console.file, &mut drain);
        shown += &console.screen.take();
        if done == Poll::Ready(Ok(10_000)) {
            break;
        }
        assert!(done.is_pending());
        *console.screen.room.lock().unwrap() = 100;
        console.process.woken.take();
        console.terminal.screen_has_room();
        assert!(console.process.woken.take());
    }
    // Draining waits for the rest.
    let drained = |console: &Console| {
        let mut one = Number(1);
        console
            .process
            .calls()
            .ioctl(console.file, ioctl::TCSBRK, &mut one)
    };
    assert!(drained(&console).is_pending());
    *console.screen.room.lock().unwrap() = usize::MAX;
    console.terminal.screen_has_room();
    assert_eq!(drained(&console), Poll::Ready(Ok(0)));
    shown += &console.screen.take();
    assert_eq!(shown, text);
}

#[test]
fn reads_without_lines_wait_for_bytes_and_for_time() {
    const TENTH: u64 = 100_000_000;
    let console = console();
    let process = &console.process;
    let read = || process.poll_read(console.file, 10);
    let again = || process.began.set(None);
    console.set(0, linux::ICANON | linux::ECHO, 3, 0);
    console.type_in("ab");
    assert!(read().is_pending());
    console.type_in("c");
    assert_eq!(read(), Poll::Ready(Ok(b"abc".into())));
    // Neither: what is there, if anything.
    console.set(0, 0, 0, 0);
    assert_eq!(read(), Poll::Ready(Ok(vec![])));
    // Time alone runs from the call on.
    console.set(0, 0, 0, 5);
    again();
    assert!(read().is_pending());
    process.host.advance(4 * TENTH);
    assert!(read().is_pending());
    process.woken.take();
    process.host.advance(6 * TENTH);
    assert!(process.woken.take());
    assert_eq!(read(), Poll::Ready(Ok(vec![])));
    again();
    assert!(read().is_pending());
    console.type_in("d");
    assert_eq!(read(), Poll::Ready(Ok(b"d".into())));
    // Both: time runs between bytes, and not before the first.
    console.set(0, 0, 3, 5);
    again();
    assert!(read().is_pending());
    process.host.advance(60 * TENTH);
    assert!(read().is_pending());
    console.type_in("e");
    assert!(read().is_pending());
    process.woken.take();
    process.host.advance(66 * TENTH);
    assert!(process.woken.take());
    assert_eq!(read(), Poll::Ready(Ok(b"e".into())));
}

#[test]
fn the_window_has_a_size_and_tells_when_it_changes() {
    let console = console();
    console.terminal.set_window(25, 80);
    assert_eq!(console.signals(), [(1, linux::SIGWINCH)]);
    let mut window = Bytes(Vec::new());
    ioctl_of(
        &console.process,
        console.file,
        ioctl::TIOCGWINSZ,
        &mut window,
    )
    .unwrap();
    assert_eq!(window.0, [25, 0, 80, 0, 0, 0, 0, 0]);
    ioctl_of(
        &console.process,
        console.file,
        ioctl::TIOCSWINSZ,
        &mut window,
    )
    .unwrap();
    assert_eq!(console.signals(), []);
}

#[test]
fn a_session_that_ends_lets_its_terminal_go() {
    let console = console();
    let own = console.process.open("/dev/tty", linux::O_RDWR, 0).unwrap();
    assert_eq!(console.process.write(own, b"x"), Ok(1));
    let mut other = console.process.fork(5);
    (other.session, other.group) = (5, 5);
    assert_eq!(other.open("/dev/tty", linux::O_RDWR, 0), Err(Errno::ENXIO));
    let take =
        |process: &Process| ioctl_of(process, console.file, ioctl::TIOCSCTTY, &mut Number(0));
    assert_eq!(take(&other), Err(Errno::EPERM));
    console.terminal.leave_session(1);
    assert_eq!(console.signals(), [(1, linux::SIGHUP), (1, linux::SIGCONT)]);
    assert_eq!(take(&other), Ok(0));
    assert_eq!(console.terminal.session(), Some(5));
}

#[test]
fn what_a_terminal_does_not_know_is_no_typewriter() {
    let console = console();
    let ask = |request| ioctl_of(&console.process, console.file, request, &mut Number(0));
    assert_eq!(ask(0x1234), Err(Errno::ENOTTY));
    assert_eq!(ask(ioctl::TCGETS), Err(Errno::EFAULT));
    assert_eq!(ask(ioctl::TCFLSH), Ok(0));
    assert_eq!(ask(ioctl::TIOCEXCL), Ok(0));
    let mut other = console.process.fork(2);
    other.who.user = 5;
    console
        .process
        .calls()
        .fchmodat(linux::AT_FDCWD, b"/dev/console", 0o666, 0)
        .unwrap();
    let open = |process: &Process| process.open("/dev/console", linux::O_RDWR, 0);
    assert_eq!(open(&other), Err(Errno::EBUSY));
    assert!(open(&console.process).is_ok());
    let flush = |what| {
        ioctl_of(
            &console.process,
            console.file,
            ioctl::TCFLSH,
            &mut Number(what),
        )
    };
    assert_eq!(flush(9), Err(Errno::EINVAL));
    console.process.make("/file", b"");
    let file = console.process.open("/file", 0, 0).unwrap();
    let asked = ioctl_of(&console.process, file, ioctl::TCGETS, &mut Number(0));
    assert_eq!(asked, Err(Errno::ENOTTY));
}

#[test]
fn a_pseudo_terminal_joins_two_programs() {
    let console = console();
    let process = &console.process;
    let master = process.open("/dev/ptmx", linux::O_RDWR, 0).unwrap();
    let mut number = Bytes(Vec::new());
    ioctl_of(process, master, ioctl::TIOCGPTN, &mut number).unwrap();
    assert_eq!(number.as_number(), 0);
    assert_eq!(process.names("/dev/pts").unwrap(), ["0"]);
    assert_eq!(
        process.open("/dev/pts/0", linux::O_RDWR, 0),
        Err(Errno::EIO)
    );
    ioctl_of(process, master, ioctl::TIOCSPTLCK, &mut Bytes::number(0)).unwrap();
    assert!(process.poll_read(master, 10).is_pending());
    let mut child = process.fork(3);
    (child.session, child.group) = (3, 3);
    let slave = child.open("/dev/pts/0", linux::O_RDWR, 0).unwrap();
    let stat = child.calls().fstat(slave).unwrap();
    assert_eq!((stat.st_mode, stat.st_rdev), (0o20_620, 0x8800));
    assert_eq!(child.write(slave, b"hello\n"), Ok(6));
    assert!(process.woken.take());
    assert_eq!(process.read(master, 100).unwrap(), b"hello\r\n");
    assert_eq!(process.write(master, b"typed\n\x03"), Ok(7));
    assert_eq!(console.signals(), [(3, linux::SIGINT)]);
    assert_eq!(process.write(master, b"more\n"), Ok(5));
    assert_eq!(child.read(slave, 100).unwrap(), b"more\n");
    // The screen's other side is slow: the writer waits for it.
    let long = vec![b'x'; 20_000];
    let mut drain = Drain::new(&long);
    assert!(child.calls().write(slave, &mut drain).is_pending());
    let mut all = Vec::new();
    while child.calls().write(slave, &mut drain).is_pending() {
        assert!(all.len() < 30_000);
        all.extend(process.read(master, 3000).unwrap());
    }
    while let Poll::Ready(Ok(bytes)) = process.poll_read(master, 3000) {
        all.extend(bytes);
    }
    assert!(all.ends_with(&long));
    // The last of the terminal's programs goes, and then the other side.
    child.calls().close(slave).unwrap();
    assert_eq!(process.read(master, 10), Err(Errno::EIO));
    let slave = child.open("/dev/pts/0", linux::O_RDWR, 0).unwrap();
    assert!(child.poll_read(slave, 10).is_pending());
    child.calls().close(master).unwrap();
    process.calls().close(master).unwrap();
    assert!(child.woken.take());
    assert_eq!(child.read(slave, 10).unwrap(), b"");
    let mut background = child.fork(4);
    background.group = 4;
    assert_eq!(background.read(slave, 10).unwrap(), b"");
    assert_eq!(child.write(slave, b"x"), Err(Errno::EIO));
    assert!(console.signals().contains(&(3, linux::SIGHUP)));
    assert_eq!(process.names("/dev/pts").unwrap(), [""; 0]);
}
