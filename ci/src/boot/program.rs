//! `boot --program`: a ramdisk with one program, and words by which the kernel runs it.
//!
//! The program is a static binary for Linux. By the name `busybox` it is the one that the Linux dom0 has,
//! with a link for each of its applets, so that its shell finds them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit::{Failure, Result};
use crate::provision::Provision;
use crate::stack::archive::Archive;
use crate::stack::rootfs;

/// The program that comes with many others in one.
pub(crate) const BUSYBOX: &str = "busybox";

/// A program on its way into a ramdisk.
pub(crate) struct Program {
    /// The file here.
    file: PathBuf,
    /// Its name there, below `bin`.
    name: String,
}

impl Program {
    /// Finds a program by its name or path.
    pub(crate) fn find(name: &str, provision: &Provision) -> Result<Self> {
        if name == BUSYBOX {
            return Ok(Self {
                file: rootfs::busybox(&provision.dom0()?)?,
                name: BUSYBOX.into(),
            });
        }
        let file = super::existing(Path::new(name))?;
        let name = super::file_name(&file);
        Ok(Self { file, name })
    }

    /// Packs the ramdisk, with further files by their names; those of them that are programs can be run.
    pub(crate) fn pack(&self, to: &Path, files: &[(&str, &[u8])]) -> Result<()> {
        let written = || Failure::file("write", to);
        let mut archive = Archive::new(File::create(to).map_err(written())?);
        let bytes = std::fs::read(&self.file).map_err(Failure::file("read", &self.file))?;
        let place = format!("bin/{}", self.name);
        archive.file(&place, &bytes, true).map_err(written())?;
        for applet in self.applets()? {
            archive
                .link(&format!("bin/{applet}"), &self.name)
                .map_err(written())?;
        }
        for (name, bytes) in files {
            let is_program = bytes.starts_with(b"\x7fELF");
            archive.file(name, bytes, is_program).map_err(written())?;
        }
        for dir in ["dev", "proc", "root", "sys", "tmp"] {
            archive.dir(dir).map_err(written())?;
        }
        archive.finish().map(drop).map_err(written())
    }

    /// The file here.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Makes a directory of it here, with a link for each name.
    pub(crate) fn link(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Failure::file("create", dir))?;
        let names = self.applets()?;
        for name in names.iter().chain([&self.name]) {
            let link = dir.join(name);
            std::os::unix::fs::symlink(&self.file, &link)
                .map_err(Failure::file("create", &link))?;
        }
        Ok(())
    }

    /// The names that a program is known by besides its own.
    pub(crate) fn applets(&self) -> Result<Vec<String>> {
        if self.name != BUSYBOX {
            return Ok(Vec::new());
        }
        let output = Command::new(&self.file).arg("--list").output();
        let output = output.map_err(Failure::file("run", &self.file))?;
        let names = String::from_utf8_lossy(&output.stdout);
        let others = names.lines().filter(|name| *name != BUSYBOX);
        Ok(others.map(str::to_owned).collect())
    }

    /// Words by which the kernel runs it with arguments, behind other words.
    pub(crate) fn words(&self, before: &str, arguments: &[String]) -> String {
        let mut words = format!("{before} init=/bin/{}", encoded(&self.name));
        if !arguments.is_empty() {
            words.push_str(" --");
        }
        for argument in arguments {
            words.push(' ');
            words.push_str(&encoded(argument));
        }
        words.trim_start().to_owned()
    }
}

/// An argument as one word of printable letters: what is none of these is written as `%` and two digits,
/// and so is what loaders and configuration files take for something else.
fn encoded(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"%\"'\\,$`".contains(&byte);
    let mut word = String::new();
    for byte in argument.bytes() {
        match plain(byte) {
            true => word.push(byte.into()),
            false => word.push_str(&format!("%{byte:02x}")),
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_argument_is_one_word() {
        let program = Program {
            file: "/x/my prog".into(),
            name: "my prog".into(),
        };
        assert_eq!(program.words("once", &[]), "once init=/bin/my%20prog");
        let script = "echo 100% \"$HOME\" | cat\n".to_owned();
        assert_eq!(
            program.words("", &["-c".into(), script]),
            "init=/bin/my%20prog -- -c echo%20100%25%20%22%24HOME%22%20|%20cat%0a"
        );
    }
}
