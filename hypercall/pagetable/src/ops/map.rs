//! Mapping frames at consecutive pages.
//!
//! Where no table exists one is built before Xen sees it, in the loop that is most of what the
//! kernel itself adds to Xen's work ([`make_run`]).

use hypercall::abi::mmu::mmu_update;
use hypercall::{Mfn, Pfn};

use super::writable::check_may_be_writable;
use super::{Change, Chunk, PAGE, check_range, check_rights, chunks, fill_around, is_canonical};
use crate::domain::Domain;
use crate::entry::{Flags, L1, L2, Pte};
use crate::error::MmError;
use crate::frames::Frame;
use crate::fresh::Fresh;
use crate::machine::{Live, Machine};
use crate::tables::{Marks, Place, Tables};

/// Pages, at most, that are mapped by a request each: a list costs some 1,000 instructions and 620 a page.
const FEW: u64 = 3;

/// What the pages of a chunk are mapped with.
enum Ground {
    /// Entries of a table that exists, this one first.
    Entries(Place<L1>),
    /// A table that is to be made in the frame, for this entry.
    Table(Place<L2>, Frame),
}

/// Whether a mapping with these rights may be a writable one of a frozen frame, as far as can be told
/// without a look at the frame.
#[inline]
pub(super) fn may_be_frozen<M: Machine>(domain: &Domain<M>, flags: Flags) -> bool {
    flags.contains(Flags::WRITABLE) && domain.frames().has_frozen()
}

/// The entry that maps a frame at an address. `must_look` is asked whether such frames
/// [may be frozen](may_be_frozen), once the frame's number is known.
#[inline(always)]
pub(super) fn entry_for<M: Machine>(
    domain: &Domain<M>,
    pfn: Pfn,
    va: u64,
    flags: Flags,
    must_look: impl FnOnce() -> bool,
) -> Result<Pte, MmError> {
    let mfn = domain.machine().mfn(pfn);
    let mfn = mfn.ok_or(MmError::NoMemory { pfn: pfn.as_u64() })?;
    let new = Pte::from_mfn(mfn, flags);
    if must_look() {
        check_may_be_writable(domain, va, new)?;
    }
    Ok(new)
}

impl<M: Machine> Tables<M> {
    /// Maps frames at consecutive pages from `va` on, where nothing is mapped.
    ///
    /// # Errors
    /// A bad range, something mapped there, no memory for tables, or Xen's refusal. What was mapped
    /// before the error stays mapped.
    ///
    /// # Safety
    /// The frames' owner agrees to their being reached at these addresses with these rights.
    #[inline]
    #[track_caller]
    pub unsafe fn map(
        &mut self,
        va: u64,
        mut frames: impl ExactSizeIterator<Item = Pfn>,
        flags: Flags,
    ) -> Result<Change, MmError> {
        let pages = frames.len() as u64;
        check_rights(va, flags)?;
        if let Some(slot) = self.single_at_once(va, pages)
            && let Some(pfn) = frames.next()
        {
            if slot.in_table().is_present() {
                return Err(MmError::Occupied { va });
            }
            let must_look = || may_be_frozen(self.domain(), flags);
            let new = entry_for(self.domain(), pfn, va, flags, must_look)?;
            // SAFETY: nothing was mapped there.
            return match unsafe { self.write_at_once(slot, va, Pte::NONE, new) } {
                Ok(()) => Ok(Change { va, pages }),
                Err(error) => Err(error),
            };
        }
        if let Some(slot) = self.single(va, pages)
            && let Some(pfn) = frames.next()
        {
            // SAFETY: the frames' owner agrees, as the caller says.
            return unsafe { self.map_page(slot, va, pfn, flags) };
        }
        // SAFETY: the frames' owner agrees, as the caller says.
        unsafe { self.map_range(va, pages, frames, flags) }
    }

    /// Maps a page in a table that exists.
    ///
    /// # Safety
    /// As [`Tables::map`].
    #[inline(never)]
    #[track_caller]
    unsafe fn map_page(
        &mut self,
        slot: Place<L1>,
        va: u64,
        pfn: Pfn,
        flags: Flags,
    ) -> Result<Change, MmError> {
        if self.entry(slot).is_present() {
            return Err(MmError::Occupied { va });
        }
        let must_look = || may_be_frozen(self.domain(), flags);
        let new = entry_for(self.domain(), pfn, va, flags, must_look)?;
        // SAFETY: nothing was mapped there.
        unsafe { self.replace_pte(slot, va, Pte::NONE, new) }?;
        Ok(Change { va, pages: 1 })
    }

    /// # Safety
    /// As [`Tables::map`].
    #[inline(never)]
    #[track_caller]
    unsafe fn map_range(
        &mut self,
        va: u64,
        pages: u64,
        mut frames: impl Iterator<Item = Pfn>,
        flags: Flags,
    ) -> Result<Change, MmError> {
        check_range(va, pages)?;
        if let Some(first) = self.in_one_table(va, pages) {
            if let Some(index) = self.first_present(first, pages as usize) {
                let va = va + index as u64 * PAGE;
                return Err(MmError::Occupied { va });
            }
            if pages <= FEW {
                // SAFETY: the frames' owner agrees, as the caller says.
                return unsafe { self.map_few(first, va, pages, &mut frames, flags) };
            }
            let mut frames = Some(frames);
            for chunk in chunks(va, pages) {
                // SAFETY: the frames' owner agrees, as the caller says.
                unsafe { self.map_entries(first, chunk, &mut frames, flags) }?;
            }
            return Ok(Change { va, pages });
        }
        let mut frames = Some(frames);
        self.lazily(|tables| {
            for chunk in chunks(va, pages) {
                // SAFETY: the frames' owner agrees, as the caller says.
                unsafe { tables.map_chunk(chunk, &mut frames, flags) }?;
            }
            Ok(Change { va, pages })
        })
    }

    /// Maps few pages in a table that exists, the first by the `first` entry.
    ///
    /// # Safety
    /// As [`Tables::map`].
    #[track_caller]
    unsafe fn map_few(
        &mut self,
        first: Place<L1>,
        va: u64,
        pages: u64,
        frames: &mut impl Iterator<Item = Pfn>,
        flags: Flags,
    ) -> Result<Change, MmError> {
        let domain = self.domain();
        let must_look = may_be_frozen(domain, flags);
        // SAFETY: the entries were seen to be empty, so nothing in use is mapped by them.
        unsafe {
            self.replace_few(first, va, pages, |va, _| {
                let entry = |pfn| entry_for(domain, pfn, va, flags, || must_look);
                frames.next().map(entry).transpose()
            })
        }?;
        Ok(Change { va, pages })
    }

    /// The slot of a range that is a single page in the table that was used last, where its entry
    /// [goes by itself](Tables::writes_at_once): what costs least, and happens most.
    #[inline(always)]
    pub(super) fn single_at_once(&self, va: u64, pages: u64) -> Option<Place<L1>> {
        let is_page = pages == 1 && va.is_multiple_of(PAGE) && is_canonical(va);
        match is_page && self.writes_at_once(va) {
            true => self.nearby(va),
            false => None,
        }
    }

    /// The slot of a range that is a single page in a table that exists: one request, which need
    /// not be queued to be cheap.
    #[inline]
    pub(super) fn single(&self, va: u64, pages: u64) -> Option<Place<L1>> {
        match pages == 1 && va.is_multiple_of(PAGE) && is_canonical(va) {
            true => self.pte_place(va).ok(),
            false => None,
        }
    }

    /// # Safety
    /// As [`Tables::map`].
    unsafe fn map_chunk(
        &mut self,
        chunk: Chunk,
        frames: &mut Option<impl Iterator<Item = Pfn>>,
        flags: Flags,
    ) -> Result<(), MmError> {
        let first = match self.prepare(chunk)? {
            Ground::Entries(first) => first,
            Ground::Table(pmd, frame) => {
                let fresh = Fresh::<L1>::filled(self, frame, |tables, words| {
                    fill_around(words, chunk);
                    let target = &mut words[chunk.first..chunk.first + chunk.count];
                    make_run(
                        tables.machine(),
                        chunk.va,
                        target,
                        |word| word,
                        frames,
                        flags,
                    )?;
                    let made = target.iter().map(|word| Pte::from_table(*word));
                    check_frozen(tables.domain(), chunk.va, flags, made)
                })?;
                // SAFETY: nothing was mapped below the entry.
                return unsafe { self.install(pmd, fresh, Flags::TABLE) };
            }
        };
        // SAFETY: as the caller says.
        unsafe { self.map_entries(first, chunk, frames, flags) }
    }

    /// Maps a chunk in a table that exists, by entries that were seen to be empty, from the `first` on.
    ///
    /// # Safety
    /// As [`Tables::map`].
    #[inline(never)]
    unsafe fn map_entries(
        &mut self,
        first: Place<L1>,
        chunk: Chunk,
        frames: &mut Option<impl Iterator<Item = Pfn>>,
        flags: Flags,
    ) -> Result<(), MmError> {
        let Chunk { va, count, .. } = chunk;
        let domain = self.domain();
        let fill = |requests: &mut [mmu_update], _: Live<'_>| {
            make_run(
                domain.machine(),
                va,
                requests,
                |request| &mut request.val,
                frames,
                flags,
            )?;
            let made = requests.iter().map(|request| Pte::from_table(request.val));
            check_frozen(domain, va, flags, made).map(|()| true)
        };
        // SAFETY: the entries were seen to be empty, so nothing in use is mapped by them.
        match unsafe { self.write_filled(first, va, count, Marks::Given, fill) }? {
            true => Ok(()),
            // SAFETY: the entries were seen to be empty, so nothing in use is mapped by them.
            false => unsafe {
                self.map_behind(first, chunk, &mut frames.iter_mut().flatten(), flags)
            },
        }
    }

    /// Maps a chunk in a table that exists, behind what is queued for others.
    ///
    /// # Safety
    /// As [`Tables::map`].
    unsafe fn map_behind(
        &mut self,
        first: Place<L1>,
        chunk: Chunk,
        frames: &mut dyn Iterator<Item = Pfn>,
        flags: Flags,
    ) -> Result<(), MmError> {
        let domain = self.domain();
        let must_look = may_be_frozen(domain, flags);
        // SAFETY: the entries were seen to be empty, so nothing in use is mapped by them.
        unsafe {
            self.write_run(first, chunk.va, chunk.count, Marks::Given, |va, _| {
                let entry = |pfn| entry_for(domain, pfn, va, flags, || must_look);
                frames.next().map(entry).transpose()
            })
        }
    }

    /// Finds where a chunk is to be mapped, and sees that nothing is mapped there.
    #[inline(never)]
    #[track_caller]
    fn prepare(&mut self, chunk: Chunk) -> Result<Ground, MmError> {
        if let Ok(first) = self.pte_place(chunk.va) {
            return match self.first_present(first, chunk.count) {
                None => Ok(Ground::Entries(first)),
                Some(index) => Err(MmError::Occupied {
                    va: chunk.va + index as u64 * PAGE,
                }),
            };
        }
        let pmd = self.ensure_pmd_place(chunk.va)?;
        if self.entry(pmd).is_large() {
            return Err(MmError::Large {
                va: chunk.va,
                level: 2,
            });
        }
        Ok(Ground::Table(pmd, self.alloc_frame()?))
    }
}

/// Checks, where any frame is frozen, that none of consecutive pages would make one writable.
#[inline]
fn check_frozen<M: Machine>(
    domain: &Domain<M>,
    va: u64,
    flags: Flags,
    entries: impl IntoIterator<Item = Pte>,
) -> Result<(), MmError> {
    if !may_be_frozen(domain, flags) {
        return Ok(());
    }
    let mut pages = (0..).map(|i| va + i * PAGE);
    entries
        .into_iter()
        .zip(&mut pages)
        .try_for_each(|(entry, page)| check_may_be_writable(domain, page, entry))
}

/// Writes the machine entries for frames, to be mapped from `va` on, each into the `word` of a place: as
/// [`Tables::make`] for each, but looking at what the p2m list held only once.
#[inline(always)]
fn make_run<M: Machine, P>(
    machine: &M,
    va: u64,
    places: &mut [P],
    word: impl Fn(&mut P) -> &mut u64,
    given: &mut Option<impl Iterator<Item = Pfn>>,
    flags: Flags,
) -> Result<(), MmError> {
    let mut seen = 0;
    // Taken out meanwhile, so that the loop may have it in registers.
    let Some(mut frames) = given.take() else {
        places.iter_mut().for_each(|place| *word(place) = 0);
        return Ok(());
    };
    let bits = Pte::from_mfn(Mfn::truncate(0), flags).bits();
    let number_of = machine.mfns_or_ones();
    let mut make = |place: &mut P| {
        // An iterator that ends early must not leave old words to be linked.
        let Some(pfn) = frames.next() else {
            return *word(place) = 0;
        };
        let number = number_of(pfn);
        seen |= number;
        *word(place) = number << 12 | bits;
    };
    // Four at a time: this loop is a good part of what the kernel itself adds to Xen's work.
    let (groups, rest) = places.as_chunks_mut::<4>();
    groups
        .iter_mut()
        .for_each(|group| group.iter_mut().for_each(&mut make));
    rest.iter_mut().for_each(make);
    *given = Some(frames);
    if seen > Mfn::MAX.as_u64() {
        let ones = u64::MAX << 12 | bits;
        let index = places.iter_mut().position(|place| *word(place) == ones);
        return Err(MmError::NoFrame {
            va: va + index.unwrap_or(0) as u64 * PAGE,
        });
    }
    Ok(())
}
