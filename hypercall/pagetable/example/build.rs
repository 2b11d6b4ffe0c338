//! Links the example with the kernel's own script.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default() != "none" {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let path = out.join("image.ld");
    std::fs::write(&path, linker::SCRIPT).expect("OUT_DIR can be written");
    for argument in ["--script", &path.display().to_string(), "--no-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
