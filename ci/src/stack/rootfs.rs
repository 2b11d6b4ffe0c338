//! The file system of the Linux dom0, packed from unpacked Debian packages: a static busybox, xl
//! and Xen's daemons with just the libraries they load, the shim, five kernel modules and `init.sh`.
//!
//! It depends on the packages alone, so it is kept in the cache; what a run adds (the kernel under
//! test, configuration files) is a second archive behind it in the same file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf;
use object::read::elf::{Dyn, FileHeader};

use super::archive::Archive;
use super::bzimage;
use crate::exit::{Failure, Result};
use crate::provision::cache::Cache;
use crate::provision::zstandard;
use crate::ui;

/// The first program.
pub(super) const INIT: &str = include_str!("init.sh");

/// Modules in the order of loading.
const MODULES: &[&str] = &[
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xenfs",
];

/// Programs from Xen's own directory.
const XEN_PROGRAMS: &[&str] = &[
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "xenctx",
];

/// The programs of `xenstore-utils`.
const XENSTORE_PROGRAMS: &[&str] = &[
    "xenstore-read",
    "xenstore-write",
    "xenstore-ls",
    "xenstore-list",
    "xenstore-watch",
];

/// Opened by name at run time, so no program lists it.
const UNLISTED_LIBRARY: &str = "libgcc_s.so.1";

/// Where Debian has libraries.
const LIBRARY_DIRS: &[&str] = &[
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
];

/// What a Linux dom0 boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rootfs {
    /// Linux.
    pub(crate) kernel: PathBuf,
    /// The archive.
    pub(crate) initramfs: PathBuf,
}

/// Packs `tree`, or takes what was packed from it before.
pub(crate) fn pack(tree: &Path, cache: &Cache) -> Result<Rootfs> {
    if let Some(tree) = cache.expected(tree) {
        return Ok(Rootfs {
            kernel: tree.join("boot/vmlinuz"),
            initramfs: tree.join("initramfs"),
        });
    }
    let tree = &Tree(tree);
    let kernel = kernel(tree.0, cache)?;
    let mut sum = flate2::Crc::new();
    for text in [
        &tree.0.display().to_string(),
        INIT,
        &XEN_PROGRAMS.join(" "),
        &MODULES.join(" "),
    ] {
        sum.update(text.as_bytes());
    }
    let initramfs = cache.derived(&format!("dom0_{:08x}.cpio", sum.sum()), |draft| {
        let step = ui::spinner("pack the dom0 file system");
        let file = File::create(draft).map_err(Failure::file("create", draft))?;
        let mut archive = Archive::new(BufWriter::new(file));
        fill(tree, &mut archive)?;
        let output = archive.finish().and_then(|mut output| output.flush());
        output.map_err(Failure::file("write", draft))?;
        step.done();
        Ok(())
    })?;
    Ok(Rootfs { kernel, initramfs })
}

/// The kernel in `tree`.
pub(crate) fn kernel(tree: &Path, cache: &Cache) -> Result<PathBuf> {
    bzimage::unpack(&Tree(tree).newest("boot", "vmlinuz-")?, cache)
}

/// An archive whose only file is the first program.
pub(crate) fn with_init(program: &Path, to: &Path) -> Result<()> {
    let written = || Failure::file("write", to);
    let mut archive = Archive::new(File::create(to).map_err(written())?);
    archive
        .file("init", &read(program)?, true)
        .map_err(written())?;
    archive.finish().map(drop).map_err(written())
}

/// The static busybox in `tree`.
pub(crate) fn busybox(tree: &Path) -> Result<PathBuf> {
    Tree(tree).any(&["bin/busybox", "usr/bin/busybox"])
}

/// The shim's image in `tree`.
pub(crate) fn shim(tree: &Path) -> Result<PathBuf> {
    let tree = Tree(tree);
    tree.any(&[&format!("{}/boot/xen-shim", tree.xen()?)])
}

fn fill<W: Write>(tree: &Tree, archive: &mut Archive<W>) -> Result<()> {
    let written = |error| Failure::file("write", "the dom0 file system")(error);
    let xen = tree.xen()?;
    let xen_bin = format!("{xen}/bin");

    let mut programs = vec![(busybox(tree.0)?, "bin/busybox".to_owned())];
    for name in XEN_PROGRAMS {
        programs.push((
            tree.any(&[&format!("{xen_bin}/{name}")])?,
            format!("{xen_bin}/{name}"),
        ));
    }
    for name in XENSTORE_PROGRAMS {
        programs.push((
            tree.any(&[&format!("usr/bin/{name}")])?,
            format!("usr/bin/{name}"),
        ));
    }
    let mut libraries = BTreeMap::new();
    tree.library(UNLISTED_LIBRARY, &mut libraries)?;
    for (source, place) in &programs {
        let bytes = read(source)?;
        for library in needed(&bytes).unwrap_or_default() {
            tree.library(&library, &mut libraries)?;
        }
        archive.file(place, &bytes, true).map_err(written)?;
    }
    for (name, source) in &libraries {
        archive
            .file(
                &format!("usr/lib/x86_64-linux-gnu/{name}"),
                &read(source)?,
                true,
            )
            .map_err(written)?;
    }
    let loader = "ld-linux-x86-64.so.2";
    archive
        .link(
            &format!("lib64/{loader}"),
            &format!("/usr/lib/x86_64-linux-gnu/{loader}"),
        )
        .map_err(written)?;
    archive
        .link("lib/x86_64-linux-gnu", "../usr/lib/x86_64-linux-gnu")
        .map_err(written)?;
    archive
        .link("usr/lib/xen", &format!("/{xen}"))
        .map_err(written)?;

    let shim = format!("{xen}/boot/xen-shim");
    archive
        .file(&shim, &read(&tree.any(&[&shim])?)?, false)
        .map_err(written)?;

    let mut order = String::new();
    for name in MODULES {
        let source = tree.module(name)?;
        let (file, bytes) = loadable(&source)?;
        archive
            .file(&format!("modules/{file}"), &bytes, false)
            .map_err(written)?;
        order.push_str(&file);
        order.push('\n');
    }
    archive
        .file("modules/order", order.as_bytes(), false)
        .map_err(written)?;
    // Without the file xl warns at every call; all of it is optional.
    archive
        .file("etc/xen/xl.conf", b"", false)
        .map_err(written)?;
    archive
        .file("init", INIT.as_bytes(), true)
        .map_err(written)?;
    for dir in [
        "proc",
        "sys",
        "dev",
        "tmp",
        "root",
        "etc/xen",
        "var/run/xen",
        "var/lock",
        "run",
        "var/log/xen/console",
        "var/lib/xen/dump",
        "var/lib/xenstored",
    ] {
        archive.dir(dir).map_err(written)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Failure::file("read", path))
}

/// A module by a name and in a form that the dom0's shell can load: it unpacks xz, not Zstandard.
fn loadable(source: &Path) -> Result<(String, Vec<u8>)> {
    let name = source.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let bytes = read(source)?;
    let Some(plain) = name.strip_suffix(".zst") else {
        return Ok((name, bytes));
    };
    let mut unpacked = Vec::new();
    zstandard(&bytes)
        .and_then(|mut all| all.read_to_end(&mut unpacked))
        .map_err(Failure::file("unpack", source))?;
    Ok((plain.to_owned(), unpacked))
}

/// Unpacked packages.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    /// Xen's private directory, relative: it carries the version.
    fn xen(&self) -> Result<String> {
        std::fs::read_dir(self.0.join("usr/lib"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join("bin/xl").is_file())
            .map(|entry| format!("usr/lib/{}", entry.file_name().to_string_lossy()))
            .max()
            .ok_or_else(|| self.lacks("usr/lib/xen-*/bin/xl"))
    }

    fn lacks(&self, what: &str) -> Failure {
        Failure::host(
            format!("{} has no {what}", self.0.display()),
            "run `cargo xtask setup --update --via xl`; a tree of your own given by --dom0-root \
             needs it too",
        )
    }

    /// The first of several paths that is a file.
    fn any(&self, paths: &[&str]) -> Result<PathBuf> {
        paths
            .iter()
            .map(|path| self.0.join(path))
            .find(|path| path.is_file())
            .ok_or_else(|| self.lacks(paths[0]))
    }

    /// The entry of `dir` with this prefix that sorts last.
    fn newest(&self, dir: &str, prefix: &str) -> Result<PathBuf> {
        std::fs::read_dir(self.0.join(dir))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .max()
            .ok_or_else(|| self.lacks(&format!("{dir}/{prefix}*")))
    }

    /// Adds a library and all it needs to `found`.
    fn library(&self, name: &str, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
        if found.contains_key(name) {
            return Ok(());
        }
        let paths: Vec<_> = LIBRARY_DIRS
            .iter()
            .map(|dir| format!("{dir}/{name}"))
            .collect();
        let path = self.any(&paths.iter().map(String::as_str).collect::<Vec<_>>())?;
        let bytes = read(&path)?;
        found.insert(name.to_owned(), path);
        for next in needed(&bytes).unwrap_or_default() {
            self.library(&next, found)?;
        }
        Ok(())
    }

    /// A kernel module, compressed or not.
    fn module(&self, name: &str) -> Result<PathBuf> {
        let modules = ["lib/modules", "usr/lib/modules"].map(|dir| self.0.join(dir));
        let root = modules.iter().find(|dir| dir.is_dir());
        let mut pending: Vec<_> = root.into_iter().cloned().collect();
        while let Some(dir) = pending.pop() {
            for path in std::fs::read_dir(&dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
            {
                if path.is_dir() {
                    pending.push(path);
                } else if path
                    .file_name()
                    .and_then(|file| file.to_str())
                    .and_then(|file| file.strip_prefix(name))
                    .is_some_and(|rest| rest.starts_with(".ko"))
                {
                    return Ok(path);
                }
            }
        }
        Err(self.lacks(&format!("lib/modules/*/{name}.ko")))
    }
}

/// The libraries an ELF file asks for; none if it is static.
fn needed(bytes: &[u8]) -> object::Result<Vec<String>> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((entries, strings)) = sections.dynamic(endian, bytes)? else {
        return Ok(vec![]);
    };
    let strings = sections.strings(endian, bytes, strings)?;
    entries
        .iter()
        .filter(|entry| entry.tag(endian) == elf::DT_NEEDED)
        .map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_lists_its_libraries() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(needed(&own).unwrap().iter().any(|name| name == "libc.so.6"));
        assert!(needed(b"no ELF").is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = Tree(dir.path())
            .newest("boot", "vmlinuz-")
            .unwrap_err()
            .to_string();
        assert!(message.contains("no boot/vmlinuz-*"), "{message}");
    }

    #[test]
    fn a_module_is_stored_as_it_can_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let packed = ruzstd::encoding::compress_to_vec(b"module".as_slice(), level);
        for (name, bytes, stored, content) in [
            ("a.ko.zst", packed.as_slice(), "a.ko", b"module".as_slice()),
            ("b.ko.xz", b"packed", "b.ko.xz", b"packed"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(loadable(&path).unwrap(), (stored.into(), content.to_vec()));
        }
    }

    #[test]
    fn modules_are_found_by_exact_name() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("lib/modules/6.1/kernel/xen");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("xenfs-more.ko"), "").unwrap();
        std::fs::write(place.join("xenfs.ko.xz"), "").unwrap();
        assert_eq!(
            Tree(dir.path()).module("xenfs").unwrap(),
            place.join("xenfs.ko.xz")
        );
    }
}
