//! What people read is true as far as it can be tested: files that are named are there, commands are ones
//! that this program takes.

use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::Cli;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All Markdown of the repository.
fn papers() -> Vec<PathBuf> {
    let mut papers = Vec::new();
    collect(root(), ".md", &mut papers);
    papers.sort();
    papers
}

fn collect(dir: &Path, end: &str, papers: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !matches!(name, "target" | ".git") && !path.is_symlink() {
            collect(&path, end, papers);
        } else if name.ends_with(end) {
            papers.push(path);
        }
    }
}

/// What stands between backticks in a text, outside of fenced blocks; blanks for line ends.
fn quoted(text: &str) -> Vec<String> {
    let prose: Vec<_> = text.split("\n```").step_by(2).collect();
    let pieces = prose
        .iter()
        .flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let words = pieces.map(|piece| piece.split_whitespace().collect::<Vec<_>>().join(" "));
    words.collect()
}

/// The places that links without a scheme lead to.
fn links(text: &str) -> Vec<&str> {
    let links = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    links
        .filter(|link| !link.contains("://") && !link.starts_with('#'))
        .collect()
}

/// Whether a word is a path from the repository's root.
fn is_path(word: &str) -> bool {
    const ROOMS: [&str; 7] = [
        "ci/",
        "guest/",
        "hypercall/",
        "linker/",
        "xen-cfg/",
        ".cargo/",
        ".github/",
    ];
    let plain = word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    plain && ROOMS.iter().any(|room| word.starts_with(room))
}

/// The calls of `cargo xtask`: lines of blocks, and what is in backticks.
fn calls(text: &str) -> Vec<String> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    let lines = blocks
        .flat_map(str::lines)
        .map(|line| line.trim_start_matches("$ "));
    let lines = lines.map(|line| {
        line.split(" #")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    });
    let lines = lines.map(|line| match line.rsplit_once(" && ") {
        Some((_, last)) => last.to_owned(),
        None => line,
    });
    let all = lines.chain(quoted(text));
    all.filter(|line| line.starts_with("cargo xtask ") && !line.contains(['[', '$']))
        .collect()
}

/// Whether a call is understood. What stands in capitals is for a reader to fill in: any word does.
fn is_taken(call: &str) -> Result<(), String> {
    let call = call.replace("COMMAND", "boot");
    let mut words = vec!["cargo xtask".to_owned()];
    for (index, piece) in call["cargo xtask".len()..].split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(piece.split_whitespace().map(str::to_owned)),
            _ => words.push(piece.to_owned()),
        }
    }
    match Cli::try_parse_from(&words) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(()),
        // Named by itself: a flag that is followed by its value where it is used.
        Err(error)
            if error.kind() == ErrorKind::InvalidValue
                && error.to_string().contains("a value is required") =>
        {
            Ok(())
        }
        Err(error) => Err(format!("{call}: {error}")),
    }
}

#[test]
fn files_that_are_named_are_there() {
    let mut count = 0;
    for paper in papers() {
        let text = std::fs::read_to_string(&paper).unwrap();
        let here = paper.parent().unwrap();
        let linked = links(&text).into_iter().map(|link| here.join(link));
        let named = quoted(&text).into_iter().filter(|word| is_path(word));
        for path in linked.chain(named.map(|word| root().join(word))) {
            assert!(path.exists(), "{}: {}", paper.display(), path.display());
            count += 1;
        }
    }
    assert!(count > 30, "{count} names");
}

#[test]
fn commands_are_ones_that_this_program_takes() {
    let mut count = 0;
    for paper in papers() {
        let text = std::fs::read_to_string(&paper).unwrap();
        for call in calls(&text) {
            is_taken(&call).unwrap_or_else(|error| panic!("{}: {error}", paper.display()));
            count += 1;
        }
    }
    assert!(count > 30, "{count} commands");
}

#[test]
fn names_and_commands_are_found() {
    let text = "See [x](a/b.md), [y](https://c) and `guest/x.rs`, `cargo\n  xtask test fmt`.\n\n```\n\
                $ cargo xtask boot   # so\ncd x && cargo xtask rules\nls `a`\n```\n\n`ci/y`\n";
    assert_eq!(links(text), ["a/b.md"]);
    assert_eq!(quoted(text), ["guest/x.rs", "cargo xtask test fmt", "ci/y"]);
    assert!(is_path("guest/x.rs") && !is_path("x.rs") && !is_path("ci/a b"));
    assert_eq!(
        calls(text),
        [
            "cargo xtask boot",
            "cargo xtask rules",
            "cargo xtask test fmt"
        ]
    );
    assert!(is_taken("cargo xtask boot --cmdline 'a b' --kernel FILE").is_ok());
    assert!(is_taken("cargo xtask boot --nosuch").is_err());
    assert!(is_taken("cargo xtask test nosuch").is_err());
}

/// Public modules without an example, and why.
const WITHOUT: &[(&str, &[&str])] = &[
    (
        "Xen's names and numbers, which speak for themselves",
        &["hypercall/src/abi", "hypercall/xenstore/src/abi"],
    ),
    ("words only", &["hypercall/src/glossary"]),
    (
        "needs tables that were taken over: the tests of the crate have the bench for that",
        &[
            "hypercall/pagetable/src/audit",
            "hypercall/pagetable/src/balloon",
            "hypercall/pagetable/src/domain",
            "hypercall/pagetable/src/frames",
            "hypercall/pagetable/src/locks",
            "hypercall/pagetable/src/machine",
            "hypercall/pagetable/src/native",
            "hypercall/pagetable/src/takeover",
            "hypercall/pagetable/src/user",
        ],
    ),
    (
        "what rules are written with: each rule is an example",
        &[
            "hypercall/rules/src/differential",
            "hypercall/rules/src/machine",
            "hypercall/rules/src/on_model",
            "hypercall/rules/src/test_bench",
        ],
    ),
    (
        "in the example of the crate",
        &[
            "hypercall/model/src/entry",
            "hypercall/xenstore/src/client",
            "hypercall/xenstore/src/store",
        ],
    ),
];

/// The text of a module: its file, or all files of its directory.
fn module(at: &Path) -> String {
    let mut text = std::fs::read_to_string(at.with_extension("rs")).unwrap_or_default();
    for entry in std::fs::read_dir(at).into_iter().flatten() {
        text += &module(&entry.unwrap().path().with_extension(""));
    }
    text
}

#[test]
fn every_unsafe_block_has_a_proof_of_its_own() {
    let (mut files, mut without) = (Vec::new(), Vec::new());
    collect(root(), ".rs", &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            let proof = line.trim().strip_prefix("// SAFETY: ").unwrap_or_default();
            let elsewhere = ["as above", "see above"]
                .iter()
                .any(|words| proof.starts_with(words));
            if elsewhere {
                without.push(format!("{}:{number}: {line}", file.display()));
            }
        }
    }
    assert!(without.is_empty(), "{}", without.join("\n"));
}

#[test]
fn every_public_module_has_an_example_or_a_reason() {
    let mut left_out: Vec<_> = WITHOUT.iter().flat_map(|(_, modules)| *modules).collect();
    for (_, dir) in super::package::CRATES {
        let lib = std::fs::read_to_string(root().join(dir).join("src/lib.rs")).unwrap();
        let mut before = "";
        for line in lib.lines() {
            let name = line
                .strip_prefix("pub mod ")
                .and_then(|rest| rest.strip_suffix(';'));
            // What is there only without a system is in no test of the host's.
            if let Some(name) = name.filter(|_| !before.contains("target_os = \"none\"")) {
                let place = format!("{dir}/src/{name}");
                let text = module(&root().join(&place));
                let has = text
                    .lines()
                    .any(|line| matches!(line.trim_start(), "//! ```" | "/// ```"));
                let known = left_out.iter().position(|known| **known == place);
                assert!(
                    has != known.is_some(),
                    "{place}: example {has}, reason {}",
                    known.is_some()
                );
                known.map(|known| left_out.remove(known));
            }
            before = line;
        }
    }
    assert!(left_out.is_empty(), "{left_out:?}");
}

#[test]
fn every_crate_for_others_has_its_changes() {
    for (name, dir) in super::package::CRATES {
        let path = root().join(dir).join("CHANGELOG.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().find(|line| line.starts_with("## "));
        let version = concat!("## ", env!("CARGO_PKG_VERSION"));
        assert!(
            first.is_some_and(|line| line.starts_with(version)),
            "{name}"
        );
    }
}
