//! `--via dom0`: QEMU loads Xen, and the kernel as Xen's first domain.
//!
//! The quickest way to real Xen. The console is Xen's own serial line, shared by both; Xen's
//! messages say how the domain ended. A dom0 is privileged, so what passes here may still fail as
//! an ordinary domain.

use super::alone::{self, Alone, Heard};
use super::qemu::{Accel, Machine, Module};
use super::{Job, Mode, Session, Setting, Stack};
use crate::console::transcript::{Transcript, Voice, voice};
use crate::console::verdict::{End, Shutdown};
use crate::exit::Result;
use crate::provision::Provision;
use crate::provision::qemu::Qemu;

/// What Xen takes for itself, generously.
const XEN_MEM_MIB: u32 = 256;

/// The stack.
pub(crate) struct Dom0;

impl Stack for Dom0 {
    fn prepare(&self, provision: &Provision) -> Result<()> {
        Qemu::choose(provision)?;
        provision.hypervisor().map(drop)
    }

    fn machine(&self, setting: &Setting<'_>, job: &Job) -> Result<(Qemu, Machine)> {
        let qemu = Qemu::choose(setting.provision)?;
        let xen = setting.provision.hypervisor()?;
        Ok((qemu, machine(&xen, job, setting.mode)))
    }

    fn open<'jobs>(
        &self,
        setting: Setting<'_>,
        _jobs: &'jobs [Job],
    ) -> Result<Box<dyn Session + 'jobs>> {
        let qemu = Qemu::choose(setting.provision)?;
        Ok(Box::new(Open {
            xen: setting.provision.hypervisor()?,
            qemu,
            mode: setting.mode,
        }))
    }
}

struct Open {
    qemu: Qemu,
    xen: std::path::PathBuf,
    mode: Mode,
}

/// The machine for one boot.
fn machine(xen: &std::path::Path, job: &Job, mode: Mode) -> Machine {
    let accel = Accel::Tcg {
        icount: mode.icount,
    };
    let alone = alone::machine(job, mode, accel);
    let (mem, cpus) = (alone.mem_mib, alone.cpus);
    // TCG raises no #NM for XSAVE with CR0.TS set, so lazy FPU switching would leak registers
    // between domains: `eager-fpu` is a must. `noreboot` makes Xen stop where it crashed.
    let append = format!(
        "{} com1=115200,8n1 console=com1 cpuidle=0 spec-ctrl=eager-fpu noreboot \
         dom0_mem={mem}M,max:{mem}M dom0_max_vcpus={cpus}",
        mode.xen_log.words()
    );
    let mut modules = vec![Module {
        file: job.kernel.clone(),
        cmdline: job.cmdline.clone(),
    }];
    modules.extend(job.initrd.clone().map(Module::new));
    Machine {
        mem_mib: (mem + XEN_MEM_MIB).max(512),
        kernel: xen.to_path_buf(),
        append,
        modules,
        ..alone
    }
}

impl Session for Open {
    fn run(&mut self, job: &Job, transcript: &mut Transcript) -> Result<End> {
        let machine = machine(&self.xen, job, self.mode);
        let mut alone = Alone::start(&machine, &self.qemu, self.mode, job, transcript)?;
        let mut seen = 0;
        loop {
            match alone.listen(transcript)? {
                Heard::Bytes(bytes) => transcript.shared_bytes(&bytes),
                Heard::Closed => return Ok(alone.running.end()),
                Heard::Over(end) => return Ok(end),
            }
            let end = transcript.host[seen..].iter().find_map(|line| end_of(line));
            seen = transcript.host.len();
            match end {
                Some(End::Broken(_)) => return Ok(panicked(&transcript.host, alone::mem_mib(job))),
                Some(end) => return Ok(end),
                None => {}
            }
        }
    }
}

/// The end of a Xen that panicked. Where it found the dom0's memory too small, nothing is wrong with
/// Xen: there is no dom0 of that size.
fn panicked(lines: &[String], mem_mib: u32) -> End {
    let title = lines
        .iter()
        .rposition(|line| line.contains("Panic on CPU "));
    let said = title.and_then(|at| lines.get(at + 1));
    let said = said.and_then(|line| line.strip_prefix("(XEN)"));
    let Some(why) = said.map(|why| why.trim()) else {
        return End::Broken("Xen panicked; its log says why".into());
    };
    match why.contains("too small") || why.contains("Not enough RAM") {
        true => End::Unbuilt {
            why: format!("Xen: {why}"),
            least_mib: Some(mem_mib + 1),
        },
        false => End::Broken(format!("Xen panicked: {why}")),
    }
}

/// The end that a line of Xen's log announces.
fn end_of(line: &str) -> Option<End> {
    if voice(line) == Voice::Guest {
        return None;
    }
    let text = line.strip_prefix("(XEN)")?.trim_start();
    if let Some(rest) = text.strip_prefix("Hardware Dom0 ") {
        return Some(End::Shutdown(match rest {
            rest if rest.starts_with("halted") => Shutdown::Poweroff,
            rest if rest.starts_with("crashed") => Shutdown::Crash,
            rest if rest.contains("watchdog") => Shutdown::Watchdog,
            _ => Shutdown::Reboot,
        }));
    }
    // The last line of a panic, so that its message and registers are on record before.
    let panicked = text.starts_with("Manual reset required") || text.starts_with("Reboot in ");
    panicked.then(|| End::Broken("Xen panicked; its log says why".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::Via;

    fn job() -> Job {
        Job {
            cmdline: "selftest".into(),
            ..Job::plain(Via::Dom0)
        }
    }

    #[test]
    fn xen_never_switches_the_fpu_lazily() {
        let machine = machine("/xen".as_ref(), &job(), Mode::default());
        assert!(machine.append.contains("spec-ctrl=eager-fpu"));
        assert!(machine.append.starts_with("loglvl=all guest_loglvl=all "));
        assert!(
            machine
                .append
                .contains("dom0_mem=128M,max:128M dom0_max_vcpus=1")
        );
        assert_eq!(machine.modules[0].cmdline, "selftest");
    }

    #[test]
    fn sizes_follow_the_job() {
        let job = Job {
            mem_mib: Some(1024),
            vcpus: Some(4),
            initrd: Some("/i".into()),
            ..job()
        };
        let machine = machine(
            "/xen".as_ref(),
            &job,
            Mode {
                icount: true,
                ..Mode::default()
            },
        );
        assert!(
            machine
                .append
                .contains("dom0_mem=1024M,max:1024M dom0_max_vcpus=4")
        );
        assert_eq!((machine.mem_mib, machine.cpus), (1280, 4));
        assert_eq!(machine.modules.len(), 2);
        assert_eq!(machine.accel, Accel::Tcg { icount: true });
    }

    #[test]
    fn a_panic_is_told_from_a_dom0_that_is_too_small() {
        let lines = |why: &str| {
            let text = format!("(XEN) ****\n(XEN) Panic on CPU 0:\n(XEN) {why}\n(XEN) ****");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let small = "Dom0 allocation too small for initial P->M table";
        let end = End::Unbuilt {
            why: format!("Xen: {small}"),
            least_mib: Some(5),
        };
        assert_eq!(panicked(&lines(small), 4), end);
        let bug = End::Broken("Xen panicked: FATAL TRAP: vector = 6".into());
        assert_eq!(panicked(&lines("FATAL TRAP: vector = 6"), 4), bug);
        assert!(matches!(panicked(&[], 4), End::Broken(_)));
    }

    #[test]
    fn xen_tells_how_its_dom0_ended() {
        let end = |line| end_of(line);
        let shutdown = |reason| Some(End::Shutdown(reason));
        assert_eq!(
            end("(XEN) Hardware Dom0 halted: halting machine"),
            shutdown(Shutdown::Poweroff)
        );
        assert_eq!(
            end("(XEN) Hardware Dom0 crashed: 'noreboot' set - not rebooting."),
            shutdown(Shutdown::Crash)
        );
        assert_eq!(
            end("(XEN) Hardware Dom0 shutdown: rebooting machine"),
            shutdown(Shutdown::Reboot)
        );
        assert!(matches!(
            end("(XEN) Manual reset required ('noreboot' specified)"),
            Some(End::Broken(_))
        ));
        assert_eq!(end("Hardware Dom0 halted: says the guest"), None);
        assert_eq!(end("(XEN) Freed 656kB init memory"), None);
    }
}
