//! A kernel that takes over the page tables that Xen built, maps a page, uses it, and says so.
//!
//! `kernel` is all that it does; `entry` is how it comes to that.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This is a kernel for Xen. Boot it with: cargo xtask boot --kernel");
    std::process::exit(2);
}
