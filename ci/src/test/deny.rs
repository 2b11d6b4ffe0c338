//! What this repository builds on is what `.cargo/deny.toml` lets in: by `cargo deny` where that is
//! installed, and by the licences that crates declare in any case.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The licences that are let in: of any crate, and of some besides.
#[derive(Debug, Default)]
struct Allowed {
    all: Vec<String>,
    of: BTreeMap<String, Vec<String>>,
}

/// The words in quotes of the list that a text begins with.
fn list(text: &str) -> Vec<String> {
    let inside = text.split_once('[').map_or("", |(_, rest)| rest);
    let inside = inside.split_once(']').map_or("", |(inside, _)| inside);
    inside
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

impl Allowed {
    /// As the configuration has them.
    fn read(configuration: &str) -> Self {
        let section = configuration.split("\n[licenses]\n").nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        let mut allowed = Self::default();
        for line in section.lines() {
            if let Some(rest) = line.strip_prefix("allow = ") {
                allowed.all = list(rest);
            } else if let Some(rest) = line.trim_start().strip_prefix("{ crate = \"") {
                let (name, rest) = rest.split_once('"').unwrap();
                allowed.of.insert(name.into(), list(rest));
            }
        }
        allowed
    }

    /// Whether a crate may be used by an expression of SPDX: alternatives and conjunctions, with or
    /// without parentheses, `/` for `OR` as older crates have it.
    fn lets_in(&self, name: &str, expression: &str) -> bool {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ");
        let spaced = spaced.replace('/', " OR ");
        let words: Vec<_> = spaced.split_whitespace().collect();
        let (ok, rest) = self.any(name, &words);
        assert!(rest.is_empty(), "{name}: {expression}");
        ok
    }

    fn any<'a>(&self, name: &str, words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
        let (mut ok, mut rest) = self.every(name, words);
        while let ["OR", more @ ..] = rest {
            let (other, left) = self.every(name, more);
            (ok, rest) = (ok || other, left);
        }
        (ok, rest)
    }

    fn every<'a>(&self, name: &str, words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
        let (mut ok, mut rest) = self.one(name, words);
        while let ["AND", more @ ..] = rest {
            let (other, left) = self.one(name, more);
            (ok, rest) = (ok && other, left);
        }
        (ok, rest)
    }

    fn one<'a>(&self, name: &str, words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
        match words {
            ["(", inside @ ..] => {
                let (ok, rest) = self.any(name, inside);
                (ok, rest.strip_prefix(&[")"]).unwrap())
            }
            // With an exception it is another licence.
            [_, "WITH", _, rest @ ..] => (false, rest),
            [licence, rest @ ..] => {
                let has = |list: &Vec<String>| list.iter().any(|known| known == licence);
                (has(&self.all) || self.of.get(name).is_some_and(has), rest)
            }
            [] => (false, words),
        }
    }
}

#[test]
fn licences_are_those_that_are_let_in() {
    let configuration = std::fs::read_to_string(root().join(".cargo/deny.toml")).unwrap();
    let allowed = Allowed::read(&configuration);
    assert!(allowed.all.len() >= 2 && allowed.of.values().all(|list| !list.is_empty()));
    // Not the metadata, which has what no feature asks for as well.
    let output = Command::new("cargo")
        .current_dir(root())
        .args(["tree", "--workspace", "--all-features", "--prefix", "none"])
        .args([
            "--target",
            "x86_64-unknown-linux-gnu",
            "--format",
            "{p}|{l}",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let mut used = BTreeMap::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.split_once('|').unwrap();
        let name = package.split(' ').next().unwrap();
        // Below the first of its kind a package is only named.
        let licence = licence.trim_end_matches(" (*)");
        assert!(
            allowed.lets_in(name, licence),
            "{package} has the licence '{licence}', which .cargo/deny.toml does not let in"
        );
        used.insert(name, licence);
    }
    assert!(used.len() > 50, "{} packages", used.len());
    for name in allowed.of.keys() {
        assert!(
            used.contains_key(name.as_str()),
            "{name} is let in for nothing"
        );
    }
}

#[test]
fn cargo_deny_finds_nothing_where_it_is_installed() {
    let there = Command::new("cargo").args(["deny", "--version"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        println!("not installed: cargo install --locked cargo-deny");
        return;
    }
    let output = Command::new("cargo")
        .current_dir(root())
        // Advisories come from the network: `cargo deny check` looks at those as well.
        .args(["deny", "--offline", "check", "licenses", "bans", "sources"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("warning["), "{said}");
}

#[test]
fn expressions_are_understood() {
    let allowed = Allowed::read(
        "[x]\n\n[licenses]\nallow = [\"MIT\", \"Apache-2.0\"]\nexceptions = [\n    { crate = \"a\", \
         allow = [\"Zlib\"] },\n]\n\n[bans]\nallow = [\"GPL-2.0\"]\n",
    );
    for (name, expression, expected) in [
        ("b", "MIT", true),
        ("b", "MIT OR GPL-2.0", true),
        ("b", "GPL-2.0/Apache-2.0", true),
        ("b", "MIT AND Zlib", false),
        ("a", "MIT AND Zlib", true),
        ("b", "Zlib", false),
        ("b", "(MIT OR GPL-2.0) AND (Zlib OR Apache-2.0)", true),
        ("b", "MIT AND (GPL-2.0 OR Zlib)", false),
        ("b", "GPL-2.0 OR MIT AND Apache-2.0", true),
        ("b", "Apache-2.0 WITH LLVM-exception", false),
        (
            "b",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            true,
        ),
    ] {
        assert_eq!(
            allowed.lets_in(name, expression),
            expected,
            "{name}: {expression}"
        );
    }
}
