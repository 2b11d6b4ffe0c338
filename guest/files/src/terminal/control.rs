//! Job control: which session a terminal belongs to, and who may use it now.

use linux_raw_sys::general as linux;

use super::Terminal;
use crate::errno::{Errno, Result};
use crate::host::Caller;

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

    /// Whether the caller may read (`SIGTTIN`), or write and change settings (`SIGTTOU`). If its
    /// group is in the background it gets the signal, and waits until that does something or it
    /// comes to the foreground.
    pub(super) fn check_foreground(&self, caller: &dyn Caller, signal: u32) -> Result<bool> {
        let foreground = self.state.lock().foreground;
        let group = caller.group();
        if !self.is_of(caller) || foreground == 0 || foreground == group {
            return Ok(true);
        }
        if caller.ignores(signal) {
            return match signal {
                linux::SIGTTIN => Err(Errno::EIO),
                _ => Ok(true),
            };
        }
        if caller.is_orphaned() {
            return Err(Errno::EIO);
        }
        self.signal(group, signal);
        Ok(false)
    }

    /// Becomes the terminal of the caller's session, if that has none and the caller leads it.
    ///
    /// # Errors
    /// `EPERM` if the caller leads no session, or the terminal has another.
    pub fn take_session(&self, caller: &dyn Caller) -> Result<()> {
        let mut state = self.state.lock();
        let session = caller.session();
        if state.session == session {
            return Ok(());
        }
        if caller.process() != session || state.session != 0 {
            return Err(Errno::EPERM);
        }
        state.session = session;
        state.foreground = caller.group();
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

    /// The group in the foreground.
    pub(super) fn foreground(&self, caller: &dyn Caller) -> Result<u32> {
        match self.is_of(caller) {
            true => Ok(self.state.lock().foreground),
            false => Err(Errno::ENOTTY),
        }
    }

    /// Puts a group of the caller's session into the foreground; `Ok(false)` if the caller is in
    /// the background, was told, and waits.
    pub(super) fn set_foreground(&self, caller: &dyn Caller, group: i32) -> Result<bool> {
        if !self.check_foreground(caller, linux::SIGTTOU)? {
            return Ok(false);
        }
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
        Ok(true)
    }
}
