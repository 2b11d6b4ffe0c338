//! What the linker lays out: the image's segments, its boot stack and its tables.
//!
//! `image.ld` beside this crate is the one place that decides where things lie; this crate gives
//! the kernel a typed view of it, so that no other module names a linker symbol. On the host, where
//! the kernel's modules are only tested and never linked into an image, `Image::current` does not
//! exist.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(not(target_os = "none"))]
pub mod flags;
pub mod order;
pub mod subarch;
pub mod symbols;
pub mod tables;

use core::ops::Range;

use heapless::Vec;

use subarch::Subarches;

/// The linker script of the kernel's image.
#[cfg(not(target_os = "none"))]
pub const SCRIPT: &str = include_str!("../image.ld");

/// Virtual address that pseudo-physical address 0 is linked at (`VIRT_BASE` in the ELF notes).
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;

/// Address ranges of the linked image, all virtual, all page-aligned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Code: readable and executable.
    pub text: Range<u64>,
    /// Of the code, what stays.
    pub kept_text: Range<u64>,
    /// Constants, notes and linker tables: readable.
    pub rodata: Range<u64>,
    /// Variables and the boot stack: readable and writable.
    pub data: Range<u64>,
    /// The page below the boot stack, inside `data`, that is never mapped once the kernel runs.
    pub stack_guard: Range<u64>,
    /// The boot stack, inside `data`.
    pub stack: Range<u64>,
    /// The page that Xen filled with hypercall stubs, inside `text`.
    pub hypercall_page: Range<u64>,
    /// Of text and data, what is not needed for good.
    pub init_memory: Vec<InitMemory, 4>,
}

/// Why a part of the image is not needed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Only the boot needs it.
    Init,
    /// Only a kernel with page tables of its own needs it.
    Native,
}

impl Group {
    /// Where it is needed after boot.
    #[must_use]
    pub const fn needed_on(self) -> Subarches {
        match self {
            Group::Init => Subarches::empty(),
            Group::Native => Subarches::XEN_PVH.union(Subarches::BARE),
        }
    }
}

/// A part of the image that is not needed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitMemory {
    /// Why.
    pub group: Group,
    /// Where; page-aligned, possibly empty.
    pub range: Range<u64>,
}

impl Image {
    /// The whole image, from the first byte of text to the last of data.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.text.start..self.data.end
    }
}

#[cfg(target_os = "none")]
mod image {
    use heapless::Vec;

    use super::{Group, Image, InitMemory};

    unsafe extern "C" {
        static __init_text_start: u8;
        static __init_text_end: u8;
        static __init_data_start: u8;
        static __init_data_end: u8;
        static __native_text_start: u8;
        static __native_text_end: u8;
        static __native_data_start: u8;
        static __native_data_end: u8;
        static __text_start: u8;
        static __text_end: u8;
        static __kept_text_end: u8;
        static __hypercall_page: u8;
        static __rodata_start: u8;
        static __rodata_end: u8;
        static __data_start: u8;
        static __data_end: u8;
        static __stack_guard: u8;
        static __stack_bottom: u8;
        static __stack_top: u8;
        static __early_tables: u8;
        static __image_end: u8;
        static __symbols_start: u8;
        static __symbols_end: u8;
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
                kept_text: address!(__text_start)..address!(__kept_text_end),
                rodata: address!(__rodata_start)..address!(__rodata_end),
                data: address!(__data_start)..address!(__data_end),
                stack_guard: address!(__stack_guard)..address!(__stack_bottom),
                stack: address!(__stack_bottom)..address!(__stack_top),
                hypercall_page: address!(__hypercall_page)..address!(__kept_text_end),
                init_memory: init_memory(),
            }
        }
    }

    fn init_memory() -> Vec<InitMemory, 4> {
        let parts = [
            (
                Group::Init,
                address!(__init_text_start)..address!(__init_text_end),
            ),
            (
                Group::Init,
                address!(__init_data_start)..address!(__init_data_end),
            ),
            (
                Group::Native,
                address!(__native_text_start)..address!(__native_text_end),
            ),
            (
                Group::Native,
                address!(__native_data_start)..address!(__native_data_end),
            ),
        ];
        let part = |(group, range)| InitMemory { group, range };
        parts.into_iter().map(part).collect()
    }

    /// The tables behind the image that the PVH entry builds, in this order: L5, L4, L3, the L2 and
    /// four L1 tables of the image, the L1 table of the fixmap.
    #[must_use]
    pub fn early_tables() -> core::ops::Range<u64> {
        address!(__early_tables)..address!(__image_end)
    }

    /// The bytes between two symbols that bound one section of the image.
    macro_rules! section {
        ($start:ident, $end:ident) => {{
            let (start, end) = (&raw const $start, &raw const $end);
            // SAFETY: the linker script places both symbols in one output section, start before end;
            // the section is initialised, mapped for the kernel's whole life and never written.
            unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }};
    }

    /// The section reserved for the symbol table (all zero until `cargo xtask build` fills it).
    pub(crate) fn symbol_bytes() -> &'static [u8] {
        section!(__symbols_start, __symbols_end)
    }
}

#[cfg(target_os = "none")]
pub use image::early_tables;
#[cfg(target_os = "none")]
use image::symbol_bytes;
