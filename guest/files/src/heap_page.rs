//! Pages on the heap: for tests, and for a kernel that maps no file.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::host::{PAGE, Page};
use crate::lock::Mutex;
use crate::transfer::{Sink, Source};

/// A page of memory on the heap.
pub struct HeapPage(Mutex<Vec<u8>>);

impl HeapPage {
    /// A page of zeros; `None` if memory is short.
    pub fn zeroed() -> Option<Arc<dyn Page>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(PAGE).ok()?;
        bytes.resize(PAGE, 0);
        Some(Arc::new(Self(Mutex::new(bytes))))
    }
}

impl Page for HeapPage {
    fn read(&self, at: usize, count: usize, sink: &mut dyn Sink) -> usize {
        sink.put(&self.0.lock()[at..at + count])
    }

    fn write(&self, at: usize, count: usize, source: &mut dyn Source) -> usize {
        source.take(&mut self.0.lock()[at..at + count])
    }

    fn clear(&self, at: usize, count: usize) {
        self.0.lock()[at..at + count].fill(0);
    }

    fn id(&self) -> u64 {
        0
    }
}
