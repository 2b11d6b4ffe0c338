//! Terminals as files: `/dev/console`, `/dev/tty`, and what ioctls ask of them.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::task::{Poll, ready};

use linux_raw_sys::{general as linux, ioctl};

use super::Terminal;
use super::settings::{TERMIOS, TERMIOS2};
use crate::errno::{Errno, Result};
use crate::file::File;
use crate::host::Call;
use crate::inode::Where;
use crate::lock::Mutex;
use crate::ready::Ready;
use crate::system::Device;
use crate::transfer::{Argument, Sink, Source};

/// An open terminal, with what is to go when it is closed.
pub(crate) struct TerminalFile<T = ()>(pub(crate) Arc<Terminal>, pub(crate) T);

impl<T: Send + Sync + 'static> File for TerminalFile<T> {
    fn read(&self, call: &Call<'_>, _at: u64, to: &mut dyn Sink) -> Poll<Result<usize>> {
        self.0.read(call, to)
    }

    fn write(
        &self,
        call: &Call<'_>,
        _at: Where,
        from: &mut dyn Source,
    ) -> Poll<Result<(u64, usize)>> {
        self.0.write(call, from).map_ok(|count| (0, count))
    }

    fn ready(&self, waker: Option<&core::task::Waker>) -> Ready {
        self.0.ready(waker)
    }

    fn ioctl(
        &self,
        call: &Call<'_>,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        self.0.control(call, request, argument)
    }
}

/// The number of the line discipline (`include/uapi/linux/tty.h`, which the crate of Linux' numbers
/// leaves out).
const N_TTY: i32 = 0;

impl Terminal {
    /// Does what an ioctl asks.
    pub(crate) fn control(
        &self,
        call: &Call<'_>,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        match request {
            ioctl::TCSETS | ioctl::TCSETS2 => self.set_settings(call, request, argument),
            ioctl::TCSETSW | ioctl::TCSETSW2 | ioctl::TCSETSF | ioctl::TCSETSF2 => {
                self.set_settings(call, request, argument)
            }
            ioctl::TIOCSPGRP | ioctl::TCFLSH | ioctl::TCXONC | ioctl::TCSBRK | ioctl::TCSBRKP => {
                self.change_state(call, request, argument)
            }
            _ => Poll::Ready(self.ask(call, request, argument)),
        }
    }

    /// What changes nothing that a program in the background must not change.
    fn ask(&self, call: &Call<'_>, request: u32, argument: &mut dyn Argument) -> Result<u64> {
        let caller = call.caller;
        match request {
            ioctl::TCGETS => {
                let settings = self.state.lock().settings.encode();
                argument.put(&settings[..TERMIOS]).map(|()| 0)
            }
            ioctl::TCGETS2 => {
                let settings = self.state.lock().settings.encode();
                argument.put(&settings).map(|()| 0)
            }
            ioctl::TIOCGWINSZ => {
                let window = self.state.lock().window;
                let mut bytes = [0; 8];
                for (at, number) in window.iter().enumerate() {
                    bytes[at * 2..][..2].copy_from_slice(&number.to_ne_bytes());
                }
                argument.put(&bytes).map(|()| 0)
            }
            ioctl::TIOCSWINSZ => {
                let mut bytes = [0; 8];
                argument.get(&mut bytes)?;
                let number = |at: usize| u16::from_ne_bytes([bytes[at * 2], bytes[at * 2 + 1]]);
                self.change_window([number(0), number(1), number(2), number(3)]);
                Ok(0)
            }
            ioctl::TIOCGPGRP => argument.put_number(self.foreground(caller)? as i32),
            ioctl::TIOCGSID => match self.is_of(caller) {
                true => argument.put_number(caller.session() as i32),
                false => Err(Errno::ENOTTY),
            },
            ioctl::TIOCSCTTY => self.take_session(caller).map(|()| 0),
            ioctl::TIOCNOTTY => {
                if !self.is_of(caller) {
                    return Err(Errno::ENOTTY);
                }
                // Only with its leader a session loses its terminal.
                if caller.process() == caller.session() {
                    self.leave_session(caller.session());
                }
                Ok(0)
            }
            ioctl::FIONREAD => {
                let state = self.state.lock();
                let count = state.incoming.countable(&state.settings);
                drop(state);
                argument.put_number(count as i32)
            }
            ioctl::TIOCOUTQ => {
                let count = self.state.lock().outgoing.waiting();
                argument.put_number(count as i32)
            }
            // The line discipline, of which there is one.
            ioctl::TIOCGETD => argument.put_number(N_TTY),
            ioctl::TIOCEXCL | ioctl::TIOCNXCL => {
                self.state.lock().is_exclusive = request == ioctl::TIOCEXCL;
                Ok(0)
            }
            ioctl::TIOCGEXCL => argument.put_number(self.state.lock().is_exclusive.into()),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn set_settings(
        &self,
        call: &Call<'_>,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        if let Err(error) = ready!(self.to_foreground(call, linux::SIGTTOU)) {
            return Poll::Ready(Err(error));
        }
        let has_speeds = matches!(request, ioctl::TCSETS2 | ioctl::TCSETSW2 | ioctl::TCSETSF2);
        let mut bytes = [0; TERMIOS2];
        let length = if has_speeds { TERMIOS2 } else { TERMIOS };
        if let Err(error) = argument.get(&mut bytes[..length]) {
            return Poll::Ready(Err(error));
        }
        if !matches!(request, ioctl::TCSETS | ioctl::TCSETS2) {
            ready!(self.drain(call));
        }
        let drops_input = matches!(request, ioctl::TCSETSF | ioctl::TCSETSF2);
        self.apply(&bytes, has_speeds, drops_input);
        self.output.written();
        self.wake();
        Poll::Ready(Ok(0))
    }

    fn apply(&self, bytes: &[u8; TERMIOS2], has_speeds: bool, drops_input: bool) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if drops_input {
            state.incoming.clear();
        }
        let old = state.settings;
        let new = old.decode(bytes, has_speeds);
        state.settings = new;
        state.incoming.change(&old, &new);
        // Whom the stop key stopped could not be let go on by its counterpart any more.
        if old.has_input(linux::IXON) && !new.has_input(linux::IXON) {
            state.outgoing.is_stopped = false;
            state.outgoing.flush(&*self.output);
        }
    }

    fn change_state(
        &self,
        call: &Call<'_>,
        request: u32,
        argument: &mut dyn Argument,
    ) -> Poll<Result<u64>> {
        if let Err(error) = ready!(self.to_foreground(call, linux::SIGTTOU)) {
            return Poll::Ready(Err(error));
        }
        let what = argument.value() as u32;
        match request {
            ioctl::TIOCSPGRP => {
                let group = argument.get_number();
                let done = group.and_then(|group| self.set_foreground(call.caller, group));
                return Poll::Ready(done.map(|()| 0));
            }
            ioctl::TCFLSH => {
                if !matches!(what, linux::TCIFLUSH | linux::TCOFLUSH | linux::TCIOFLUSH) {
                    return Poll::Ready(Err(Errno::EINVAL));
                }
                let mut state = self.state.lock();
                if what != linux::TCOFLUSH {
                    state.incoming.clear();
                }
                if what != linux::TCIFLUSH {
                    state.outgoing.drop_waiting();
                }
            }
            ioctl::TCXONC => {
                let mut state = self.state.lock();
                match what {
                    linux::TCOOFF => state.outgoing.is_held = true,
                    linux::TCOON => {
                        state.outgoing.is_held = false;
                        state.outgoing.is_stopped = false;
                        state.outgoing.flush(&*self.output);
                    }
                    // To whoever types: a stop or a start character.
                    linux::TCIOFF | linux::TCION => {
                        let key = match what {
                            linux::TCIOFF => linux::VSTOP,
                            _ => linux::VSTART,
                        };
                        let byte = state.settings.at(key);
                        if byte != 0 {
                            state.outgoing.put_raw(&[byte]);
                            state.outgoing.flush(&*self.output);
                        }
                    }
                    _ => return Poll::Ready(Err(Errno::EINVAL)),
                }
            }
            // A break cannot be sent; waiting until all is written is the other half of it.
            _ => ready!(self.drain(call)),
        }
        self.output.written();
        self.wake();
        Poll::Ready(Ok(0))
    }
}

/// `/dev/console` and the like: a device that is one terminal.
pub struct ConsoleDevice(
    /// The terminal.
    pub Arc<Terminal>,
);

impl Device for ConsoleDevice {
    fn open(&self, call: &Call<'_>, flags: u32) -> Result<Arc<dyn File>> {
        self.0.check_open(call)?;
        self.0.take_if_free(call, flags);
        Ok(Arc::new(TerminalFile(self.0.clone(), ())))
    }
}

/// `/dev/tty`: whichever terminal the caller's session has.
#[derive(Default)]
pub struct OwnTerminalDevice(Mutex<Vec<Weak<Terminal>>>);

impl OwnTerminalDevice {
    /// Makes a terminal known that a session can have.
    pub fn add(&self, terminal: &Arc<Terminal>) {
        let mut all = self.0.lock();
        all.retain(|terminal| terminal.strong_count() > 0);
        all.push(Arc::downgrade(terminal));
    }

    /// The terminal of a session.
    pub fn of_session(&self, session: u32) -> Option<Arc<Terminal>> {
        let all = self.0.lock().clone();
        all.iter()
            .filter_map(Weak::upgrade)
            .find(|terminal| session != 0 && terminal.session() == Some(session))
    }
}

impl Device for OwnTerminalDevice {
    fn open(&self, call: &Call<'_>, _flags: u32) -> Result<Arc<dyn File>> {
        let own = self.of_session(call.caller.session()).ok_or(Errno::ENXIO)?;
        Ok(Arc::new(TerminalFile(own, ())))
    }
}
