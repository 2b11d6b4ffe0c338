//! Links the kernel with the script of the `linker` crate, and says which modules it does not need
//! for good.

use std::path::PathBuf;

use linker::script::{Groups, script};

/// What only the boot needs: modules by path, crates by name.
const INIT: &[&str] = &[
    "guest::entry",
    "guest::boot",
    "guest::init",
    "pagetable::takeover",
    "guest::rulebook",
    "rules",
    "guest::fuzz",
    "pagetable::fuzz",
    "guest::bench",
];

/// What only a PV guest needs.
const PV: &[&str] = &[
    "guest::event::entry",
    "guest::selftest::refused_by_xen",
    "guest::trap::entry",
];

/// What only a kernel with page tables of its own needs.
const NATIVE: &[&str] = &[
    "guest::native::call",
    "guest::native::clock",
    "guest::native::descriptors",
    "guest::native::devices",
    "guest::native::interrupts",
    "guest::native::ports",
    "guest::native::timer",
    "guest::trap::native",
];

/// Whether the compiler gets the flags that the image needs; says which it does not. Without them
/// all of it would compile, and nothing that is given back after boot would be found.
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
    let script = script(&Groups {
        init: INIT,
        pv: PV,
        native: NATIVE,
    });
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let path = out.join("image.ld");
    std::fs::write(&path, script).expect("OUT_DIR can be written");
    // Beside the image: `target/TARGET/PROFILE/build/guest-HASH/out` lies three below it.
    let map = out.ancestors().nth(3).map(|dir| dir.join("guest.map"));
    let map = map.expect("OUT_DIR lies below the profile's directory");
    let map = format!("-Map={}", map.display());
    let path = path.display().to_string();
    for argument in [
        "--script",
        &path,
        "--no-pie",
        "-znostart-stop-gc",
        "--build-id=none",
        "--compress-debug-sections=zlib",
        // The build follows references to see that nothing given back is used (`cargo xtask build`).
        "--emit-relocs",
        &map,
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
