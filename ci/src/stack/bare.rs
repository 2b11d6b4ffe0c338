//! `--via bare` and `bare4`: QEMU enters the kernel itself, and there is no Xen anywhere. The two
//! differ in the processor, which has five levels of page tables or only four.

use super::alone::{self, Alone, Heard};
use super::qemu::{Accel, Machine, Module};
use super::{Job, Mode, Session, Setting, Stack};
use crate::console::transcript::Transcript;
use crate::console::verdict::{End, Shutdown};
use crate::exit::Result;
use crate::provision::Provision;
use crate::provision::qemu::Qemu;

/// What the kernel writes to the debug-exit port beside the reason, as Xen numbers them.
const EXIT_BASE: i32 = 0x10;

/// The stack.
pub(crate) struct Bare {
    /// Whether the processor has five levels.
    pub(crate) la57: bool,
    /// QEMU's machine, with its options, if not the usual one.
    pub(crate) machine: Option<&'static str>,
}

impl Bare {
    /// QEMU's usual machine.
    pub(crate) fn new(la57: bool) -> Self {
        Self {
            la57,
            machine: None,
        }
    }
}

impl Stack for Bare {
    fn prepare(&self, provision: &Provision) -> Result<()> {
        Qemu::choose(provision).map(drop)
    }

    fn machine(&self, setting: &Setting<'_>, job: &Job) -> Result<(Qemu, Machine)> {
        let qemu = Qemu::choose(setting.provision)?;
        Ok((qemu, machine(job, setting.mode, self.la57, self.machine)))
    }

    fn open<'jobs>(
        &self,
        setting: Setting<'_>,
        _jobs: &'jobs [Job],
    ) -> Result<Box<dyn Session + 'jobs>> {
        Ok(Box::new(Open {
            qemu: Qemu::choose(setting.provision)?,
            mode: setting.mode,
            la57: self.la57,
            machine: self.machine,
        }))
    }
}

struct Open {
    qemu: Qemu,
    mode: Mode,
    la57: bool,
    machine: Option<&'static str>,
}

fn machine(job: &Job, mode: Mode, la57: bool, machine: Option<&'static str>) -> Machine {
    let accel = Accel::Bare {
        icount: mode.icount,
        la57,
        machine,
    };
    Machine {
        modules: job.initrd.clone().map(Module::new).into_iter().collect(),
        ..alone::machine(job, mode, accel)
    }
}

impl Session for Open {
    fn run(&mut self, job: &Job, transcript: &mut Transcript) -> Result<End> {
        let machine = machine(job, self.mode, self.la57, self.machine);
        let mut alone = Alone::start(&machine, &self.qemu, self.mode, job, transcript)?;
        loop {
            match alone.listen(transcript)? {
                Heard::Bytes(bytes) => transcript.guest_bytes(&bytes),
                Heard::Closed => {
                    let end = end_of(alone.running.exit_code());
                    return Ok(end.unwrap_or_else(|| alone.running.end()));
                }
                Heard::Over(end) => return Ok(end),
            }
        }
    }
}

/// The end that QEMU's status stands for: twice what was written to its debug-exit port, plus one; or
/// zero for a machine that was powered off by ACPI, or reset.
fn end_of(code: Option<i32>) -> Option<End> {
    if code == Some(0) {
        return Some(End::Off);
    }
    let reason = code.filter(|code| code % 2 == 1)? / 2 - EXIT_BASE;
    let reason = u32::try_from(reason).ok()?;
    Some(End::Shutdown(Shutdown::from_code(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::qemu::Version;
    use crate::stack::Via;

    #[test]
    fn the_kernel_is_entered_by_qemu_itself() {
        let job = Job {
            cmdline: "log=info,mm=debug".into(),
            mem_mib: Some(64),
            initrd: Some("/i".into()),
            ..Job::plain(Via::Bare)
        };
        let text = |la57| {
            let machine = machine(&job, Mode::default(), la57, None);
            machine.arguments(Version(10, 0)).join(" ")
        };
        let parts = [
            "-accel tcg -cpu max -m 64 -smp 1",
            "-device isa-debug-exit",
            "-kernel kernel -append log=info,mm=debug -initrd module0",
        ];
        for part in parts {
            assert!(text(true).contains(part), "{part} is not in {}", text(true));
        }
        assert!(text(false).contains("-cpu max,-la57 "));
    }

    #[test]
    fn the_status_tells_the_reason() {
        for (code, reason) in [
            (33, Shutdown::Poweroff),
            (35, Shutdown::Reboot),
            (39, Shutdown::Crash),
        ] {
            assert_eq!(end_of(Some(code)), Some(End::Shutdown(reason)));
        }
        // As ACPI asks for, or a triple fault with -no-reboot.
        assert_eq!(end_of(Some(0)), Some(End::Off));
        // QEMU's own ends: an error, a signal.
        for code in [Some(1), Some(2), None] {
            assert_eq!(end_of(code), None);
        }
    }
}
