//! The image without tests, programs and names: how large it is, that it boots, and that it refuses what
//! it does not have.

use std::time::Instant;

use super::{Suite, quietly, typed};
use crate::cli::ProvisionArgs;
use crate::exit::{Failure, Result};
use crate::image;
use crate::process;
use crate::stack::Via;

/// A boot: what it shows, words, exit status, and what the console says.
type Boot = (&'static str, &'static str, i32, &'static str);

const BOOTS: &[Boot] = &[
    ("boots", "", 0, "verdict: pass"),
    (
        "refuses the words of what it lacks",
        "selftest=mm",
        1,
        "'selftest=mm': this image was built without self-tests",
    ),
    (
        "refuses to run programs",
        "init=/bin/sh",
        1,
        "'init=/bin/sh': this image was built without what runs programs",
    ),
];

/// What may stay of it in a PV domain that has booted, in KiB.
const STAYS: u64 = 400;

/// Prints both sizes and makes the boots.
pub(super) fn run(suite: &mut Suite, provision: &ProvisionArgs) -> Result<()> {
    let full = image::sizes(&suite.kernel()?)?;
    let lean = suite.workspace.build_lean_kernel()?;
    let sizes = image::sizes(&lean)?;
    println!("      with all, {full}");
    println!("      lean, {sizes}");
    let result = match sizes.stays() {
        ..=STAYS => Ok(()),
        stays => Err(format!(
            "{stays}K stay of it, which are to be {STAYS}K at most"
        )),
    };
    suite.report("lean: is small", Instant::now(), result);
    let least = (
        "boots in the least memory that xl builds it in",
        "",
        0,
        "pages=1280 ",
    );
    let everywhere = [Via::Dom0, Via::Bare].map(|via| (via, BOOTS, None));
    let small: (_, &[Boot], _) = (Via::Xl, &[least], Some("--mem=5"));
    for (via, boots, memory) in everywhere.into_iter().chain([small]) {
        for (what, words, status, says) in boots {
            let name = format!("lean: {} {what}", via.name());
            let since = Instant::now();
            let mut command = typed::boot(provision, via, &lean, words)?;
            command.current_dir(&suite.workspace.root).args(memory);
            let failed = Failure::file("run", "cargo xtask boot");
            let output = quietly(&name, || process::output(&mut command, failed))?;
            let said = String::from_utf8_lossy(&output.stdout);
            let result = match (output.status.code(), said.contains(says)) {
                (Some(code), true) if code == *status => Ok(()),
                (_, true) => Err(format!("boot ended with {}\n{said}", output.status)),
                (_, false) => Err(format!("the console never says \"{says}\"\n{said}")),
            };
            suite.report(&name, since, result);
        }
    }
    Ok(())
}
