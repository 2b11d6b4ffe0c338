//! Links the kernel with the script of the `linker` crate.

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_KERNEL_IMAGE_SCRIPT");
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target == "none" {
        let script = std::env::var("DEP_KERNEL_IMAGE_SCRIPT").expect("the linker crate names it");
        println!("cargo::rerun-if-changed={script}");
        for argument in [
            "--script",
            &script,
            "--no-pie",
            "-znostart-stop-gc",
            "--build-id=none",
        ] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
