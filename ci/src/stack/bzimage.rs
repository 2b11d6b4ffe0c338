//! Linux as an ELF file. Debian packs its kernel with xz, others with Zstandard, which Xen would unpack
//! in emulation, slowly, at every boot; here it is unpacked once.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::exit::{Failure, Result};
use crate::provision::cache::Cache;
use crate::provision::zstandard;

/// Offsets in the setup header, from Linux' Documentation/arch/x86/boot.rst.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// How a stream of xz starts, and one of Zstandard.
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTANDARD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The unpacked kernel of `packed`, or `packed` itself if it is of another kind: Xen knows more.
pub(crate) fn unpack(packed: &Path, cache: &Cache) -> Result<PathBuf> {
    let bytes = std::fs::read(packed).map_err(Failure::file("read", packed))?;
    let known = |payload: &&[u8]| payload.starts_with(XZ) || payload.starts_with(ZSTANDARD);
    let Some(payload) = payload(&bytes).filter(known) else {
        return Ok(packed.to_path_buf());
    };
    let mut sum = flate2::Crc::new();
    sum.update(&bytes);
    cache.derived(
        &format!("vmlinux_{:08x}_{}", sum.sum(), sum.amount()),
        |draft| {
            let mut kernel = Vec::new();
            let read = match payload.starts_with(XZ) {
                true => lzma_rust2::XzReader::new(payload, false).read_to_end(&mut kernel),
                false => zstandard(payload).and_then(|mut all| all.read_to_end(&mut kernel)),
            };
            read.map_err(Failure::file("unpack", packed))?;
            std::fs::write(draft, kernel).map_err(Failure::file("write", draft))
        },
    )
}

/// The compressed kernel inside a bzImage.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| -> Option<usize> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    // Zero stands for four.
    let sectors = match bytes[SETUP_SECTORS] {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * 512 + word(PAYLOAD_OFFSET)?;
    // The last word is the unpacked size, added by the kernel's build.
    bytes.get(start..start + word(PAYLOAD_LENGTH)?.checked_sub(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 0x1000];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET] = 0x10;
        image[PAYLOAD_LENGTH] = 12;
        image[0x410..0x418].copy_from_slice(b"\xfd7zXZ\0ab");
        assert_eq!(payload(&image), Some(b"\xfd7zXZ\0ab".as_slice()));
        image[MAGIC] = 0;
        assert_eq!(payload(&image), None);
    }

    #[test]
    fn a_kernel_that_is_packed_with_zstandard_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let payload = ruzstd::encoding::compress_to_vec(b"\x7fELF kernel".as_slice(), level);
        let mut image = vec![0; 0x400];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        let length = payload.len() as u32 + 4;
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(payload);
        image.extend([0; 4]);
        let file = dir.path().join("vmlinuz");
        std::fs::write(&file, image).unwrap();
        let unpacked = unpack(&file, &cache).unwrap();
        assert_eq!(std::fs::read(unpacked).unwrap(), b"\x7fELF kernel");
    }

    #[test]
    fn lies_in_the_header_are_not_followed() {
        let mut image = vec![0xff; 0x300];
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"short"), None);
    }

    #[test]
    fn anything_else_is_left_to_xen() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        let file = dir.path().join("vmlinuz");
        std::fs::write(&file, "plain").unwrap();
        assert_eq!(unpack(&file, &cache).unwrap(), file);
    }
}
