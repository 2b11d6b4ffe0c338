//! Machine memory: page-aligned host memory, and what Xen knows about each frame of it
//! (`struct page_info` in `asm/mm.h`).
//!
//! Invariant: the contents of a frame are reached through raw pointers only, never through a
//! reference, because the guest reads and writes the same memory.

use std::{
    alloc::{Layout as HostLayout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Index, IndexMut},
    ptr::NonNull,
};

use hypercall::{Mfn, mmu::Level};

/// Whose a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody's: free memory of the host.
    Nobody,
    /// The domain's under test.
    Guest,
    /// Xen's own.
    Xen,
    /// Another domain's.
    Foreign,
    /// Memory-mapped devices (`DOMID_IO`).
    Io,
}

/// What a frame is used as. While its type count is above zero, it is nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// Nothing in particular, yet.
    None,
    /// A page table.
    Table(Level),
    /// A page of segment descriptors.
    Segments,
    /// A page that is mapped writable.
    Writable,
}

/// What Xen knows about a frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Whose it is.
    pub owner: Owner,
    /// What it is used as, or was used as last.
    pub kind: Type,
    /// How many uses as `kind` there are.
    pub type_count: u32,
    /// The contents were found good for `kind`, and cannot have changed since.
    pub validated: bool,
    /// One of the uses is a pin.
    pub pinned: bool,
    /// One of the references is the allocation itself.
    pub allocated: bool,
    /// Xen's heap: shared with the guest, but never cached differently nor given away.
    pub special: bool,
    /// References of any kind.
    pub count: u32,
    /// Linear page tables: above zero, entries here that map a table of the same level; below,
    /// such entries elsewhere that map this one.
    pub linear: i16,
    /// When the last use as `kind` ended, or the frame was given back: later flushes made stale
    /// translations harmless.
    pub(crate) stamp: u64,
}

impl Frame {
    /// A frame as the allocator leaves it.
    pub(crate) const fn new(owner: Owner) -> Self {
        let allocated = !matches!(owner, Owner::Nobody);
        Self {
            owner,
            kind: Type::None,
            type_count: 0,
            validated: false,
            pinned: false,
            allocated,
            special: false,
            count: allocated as u32,
            linear: 0,
            stamp: 0,
        }
    }
}

/// The machine's memory: frames `first .. first + len`.
pub(crate) struct Memory {
    first: u64,
    base: NonNull<u8>,
    frames: Vec<Frame>,
}

impl Memory {
    /// Zeroed memory, owned by nobody.
    pub(crate) fn new(first: Mfn, len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout is not empty (`layout` sees to that).
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            handle_alloc_error(layout)
        };
        Self {
            first: first.as_u64(),
            base,
            frames: vec![Frame::new(Owner::Nobody); len],
        }
    }

    fn layout(len: usize) -> HostLayout {
        HostLayout::from_size_align(len.max(1) << 12, 4096).expect("fits the address space")
    }

    /// The frames there are, in order.
    pub(crate) fn mfns(&self) -> impl Iterator<Item = Mfn> + use<> {
        (self.first..self.first + self.frames.len() as u64).map(Mfn::truncate)
    }

    /// One past the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// Whether there is such a frame of RAM.
    pub(crate) fn is_valid(&self, mfn: Mfn) -> bool {
        mfn.as_u64().wrapping_sub(self.first) < self.frames.len() as u64
    }

    /// The frame's contents.
    ///
    /// # Panics
    /// If there is no such frame.
    pub(crate) fn ptr(&self, mfn: Mfn) -> *mut u64 {
        assert!(self.is_valid(mfn), "no memory at {mfn}");
        let offset = (mfn.as_u64() - self.first) as usize * 4096;
        // SAFETY: the frame is one of those allocated, so the offset is within the allocation.
        unsafe { self.base.as_ptr().add(offset).cast() }
    }

    /// Entry `index` of the table in `mfn`.
    pub(crate) fn read(&self, mfn: Mfn, index: usize) -> u64 {
        assert!(index < 512);
        // SAFETY: `ptr` is good for 512 words. The guest accesses them on this thread alone.
        unsafe { self.ptr(mfn).add(index).read_volatile() }
    }

    /// Writes entry `index` of the table in `mfn`.
    pub(crate) fn write(&self, mfn: Mfn, index: usize, value: u64) {
        assert!(index < 512);
        // SAFETY: as in `read`.
        unsafe { self.ptr(mfn).add(index).write_volatile(value) }
    }

    /// Fills a frame with zeros.
    pub(crate) fn clear(&self, mfn: Mfn) {
        // SAFETY: `ptr` is good for 512 words.
        unsafe { self.ptr(mfn).write_bytes(0, 512) }
    }

    /// Copies a frame.
    pub(crate) fn copy(&self, to: Mfn, from: Mfn) {
        // SAFETY: both are good for 512 words; `copy` allows them to be the same.
        unsafe { self.ptr(from).copy_to(self.ptr(to), 512) }
    }
}

impl Index<Mfn> for Memory {
    type Output = Frame;

    fn index(&self, mfn: Mfn) -> &Frame {
        &self.frames[mfn.as_u64().wrapping_sub(self.first) as usize]
    }
}

impl IndexMut<Mfn> for Memory {
    fn index_mut(&mut self, mfn: Mfn) -> &mut Frame {
        &mut self.frames[mfn.as_u64().wrapping_sub(self.first) as usize]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.frames.len())) }
    }
}
