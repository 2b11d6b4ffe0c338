//! Which system this is, as far as it says where packages can come from.

use std::fmt;
use std::path::{Path, PathBuf};

/// What `os-release` and the directories of programs say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    root: PathBuf,
    /// `ID`.
    id: String,
    /// `ID_LIKE`: what it descends from.
    like: Vec<String>,
    /// `VERSION_CODENAME`.
    codename: Option<String>,
    /// `PRETTY_NAME`.
    name: String,
    /// Where programs are looked for.
    path: Vec<PathBuf>,
}

/// How a host gets Debian's packages, or something like them, by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Family {
    /// Debian itself.
    Debian,
    /// A system with apt and an archive of its own that descends from Debian's.
    Derivative,
    /// Any other.
    Other,
}

impl Host {
    /// This one.
    pub(crate) fn this() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::at(Path::new("/"), std::env::split_paths(&path).collect())
    }

    /// The one whose files are below `root`, where programs are in the directories of `path`.
    pub(crate) fn at(root: &Path, path: Vec<PathBuf>) -> Self {
        // The second is where a system that has no /etc yet keeps it.
        let files = ["etc/os-release", "usr/lib/os-release"];
        let text = files
            .iter()
            .find_map(|file| std::fs::read_to_string(root.join(file)).ok());
        let text = text.unwrap_or_default();
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once('='));
            let (_, value) = fields.find(|(key, _)| key.trim() == name)?;
            let value = value.trim().trim_matches(['"', '\'']);
            (!value.is_empty()).then(|| value.to_owned())
        };
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect();
        let id = field("ID").unwrap_or_else(|| "linux".into());
        Self {
            root: root.to_owned(),
            like: field("ID_LIKE").map_or_else(Vec::new, words),
            codename: field("VERSION_CODENAME"),
            name: field("PRETTY_NAME").unwrap_or_else(|| id.clone()),
            id,
            path,
        }
    }

    /// Where its packages can come from.
    pub(crate) fn family(&self) -> Family {
        if self.program("apt-get").is_none() {
            return Family::Other;
        }
        match (self.id.as_str(), &self.codename) {
            ("debian", Some(_)) => Family::Debian,
            ("debian" | "ubuntu", _) => Family::Derivative,
            _ if self
                .like
                .iter()
                .any(|like| like == "debian" || like == "ubuntu") =>
            {
                Family::Derivative
            }
            _ => Family::Other,
        }
    }

    /// The name of its release, if it has one.
    pub(crate) fn codename(&self) -> &str {
        self.codename.as_deref().unwrap_or("rolling")
    }

    /// Its directory of apt's configuration.
    pub(crate) fn apt_configuration(&self) -> PathBuf {
        self.root.join("etc/apt")
    }

    /// A word for it that can be part of a file's name.
    pub(crate) fn word(&self) -> String {
        let word = format!("{}-{}", self.id, self.codename());
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        word.chars()
            .map(|c| if fits(c) { c } else { '-' })
            .collect()
    }

    /// Where a program is.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let places = self.path.iter().map(|dir| dir.join(name));
        places.into_iter().find(|place| place.is_file())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A system with such a text, and such programs.
    pub(crate) fn host(dir: &Path, release: &str, programs: &[&str]) -> Host {
        for dir in ["etc", "bin"].map(|name| dir.join(name)) {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::fs::write(dir.join("etc/os-release"), release).unwrap();
        for program in programs {
            std::fs::write(dir.join("bin").join(program), "").unwrap();
        }
        Host::at(dir, vec![dir.join("bin")])
    }

    pub(crate) const FEDORA: &str = "NAME=\"Fedora Linux\"\nVERSION=\"43 (Forty Three)\"\nID=fedora\n\
        VERSION_ID=43\nVERSION_CODENAME=\"\"\nPRETTY_NAME=\"Fedora Linux 43 (Forty Three)\"\n";
    const ALPINE: &str = "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.22.1\n\
        PRETTY_NAME=\"Alpine Linux v3.22\"\n";
    const ARCH: &str =
        "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n";
    const DEBIAN: &str = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\n\
        VERSION_CODENAME=trixie\n";
    const UBUNTU: &str = "PRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\nID=ubuntu\nID_LIKE=debian\n\
        VERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n";
    const MINT: &str = "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n\
        PRETTY_NAME=\"Linux Mint 22.1\"\nVERSION_CODENAME=xia\nUBUNTU_CODENAME=noble\n";
    const KALI: &str = "PRETTY_NAME=\"Kali GNU/Linux Rolling\"\nID=kali\nID_LIKE=debian\n\
        VERSION_CODENAME=kali-rolling\n";

    #[test]
    fn a_system_is_known_by_what_it_says_and_by_its_apt() {
        let dir = tempfile::tempdir().unwrap();
        let (with, without) = (dir.path().join("with"), dir.path().join("without"));
        for (release, family) in [
            (DEBIAN, Family::Debian),
            ("ID=debian\n", Family::Derivative),
            (UBUNTU, Family::Derivative),
            (MINT, Family::Derivative),
            (KALI, Family::Derivative),
            (FEDORA, Family::Other),
            (ALPINE, Family::Other),
            (ARCH, Family::Other),
            ("", Family::Other),
        ] {
            assert_eq!(
                host(&with, release, &["apt-get"]).family(),
                family,
                "{release}"
            );
            assert_eq!(host(&without, release, &[]).family(), Family::Other);
        }
    }

    #[test]
    fn a_system_has_a_name_and_a_word() {
        let dir = tempfile::tempdir().unwrap();
        for (release, name, word) in [
            (KALI, "Kali GNU/Linux Rolling", "kali-kali-rolling"),
            (FEDORA, "Fedora Linux 43 (Forty Three)", "fedora-rolling"),
            ("ID='x/y z'\n", "x/y z", "x-y-z-rolling"),
            ("", "linux", "linux-rolling"),
        ] {
            let host = host(dir.path(), release, &[]);
            assert_eq!(
                (host.to_string().as_str(), host.word().as_str()),
                (name, word)
            );
        }
    }
}
