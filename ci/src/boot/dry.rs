//! `boot --dry-run`: what a boot would fetch, build and run, without any of it. Nothing is written,
//! downloaded or compiled; programs are only asked for their versions.

use crate::cli::BootArgs;
use crate::exit::Result;
use crate::provision::rust;
use crate::stack::Setting;
use crate::workspace::Workspace;

/// Where a boot would have its logs.
const LOGS: &str = "dry-run";

/// Says it: the steps, then the line for QEMU.
pub(super) fn run(arguments: &BootArgs) -> Result<()> {
    let workspace = Workspace::find()?;
    let provision = arguments.provision.dry()?;
    let mut steps = Vec::new();
    let kernel = match &arguments.kernel {
        Some(path) => super::given(path, arguments.via)?,
        None => {
            if !rust::has_target(&workspace.root)? {
                steps.push(format!("fetch by rustup: the target {}", rust::TARGET));
            }
            let image = workspace.image(arguments.lean);
            steps.push(format!("build by cargo: {}", image.display()));
            image
        }
    };
    let mut job = super::job(arguments, kernel)?;
    let dir = workspace.target.join("boot").join(LOGS);
    if let Some(program) = super::program(arguments, &provision)? {
        let ramdisk = dir.join(super::RAMDISK);
        steps.push(format!("pack: {}", ramdisk.display()));
        super::hand(&program, ramdisk, arguments, &mut job);
    }
    let setting = Setting {
        provision: &provision,
        mode: super::mode(arguments),
        workspace: &workspace.root,
        dir: &dir,
    };
    let by_hand = job.via.stack().by_hand(&setting, &job)?;
    steps.extend(provision.cache.lacking());
    for step in &steps {
        println!("would {step}");
    }
    println!("{}", by_hand.line());
    for words in by_hand.then {
        println!("and type, {words}");
    }
    Ok(())
}
