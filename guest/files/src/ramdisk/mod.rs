//! The root that a boot loader hands over: cpio archives one after another, each packed by gzip or
//! not, as Linux takes them.
//!
//! An archive is refused, by the name and the place of what is wrong, rather than taken in part
//! without a word: fields that are no numbers, sizes that do not fit, names that lead out of the
//! root, data that ends too early.

mod input;
mod newc;
mod place;

use alloc::vec::Vec;
use core::fmt;

use crate::errno::Errno;
use crate::system::System;
use input::{Bytes, Gzip, Input, Lasting, Lying, Plain};
use newc::Part;
use place::Tree;

/// What is wrong with a ramdisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It ends within a file, a header, or packed data.
    Truncated,
    /// What begins there is no archive; its first bytes.
    Format([u8; 4]),
    /// A header does not begin as one.
    Magic,
    /// A field of a header is not of hexadecimal digits.
    Digits,
    /// A name has no bytes, or more than a path may have.
    NameSize(u32),
    /// A name does not end where its size says.
    NameEnd,
    /// A name leads to nowhere below the root: it is empty, absolute, or has `..` in it.
    NamePath,
    /// A mode is of no kind of file.
    Mode(u32),
    /// Something that has no data has so many bytes.
    Size(u32),
    /// A file's bytes do not add up to the sum beside it.
    Sum,
    /// Packed data has no header of gzip.
    GzipHeader,
    /// Packed data is damaged.
    GzipData,
    /// What was packed is not what came out.
    GzipSum,
    /// There is not even memory to read it.
    Memory,
    /// The file system refuses it.
    Refused(Errno),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("it ends too early"),
            Self::Format(first) => {
                write!(f, "neither a cpio archive (newc) nor gzip begins with ")?;
                match packer(first) {
                    Some(name) => write!(f, "what {name} does"),
                    None => write!(f, "{first:02x?}"),
                }
            }
            Self::Magic => f.write_str("a header does not begin with 070701 or 070702"),
            Self::Digits => f.write_str("a header's field is not eight hexadecimal digits"),
            Self::NameSize(size) => write!(f, "a name of {size} bytes, not 1 to 4096"),
            Self::NameEnd => f.write_str("a name does not end where its size says"),
            Self::NamePath => f.write_str("the name is empty, absolute or leads out by .."),
            Self::Mode(mode) => write!(f, "mode {mode:#o} is of no kind of file"),
            Self::Size(size) => write!(f, "{size} bytes are too many for what it is"),
            Self::Sum => f.write_str("its bytes do not add up to its checksum"),
            Self::GzipHeader => f.write_str("gzip's header is damaged"),
            Self::GzipData => f.write_str("gzip's data is damaged"),
            Self::GzipSum => f.write_str("gzip's checksum or size differs from its data's"),
            Self::Memory => f.write_str("memory is too short to unpack it"),
            Self::Refused(errno) => write!(f, "it cannot be made: {errno}"),
        }
    }
}

/// Who packs data that begins so.
fn packer(first: &[u8; 4]) -> Option<&'static str> {
    Some(match first {
        [0xfd, b'7', b'z', b'X'] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        [b'B', b'Z', b'h', _] => "bzip2",
        [0x02, 0x21, 0x4c, 0x18] | [0x04, 0x22, 0x4d, 0x18] => "lz4",
        [0x89, b'L', b'Z', b'O'] => "lzop",
        [0x5d, 0, 0, _] => "lzma",
        _ => return None,
    })
}

/// Why a ramdisk was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub problem: Problem,
    /// The name of the file concerned; empty if it is not known.
    pub name: Vec<u8>,
    /// In which archive, from 1 on.
    pub archive: u32,
    /// Before which byte of it, unpacked.
    pub at: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ramdisk: archive {}, byte {}", self.archive, self.at)?;
        if !self.name.is_empty() {
            write!(f, ", '{}'", self.name.escape_ascii())?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl core::error::Error for Refusal {}

/// What was in a ramdisk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Archives.
    pub archives: u32,
    /// Files, directories and all else that has a name.
    pub names: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// Makes all that is in the archives below the root of `system`.
///
/// # Errors
/// What is wrong, and where. What came before it has been made.
pub fn unpack(system: &System, ramdisk: &[u8]) -> Result<Contents, Refusal> {
    unpack_from::<Plain<'_>>(system, ramdisk)
}

/// As [`unpack`], where archives that are not packed lie for good: files keep their bytes there, as far as
/// nobody changes or maps them.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_lasting(system: &System, ramdisk: &'static [u8]) -> Result<Contents, Refusal> {
    unpack_from::<Lasting>(system, ramdisk)
}

fn unpack_from<'a, P: Lying<'a>>(system: &System, ramdisk: &'a [u8]) -> Result<Contents, Refusal> {
    let mut tree = Tree::new(system);
    let mut rest = ramdisk;
    loop {
        // The padding between archives.
        let zeros = rest.iter().position(|&byte| byte != 0);
        let Some(zeros) = zeros else {
            return Ok(tree.finish());
        };
        rest = &rest[zeros..];
        if rest.starts_with(&Gzip::MAGIC) {
            let mut input = match Gzip::new(rest) {
                Ok(gzip) => Input::new(gzip),
                Err(problem) => return Err(tree.refusal(problem, 0)),
            };
            while let Some(first) = next(&mut tree, &mut input)? {
                if first != b'0' {
                    return Err(tree.refusal(Problem::Magic, input.at));
                }
                archive(&mut tree, &mut input)?;
            }
            rest = input.bytes.rest();
        } else if rest[0] == b'0' {
            let mut input = Input::new(P::new(rest));
            archive(&mut tree, &mut input)?;
            rest = input.bytes.rest();
        } else {
            let mut first = [0; 4];
            let count = rest.len().min(4);
            first[..count].copy_from_slice(&rest[..count]);
            return Err(tree.refusal(Problem::Format(first), 0));
        }
    }
}

/// The first byte of the next archive in packed data.
fn next<B: Bytes>(tree: &mut Tree<'_>, input: &mut Input<B>) -> Result<Option<u8>, Refusal> {
    input
        .skip_zeros()
        .map_err(|problem| tree.refusal(problem, input.at))
}

/// Reads an archive up to its trailer.
fn archive<B: Bytes>(tree: &mut Tree<'_>, input: &mut Input<B>) -> Result<(), Refusal> {
    let start = input.at;
    tree.begin();
    loop {
        let done = newc::read(input, start).and_then(|part| match part {
            Part::End => Ok(false),
            Part::File(header) => {
                tree.add(&header, input)?;
                newc::pad(input, start)?;
                Ok(true)
            }
        });
        match done {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(problem) => return Err(tree.refusal(problem, input.at - start)),
        }
    }
}
