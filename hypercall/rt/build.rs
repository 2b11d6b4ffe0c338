//! Puts the linker script where the linker of whoever depends on this crate finds it by name.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=xen-pv.ld");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::copy("xen-pv.ld", out.join("xen-pv.ld")).expect("OUT_DIR can be written");
    println!("cargo::rustc-link-search={}", out.display());
}
