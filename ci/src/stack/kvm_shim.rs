//! `--via kvm-shim`: Xen's PV shim directly on KVM, which plays Xen's part for it. The quickest
//! way on real hardware: no emulation, no dom0.
//!
//! It asks more of the host than any other, so it checks first and says what is missing.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::alone::{self, Alone, Heard};
use super::qemu::{Accel, Machine, Module};
use super::{Job, Mode, Session, Setting, Stack, rootfs};
use crate::console::transcript::Transcript;
use crate::console::verdict::{End, Shutdown};
use crate::exit::{Failure, Result};
use crate::provision::Provision;
use crate::provision::qemu::{Qemu, Version};

/// `_IO(KVMIO, 0x03)`.
const KVM_CHECK_EXTENSION: libc::Ioctl = 0xae03;

/// KVM passes Xen's hypercalls on to QEMU.
const KVM_CAP_XEN_HVM: libc::c_int = 38;

/// The first QEMU with a console for a guest that believes in Xen; 8.0 and 8.1 answer Xen's
/// hypercalls but have none.
const OLDEST: Version = Version(8, 2);

/// What the shim takes for itself.
const SHIM_MEM_MIB: u32 = 64;

/// What KVM on this host can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kvm {
    /// No device, or no right to open it.
    Unavailable,
    /// KVM without the part of Xen.
    WithoutXen,
    /// All that is needed.
    Good,
}

fn probe(device: &Path) -> Kvm {
    let Ok(device) = std::fs::File::options().read(true).write(true).open(device) else {
        return Kvm::Unavailable;
    };
    // SAFETY: the request takes an integer and touches no memory of this process.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), KVM_CHECK_EXTENSION, KVM_CAP_XEN_HVM) };
    if answer > 0 {
        Kvm::Good
    } else {
        Kvm::WithoutXen
    }
}

/// Why this host cannot, if it cannot.
fn refusal(kvm: Kvm, qemu: Version) -> Option<Failure> {
    let missing = match kvm {
        Kvm::Unavailable => "/dev/kvm cannot be opened",
        Kvm::WithoutXen => "this host's KVM lacks KVM_CAP_XEN_HVM",
        Kvm::Good if qemu < OLDEST => {
            return Some(Failure::host(
                format!("QEMU {qemu} is too old for kvm-shim, which needs {OLDEST}"),
                "install a newer one or pass it with --qemu PATH; --via shim works with any",
            ));
        }
        Kvm::Good => return None,
    };
    let remedy = match kvm {
        Kvm::Unavailable => {
            "enable virtualisation in the firmware, load the module kvm_intel or kvm_amd, and \
             join the group `kvm`; --via shim needs none of this"
        }
        _ => {
            "use a Linux kernel of 5.12 or newer built with CONFIG_KVM_XEN=y; --via shim needs \
             none of this"
        }
    };
    Some(Failure::host(missing, remedy))
}

/// The stack.
pub(crate) struct KvmShim;

impl Stack for KvmShim {
    fn prepare(&self, provision: &Provision) -> Result<()> {
        check(provision)?;
        rootfs::shim(&provision.dom0()?).map(drop)
    }

    fn machine(&self, setting: &Setting<'_>, job: &Job) -> Result<(Qemu, Machine)> {
        let qemu = check(setting.provision)?;
        let tree = setting.provision.dom0()?;
        let shim = match setting.provision.cache.expected(&tree) {
            Some(tree) => tree.join("xen-shim"),
            None => rootfs::shim(&tree)?,
        };
        Ok((qemu, machine(&shim, job, setting.mode)))
    }

    fn open<'jobs>(
        &self,
        setting: Setting<'_>,
        _jobs: &'jobs [Job],
    ) -> Result<Box<dyn Session + 'jobs>> {
        let qemu = check(setting.provision)?;
        let shim = rootfs::shim(&setting.provision.dom0()?)?;
        Ok(Box::new(Open {
            qemu,
            shim,
            mode: setting.mode,
        }))
    }
}

fn check(provision: &Provision) -> Result<Qemu> {
    let kvm = probe(Path::new("/dev/kvm"));
    // Nothing is fetched for a host that cannot run it anyway.
    if let Some(failure) = refusal(kvm, OLDEST) {
        return Err(failure);
    }
    let qemu = Qemu::choose(provision)?;
    match refusal(kvm, qemu.version) {
        Some(failure) => Err(failure),
        None => Ok(qemu),
    }
}

struct Open {
    qemu: Qemu,
    shim: PathBuf,
    mode: Mode,
}

fn machine(shim: &Path, job: &Job, mode: Mode) -> Machine {
    let alone = alone::machine(job, mode, Accel::KvmXen);
    Machine {
        mem_mib: alone.mem_mib + SHIM_MEM_MIB,
        kernel: shim.to_path_buf(),
        append: format!("pv-shim console=xen,pv -- {}", job.cmdline)
            .trim_end()
            .to_owned(),
        // The shim's words go before the dashes and the kernel's behind them: a PVH module has none.
        modules: vec![Module::new(job.kernel.clone())],
        debug_exit: false,
        ..alone
    }
}

impl Session for Open {
    fn run(&mut self, job: &Job, transcript: &mut Transcript) -> Result<End> {
        if job.initrd.is_some() {
            return Err(Failure::Usage(
                "kvm-shim hands no --initrd to the kernel".into(),
            ));
        }
        let machine = machine(&self.shim, job, self.mode);
        let mut alone = Alone::start(&machine, &self.qemu, self.mode, job, transcript)?;
        loop {
            match alone.listen(transcript)? {
                Heard::Bytes(bytes) => transcript.shared_bytes(&bytes),
                Heard::Closed => return Ok(end_of(alone.running.exit_code())),
                Heard::Over(end) => return Ok(end),
            }
        }
    }
}

/// QEMU ends when the domain does, and is told to end differently when it crashed.
fn end_of(code: Option<i32>) -> End {
    match code {
        Some(0) => End::Shutdown(Shutdown::Poweroff),
        Some(_) => End::Shutdown(Shutdown::Crash),
        None => End::Broken("QEMU was killed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::Via;

    #[test]
    fn the_first_thing_missing_is_named_with_a_remedy() {
        let text = |kvm, version| refusal(kvm, version).map(|failure| failure.to_string());
        let new = Version(10, 0);
        assert!(text(Kvm::Unavailable, new).unwrap().contains("/dev/kvm"));
        assert!(
            text(Kvm::WithoutXen, new)
                .unwrap()
                .contains("KVM_CAP_XEN_HVM")
        );
        assert!(
            text(Kvm::WithoutXen, new)
                .unwrap()
                .contains("CONFIG_KVM_XEN")
        );
        assert!(text(Kvm::Good, Version(7, 2)).unwrap().contains("QEMU 7.2"));
        assert_eq!(text(Kvm::Good, OLDEST), None);
        assert_eq!(refusal(Kvm::Unavailable, new).unwrap().status(), 3);
    }

    #[test]
    fn a_device_that_is_not_kvm_is_not_taken_for_it() {
        assert_eq!(probe(Path::new("/nonexistent")), Kvm::Unavailable);
        assert_eq!(probe(Path::new("/dev/null")), Kvm::WithoutXen);
    }

    #[test]
    fn kvm_plays_xen_and_the_shim_gets_the_kernel() {
        let job = Job {
            cmdline: "log=info,mm=debug".into(),
            mem_mib: Some(256),
            vcpus: Some(2),
            ..Job::plain(Via::KvmShim)
        };
        let machine = machine(Path::new("/xen-shim"), &job, Mode::default());
        let text = machine.arguments(Version(8, 2)).join(" ");
        for part in [
            "-accel kvm,xen-version=0x40011,kernel-irqchip=split",
            "-cpu host -m 320 -smp 2",
            "-device xen-console,chardev=serial0",
            "-action panic=exit-failure",
            "-kernel kernel -append pv-shim console=xen,pv -- log=info,mm=debug",
            "-initrd module0",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("isa-serial"));
    }

    #[test]
    fn a_crash_is_told_from_a_power_off() {
        assert_eq!(end_of(Some(0)), End::Shutdown(Shutdown::Poweroff));
        assert_eq!(end_of(Some(1)), End::Shutdown(Shutdown::Crash));
        assert!(matches!(end_of(None), End::Broken(_)));
    }
}
