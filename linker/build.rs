//! Tells the crate that links the kernel where the linker script is.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo::rerun-if-changed=image.ld");
    println!("cargo::metadata=script={dir}/image.ld");
}
