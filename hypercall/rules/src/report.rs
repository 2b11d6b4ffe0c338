//! Results: what a test found, and the one line that says so.
//!
//! The line is `rule R09 fail "message"`: the word `rule`, the number with at least two digits, a
//! [`Verdict`] in lower case, and a message in double quotes, in which there is neither a double
//! quote nor a line break. `rule R09 run` announces a rule.

use core::fmt;

/// A short text without an allocator. What does not fit is left out.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; Text::ROOM],
    len: u8,
    /// A line was broken, and its indentation is being left out as well.
    indent: bool,
}

impl Text {
    /// Bytes that fit.
    pub const ROOM: usize = 200;

    /// Nothing.
    pub const fn empty() -> Self {
        Self {
            bytes: [0; Self::ROOM],
            len: 0,
            indent: false,
        }
    }

    /// What `args` say.
    pub fn new(args: fmt::Arguments<'_>) -> Self {
        let mut text = Self::empty();
        // It never fails, it leaves out.
        let _ = fmt::write(&mut text, args);
        text
    }

    /// As a string.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len as usize]).unwrap_or_default()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            self.indent = c == '\n' || self.indent && c == ' ';
            let c = match c {
                _ if self.indent => continue,
                '"' => '\'',
                '\r' => ' ',
                c => c,
            };
            let end = self.len as usize + c.len_utf8();
            if end > Self::ROOM {
                break;
            }
            c.encode_utf8(&mut self.bytes[self.len as usize..end]);
            self.len = end as u8;
        }
        Ok(())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What a test found.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The rule holds.
    Pass,
    /// It does not, and this is what was found instead.
    Fail(Text),
    /// The test could not be carried out.
    Error(Text),
    /// There is nothing to test here, for this reason.
    Skip(Text),
}

/// What became of a rule, without the words. A later one is worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Verdict {
    /// Not tested, for a reason.
    Skip,
    /// It holds.
    Pass,
    /// The test could not be carried out.
    Error,
    /// It does not hold.
    Fail,
    /// The rule was announced and nothing followed. No test says so; whoever reads the lines does.
    Crash,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Skip, Self::Pass, Self::Error, Self::Fail, Self::Crash];

    /// As it stands in a line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Pass => "pass",
            Self::Error => "error",
            Self::Fail => "fail",
            Self::Crash => "crash",
        }
    }
}

impl Outcome {
    /// Without the words.
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Pass => Verdict::Pass,
            Self::Fail(_) => Verdict::Fail,
            Self::Error(_) => Verdict::Error,
            Self::Skip(_) => Verdict::Skip,
        }
    }

    /// The words.
    pub fn message(&self) -> &str {
        match self {
            Self::Pass => "",
            Self::Fail(text) | Self::Error(text) | Self::Skip(text) => text.as_str(),
        }
    }
}

/// What became of a rule. Displayed, it is the line.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Which.
    pub number: u16,
    /// What.
    pub outcome: Outcome,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rule R{:02} {} \"{}\"",
            self.number,
            self.outcome.verdict().name(),
            self.outcome.message()
        )
    }
}

/// Ends a test: there is nothing to test here.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)*) => {
        return Err($crate::Outcome::Skip($crate::Text::new(format_args!($($arg)*))))
    };
}

/// Ends a test: the rule does not hold.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::Outcome::Fail($crate::Text::new(format_args!($($arg)*))))
    };
}

/// Ends a test unless the condition holds.
#[macro_export]
macro_rules! expect {
    ($condition:expr, $($arg:tt)*) => {
        if !$condition {
            $crate::fail!($($arg)*);
        }
    };
}

/// Ends a test unless a value is what it should be.
#[macro_export]
macro_rules! expect_eq {
    ($value:expr, $expected:expr, $($arg:tt)*) => {{
        let (value, expected) = ($value, $expected);
        if value != expected {
            $crate::fail!(
                "{}: {value:#x?}, expected {expected:#x?}",
                format_args!($($arg)*)
            );
        }
    }};
}

/// Ends a test unless a hypercall returned what it should: a number, or `-errno`.
#[macro_export]
macro_rules! expect_result {
    ($value:expr, $expected:expr, $($arg:tt)*) => {{
        let (value, expected): (i64, i64) = ($value, $expected);
        if value != expected {
            $crate::fail!("{} gave {value}, expected {expected}", format_args!($($arg)*));
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let text = Text::new(format_args!("{:#x?} \"quoted\"", Some((1, 20))));
        assert_eq!(text.as_str(), "Some((0x1,0x14,),) 'quoted'");
        let report = Report {
            number: 9,
            outcome: Outcome::Fail(text),
        };
        let line = Text::new(format_args!("{report}"));
        assert!(line.as_str().starts_with("rule R09 fail 'Some"));
        let long = Text::new(format_args!("{:>400}", "é"));
        assert_eq!(long.as_str().len(), Text::ROOM);
    }
}
