//! The way in: from Xen's first instruction to a kernel's `main`.
//!
//! Xen enters in 64-bit mode at ring 3 with paging on, RSI = virtual address of `start_info`,
//! RSP = top of a stack it built, upcalls masked (`xen/include/public/arch-x86/xen.h`, "PV guest
//! start-of-day").

use hypercall::abi::start_info::start_info;
use hypercall::mmu::{Scope, VaFlush, update_va_mapping};
use hypercall::{VirtAddr, Xen};

use crate::console::{self, ring};
use crate::image::{Image, P2M_LIST, VIRT_BASE};
use crate::start_info::{self as given, BootError, BootInfo, ConsoleInfo, Expect};
use crate::verdict::{self, Outcome};
use crate::{println, trap};

// SAFETY: this module is entered by what `entry!` makes, whose notes are those of a PV kernel alone.
// Where nobody entered so, nothing is asked: the console is closed.
pub(crate) const XEN: Xen = unsafe { Xen::new() };

/// What a kernel begins with.
pub struct Start {
    /// What Xen told the kernel, checked.
    pub info: BootInfo,
    /// Xen: whoever has a `Start` was entered by it.
    pub xen: Xen,
    pub(crate) given: &'static start_info,
    pub(crate) stack: u64,
}

impl Start {
    /// What Xen told the kernel, as it did: for what [`BootInfo`] leaves out. Its page is gone once the
    /// page tables are taken over.
    #[must_use]
    pub fn given(&self) -> &start_info {
        self.given
    }

    /// Where the stack pointer was as Xen entered.
    #[must_use]
    pub fn xen_stack(&self) -> u64 {
        self.stack
    }
}

/// Makes everything that there is once in a kernel: the ELF notes, the first instruction, the stubs of
/// exceptions and the panic handler. `main` is a function of a [`Start`] that returns an [`Outcome`].
///
/// ```
/// # #[cfg(target_os = "none")] mod kernel {
/// # use xen_pv_rt::{Start, entry};
/// entry!(main);
///
/// fn main(start: Start) -> Result<(), &'static str> {
///     match start.info.cmdline.is_empty() {
///         true => Err("there is nothing to do"),
///         false => Ok(()),
///     }
/// }
/// # }
/// ```
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        mod xen_pv_rt_entry {
            #[allow(unused_imports, reason = "what `main` is called by")]
            use super::*;

            $crate::elf_notes! {
                {
                    XEN_ELFNOTE_GUEST_OS: ".asciz" ::core::concat!("\"", ::core::env!("CARGO_PKG_NAME"), "\"");
                    XEN_ELFNOTE_GUEST_VERSION: ".asciz" ::core::concat!("\"", ::core::env!("CARGO_PKG_VERSION"), "\"");
                    XEN_ELFNOTE_XEN_VERSION: ".asciz" "\"xen-3.0\"";
                    XEN_ELFNOTE_LOADER: ".asciz" "\"generic\"";
                    XEN_ELFNOTE_VIRT_BASE: ".quad" "{base}";
                    XEN_ELFNOTE_PADDR_OFFSET: ".quad" "0";
                    XEN_ELFNOTE_INIT_P2M: ".quad" "{p2m}";
                    XEN_ELFNOTE_ENTRY: ".quad" "xen_start_kernel";
                    XEN_ELFNOTE_FEATURES: ".asciz" "\"!writable_page_tables\"";
                    XEN_ELFNOTE_SUPPORTED_FEATURES: ".quad" "{supported}";
                    XEN_ELFNOTE_MOD_START_PFN: ".quad" "1";
                }
                base = const $crate::image::VIRT_BASE,
                p2m = const $crate::image::P2M_LIST,
                supported = const $crate::image::SUPPORTED_FEATURES,
            }

            $crate::trap_stubs!(xen_pv_rt_trap_stubs, $crate::trap::report::handle);

            unsafe extern "C" {
                static xen_pv_rt_trap_stubs: [[u8; $crate::trap::STUB]; $crate::trap::VECTORS];
            }

            /// Clears DF, takes the kernel's stack, ends the chain of frame pointers, and passes
            /// `start_info` and Xen's stack on.
            ///
            /// # Safety
            /// Only Xen enters here, once, with RSI pointing at `start_info`.
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".text.entry")]
            unsafe extern "C" fn xen_start_kernel() -> ! {
                ::core::arch::naked_asm!(
                    "cld",
                    "mov rdi, rsi",
                    "mov rsi, rsp",
                    "lea rsp, [rip + __stack_top]",
                    "xor ebp, ebp",
                    "call {begin}",
                    "ud2",
                    begin = sym xen_pv_rt_begin,
                )
            }

            /// Keeps the entry, which only the notes name.
            #[used]
            static ENTRY: unsafe extern "C" fn() -> ! = xen_start_kernel;

            extern "C" fn xen_pv_rt_begin(address: u64, stack: u64) -> ! {
                let stubs = &raw const xen_pv_rt_trap_stubs;
                // SAFETY: called by the entry alone, with what Xen passed, and the stubs are those.
                unsafe { $crate::begin(address, stack, stubs.cast(), $main) }
            }

            #[panic_handler]
            fn xen_pv_rt_panic(info: &::core::panic::PanicInfo<'_>) -> ! {
                $crate::trap::report::panic(info)
            }
        }
    };
}

/// The first Rust code.
///
/// # Safety
/// Called by the entry that [`entry!`] makes, with what Xen passed and the stubs of
/// [`trap_stubs!`](crate::trap_stubs).
#[doc(hidden)]
pub unsafe fn begin<O: Outcome>(
    address: u64,
    stack: u64,
    stubs: *const u8,
    main: fn(Start) -> O,
) -> ! {
    // An exception before the console is open is still better reported than fatal.
    // SAFETY: the stubs are of this image, which is never unmapped.
    let traps = unsafe { trap::install(&XEN, VirtAddr::from_ptr(stubs)) };
    // The console first: whatever is wrong with the rest can then be said.
    // SAFETY: the address is Xen's, and `Start` lends what is there no longer than it is.
    let opened = unsafe { open(address) };
    let parsed = opened.and_then(|given| Ok((given, parse(given, address)?)));
    let (given, info) = parsed.unwrap_or_else(|error| {
        console::open(ConsoleInfo::Hypervisor, None);
        println!("{error}");
        verdict::crash(error)
    });
    if let Err(error) = traps {
        panic!("trap table: {error}");
    }
    // SAFETY: the page below the stack is nobody's.
    if let Err(error) = unsafe { map_guard(0) } {
        panic!("guard page of the stack: {error}");
    }
    let xen = XEN;
    let start = Start {
        info,
        xen,
        given,
        stack,
    };
    verdict::end(&main(start))
}

/// Opens the console that `start_info` names.
///
/// # Safety
/// As [`given::read`].
unsafe fn open(address: u64) -> Result<&'static start_info, BootError> {
    // SAFETY: the caller's promise.
    let given = unsafe { given::read(address, VIRT_BASE) }?;
    let info = given::console(given)?;
    let page = match info {
        ConsoleInfo::Hypervisor => None,
        // SAFETY: the frame is the console's, and whoever takes the tables over moves the ring before
        // the initial mapping is gone.
        ConsoleInfo::Ring { mfn, .. } => Some(unsafe { ring::find(mfn, VIRT_BASE, END) }?),
    };
    console::open(info, page);
    Ok(given)
}

/// Where the initial mapping ends at the latest: what the image may be in.
const END: u64 = VIRT_BASE + (1 << 30);

fn parse(given: &start_info, address: u64) -> Result<BootInfo, BootError> {
    let expect = Expect {
        virt_base: VIRT_BASE,
        init_p2m: P2M_LIST,
        start_info: address,
    };
    BootInfo::parse(given, expect)
}

/// Writes the entry of the page below the stack.
///
/// # Safety
/// It maps nothing, or that page.
pub(crate) unsafe fn map_guard(entry: u64) -> Result<(), hypercall::XenError> {
    let guard = VirtAddr::new(Image::current().stack_guard.start);
    // SAFETY: nobody uses the page below the stack.
    unsafe { update_va_mapping(&XEN, guard, entry, VaFlush::Page(Scope::Local)) }
}
