//! The kernel image. Everything it does is in the library; this file is what the linker starts
//! from. Built for the host it only says how to boot it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    guest::trap::report::panic(info)
}

// The linker keeps what is reachable from here. It lies apart from other constants, as it refers to
// code that is given back after boot.
#[cfg(target_os = "none")]
#[used]
#[unsafe(link_section = ".entry.rodata")]
static ENTRY: unsafe extern "C" fn() -> ! = guest::entry::pv::xen_start_kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This is a kernel for Xen. Boot it with: cargo xtask boot");
    std::process::exit(2);
}
