//! Job control: which session a terminal belongs to, and who may use it now.

use core::task::Poll;

use linux_raw_sys::general as linux;

use super::Terminal;
use crate::errno::{Errno, Result};
use crate::host::{Call, Caller};

impl Terminal {
    /// The session that it is the terminal of.
    pub fn session(&self) -> Option<u32> {
        Some(self.state.lock().session).filter(|&session| session != 0)
    }

    /// Whether it is the caller's terminal.
    pub(super) fn is_of(&self, caller: &dyn Caller) -> bool {
        let session = self.state.lock().session;
        session != 0 && session == caller.session()
    }

    /// Waits until the caller may read (`SIGTTIN`), or write and change settings (`SIGTTOU`). If its
    /// group is in the background it gets the signal, and waits until that does something or it
    /// comes to the foreground.
    pub(super) fn to_foreground(&self, call: &Call<'_>, signal: u32) -> Poll<Result<()>> {
        let caller = call.caller;
        if !self.is_in_background(caller) {
            return Poll::Ready(Ok(()));
        }
        if caller.ignores(signal) {
            return Poll::Ready(match signal {
                linux::SIGTTIN => Err(Errno::EIO),
                _ => Ok(()),
            });
        }
        if caller.is_orphaned() {
            return Poll::Ready(Err(Errno::EIO));
        }
        self.signal(caller.group(), signal);
        self.readers.register(call.waker);
        // It may have come there meanwhile.
        match self.is_in_background(caller) {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }

    fn is_in_background(&self, caller: &dyn Caller) -> bool {
        let state = self.state.lock();
        // What is hung up says so to everyone.
        let foreground = if state.is_hung_up {
            0
        } else {
            state.foreground
        };
        drop(state);
        self.is_of(caller) && foreground != 0 && foreground != caller.group()
    }

    /// Becomes the terminal of the caller's session, if that has none and the caller leads it.
    ///
    /// # Errors
    /// `EPERM` if the caller leads no session, or the terminal has another.
    pub fn take_session(&self, caller: &dyn Caller) -> Result<()> {
        let (session, process, group) = (caller.session(), caller.process(), caller.group());
        let mut state = self.state.lock();
        if state.session == session {
            return Ok(());
        }
        if process != session || state.session != 0 {
            return Err(Errno::EPERM);
        }
        state.session = session;
        state.foreground = group;
        Ok(())
    }

    /// The session is over, or lets go of it: the foreground is told.
    pub fn leave_session(&self, session: u32) {
        let mut state = self.state.lock();
        if state.session != session || session == 0 {
            return;
        }
        let foreground = core::mem::take(&mut state.foreground);
        state.session = 0;
        drop(state);
        if foreground != 0 {
            self.signal(foreground, linux::SIGHUP);
            self.signal(foreground, linux::SIGCONT);
        }
        self.wake();
    }

    /// Whether the caller may open it: only root may while someone has it for itself (`TIOCEXCL`).
    pub(super) fn check_open(&self, call: &Call<'_>) -> Result<()> {
        match self.state.lock().is_exclusive && !call.who.is_root() {
            true => Err(Errno::EBUSY),
            false => Ok(()),
        }
    }

    /// Becomes the terminal of the caller's session if that has a leader without one, as opening
    /// does unless it says not to.
    pub(super) fn take_if_free(&self, call: &Call<'_>, flags: u32) {
        let caller = call.caller;
        if flags & linux::O_NOCTTY == 0 && caller.process() == caller.session() {
            // If it is another's it stays that.
            let _ = self.take_session(caller);
        }
    }

    /// The group in the foreground, whoever asks; 0 for none.
    pub(super) fn any_foreground(&self) -> u32 {
        self.state.lock().foreground
    }

    /// The group in the foreground.
    pub(super) fn foreground(&self, caller: &dyn Caller) -> Result<u32> {
        match self.is_of(caller) {
            true => Ok(self.state.lock().foreground),
            false => Err(Errno::ENOTTY),
        }
    }

    /// Puts a group of the caller's session into the foreground.
    pub(super) fn set_foreground(&self, caller: &dyn Caller, group: i32) -> Result<()> {
        if !self.is_of(caller) {
            return Err(Errno::ENOTTY);
        }
        let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
        match caller.session_of_group(group) {
            None => return Err(Errno::ESRCH),
            Some(session) if session != caller.session() => return Err(Errno::EPERM),
            Some(_) => {}
        }
        self.state.lock().foreground = group;
        self.readers.wake();
        self.writers.wake();
        Ok(())
    }
}
