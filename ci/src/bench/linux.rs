//! Linux in the kernel's place: Debian's, as PV dom0 on the same Xen in the same QEMU, with
//! `linux-bench` as its first process.

use super::report::Measurement;
use super::run::{self, Counted};
use crate::exit::Result;
use crate::provision::Provision;
use crate::stack::rootfs;
use crate::ui;
use crate::workspace::Workspace;

/// Memory for Linux: the cost of an operation does not depend on it.
const MEM_MIB: u32 = 512;

/// The console is Xen's; nothing is printed while the program runs.
const CMDLINE: &str = "console=hvc0 rdinit=/init quiet panic=-1";

/// Boots Linux and measures the operations whose names start as given, or all.
pub(super) fn measure(
    workspace: &Workspace,
    provision: &Provision,
    names: &[String],
) -> Result<Vec<Measurement>> {
    let kernel = rootfs::kernel(&provision.dom0()?, &provision.cache)?;
    let (_dir, archive) = run::ramdisk(workspace)?;
    let step = ui::spinner("count instructions of Linux");
    let said = run::boot(
        workspace,
        provision,
        Counted {
            kernel: &kernel,
            cmdline: CMDLINE,
            mem_mib: MEM_MIB,
            initrd: Some(archive),
            plugin: None,
        },
    )?;
    step.clear();
    let mut found = said.measurements;
    found.retain(|measurement| {
        let selected = |name: &String| measurement.operation().starts_with(name.as_str());
        names.is_empty() || names.iter().any(selected)
    });
    Ok(found)
}
