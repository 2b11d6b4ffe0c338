//! The way in and out: the ELF notes by which Xen recognises the image, the first instructions, a
//! stack, the console, the end.
//!
//! Xen enters in 64-bit mode with RSI pointing at `start_info` and RSP at the top of a stack that it
//! built (`xen/include/public/arch-x86/xen.h`, "PV guest start-of-day").

use core::arch::{global_asm, naked_asm};
use core::fmt::Write;

use hypercall::abi::elfnote::{
    XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_MOD_START_PFN,
    XEN_ELFNOTE_PADDR_OFFSET, XEN_ELFNOTE_SUPPORTED_FEATURES, XEN_ELFNOTE_VIRT_BASE,
    XEN_ELFNOTE_XEN_VERSION,
};
use hypercall::abi::start_info::start_info;
use hypercall::sched::{Shutdown, shutdown};
use hypercall::{Xen, console};

use crate::kernel;

// SAFETY: this image has notes of a PV kernel alone: nobody else can enter it.
pub(crate) const XEN: Xen = unsafe { Xen::new() };

/// Bit of SUPPORTED_FEATURES: can be dom0 (`xen/include/public/features.h`).
const DOM0: u64 = 1 << 11;

global_asm!(
    ".macro note type, value:vararg",
    ".balign 4",
    ".long 4, 2f - 1f, \\type",
    ".asciz \"Xen\"",
    "1: \\value",
    "2:",
    ".endm",
    ".pushsection .note.Xen, \"a\", @note",
    "note {version}, .asciz \"xen-3.0\"",
    "note {loader}, .asciz \"generic\"",
    "note {base}, .quad {virt_base}",
    "note {offset}, .quad 0",
    "note {p2m}, .quad {p2m_address}",
    "note {entry}, .quad xen_start_kernel",
    "note {features}, .quad {dom0}",
    "note {module}, .quad 1",
    ".balign 4",
    ".popsection",
    version = const XEN_ELFNOTE_XEN_VERSION,
    loader = const XEN_ELFNOTE_LOADER,
    base = const XEN_ELFNOTE_VIRT_BASE,
    offset = const XEN_ELFNOTE_PADDR_OFFSET,
    p2m = const XEN_ELFNOTE_INIT_P2M,
    entry = const XEN_ELFNOTE_ENTRY,
    features = const XEN_ELFNOTE_SUPPORTED_FEATURES,
    module = const XEN_ELFNOTE_MOD_START_PFN,
    virt_base = const linker::VIRT_BASE,
    p2m_address = const kernel::P2M_LIST,
    dom0 = const DOM0,
);

#[repr(C, align(4096))]
struct Stack([u8; 128 * 1024]);

// SAFETY: the linker script places this section alone between the guard page and `__stack_top`.
#[used]
#[unsafe(link_section = ".bss.stack")]
static mut STACK: Stack = Stack([0; 128 * 1024]);

/// The first instruction: takes the kernel's own stack, passes `start_info` and Xen's stack on.
///
/// # Safety
/// Only Xen enters here, once.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.entry")]
unsafe extern "C" fn xen_start_kernel() -> ! {
    naked_asm!(
        "cld",
        "mov rdi, rsi",
        "mov rsi, rsp",
        "lea rsp, [rip + __stack_top]",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        start = sym start,
    )
}

/// Keeps the entry, which only the notes name.
#[used]
static ENTRY: unsafe extern "C" fn() -> ! = xen_start_kernel;

/// The first Rust code.
extern "C" fn start(info: &start_info, stack: u64) -> ! {
    match kernel::run(info, stack) {
        Ok(()) => end(format_args!("pass"), Shutdown::Poweroff),
        Err(error) => end(format_args!("fail reason=\"{error}\""), Shutdown::Poweroff),
    }
}

/// Xen's console, which it lets a dom0 write to.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        console::write(&XEN, text.as_bytes()).map_err(|_| core::fmt::Error)
    }
}

/// Says the verdict and ends the domain.
fn end(verdict: core::fmt::Arguments<'_>, reason: Shutdown) -> ! {
    // There is nobody else to tell.
    let _ = writeln!(Console, "verdict: {verdict}");
    loop {
        let _ = shutdown(&XEN, reason);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    end(
        format_args!("crash reason=\"{}\"", info.message()),
        Shutdown::Crash,
    )
}
