//! A cpio archive in the form that Linux unpacks into its first file system.

use std::collections::BTreeSet;
use std::io::Write;

use cpio::newc::{Builder, ModeFileType, trailer};

/// An archive being written. Directories appear by themselves before what is in them.
pub(crate) struct Archive<W: Write> {
    output: W,
    dirs: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub(crate) fn new(output: W) -> Self {
        Self {
            output,
            dirs: BTreeSet::new(),
            inode: 0,
        }
    }

    /// Adds a directory and those above it.
    pub(crate) fn dir(&mut self, path: &str) -> std::io::Result<()> {
        let mut end = 0;
        for part in path.split('/') {
            end += part.len();
            if self.dirs.insert(path[..end].to_owned()) {
                self.entry(&path[..end], ModeFileType::Directory, 0o755, &[])?;
            }
            end += 1;
        }
        Ok(())
    }

    /// Adds a file, executable or not.
    pub(crate) fn file(
        &mut self,
        path: &str,
        bytes: &[u8],
        executable: bool,
    ) -> std::io::Result<()> {
        self.parent(path)?;
        let permissions = if executable { 0o755 } else { 0o644 };
        self.entry(path, ModeFileType::Regular, permissions, bytes)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) -> std::io::Result<()> {
        self.parent(path)?;
        self.entry(path, ModeFileType::Symlink, 0o777, to.as_bytes())
    }

    /// Ends the archive. Another may follow in the same file.
    pub(crate) fn finish(self) -> std::io::Result<W> {
        trailer(self.output)
    }

    fn parent(&mut self, path: &str) -> std::io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.dir(parent),
            None => Ok(()),
        }
    }

    fn entry(
        &mut self,
        path: &str,
        kind: ModeFileType,
        permissions: u32,
        bytes: &[u8],
    ) -> std::io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(bytes.len())
            .map_err(|_| std::io::Error::other(format!("{path} is larger than 4 GiB")))?;
        let mut writer = Builder::new(path)
            .ino(self.inode)
            .nlink(1)
            .mode(permissions)
            .set_mode_file_type(kind)
            .write(&mut self.output, size);
        writer.write_all(bytes)?;
        writer.finish().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    #[test]
    fn directories_come_first_and_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/file", b"text", true).unwrap();
        archive.link("a/link", "b/file").unwrap();
        archive.dir("a/b").unwrap();
        let bytes = archive.finish().unwrap();

        let mut names = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            let reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode()));
            rest = reader.finish().unwrap();
        }
        assert_eq!(
            names,
            [
                ("a".to_owned(), 0o040_755),
                ("a/b".to_owned(), 0o040_755),
                ("a/b/file".to_owned(), 0o100_755),
                ("a/link".to_owned(), 0o120_777),
            ]
        );
    }
}
