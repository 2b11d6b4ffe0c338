//! The bytes of a ramdisk, packed by gzip or not, piece by piece.

use alloc::boxed::Box;
use alloc::vec::Vec;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::Problem;

/// Where the bytes of archives come from.
pub(super) trait Bytes {
    /// The next bytes, at least one and at most `most`; none at the end.
    fn next(&mut self, most: usize) -> Result<&[u8], Problem>;

    /// The next `count` bytes, where they lie for good; none if they do not, or there are not so many.
    fn lasting(&mut self, _count: usize) -> Option<&'static [u8]> {
        None
    }
}

/// Bytes as they lie in memory, and what is left of them.
pub(super) trait Lying<'a>: Bytes {
    fn new(bytes: &'a [u8]) -> Self;
    fn rest(&self) -> &'a [u8];
}

/// For as long as they are read.
pub(super) struct Plain<'a>(&'a [u8]);

impl<'a> Lying<'a> for Plain<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// For good.
pub(super) struct Lasting(&'static [u8]);

impl Lying<'static> for Lasting {
    fn new(bytes: &'static [u8]) -> Self {
        Self(bytes)
    }

    fn rest(&self) -> &'static [u8] {
        self.0
    }
}

impl Bytes for Lasting {
    fn next(&mut self, most: usize) -> Result<&[u8], Problem> {
        let (next, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        Ok(next)
    }

    fn lasting(&mut self, count: usize) -> Option<&'static [u8]> {
        let (next, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(next)
    }
}

impl Bytes for Plain<'_> {
    fn next(&mut self, most: usize) -> Result<&[u8], Problem> {
        let (next, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        Ok(next)
    }
}

/// How far back packed data refers, and so what must be kept of it.
const WINDOW: usize = 32 * 1024;

/// Bytes packed by gzip (RFC 1952).
pub(super) struct Gzip<'a> {
    /// What is not unpacked yet.
    packed: &'a [u8],
    state: Box<DecompressorOxide>,
    window: Vec<u8>,
    /// What of the window was not given out yet.
    from: usize,
    to: usize,
    sum: crc32fast::Hasher,
    count: u32,
    is_done: bool,
}

impl<'a> Gzip<'a> {
    /// How gzip's data begins.
    pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

    /// Reads the header.
    pub(super) fn new(packed: &'a [u8]) -> Result<Self, Problem> {
        let mut window = Vec::new();
        window
            .try_reserve_exact(WINDOW)
            .map_err(|_| Problem::Memory)?;
        window.resize(WINDOW, 0);
        Ok(Self {
            packed: Self::skip_header(packed).ok_or(Problem::GzipHeader)?,
            state: Box::default(),
            window,
            from: 0,
            to: 0,
            sum: crc32fast::Hasher::new(),
            count: 0,
            is_done: false,
        })
    }

    fn skip_header(packed: &[u8]) -> Option<&[u8]> {
        const DEFLATE: u8 = 8;
        const HAS_SUM: u8 = 1 << 1;
        const HAS_EXTRA: u8 = 1 << 2;
        const HAS_NAME: u8 = 1 << 3;
        const HAS_COMMENT: u8 = 1 << 4;
        const KNOWN: u8 = 0x1f;
        let (header, mut rest) = packed.split_at_checked(10)?;
        let flags = header[3];
        if header[..2] != Self::MAGIC || header[2] != DEFLATE || flags & !KNOWN != 0 {
            return None;
        }
        if flags & HAS_EXTRA != 0 {
            let (length, extra) = rest.split_first_chunk()?;
            rest = extra.get(usize::from(u16::from_le_bytes(*length))..)?;
        }
        for text in [HAS_NAME, HAS_COMMENT] {
            if flags & text != 0 {
                let end = rest.iter().position(|&byte| byte == 0)?;
                rest = &rest[end + 1..];
            }
        }
        if flags & HAS_SUM != 0 {
            rest = rest.get(2..)?;
        }
        Some(rest)
    }

    /// What comes behind the packed data, once all of that was given out.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.packed
    }

    /// Unpacks more, as far as the window goes.
    fn unpack(&mut self) -> Result<(), Problem> {
        let at = self.to % WINDOW;
        let (status, used, made) =
            decompress(&mut self.state, self.packed, &mut self.window, at, 0);
        self.packed = self.packed.get(used..).unwrap_or_default();
        self.from = at;
        self.to = at + made;
        self.sum.update(&self.window[self.from..self.to]);
        self.count = self.count.wrapping_add(made as u32);
        match status {
            TINFLStatus::Done => self.finish(),
            TINFLStatus::HasMoreOutput if made > 0 => Ok(()),
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                Err(Problem::Truncated)
            }
            _ => Err(Problem::GzipData),
        }
    }

    /// Compares what was unpacked with what the trailer says.
    fn finish(&mut self) -> Result<(), Problem> {
        let (trailer, rest) = self
            .packed
            .split_first_chunk::<8>()
            .ok_or(Problem::Truncated)?;
        self.packed = rest;
        self.is_done = true;
        let sum = self.sum.clone().finalize().to_le_bytes();
        match trailer[..4] == sum && trailer[4..] == self.count.to_le_bytes() {
            true => Ok(()),
            false => Err(Problem::GzipSum),
        }
    }
}

impl Bytes for Gzip<'_> {
    fn next(&mut self, most: usize) -> Result<&[u8], Problem> {
        while self.from == self.to && !self.is_done {
            self.unpack()?;
        }
        let from = self.from;
        let to = self.to.min(from + most);
        self.from = to;
        Ok(&self.window[from..to])
    }
}

/// Bytes with a place, from which one can be looked at ahead.
pub(super) struct Input<B> {
    pub(super) bytes: B,
    ahead: Option<u8>,
    /// Bytes that were taken.
    pub(super) at: u64,
}

impl<B: Bytes> Input<B> {
    pub(super) fn new(bytes: B) -> Self {
        Self {
            bytes,
            ahead: None,
            at: 0,
        }
    }

    /// Skips zeros, and returns whether anything comes behind them; at most `most` of them.
    pub(super) fn skip_zeros(&mut self) -> Result<Option<u8>, Problem> {
        loop {
            let Some(byte) = self.peek()? else {
                return Ok(None);
            };
            if byte != 0 {
                return Ok(Some(byte));
            }
            self.ahead = None;
            self.at += 1;
        }
    }

    /// The next byte, which stays.
    fn peek(&mut self) -> Result<Option<u8>, Problem> {
        if self.ahead.is_none() {
            self.ahead = self.bytes.next(1)?.first().copied();
        }
        Ok(self.ahead)
    }

    /// The next `count` bytes, where they lie for good; none if they do not, or there are not so many.
    pub(super) fn lasting(&mut self, count: usize) -> Option<&'static [u8]> {
        if self.ahead.is_some() {
            return None;
        }
        let bytes = self.bytes.lasting(count)?;
        self.at += count as u64;
        Some(bytes)
    }

    /// Fills all of `into`.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<(), Problem> {
        let mut done = 0;
        let wanted = into.len() as u64;
        self.each(wanted, &mut |piece| {
            into[done..][..piece.len()].copy_from_slice(piece);
            done += piece.len();
            Ok(())
        })
    }

    /// Gives the next `count` bytes to `each`, piece by piece.
    pub(super) fn each(
        &mut self,
        count: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut left = count;
        if left > 0
            && let Some(byte) = self.ahead.take()
        {
            each(&[byte])?;
            left -= 1;
            self.at += 1;
        }
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let piece = self.bytes.next(most)?;
            if piece.is_empty() {
                return Err(Problem::Truncated);
            }
            left -= piece.len() as u64;
            self.at += piece.len() as u64;
            each(piece)?;
        }
        Ok(())
    }
}
