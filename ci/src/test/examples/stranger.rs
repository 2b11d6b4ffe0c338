//! The README of `xen-pv-rt` taken at its word: what its first section says is done in an empty directory,
//! line by line, and must lead to what it says it does.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::super::{Suite, quietly, title};
use crate::cli::ProvisionArgs;
use crate::compile;
use crate::exit::{Failure, Result};
use crate::process;
use crate::provision::rust;
use crate::stack::Via;

pub(super) const NAME: &str = "a kernel is made as the README of xen-pv-rt says";

/// How the README boots it.
pub(super) const VIA: Via = Via::Dom0;

const README: &str = "hypercall/rt/README.md";

/// A step of the README.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Commands of a shell.
    Run(String),
    /// A file with this text.
    File(String, String),
    /// What is shown then.
    Shown(String),
}

/// The steps of the first section behind the title: fenced blocks, those of files below a line that
/// ends in the file's name in backticks and a colon.
fn steps(readme: &str) -> std::result::Result<Vec<Step>, String> {
    let section = readme.split("\n## ").nth(1).unwrap_or_default();
    let (mut steps, mut before, mut lines) = (Vec::new(), "", section.lines());
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            before = if line.is_empty() { before } else { line };
            continue;
        };
        let text = lines.by_ref().take_while(|line| *line != "```");
        let text = text.fold(String::new(), |text, line| text + line + "\n");
        let file = before
            .strip_suffix("`:")
            .and_then(|rest| rest.rsplit('`').next());
        steps.push(match (language, file) {
            ("sh", _) => Step::Run(text),
            ("text", _) => Step::Shown(text),
            (_, Some(file)) => Step::File(file.into(), text),
            _ => return Err(format!("nobody says what file this is:\n{text}")),
        });
        before = "";
    }
    Ok(steps)
}

/// One script of all steps.
fn script(steps: &[Step]) -> String {
    let mut script = String::from("set -eu\nexec 2>&1\n");
    for step in steps {
        // Into a string.
        let _ = match step {
            Step::Run(text) => write!(script, "{text}"),
            Step::File(name, text) => write!(
                script,
                "mkdir -p \"$(dirname {name})\"\ncat >{name} <<'END OF FILE'\n{text}END OF FILE\n"
            ),
            Step::Shown(_) => Ok(()),
        };
    }
    script
}

/// Whether these lines were said, one right behind the other but for Xen's.
fn is_said(said: &str, shown: &str) -> bool {
    let said: Vec<_> = said
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.starts_with("(XEN)"))
        .collect();
    let shown: Vec<_> = shown.lines().collect();
    said.windows(shown.len()).any(|lines| lines == shown)
}

pub(super) fn run(suite: &mut Suite, provision: &ProvisionArgs) -> Result<()> {
    let since = Instant::now();
    let name = title(NAME, VIA);
    let result = quietly(&name, || follow(suite, provision))?;
    suite.report(&name, since, result);
    Ok(())
}

fn follow(suite: &Suite, provision: &ProvisionArgs) -> Result<std::result::Result<(), String>> {
    let root = &suite.workspace.root;
    rust::ensure_target(root)?;
    let path = root.join(README);
    let readme = std::fs::read_to_string(&path).map_err(Failure::file("read", &path))?;
    let steps = match steps(&readme) {
        Ok(steps) => steps,
        Err(reason) => return Ok(Err(reason)),
    };
    let dir = tempfile::tempdir().map_err(Failure::file("create", "a temporary directory"))?;
    let kept = suite.workspace.target.join("stranger");
    keep_what_it_depends_on(dir.path(), &kept)?;
    let mut shell = Command::new("sh");
    compile::leave_out(
        &mut shell,
        std::env::vars_os().filter(|(name, _)| name != "CARGO_BUILD_TARGET_DIR"),
    );
    shell
        .current_dir(dir.path())
        .arg("-c")
        .arg(script(&steps))
        .env("REPO", root)
        // What it depends on the examples have brought.
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_MANIFEST_DIR");
    if let Some(mirror) = &provision.mirror.mirror {
        shell.env("XEN_PV_GUEST_MIRROR", mirror);
    }
    let output = process::output(&mut shell, Failure::file("run", "sh"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Ok(Err(format!("the steps end with {}\n{said}", output.status)));
    }
    let missing = steps.iter().find_map(|step| match step {
        Step::Shown(shown) if !is_said(&said, shown) => Some(shown),
        _ => None,
    });
    Ok(match missing {
        Some(shown) => Err(format!("this is never said:\n{shown}\nbut:\n{said}")),
        None => Ok(()),
    })
}

/// Has what is depended on compiled once for all runs of this test, by a configuration above `dir`.
fn keep_what_it_depends_on(dir: &Path, kept: &Path) -> Result<()> {
    let config = dir.join(".cargo/config.toml");
    let text = format!("[build]\nbuild-dir = {:?}\n", kept.display().to_string());
    std::fs::create_dir(dir.join(".cargo"))
        .and_then(|()| std::fs::write(&config, text))
        .map_err(Failure::file("write", &config))
}

#[cfg(test)]
mod tests {
    use super::super::EXAMPLES;
    use super::*;

    /// How many lines one has to type at most, blank ones not counted.
    const LINES: usize = 20;

    /// Lines that are typed.
    fn typed(steps: &[Step]) -> usize {
        let texts = steps.iter().map(|step| match step {
            Step::Run(text) | Step::File(_, text) => text.as_str(),
            Step::Shown(_) => "",
        });
        let lines = texts.flat_map(str::lines);
        lines.filter(|line| !line.trim().is_empty()).count()
    }

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    fn own() -> Vec<Step> {
        steps(&std::fs::read_to_string(root().join(README)).unwrap()).unwrap()
    }

    #[test]
    fn the_readme_has_few_lines_to_type_and_is_read_whole() {
        let steps = own();
        let typed = typed(&steps);
        assert!((10..=LINES).contains(&typed), "{typed} lines");
        let first = std::fs::read_to_string(root().join("README.md")).unwrap();
        let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
        let says = format!("{typed} lines from `cargo new` to its verdict");
        assert!(first.contains(&says), "README.md does not say: {says}");
        assert!(matches!(steps.last(), Some(Step::Shown(text)) if text.contains("verdict: pass")));
        assert_eq!(
            steps
                .iter()
                .filter(|step| matches!(step, Step::File(..)))
                .count(),
            2
        );
    }

    #[test]
    fn the_kernel_in_the_readme_is_the_example() {
        let hello = root().join(EXAMPLES).join("hello");
        for step in own() {
            let Step::File(name, text) = step else {
                continue;
            };
            let example = std::fs::read_to_string(hello.join(&name)).unwrap();
            let code = example.lines().filter(|line| !line.starts_with("//!"));
            assert!(code.eq(text.lines()), "{name} differs from the example's");
        }
    }

    #[test]
    fn blocks_are_what_stands_above_them() {
        let readme = "# x\n\n```sh\nno\n```\n\n## y\n\nDo:\n\n```sh\nls\n```\n\nAnd `src/a b.rs`:\n\n\
                      ```rust\nfn x() {}\n```\n\nshows\n\n```text\nx\n```\n\n## z\n\n```sh\nno\n```\n";
        let found = steps(readme).unwrap();
        let expected = [
            Step::Run("ls\n".into()),
            Step::File("src/a b.rs".into(), "fn x() {}\n".into()),
            Step::Shown("x\n".into()),
        ];
        assert_eq!(found, expected);
        assert_eq!(typed(&found), 2);
        assert!(steps("# x\n\n## y\n\n```toml\na\n```\n").is_err());
    }

    #[test]
    fn what_is_shown_must_be_said_in_one_piece() {
        assert!(is_said("a\n(XEN) x\nb\r\nc\n", "a\nb\n"));
        assert!(!is_said("a\nx\nb\n", "a\nb\n"));
        assert!(!is_said("a\n", "a\nb\n"));
    }
}
