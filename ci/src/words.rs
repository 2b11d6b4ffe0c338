//! Words that this program adds to those for the kernel of this repository: how a boot is to end.
//!
//! By itself that kernel stays until its domain is shut down. A boot that is judged by its verdict asks
//! for it, and one at whose console somebody types asks for the monitor, which stays in any case. Added
//! words come first: what follows a word `--` is not the kernel's.

/// The words, with the one by which the kernel ends when it has done what they ask for. Tests end by
/// themselves, as does what is told to stay by its user, who ends it.
pub(crate) fn once(words: &str) -> String {
    match own(words).any(|word| word == "monitor" || word == "once") {
        true => words.to_owned(),
        false => first("once", words),
    }
}

/// The words, with the one by which the kernel reads commands.
pub(crate) fn monitor(words: &str) -> String {
    match own(words).any(|word| word == "monitor") {
        true => words.to_owned(),
        false => first("monitor", words),
    }
}

fn first(word: &str, words: &str) -> String {
    format!("{word} {words}").trim_end().to_owned()
}

/// Those of the kernel's.
fn own(words: &str) -> impl Iterator<Item = &str> {
    words.split_whitespace().take_while(|word| *word != "--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_says_is_not_said_again() {
        for (words, added) in [
            ("", "once"),
            ("log=warn -- monitor", "once log=warn -- monitor"),
            ("selftest", "once selftest"),
            ("log=warn once", "log=warn once"),
            ("selftest\tmonitor", "selftest\tmonitor"),
        ] {
            assert_eq!(once(words), added);
        }
        assert_eq!(monitor(""), "monitor");
        assert_eq!(monitor("log=warn -- x"), "monitor log=warn -- x");
        assert_eq!(monitor("log=warn monitor"), "log=warn monitor");
    }
}
