//! A look at many frames: whether each may be mapped writable.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::Pfn;

use super::{CHUNK, Frames};
use crate::record::Record;

/// The records of a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Near<'a> {
    chunk: u64,
    records: &'a [AtomicU64; CHUNK as usize],
}

impl Near<'_> {
    /// As [`Frames::may_be_writable`]; unknown if a frame's record is not among these.
    #[inline(always)]
    pub(crate) fn may_be_writable(self, pfn: Pfn) -> Option<bool> {
        let (chunk, index) = (pfn.as_u64() / CHUNK, pfn.as_u64() % CHUNK);
        let record = || self.records[index as usize].load(Ordering::Relaxed);
        (chunk == self.chunk).then(|| may_be_writable(Record::from_bits(record())))
    }
}

impl Frames {
    /// The records beside a frame's, if it has one.
    pub(crate) fn near(&self, pfn: Pfn) -> Option<Near<'_>> {
        let chunk = pfn.as_u64() / CHUNK;
        let records = self.directory.records(chunk)?;
        Some(Near { chunk, records })
    }

    /// Whether a frame has a record that says that it may be mapped writable.
    #[inline(always)]
    pub(crate) fn looks_writable(&self, pfn: Pfn) -> bool {
        self.load(pfn).is_ok_and(may_be_writable)
    }
}

/// Whether a frame may be mapped writable: most are in use and nothing else.
#[inline(always)]
fn may_be_writable(record: Record) -> bool {
    record.is_owned() || record.may_be_writable()
}
