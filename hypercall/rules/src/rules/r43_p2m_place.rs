//! # R43: The p2m can have a place of its own
//!
//! With the note `INIT_P2M` the list is mapped there and not in the image. Its frames and those of
//! the tables that map it are `first_p2m_pfn` and `nr_p2m_frames`; they lie outside the initial
//! mapping, and the tables among them are mapped nowhere. The other notes: LOADER "generic",
//! XEN_VERSION "xen-3.0", PADDR_OFFSET only with VIRT_BASE, SUPPORTED_FEATURES with dom0 (bit 11)
//! or dom0 is refused.
//!
//! **Why.** The list of a large domain does not fit beside a kernel in the top 2 GiB.
//!
//! **Source.** xen/include/public/elfnote.h, xen.h; tools/libs/guest/xg_dom_x86.c:
//! `alloc_p2m_list_x86_64`; xen/arch/x86/pv/dom0_build.c: `setup_pv_physmap`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let Some(info) = machine.start_info() else {
        skip!("this kernel has not kept start_info");
    };
    if info.nr_p2m_frames == 0 {
        skip!("this kernel did not ask for a place for its p2m");
    }
    let list = info.nr_pages.div_ceil(512);
    expect!(info.nr_p2m_frames >= list, "{} frames for the p2m", info.nr_p2m_frames);
    let end = info.first_p2m_pfn + info.nr_p2m_frames;
    expect!(end <= info.nr_pages, "the p2m's frames end at {end:#x}");
    expect!(info.mfn_list < info.pt_base, "the p2m is at {:#x}", info.mfn_list);
    Ok(())
}
