//! What a program writes on its way to the screen, and the echo of what is typed.
//!
//! Bytes that the screen does not take at once, or that wait because output is stopped, are kept in
//! order: programs then wait, and echo beyond what is kept is lost, as with Linux.

use alloc::collections::VecDeque;

use linux_raw_sys::general as linux;

use super::Output;
use super::settings::Settings;

/// Bytes kept before programs wait.
const FULL: usize = 2048;

/// Bytes kept before echo is dropped.
const MOST: usize = FULL + 4096;

/// Output on its way.
#[derive(Default)]
pub(super) struct Outgoing {
    kept: VecDeque<u8>,
    /// Where the cursor is, from the left.
    pub(super) column: u32,
    /// Where it was when the line began that is being typed.
    pub(super) line_column: u32,
    /// Ctrl-S.
    pub(super) is_stopped: bool,
    /// Stopped by a program, and only a program lets it go on.
    pub(super) is_held: bool,
}

/// Whether a byte of UTF-8 goes on with a character.
pub(super) fn continues(settings: &Settings, byte: u8) -> bool {
    settings.has_input(linux::IUTF8) && byte & 0xc0 == 0x80
}

/// Whether a byte is none that is shown as itself.
pub(super) fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// A letter of Latin-1 as a capital, as Linux' `lib/ctype.c` has it.
fn upper(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | 0xdf..=0xf6 | 0xf8..=0xff => byte - 0x20,
        _ => byte,
    }
}

impl Outgoing {
    /// Whether programs must wait before they write more.
    pub(super) fn is_full(&self) -> bool {
        self.is_stopped || self.is_held || self.kept.len() >= FULL
    }

    /// Bytes that the screen has not taken.
    pub(super) fn waiting(&self) -> usize {
        self.kept.len()
    }

    /// Drops what the screen has not taken.
    pub(super) fn drop_waiting(&mut self) {
        self.kept.clear();
    }

    /// Gives the screen what it takes.
    pub(super) fn flush(&mut self, screen: &dyn Output) {
        if self.is_stopped || self.is_held {
            return;
        }
        loop {
            let (first, _) = self.kept.as_slices();
            if first.is_empty() {
                return;
            }
            let length = first.len();
            let taken = screen.write(first).min(length);
            self.kept.drain(..taken);
            if taken < length {
                return;
            }
        }
    }

    /// Keeps bytes as they are.
    pub(super) fn put_raw(&mut self, bytes: &[u8]) {
        if self.kept.len() + bytes.len() <= MOST && self.kept.try_reserve(bytes.len()).is_ok() {
            self.kept.extend(bytes);
        }
    }

    /// Keeps a byte as the settings have it written.
    pub(super) fn put(&mut self, settings: &Settings, mut byte: u8) {
        if !settings.has_output(linux::OPOST) {
            self.put_raw(&[byte]);
            return;
        }
        match byte {
            b'\n' => {
                if settings.has_output(linux::ONLRET) {
                    self.column = 0;
                }
                if settings.has_output(linux::ONLCR) {
                    self.column = 0;
                    self.line_column = 0;
                    self.put_raw(b"\r\n");
                    return;
                }
                self.line_column = self.column;
            }
            b'\r' => {
                if settings.has_output(linux::ONOCR) && self.column == 0 {
                    return;
                }
                if settings.has_output(linux::OCRNL) {
                    byte = b'\n';
                    if settings.has_output(linux::ONLRET) {
                        self.column = 0;
                        self.line_column = 0;
                    }
                } else {
                    self.column = 0;
                    self.line_column = 0;
                }
            }
            b'\t' => {
                let spaces = 8 - (self.column & 7);
                self.column = self.column.wrapping_add(spaces);
                if settings.output & linux::TABDLY == linux::XTABS {
                    self.put_raw(&b"        "[..spaces as usize]);
                    return;
                }
            }
            0x08 => self.column = self.column.saturating_sub(1),
            _ if is_control(byte) => {}
            _ => {
                if settings.has_output(linux::OLCUC) {
                    byte = upper(byte);
                }
                if !continues(settings, byte) {
                    self.column = self.column.wrapping_add(1);
                }
            }
        }
        self.put_raw(&[byte]);
    }

    /// Shows a byte that was typed; one that cannot be shown as `^` and a letter.
    pub(super) fn echo(&mut self, settings: &Settings, byte: u8) {
        if settings.has_local(linux::ECHOCTL) && is_control(byte) && byte != b'\t' {
            self.column = self.column.wrapping_add(2);
            self.put_raw(&[b'^', byte ^ 0x40]);
        } else if byte == 0xff {
            // Linux marks in its echo by this byte what is no character, and passes it by.
            self.column = self.column.wrapping_add(1);
            self.put_raw(&[byte]);
        } else {
            self.put(settings, byte);
        }
    }

    /// Takes back the last character that was shown.
    pub(super) fn rub_out(&mut self, settings: &Settings) {
        for &byte in b"\x08 \x08" {
            self.put(settings, byte);
        }
    }

    /// Takes back a tab before which, since the last one or the line's begin, `width` columns were
    /// typed.
    pub(super) fn rub_out_tab(&mut self, width: u32, after_tab: bool) {
        let column = match after_tab {
            true => width & 7,
            false => (width & 7) + self.line_column,
        };
        for _ in 0..8 - (column & 7) {
            self.put_raw(b"\x08");
            self.column = self.column.saturating_sub(1);
        }
    }
}
