//! Where the host gets its packages from. The archives, mirrors and keys that its owner
//! configured are the ones to use, so the private package lists are derived from them: the
//! entries that carry the release's own suites, plus what Debian publishes beside those.

use std::fmt::Write as _;
use std::path::Path;

use crate::exit::{Failure, Result};

/// One configured archive, in either of apt's two notations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    /// Everything else as deb822 fields: keys, architectures, trust.
    options: Vec<(String, String)>,
}

/// Reads every source list below apt's configuration directory.
pub(crate) fn read_host(etc_apt: &Path) -> Result<Vec<Source>> {
    let mut files = vec![etc_apt.join("sources.list")];
    let parts = etc_apt.join("sources.list.d");
    if let Ok(entries) = std::fs::read_dir(&parts) {
        let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        found.sort();
        files.extend(found);
    }
    let mut sources = Vec::new();
    for file in files {
        let deb822 = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => false,
            Some("sources") => true,
            _ => continue,
        };
        match std::fs::read_to_string(&file) {
            Ok(text) if deb822 => sources.extend(parse_deb822(&text)),
            Ok(text) => sources.extend(parse_one_line(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::file("read", &file)(error)),
        }
    }
    Ok(sources)
}

/// Parses `deb [options] uri suite component…` lines.
pub(crate) fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let uri = words.next()?;
    let suite = words.next()?;
    let options = options
        .split_whitespace()
        .filter_map(|option| option.split_once('='))
        .map(|(key, value)| (field_name(key), value.replace(',', " ")))
        .collect();
    Some(Source {
        uris: vec![uri],
        suites: vec![suite],
        components: words.collect(),
        options,
    })
}

/// The deb822 field that a one-line option stands for.
fn field_name(option: &str) -> String {
    match option {
        "arch" => "Architectures".into(),
        "lang" => "Languages".into(),
        "target" => "Targets".into(),
        other => other.into(),
    }
}

/// Parses stanzas of `Field: value` with continuation lines.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    // A line of white space ends a stanza; one more closes the last.
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza(std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza(fields: Vec<(String, String)>) -> Option<Source> {
    let mut source = Source {
        uris: vec![],
        suites: vec![],
        components: vec![],
        options: vec![],
    };
    let mut binary = false;
    for (name, value) in fields {
        let words = || {
            value
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        match name.to_ascii_lowercase().as_str() {
            "types" => binary = words().iter().any(|kind| kind == "deb"),
            "uris" => source.uris = words(),
            "suites" => source.suites = words(),
            "components" => source.components = words(),
            "enabled" if value.eq_ignore_ascii_case("no") => return None,
            "enabled" => {}
            _ => source.options.push((name, value)),
        }
    }
    (binary && !source.uris.is_empty() && !source.suites.is_empty()).then_some(source)
}

/// The archives of one Debian release, as found in the host's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archives {
    /// The release itself, its updates and its security fixes.
    pub(crate) release: String,
    /// Newer software built for the release; not every mirror carries it.
    pub(crate) backports: String,
}

/// Derives the sources of `wanted` from those of a host that runs `host`, as deb822 text.
pub(crate) fn derive(sources: &[Source], host: &str, wanted: &str) -> Option<Archives> {
    let mut release = String::new();
    let mut backports = String::new();
    for source in sources {
        if !source
            .components
            .iter()
            .any(|component| component == "main")
        {
            continue;
        }
        let suites: Vec<_> = source
            .suites
            .iter()
            .filter_map(|suite| {
                let suffix = suite.strip_prefix(host)?;
                ["", "-updates", "-security"]
                    .contains(&suffix)
                    .then(|| format!("{wanted}{suffix}"))
            })
            .collect();
        if suites.is_empty() {
            continue;
        }
        release.push_str(&source.render(&suites.join(" "), "main"));
        if suites.iter().any(|suite| suite == wanted) && backports.is_empty() {
            backports = source.render(&format!("{wanted}-backports"), "main");
        }
    }
    (!backports.is_empty()).then_some(Archives { release, backports })
}

/// All of a host's archives, as they are.
pub(crate) fn own(sources: &[Source]) -> Option<Archives> {
    let render =
        |source: &Source| source.render(&source.suites.join(" "), &source.components.join(" "));
    let release: String = sources.iter().map(render).collect();
    (!release.is_empty()).then_some(Archives {
        release,
        backports: String::new(),
    })
}

impl Source {
    fn render(&self, suites: &str, components: &str) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {suites}\n",
            self.uris.join(" ")
        );
        // A suite that is a directory has none.
        if !components.is_empty() {
            let _ = writeln!(text, "Components: {components}");
        }
        for (name, value) in &self.options {
            let _ = writeln!(text, "{name}: {value}");
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a note in the middle
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://other.example/tool
Suites: stable
Components: main

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
";

    #[test]
    fn deb822_takes_the_release_and_leaves_third_parties() {
        let archives = derive(&parse_deb822(DEB822), "bookworm", "bookworm").unwrap();
        assert_eq!(
            archives.release,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\nSigned-By: /usr/share/keyrings/debian.gpg\n\n\
             Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\n\
             Components: main\n\n"
        );
        assert_eq!(
            archives.backports,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n\
             Components: main\nSigned-By: /usr/share/keyrings/debian.gpg\n\n"
        );
    }

    #[test]
    fn one_line_entries_keep_their_options() {
        let text = "# comment\n\
            deb [arch=amd64,i386 signed-by=/k.gpg] http://mirror.example/debian bookworm main # x\n\
            deb-src http://mirror.example/debian bookworm main\n\
            deb http://mirror.example/debian bookworm-updates contrib\n\
            debris http://nowhere.example bookworm main\n";
        let archives = derive(&parse_one_line(text), "bookworm", "bookworm").unwrap();
        assert_eq!(
            archives.release,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n\
             Architectures: amd64 i386\nsigned-by: /k.gpg\n\n"
        );
    }

    #[test]
    fn another_release_comes_from_the_same_mirrors() {
        let archives = derive(&parse_deb822(DEB822), "bookworm", "trixie").unwrap();
        assert!(archives.release.contains("Suites: trixie trixie-updates\n"));
        assert!(archives.release.contains("Suites: trixie-security\n"));
        assert!(!archives.release.contains("bookworm"));
    }

    #[test]
    fn an_archive_of_its_own_is_taken_as_it_is() {
        let text = "deb [signed-by=/k.gpg] http://u.example/ubuntu noble main universe\n\
                    deb http://f.example/flat ./\n";
        let archives = own(&parse_one_line(text)).unwrap();
        assert_eq!(
            archives.release,
            "Types: deb\nURIs: http://u.example/ubuntu\nSuites: noble\n\
             Components: main universe\nsigned-by: /k.gpg\n\n\
             Types: deb\nURIs: http://f.example/flat\nSuites: ./\n\n"
        );
        assert_eq!(archives.backports, "");
        assert_eq!(own(&[]), None);
    }

    /// As Ubuntu and Mint are installed, with other names for their mirrors.
    #[test]
    fn archives_of_other_systems_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(
            dir.path().join("sources.list"),
            "# See http://help.example for how to upgrade\n",
        )
        .unwrap();
        let ubuntu = "# comment\nTypes: deb\nURIs: http://u.example/ubuntu/\n\
            Suites: noble noble-updates noble-backports\n\
            Components: main restricted universe multiverse\n\
            Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n\n\
            Types: deb\nURIs: http://s.example/ubuntu/\nSuites: noble-security\n\
            Components: main universe\n";
        std::fs::write(parts.join("ubuntu.sources"), ubuntu).unwrap();
        let mint = "deb http://p.example xia main upstream import backport #id:linuxmint_main\n\
            deb-src http://p.example xia main\n";
        std::fs::write(parts.join("official.list"), mint).unwrap();
        std::fs::write(parts.join("ubuntu.sources.save"), ubuntu).unwrap();
        let sources = read_host(dir.path()).unwrap();
        let text = own(&sources).unwrap().release;
        assert_eq!(text.matches("Types: deb\n").count(), 3, "{text}");
        for says in [
            "Suites: xia\nComponents: main upstream import backport\n\n",
            "Suites: noble noble-updates noble-backports\n\
             Components: main restricted universe multiverse\nSigned-By: /usr/share/keyrings/",
            "URIs: http://s.example/ubuntu/\nSuites: noble-security\n",
        ] {
            assert!(text.contains(says), "{says} is not in: {text}");
        }
        // Nothing of Debian's is among them.
        assert_eq!(derive(&sources, "bookworm", "bookworm"), None);
    }

    #[test]
    fn a_key_in_the_stanza_survives() {
        let text = "Types: deb\nURIs: http://m.example/d\nSuites: sid\nComponents: main\n\
                    Signed-By:\n -----BEGIN PGP\n .\n abc\n -----END\n";
        let archives = derive(&parse_deb822(text), "sid", "sid").unwrap();
        assert!(
            archives
                .release
                .contains("Signed-By: \n -----BEGIN PGP\n .\n abc\n -----END\n")
        );
    }

    #[test]
    fn a_host_without_debian_archives_yields_nothing() {
        let text = "deb http://other.example/tool stable main\n";
        assert_eq!(derive(&parse_one_line(text), "bookworm", "bookworm"), None);
    }
}
