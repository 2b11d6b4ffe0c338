//! The files in `ci/workflows`, and `ci/Containerfile`, which run on other people's CI systems and on
//! none here: the former are YAML, every command line in them is one that this program takes, with the values that variables
//! and the matrix have, and what a boot writes is what is kept of it.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Parser;
use yaml_rust2::{Yaml, YamlLoader};

use crate::cli::{BootArgs, Cli, Command};
use crate::provision::cache;

/// Variables that the CI systems set, or the files' users, with values of their kind.
const GIVEN: &[(&str, &str)] = &[
    ("CI_PROJECT_DIR", "/builds/kernel"),
    ("GITHUB_ENV", "/tmp/env"),
    ("GITHUB_WORKSPACE", "/runner/kernel"),
    ("XEN_BOOT", "address"),
];

/// Programs besides this one.
const PROGRAMS: &[&str] = &["cd", "echo", "git", "make"];

type Variables = BTreeMap<String, String>;

/// A job's command lines, taken apart, with all that they depend on filled in; and the files that it
/// keeps.
#[derive(Debug, Default)]
struct Job {
    lines: Vec<Vec<String>>,
    kept: String,
}

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("workflows")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

fn load(text: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(text).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

/// The entries of a mapping.
fn entries(yaml: &Yaml) -> impl Iterator<Item = (&str, &Yaml)> {
    let hash = yaml.as_hash().into_iter().flatten();
    hash.map(|(key, value)| (key.as_str().unwrap(), value))
}

fn variables(yaml: &Yaml) -> Variables {
    let given = GIVEN.iter();
    given
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .chain(entries(yaml).map(|(name, value)| (name.into(), value.as_str().unwrap().into())))
        .collect()
}

/// The values of the one dimension of a matrix, by its name.
fn values(matrix: &Yaml) -> (String, Vec<String>) {
    let (name, values) = entries(matrix).next().unwrap();
    let values = values.as_vec().unwrap().iter();
    (
        name.into(),
        values.map(|value| value.as_str().unwrap().into()).collect(),
    )
}

/// The jobs of the file for GitHub, one for each value of the matrix.
fn github(file: &Yaml) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (_, job) in entries(&file["jobs"]) {
        let (name, values) = values(&job["strategy"]["matrix"]);
        for value in values {
            let mut found = Job::default();
            for step in job["steps"].as_vec().unwrap() {
                let what = (&step["run"], &step["uses"]);
                assert!(what.0.is_badvalue() != what.1.is_badvalue(), "{step:?}");
                let fill = |text: &str| text.replace(&format!("${{{{ matrix.{name} }}}}"), &value);
                if let Some(run) = step["run"].as_str() {
                    let run = fill(run).replace("\\\n", " ");
                    let lines = run
                        .lines()
                        .map(|line| words(line, &variables(&file["env"])));
                    found.lines.extend(lines);
                } else if step["uses"]
                    .as_str()
                    .unwrap()
                    .starts_with("actions/upload-artifact")
                {
                    found.kept += step["with"]["path"].as_str().unwrap();
                }
            }
            jobs.push(found);
        }
    }
    jobs
}

/// The same of the file for GitLab.
fn gitlab(file: &Yaml) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (_, job) in entries(file).filter(|(name, _)| *name != "variables") {
        let (name, values) = values(&job["parallel"]["matrix"][0]);
        for value in values {
            let mut variables = variables(&file["variables"]);
            variables.insert(name.clone(), value);
            let lines = job["script"].as_vec().unwrap().iter();
            let artifacts = &job["artifacts"];
            assert_eq!(artifacts["reports"]["junit"].as_str(), Some("junit.xml"));
            let kept = artifacts["paths"].as_vec().unwrap().iter();
            let kept: Vec<_> = kept.filter_map(Yaml::as_str).collect();
            jobs.push(Job {
                lines: lines
                    .map(|line| words(line.as_str().unwrap(), &variables))
                    .collect(),
                kept: kept.join("\n"),
            });
        }
    }
    jobs
}

/// Takes a line apart as a shell does: quotes, and variables, which are one word in double quotes.
fn words(line: &str, variables: &Variables) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (None, ' ') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '$') => {
                let mut name = String::new();
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                let value = variables.get(&name);
                let value = value.unwrap_or_else(|| panic!("nothing sets ${name}: {line}"));
                assert!(
                    quote.is_some() || !value.contains(' '),
                    "${name} is not quoted: {line}"
                );
                word.get_or_insert_default().push_str(value);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    assert_eq!(quote, None, "{line}");
    words.extend(word);
    words
}

/// The boots among a job's lines, all of which must be ones that somebody takes.
fn boots(job: &Job) -> Result<Vec<BootArgs>, String> {
    let mut boots = Vec::new();
    for line in &job.lines {
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        match line.as_slice() {
            ["cargo", "xtask", rest @ ..] => {
                let words = [&["cargo xtask"], rest].concat();
                match Cli::try_parse_from(words) {
                    Ok(Cli {
                        command: Command::Boot(boot),
                    }) => boots.push(boot),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            [program, ..] if PROGRAMS.contains(program) => {}
            other => return Err(format!("not known: {other:?}")),
        }
    }
    Ok(boots)
}

/// Finds the jobs of a file.
type Read = fn(&Yaml) -> Vec<Job>;

/// What the files are read by.
const FILES: &[(&str, Read)] = &[("github.yml", github), ("gitlab.yml", gitlab)];

#[test]
fn every_command_line_is_one_that_this_program_takes() {
    for (name, read) in FILES {
        let jobs = read(&load(&text(name)));
        assert_eq!(jobs.len(), 3, "{name}");
        for job in jobs {
            let boots = boots(&job).unwrap();
            assert_eq!(boots.len(), 1, "{name}: {job:?}");
            let boot = &boots[0];
            assert_eq!(
                boot.expect.as_ref().unwrap().to_string(),
                "^all tests passed",
                "{name}"
            );
            assert!(boot.fail.is_some() && boot.kernel.is_some(), "{name}");
            for file in [&boot.report.junit, &boot.report.json] {
                let file = file
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap();
                assert!(job.kept.lines().any(|kept| kept == file), "{name}: {file}");
            }
            let logs = |line: &str| line.ends_with("/target/boot");
            assert!(job.kept.lines().any(logs), "{name}");
        }
    }
}

#[test]
fn a_flag_or_a_program_that_is_misspelt_is_found() {
    for (right, wrong) in [
        ("--expect", "--expct"),
        ("--json ", "--jsn "),
        ("[dom0, xl,", "[dom0, lx,"),
        ("cargo xtask setup", "cargo xtask set-up"),
        ("make ", "mkae "),
        ("EXPECT: ^all", "EXPECT: (all"),
    ] {
        for (name, read) in FILES {
            let text = text(name);
            assert!(text.contains(right), "{name}: {right}");
            let jobs = read(&load(&text.replace(right, wrong)));
            let found = jobs.iter().any(|job| boots(job).is_err());
            assert!(found, "{name}: {wrong}");
        }
    }
}

#[test]
fn a_variable_that_nothing_sets_is_found() {
    let file = text("gitlab.yml").replace("\"$EXPECT\"", "\"$EXPCT\"");
    assert!(std::panic::catch_unwind(|| gitlab(&load(&file))).is_err());
}

/// What is fetched is found again by the next run.
#[test]
fn the_cache_is_kept() {
    for (name, _) in FILES {
        assert!(
            text(name).contains(&format!(" .cache/{}\n", cache::NAME)),
            "{name}"
        );
    }
}

/// Whoever copies a file says where things come from.
#[test]
fn no_host_is_named() {
    for (name, _) in FILES {
        assert!(!text(name).contains("://"), "{name}");
    }
}

/// The instructions of the file for containers, and what each is given.
fn container() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Containerfile");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines = lines.map(|line| line.split_once(' ').unwrap());
    lines
        .map(|(name, rest)| (name.into(), rest.into()))
        .collect()
}

#[test]
fn a_container_has_the_whole_workspace_and_is_made_by_commands_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut copied = Vec::new();
    let mut run = Vec::new();
    for (name, rest) in container() {
        let mut words: Vec<_> = rest.split_whitespace().collect();
        match name.as_str() {
            "COPY" => {
                words.pop();
                copied.extend(words.into_iter().map(str::to_owned));
            }
            "RUN" => run.extend(rest.split("&&").map(|line| line.trim().to_owned())),
            "ARG" | "FROM" | "WORKDIR" | "ENTRYPOINT" | "CMD" => {}
            other => panic!("{other}"),
        }
    }
    for path in &copied {
        assert!(root.join(path).exists(), "{path}");
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = manifest.lines().find(|line| line.starts_with("members = "));
    let members = members.unwrap().split('"').skip(1).step_by(2);
    for member in members.chain([".cargo", "Cargo.lock", "rust-toolchain.toml", "xen-cfg"]) {
        let top = member.split('/').next().unwrap();
        assert!(
            copied.iter().any(|path| path == top),
            "{member} is not copied"
        );
    }
    assert!(!run.is_empty());
    for line in run {
        let words = words(&line, &Variables::new());
        assert_eq!(words[..2], ["cargo", "xtask"], "{line}");
        Cli::try_parse_from(&words[1..]).unwrap();
    }
}
