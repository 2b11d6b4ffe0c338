//! A line as it is typed: what each key does to it, and what the terminal is to show.

use heapless::String;

/// Characters of the longest line.
pub const LENGTH: usize = 120;

/// The line so far.
#[derive(Default)]
pub struct Line {
    text: String<LENGTH>,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// After a carriage return: a line feed that follows belongs to it.
    Return,
    /// In an escape sequence, such as that of an arrow key.
    Escape,
    /// Behind its bracket.
    Control,
}

/// What a key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// Nothing to show.
    Nothing,
    /// These bytes are to be shown.
    Echo(&'static str),
    /// The key itself is to be shown.
    Typed(char),
    /// The line is complete.
    Enter(&'a str),
}

impl Line {
    /// An empty line.
    #[must_use]
    pub fn new() -> Line {
        Line::default()
    }

    /// What is typed so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Forgets the line, after [`Key::Enter`].
    pub fn clear(&mut self) {
        self.text.clear();
    }

    /// Takes a byte from the terminal. Keys that mean nothing are ignored.
    pub fn key(&mut self, byte: u8) -> Key<'_> {
        let before = core::mem::take(&mut self.state);
        match (before, byte) {
            (State::Escape, b'[' | b'O') => self.state = State::Control,
            (State::Escape, _) => {}
            // Parameters; the byte that ends the sequence is swallowed as well.
            (State::Control, b'0'..=b'9' | b';') => self.state = State::Control,
            (State::Control, _) => {}
            (_, 0x1b) => self.state = State::Escape,
            (State::Return, b'\n') => {}
            (_, b'\r' | b'\n') => {
                if byte == b'\r' {
                    self.state = State::Return;
                }
                return Key::Enter(&self.text);
            }
            (_, 0x08 | 0x7f) if self.text.pop().is_some() => return Key::Echo("\x08 \x08"),
            // Ctrl-C and Ctrl-U: a fresh start.
            (_, 0x03 | 0x15) => {
                self.text.clear();
                return Key::Echo("^C\n> ");
            }
            (_, b' '..=b'~') => {
                if self.text.push(byte.into()).is_ok() {
                    return Key::Typed(byte.into());
                }
                return Key::Echo("\x07");
            }
            _ => {}
        }
        Key::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines entered, and what the terminal shows.
    fn type_in(keys: &[u8]) -> (Vec<std::string::String>, std::string::String) {
        let (mut line, mut lines, mut shown) =
            (Line::new(), Vec::new(), std::string::String::new());
        for &key in keys {
            match line.key(key) {
                Key::Nothing => {}
                Key::Echo(text) => shown.push_str(text),
                Key::Typed(c) => shown.push(c),
                Key::Enter(text) => {
                    lines.push(text.to_owned());
                    line.clear();
                }
            }
        }
        (lines, shown)
    }

    #[test]
    fn lines_end_with_any_of_the_three_endings() {
        assert_eq!(type_in(b"a\rb\nc\r\n\nd").0, ["a", "b", "c", ""]);
    }

    #[test]
    fn backspace_takes_back_what_was_typed_and_no_more() {
        let (lines, shown) = type_in(b"wa\x7flk\x08\x08\x08\x08\x08x\r");
        assert_eq!(lines, ["x"]);
        assert_eq!(shown.matches("\x08 \x08").count(), 4);
    }

    #[test]
    fn arrows_and_control_keys_leave_no_trace() {
        assert_eq!(type_in(b"\x1b[Aa\x1bOBb\x1b[1;5Cc\x01\xffd\r").0, ["abcd"]);
        assert_eq!(type_in(b"abc\x03x\r").0, ["x"]);
    }

    #[test]
    fn a_line_has_an_end() {
        let (lines, shown) = type_in(&[&[b'x'; LENGTH + 5][..], b"\r"].concat());
        assert_eq!(lines[0].len(), LENGTH);
        assert_eq!(shown.matches('\x07').count(), 5);
    }
}
