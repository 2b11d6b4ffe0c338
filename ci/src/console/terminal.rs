//! `--interactive`: the terminal in raw mode, its keys sent to the guest.

use std::io::Read;
use std::sync::mpsc::Sender;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::serial::Input;
use crate::exit::{Failure, Result};
use crate::ui;

/// Ctrl-D, which on an empty line is the end of the input.
const END: [u8; 1] = [0x04];

/// Ctrl-], which leaves `xl console` as well.
const LEAVE: u8 = 0x1d;

/// Keys on their way to the kernel. Before its first line they would go to Xen, which takes every
/// letter for a command of its own, so they wait.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    waiting: Vec<u8>,
}

impl Keys {
    /// Adds what was typed.
    pub(crate) fn typed(&mut self, keys: &[u8]) {
        self.waiting.extend(keys);
    }

    /// What can be delivered to a guest that has said `lines` so far.
    pub(crate) fn deliver(&mut self, lines: &[String]) -> Vec<u8> {
        if lines.is_empty() {
            Vec::new()
        } else {
            std::mem::take(&mut self.waiting)
        }
    }
}

/// The terminal in raw mode until dropped.
pub(crate) struct Terminal {
    before: Option<Termios>,
}

impl Terminal {
    /// Starts delivering keys to `inputs`. Standard input that is not a terminal is read too, so
    /// that a script can type.
    pub(crate) fn attach(inputs: Sender<Input>) -> Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)
                .map_err(|error| Failure::file("set up", "the terminal")(error.into()))?;
            ui::say("connected to the guest's console; Ctrl-] leaves\r");
        }
        std::thread::spawn(move || read_keys(&inputs));
        Ok(Self { before })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

fn read_keys(inputs: &Sender<Input>) {
    let mut buffer = [0; 256];
    let mut ends_line = true;
    while let Ok(count) = std::io::stdin().read(&mut buffer) {
        let keys = &buffer[..count];
        // The end of a script's input is said as a terminal's user would: on a line of its own.
        if keys.is_empty() {
            let end: &[u8] = if ends_line { &END } else { b"\r\x04" };
            let _ = inputs.send(Input::Keys(end.to_vec()));
            return;
        }
        ends_line = matches!(keys.last(), Some(b'\r' | b'\n'));
        let leave = keys.iter().position(|&key| key == LEAVE);
        let typed = &keys[..leave.unwrap_or(keys.len())];
        if inputs.send(Input::Keys(typed.to_vec())).is_err() {
            return;
        }
        if leave.is_some() {
            let _ = inputs.send(Input::Leave);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_wait_for_the_guest() {
        let mut keys = Keys::default();
        keys.typed(b"he");
        assert!(keys.deliver(&[]).is_empty());
        keys.typed(b"lp");
        let lines = ["ready".to_owned()];
        assert_eq!(keys.deliver(&lines), b"help");
        assert!(keys.deliver(&lines).is_empty());
    }
}
