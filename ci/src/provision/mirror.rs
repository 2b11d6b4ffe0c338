//! A mirror of Debian's archive that the user names, and files of it that are taken for what they are
//! by their hashes alone.
//!
//! This program knows no mirror. A flag names one, or a variable, or a file of the user's
//! configuration: a directory, or an address that `curl` or `wget` fetches from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::cache;
use super::host::Host;
use super::lock::Locked;
use super::space::Space;
use crate::exit::{Failure, Result};
use crate::process;

/// The flag, and the variable.
pub(crate) const FLAG: &str = "--mirror";
pub(crate) const VARIABLE: &str = "XEN_PV_GUEST_MIRROR";

/// The name of a file while it is fetched, and until it is known to be the right one.
const FETCHED: &str = "fetched";

/// Where a mirror has its files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A directory, in the archive's order or with all files beside each other.
    Dir(PathBuf),
    /// An address.
    Address(String),
}

/// What was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    places: Vec<Place>,
    /// What named it.
    by: String,
}

/// The file of the user's configuration that names one.
pub(crate) fn configuration() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let configured = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let root = configured.or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(root.join(cache::NAME).join("mirror"))
}

impl Mirror {
    /// The one that is named by the flag, or else by the variable, or else by the file.
    ///
    /// # Errors
    /// A directory is not there, or the file cannot be read.
    pub(crate) fn find(
        flag: Option<&str>,
        variable: Option<OsString>,
        file: Option<&Path>,
    ) -> Result<Option<Self>> {
        if let Some(text) = flag {
            return Self::parse(text, FLAG.into());
        }
        if let Some(text) = variable {
            return Self::parse(&text.to_string_lossy(), VARIABLE.into());
        }
        let Some(file) = file else { return Ok(None) };
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let lines = text
                    .lines()
                    .map(|line| line.split('#').next().unwrap_or_default());
                let text: Vec<_> = lines.collect();
                Self::parse(&text.join("\n"), file.display().to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::file("read", file)(error)),
        }
    }

    /// Reads places that are separated by blanks; a mirror of security fixes is one more.
    fn parse(text: &str, by: String) -> Result<Option<Self>> {
        let mut places = Vec::new();
        for word in text.split_whitespace() {
            let dir = word
                .strip_prefix("file://")
                .or((!word.contains("://")).then_some(word));
            places.push(match dir {
                Some(dir) if Path::new(dir).is_dir() => Place::Dir(dir.into()),
                Some(dir) => {
                    return Err(Failure::Usage(format!("{by}: {dir} is no directory")));
                }
                None => Place::Address(word.trim_end_matches('/').to_owned()),
            });
        }
        Ok((!places.is_empty()).then_some(Self { places, by }))
    }

    /// What named it.
    pub(crate) fn by(&self) -> &str {
        &self.by
    }

    /// Why this host could not fetch from it, if it could not.
    pub(crate) fn obstacle(&self, host: &Host) -> Option<Failure> {
        let remote = self
            .places
            .iter()
            .any(|place| matches!(place, Place::Address(_)));
        remote.then(|| fetcher(host).err()).flatten()
    }

    /// A package's file, which is what the lock file says it is. `scratch` is a directory that keeps what
    /// is fetched, so that a run that is interrupted need not fetch it again.
    ///
    /// # Errors
    /// No place has it: what each has instead is said.
    pub(crate) fn get(&self, locked: &Locked, host: &Host, scratch: &Path) -> Result<Vec<u8>> {
        let kept = scratch.join(locked.file());
        if let Ok(bytes) = std::fs::read(&kept)
            && check(locked, &bytes).is_ok()
        {
            return Ok(bytes);
        }
        let mut tried = Vec::new();
        for place in &self.places {
            let found = match place {
                Place::Dir(dir) => from_dir(dir, locked),
                Place::Address(address) => from_address(address, locked, host, scratch)?,
            };
            match found {
                // A server may answer by a page that says there is no such file.
                Ok((from, bytes)) => match check(locked, &bytes) {
                    Ok(()) => {
                        if let Place::Address(_) = place {
                            std::fs::rename(scratch.join(FETCHED), &kept)
                                .map_err(Failure::file("write", &kept))?;
                        }
                        return Ok(bytes);
                    }
                    Err(why) => tried.push(format!("{from}: {why}")),
                },
                Err(why) => tried.push(why),
            }
        }
        Err(self.wrong(&format!(
            "{} is nowhere: {}",
            locked.file(),
            tried.join("; ")
        )))
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::host(
            format!("the mirror named by {}: {what}", self.by),
            "name one that keeps the versions of ci/packages.lock, such as one of snapshots, or \
             renew that file on a Debian host by `cargo xtask lock`",
        )
    }
}

/// Whether a file is the locked one, or what is wrong with it.
pub(super) fn check(locked: &Locked, bytes: &[u8]) -> std::result::Result<(), String> {
    let size = bytes.len() as u64;
    if size < locked.size {
        return Err(format!("truncated: {size} bytes of {}", locked.size));
    }
    let sum: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    match sum == locked.sha256 {
        true => Ok(()),
        false => Err(format!(
            "its SHA-256 is {sum} and should be {}",
            locked.sha256
        )),
    }
}

type Found = std::result::Result<(String, Vec<u8>), String>;

fn from_dir(dir: &Path, locked: &Locked) -> Found {
    let places = [dir.join(&locked.path), dir.join(locked.file())];
    let place = places.iter().find(|place| place.is_file());
    let place = place.ok_or_else(|| format!("not in {}", dir.display()))?;
    match std::fs::read(place) {
        Ok(bytes) => Ok((place.display().to_string(), bytes)),
        Err(error) => Err(format!("{}: {error}", place.display())),
    }
}

/// Fetches a file.
///
/// # Errors
/// There is no program that could, the disk is full, or the run was interrupted.
fn from_address(address: &str, locked: &Locked, host: &Host, scratch: &Path) -> Result<Found> {
    let from = format!("{address}/{}", locked.path.replace('+', "%2B"));
    let file = scratch.join(FETCHED);
    let mut command = fetcher(host)?;
    command.arg(&file).arg(&from);
    let space = Space::of(scratch);
    let output = process::output_while(
        &mut command,
        Failure::file("run", "curl or wget"),
        &mut |_| {},
        &mut || space.still("packages"),
    )?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said
            .trim()
            .lines()
            .last()
            .unwrap_or("it did not say why")
            .to_owned();
        return Ok(Err(format!("{from}: {last}")));
    }
    let bytes = std::fs::read(&file).map_err(Failure::file("read", &file))?;
    Ok(Ok((from, bytes)))
}

/// A program that fetches, up to the name of the file that it fetches into.
fn fetcher(host: &Host) -> Result<Command> {
    let curl: &[&str] = &[
        "--silent",
        "--show-error",
        "--fail",
        "--location",
        "--retry",
        "2",
        "-o",
    ];
    for (name, arguments) in [("curl", curl), ("wget", &["-q", "-O"])] {
        if let Some(program) = host.program(name) {
            let mut command = Command::new(program);
            command.args(arguments);
            return Ok(command);
        }
    }
    Err(Failure::host(
        "neither curl nor wget is installed, and the mirror is not a directory",
        "install one of them, or name a directory",
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// What locks these bytes.
    pub(in super::super) fn locked(path: &str, bytes: &[u8]) -> Locked {
        let sum = Sha256::digest(bytes);
        Locked {
            sha256: sum.iter().map(|byte| format!("{byte:02x}")).collect(),
            size: bytes.len() as u64,
            path: path.into(),
        }
    }

    pub(in super::super) fn at(dir: &Path) -> Mirror {
        let text = dir.display().to_string();
        Mirror::parse(&text, FLAG.into()).unwrap().unwrap()
    }

    fn get(mirror: &Mirror, locked: &Locked) -> std::result::Result<Vec<u8>, String> {
        let scratch = tempfile::tempdir().unwrap();
        let found = mirror.get(locked, &Host::this(), scratch.path());
        found.map_err(|failure| {
            assert_eq!(failure.status(), 3);
            failure.to_string()
        })
    }

    #[test]
    fn the_flag_outranks_the_variable_and_that_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mirror");
        std::fs::write(
            &file,
            "# two\nhttp://c.example/debian/\nhttp://d.example/s # x\n",
        )
        .unwrap();
        let named = |flag, variable: Option<&str>, file| {
            let found = Mirror::find(flag, variable.map(OsString::from), file);
            found
                .unwrap()
                .map(|mirror| (mirror.by, mirror.places.len()))
        };
        let (a, b) = (Some("http://a.example"), Some("http://b.example"));
        let none = dir.path().join("none");
        let by = |by: &str, places| Some((by.to_owned(), places));
        assert_eq!(named(a, b, Some(&file)), by(FLAG, 1));
        assert_eq!(named(None, b, Some(&file)), by(VARIABLE, 1));
        assert_eq!(
            named(None, None, Some(&file)),
            by(&file.display().to_string(), 2)
        );
        assert_eq!(named(None, None, Some(&none)), None);
        assert_eq!(named(None, None, None), None);
        let failure = Mirror::find(Some("/nonexistent/dir"), None, None).unwrap_err();
        assert_eq!(failure.status(), 2);
        assert!(
            failure
                .to_string()
                .contains("--mirror: /nonexistent/dir is no directory")
        );
    }

    #[test]
    fn a_directory_may_have_the_archive_s_order_or_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("pool/x")).unwrap();
        std::fs::write(dir.path().join("pool/x/a.deb"), "ordered").unwrap();
        std::fs::write(dir.path().join("b.deb"), "flat").unwrap();
        let mirror = at(dir.path());
        assert_eq!(
            get(&mirror, &locked("pool/x/a.deb", b"ordered")).unwrap(),
            b"ordered"
        );
        assert_eq!(
            get(&mirror, &locked("pool/y/b.deb", b"flat")).unwrap(),
            b"flat"
        );
    }

    #[test]
    fn what_is_missing_truncated_or_another_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.deb"), "ordered").unwrap();
        let mirror = at(dir.path());
        for (path, content, says) in [
            ("pool/a.deb", "0rdered", "its SHA-256 is "),
            ("pool/a.deb", "ordered and more", "truncated: 7 bytes of 16"),
            ("pool/a.deb", "order", "its SHA-256 is "),
            ("pool/c.deb", "ordered", "c.deb is nowhere: not in "),
        ] {
            let why = get(&mirror, &locked(path, content.as_bytes())).unwrap_err();
            assert!(why.contains(says) && why.contains("--mirror"), "{why}");
        }
    }

    #[test]
    fn another_file_of_the_name_does_not_hide_the_right_one() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        std::fs::write(dirs[0].path().join("a.deb"), "<html>no such file</html>").unwrap();
        std::fs::write(dirs[1].path().join("a.deb"), "content").unwrap();
        let text = dirs.each_ref().map(|dir| dir.path().display().to_string());
        let mirror = Mirror::parse(&text.join("\n"), FLAG.into());
        let mirror = mirror.unwrap().unwrap();
        assert_eq!(
            get(&mirror, &locked("pool/a.deb", b"content")).unwrap(),
            b"content"
        );
    }

    #[test]
    fn a_server_is_asked_and_what_it_lacks_is_sought_at_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let asked = lines.next().unwrap().unwrap();
                lines
                    .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                    .count();
                let has = asked.starts_with("GET /debian/pool/a%2Bb.deb ");
                let (status, body) = if has {
                    ("200 OK", "body")
                } else {
                    ("404 Not Found", "")
                };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
                let text = format!("{head}Connection: close\r\n\r\n{body}");
                (&stream).write_all(text.as_bytes()).unwrap();
            }
        });
        let text = format!("{address}/security {address}/debian/");
        let mirror = Mirror::parse(&text, FLAG.into()).unwrap().unwrap();
        assert_eq!(
            get(&mirror, &locked("pool/a+b.deb", b"body")).unwrap(),
            b"body"
        );
        let why = get(&mirror, &locked("pool/c.deb", b"body")).unwrap_err();
        assert!(
            why.contains("/debian/pool/c.deb: ") && why.contains("404"),
            "{why}"
        );
    }

    #[test]
    fn an_address_needs_a_program_that_fetches() {
        let dir = tempfile::tempdir().unwrap();
        let bare = Host::at(dir.path(), vec![]);
        let failure = fetcher(&bare).unwrap_err();
        assert!(failure.to_string().contains("neither curl nor wget"));
    }
}
