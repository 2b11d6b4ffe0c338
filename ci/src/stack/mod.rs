//! The ways of running the kernel. Each is a file; all of them answer to the two traits here, and
//! [`Via`] is the only list of them.
//!
//! A [`Stack`] is opened once for a list of jobs and then runs them one after the other: what takes
//! long, such as booting a Linux dom0, happens once.

mod alone;
pub(crate) mod archive;
pub(crate) mod bare;
mod by_hand;
mod bzimage;
mod control;
pub(crate) mod dom0;
mod domain;
mod dump;
mod inquest;
mod kvm_shim;
mod linux;
mod overdue;
mod pvh;
mod qemu;
pub(crate) mod rootfs;
mod shim;
mod silence;
mod xl;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use by_hand::ByHand;
pub(crate) use dump::Dump;
pub(crate) use linux::WOKEN;

use crate::console::contract::Contract;
use crate::console::transcript::{Show, Transcript};
use crate::console::verdict::End;
use crate::exit::Result;
use crate::provision::Provision;
use crate::ui;

/// `--via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Via {
    /// Xen and the kernel as its dom0: about a second
    Dom0,
    /// An ordinary PV domain, created by xl in a Linux dom0 from xen-cfg/guest.cfg
    Xl,
    /// Inside Xen's PV shim, created by xl from xen-cfg/guest-pvshim.cfg
    Shim,
    /// Inside the PV shim on KVM's own emulation of Xen; needs virtualisation hardware
    KvmShim,
    /// A PVH domain, created by xl from xen-cfg/guest-pvh.cfg
    Pvh,
    /// No Xen: entered by QEMU, on a processor with five levels of page tables; under a second
    Bare,
    /// The same on a processor with four levels
    Bare4,
}

/// Something that is done to a running domain of xl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Act {
    /// Once it says this, behind what made the act before come.
    pub(crate) when: &'static str,
    /// What is done.
    pub(crate) does: Does,
}

/// What can be done to a running domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// These keys are typed at its console.
    Type(&'static str),
    /// The shell of the dom0 carries this out, in which `$domain` is the domain's number. What it
    /// prints is part of what the host says.
    Host(&'static str),
}

/// Where the program of the jobs is in the dom0; it is one for all of them that have one.
pub(crate) const PROGRAM: &str = "jobs/program";

/// Has xl save the domain and restore it, in the dom0's shell.
pub(crate) const SAVE: &str = "unfollow; save $domain /tmp/save && { detach; restore /tmp/save; }";

/// One boot of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// For file names and messages.
    pub(crate) name: String,
    /// The way of running it.
    pub(crate) via: Via,
    /// The image.
    pub(crate) kernel: PathBuf,
    /// The file with its debug information, if that is another.
    pub(crate) symbols: Option<PathBuf>,
    /// Words for the kernel.
    pub(crate) cmdline: String,
    /// Memory, or what the stack or its configuration file says.
    pub(crate) mem_mib: Option<u32>,
    /// Processors, likewise.
    pub(crate) vcpus: Option<u32>,
    /// A file handed to the kernel.
    pub(crate) initrd: Option<PathBuf>,
    /// A program that the acts run in the dom0, as [`PROGRAM`].
    pub(crate) program: Option<PathBuf>,
    /// Features that the processor is to have or to lack, as `+NAME` or `-NAME` in QEMU's words.
    pub(crate) cpu: Vec<String>,
    /// A plugin of QEMU with its arguments, where QEMU runs nothing but the job.
    pub(crate) plugin: Option<String>,
    /// Settings of the domain's configuration, for what xl creates.
    pub(crate) config: Vec<String>,
    /// A dump that is to be taken of the domain, where it is one of xl's.
    pub(crate) dump: Option<Dump>,
    /// What it is judged by beside its verdict.
    pub(crate) contract: Contract,
    /// What is done to the domain while it runs, one after the other, where it is one of xl's.
    pub(crate) acts: &'static [Act],
    /// When to give up.
    pub(crate) timeout: Option<Duration>,
}

impl Job {
    /// One that leaves to the stack what it can.
    pub(crate) fn new(name: impl Into<String>, via: Via, kernel: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            via,
            kernel: kernel.into(),
            symbols: None,
            cmdline: String::new(),
            mem_mib: None,
            vcpus: None,
            initrd: None,
            program: None,
            plugin: None,
            cpu: Vec::new(),
            config: Vec::new(),
            dump: None,
            contract: Contract::default(),
            acts: &[],
            timeout: None,
        }
    }

    /// One for tests that do not look at what it boots.
    #[cfg(test)]
    fn plain(via: Via) -> Self {
        Self::new("x", via, "/k")
    }
}

/// How a stack is run, whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Count instructions: time is what was executed.
    pub(crate) icount: bool,
    /// Wait for a debugger.
    pub(crate) gdb: bool,
    /// The terminal is the guest's console.
    pub(crate) interactive: bool,
    /// What Xen says on its console.
    pub(crate) xen_log: XenLog,
}

/// `--xen-log`: which of Xen's messages its console shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum XenLog {
    /// None
    None,
    /// Errors
    Error,
    /// And warnings
    Warning,
    /// And what it does
    Info,
    /// And what only its developers want to know
    Debug,
    /// Everything
    #[default]
    All,
}

impl XenLog {
    /// Words of Xen's command line, about itself and about what its guests bring about.
    fn words(self) -> String {
        let level = match self {
            Self::None => "none",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::All => "all",
        };
        format!("loglvl={level} guest_loglvl={level}")
    }
}

/// What a stack is opened with.
pub(crate) struct Setting<'a> {
    /// Where its programs come from.
    pub(crate) provision: &'a Provision,
    /// How to run.
    pub(crate) mode: Mode,
    /// The repository.
    pub(crate) workspace: &'a Path,
    /// Where logs of the stack itself go.
    pub(crate) dir: &'a Path,
}

/// A way of running.
pub(crate) trait Stack {
    /// Fetches everything it needs, without running anything.
    fn prepare(&self, provision: &Provision) -> Result<()>;

    /// How a person would run a job alone.
    fn by_hand(&self, setting: &Setting<'_>, job: &Job) -> Result<ByHand>;

    /// Gets ready to run `jobs`, which are all that will be run.
    fn open<'jobs>(
        &self,
        setting: Setting<'_>,
        jobs: &'jobs [Job],
    ) -> Result<Box<dyn Session + 'jobs>>;
}

/// What came of a job that had its stack for itself.
pub(crate) struct Ran {
    /// What was said.
    pub(crate) transcript: Transcript,
    /// How it ended.
    pub(crate) end: Result<End>,
    /// How long it took, once the stack was open.
    pub(crate) took: Duration,
}

impl Setting<'_> {
    /// Runs a job by a stack of its own, whose logs go where those of the stack do, and to `copy`.
    ///
    /// # Errors
    /// The stack cannot be opened, or its logs cannot be written.
    pub(crate) fn run(
        self,
        stack: &dyn Stack,
        job: &Job,
        show: Show,
        copy: Option<&Path>,
    ) -> Result<Ran> {
        let dir = self.dir;
        let mut session = stack.open(self, std::slice::from_ref(job))?;
        let mut transcript = Transcript::create(dir, show, copy)?.explaining(job);
        let since = Instant::now();
        let end = session.run(job, &mut transcript);
        let took = since.elapsed();
        transcript.finish();
        Ok(Ran {
            transcript,
            end,
            took,
        })
    }
}

/// An open stack.
pub(crate) trait Session {
    /// Runs one of the jobs it was opened with to its end.
    fn run(&mut self, job: &Job, transcript: &mut Transcript) -> Result<End>;
}

impl Via {
    /// The stack of this name.
    pub(crate) fn stack(self) -> Box<dyn Stack> {
        match self {
            Self::Dom0 => Box::new(dom0::Dom0),
            Self::Xl | Self::Shim | Self::Pvh => Box::new(linux::Linux),
            Self::KvmShim => Box::new(kvm_shim::KvmShim),
            Self::Bare => Box::new(bare::Bare::new(true)),
            Self::Bare4 => Box::new(bare::Bare::new(false)),
        }
    }

    /// The name as on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dom0 => "dom0",
            Self::Xl => "xl",
            Self::Shim => "shim",
            Self::KvmShim => "kvm-shim",
            Self::Pvh => "pvh",
            Self::Bare => "bare",
            Self::Bare4 => "bare4",
        }
    }

    /// Whether Xen enters the kernel as a PV guest.
    pub(crate) fn is_pv(self) -> bool {
        match self {
            Self::Dom0 | Self::Xl | Self::Shim | Self::KvmShim => true,
            Self::Pvh | Self::Bare | Self::Bare4 => false,
        }
    }

    /// Whether the kernel is the first domain of the Xen that it runs on, or runs without one.
    pub(crate) fn is_first_domain(self) -> bool {
        self.domain().is_none()
    }

    /// Whether one session can run jobs of both.
    pub(crate) fn shares_host_with(self, other: Self) -> bool {
        self == other || (self.domain().is_some() && other.domain().is_some())
    }

    /// What xl creates, for the ways that go by a Linux dom0.
    fn domain(self) -> Option<domain::Domain> {
        match self {
            Self::Xl => Some(xl::DOMAIN),
            Self::Shim => Some(shim::DOMAIN),
            Self::Pvh => Some(pvh::DOMAIN),
            Self::Dom0 | Self::KvmShim | Self::Bare | Self::Bare4 => None,
        }
    }
}

/// Says how to attach a debugger to a machine that waits for one.
fn gdb_hint(mode: Mode, running: &qemu::Running, job: &Job) {
    if mode.gdb {
        let first = match job.via {
            Via::Pvh | Via::Bare | Via::Bare4 => "guest::boot::pvh::start",
            _ => "xen_start_kernel",
        };
        ui::say(format!(
            "the machine waits for a debugger; type in another terminal:\n  \
             gdb -ex 'target remote {}' -ex 'hbreak {first}' -ex continue {}",
            running.gdb_socket().display(),
            job.kernel.display()
        ));
    }
}
