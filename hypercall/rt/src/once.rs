//! What there is once in a kernel, made in the kernel's own crate.

/// Makes everything that there is once in a kernel: the ELF notes, the first instruction, the stubs of
/// exceptions and the panic handler. `main` is a function of a `Start` that returns an
/// [`Outcome`](crate::verdict::Outcome).
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
