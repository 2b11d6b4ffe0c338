//! Flags that mean nothing on some way of running: refused by name, so that none is passed over in
//! silence.

use crate::cli::BootArgs;
use crate::exit::{Failure, Result};
use crate::provision::Xen;
use crate::stack::Via;

/// A flag that was given.
struct Given {
    name: &'static str,
    given: bool,
    /// Where it means nothing, and why.
    not_on: &'static [(Via, &'static str)],
}

const NO_XEN: &str = "there is no Xen";
const NO_LINUX: &str = "there is no Linux dom0";

/// Refuses the first flag that this way of running has no use for.
pub(super) fn check(arguments: &BootArgs) -> Result<()> {
    let provision = &arguments.provision;
    let file = matches!(&provision.xen, Some(text) if matches!(Xen::parse(text), Ok(Xen::File(_))));
    let flags = [
        Given {
            name: "--xen",
            given: provision.xen.is_some(),
            not_on: &[(Via::Bare, NO_XEN), (Via::Bare4, NO_XEN)],
        },
        Given {
            name: "--xen FILE",
            given: file,
            not_on: &[(
                Via::KvmShim,
                "KVM stands in for the hypervisor; a version names the shim",
            )],
        },
        Given {
            name: "--dom0-root",
            given: provision.dom0_root.is_some(),
            not_on: &[
                (Via::Dom0, "the kernel itself is dom0"),
                (Via::Bare, NO_LINUX),
                (Via::Bare4, NO_LINUX),
            ],
        },
        Given {
            name: "--initrd",
            given: arguments.initrd.is_some(),
            not_on: &[(Via::KvmShim, "the shim hands none on")],
        },
        Given {
            name: "--program",
            given: arguments.program.is_some(),
            not_on: &[(Via::KvmShim, "the shim hands no ramdisk on")],
        },
        Given {
            name: "--xen-log",
            given: arguments.xen_log.is_some(),
            not_on: &[
                (Via::KvmShim, "KVM stands in for the hypervisor"),
                (Via::Bare, NO_XEN),
                (Via::Bare4, NO_XEN),
            ],
        },
        Given {
            name: "--icount",
            given: arguments.icount,
            not_on: &[(Via::KvmShim, "hardware counts no instructions")],
        },
    ];
    let via = arguments.via;
    for flag in flags.iter().filter(|flag| flag.given) {
        if let Some((_, why)) = flag.not_on.iter().find(|(place, _)| *place == via) {
            return Err(Failure::Usage(format!(
                "{} means nothing with --via {}: {why}",
                flag.name,
                via.name()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn checked(words: &str) -> std::result::Result<(), String> {
        let words = ["x", "boot"].into_iter().chain(words.split_whitespace());
        let Command::Boot(arguments) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not a boot");
        };
        check(&arguments).map_err(|failure| {
            assert_eq!(failure.status(), 2);
            failure.to_string()
        })
    }

    #[test]
    fn a_flag_without_meaning_is_refused_by_name() {
        for (words, says) in [
            (
                "--via bare --xen 4.20",
                "--xen means nothing with --via bare",
            ),
            (
                "--via bare4 --xen /dev/null/x",
                "--xen means nothing with --via bare4",
            ),
            (
                "--via dom0 --dom0-root /",
                "--dom0-root means nothing with --via dom0",
            ),
            (
                "--via kvm-shim --initrd /x",
                "--initrd means nothing with --via kvm-shim",
            ),
            (
                "--via kvm-shim --icount",
                "--icount means nothing with --via kvm-shim",
            ),
        ] {
            let why = checked(words).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn what_has_a_meaning_passes() {
        for words in [
            "--xen 4.20 --icount --gdb --initrd /x --vcpus 2 --mem 64",
            "--via xl --xen 4.20 --dom0-root / --icount --gdb --initrd /x --vcpus 2",
            "--via bare --icount --gdb --initrd /x",
            "--via kvm-shim --xen 4.20 --dom0-root /",
        ] {
            assert_eq!(checked(words), Ok(()), "{words}");
        }
    }
}
