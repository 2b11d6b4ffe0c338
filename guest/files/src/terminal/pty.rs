//! Pseudo-terminals: a terminal whose screen and keys are a program, such as one that draws a
//! window, or a shell over the network.
//!
//! Opening `/dev/ptmx` makes one: what is read there is what its terminal shows, what is written
//! there is typed. The terminal itself is `/dev/pts/N`, as long as the other side is open.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::task::{Poll, Waker, ready};

use linux_raw_sys::{general as linux, ioctl};

use super::file::TerminalFile;
use super::settings::Settings;
use super::{Output, OwnTerminalDevice, Terminal};
use crate::devices::add_device;
use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::{Call, Host};
use crate::inode::{DeviceNumber, FIRST_ENTRY, Kind, Where};
use crate::kernel::make_directory;
use crate::lock::Mutex;
use crate::ready::{Ready, Watchers, attempt};
use crate::shown::{Listing, Named, Shown, ShownDevice, ShownFs, each_number};
use crate::system::{Device, System};
use crate::transfer::{Argument, Sink, Source};

/// Bytes that are kept for the other side before the terminal's programs wait, as with Linux.
const SIZE: usize = 8192;

/// Pseudo-terminals at a time (Linux' `kernel.pty.max`).
const MOST: u32 = 4096;

/// The numbers of `/dev/ptmx`, of `/dev/tty` and of the first terminals of `/dev/pts`
/// (Linux' `Documentation/admin-guide/devices.txt`).
const MAKER: DeviceNumber = DeviceNumber::new(5, 2);
const OWN: DeviceNumber = DeviceNumber::new(5, 0);
const MAJOR: u32 = 136;

/// All pseudo-terminals.
pub(crate) struct Pseudo {
    host: Arc<dyn Host>,
    own: Arc<OwnTerminalDevice>,
    all: Mutex<BTreeMap<u32, Arc<Pair>>>,
}

/// Has `/dev/ptmx`, `/dev/pts` and `/dev/tty`, which is any terminal that `own` knows; the
/// pseudo-terminals join those.
///
/// # Errors
/// Those of making files in `/dev`, and of mounting.
pub fn add_pseudo_terminals(system: &Arc<System>, own: &Arc<OwnTerminalDevice>) -> Result<()> {
    let pseudo = Arc::new(Pseudo {
        host: system.host().clone(),
        own: own.clone(),
        all: Mutex::default(),
    });
    add_device(system, "tty", 0o666, OWN, own.clone())?;
    add_device(
        system,
        "ptmx",
        0o666,
        MAKER,
        Arc::new(Maker(pseudo.clone())),
    )?;
    make_directory(system, "/dev/pts", 0o755)?;
    let fs = ShownFs::new(
        "devpts",
        linux::DEVPTS_SUPER_MAGIC,
        // As all that lies on no disk has it; only that it differs from others' matters.
        DeviceNumber::new(0, MAJOR),
        Arc::new(Names(pseudo)),
        system.host().now(),
    );
    crate::kernel::mount(system, fs, "devpts", "/dev/pts")
}

/// One pseudo-terminal.
struct Pair {
    number: u32,
    /// Who made it.
    owner: (u32, u32),
    terminal: Arc<Terminal>,
    screen: Arc<Screen>,
    state: Mutex<PairState>,
}

struct PairState {
    /// Nobody may open the terminal yet.
    is_locked: bool,
    /// How many have the terminal open.
    open: u32,
    /// Someone had, and all have closed it.
    was_left: bool,
}

/// What the terminal shows, on its way to the other side.
#[derive(Default)]
struct Screen {
    shown: Mutex<VecDeque<u8>>,
    readers: Watchers,
}

impl Output for Screen {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut shown = self.shown.lock();
        let count = bytes.len().min(SIZE - shown.len());
        if shown.try_reserve(count).is_err() {
            return 0;
        }
        shown.extend(&bytes[..count]);
        count
    }

    fn written(&self) {
        self.readers.wake();
    }
}

/// `/dev/ptmx`.
struct Maker(Arc<Pseudo>);

impl Device for Maker {
    fn open(&self, call: &Call<'_>, _flags: u32) -> Result<Arc<dyn File>> {
        let pseudo = &self.0;
        let screen = Arc::new(Screen::default());
        let terminal = Terminal::with(pseudo.host.clone(), screen.clone(), Settings::PAIR);
        let mut all = pseudo.all.lock();
        let number = (0..MOST)
            .find(|number| !all.contains_key(number))
            .ok_or(Errno::ENOSPC)?;
        let pair = Arc::new(Pair {
            number,
            owner: (call.who.user, call.who.group),
            terminal,
            screen,
            state: Mutex::new(PairState {
                is_locked: true,
                open: 0,
                was_left: false,
            }),
        });
        all.insert(number, pair.clone());
        drop(all);
        pseudo.own.add(&pair.terminal);
        Ok(Arc::new(Master {
            pseudo: Arc::downgrade(pseudo),
            pair,
        }))
    }
}

/// The other side of a pseudo-terminal.
struct Master {
    pseudo: Weak<Pseudo>,
    pair: Arc<Pair>,
}

impl Master {
    fn try_read(&self, to: &mut dyn Sink) -> Option<Result<usize>> {
        let mut shown = self.pair.screen.shown.lock();
        let (first, _) = shown.as_slices();
        if first.is_empty() {
            let was_left = self.pair.state.lock().was_left;
            return was_left.then_some(Err(Errno::EIO));
        }
        let count = first.len().min(to.room());
        let copied = to.put(&first[..count]);
        if copied == 0 {
            return Some(Err(Errno::EFAULT));
        }
        shown.drain(..copied);
        // What wrapped around the end of memory comes too.
        let (rest, _) = shown.as_slices();
        let count = rest.len().min(to.room());
        let more = to.put(&rest[..count]);
        shown.drain(..more);
        Some(Ok(copied + more))
    }
}

impl File for Master {
    fn read(&self, call: &Call<'_>, _at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        if to.room() == 0 {
            return Poll::Ready(Ok(0));
        }
        let done = attempt(
            call,
            || self.pair.screen.readers.register(call.waker),
            || self.try_read(to),
        );
        if done.is_ready() {
            self.pair.terminal.screen_has_room();
        }
        done
    }

    fn write(
        &self,
        call: &Call<'_>,
        _at: Where,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        let mut done = 0;
        while from.left() > 0 {
            let mut bytes = [0; 256];
            let taken = from.take(&mut bytes);
            if taken == 0 {
                break;
            }
            let waker = (!call.nonblock && done == 0).then_some(call.waker);
            let typed = self.pair.terminal.type_in(&bytes[..taken], waker);
            from.give_back(taken - typed);
            done += typed;
            if typed < taken {
                return Poll::Ready(match done {
                    0 if call.nonblock => Err(Errno::EAGAIN),
                    0 => return Poll::Pending,
                    _ => Ok((0, done)),
                });
            }
        }
        Poll::Ready(match (done, from.left()) {
            (0, 1..) => Err(Errno::EFAULT),
            _ => Ok((0, done)),
        })
    }

    fn ready(&self, waker: Option<&Waker>) -> Ready {
        let pair = &self.pair;
        if let Some(waker) = waker {
            pair.screen.readers.register(waker);
            pair.terminal.register_typist(waker);
        }
        let was_left = pair.state.lock().was_left;
        let mut ready = Ready::empty();
        ready.set(Ready::READ, !pair.screen.shown.lock().is_empty());
        ready.set(Ready::WRITE, pair.terminal.has_room());
        ready.set(Ready::HUP, was_left);
        ready
    }

    fn ioctl(
        &self,
        call: &Call<'_>,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        let pair = &self.pair;
        Poll::Ready(match request {
            ioctl::TIOCGPTN => argument.put_number(pair.number as i32),
            ioctl::TIOCSPTLCK => argument.get_number().map(|lock| {
                pair.state.lock().is_locked = lock != 0;
                0
            }),
            ioctl::TIOCGPTLCK => argument.put_number(pair.state.lock().is_locked.into()),
            ioctl::FIONREAD => argument.put_number(pair.screen.shown.lock().len() as i32),
            ioctl::TIOCGPGRP => argument.put_number(pair.terminal.any_foreground() as i32),
            ioctl::TIOCGSID => match pair.terminal.session() {
                Some(session) => argument.put_number(session as i32),
                None => Err(Errno::ENOTTY),
            },
            ioctl::TIOCSCTTY | ioctl::TIOCNOTTY => Err(Errno::ENOTTY),
            // All else is asked of the terminal, settings and window above all.
            _ => ready!(pair.terminal.control(call, request, argument)),
        })
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some(pseudo) = self.pseudo.upgrade() {
            let _gone = pseudo.all.lock().remove(&self.pair.number);
        }
        self.pair.terminal.hang_up();
    }
}

/// That a terminal of `/dev/pts` is open.
struct Opened(Arc<Pair>);

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        state.was_left = state.open == 0;
        drop(state);
        self.0.screen.readers.wake();
    }
}

impl ShownDevice for Pair {
    fn number(&self) -> DeviceNumber {
        DeviceNumber::new(MAJOR + (self.number >> 8), self.number & 0xff)
    }

    fn owner(&self) -> (u32, u32) {
        self.owner
    }

    fn open(self: Arc<Self>, call: &Call<'_>, flags: u32) -> Result<Arc<dyn File>> {
        self.terminal.check_open(call)?;
        let mut state = self.state.lock();
        if state.is_locked {
            return Err(Errno::EIO);
        }
        state.open += 1;
        state.was_left = false;
        drop(state);
        let file = Arc::new(TerminalFile(self.terminal.clone(), Opened(self.clone())));
        self.terminal.take_if_free(call, flags);
        Ok(file)
    }
}

/// `/dev/pts`.
struct Names(Arc<Pseudo>);

impl Listing for Names {
    fn find(&self, name: &[u8]) -> Option<Shown> {
        let number = crate::shown::number(name)?;
        let pair = self.0.all.lock().get(&number)?.clone();
        Some(Shown::Device(pair))
    }

    fn each(&self, from: u64, each: &mut dyn FnMut(Named<'_>) -> bool) {
        let numbers: Vec<u64> = self.0.all.lock().keys().map(|&n| n.into()).collect();
        each_number(
            numbers.into_iter(),
            FIRST_ENTRY,
            Kind::CharDevice,
            from,
            each,
        );
    }
}
