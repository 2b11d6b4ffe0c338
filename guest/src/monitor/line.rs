//! A line as it is typed: what each key does to it, and what the terminal is to show.
//!
//! Keys are those that other line editors have taught: arrows left and right, Home and End (Ctrl-A,
//! Ctrl-E), Backspace and Delete, Ctrl-U and Ctrl-K, which cut what is before and behind the cursor,
//! arrows up and down (Ctrl-P, Ctrl-N) for the lines before, Ctrl-C, which begins anew, and Ctrl-D, which
//! on an empty line is the end of the input. Keys that mean nothing leave no trace.
//!
//! What is shown needs no more of a terminal than that it can go back by a column.

use core::fmt::{self, Write};

use heapless::{Deque, String};

/// Characters of the longest line.
pub const LENGTH: usize = 120;

/// Lines that can be had again.
const LINES: usize = 16;

/// What stands before a line.
pub const PROMPT: &str = "> ";

/// The line so far.
#[derive(Default)]
pub struct Line {
    text: String<LENGTH>,
    /// Characters before the cursor. The text is ASCII.
    cursor: usize,
    state: State,
    history: Deque<String<LENGTH>, LINES>,
    /// Which line of the history is shown, from the last one on; 0 for the one that is typed.
    back: usize,
    /// What was typed before a line of the history was shown.
    typed: String<LENGTH>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// After a carriage return: a line feed that follows belongs to it.
    Return,
    /// In an escape sequence, such as that of an arrow key.
    Escape,
    /// Behind its bracket, with the number that came, or 0.
    Control(u8),
}

/// What a key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The line goes on.
    Typed,
    /// It is complete: [`Line::text`].
    Enter,
    /// There is no more input.
    End,
}

impl Line {
    /// An empty line, with none before it.
    #[must_use]
    pub fn new() -> Line {
        Line::default()
    }

    /// What is typed so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Shows the line behind its prompt, where something else was printed.
    ///
    /// # Errors
    /// The screen's.
    pub fn show(&self, screen: &mut impl Write) -> fmt::Result {
        write!(screen, "{PROMPT}{}", self.text)?;
        back(screen, self.text.len() - self.cursor)
    }

    /// Begins the next line, after [`Key::Enter`]. This one can be had again, unless it is empty or like
    /// the one before.
    pub fn next(&mut self) {
        if !self.text.is_empty() && self.history.back() != Some(&self.text) {
            if self.history.is_full() {
                self.history.pop_front();
            }
            // There is room now.
            let _ = self.history.push_back(self.text.clone());
        }
        self.clear();
    }

    /// Forgets what is typed.
    fn clear(&mut self) {
        self.text.clear();
        (self.cursor, self.back) = (0, 0);
    }

    /// Takes a byte from the terminal, and shows what it does.
    ///
    /// # Errors
    /// The screen's.
    pub fn key(&mut self, byte: u8, screen: &mut impl Write) -> Result<Key, fmt::Error> {
        let before = core::mem::take(&mut self.state);
        match (before, byte) {
            (State::Escape, b'[' | b'O') => self.state = State::Control(0),
            (State::Escape, _) => {}
            // Of several parameters the last one counts, which no key that means something has.
            (State::Control(_), b';') => self.state = State::Control(u8::MAX),
            (State::Control(number), b'0'..=b'9') => {
                let number = number.saturating_mul(10).saturating_add(byte - b'0');
                self.state = State::Control(number);
            }
            (State::Control(number), _) => self.control(number, byte, screen)?,
            (_, 0x1b) => self.state = State::Escape,
            (State::Return, b'\n') => {}
            (_, b'\r' | b'\n') => {
                if byte == b'\r' {
                    self.state = State::Return;
                }
                screen.write_char('\n')?;
                return Ok(Key::Enter);
            }
            (_, 0x08 | 0x7f) if self.cursor > 0 => {
                self.move_to(self.cursor - 1, screen)?;
                self.remove(1, screen)?;
            }
            (_, 0x01) => self.move_to(0, screen)?,
            (_, 0x05) => self.move_to(self.text.len(), screen)?,
            (_, 0x0b) => self.remove(self.text.len(), screen)?,
            (_, 0x0e) => self.older(self.back.saturating_sub(1), screen)?,
            (_, 0x10) => self.older(self.back + 1, screen)?,
            (_, 0x15) => {
                let count = self.cursor;
                self.move_to(0, screen)?;
                self.remove(count, screen)?;
            }
            (_, 0x03) => {
                self.clear();
                write!(screen, "^C\n{PROMPT}")?;
            }
            (_, 0x04) if self.text.is_empty() => return Ok(Key::End),
            (_, b' '..=b'~') => self.insert(byte.into(), screen)?,
            _ => {}
        }
        Ok(Key::Typed)
    }

    /// Does what the key of an escape sequence means.
    fn control(&mut self, number: u8, byte: u8, screen: &mut impl Write) -> fmt::Result {
        match (number, byte) {
            (0, b'A') => self.older(self.back + 1, screen),
            (0, b'B') => self.older(self.back.saturating_sub(1), screen),
            (0, b'C') => self.move_to(self.cursor + 1, screen),
            (0, b'D') => self.move_to(self.cursor.saturating_sub(1), screen),
            (0, b'H') | (1 | 7, b'~') => self.move_to(0, screen),
            (0, b'F') | (4 | 8, b'~') => self.move_to(self.text.len(), screen),
            (3, b'~') => self.remove(1, screen),
            _ => Ok(()),
        }
    }

    /// Moves the cursor, no further than to the end.
    fn move_to(&mut self, place: usize, screen: &mut impl Write) -> fmt::Result {
        let place = place.min(self.text.len());
        if place < self.cursor {
            back(screen, self.cursor - place)?;
        } else {
            screen.write_str(&self.text[self.cursor..place])?;
        }
        self.cursor = place;
        Ok(())
    }

    /// Inserts a character at the cursor, or rings where there is no room.
    fn insert(&mut self, typed: char, screen: &mut impl Write) -> fmt::Result {
        let mut text = String::new();
        let (before, behind) = self.text.split_at(self.cursor);
        // It has as much room as the line, which is what is looked at.
        if write!(text, "{before}{typed}{behind}").is_err() {
            return screen.write_char('\x07');
        }
        write!(screen, "{typed}{behind}")?;
        back(screen, behind.len())?;
        self.text = text;
        self.cursor += 1;
        Ok(())
    }

    /// Removes so many characters at the cursor, or as many as there are.
    fn remove(&mut self, count: usize, screen: &mut impl Write) -> fmt::Result {
        let (before, behind) = self.text.split_at(self.cursor);
        let count = count.min(behind.len());
        let rest = &behind[count..];
        write!(screen, "{rest}{:count$}", "")?;
        back(screen, rest.len() + count)?;
        let mut text = String::new();
        // Shorter than it was.
        let _ = write!(text, "{before}{rest}");
        self.text = text;
        Ok(())
    }

    /// Shows a line of the history, counted from the last one, or for 0 what was typed.
    fn older(&mut self, number: usize, screen: &mut impl Write) -> fmt::Result {
        if number == self.back || number > self.history.len() {
            return Ok(());
        }
        if self.back == 0 {
            self.typed = self.text.clone();
        }
        let line = match number {
            0 => Some(&self.typed),
            _ => self.history.iter().rev().nth(number - 1),
        };
        let line = line.cloned().unwrap_or_default();
        self.move_to(0, screen)?;
        let rest = self.text.len().saturating_sub(line.len());
        write!(screen, "{line}{:rest$}", "")?;
        back(screen, rest)?;
        (self.cursor, self.back) = (line.len(), number);
        self.text = line;
        Ok(())
    }
}

/// Goes back by so many columns.
fn back(screen: &mut impl Write, columns: usize) -> fmt::Result {
    (0..columns).try_for_each(|_| screen.write_char('\x08'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String as Text;

    /// A terminal: the row that the cursor is in, and the bells that it rang.
    #[derive(Default)]
    struct Screen {
        row: Vec<char>,
        column: usize,
        bells: usize,
    }

    impl Write for Screen {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for shown in text.chars() {
                match shown {
                    '\n' => (self.row, self.column) = (Vec::new(), 0),
                    '\x08' => self.column = self.column.checked_sub(1).expect("no column"),
                    '\x07' => self.bells += 1,
                    _ => {
                        self.row.resize(self.row.len().max(self.column + 1), ' ');
                        self.row[self.column] = shown;
                        self.column += 1;
                    }
                }
            }
            Ok(())
        }
    }

    /// Lines entered, with the terminal, which shows what the line is and where its cursor.
    fn type_in(keys: &[u8]) -> (Vec<Text>, Screen) {
        let (mut line, mut lines, mut screen) = (Line::new(), Vec::new(), Screen::default());
        line.show(&mut screen).unwrap();
        for &key in keys {
            if line.key(key, &mut screen) == Ok(Key::Enter) {
                lines.push(line.text().to_owned());
                line.next();
                line.show(&mut screen).unwrap();
            }
            let row: Text = screen.row.iter().collect();
            assert_eq!(
                row.trim_end(),
                format!("{PROMPT}{}", line.text()).trim_end()
            );
            assert_eq!(screen.column, PROMPT.len() + line.cursor);
        }
        (lines, screen)
    }

    #[test]
    fn lines_end_with_any_of_the_three_endings() {
        assert_eq!(type_in(b"a\rb\nc\r\n\nd").0, ["a", "b", "c", ""]);
    }

    #[test]
    fn keys_edit_at_the_cursor() {
        for (keys, line) in [
            (&b"wa\x7flk\x08\x08\x08\x08\x08x\r"[..], "x"),
            (b"ac\x1b[Db\r", "abc"),
            (b"bc\x01a\x05d\r", "abcd"),
            (b"bc\x1b[Ha\x1bOFd\r", "abcd"),
            (b"bc\x1b[1~a\x1b[4~d\r", "abcd"),
            (b"axbc\x1b[D\x1b[D\x7f\r", "abc"),
            (b"axbc\x01\x1b[C\x1b[3~\r", "abc"),
            (b"abcxx\x1b[D\x1b[D\x0b\r", "abc"),
            (b"xxabc\x1b[D\x1b[D\x1b[D\x15\r", "abc"),
            (b"abc\x1b[C\x1b[C\x1b[3~\r", "abc"),
            (b"abc\x03x\r", "x"),
        ] {
            assert_eq!(type_in(keys).0, [line], "{}", keys.escape_ascii());
        }
    }

    #[test]
    fn lines_before_come_again() {
        for (keys, line) in [
            (&b"one\rtwo\r\x1b[A\r"[..], "two"),
            (b"one\rtwo\r\x10\x10\r", "one"),
            (b"one\rtwo\r\x1b[A\x1b[A\x1b[A\x1b[A\r", "one"),
            (b"one\rtwo\r\x1b[A\x1b[A\x1b[B!\r", "two!"),
            (b"one\rtwo\rth\x1b[A\x1b[A\x1b[B\x1b[Bree\r", "three"),
            (b"one\rone\r\rtwo\r\x1b[A\x1b[A\x1b[A\r", "one"),
            // One that was changed is a new line; that of the history stays.
            (b"one\r\x1b[A!\r\x1b[A\x1b[A\r", "one"),
        ] {
            let (lines, _) = type_in(keys);
            assert_eq!(lines.last().unwrap(), line, "{}", keys.escape_ascii());
        }
        let many: Vec<u8> = (0..100)
            .flat_map(|n| format!("{n}\r").into_bytes())
            .collect();
        let keys = [&many[..], &b"\x10".repeat(100), b"\r"].concat();
        assert_eq!(type_in(&keys).0.last().unwrap(), "84");
    }

    #[test]
    fn keys_that_mean_nothing_leave_no_trace() {
        assert_eq!(
            type_in(b"\x1b[Aa\x1bOBb\x1b[1;5Cc\x02\xffd\x1b[99~\r").0,
            ["abcd"]
        );
        // The end of the input only where nothing is typed.
        let mut line = Line::new();
        let mut key = |byte| {
            line.key(
                byte,
                &mut Screen {
                    column: 9,
                    ..Screen::default()
                },
            )
        };
        assert_eq!([key(b'x'), key(4)], [Ok(Key::Typed); 2]);
        assert_eq!([key(0x7f), key(4)], [Ok(Key::Typed), Ok(Key::End)]);
    }

    #[test]
    fn a_line_has_an_end() {
        let (lines, screen) = type_in(&[&[b'x'; LENGTH + 5][..], b"\r"].concat());
        assert_eq!(lines[0].len(), LENGTH);
        assert_eq!(screen.bells, 5);
    }

    const KEYS: &[&[u8]] = &[
        b"a", b"bc", b"\r", b"\n", b"\x7f", b"\x01", b"\x05", b"\x0b", b"\x15", b"\x03", b"\x1b[A",
        b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[3~", b"\x1b", b"~",
    ];

    proptest::proptest! {
        /// Whatever is typed, the terminal shows the line.
        #[test]
        fn the_terminal_shows_the_line(
            keys in proptest::collection::vec(
                proptest::sample::select(KEYS),
                0..200,
            )
        ) {
            type_in(&keys.concat());
        }
    }
}
