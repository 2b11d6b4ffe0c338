//! Links the kernel with the script of the `linker` crate, and says which modules it does not need
//! for good.

use std::path::PathBuf;

/// What only the boot needs: modules by path, crates by name.
const INIT: &[&str] = &[
    "guest::entry",
    "guest::boot",
    "guest::init",
    "guest::mm::takeover",
    "guest::rulebook",
    "rules",
    "guest::fuzz",
    "guest::mm::fuzz",
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

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_KERNEL_IMAGE_SCRIPT");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target != "none" {
        return;
    }
    let template = std::env::var("DEP_KERNEL_IMAGE_SCRIPT").expect("the linker crate names it");
    println!("cargo::rerun-if-changed={template}");
    let template = std::fs::read_to_string(&template).expect("the linker script can be read");
    let script = [("{init}", INIT), ("{pv}", PV), ("{native}", NATIVE)]
        .iter()
        .fold(template, |script, (name, modules)| {
            expand(&script, name, modules)
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

/// Has each line that contains `name` once for each pattern of the modules' symbols.
fn expand(script: &str, name: &str, modules: &[&str]) -> String {
    let patterns: Vec<_> = modules.iter().flat_map(|module| patterns(module)).collect();
    let mut lines = Vec::new();
    for line in script.lines() {
        match line.contains(name) {
            true => lines.extend(patterns.iter().map(|p| line.replace(name, p))),
            false => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// What the mangled name of whatever is in a module contains (Rust's v0 scheme): the path behind
/// the crate's hash, or, when the crate was named before, behind a reference to it.
fn patterns(module: &str) -> Vec<String> {
    let mangled = |parts: &[&str]| -> String {
        parts
            .iter()
            .map(|part| format!("{}{part}", part.len()))
            .collect()
    };
    let parts: Vec<_> = module.split("::").collect();
    let path = mangled(&parts);
    match &parts[1..] {
        // A crate's name at the very end only says who made an instance of something generic.
        [] => vec![format!("*_{path}[1-9]*")],
        // A single name behind a reference could be any module's.
        [_] => vec![format!("*_{path}*")],
        inner => vec![format!("*_{path}*"), format!("*_{}*", mangled(inner))],
    }
}
