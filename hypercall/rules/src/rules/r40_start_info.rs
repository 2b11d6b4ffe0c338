//! # R40: What a kernel is started with
//!
//! RSI points at `start_info`, RSP is the end of a page. In order of address: kernel, initrd,
//! p2m (unless it has a place of its own), start_info, xenstore page, console page, page tables,
//! stack; then padding of at least 512 KiB, up to a multiple of 4 MiB. Nothing beyond is mapped.
//! Dom0 has neither xenstore nor console page.
//!
//! **Why.** The padding is for a kernel's first page tables, before it has an allocator.
//!
//! **Source.** xen/include/public/xen.h: `start_info`; tools/libs/guest/xg_dom_x86.c:
//! `alloc_pgtables_pv`; xen/arch/x86/pv/dom0_build.c.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let Some(info) = machine.start_info() else {
        skip!("this kernel has not kept start_info");
    };
    let magic = info.magic.map(|c| c as u8);
    expect!(magic.starts_with(b"xen-3.0-x86_64"), "the magic is not xen-3.0-x86_64");
    expect!(info.nr_pages > 0, "no pages");
    expect_eq!(info.pt_base % 4096, 0, "offset of the page tables in their page");
    expect!(info.nr_pt_frames >= 4, "{} page tables", info.nr_pt_frames);
    expect_eq!(info.shared_info % 4096, 0, "offset of shared_info in its page");
    let dom0 = lab_kind(machine) == Kind::Dom0;
    let flags = info.flags & (abi::start_info::SIF_PRIVILEGED | abi::start_info::SIF_INITDOMAIN);
    expect_eq!(flags, if dom0 { 3 } else { 0 }, "the privilege flags");
    expect_eq!(info.store_mfn == 0, dom0, "there is no xenstore page");
    Ok(())
}

fn lab_kind(machine: &dyn Machine) -> Kind {
    machine.about().kind
}
