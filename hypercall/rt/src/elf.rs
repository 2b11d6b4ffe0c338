//! The ELF notes by which Xen recognises an image (`xen/include/public/elfnote.h`).

/// Puts Xen's notes into the image: `NAME: DIRECTIVE VALUE;` for each, with the name that Xen's header
/// has, and directive and value as the assembler takes them. Behind them stand the operands that
/// values name.
///
/// ```
/// # #[cfg(target_os = "none")]
/// xen_pv_rt::elf_notes! {
///     {
///         XEN_ELFNOTE_XEN_VERSION: ".asciz" "\"xen-3.0\"";
///         XEN_ELFNOTE_LOADER: ".asciz" "\"generic\"";
///         XEN_ELFNOTE_VIRT_BASE: ".quad" "{base}";
///         XEN_ELFNOTE_ENTRY: ".quad" "my_first_instruction";
///     }
///     base = const xen_pv_rt::image::VIRT_BASE,
/// }
/// ```
#[macro_export]
macro_rules! elf_notes {
    ({ $($name:ident: $directive:literal $value:expr;)* } $($operands:tt)*) => {
        ::core::arch::global_asm!(
            ::core::concat!(
                ".pushsection .note.Xen, \"a\", @note\n",
                $(
                    ".balign 4\n",
                    ".long 4, 2f - 1f, {", ::core::stringify!($name), "}\n",
                    ".asciz \"Xen\"\n",
                    "1: ", $directive, " ", $value, "\n",
                    "2:\n",
                )*
                ".balign 4\n",
                ".popsection\n",
            ),
            $($name = const $crate::hypercall::abi::elfnote::$name,)*
            $($operands)*
        );
    };
}
