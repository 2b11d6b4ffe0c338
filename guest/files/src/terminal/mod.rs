//! A terminal: what is typed comes to programs by lines or by bytes, what they write goes to a
//! screen, and keys send signals.
//!
//! The kernel's console and the slave side of a pseudo-terminal are both one of these. All that
//! programs can tell is Linux' `N_TTY` (`drivers/tty/n_tty.c`, `tty_io.c`, `tty_jobctrl.c`).

mod control;
mod file;
mod input;
mod output;
mod pty;
mod settings;

use alloc::sync::Arc;
use core::task::{Poll, Waker, ready};

use linux_raw_sys::general as linux;

use crate::errno::{Errno, Result};
use crate::host::{Call, Host};
use crate::lock::Mutex;
use crate::ready::{Ready, Watchers, attempt};
use crate::transfer::{Sink, Source};
pub use file::{ConsoleDevice, OwnTerminalDevice};
use input::{Effect, Incoming};
use output::Outgoing;
pub use pty::add_pseudo_terminals;
use settings::Settings;

/// Where a terminal's output goes.
pub trait Output: Send + Sync {
    /// Takes bytes from the front, and returns how many. It must neither wait nor call back: what
    /// it does not take it gets again after [`Terminal::screen_has_room`].
    fn write(&self, bytes: &[u8]) -> usize;

    /// Bytes came, and the terminal's lock is free again: whoever reads them can be woken.
    fn written(&self) {}
}

/// A terminal.
pub struct Terminal {
    host: Arc<dyn Host>,
    output: Arc<dyn Output>,
    state: Mutex<State>,
    /// Those who wait for input, or to come to the foreground.
    readers: Watchers,
    /// Those who wait to write, or until all is written.
    writers: Watchers,
    /// Those who bring input and wait for room.
    typists: Watchers,
}

struct State {
    settings: Settings,
    window: [u16; 4],
    incoming: Incoming,
    outgoing: Outgoing,
    /// The session that it is the terminal of; 0 for none.
    session: u32,
    /// The process group in the foreground; 0 for none.
    foreground: u32,
    /// When the last byte was typed, in nanoseconds since the boot.
    typed_at: u64,
    /// The other side is gone for good.
    is_hung_up: bool,
    /// Only root may open it.
    is_exclusive: bool,
}

/// A tenth of a second in nanoseconds, the unit of `VTIME`.
const TENTH: u64 = 100_000_000;

/// Bytes that a program writes at a time.
const STEP: usize = 256;

impl Terminal {
    /// A terminal that writes to `output`.
    pub fn new(host: Arc<dyn Host>, output: Arc<dyn Output>) -> Arc<Self> {
        Self::with(host, output, Settings::STANDARD)
    }

    /// One that is set so.
    fn with(host: Arc<dyn Host>, output: Arc<dyn Output>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            host,
            output,
            state: Mutex::new(State {
                settings,
                window: [0; 4],
                incoming: Incoming::default(),
                outgoing: Outgoing::default(),
                session: 0,
                foreground: 0,
                typed_at: 0,
                is_hung_up: false,
                is_exclusive: false,
            }),
            readers: Watchers::new(),
            writers: Watchers::new(),
            typists: Watchers::new(),
        })
    }

    /// Takes what was typed, and returns how many bytes of it: what it has no room for now is to
    /// be brought again after `waker` was woken.
    pub fn type_in(&self, bytes: &[u8], waker: Option<&Waker>) -> usize {
        let done = self.take_typed(bytes);
        match waker {
            Some(waker) if done < bytes.len() => {
                self.typists.register(waker);
                done + self.take_typed(&bytes[done..])
            }
            _ => done,
        }
    }

    /// Whether a byte could be typed now.
    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.incoming.has_room(&state.settings)
    }

    /// Has a waker woken when more can be typed.
    fn register_typist(&self, waker: &Waker) {
        self.typists.register(waker);
    }

    fn take_typed(&self, bytes: &[u8]) -> usize {
        let now = self.host.since_boot();
        let mut done = 0;
        let mut readable = false;
        while done < bytes.len() {
            let (taken, signal) = self.take_until_signal(&bytes[done..], now, &mut readable);
            done += taken;
            match signal {
                // Without the lock: the kernel may look at this terminal.
                Some((group, signal)) if group != 0 => self.signal(group, signal),
                Some(_) => {}
                None => break,
            }
        }
        self.output.written();
        if readable {
            self.readers.wake();
        }
        self.writers.wake();
        done
    }

    /// Takes bytes up to one that sends a signal, and returns how many and whom it is for.
    fn take_until_signal(
        &self,
        bytes: &[u8],
        now: u64,
        readable: &mut bool,
    ) -> (usize, Option<(u32, u32)>) {
        let mut done = 0;
        let mut signal = None;
        let mut state = self.state.lock();
        let state = &mut *state;
        while let Some(&byte) = bytes.get(done)
            && signal.is_none()
            && state.incoming.has_room(&state.settings)
        {
            state.typed_at = now;
            let settings = state.settings;
            match state.incoming.take(&settings, &mut state.outgoing, byte) {
                Effect::None => {}
                Effect::Changed => *readable = true,
                Effect::Stop => {
                    state.outgoing.flush(&*self.output);
                    state.outgoing.is_stopped = true;
                }
                Effect::Signal(sent) => signal = Some((state.foreground, sent)),
            }
            done += 1;
        }
        state.outgoing.flush(&*self.output);
        (done, signal)
    }

    /// Sends a signal; never with the lock held.
    fn signal(&self, group: u32, signal: u32) {
        self.host.signal_group(group, signal);
    }

    /// Goes on with output that the screen did not take.
    pub fn screen_has_room(&self) {
        self.state.lock().outgoing.flush(&*self.output);
        self.output.written();
        self.writers.wake();
    }

    /// The other side is gone: reads end, writes fail, and who uses it gets `SIGHUP`.
    pub fn hang_up(&self) {
        let mut state = self.state.lock();
        state.is_hung_up = true;
        state.incoming.clear();
        let (session, foreground) = (state.session, state.foreground);
        drop(state);
        for group in [session, foreground] {
            if group != 0 {
                self.signal(group, linux::SIGHUP);
                self.signal(group, linux::SIGCONT);
            }
            if session == foreground {
                break;
            }
        }
        self.wake();
    }

    fn wake(&self) {
        self.readers.wake();
        self.writers.wake();
        self.typists.wake();
    }

    /// Sets rows and columns, and tells the foreground if they changed.
    pub fn set_window(&self, rows: u16, columns: u16) {
        let [_, _, width, height] = self.state.lock().window;
        self.change_window([rows, columns, width, height]);
    }

    fn change_window(&self, window: [u16; 4]) {
        let mut state = self.state.lock();
        let changed = core::mem::replace(&mut state.window, window) != window;
        let group = state.foreground;
        drop(state);
        if changed && group != 0 {
            self.signal(group, linux::SIGWINCH);
        }
    }

    /// Reads what was typed, as the settings say.
    fn read(&self, call: &Call<'_>, to: &mut dyn Sink) -> Poll<Result<usize>> {
        if to.room() == 0 {
            return Poll::Ready(Ok(0));
        }
        if let Err(error) = ready!(self.to_foreground(call, linux::SIGTTIN)) {
            return Poll::Ready(Err(error));
        }
        let done = attempt(
            call,
            || self.readers.register(call.waker),
            || self.try_read(call, to),
        );
        if done.is_ready() {
            self.typists.wake();
        }
        done
    }

    /// Reads, or sees to it that the waker is woken in time.
    fn try_read(&self, call: &Call<'_>, to: &mut dyn Sink) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.is_hung_up {
            return Some(Ok(0));
        }
        let settings = state.settings;
        let available = state.incoming.available(&settings);
        if !settings.is_canonical() {
            let least = usize::from(settings.at(linux::VMIN));
            let time = u64::from(settings.at(linux::VTIME)) * TENTH;
            let wanted = if call.nonblock {
                1
            } else {
                least.min(to.room())
            };
            let enough = available > 0 && available >= wanted;
            if !enough {
                // Without `VMIN` the time runs from the call on, with it from the last byte on.
                let now = self.host.since_boot();
                let began = call.began(now);
                let over = match (least, time) {
                    (0, 0) => true,
                    (_, 0) => false,
                    (0, _) => self.is_over(call, now, began + time),
                    _ if available == 0 => false,
                    _ => self.is_over(call, now, state.typed_at.max(began) + time),
                };
                if !over {
                    return None;
                }
            }
        } else if available == 0 {
            return None;
        }
        Some(state.incoming.read(&settings, to))
    }

    /// Whether a time has come; the waker is woken when it has.
    fn is_over(&self, call: &Call<'_>, now: u64, at: u64) -> bool {
        if now < at && !call.nonblock {
            self.host.wake_at(at, call.waker);
        }
        now >= at
    }

    /// Writes as much as can go on its way now.
    fn write(&self, call: &Call<'_>, from: &mut dyn Source) -> Poll<Result<usize>> {
        let stops = self.state.lock().settings.has_local(linux::TOSTOP);
        if stops && let Err(error) = ready!(self.to_foreground(call, linux::SIGTTOU)) {
            return Poll::Ready(Err(error));
        }
        attempt(
            call,
            || self.writers.register(call.waker),
            || self.write_some(from),
        )
    }

    /// Writes until there is nothing left or no room; `None` if there was no room at all.
    fn write_some(&self, from: &mut dyn Source) -> Option<Result<usize>> {
        let mut done = 0;
        while from.left() > 0 {
            match self.try_write(from) {
                Some(Ok(count)) => done += count,
                stopped if done == 0 => return stopped,
                _ => break,
            }
        }
        Some(Ok(done))
    }

    fn try_write(&self, from: &mut dyn Source) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        if state.is_hung_up {
            return Some(Err(Errno::EIO));
        }
        if state.outgoing.is_full() {
            return None;
        }
        let mut bytes = [0; STEP];
        let count = from.take(&mut bytes);
        if count == 0 {
            return Some(Err(Errno::EFAULT));
        }
        let settings = state.settings;
        for &byte in &bytes[..count] {
            state.outgoing.put(&settings, byte);
        }
        state.outgoing.flush(&*self.output);
        drop(state);
        self.output.written();
        Some(Ok(count))
    }

    /// Whether all that was written has left; the waker is woken when it may have.
    fn drain(&self, call: &Call<'_>) -> Poll<()> {
        self.writers.register(call.waker);
        match self.state.lock().outgoing.waiting() {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// What it is ready for.
    fn ready(&self, waker: Option<&Waker>) -> Ready {
        if let Some(waker) = waker {
            self.readers.register(waker);
            self.writers.register(waker);
        }
        let state = self.state.lock();
        let settings = &state.settings;
        let mut least = 1;
        if !settings.is_canonical() && settings.at(linux::VTIME) == 0 {
            least = usize::from(settings.at(linux::VMIN)).max(1);
        }
        let mut ready = Ready::empty();
        ready.set(
            Ready::READ,
            state.is_hung_up || state.incoming.available(settings) >= least,
        );
        ready.set(Ready::HUP, state.is_hung_up);
        ready.set(Ready::WRITE, state.is_hung_up || !state.outgoing.is_full());
        ready
    }
}
