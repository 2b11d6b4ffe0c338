//! A boot as a person does it with a shell: what `boot --dry-run` prints. Nothing but a shell, coreutils
//! and the files themselves is needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::qemu::{Machine, quoted};
use crate::provision::qemu::Qemu;

/// The functions of [`archive`]: an entry of a name, a mode and a size, the zeros behind so many bytes,
/// a file, a directory.
const FUNCTIONS: &[&str] = &[
    "i=0",
    "entry() { i=$((i+1)); printf '070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\\0' \
     $i $(($2)) 0 0 1 0 $3 0 0 0 0 $((${#1}+1)) 0 \"$1\"; zeros $((${#1}+111)); }",
    "zeros() { head -c $(((4-$1%4)%4)) /dev/zero; }",
    "file() { size=$(stat -Lc %s \"$2\") && entry \"$1\" 0100644 $size && cat \"$2\" && zeros $size; }",
    "dir() { entry \"$1\" 040755 0; }",
];

/// Such a boot.
pub(crate) struct ByHand {
    /// The QEMU.
    pub(crate) qemu: Qemu,
    /// The machine.
    pub(crate) machine: Machine,
    /// Commands that make, in the directory that it runs in, what it boots from.
    pub(crate) first: Vec<String>,
    /// What is typed to it: when, and the words.
    pub(crate) then: Vec<String>,
}

impl ByHand {
    /// Of a machine that boots from files that there are.
    pub(crate) fn plain(qemu: Qemu, machine: Machine) -> Self {
        Self {
            qemu,
            machine,
            first: Vec::new(),
            then: Vec::new(),
        }
    }

    /// The line for the shell.
    pub(crate) fn line(&self) -> String {
        self.machine.line(&self.qemu, &self.first)
    }
}

/// Commands that write an archive as [`Archive`](super::archive::Archive) does, behind another: files
/// by their places in it, into the file `to`.
pub(super) fn archive(base: &Path, files: &[(String, PathBuf)], to: &str) -> Vec<String> {
    let word = |path: &Path| quoted(&path.display().to_string());
    let mut dirs = BTreeSet::new();
    for (place, _) in files {
        let parts = place.match_indices('/');
        dirs.extend(parts.map(|(end, _)| &place[..end]));
    }
    let mut steps = vec![format!("cat {}", word(base))];
    steps.extend(dirs.iter().map(|dir| format!("dir {}", quoted(dir))));
    let file = |(place, file): &(String, PathBuf)| format!("file {} {}", quoted(place), word(file));
    steps.extend(files.iter().map(file));
    steps.push("entry TRAILER!!! 0 0".into());
    let mut commands: Vec<_> = FUNCTIONS.iter().map(|&text| text.to_owned()).collect();
    commands.push(format!("{{ {}; }} > {}", steps.join(" && "), quoted(to)));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::archive::Archive;
    use cpio::newc::Reader;

    /// Names, modes and contents of the archives in a file.
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let mut reader = Reader::new(bytes).unwrap();
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
            bytes = reader.finish().unwrap();
            // Archives begin anywhere behind zeros.
            if name == "TRAILER!!!" {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                bytes = &bytes[zeros..];
            }
            entries.push((name, mode & 0o177_777, content));
        }
        entries
    }

    #[test]
    fn a_shell_writes_the_same_archive() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut files = Vec::new();
        let mut own = Archive::new(Vec::new());
        own.file("init", b"first", true).unwrap();
        let base = own.finish().unwrap();
        std::fs::write(path("base"), &base).unwrap();
        let mut own = Archive::new(base);
        for length in 0..6 {
            let (place, file) = (
                format!("jobs/{length}/a'{length}"),
                path(&format!("f {length}")),
            );
            std::fs::write(&file, vec![b'x'; length]).unwrap();
            own.file(&place, &vec![b'x'; length], false).unwrap();
            files.push((place, file));
        }
        let own = own.finish().unwrap();
        let text = archive(&path("base"), &files, "out").join(" && ");
        let mut shell = std::process::Command::new("sh");
        let status = shell.args(["-c", &text]).current_dir(dir.path()).status();
        assert!(status.unwrap().success(), "{text}");
        let mut found = entries(&std::fs::read(path("out")).unwrap());
        let mut expected = entries(&own);
        assert_eq!(found.len(), 2 + 7 + 6 + 1);
        // Directories come before what is in them, here all of them first.
        found.sort();
        expected.sort();
        for entry in expected.iter().filter(|(name, ..)| name != "TRAILER!!!") {
            assert!(found.contains(entry), "{entry:?} is not in {found:?}");
        }
    }
}
