//! How the kernel is compiled: the flags of the compiler that its image depends on.
//!
//! `cargo xtask` passes them in the one way that nothing outranks, and the kernel's build script
//! refuses to go on without them. `.cargo/config.toml` has them once more, for what people and
//! editors run by themselves; there, `RUSTFLAGS` in the environment would replace them all.

/// The flags, each in one word.
///
/// The image is linked at a fixed address in the top 2 GiB. Frame pointers give every panic a
/// backtrace without unwind tables, and names mangled the v0 way say there which instance of a generic
/// function it is.
pub const FLAGS: [&str; 3] = [
    "-Crelocation-model=static",
    "-Cforce-frame-pointers=yes",
    "-Csymbol-mangling-version=v0",
];

/// Flags as `CARGO_ENCODED_RUSTFLAGS` has them, by which cargo takes them and shows them to build
/// scripts.
#[must_use]
pub fn encoded() -> String {
    FLAGS.join("\x1f")
}

/// Those that are not among `encoded`; `-C` may be a word of its own there.
pub fn missing(encoded: &str) -> impl Iterator<Item = &'static str> {
    let joined = encoded.replace("-C\x1f", "-C");
    FLAGS
        .into_iter()
        .filter(move |flag| !joined.split('\x1f').any(|given| given == *flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_is_all_there_however_it_is_written() {
        assert_eq!(missing(&encoded()).count(), 0);
        let apart = encoded().replace("-C", "-C\x1f");
        assert_eq!(missing(&(apart + "\x1f-g")).count(), 0);
    }

    #[test]
    fn flags_that_were_replaced_are_missed() {
        assert!(missing("").eq(FLAGS));
        assert!(missing("-Cdebuginfo=1").eq(FLAGS));
        let without = FLAGS[1..].join("\x1f");
        assert!(missing(&without).eq([FLAGS[0]]));
    }

    #[test]
    fn cargo_s_configuration_has_the_same_ones() {
        let text = include_str!("../../.cargo/config.toml");
        let flags = text
            .split_once("rustflags = [")
            .and_then(|(_, rest)| rest.split_once(']'));
        let flags: Vec<_> = flags.map_or("", |(flags, _)| flags).split('"').collect();
        let flags: Vec<_> = flags.into_iter().skip(1).step_by(2).collect();
        assert_eq!(flags, FLAGS);
    }
}
