//! What the dom0 and its domains run on: how much memory, how many processors, and the file system with
//! what the jobs bring.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::exit::{Failure, Result};
use crate::stack::archive::Archive;
use crate::stack::qemu::{Accel, Machine, Module};
use crate::stack::{Job, Mode};

/// Memory for Linux.
const DOM0_MEM_MIB: u32 = 512;

/// Memory for Xen, and for what it keeps beside each domain.
const XEN_MEM_MIB: u32 = 256;

/// Memory of a domain whose configuration file decides, at most.
const DOMAIN_MEM_MIB: u32 = 256;

/// The machine for these jobs.
pub(super) fn machine(
    xen: &Path,
    linux: &Path,
    initramfs: &Path,
    jobs: &[Job],
    mode: Mode,
) -> Machine {
    let domain = jobs
        .iter()
        .map(|job| job.mem_mib.unwrap_or(DOMAIN_MEM_MIB))
        .max();
    let domain = domain.unwrap_or(DOMAIN_MEM_MIB);
    let cpus = jobs
        .iter()
        .filter_map(|job| job.vcpus)
        .max()
        .unwrap_or(1)
        .clamp(1, 4);
    // Each domain needs about a hundredth of its memory for its page tables and p2m in Linux.
    let dom0 = DOM0_MEM_MIB + domain / 32;
    Machine {
        accel: Accel::Tcg {
            icount: mode.icount,
        },
        plugin: None,
        features: jobs.iter().flat_map(|job| job.cpu.clone()).collect(),
        mem_mib: dom0 + XEN_MEM_MIB + domain + domain / 16,
        cpus,
        kernel: xen.to_path_buf(),
        append: format!(
            "{} com1=115200,8n1 console=com1 cpuidle=0 spec-ctrl=eager-fpu noreboot \
             dom0_mem={dom0}M,max:{dom0}M dom0_max_vcpus=1",
            mode.xen_log.words()
        ),
        modules: vec![
            Module {
                file: linux.to_path_buf(),
                cmdline: "console=hvc0 rdinit=/init quiet panic=-1".into(),
            },
            Module::new(initramfs.to_path_buf()),
        ],
        serials: 3,
        debug_exit: false,
        gdb: mode.gdb,
    }
}

/// The file system of a dom0 with files more.
pub(super) fn append_payload(base: &Path, files: &[(String, PathBuf)], to: &Path) -> Result<()> {
    std::fs::copy(base, to).map_err(Failure::file("write", to))?;
    let output = File::options()
        .append(true)
        .open(to)
        .map_err(Failure::file("write", to))?;
    let mut archive = Archive::new(output);
    for (place, source) in files {
        let bytes = std::fs::read(source).map_err(Failure::file("read", source))?;
        archive
            .file(place, &bytes, false)
            .map_err(Failure::file("write", to))?;
    }
    archive
        .finish()
        .map_err(Failure::file("write", to))
        .map(drop)
}
