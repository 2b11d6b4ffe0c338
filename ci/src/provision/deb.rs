//! A Debian package unpacked in Rust, for hosts without dpkg: an `ar` archive whose member
//! `data.tar.*` has the files (deb(5)).

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use object::read::archive::ArchiveFile;
use thiserror::Error;

/// Why a package cannot be unpacked.
#[derive(Debug, Error)]
pub(super) enum DebError {
    /// It is no `ar` archive, or ends in the middle.
    #[error("no package, or a truncated one: {0}")]
    NoArchive(object::Error),
    /// It has no files.
    #[error("it has no member data.tar")]
    NoData,
    /// Nothing here unpacks what the files are packed with.
    #[error("its files are packed in an unknown way: {0}")]
    Compression(String),
    /// What is inside ends early, or is not what it should be.
    #[error("its files cannot be unpacked: {0}")]
    Unreadable(std::io::Error),
    /// A file would come to lie outside of the directory.
    #[error("{0} leads out of the directory that it is unpacked into")]
    Escapes(PathBuf),
}

/// Unpacks the files of a package into a directory.
pub(super) fn unpack(package: &[u8], tree: &Path) -> Result<(), DebError> {
    let archive = ArchiveFile::parse(package).map_err(DebError::NoArchive)?;
    for member in archive.members() {
        let member = member.map_err(DebError::NoArchive)?;
        let name = String::from_utf8_lossy(member.name()).into_owned();
        if let Some(kind) = name.strip_prefix("data.tar") {
            let data = member.data(package).map_err(DebError::NoArchive)?;
            return files(unpacker(kind, data)?, tree);
        }
    }
    Err(DebError::NoData)
}

fn unpacker<'a>(kind: &str, data: &'a [u8]) -> Result<Box<dyn Read + 'a>, DebError> {
    Ok(match kind {
        "" => Box::new(data),
        ".gz" => Box::new(flate2::read::MultiGzDecoder::new(data)),
        ".xz" => Box::new(lzma_rust2::XzReader::new(data, true)),
        ".zst" => Box::new(zstandard(data).map_err(DebError::Unreadable)?),
        other => return Err(DebError::Compression(other.to_owned())),
    })
}

/// Unpacks what is packed with Zstandard.
pub(crate) fn zstandard(data: &[u8]) -> std::io::Result<impl Read + '_> {
    ruzstd::decoding::StreamingDecoder::new(data).map_err(std::io::Error::other)
}

fn files(data: impl Read, tree: &Path) -> Result<(), DebError> {
    let tree = tree.canonicalize().map_err(DebError::Unreadable)?;
    let mut archive = tar::Archive::new(data);
    for entry in archive.entries().map_err(DebError::Unreadable)? {
        let mut entry = entry.map_err(DebError::Unreadable)?;
        let path = entry.path().map_err(DebError::Unreadable)?.into_owned();
        stays_in(&tree, &path)?;
        if entry.header().entry_type().is_hard_link() {
            let target = entry.link_name().map_err(DebError::Unreadable)?;
            stays_in(&tree, &target.unwrap_or_default())?;
        }
        entry.unpack_in(&tree).map_err(DebError::Unreadable)?;
    }
    Ok(())
}

/// Refuses a path that leads out of the tree, by itself or by a link that was unpacked before.
fn stays_in(tree: &Path, path: &Path) -> Result<(), DebError> {
    let escapes = || DebError::Escapes(path.to_owned());
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !path.components().all(inside) {
        return Err(escapes());
    }
    let place = tree.join(path);
    let parents = place
        .ancestors()
        .skip(1)
        .take_while(|parent| parent.starts_with(tree));
    let mut parents = parents.filter(|parent| parent.symlink_metadata().is_ok());
    let Some(parent) = parents.next() else {
        return Ok(());
    };
    match parent.canonicalize() {
        Ok(real) if real.starts_with(tree) => Ok(()),
        _ => Err(escapes()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// What a package of a test has.
    pub(in super::super) enum Item<'a> {
        File(&'a str, &'a str),
        Link(&'a str, &'a str),
        Hard(&'a str, &'a str),
    }

    /// A tar archive with these, whatever their paths are.
    fn tar(items: &[Item<'_>]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for item in items {
            let mut header = tar::Header::new_gnu();
            let (path, kind, target, content) = match item {
                Item::File(path, content) => (path, tar::EntryType::Regular, "", *content),
                Item::Link(path, target) => (path, tar::EntryType::Symlink, *target, ""),
                Item::Hard(path, target) => (path, tar::EntryType::Link, *target, ""),
            };
            // The library refuses to write what a package must not have.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = b"!<arch>\n".to_vec();
        for (name, data) in members {
            let size = data.len();
            writeln!(
                file,
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`",
                0, 0, 0, 100_644
            )
            .unwrap();
            file.extend(*data);
            file.resize(file.len().next_multiple_of(2), b'\n');
        }
        file
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    }

    /// A package with these.
    pub(in super::super) fn deb(items: &[Item<'_>]) -> Vec<u8> {
        let data = gzip(&tar(items));
        ar(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", b"x"),
            ("data.tar.gz", &data),
        ])
    }

    #[test]
    fn every_way_of_packing_is_unpacked() {
        let tar = tar(&[
            Item::File("./usr/bin/x", "hello"),
            Item::Link("./usr/y", "bin/x"),
        ]);
        let mut xz =
            lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
        xz.write_all(&tar).unwrap();
        let xz = xz.finish().unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zst = ruzstd::encoding::compress_to_vec(tar.as_slice(), level);
        for (name, data) in [
            ("data.tar", tar.clone()),
            ("data.tar.gz/", gzip(&tar)),
            ("data.tar.xz", xz),
            ("data.tar.zst", zst),
        ] {
            let dir = tempfile::tempdir().unwrap();
            unpack(
                &ar(&[("debian-binary", b"2.0\n"), (name, &data)]),
                dir.path(),
            )
            .unwrap();
            assert_eq!(
                std::fs::read_to_string(dir.path().join("usr/y")).unwrap(),
                "hello",
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_package_is_refused_by_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let why = |bytes: &[u8]| unpack(bytes, dir.path()).unwrap_err();
        let good = deb(&[Item::File("./a", "hello")]);
        assert!(matches!(why(b"text"), DebError::NoArchive(_)));
        assert!(matches!(
            why(&good[..good.len() - 30]),
            DebError::NoArchive(_)
        ));
        assert!(matches!(
            why(&ar(&[("debian-binary", b"2.0\n")])),
            DebError::NoData
        ));
        let lzma = ar(&[("data.tar.lzma", b"x")]);
        assert_eq!(
            why(&lzma).to_string(),
            "its files are packed in an unknown way: .lzma"
        );
        let packed = gzip(&tar(&[Item::File("./a", "hello")]));
        let half = ar(&[("data.tar.gz", &packed[..packed.len() / 2])]);
        assert!(
            matches!(why(&half), DebError::Unreadable(_)),
            "{:?}",
            why(&half)
        );
    }

    #[test]
    fn nothing_comes_to_lie_outside() {
        let outside = tempfile::tempdir().unwrap();
        let away = outside.path().display().to_string();
        for items in [
            &[Item::File("../escaped", "x")][..],
            &[Item::File("./a/../../escaped", "x")],
            &[Item::File("/escaped", "x")],
            &[Item::Link("./way", &away), Item::File("./way/escaped", "x")],
            &[Item::Link("./way", ".."), Item::File("./way/escaped", "x")],
            &[Item::Link("./way", &away), Item::Hard("./b", "way/secret")],
            &[Item::Hard("./b", "../secret")],
            &[
                Item::Link("./way", "/nonexistent"),
                Item::File("./way/escaped", "x"),
            ],
        ] {
            let dir = tempfile::tempdir_in(outside.path()).unwrap();
            let tree = dir.path().join("tree");
            std::fs::create_dir(&tree).unwrap();
            let error = unpack(&deb(items), &tree).unwrap_err();
            assert!(matches!(error, DebError::Escapes(_)), "{error}");
            assert!(!dir.path().join("escaped").exists());
            assert!(!outside.path().join("escaped").exists());
        }
        // A link to a place is no file at it, and one inside may be gone through.
        let dir = tempfile::tempdir().unwrap();
        let items = [
            Item::File("./usr/lib/a", "x"),
            Item::Link("./lib", "usr/lib"),
            Item::File("./lib/b", "y"),
            Item::Link("./etc", "/etc"),
        ];
        unpack(&deb(&items), dir.path()).unwrap();
        assert!(dir.path().join("usr/lib/b").is_file());
    }
}
