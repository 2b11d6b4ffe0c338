//! Why a command line is refused, and where.

use core::fmt;

use super::{LONGEST, WORDS};
use crate::console::filter::FilterError;

/// Why a command line is refused; `index` counts words from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdlineError<'a> {
    /// The offending word, whole, or the line if `index` is 0.
    pub word: &'a [u8],
    /// Its place among the words, from 1; 0 if it is about the line.
    pub index: usize,
    /// What is wrong with it.
    pub reason: Reason<'a>,
}

impl CmdlineError<'_> {
    /// Where and what, as far as it is about a word.
    fn place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, word) = (self.index, self.word.escape_ascii());
        match index {
            0 => f.write_str("command line: "),
            _ => write!(f, "command line, word {index}: '{word}': "),
        }
    }

    /// One line, short enough for a verdict.
    #[must_use]
    pub fn summary(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            self.place(f)?;
            match self.reason {
                Reason::Unknown => f.write_str("unknown word"),
                Reason::NotText => f.write_str("not text"),
                Reason::NeedsValue => f.write_str("value missing"),
                Reason::TakesNoValue => f.write_str("value not allowed"),
                Reason::BadValue | Reason::BadFilter(_) => f.write_str("bad value"),
                Reason::NoSuch(name) => write!(f, "no '{name}'"),
                Reason::Twice => f.write_str("given twice"),
                Reason::Against(other) => write!(f, "against {other}"),
                Reason::NotBuiltIn(_) => f.write_str("not in this image"),
                Reason::TooLong => write!(f, "longer than {LONGEST} bytes, perhaps cut off"),
            }
        })
    }
}

/// What is wrong with a word, or with the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'a> {
    /// No such word.
    Unknown,
    /// Bytes that are not printable ASCII.
    NotText,
    /// The word needs a value and has none, or an empty one in a list.
    NeedsValue,
    /// The word takes no value.
    TakesNoValue,
    /// The value is not one of those allowed.
    BadValue,
    /// The log filter does not parse.
    BadFilter(FilterError<'a>),
    /// A name in the value that nothing has.
    NoSuch(&'a str),
    /// The same word came before.
    Twice,
    /// This word came before, which means the opposite.
    Against(&'static str),
    /// The image was built without what the word asks for, which is this.
    NotBuiltIn(&'static str),
    /// The line has as many bytes as loaders leave of one that is too long for them.
    TooLong,
}

impl fmt::Display for CmdlineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place(f)?;
        let name = self.word.split(|byte| *byte == b'=').next();
        let word = WORDS.iter().find(|w| Some(w.name.as_bytes()) == name);
        let (form, help) = word.map_or(("", ""), |w| (w.form, w.help));
        match &self.reason {
            Reason::Unknown => {
                f.write_str("unknown word; known are:")?;
                WORDS.iter().try_for_each(|w| write!(f, " {}", w.form))?;
                f.write_str("; what follows a word -- is for others")
            }
            Reason::NotText => f.write_str("not printable ASCII"),
            Reason::NeedsValue => write!(f, "needs a value: {form}"),
            Reason::TakesNoValue => write!(f, "takes no value: {form}"),
            Reason::BadValue => write!(f, "not a value it knows: {form} ({help})"),
            Reason::BadFilter(e) => write!(f, "{e}"),
            Reason::NoSuch(name) => write!(f, "there is no '{name}'"),
            Reason::Twice => f.write_str("given twice"),
            Reason::Against(other) => write!(f, "means the opposite of '{other}', which is given"),
            Reason::NotBuiltIn(what) => {
                write!(f, "this image was built without {what}: it is lean")
            }
            Reason::TooLong => write!(
                f,
                "{} bytes or more; loaders cut a line off there, so that at most {LONGEST} are taken",
                self.word.len()
            ),
        }
    }
}
