//! apt, run with a state of its own: it resolves, downloads and verifies Debian packages exactly
//! as it would for the host, but neither reads nor changes what the host has installed, and needs
//! no root.
//!
//! The state pretends that nothing is installed, so apt answers with the whole dependency closure,
//! the C library included: what is unpacked from it runs on any host.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::host::Host;
use super::index::Index;
use super::sources;
use super::space::{self, Space};
use crate::exit::{Failure, Result};
use crate::process;
use crate::ui;

/// One package file as apt announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its file name: name, version and architecture.
    pub(crate) file: String,
    /// Its size in bytes.
    pub(crate) size: u64,
}

impl Package {
    /// The name before the version.
    pub(crate) fn name(&self) -> &str {
        self.file.split('_').next().unwrap_or_default()
    }

    /// The version, with the `%3a` that file names carry for an epoch put back.
    pub(crate) fn version(&self) -> String {
        self.file
            .split('_')
            .nth(1)
            .unwrap_or_default()
            .replace("%3a", ":")
    }
}

/// How a list of packages is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Only the packages named.
    Alone,
    /// With all they depend on.
    Closure,
}

/// A private apt: for one Debian release, or for the archives of a host that descends from Debian.
pub(crate) struct Apt {
    root: PathBuf,
    release: String,
    archives: Archives,
}

/// Whose packages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archives {
    /// Debian's, of a release that may be another than the host's.
    Debian,
    /// All that the host's own apt knows.
    Own,
}

impl Apt {
    /// Opens the private state of `release` below `root`, downloading package lists only if there
    /// are none yet or `refresh` asks for it. The host runs Debian's `own` release.
    pub(crate) fn open(
        root: &Path,
        host: &Host,
        own: &str,
        release: &str,
        refresh: bool,
    ) -> Result<Self> {
        let apt = Self {
            root: root.join(release),
            release: release.to_owned(),
            archives: Archives::Debian,
        };
        apt.opened(host, own, refresh)
    }

    /// The same for a host with archives of its own.
    pub(crate) fn open_own(root: &Path, host: &Host, refresh: bool) -> Result<Self> {
        let release = host.word();
        let apt = Self {
            root: root.join(&release),
            release,
            archives: Archives::Own,
        };
        apt.opened(host, "", refresh)
    }

    fn opened(self, host: &Host, own: &str, refresh: bool) -> Result<Self> {
        let ready = self.root.join("ready");
        if !ready.exists() || refresh {
            self.configure(host, own)?;
            std::fs::write(&ready, "").map_err(Failure::file("write", &ready))?;
        }
        Ok(self)
    }

    fn configure(&self, host: &Host, own: &str) -> Result<()> {
        let sources = sources::read_host(&host.apt_configuration())?;
        let archives = match self.archives {
            Archives::Debian => sources::derive(&sources, own, &self.release),
            Archives::Own => sources::own(&sources),
        };
        let archives = archives.ok_or_else(|| {
            let whose = match self.archives {
                Archives::Debian => format!("of Debian's {own}"),
                Archives::Own => "at all".into(),
            };
            super::nowhere(&format!(
                "apt on {host} is not configured with an archive {whose}"
            ))
        })?;
        for dir in ["lists/partial", "archives/partial", "sources"] {
            let dir = self.root.join(dir);
            std::fs::create_dir_all(&dir).map_err(Failure::file("create", &dir))?;
        }
        self.write("status", "")?;
        self.write("apt.conf", &self.configuration(&dump_host_configuration()?))?;
        self.write("sources/release.sources", &archives.release)?;
        self.write("sources/backports.sources", &archives.backports)?;

        let title = format!("package lists of {}", self.release);
        Space::of(&self.root).check(&title, space::LISTS)?;
        let step = ui::spinner(title);
        let updated = self.run(&["update", "-qq", "-o", "APT::Update::Error-Mode=any"]);
        if let Err(Failure::Interrupted) = updated {
            step.clear();
            return Err(Failure::Interrupted);
        }
        // A mirror without backports makes the whole update fail; the release alone will do. Of a
        // host's own archives, some need not answer.
        if updated.is_err() {
            self.write("sources/backports.sources", "")?;
            let mode = match self.archives {
                Archives::Debian => "APT::Update::Error-Mode=any",
                Archives::Own => "APT::Update::Error-Mode=persistent-failure",
            };
            self.run(&["update", "-qq", "-o", mode])?;
        }
        step.done();
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(name);
        std::fs::write(&path, text).map_err(Failure::file("write", &path))
    }

    /// Of the host's configuration only how it reaches its mirrors is kept: hooks and cleaners
    /// are for its own package cache.
    fn configuration(&self, host: &str) -> String {
        let root = self.root.display();
        let mut text = format!(
            "Dir::State \"{root}\";\n\
             Dir::State::lists \"{root}/lists\";\n\
             Dir::State::status \"{root}/status\";\n\
             Dir::Cache \"{root}\";\n\
             Dir::Cache::archives \"{root}/archives\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\n\
             Dir::Etc::sourceparts \"{root}/sources\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::Etc::main \"/dev/null\";\n\
             Dir::Etc::parts \"/dev/null\";\n\
             Dir::Log \"{root}/log\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Install-Recommends \"false\";\n\
             APT::Get::Assume-Yes \"true\";\n\
             APT::Keep-Downloaded-Packages \"true\";\n\
             APT::Sandbox::User \"root\";\n"
        );
        for line in host.lines() {
            let inherited = line.starts_with("Acquire::")
                && !line.starts_with("Acquire::IndexTargets")
                && !line.starts_with("Acquire::Languages");
            if inherited {
                text.push_str(line);
                text.push('\n');
            }
        }
        text.push_str("Acquire::Languages \"none\";\n");
        text
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let space = Space::of(&self.root);
        let output = process::output_while(
            self.command("apt-get").args(arguments),
            |error| {
                Failure::host(
                    format!("apt-get cannot be run: {error}"),
                    "install the package `apt`, or pass paths by --qemu, --xen and --dom0-root",
                )
            },
            &mut |_| {},
            &mut || space.still("package lists"),
        )?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Failure::host(
            format!(
                "apt-get {} failed:\n{}",
                arguments.join(" "),
                ui::summed(&String::from_utf8_lossy(&output.stderr))
            ),
            "check the network and the mirrors in /etc/apt, then run `cargo xtask setup` again",
        ))
    }

    /// What apt would fetch for `packages`, from backports where `backports` is set.
    pub(crate) fn resolve(
        &self,
        packages: &[String],
        depth: Depth,
        backports: bool,
    ) -> Result<Vec<Package>> {
        let arguments = self.arguments(packages, depth, backports);
        let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        arguments.insert(0, "--print-uris");
        arguments.insert(0, "-qq");
        let mut found = parse_uris(&self.run(&arguments)?);
        found.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(found)
    }

    fn arguments(&self, packages: &[String], depth: Depth, backports: bool) -> Vec<String> {
        let mut arguments = Vec::new();
        if backports {
            arguments.push("-t".into());
            arguments.push(format!("{}-backports", self.release));
        }
        match depth {
            Depth::Alone => arguments.push("download".into()),
            Depth::Closure => {
                arguments.push("--download-only".into());
                arguments.push("install".into());
            }
        }
        arguments.extend(packages.iter().cloned());
        arguments
    }

    /// Downloads what [`Apt::resolve`] announced as `expected` into `into`.
    pub(crate) fn download(
        &self,
        title: &str,
        packages: &[String],
        depth: Depth,
        backports: bool,
        expected: &[Package],
        into: &Path,
    ) -> Result<()> {
        let total = expected.iter().map(|package| package.size).sum();
        let title = format!("{title}: {} packages, {}", expected.len(), ui::size(total));
        let step = ui::progress(title, total, true);
        let archives = format!("Dir::Cache::archives={}", into.display());
        std::fs::create_dir_all(into.join("partial")).map_err(Failure::file("create", into))?;
        let space = Space::of(into);
        let output = process::output_while(
            self.command("apt-get")
                .current_dir(into)
                .args(["-qq", "-o", "APT::Status-Fd=1", "-o", &archives])
                .args(self.arguments(packages, depth, backports)),
            Failure::file("run", "apt-get"),
            &mut |line| {
                if let Some(percent) = download_percent(line) {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    step.set((percent / 100.0 * total as f64) as u64);
                }
            },
            &mut || space.still("packages"),
        )?;
        if !output.status.success() {
            step.clear();
            return Err(Failure::host(
                format!(
                    "download failed:\n{}",
                    ui::summed(&String::from_utf8_lossy(&output.stderr))
                ),
                "check the network; if the archive has moved on since, `cargo xtask setup \
                 --update` fetches new package lists",
            ));
        }
        step.done();
        Ok(())
    }

    /// What the archives have.
    pub(crate) fn index(&self) -> Result<Index> {
        let output = process::output(
            self.command("apt-cache").arg("dumpavail"),
            Failure::file("run", "apt-cache"),
        )?;
        Ok(Index::parse(&String::from_utf8_lossy(&output.stdout)))
    }
}

fn dump_host_configuration() -> Result<String> {
    let output = Command::new("apt-config")
        .arg("dump")
        .output()
        .map_err(|error| {
            Failure::host(
                format!("apt-config cannot be run: {error}"),
                "install the package `apt`, or pass paths by --qemu, --xen and --dom0-root",
            )
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Parses `--print-uris`: quoted address, file name, size, hash.
fn parse_uris(text: &str) -> Vec<Package> {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some(Package {
                file: words.next()?.to_owned(),
                size: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// The overall percentage in a `dlstatus:item:percent:text` line.
fn download_percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?
        .split(':')
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_packages_have_name_version_and_size() {
        let text = "Reading package lists...\n\
            'http://m.example/q.deb' qemu-system-x86_1%3a10.0.2+ds-2_amd64.deb 10176912 SHA256:0a\n";
        let packages = parse_uris(text);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].name(), "qemu-system-x86");
        assert_eq!(packages[0].version(), "1:10.0.2+ds-2");
        assert_eq!(packages[0].size, 10_176_912);
    }

    #[test]
    fn progress_lines_give_a_percentage() {
        assert_eq!(
            download_percent("dlstatus:3:42.5:Retrieving file 3 of 7"),
            Some(42.5)
        );
        assert_eq!(download_percent("pmstatus:x:1:y"), None);
    }

    #[test]
    fn hooks_of_the_host_are_not_inherited() {
        let apt = Apt {
            root: "/cache".into(),
            release: "bookworm".into(),
            archives: Archives::Debian,
        };
        let host = "APT::Update::Post-Invoke:: \"rm -f /x\";\nAcquire::http::Proxy \"p\";\n\
                    Acquire::IndexTargets::deb::DEP-11 \"\";\nDPkg::Post-Invoke:: \"rm\";\n";
        let text = apt.configuration(host);
        assert!(text.contains("Acquire::http::Proxy \"p\";"));
        assert!(!text.contains("Invoke") && !text.contains("DEP-11"));
    }

    #[test]
    fn packages_are_taken_from_the_suite_asked_for() {
        let apt = Apt {
            root: "/cache".into(),
            release: "bookworm".into(),
            archives: Archives::Debian,
        };
        let names = ["a".to_owned()];
        assert_eq!(
            apt.arguments(&names, Depth::Alone, false),
            ["download", "a"]
        );
        assert_eq!(
            apt.arguments(&names, Depth::Closure, true),
            [
                "-t",
                "bookworm-backports",
                "--download-only",
                "install",
                "a"
            ]
        );
    }
}
