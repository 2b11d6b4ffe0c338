//! The way in as a Xen PV guest: the ELF notes by which Xen recognises the image, and
//! `xen_start_kernel`, the first instruction it runs.
//!
//! Xen enters in 64-bit mode at ring 3 with paging on, RSI = virtual address of `start_info`,
//! RSP = top of a stack it built, upcalls masked (`xen/include/public/arch-x86/xen.h`, "PV guest
//! start-of-day"). The kernel takes its own stack at once, since Xen's lies in memory that is given
//! back later.
//!
//! The notes say (`xen/include/public/elfnote.h`): where the image lives (VIRT_BASE, PADDR_OFFSET),
//! that the p2m list goes to its own part of the address space (INIT_P2M: an L4 slot of its own, so
//! that one entry makes all of it read-only), that modules need no mapping (MOD_START_PFN), and
//! which features the kernel has (SUPPORTED_FEATURES; without the dom0 bit Xen refuses to run it as
//! dom0). HYPERCALL_PAGE names a page for tools that insist on one; calls go by `syscall` directly.

use core::arch::{global_asm, naked_asm};

use crate::mm::layout;

xen_pv_rt::elf_notes! {
    {
        XEN_ELFNOTE_GUEST_OS: ".asciz" "\"rust-xen-pv\"";
        XEN_ELFNOTE_GUEST_VERSION: ".asciz" concat!("\"", env!("CARGO_PKG_VERSION"), "\"");
        XEN_ELFNOTE_XEN_VERSION: ".asciz" "\"xen-3.0\"";
        XEN_ELFNOTE_LOADER: ".asciz" "\"generic\"";
        XEN_ELFNOTE_VIRT_BASE: ".quad" "{base}";
        XEN_ELFNOTE_PADDR_OFFSET: ".quad" "0";
        XEN_ELFNOTE_INIT_P2M: ".quad" "{p2m}";
        XEN_ELFNOTE_ENTRY: ".quad" "xen_start_kernel";
        XEN_ELFNOTE_HYPERCALL_PAGE: ".quad" "__hypercall_page";
        XEN_ELFNOTE_FEATURES: ".asciz" "\"!writable_page_tables\"";
        XEN_ELFNOTE_SUPPORTED_FEATURES: ".quad" "{supported}";
        XEN_ELFNOTE_MOD_START_PFN: ".quad" "1";
    }
    base = const linker::VIRT_BASE,
    p2m = const layout::P2M.start,
    supported = const xen_pv_rt::image::SUPPORTED_FEATURES,
}

global_asm!(
    ".pushsection .hypercall_page, \"ax\", @progbits",
    ".skip 4096, 0xcc",
    ".popsection",
);

/// Bytes of the boot stack. The deepest path seen, an error from the benchmarks on its way up, needs
/// some 23 KiB; the self-test `stack.depth` fails when too little was never used. Without tests nothing
/// goes deeper than a thread, whose stacks have as much.
const STACK: usize = if cfg!(feature = "check") { 64 } else { 32 } * 1024;

#[repr(C, align(4096))]
struct Stack([u8; STACK]);

// SAFETY: the linker script places this section alone between the guard page and `__stack_top`.
#[used]
#[unsafe(link_section = ".bss.stack")]
static mut BOOT_STACK: Stack = Stack([0; STACK]);

/// The first instruction under Xen. Clears DF, takes the boot stack, ends the chain of frame
/// pointers, and passes `start_info` and the old stack on.
///
/// # Safety
/// Only Xen enters here, once, with RSI pointing at `start_info`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".init.text.entry")]
pub unsafe extern "C" fn xen_start_kernel() -> ! {
    naked_asm!(
        "cld",
        "mov rdx, rsp",
        "lea rsp, [rip + __stack_top]",
        "xor ebp, ebp",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "call {start}",
        "ud2",
        start = sym crate::boot::pv::start,
    )
}
