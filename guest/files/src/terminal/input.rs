//! What is typed on its way to a program: the line discipline, as Linux' `N_TTY` has it.
//!
//! A line can be edited until its end is typed, and is read as a whole; without `ICANON` bytes can
//! be read at once. 4,095 bytes are kept: then whoever brings more waits, or, where the line could
//! never end otherwise, the last byte gives way to the next.

use alloc::collections::VecDeque;

use linux_raw_sys::general as linux;

use super::output::{Outgoing, continues, is_control};
use super::settings::Settings;
use crate::errno::{Errno, Result};
use crate::transfer::Sink;

/// Bytes that are kept, and one (`N_TTY_BUF_SIZE` in Linux' `include/linux/tty.h`).
const SIZE: usize = 4096;

/// What stands in the line where it ended by `VEOF`.
const END_OF_FILE: u8 = 0;

/// Input that was not read yet.
#[derive(Default)]
pub(super) struct Incoming {
    bytes: VecDeque<Typed>,
    /// How many of them are in lines that have ended.
    ready: usize,
    /// The next byte is taken as it is.
    next_is_literal: bool,
    /// Erased characters are being shown, until what is typed next.
    is_erasing: bool,
}

#[derive(Clone, Copy)]
struct Typed {
    byte: u8,
    ends_line: bool,
}

/// What a byte did besides being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// There may be more to read, or to write.
    Changed,
    /// Output is to stop behind what was echoed so far.
    Stop,
    /// A signal for the foreground.
    Signal(u32),
}

impl Incoming {
    /// Whether a byte can come now.
    pub(super) fn has_room(&self, settings: &Settings) -> bool {
        match self.room(settings) {
            0 => settings.is_canonical() && self.ready == 0,
            _ => true,
        }
    }

    fn room(&self, settings: &Settings) -> usize {
        let room = SIZE.saturating_sub(self.bytes.len());
        let room = match settings.has_input(linux::PARMRK) {
            true => room.div_ceil(3),
            false => room,
        };
        room.saturating_sub(1)
    }

    /// Bytes that can be read.
    pub(super) fn available(&self, settings: &Settings) -> usize {
        match settings.is_canonical() {
            true => self.ready,
            false => self.bytes.len(),
        }
    }

    /// What `FIONREAD` tells: without the marks of ends by `VEOF`.
    pub(super) fn countable(&self, settings: &Settings) -> usize {
        if !settings.is_canonical() {
            return self.bytes.len();
        }
        let lines = self.bytes.iter().take(self.ready);
        lines
            .filter(|typed| !(typed.ends_line && typed.byte == END_OF_FILE))
            .count()
    }

    /// Drops all of it.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ready = 0;
        self.is_erasing = false;
    }

    /// The settings changed: what was typed so far becomes lines, or bytes.
    pub(super) fn change(&mut self, old: &Settings, new: &Settings) {
        if (old.local ^ new.local) & linux::ICANON == 0 {
            return;
        }
        for typed in &mut self.bytes {
            typed.ends_line = false;
        }
        self.ready = 0;
        if new.is_canonical()
            && let Some(last) = self.bytes.back_mut()
        {
            last.ends_line = true;
            self.ready = self.bytes.len();
        }
        self.is_erasing = false;
        self.next_is_literal = false;
    }

    /// Reads a line or a part of it, or what is there.
    pub(super) fn read(&mut self, settings: &Settings, to: &mut dyn Sink) -> Result<usize> {
        let mut done = 0;
        let canonical = settings.is_canonical();
        while to.room() > 0 && self.available(settings) > 0 {
            let Some(&typed) = self.bytes.front() else {
                break;
            };
            let is_end_of_file = canonical && typed.ends_line && typed.byte == END_OF_FILE;
            if !is_end_of_file {
                if to.put(&[typed.byte]) == 0 {
                    return match done {
                        0 => Err(Errno::EFAULT),
                        _ => Ok(done),
                    };
                }
                done += 1;
            }
            self.drop_first();
            if canonical && typed.ends_line {
                return Ok(done);
            }
        }
        // An end of file behind the very last byte that was asked for goes with it: alone it would
        // end the next read.
        if canonical
            && done > 0
            && self.ready > 0
            && let Some(next) = self.bytes.front()
            && next.ends_line
            && next.byte == END_OF_FILE
        {
            self.drop_first();
        }
        Ok(done)
    }

    fn drop_first(&mut self) {
        self.bytes.pop_front();
        self.ready = self.ready.saturating_sub(1);
    }

    fn keep(&mut self, byte: u8, ends_line: bool) {
        if self.bytes.try_reserve(1).is_ok() {
            self.bytes.push_back(Typed { byte, ends_line });
        }
    }

    /// Keeps a byte of the line, marked if `PARMRK` says so.
    fn keep_marked(&mut self, settings: &Settings, byte: u8) {
        if byte == 0xff && settings.has_input(linux::PARMRK) {
            self.keep(byte, false);
        }
        self.keep(byte, false);
    }

    fn end_line(&mut self, byte: u8) -> Effect {
        self.keep(byte, true);
        self.ready = self.bytes.len();
        Effect::Changed
    }

    /// Takes a byte that was typed; there must be room.
    pub(super) fn take(&mut self, settings: &Settings, out: &mut Outgoing, mut byte: u8) -> Effect {
        if self.bytes.len() >= SIZE {
            // The line is full and has no end: its last byte gives way.
            self.bytes.pop_back();
        }
        if settings.has_input(linux::ISTRIP) {
            byte &= 0x7f;
        }
        if settings.has_input(linux::IUCLC) && settings.has_local(linux::IEXTEN) {
            byte = lower(byte);
        }
        if core::mem::take(&mut self.next_is_literal) {
            self.restart(settings, out);
            return self.take_plain(settings, out, byte, false);
        }
        if settings.has_input(linux::IXON) {
            if settings.is_key(linux::VSTART, byte) {
                out.is_stopped = false;
                return Effect::Changed;
            }
            if settings.is_key(linux::VSTOP, byte) {
                return Effect::Stop;
            }
        }
        if settings.has_local(linux::ISIG) {
            for (key, signal) in [
                (linux::VINTR, linux::SIGINT),
                (linux::VQUIT, linux::SIGQUIT),
                (linux::VSUSP, linux::SIGTSTP),
            ] {
                if settings.is_key(key, byte) {
                    return self.take_signal(settings, out, byte, signal);
                }
            }
        }
        self.restart(settings, out);
        let typed = byte;
        match byte {
            b'\r' if settings.has_input(linux::IGNCR) => return Effect::None,
            b'\r' if settings.has_input(linux::ICRNL) => byte = b'\n',
            b'\n' if settings.has_input(linux::INLCR) => byte = b'\r',
            _ => {}
        }
        if settings.is_canonical()
            && let Some(effect) = self.edit(settings, out, byte)
        {
            return effect;
        }
        // A line feed that a key made moves the cursor; one that was typed is shown, as `^J`.
        let moves = byte == b'\n' && typed == b'\r';
        self.take_plain(settings, out, byte, moves)
    }

    /// With `IXANY` any key lets output go on.
    fn restart(&self, settings: &Settings, out: &mut Outgoing) {
        if settings.has_input(linux::IXON) && settings.has_input(linux::IXANY) {
            out.is_stopped = false;
        }
    }

    fn take_signal(
        &mut self,
        settings: &Settings,
        out: &mut Outgoing,
        byte: u8,
        signal: u32,
    ) -> Effect {
        if !settings.has_local(linux::NOFLSH) {
            self.clear();
            out.drop_waiting();
        }
        if settings.has_input(linux::IXON) {
            out.is_stopped = false;
        }
        if settings.has_local(linux::ECHO) {
            out.echo(settings, byte);
        }
        Effect::Signal(signal)
    }

    fn take_plain(
        &mut self,
        settings: &Settings,
        out: &mut Outgoing,
        byte: u8,
        moves: bool,
    ) -> Effect {
        if settings.has_local(linux::ECHO) {
            self.finish_erasing(settings, out);
            if moves {
                out.put(settings, byte);
            } else {
                self.note_column(out);
                out.echo(settings, byte);
            }
        }
        self.keep_marked(settings, byte);
        match settings.is_canonical() {
            true => Effect::None,
            false => Effect::Changed,
        }
    }

    /// A line begins where the cursor is.
    fn note_column(&self, out: &mut Outgoing) {
        if self.ready == self.bytes.len() {
            out.line_column = out.column;
        }
    }

    fn finish_erasing(&mut self, settings: &Settings, out: &mut Outgoing) {
        if core::mem::take(&mut self.is_erasing) {
            out.put(settings, b'/');
        }
    }

    /// Does what a key does to a line; `None` if it does nothing.
    fn edit(&mut self, settings: &Settings, out: &mut Outgoing, byte: u8) -> Option<Effect> {
        let extended = settings.has_local(linux::IEXTEN);
        let echo = settings.has_local(linux::ECHO);
        let is = |which| settings.is_key(which, byte);
        let rubs_word = is(linux::VWERASE) && extended;
        if is(linux::VERASE) || is(linux::VKILL) || rubs_word {
            self.erase(settings, out, byte);
            return Some(Effect::None);
        }
        if is(linux::VLNEXT) && extended {
            self.next_is_literal = true;
            if echo {
                self.finish_erasing(settings, out);
                if settings.has_local(linux::ECHOCTL) {
                    out.put(settings, b'^');
                    out.put(settings, 0x08);
                }
            }
            return Some(Effect::None);
        }
        if is(linux::VREPRINT) && echo && extended {
            self.finish_erasing(settings, out);
            out.echo(settings, byte);
            out.put(settings, b'\n');
            for at in self.ready..self.bytes.len() {
                out.echo(settings, self.bytes[at].byte);
            }
            return Some(Effect::None);
        }
        if byte == b'\n' {
            if echo || settings.has_local(linux::ECHONL) {
                out.put(settings, b'\n');
            }
            return Some(self.end_line(byte));
        }
        if is(linux::VEOF) {
            return Some(self.end_line(END_OF_FILE));
        }
        if is(linux::VEOL) || (is(linux::VEOL2) && extended) {
            if echo {
                self.note_column(out);
                out.echo(settings, byte);
            }
            if byte == 0xff && settings.has_input(linux::PARMRK) {
                self.keep(byte, false);
            }
            return Some(self.end_line(byte));
        }
        None
    }

    /// Erases a character, a word, or the line.
    fn erase(&mut self, settings: &Settings, out: &mut Outgoing, key: u8) {
        if self.bytes.len() == self.ready {
            return;
        }
        let echo = settings.has_local(linux::ECHO);
        let character = settings.is_key(linux::VERASE, key);
        let word = !character && settings.is_key(linux::VWERASE, key);
        if !character && !word {
            let shown = linux::ECHOK | linux::ECHOKE | linux::ECHOE;
            if !echo || settings.local & shown != shown {
                self.bytes.truncate(self.ready);
                if echo {
                    self.finish_erasing(settings, out);
                    out.echo(settings, settings.at(linux::VKILL));
                    if settings.has_local(linux::ECHOK) {
                        out.put(settings, b'\n');
                    }
                }
                return;
            }
        }
        let mut in_word = false;
        while self.bytes.len() > self.ready {
            let Some(head) = self.last_character(settings) else {
                break;
            };
            let first = self.bytes[head].byte;
            if word {
                if is_letter(first) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            if echo {
                self.show_erased(settings, out, head, character);
            }
            self.bytes.truncate(head);
            if echo && first == b'\t' && !settings.has_local(linux::ECHOPRT) {
                let shows_key = character && !settings.has_local(linux::ECHOE);
                if !shows_key {
                    let (width, after_tab) = self.width_since_tab(settings);
                    out.rub_out_tab(width, after_tab);
                }
            }
            if character {
                break;
            }
        }
        if self.bytes.len() == self.ready && echo {
            self.finish_erasing(settings, out);
        }
    }

    /// Where the last character of the line begins; `None` if only the rest of one is there.
    fn last_character(&self, settings: &Settings) -> Option<usize> {
        let mut head = self.bytes.len();
        while head > self.ready {
            head -= 1;
            if !continues(settings, self.bytes[head].byte) {
                return Some(head);
            }
        }
        None
    }

    /// Shows that the character from `head` on goes, but for a tab.
    fn show_erased(
        &mut self,
        settings: &Settings,
        out: &mut Outgoing,
        head: usize,
        by_character: bool,
    ) {
        let first = self.bytes[head].byte;
        if settings.has_local(linux::ECHOPRT) {
            if !core::mem::replace(&mut self.is_erasing, true) {
                out.put(settings, b'\\');
            }
            out.echo(settings, first);
            for at in head + 1..self.bytes.len() {
                out.put(settings, self.bytes[at].byte);
                out.column = out.column.saturating_sub(1);
            }
        } else if by_character && !settings.has_local(linux::ECHOE) {
            out.echo(settings, settings.at(linux::VERASE));
        } else if first != b'\t' {
            let shown_as_two = is_control(first) && settings.has_local(linux::ECHOCTL);
            if shown_as_two {
                out.rub_out(settings);
            }
            if !is_control(first) || shown_as_two {
                out.rub_out(settings);
            }
        }
    }

    /// Columns since the last tab or the begin of the line, and whether it was a tab.
    fn width_since_tab(&self, settings: &Settings) -> (u32, bool) {
        let mut width = 0;
        for typed in self.bytes.iter().skip(self.ready).rev() {
            match typed.byte {
                b'\t' => return (width, true),
                byte if is_control(byte) => {
                    if settings.has_local(linux::ECHOCTL) {
                        width += 2;
                    }
                }
                byte if continues(settings, byte) => {}
                _ => width += 1,
            }
        }
        (width, false)
    }
}

/// A letter of Latin-1 in lower case, as Linux' `lib/ctype.c` has it.
fn lower(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => byte + 0x20,
        _ => byte,
    }
}

/// What a word is made of, in Latin-1 as Linux' `lib/ctype.c` has it.
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || (byte >= 0xc0 && byte != 0xd7 && byte != 0xf7)
}
