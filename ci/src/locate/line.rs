//! Which lines of a console speak of places in a kernel's code, and which places those are.
//!
//! Kernels and Xen write them in many ways: as the instruction that failed (`RIP: e033:[<...>]`,
//! `rip e030:...`, `at e008:...`), as numbered frames (`#1  ...`), as words below the title of a
//! backtrace or of a stack's contents, or by name (`start_kernel+0x1c/0x200`). What looks like
//! such a place and is none is no harm: only addresses in the image's code are explained.

use std::sync::LazyLock;

use regex::Regex;

/// What kind of place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// An instruction.
    At,
    /// Where a call returns to: the instruction behind the call.
    Return,
    /// A word of a stack, which may be such a place.
    Guess,
}

/// How it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// By number.
    Address(u64),
    /// By a function's name, and how far in it.
    Named(String, u64),
}

fn regex(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|error| unreachable!("{text}: {error}"))
}

macro_rules! patterns {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$doc])* static $name: LazyLock<Regex> = LazyLock::new(|| regex($text));)*
    };
}

patterns! {
    /// What stands before a line's own text: Xen's prefix, the time.
    PREFIX = r"^(?:\(XEN\)|\(d\d+\))?\s*(?:\[\s*[0-9.]+\])?\s*";
    /// The title of a list of callers.
    CALLERS = r"(?i)\b(?:back ?trace|call trace|call stack)\b";
    /// The title of what is on a stack.
    STACK = r"(?i)\bstack trace from\b";
    /// A line among others of such a list that names no place.
    BETWEEN = r"^</?[A-Z]+>$";
    /// The instruction pointer, with or without its segment.
    POINTER = r"(?i)\b(?:rip|eip|ip|pc)\b\W*(?:[0-9a-f]{4}:)?\W*(?:0x)?([0-9a-f]{8,16})\b";
    /// Code or stack by segment and address.
    SEGMENTED = r"(?i)\b[0-9a-f]{4}:(?:0x)?([0-9a-f]{16})\b";
    /// An address in the brackets that mean code.
    BRACKETS = r"(?i)\[<(?:0x)?([0-9a-f]{8,16})>\]";
    /// A frame of a numbered list.
    FRAME = r"(?i)^#(\d+):?\s+(?:0x)?([0-9a-f]{8,16})\b";
    /// A caller in words.
    CALLER = r"(?i)\bcaller (?:is )?(?:0x)?([0-9a-f]{4,16})\b";
    /// A word that may be an address.
    WORD = r"(?i)\b(?:0x)?([0-9a-f]{8,16})\b";
    /// A function, how far in it, and how long it is.
    NAMED = r"\b([A-Za-z_][\w.$]*)\+0x([0-9a-f]+)/0x[0-9a-f]+";
    /// What names the instruction pointer.
    IS_POINTER = r"(?i)\b(?:rip|eip|pc)\b";
    /// Xen on its first domain, and on another.
    FIRST_DOMAIN = r"\b(?:Domain 0 \(vcpu|Dom0 vcpu)";
    OTHER_DOMAIN = r"\b(?:Domain [1-9]\d* \(vcpu|Dom[1-9]\d* vcpu)";
}

/// What the lines before mean for the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum List {
    #[default]
    None,
    Callers,
    Stack,
}

/// Reads the lines of one console, one after the other.
#[derive(Debug, Default)]
pub(super) struct Finder {
    list: List,
    /// Whether Xen's first domain is another than the kernel.
    others_dom0: bool,
    /// Whether Xen speaks of that one.
    of_dom0: bool,
}

impl Finder {
    /// One for what a Xen says whose first domain is another than the kernel.
    pub(super) fn below_dom0() -> Self {
        Self {
            others_dom0: true,
            ..Self::default()
        }
    }

    /// The places in a line, without escape sequences.
    pub(super) fn places(&mut self, line: &str) -> Vec<(Sort, Place)> {
        let text = &line[PREFIX.find(line).map_or(0, |found| found.end())..];
        if self.others_dom0 {
            self.of_dom0 &= !OTHER_DOMAIN.is_match(text);
            self.of_dom0 |= FIRST_DOMAIN.is_match(text);
            if self.of_dom0 {
                return Vec::new();
            }
        }
        if STACK.is_match(text) {
            self.list = List::Stack;
            return Vec::new();
        }
        let mut found = in_any_line(text);
        if found.is_empty() && self.list != List::None {
            found = self.in_list(text);
        }
        if CALLERS.is_match(text) {
            self.list = List::Callers;
        } else if found.is_empty() && !BETWEEN.is_match(text) && !has_words(text) {
            self.list = List::None;
        }
        found
    }

    fn in_list(&self, text: &str) -> Vec<(Sort, Place)> {
        let sort = match self.list {
            List::Stack => Sort::Guess,
            _ => Sort::Return,
        };
        let words = WORD.captures_iter(text).filter_map(|word| hex(&word[1]));
        words
            .map(|address| (sort, Place::Address(address)))
            .collect()
    }
}

fn has_words(text: &str) -> bool {
    WORD.is_match(text)
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

fn in_any_line(text: &str) -> Vec<(Sort, Place)> {
    let first = |pattern: &Regex| hex(&pattern.captures(text)?[1]);
    if let Some(frame) = FRAME.captures(text) {
        // The first is where the list begins, the others are returned to.
        let sort = if frame[1].trim_start_matches('0').is_empty() {
            Sort::At
        } else {
            Sort::Return
        };
        let address = hex(&frame[2]);
        return address
            .map(|at| (sort, Place::Address(at)))
            .into_iter()
            .collect();
    }
    if let Some(address) = first(&POINTER).or_else(|| first(&SEGMENTED)) {
        return vec![(Sort::At, Place::Address(address))];
    }
    if let Some(address) = first(&BRACKETS).or_else(|| first(&CALLER)) {
        return vec![(Sort::Return, Place::Address(address))];
    }
    let named = NAMED.captures(text).and_then(|named| {
        let sort = match IS_POINTER.is_match(text) {
            true => Sort::At,
            false => Sort::Return,
        };
        Some((sort, Place::Named(named[1].to_owned(), hex(&named[2])?)))
    });
    named.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: u64) -> (Sort, Place) {
        (Sort::At, Place::Address(address))
    }

    fn behind(address: u64) -> (Sort, Place) {
        (Sort::Return, Place::Address(address))
    }

    fn all(text: &str) -> Vec<(Sort, Place)> {
        let mut finder = Finder::default();
        text.lines().flat_map(|line| finder.places(line)).collect()
    }

    #[test]
    fn this_kernel_s_report_is_read() {
        let text = "unexpected exception #PF (page fault), vector 14, error code 0x0\n  \
            rip e030:ffffffff8010baf1  rsp e02b:ffffffff80251a40  rflags 00010002\n  \
            rax 00005eadbeef0000  rbx 0000000000000001  rcx ffffffff80130910\nbacktrace:\n  \
            #0  ffffffff8010baf1 guest::boot::provoke::provoke+0x171\n  \
            #1  ffffffff8010af79 guest::boot::common::run+0x4a8\n\nverdict: crash";
        let expected = [
            at(0xffff_ffff_8010_baf1),
            at(0xffff_ffff_8010_baf1),
            behind(0xffff_ffff_8010_af79),
        ];
        assert_eq!(all(text), expected);
    }

    #[test]
    fn xen_s_report_of_a_pv_guest_is_read() {
        let text = "(XEN) Domain 1 (vcpu#0) crashed on cpu#0:\n\
            (XEN) RIP:    e033:[<ffffffff8010bd0a>]\n\
            (XEN) RFLAGS: 0000000000010202   EM: 1   CONTEXT: pv guest (d1v0)\n\
            (XEN) rax: 0000000000000004   rbx: ffffffff802431c8   rcx: ffffffff80130910\n\
            (XEN) Guest stack trace from rsp=ffffffff80242fc0:\n\
            (XEN)    ffffffff80100234 0000000000000000\n\
            (XEN)    ffffffff80104285\n\
            (XEN) Xen call trace is over ffffffff80100000\n";
        let guess = |address| (Sort::Guess, Place::Address(address));
        let expected = [
            at(0xffff_ffff_8010_bd0a),
            guess(0xffff_ffff_8010_0234),
            guess(0),
            guess(0xffff_ffff_8010_4285),
        ];
        assert_eq!(all(text)[..4], expected);
    }

    #[test]
    fn the_dom0_of_an_ordinary_domain_is_somebody_else() {
        let mut finder = Finder::below_dom0();
        let mut places = |line| finder.places(line).len();
        assert_eq!(places("(XEN) Domain 0 (vcpu#0) crashed on cpu#0:"), 0);
        assert_eq!(places("(XEN) RIP:    e033:[<ffffffff8100000a>]"), 0);
        assert_eq!(places("(XEN) Domain 3 (vcpu#0) crashed on cpu#0:"), 0);
        assert_eq!(places("(XEN) RIP:    e033:[<ffffffff8100000a>]"), 1);
    }

    #[test]
    fn other_kernels_are_read() {
        for (text, expected) in [
            ("RIP: e030:[<0000000000006f5e>]", at(0x6f5e)),
            ("base is 0x1a7ff8 caller is 0x6f5e", behind(0x6f5e)),
            (
                "PANIC: Unhandled exception at e008:0000000000104ab0",
                at(0x10_4ab0),
            ),
            (
                "rip=0xffffffff80001234 cs=0xe030",
                at(0xffff_ffff_8000_1234),
            ),
            (
                "[<ffffffff81001234>] foo+0x4/0x10",
                behind(0xffff_ffff_8100_1234),
            ),
            (
                "[    1.5] #2: 0xffff800000001234",
                behind(0xffff_8000_0000_1234),
            ),
        ] {
            assert_eq!(all(text), [expected], "{text}");
        }
    }

    #[test]
    fn linux_names_functions() {
        let text = "[    0.52] RIP: e030:native_write_cr4+0x1c/0x20\n[    0.52] Call Trace:\n\
            [    0.52]  <TASK>\n[    0.52]  ? show_trace_log_lvl+0xb0/0x2e0\n";
        let named = |sort, name: &str, offset| (sort, Place::Named(name.into(), offset));
        let expected = [
            named(Sort::At, "native_write_cr4", 0x1c),
            named(Sort::Return, "show_trace_log_lvl", 0xb0),
        ];
        assert_eq!(all(text), expected);
    }

    #[test]
    fn bare_words_count_below_a_title_and_nowhere_else() {
        let text = "ffffffff80001000\nCall Trace:\n  0xffffffff80001234\n  ffffffff80001235 f\n\
            done\nffffffff80001236";
        let expected = [0xffff_ffff_8000_1234, 0xffff_ffff_8000_1235].map(behind);
        assert_eq!(all(text), expected);
        let map = "ffffffff80100000-ffffffff801eefff   956K r-x  kernel code";
        assert_eq!(all(map), []);
    }
}
