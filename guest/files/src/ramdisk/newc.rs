//! The headers of a cpio archive in the format `newc`, as Linux'
//! `Documentation/driver-api/early-userspace/buffer-format.rst` has it.

use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use super::Problem;
use super::input::{Bytes, Input};
use crate::inode::{DeviceNumber, Kind};

/// Bytes of a header: a magic number of 6 and 13 fields of 8.
const HEADER: usize = 6 + 13 * 8;

/// The name that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";

/// What an archive says of a file.
pub(super) struct Header {
    /// The inode, by which links of one file are known.
    pub(super) inode: (u32, u32, u32),
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) links: u32,
    pub(super) modified: u32,
    pub(super) size: u32,
    pub(super) device: DeviceNumber,
    /// The sum of the bytes, where the archive has it.
    pub(super) sum: Option<u32>,
    pub(super) name: Vec<u8>,
}

/// A part of an archive.
pub(super) enum Part {
    File(Header),
    End,
}

/// Reads a header and the name behind it. Archives are padded to 4 bytes from `start` on.
pub(super) fn read<B: Bytes>(input: &mut Input<B>, start: u64) -> Result<Part, Problem> {
    let mut header = [0; HEADER];
    input.fill(&mut header)?;
    let (magic, fields) = header.split_at(6);
    let has_sum = match magic {
        b"070701" => false,
        b"070702" => true,
        _ => return Err(Problem::Magic),
    };
    let mut numbers = [0; 13];
    for (number, digits) in numbers.iter_mut().zip(fields.chunks_exact(8)) {
        *number = hexadecimal(digits).ok_or(Problem::Digits)?;
    }
    let [
        inode,
        mode,
        user,
        group,
        links,
        modified,
        size,
        major,
        minor,
        device_major,
        device_minor,
        name_size,
        sum,
    ] = numbers;
    if name_size == 0 || name_size > linux::PATH_MAX {
        return Err(Problem::NameSize(name_size));
    }
    let mut name = Vec::new();
    let size_of_name = name_size as usize;
    name.try_reserve_exact(size_of_name)
        .map_err(|_| Problem::Memory)?;
    name.resize(size_of_name, 0);
    input.fill(&mut name)?;
    if name.pop() != Some(0) || name.contains(&0) {
        return Err(Problem::NameEnd);
    }
    pad(input, start)?;
    if name == TRAILER {
        return Ok(Part::End);
    }
    let kind = Kind::of_mode(mode).ok_or(Problem::Mode(mode))?;
    Ok(Part::File(Header {
        inode: (major, minor, inode),
        kind,
        mode: mode & 0o7777,
        user,
        group,
        links,
        modified,
        size,
        device: DeviceNumber::new(device_major, device_minor),
        sum: has_sum.then_some(sum),
        name,
    }))
}

/// Skips to the next multiple of 4 from `start` on. At the very end of the bytes nothing need
/// follow.
pub(super) fn pad<B: Bytes>(input: &mut Input<B>, start: u64) -> Result<(), Problem> {
    let odd = (start.wrapping_sub(input.at)) % 4;
    match input.each(odd, &mut |_| Ok(())) {
        Err(Problem::Truncated) => Ok(()),
        done => done,
    }
}

/// Eight digits, and nothing else.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let (mut number, mut wrong) = (0, 0);
    for &digit in digits {
        let value = DIGITS[usize::from(digit)];
        number = number << 4 | u32::from(value);
        wrong |= value;
    }
    (wrong < 16).then_some(number)
}

/// What each byte stands for as a digit; 16 if it is none. An archive has as many digits as other bytes.
const DIGITS: [u8; 256] = {
    let mut digits = [16; 256];
    let mut value = 0;
    while value < 16 {
        let digit = b"0123456789abcdef"[value];
        digits[digit as usize] = value as u8;
        digits[digit.to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    digits
};
