//! `xen.h`: `start_info`, what RSI points at when the kernel is entered.
//!
//! `shared_info` is a machine address, `store_mfn` and `console.domU.mfn` are machine frames;
//! `mod_start` is a PFN when `SIF_MOD_START_PFN` is set, else a virtual address. `cmd_line` may
//! come without a terminating NUL.

pub use xen_sys::{
    MAX_GUEST_CMDLINE, SIF_INITDOMAIN, SIF_MOD_START_PFN, SIF_MULTIBOOT_MOD, SIF_PM_MASK,
    SIF_PRIVILEGED, SIF_VIRT_P2M_4TOOLS, start_info,
    start_info__bindgen_ty_1 as start_info_console,
    start_info__bindgen_ty_1__bindgen_ty_1 as start_info_console_domU,
    start_info__bindgen_ty_1__bindgen_ty_2 as start_info_console_dom0, xen_multiboot_mod_list,
};
