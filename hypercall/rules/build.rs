//! Makes the table of rules from the files in `src/rules`: a rule is one file and is mentioned
//! nowhere else. The text of a page is the file's own `//!` comment, so that it reads the same in
//! the source, in rustdoc and in the book.
//!
//! A page is a heading `# R9: title`, the statement, and paragraphs that begin with `**Why.**`,
//! `**Source.**` and, for a rule whose test can end the domain, `**Kills.**`; for one whose test takes
//! something from the host for good, `**Costs.**`; for one that is not to be published, `**Withheld.**`.

use std::{env, fmt::Write, fs, path::Path};

/// The parts of a page.
struct Page {
    number: u16,
    title: String,
    statement: String,
    why: String,
    source: String,
    costs: String,
    kills: bool,
    withheld: bool,
}

fn parse(name: &str, text: &str) -> Page {
    let doc: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .collect();
    let heading = doc.first().copied().unwrap_or_default();
    let (number, title) = heading
        .strip_prefix("# R")
        .and_then(|rest| rest.split_once(": "))
        .unwrap_or_else(|| panic!("{name}: the first line is no `//! # R<number>: <title>`"));
    let number: u16 = number
        .parse()
        .unwrap_or_else(|_| panic!("{name}: R{number} is no number"));
    assert!(
        name.starts_with(&format!("r{number:02}_")),
        "{name}: the page calls itself R{number}"
    );
    let mut page = Page {
        number,
        title: title.to_owned(),
        statement: String::new(),
        why: String::new(),
        source: String::new(),
        costs: String::new(),
        kills: false,
        withheld: false,
    };
    let body = doc[1..].join("\n");
    for paragraph in body.split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
        if let Some(why) = paragraph.strip_prefix("**Why.**") {
            page.why = why.trim().to_owned();
        } else if let Some(source) = paragraph.strip_prefix("**Source.**") {
            page.source = source.trim().to_owned();
        } else if let Some(costs) = paragraph.strip_prefix("**Costs.**") {
            page.costs = costs.trim().to_owned();
        } else if paragraph.starts_with("**Kills.**") {
            page.kills = true;
        } else if paragraph.starts_with("**Withheld.**") {
            page.withheld = true;
        } else {
            if !page.statement.is_empty() {
                page.statement.push_str("\n\n");
            }
            page.statement.push_str(paragraph);
        }
    }
    for (part, text) in [
        ("statement", &page.statement),
        ("**Why.**", &page.why),
        ("**Source.**", &page.source),
    ] {
        assert!(!text.is_empty(), "{name}: the page has no {part}");
    }
    assert!(
        page.kills || !page.withheld && page.costs.is_empty(),
        "{name}: what costs the host something, or is withheld, must not run by default"
    );
    page
}

fn main() {
    println!("cargo::rerun-if-changed=src/rules");
    let mut names: Vec<String> = fs::read_dir("src/rules")
        .expect("src/rules is there")
        .map(|file| {
            file.expect("readable")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|name| name.ends_with(".rs"))
        .collect();
    names.sort();
    let mut pages: Vec<(String, Page)> = names
        .into_iter()
        .map(|name| {
            let path = format!("src/rules/{name}");
            let text = fs::read_to_string(&path).expect("readable");
            let page = parse(&name, &text);
            (name, page)
        })
        .collect();
    pages.sort_by_key(|(_, page)| page.number);
    for pair in pages.windows(2) {
        assert_ne!(
            pair[0].1.number, pair[1].1.number,
            "{} and {} are the same rule",
            pair[0].0, pair[1].0
        );
    }
    // Modules that a macro declares are looked for where it is called. A path would have to be
    // whole here, and would name the checkout that wrote it to another one with the same output
    // directory.
    let mut out = String::from("macro_rules! pages { () => {\n");
    for (name, _) in &pages {
        let module = name.trim_end_matches(".rs");
        writeln!(out, "pub mod {module};").expect("a String takes it");
    }
    writeln!(
        out,
        "/// Every rule, by number.\npub const RULES: &[crate::Rule] = &["
    )
    .expect("a String takes it");
    for (name, page) in &pages {
        let module = name.trim_end_matches(".rs");
        writeln!(
            out,
            "crate::Rule {{ number: {}, title: {:?}, statement: {:?}, why: {:?}, source: {:?}, \
             costs: {:?}, kills: {}, withheld: {}, file: {name:?}, test: {module}::test }},",
            page.number,
            page.title,
            page.statement,
            page.why,
            page.source,
            page.costs,
            page.kills,
            page.withheld
        )
        .expect("a String takes it");
    }
    out.push_str("];\n} }\n");
    let to = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("rules.rs");
    fs::write(to, out).expect("writable");
}
