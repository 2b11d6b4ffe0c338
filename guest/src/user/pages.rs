//! The pages of a program: what its space maps, and nothing of why.
//!
//! Memory belongs to the page tables while it is mapped ([`pagetable::user`]); this asks for it by ranges.
//! A page that its program may not touch at all is not mapped: Xen lets user mode reach whatever is
//! present in its tables. Its frame is kept beside until it may be touched again.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use guest_files::Page;
use hypercall::Pfn;

use super::copy;
use super::errno::Room;
use super::traffic::{Work, counted};
use crate::areas::Rights;
use crate::mm::error::FrameError;
use crate::mm::frames::{Frame, Frames};
use crate::mm::layout;
use crate::mm::machine::Words;
use crate::mm::spaces::AddressSpace;
use crate::mm::user::{HeldFrame, OnWrite};
use crate::mm::{self, Flags, MmError, Running, Tables};
#[cfg(feature = "check")]
use crate::refusals;

pub(crate) const PAGE: u64 = 4096;
/// Pages that one table maps.
pub(crate) const TABLE: u64 = 512;
/// Frames that programs leave to the kernel: its heap, tables, and the direct map grow by them.
const RESERVE: u64 = 96;

/// The user half of a space.
pub(crate) struct Pages {
    space: Option<AddressSpace>,
    /// Pages that nobody may touch, by address.
    hidden: Vec<(u64, Frame)>,
}

/// The flags of a page with rights; `None` if it may not be touched.
fn flags(rights: Rights) -> Option<Flags> {
    if rights.is_empty() {
        return None;
    }
    let mut flags = Flags::CONST;
    if rights.contains(Rights::EXECUTE) {
        flags.remove(Flags::NO_EXECUTE);
    }
    if rights.contains(Rights::WRITE) {
        flags.insert(Flags::WRITABLE | Flags::DIRTY);
    }
    Some(flags)
}

/// Has a page that is mapped be writable, if it is written to, and as many that follow as `most` says;
/// returns how many were made so, and nothing if it is not mapped at all.
fn resolve(
    tables: &mut Tables<Running>,
    va: u64,
    most: u64,
    write: bool,
    on_write: OnWrite,
) -> Result<Option<u64>, MmError> {
    match tables.user_page(va) {
        // The first write to what it shares with another program, or with a file.
        Some(page) if write && !page.is_writable => {
            let most = match check_reserve(tables, most + 2) {
                Ok(()) => most,
                Err(_) => 1,
            };
            check_reserve(tables, 2)?;
            tables.make_writable_ahead(va, most, on_write).map(Some)
        }
        // Another thread was faster, or the translation was old.
        Some(_) => Ok(Some(0)),
        None => Ok(None),
    }
}

/// Maps pages of zeros from an address on where nothing is mapped, `most` of them and as many as there is
/// room for; returns how many.
fn map_zeros(
    tables: &mut Tables<Running>,
    va: u64,
    most: u64,
    flags: Flags,
) -> Result<u64, MmError> {
    // For one there is.
    let pages = match most {
        1 => 1,
        most => tables.room_for_user(va, most),
    };
    check_reserve(tables, pages + 4)?;
    tables.map_user(va, pages, flags, |_, words| words.fill(0))?;
    Ok(pages)
}

/// Has a list have room for so many more.
fn room<T>(list: &mut Vec<T>, more: usize) -> Result<(), MmError> {
    let refused = |_| MmError::Frame(FrameError::OutOfMemory);
    list.room(more).map_err(refused)
}

/// Refuses what would leave the kernel itself too little.
fn check_reserve(tables: &Tables<Running>, frames: u64) -> Result<(), MmError> {
    check_frames(tables.frames(), frames)
}

/// The same without the page tables, of which others may change how many there are meanwhile.
fn check_frames(all: &Frames, frames: u64) -> Result<(), MmError> {
    #[cfg(feature = "check")]
    if refusals::FRAMES.is_due() {
        return Err(MmError::Frame(FrameError::OutOfMemory));
    }
    if !all.can_obtain(RESERVE + frames) {
        return Err(MmError::Frame(FrameError::OutOfMemory));
    }
    Ok(())
}

/// Whether there is memory besides what the kernel keeps for itself.
pub(crate) fn is_enough() -> bool {
    check_frames(mm::all_frames(), 0).is_ok()
}

/// A frame of zeros.
///
/// # Errors
/// There is none but those that the kernel keeps.
pub(crate) fn zeroed() -> Result<Frame, MmError> {
    let mut frame = mm::with(|tables| {
        check_reserve(tables, 1)?;
        tables.alloc_frame()
    })?;
    memory(&mut frame).fill(0);
    Ok(frame)
}

/// Where the kernel finds what a frame holds.
fn place(frame: &Frame) -> *mut Words {
    let address = layout::DIRECT.start + frame.pfn().as_u64() * PAGE;
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// What a frame holds.
fn words(frame: &Frame) -> &Words {
    // SAFETY: the direct map reaches every frame that was handed out, and the caller has borrowed this.
    unsafe { &*place(frame) }
}

/// What a frame holds, for whoever has it.
pub(crate) fn memory(frame: &mut Frame) -> &mut [u8] {
    // SAFETY: as for `words`, and the caller has the frame.
    unsafe { core::slice::from_raw_parts_mut(place(frame).cast(), PAGE as usize) }
}

/// Memory of zeros for the page of a file.
///
/// # Errors
/// As [`zeroed`].
pub(crate) fn held() -> Result<HeldFrame, MmError> {
    let frame = zeroed()?;
    mm::with(|tables| tables.hold_frame(frame)).map_err(|(frame, e)| {
        free(frame);
        MmError::Frame(e)
    })
}

/// Where the kernel finds what memory that is held holds.
pub(crate) fn held_memory(held: &HeldFrame) -> *mut u8 {
    let address = layout::DIRECT.start + held.pfn().as_u64() * PAGE;
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// Gives memory back that was held; what programs have mapped of it stays theirs.
pub(crate) fn let_go(held: HeldFrame) {
    let pfn = held.pfn();
    if let Err(e) = mm::with(|tables| tables.let_go_of_frame(held)) {
        log::error!(target: "user", "pfn {pfn} is lost: {e}");
    }
}

/// Gives a frame back.
pub(crate) fn free(frame: Frame) {
    let pfn = frame.pfn();
    if let Err(e) = mm::with(|tables| tables.free_frame(frame)) {
        log::error!(target: "user", "pfn {pfn} is lost: {e}");
    }
}

/// Gives back the tables that are kept for programs to come.
pub(crate) fn release_spares() {
    if let Err(e) = mm::with(|tables| tables.release_spares()) {
        log::error!(target: "user", "tables of programs that ended are kept: {e}");
    }
}

/// What is to be in fresh pages.
pub(crate) enum Fill<'a> {
    /// What a frame holds, in one page.
    Copy(&'a Frame),
    /// What a page of a file holds, in one page.
    Held(&'a dyn Page),
}

impl Fill<'_> {
    /// Where the kernel finds it.
    fn memory(&self) -> *const u8 {
        let number = match self {
            Fill::Copy(frame) => frame.pfn().as_u64(),
            Fill::Held(page) => page.id(),
        };
        core::ptr::with_exposed_provenance((layout::DIRECT.start + number * PAGE) as usize)
    }
}

impl Pages {
    /// A space with nothing in it.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn new() -> Result<Pages, MmError> {
        let space = mm::with(|tables| {
            check_reserve(tables, 8)?;
            tables.create_space()
        })?;
        Ok(Pages {
            space: Some(space),
            hidden: Vec::new(),
        })
    }

    /// The same pages for another program: what one of them writes the other does not see. All of them lie
    /// in these areas.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn fork(&self, areas: impl Iterator<Item = Range<u64>>) -> Result<Pages, MmError> {
        let parent = self.space.as_ref().ok_or(MmError::NotTakenOver)?;
        let mut hidden = Vec::new();
        room(&mut hidden, self.hidden.len())?;
        let space = counted(Work::Fork, || {
            mm::with(|tables| {
                check_reserve(tables, 8)?;
                tables.fork_parts(parent, areas)
            })
        })?;
        let mut child = Pages {
            space: Some(space),
            hidden,
        };
        for (va, frame) in &self.hidden {
            let mut copy = zeroed()?;
            mm::with(|tables| *tables.frame_memory(&mut copy) = *words(frame));
            child.hidden.push((*va, copy));
        }
        Ok(child)
    }

    fn within<R>(
        &self,
        f: impl FnOnce(&mut Tables<Running>) -> Result<R, MmError>,
    ) -> Result<R, MmError> {
        match &self.space {
            Some(space) => mm::in_space(space, f),
            None => Err(MmError::NotTakenOver),
        }
    }

    /// Has this vCPU run in this space.
    ///
    /// # Errors
    /// Xen's refusal.
    pub(crate) fn enter(&self) -> Result<(), MmError> {
        match &self.space {
            // SAFETY: the kernel uses nothing of a user half but by accesses that may fault.
            Some(space) => unsafe { mm::switch_space(space) },
            None => Err(MmError::NotTakenOver),
        }
    }

    /// Whether this vCPU runs in this space.
    pub(crate) fn is_entered(&self) -> bool {
        let root = mm::with(|tables| tables.root());
        let space = self.space.as_ref();
        space.is_some_and(|space| space.roots().kernel == root)
    }

    /// Has this vCPU run in no program's space.
    ///
    /// # Errors
    /// Xen's refusal.
    pub(crate) fn leave() -> Result<(), MmError> {
        let boot = mm::with(|tables| tables.boot_space());
        // SAFETY: as for `enter`.
        unsafe { mm::switch_space(&boot) }
    }

    /// Has a page there for whoever touches it, writable if it writes, with as many that follow as `most`
    /// says; returns how many were made so, and nothing if there is none.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn touch(
        &mut self,
        va: u64,
        most: u64,
        rights: Rights,
        write: bool,
        on_write: OnWrite,
    ) -> Result<Option<u64>, MmError> {
        let there = self.within(|tables| resolve(tables, va, most, write, on_write))?;
        match there {
            None => Ok(self.show(va, rights)?.then_some(0)),
            there => Ok(there),
        }
    }

    /// Has a page there for whoever touches it: maps pages of zeros, `most` of them and as many as there is
    /// room for, where there is none. Returns how many it mapped or made writable.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn fault(
        &mut self,
        va: u64,
        most: u64,
        rights: Rights,
        write: bool,
    ) -> Result<u64, MmError> {
        if !self.hidden.is_empty() && self.show(va, rights)? {
            return Ok(0);
        }
        let most = self.before_hidden(va, most);
        let Some(flags) = flags(rights) else {
            return Ok(0);
        };
        if most == 1 && self.fault_at_hand(va, flags, write)? {
            return Ok(1);
        }
        self.within(
            |tables| match resolve(tables, va, most, write, OnWrite::Copy)? {
                Some(pages) => Ok(pages),
                None => map_zeros(tables, va, most, flags),
            },
        )
    }

    /// The same for one page of a program that runs on this vCPU; false if that takes more than the page's
    /// entry.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    fn fault_at_hand(&self, va: u64, flags: Flags, write: bool) -> Result<bool, MmError> {
        let Some(space) = &self.space else {
            return Ok(false);
        };
        // An error is large, and seldom.
        let (mut is_done, mut refused) = (false, None);
        mm::in_space_at_hand(space, |tables| {
            if check_reserve(tables, 5).is_ok() {
                match tables.touch_user(va, flags, write) {
                    Ok(done) => is_done = done,
                    Err(e) => refused = Some(e),
                }
            }
        });
        refused.map_or(Ok(is_done), Err)
    }

    /// Maps pages of zeros where nothing was ever mapped, `most` of them and as many as there is room for;
    /// returns how many.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn add_zeros(&mut self, va: u64, most: u64, rights: Rights) -> Result<u64, MmError> {
        match flags(rights) {
            Some(flags) => self.within(|tables| map_zeros(tables, va, most, flags)),
            None => Ok(0),
        }
    }

    /// How many pages there is room for from an address on, `most` of them at most.
    ///
    /// # Errors
    /// Xen's refusal of what was queued before.
    pub(crate) fn room(&self, va: u64, most: u64) -> Result<u64, MmError> {
        let most = self.before_hidden(va, most);
        self.within(|tables| Ok(tables.room_for_user(va, most)))
    }

    /// How many of so many pages come before one that is hidden.
    fn before_hidden(&self, va: u64, most: u64) -> u64 {
        let next = self.hidden.partition_point(|(at, _)| *at < va);
        let next = self.hidden.get(next);
        next.map_or(most, |(at, _)| most.min((at - va) / PAGE))
    }

    /// Maps pages of a file where nothing is mapped.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn map_held(
        &mut self,
        va: u64,
        pages: &[Arc<dyn Page>],
        rights: Rights,
    ) -> Result<(), MmError> {
        let Some(flags) = flags(rights) else {
            return Ok(());
        };
        let mut frames = Vec::new();
        room(&mut frames, pages.len())?;
        frames.extend(pages.iter().map(|page| Pfn::truncate(page.id())));
        self.within(|tables| {
            check_reserve(tables, 4)?;
            tables.map_held(va, &frames, flags)
        })
    }

    /// Maps fresh pages where nothing is mapped.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn map(
        &mut self,
        va: u64,
        pages: u64,
        rights: Rights,
        with: &Fill<'_>,
    ) -> Result<(), MmError> {
        let Some(flags) = flags(rights) else {
            return Ok(());
        };
        let from = with.memory();
        self.within(|tables| {
            check_reserve(tables, pages + 4)?;
            tables.map_user(va, pages, flags, |_, words| {
                // SAFETY: what is copied is borrowed, be it a frame or a page that programs may have
                // mapped; the words are this closure's.
                unsafe { copy::shared(words.as_mut_ptr().cast(), from, PAGE as usize) };
            })
        })
    }

    /// Maps again a page that nobody could touch, if there is one at an address.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn show(&mut self, va: u64, rights: Rights) -> Result<bool, MmError> {
        let Ok(place) = self.hidden.binary_search_by_key(&va, |(at, _)| *at) else {
            return Ok(false);
        };
        let (_, frame) = self.hidden.remove(place);
        let shown = self.map(va, 1, rights, &Fill::Copy(&frame));
        free(frame);
        shown.map(|()| true)
    }

    /// The places among the hidden pages of those in a range.
    fn hidden_in(&self, range: &Range<u64>) -> Range<usize> {
        let place = |va: u64| self.hidden.partition_point(|(at, _)| *at < va);
        place(range.start)..place(range.end)
    }

    /// Unmaps a range; its memory is free.
    ///
    /// # Errors
    /// No memory for the copy of a table that is shared, or Xen's refusal.
    pub(crate) fn unmap(&mut self, range: Range<u64>) -> Result<(), MmError> {
        let hidden = self.hidden_in(&range);
        self.hidden.drain(hidden).for_each(|(_, frame)| free(frame));
        let pages = (range.end - range.start) / PAGE;
        self.within(|tables| tables.unmap_user(range.start, pages))
    }

    /// Gives the pages of a range these rights.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn protect(&mut self, range: Range<u64>, rights: Rights) -> Result<(), MmError> {
        let Some(flags) = flags(rights) else {
            return self.hide(range);
        };
        let pages = (range.end - range.start) / PAGE;
        self.within(|tables| tables.protect_user(range.start, pages, flags))?;
        let hidden = self.hidden_in(&range);
        for _ in hidden.clone() {
            let (va, _) = self.hidden[hidden.start];
            self.show(va, rights)?;
        }
        Ok(())
    }

    /// Hides all pages of a range.
    fn hide(&mut self, range: Range<u64>) -> Result<(), MmError> {
        let mut next = range.start;
        while let Some(va) = self.next_mapped(next..range.end)? {
            next = va + PAGE;
            room(&mut self.hidden, TABLE as usize)?;
            if let Some(frame) = self.within(|tables| tables.take_user(va))? {
                let place = self.hidden.partition_point(|(at, _)| *at < va);
                self.hidden.insert(place, (va, frame));
            }
        }
        Ok(())
    }

    /// The first page of a range that is mapped. What no table covers costs one look.
    fn next_mapped(&self, range: Range<u64>) -> Result<Option<u64>, MmError> {
        self.within(|tables| {
            let mut va = range.start;
            while va < range.end {
                va = match tables.ptep_get(va) {
                    Ok(entry) if entry.is_present() => return Ok(Some(va)),
                    Ok(_) => va + PAGE,
                    Err(MmError::NoTable { level, .. }) => {
                        let span = PAGE << (9 * (level - 1));
                        (va | (span - 1)) + 1
                    }
                    Err(e) => return Err(e),
                };
            }
            Ok(None)
        })
    }

    /// Moves the pages of a range to where nothing is mapped; the two do not overlap.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    pub(crate) fn relocate(&mut self, range: Range<u64>, to: u64) -> Result<(), MmError> {
        let pages = (range.end - range.start) / PAGE;
        let moves = |tables: &mut Tables<Running>| tables.move_user(range.start, to, pages);
        counted(Work::Move, || self.within(moves))?;
        let hidden = self.hidden_in(&range);
        for (va, _) in &mut self.hidden[hidden] {
            *va = to + (*va - range.start);
        }
        self.hidden.sort_unstable_by_key(|(va, _)| *va);
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.hidden.drain(..).for_each(|(_, frame)| free(frame));
        let Some(space) = self.space.take() else {
            return;
        };
        let ended = mm::with(|tables| tables.spare_space(space));
        if let Err(refused) = ended {
            let e = refused.error;
            log::error!(target: "user", "a program's pages are not all given back: {e}");
        }
    }
}
