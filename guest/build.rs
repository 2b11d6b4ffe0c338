//! Links the kernel with the script of the `linker` crate.

use std::path::PathBuf;

/// Whether the compiler gets the flags that the image needs; says which it does not. Without them
/// all of it would compile, and the image would be another one.
fn has_flags() -> bool {
    let given = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let missing: Vec<_> = linker::flags::missing(&given).collect();
    if !missing.is_empty() {
        println!(
            "cargo::error=the kernel's image needs {}, and something replaced these flags, such as \
             RUSTFLAGS in the environment: unset it, or build by `cargo xtask build`, which passes \
             its own",
            missing.join(" ")
        );
    }
    missing.is_empty()
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target != "none" {
        return;
    }
    if !has_flags() {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let path = out.join("image.ld");
    std::fs::write(&path, linker::SCRIPT).expect("OUT_DIR can be written");
    let path = path.display().to_string();
    for argument in [
        "--script",
        &path,
        "--no-pie",
        "-znostart-stop-gc",
        "--build-id=none",
        "--compress-debug-sections=zlib",
        // By these the build sees what refers to what is given back (`cargo xtask build`).
        "--emit-relocs",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
