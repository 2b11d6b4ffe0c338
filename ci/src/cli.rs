//! The command line: what can be asked for, and the help that explains it.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::console::contract::Pattern;
use crate::exit::Result;
use crate::fuzz;
use crate::provision::cache::Cache;
use crate::provision::host::Host;
use crate::provision::mirror::{self, Mirror};
use crate::provision::origin::Origin;
use crate::provision::packages::XenRelease;
use crate::provision::{Provision, Xen};
use crate::rules::On;
use crate::soak::{self, SoakArgs};
use crate::stack::{Via, XenLog};
use crate::test::Group;

const BOOT_HELP: &str = "\
Words for the kernel, given by --cmdline, are separated by blanks; one it does not know fails the
boot. Among them are log=LEVEL[,MODULE=LEVEL...], selftest, provoke=panic and monitor. Unless told to
stay (monitor), this repository's kernel is told to end when all is done (once).

Examples:
  cargo xtask boot --cmdline 'log=debug selftest' --mem 256 --vcpus 2
  cargo xtask boot --via xl --log console.txt
  cargo xtask boot --via shim --xen 4.20
  cargo xtask boot --xen ~/xen/xen/xen --qemu ~/qemu/build/qemu-system-x86_64
  echo help | cargo xtask boot --interactive    the end of the input powers off
  cargo xtask boot --dry-run --via xl       what it would fetch and build, and QEMU's command line
  cargo xtask boot --kernel mini-os.gz --expect '^Hello' --fail 'Page fault|BUG'
  cargo xtask boot --kernel bzImage --symbols vmlinux --mem 512 --expect 'login:'

Logs of the last runs are kept below target/boot. README.md says under \"A kernel of your own\" how
--expect and --fail judge.";

const BENCH_HELP: &str = "\
Counts are instructions of the kernel and Xen together, the same to the digit in every run. NAMEs
select operations by how they start; none takes all, and measures boots from 64 MiB to 8 GiB too.
The floor of an operation is what the cheapest raw hypercalls for it cost in the same boot.

Examples:
  cargo xtask bench                         everything but Linux
  cargo xtask bench map protect             some operations, with their floors
  cargo xtask bench sweep                   batches of 1 to 2048 requests
  cargo xtask bench --vs linux              and Debian's Linux as dom0 on the same Xen
  cargo xtask bench --renew                 take today's counts over as the baseline of `test bench`
  cargo xtask bench --renew --readme        and write them into README.md

Results are kept as target/bench/bench.json, with plots beside it.";

const RULES_HELP: &str = "\
Examples:
  cargo xtask rules                         every rule on the model, as dom0, as domU, in the shim
  cargo xtask rules --xen 4.20 --on dom0    on another Xen that Debian packages
  cargo xtask rules --xen ~/xen/xen/xen     on a hypervisor of your own
  cargo xtask rules R9 R77                  these, even if they can end the domain
  cargo xtask rules --differential 100      random requests as well, compared with the model
  cargo xtask rules --differential 100..200 those of other seeds
  cargo xtask rules --book rules.md         the book, with the last verdict of each target";

const FUZZ_HELP: &str = "\
All of a run follows from its seed; a divergence names seed, step, address and both values, and is
shown with the command that brings it about again. With --coverage, lists of operations that reached
new code are kept in target/fuzz/corpus for the next run, and a C++ compiler is needed.

Examples:
  cargo xtask fuzz                          ten million operations on the model, half a minute
  cargo xtask fuzz --seed 7 --ops 1000      these
  cargo xtask fuzz --on dom0 --xen 4.20     a million on real Xen
  cargo xtask fuzz --coverage --seconds 600
  cargo xtask fuzz --replay target/fuzz/findings/crash-0123";

const AFTER_HELP: &str = "\
Examples:
  cargo xtask boot                          Xen under QEMU, the kernel as dom0; about a second
  cargo xtask boot --cmdline log=debug      with words for the kernel
  cargo xtask boot --interactive            type to the kernel; Ctrl-] leaves
  cargo xtask boot --via xl --mem 64        as an ordinary domain: a Linux dom0 and xl create
  cargo xtask boot --via shim               inside Xen's PV shim
  cargo xtask boot --gdb                    wait for a debugger and say what to type
  cargo xtask rules                         what Xen demands, rule by rule, and whether it holds
  cargo xtask fuzz                          random page-table operations against a reference
  cargo xtask test                          everything that must hold before a push
  cargo xtask test fmt clippy unit          the part of it that needs no Xen
  cargo xtask bench --vs linux              count instructions, beside the floor and Linux
  cargo xtask setup                         fetch all that is needed, to work offline later

Exit status of every command: 0 success, 1 the guest or a test failed or crashed, 2 wrong usage (memory
too small for the domain included), 3 the host lacks something, 4 time-out, 130 interrupted by Ctrl-C,
129 by SIGHUP, 143 terminated (SIGTERM). Xen, QEMU and a Linux dom0 are fetched as Debian packages
into the user's cache directory when first needed; nothing is installed and root is not required.";

/// Build, boot and test the kernel on real Xen.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(after_help = BOOT_HELP)]
    /// Build the kernel, boot it on real Xen, show its console, report its verdict
    Boot(BootArgs),
    /// Run the test suite, or groups of it
    Test(TestArgs),
    #[command(after_help = BENCH_HELP)]
    /// Count what operations cost, in instructions
    Bench(BenchArgs),
    #[command(after_help = RULES_HELP)]
    /// Judge the model and real Xen by the rule book, or render the book
    Rules(RulesArgs),
    #[command(after_help = FUZZ_HELP)]
    /// Do random page-table operations and compare with a reference, on the model or on real Xen
    Fuzz(FuzzArgs),
    #[command(after_help = soak::HELP)]
    /// Save and restore a domain at work, again and again
    Soak(SoakArgs),
    /// Say what is there of all that boots and tests need, what is missing, and what to do
    Doctor(DoctorArgs),
    /// Fetch everything needed to boot and test
    Setup(SetupArgs),
    /// Renew ci/packages.lock, the packages that hosts without apt fetch, or get these as files; both
    /// need Debian's apt
    Lock(LockArgs),
    /// Build the kernel, checking what only the linked image shows
    Build(BuildArgs),
    /// Delete logs of past runs, or with --cache everything fetched
    Clean(CleanArgs),
}

/// `build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Print what modules registered in the image, its size, and what of it is given back after boot
    #[arg(long)]
    pub(crate) show: bool,
    /// Leave out tests, programs and the names of functions, and compile for size; kept apart from the
    /// usual image
    #[arg(long)]
    pub(crate) lean: bool,
}

/// `boot`.
#[derive(Debug, Args)]
pub(crate) struct BootArgs {
    /// The way of running the kernel
    #[arg(long, value_enum, default_value = "dom0")]
    pub(crate) via: Via,
    /// Memory of the domain in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(4..))]
    pub(crate) mem: Option<u32>,
    /// Virtual processors of the domain
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub(crate) vcpus: Option<u32>,
    /// Words for the kernel
    #[arg(
        long,
        value_name = "STR",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cmdline: String,
    /// A file to hand to the kernel as its initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// A program for Linux that the kernel is to run, a static one: its path, or `busybox`, which is
    /// fetched; what follows `--` are its arguments. The boot passes if the program does
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["initrd", "kernel"])]
    pub(crate) program: Option<String>,
    /// Arguments of --program
    #[arg(last = true, value_name = "ARGUMENT", requires = "program")]
    pub(crate) arguments: Vec<String>,
    /// A feature that the emulated processor is to have or to lack, in QEMU's words: -nx
    #[arg(long, value_name = "FEATURE", allow_hyphen_values = true)]
    pub(crate) cpu: Vec<String>,
    /// A setting of the domain that xl creates, in its words: maxmem=256
    #[arg(long, value_name = "SETTING")]
    pub(crate) config: Vec<String>,
    /// Boot this image instead of building one; it must be a kernel of the kind that --via enters
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// The file with the debug information of --kernel, where that has none itself, to say file and
    /// line of a crash
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) symbols: Option<PathBuf>,
    /// The text of success of a kernel that gives no `verdict:` line: a regular expression, looked
    /// for in each line of the guest's console by itself
    #[arg(long, value_name = "REGEX", value_parser = Pattern::parse)]
    pub(crate) expect: Option<Pattern>,
    /// The text of failure, likewise; a line with it fails the boot whatever else is said
    #[arg(long, value_name = "REGEX", value_parser = Pattern::parse)]
    pub(crate) fail: Option<Pattern>,
    /// Boot an image without tests, programs and the names of functions, compiled for size
    #[arg(long, conflicts_with = "kernel")]
    pub(crate) lean: bool,
    /// Give up after so many seconds [default: 60; none with --interactive or --gdb]
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<u64>,
    /// Connect the terminal to the console and ask the kernel for its monitor
    #[arg(long)]
    pub(crate) interactive: bool,
    /// Do nothing; print what would be fetched and built, and a line that runs QEMU by hand
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait for a debugger before the first instruction
    #[arg(long)]
    pub(crate) gdb: bool,
    /// Copy the console to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Count instructions: virtual time is the number executed, the same in every run
    #[arg(long)]
    pub(crate) icount: bool,
    /// Which of Xen's messages its console shows [default: all]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) xen_log: Option<XenLog>,
    /// What the run came to, for other programs
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// Where programs come from
    #[command(flatten)]
    pub(crate) provision: ProvisionArgs,
}

/// `test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The groups to run; all but the optional ones if none is named
    #[arg(value_name = "GROUP", value_enum)]
    pub(crate) groups: Vec<Group>,
    /// Of the tests that are one boot in a stack of the suite's, those whose names have this text in
    /// them, and no others
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// Say what would run
    #[arg(long, conflicts_with_all = ["junit", "json"])]
    pub(crate) list: bool,
    /// What the run came to, for other programs
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// Where programs come from
    #[command(flatten)]
    pub(crate) provision: ProvisionArgs,
}

/// `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Operations, by how their names start; all of them if none is named
    #[arg(value_name = "NAME", value_parser = operation)]
    pub(crate) names: Vec<String>,
    /// Measure what programs wait for, and nothing else
    #[arg(long, conflicts_with = "names")]
    pub(crate) programs: bool,
    /// Count instead the accesses to memory that a processor's caches would miss, by what is accessed
    #[arg(long, conflicts_with_all = ["programs", "vs", "renew", "readme", "json", "plot"])]
    pub(crate) cache: bool,
    /// Measure another kernel as well
    #[arg(long, value_enum, value_name = "KERNEL")]
    pub(crate) vs: Option<Versus>,
    /// Where to write the results, instead of target/bench/bench.json
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where to write the plots, instead of target/bench
    #[arg(long, value_name = "DIR")]
    pub(crate) plot: Option<PathBuf>,
    /// Write the counts to ci/baseline.json and say what changed
    #[arg(long)]
    pub(crate) renew: bool,
    /// Write the table and a plot into README.md; measures Linux as well
    #[arg(long)]
    pub(crate) readme: bool,
    /// Where programs come from
    #[command(flatten)]
    pub(crate) provision: ProvisionArgs,
}

/// `rules`.
#[derive(Debug, Args)]
pub(crate) struct RulesArgs {
    /// The rules, by number (R9) or a part of the title; all that cannot end the domain if none is
    /// named
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// What to judge
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    pub(crate) on: Vec<On>,
    /// Include rules that can end the domain; each gets a boot of its own
    #[arg(long)]
    pub(crate) kills: bool,
    /// Make the random requests of the seeds from FROM, or 0, to before TO as well and compare
    /// with the model
    #[arg(long, value_name = "[FROM..]TO", value_parser = seeds)]
    pub(crate) differential: Option<Range<u64>>,
    /// Give up a boot after so many seconds [default: 60, and 0.4 for each seed]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,
    /// Which of Xen's messages its console shows
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "all")]
    pub(crate) xen_log: XenLog,
    /// Judge nothing; write the book with the verdicts of the last runs, as Markdown
    #[arg(long, value_name = "FILE", conflicts_with_all = ["junit", "json"])]
    pub(crate) book: Option<PathBuf>,
    /// What the run came to, for other programs
    #[command(flatten)]
    pub(crate) report: ReportArgs,
    /// Where programs come from
    #[command(flatten)]
    pub(crate) provision: ProvisionArgs,
}

/// `fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Where
    #[arg(long, value_enum, default_value = "model")]
    pub(crate) on: fuzz::On,
    /// Which operations: a decimal or hexadecimal (0x) number [default: another each time]
    #[arg(long, value_name = "S", value_parser = fuzz::number)]
    pub(crate) seed: Option<u64>,
    /// How many [default: 10000000 on the model, 1000000 on Xen]
    #[arg(long, value_name = "N", value_parser = operations)]
    pub(crate) ops: Option<u64>,
    /// On the model, change lists of operations by which code they reach
    #[arg(long, conflicts_with_all = ["on", "seed", "ops"])]
    pub(crate) coverage: bool,
    /// For how long
    #[arg(long, value_name = "S", default_value_t = 60, requires = "coverage")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Run a list that --coverage left behind
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "seed", "ops", "coverage"])]
    pub(crate) replay: Option<PathBuf>,
    /// Where programs come from
    #[command(flatten)]
    pub(crate) provision: ProvisionArgs,
}

/// A number of operations.
fn operations(text: &str) -> std::result::Result<u64, String> {
    match fuzz::number(text)? {
        0 => Err("one operation is the least".into()),
        ops => Ok(ops),
    }
}

/// Random sequences: so many, or those of a range that does not include its end.
fn seeds(text: &str) -> std::result::Result<Range<u64>, String> {
    let (from, to) = match text.split_once("..") {
        None => (0, fuzz::number(text)?),
        Some((from, to)) => (fuzz::number(from)?, fuzz::number(to)?),
    };
    if from < to {
        Ok(from..to)
    } else {
        Err("there is no seed in it".into())
    }
}

/// What to compare to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Versus {
    /// Debian's Linux, as dom0
    Linux,
}

/// A word that can stand in the kernel's list of names.
fn operation(text: &str) -> std::result::Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("letters, digits, `_` and `.` make up the name of an operation".into())
    }
}

/// `setup`.
#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// The ways of running to fetch for
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "dom0,xl,shim"
    )]
    pub(crate) via: Vec<Via>,
    /// Look for newer packages even if the cache has some
    #[arg(long)]
    pub(crate) update: bool,
    /// Where programs come from
    #[command(flatten)]
    pub(crate) provision: ProvisionArgs,
}

/// `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Say it as JSON: `format` (1), `status`, and `findings` of `name`, `state` (good, later or missing),
    /// `found` and `remedy`
    #[arg(long)]
    pub(crate) json: bool,
    /// Where packages come from
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
}

/// `lock`.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// Renew nothing; get the packages as files into a directory, which --mirror takes elsewhere
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Option<PathBuf>,
}

/// `clean`.
#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Empty the cache as well; the next run fetches again
    #[arg(long)]
    pub(crate) cache: bool,
}

/// Files for other programs.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Reports")]
pub(crate) struct ReportArgs {
    /// Write verdict, figures, time and logs of every row in JUnit's form; also if the run fails or is
    /// interrupted
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Flags that replace what would be fetched.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where programs come from")]
pub(crate) struct ProvisionArgs {
    /// A Xen version that Debian packages (4.17, 4.20), or a hypervisor file
    #[arg(long, value_name = "VERSION|PATH")]
    pub(crate) xen: Option<String>,
    /// A qemu-system-x86_64 to use instead of the host's or Debian's
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// A directory tree with a kernel, its modules, xl, Xen's daemons and a static busybox, to
    /// make the Linux dom0 from
    #[arg(long, value_name = "DIR")]
    pub(crate) dom0_root: Option<PathBuf>,
    /// Where packages come from
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
}

/// What names a mirror.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MirrorArgs {
    /// A mirror of Debian's archive, or a directory with packages, to fetch the versions of
    /// ci/packages.lock from, on any host; several are separated by blanks. Else the variable
    /// XEN_PV_GUEST_MIRROR or the file xen-pv-guest/mirror of the user's configuration names it
    #[arg(long, value_name = "URL|DIR")]
    pub(crate) mirror: Option<String>,
}

impl ProvisionArgs {
    /// Opens the cache and checks the flags.
    pub(crate) fn open(&self) -> Result<Provision> {
        self.with(Cache::open()?)
    }

    /// The same for a run that only says what it would fetch.
    pub(crate) fn dry(&self) -> Result<Provision> {
        self.with(Cache::dry()?)
    }

    fn with(&self, cache: Cache) -> Result<Provision> {
        let origin = self.mirror.origin()?;
        let xen = match self.xen.as_deref() {
            Some(asked) => Xen::parse(asked)?,
            None => Xen::Release(XenRelease::usual(&cache, &origin)),
        };
        Ok(Provision {
            cache,
            qemu: self.qemu.clone(),
            xen,
            dom0_root: self.dom0_root.clone(),
            origin,
            update: false,
        })
    }
}

impl MirrorArgs {
    /// Where packages come from.
    pub(crate) fn origin(&self) -> Result<Origin> {
        let variable = std::env::var_os(mirror::VARIABLE);
        let file = mirror::configuration();
        let named = Mirror::find(self.mirror.as_deref(), variable, file.as_deref())?;
        let host = Host::this();
        Ok(match named {
            Some(mirror) => Origin::Mirror(mirror, host),
            None => Origin::Host(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_has_status_2() {
        for words in [
            &["x", "boot", "--via", "nothing"][..],
            &["x", "boot", "--mem", "3"],
            &["x", "boot", "--vcpus", "0"],
            &["x", "boot", "--expect", "a(b"],
            &["x", "boot", "--fail", ".*"],
            &["x", "boot", "--symbols", "vmlinux"],
            &["x", "doctor", "--qemu", "qemu"],
            &["x", "test", "--list", "--json", "x"],
            &["x", "rules", "--book", "x", "--junit", "y"],
            &["x", "fly"],
            &["x", "bench", "map,unmap"],
            &["x", "bench", "--vs", "nothing"],
            &["x", "rules", "--differential", "0"],
            &["x", "rules", "--differential", "9..9"],
            &["x", "rules", "--timeout", "0"],
            &["x", "rules", "--xen-log", "loud"],
            &["x", "fuzz", "--seed", "ten"],
            &["x", "fuzz", "--ops", "0"],
            &["x", "fuzz", "--on", "shim"],
            &["x", "fuzz", "--seconds", "9"],
            &["x", "fuzz", "--coverage", "--seconds", "0"],
            &["x", "fuzz", "--coverage", "--on", "dom0"],
            &["x", "fuzz", "--coverage", "--replay", "crash"],
        ] {
            assert_eq!(
                Cli::try_parse_from(words).unwrap_err().exit_code(),
                2,
                "{words:?}"
            );
        }
    }

    #[test]
    fn a_wrong_expression_is_told_with_its_flag_and_place() {
        for flag in ["--expect", "--fail"] {
            let error = Cli::try_parse_from(["x", "boot", flag, "all (good"]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(flag) && text.contains("at character 5: unclosed group"),
                "{text}"
            );
        }
    }

    #[test]
    fn fuzzing_takes_seeds_in_both_notations() {
        for (words, seed, ops, seconds) in [
            (&["x", "fuzz"][..], None, None, 60),
            (
                &["x", "fuzz", "--seed", "0x2a", "--ops", "1_000"],
                Some(42),
                Some(1000),
                60,
            ),
            (
                &["x", "fuzz", "--coverage", "--seconds", "9"],
                None,
                None,
                9,
            ),
        ] {
            let Command::Fuzz(found) = Cli::try_parse_from(words).unwrap().command else {
                panic!("{words:?}");
            };
            assert_eq!(
                (found.seed, found.ops, found.seconds),
                (seed, ops, seconds),
                "{words:?}"
            );
        }
    }
}
