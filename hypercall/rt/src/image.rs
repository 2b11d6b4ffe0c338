//! Where the linked image lies: the typed view of what this crate's linker script lays out.
//!
//! ```
//! use xen_pv_rt::image::VIRT_BASE;
//!
//! // The image begins at 1 MiB.
//! assert_eq!((0xffff_ffff_8010_0000 - VIRT_BASE) / 4096, 256);
//! ```

use core::ops::Range;

/// Virtual address that pseudo-physical address 0 is linked at (`VIRT_BASE` in the ELF notes).
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;

/// Where the table of machine frames is that Xen shows to every guest: a pfn each
/// (`MACH2PHYS_VIRT_START`, `arch-x86/xen-x86_64.h`).
pub const M2P: u64 = 0xffff_8000_0000_0000;

/// Where Xen is asked to put the p2m list: a slot of the root of its own (INIT_P2M).
pub const P2M_LIST: u64 = 0xffff_c000_0000_0000;

/// What a kernel on these crates is capable of, as the note SUPPORTED_FEATURES has it
/// (`xen/include/public/features.h`).
pub const SUPPORTED_FEATURES: u64 = 1 << 4 // pae_pgdir_above_4gb: no meaning in 64 bit, old tools ask
    | 1 << 5  // mmu_pt_update_preserve_ad
    | 1 << 11; // dom0

/// Address ranges of the linked image, all virtual, all page-aligned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Code.
    pub text: Range<u64>,
    /// Constants and notes.
    pub rodata: Range<u64>,
    /// Variables and the stack.
    pub data: Range<u64>,
    /// The page below the stack, inside `data`.
    pub stack_guard: Range<u64>,
    /// The stack, inside `data`.
    pub stack: Range<u64>,
}

#[cfg(target_os = "none")]
mod linked {
    use super::Image;

    unsafe extern "C" {
        static __text_start: u8;
        static __text_end: u8;
        static __rodata_start: u8;
        static __rodata_end: u8;
        static __data_start: u8;
        static __data_end: u8;
        static __stack_guard: u8;
        static __stack_bottom: u8;
        static __stack_top: u8;
        static __ex_table_start: u8;
        static __ex_table_end: u8;
    }

    macro_rules! address {
        ($symbol:ident) => {
            (&raw const $symbol).addr() as u64
        };
    }

    impl Image {
        /// The ranges of the running image.
        #[must_use]
        pub fn current() -> Image {
            Image {
                text: address!(__text_start)..address!(__text_end),
                rodata: address!(__rodata_start)..address!(__rodata_end),
                data: address!(__data_start)..address!(__data_end),
                stack_guard: address!(__stack_guard)..address!(__stack_bottom),
                stack: address!(__stack_bottom)..address!(__stack_top),
            }
        }
    }

    /// The exception table: pairs of instruction addresses, (may fault, resume at).
    pub(crate) fn exception_table() -> &'static [[u64; 2]] {
        let (start, end) = (&raw const __ex_table_start, &raw const __ex_table_end);
        // SAFETY: the linker script places both symbols around a section that holds nothing but pairs
        // of 64-bit addresses that the `.ex_table` directives emit, and aligns its start to 16 bytes;
        // it is initialised, mapped for the kernel's whole life and never written.
        unsafe { core::slice::from_raw_parts(start.cast(), (end.addr() - start.addr()) / 16) }
    }
}

#[cfg(target_os = "none")]
pub(crate) use linked::exception_table;
