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

use hypercall::abi::elfnote;

use crate::mm::layout;

/// Bits of SUPPORTED_FEATURES (`xen/include/public/features.h`).
const SUPPORTED_FEATURES: u64 = 1 << 4 // pae_pgdir_above_4gb: no meaning in 64 bit, old tools ask
    | 1 << 5  // mmu_pt_update_preserve_ad
    | 1 << 11; // dom0

macro_rules! notes {
    ($($number:ident: $directive:literal $value:expr;)*) => {
        concat!(
            ".pushsection .note.Xen, \"a\", @note\n",
            $(
                ".balign 4\n",
                ".long 4, 2f - 1f, {", stringify!($number), "}\n",
                ".asciz \"Xen\"\n",
                "1: ", $directive, " ", $value, "\n",
                "2:\n",
            )*
            ".balign 4\n",
            ".popsection\n",
        )
    };
}

global_asm!(
    notes! {
        guest_os: ".asciz" "\"rust-xen-pv\"";
        guest_version: ".asciz" concat!("\"", env!("CARGO_PKG_VERSION"), "\"");
        xen_version: ".asciz" "\"xen-3.0\"";
        loader: ".asciz" "\"generic\"";
        virt_base: ".quad" "{base}";
        paddr_offset: ".quad" "0";
        init_p2m: ".quad" "{p2m}";
        entry: ".quad" "xen_start_kernel";
        hypercall_page: ".quad" "__hypercall_page";
        features: ".asciz" "\"!writable_page_tables\"";
        supported_features: ".quad" "{supported}";
        mod_start_pfn: ".quad" "1";
    },
    ".pushsection .hypercall_page, \"ax\", @progbits",
    ".skip 4096, 0xcc",
    ".popsection",
    guest_os = const elfnote::XEN_ELFNOTE_GUEST_OS,
    guest_version = const elfnote::XEN_ELFNOTE_GUEST_VERSION,
    xen_version = const elfnote::XEN_ELFNOTE_XEN_VERSION,
    loader = const elfnote::XEN_ELFNOTE_LOADER,
    virt_base = const elfnote::XEN_ELFNOTE_VIRT_BASE,
    paddr_offset = const elfnote::XEN_ELFNOTE_PADDR_OFFSET,
    init_p2m = const elfnote::XEN_ELFNOTE_INIT_P2M,
    entry = const elfnote::XEN_ELFNOTE_ENTRY,
    hypercall_page = const elfnote::XEN_ELFNOTE_HYPERCALL_PAGE,
    features = const elfnote::XEN_ELFNOTE_FEATURES,
    supported_features = const elfnote::XEN_ELFNOTE_SUPPORTED_FEATURES,
    mod_start_pfn = const elfnote::XEN_ELFNOTE_MOD_START_PFN,
    base = const linker::VIRT_BASE,
    p2m = const layout::P2M.start,
    supported = const SUPPORTED_FEATURES,
);

/// Bytes of the boot stack. The deepest path seen, an error from the benchmarks on its way up, needs
/// some 23 KiB; the self-test `stack.depth` fails when too little was never used.
const STACK: usize = 64 * 1024;

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
#[unsafe(link_section = ".text.entry")]
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
