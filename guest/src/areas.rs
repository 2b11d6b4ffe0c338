//! What a program has mapped: areas of its address space, in order, apart from each other.
//!
//! An area is a range of whole pages with one set of rights and one backing. Which of its pages are
//! there the page tables know; this is what may be there, and with what in it. Neighbours that mean
//! the same are one area, so that a program that maps page by page does not have one for each.
//!
//! Nothing here is of fixed size, and what cannot be remembered for want of memory is refused before
//! anything changed.

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
use alloc::vec::Vec;
use core::ops::Range;

use bitflags::bitflags;

const PAGE: u64 = 4096;
/// Areas that a program may have, as Linux' `vm.max_map_count` is by default.
pub const MOST: usize = 65530;

bitflags! {
    /// What a program may do with an area, by the bits of `mmap`'s `PROT_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rights: u32 {
        /// Read.
        const READ = 1;
        /// Write.
        const WRITE = 2;
        /// Execute.
        const EXECUTE = 4;
    }
}

/// What is in the pages of an area before the program writes there.
pub trait Backing: Clone {
    /// What is in the area that begins so many bytes later.
    #[must_use]
    fn advanced(&self, bytes: u64) -> Self;

    /// Whether `next`, so many bytes later, is this one's continuation.
    fn goes_on_as(&self, bytes: u64, next: &Self) -> bool;
}

/// A range of pages with the same rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area<B> {
    /// Addresses: whole pages.
    pub range: Range<u64>,
    /// What the program may do.
    pub rights: Rights,
    /// What is in it.
    pub backing: B,
}

impl<B: Backing> Area<B> {
    /// Whether another one begins where this one ends, and means the same.
    fn goes_on_as(&self, next: &Area<B>) -> bool {
        let bytes = self.range.end - self.range.start;
        self.range.end == next.range.start
            && self.rights == next.rights
            && self.backing.goes_on_as(bytes, &next.backing)
    }
}

/// There is no memory to remember one more area, or there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// The areas of a program.
#[derive(Debug)]
pub struct Areas<B> {
    /// In order of address.
    list: Vec<Area<B>>,
}

impl<B: Backing> Default for Areas<B> {
    fn default() -> Self {
        Areas::new()
    }
}

impl<B: Backing> Areas<B> {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Areas { list: Vec::new() }
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Area<B>> + ExactSizeIterator {
        self.list.iter()
    }

    /// The place of the first area that ends behind an address.
    fn place(&self, address: u64) -> usize {
        self.list.partition_point(|area| area.range.end <= address)
    }

    /// The area that an address lies in.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Area<B>> {
        let area = self.list.get(self.place(address))?;
        area.range.contains(&address).then_some(area)
    }

    /// The first area that begins at an address or behind it.
    #[must_use]
    pub fn next(&self, address: u64) -> Option<&Area<B>> {
        self.list
            .get(self.place(address)..)?
            .iter()
            .find(|area| area.range.start >= address)
    }

    /// The areas that a range meets, as far as they lie in it.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Area<B>> + '_ {
        let first = self.place(range.start);
        let met = self.list[first..].iter().take_while({
            let end = range.end;
            move |area| area.range.start < end
        });
        met.map(move |area| {
            let start = area.range.start.max(range.start);
            Area {
                range: start..area.range.end.min(range.end),
                rights: area.rights,
                backing: area.backing.advanced(start - area.range.start),
            }
        })
    }

    /// Whether areas cover a range without a hole.
    #[must_use]
    pub fn covers(&self, range: Range<u64>) -> bool {
        self.covered_from(range.clone()) == range.end
    }

    /// Up to where a range is covered from its start on.
    pub fn covered_from(&self, range: Range<u64>) -> u64 {
        let mut next = range.start;
        for area in self.within(range.clone()) {
            if area.range.start > next {
                break;
            }
            next = area.range.end;
        }
        next.min(range.end)
    }

    /// Makes sure that so many areas more can be remembered.
    fn reserve(&mut self, more: usize) -> Result<(), TooMany> {
        if self.list.len() + more > MOST {
            return Err(TooMany);
        }
        self.list.try_reserve(more).map_err(|_| TooMany)
    }

    /// Adds an area where there is none.
    ///
    /// # Errors
    /// [`TooMany`]; nothing changed then.
    pub fn insert(&mut self, area: Area<B>) -> Result<(), TooMany> {
        let place = self.place(area.range.start);
        let before = place.checked_sub(1);
        if let Some(before) = before.filter(|before| self.list[*before].goes_on_as(&area)) {
            // As a heap grows: it needs no place of its own.
            self.list[before].range.end = area.range.end;
            self.join(before);
            return Ok(());
        }
        self.reserve(1)?;
        self.list.insert(place, area);
        self.join(place);
        Ok(())
    }

    /// Makes the area at a place and the one behind it one, if they mean the same.
    fn join(&mut self, place: usize) {
        let Some([one, two]) = place
            .checked_add(2)
            .and_then(|end| self.list.get_mut(place..end))
        else {
            return;
        };
        if one.goes_on_as(two) {
            one.range.end = two.range.end;
            self.list.remove(place + 1);
        }
    }

    /// Has areas begin and end at an address, as far as one lies across it.
    fn cut(&mut self, at: u64) {
        let place = self.place(at);
        let Some(area) = self.list.get_mut(place) else {
            return;
        };
        if area.range.start >= at {
            return;
        }
        let upper = Area {
            range: at..area.range.end,
            rights: area.rights,
            backing: area.backing.advanced(at - area.range.start),
        };
        area.range.end = at;
        self.list.insert(place + 1, upper);
    }

    /// Takes a range out of all areas.
    ///
    /// # Errors
    /// [`TooMany`]; nothing changed then.
    pub fn remove(&mut self, range: Range<u64>) -> Result<(), TooMany> {
        self.reserve(2)?;
        self.cut(range.start);
        self.cut(range.end);
        let (first, last) = (self.place(range.start), self.place(range.end));
        let last = last.max(first);
        self.list.drain(first..last);
        Ok(())
    }

    /// Gives all areas in a range these rights.
    ///
    /// # Errors
    /// [`TooMany`]; nothing changed then.
    pub fn set_rights(&mut self, range: Range<u64>, rights: Rights) -> Result<(), TooMany> {
        self.reserve(2)?;
        self.cut(range.start);
        self.cut(range.end);
        let (first, last) = (self.place(range.start), self.place(range.end));
        for area in &mut self.list[first..last] {
            area.rights = rights;
        }
        for place in (first.saturating_sub(1)..=last).rev() {
            self.join(place);
        }
        Ok(())
    }

    /// Has the area that begins at `from` begin at `to`, below it, where nothing is in between.
    pub fn grow_down(&mut self, from: u64, to: u64) {
        let place = self.place(from);
        if let Some(area) = self
            .list
            .get_mut(place)
            .filter(|area| area.range.start == from)
        {
            area.range.start = to;
        }
    }

    /// The highest place for so many bytes in a range of addresses, apart from all areas.
    #[must_use]
    pub fn gap(&self, bytes: u64, within: Range<u64>) -> Option<u64> {
        let mut end = within.end;
        for area in self.list.iter().rev() {
            if area.range.start >= end {
                continue;
            }
            if area.range.end <= within.start {
                break;
            }
            if area.range.end <= end && end - area.range.end >= bytes {
                return Some(end - bytes);
            }
            end = area.range.start;
        }
        let start = end.checked_sub(bytes)?;
        (start >= within.start).then_some(start)
    }

    /// Whether a range meets no area.
    #[must_use]
    pub fn is_free(&self, range: Range<u64>) -> bool {
        let next = self.list.get(self.place(range.start));
        next.is_none_or(|area| area.range.start >= range.end)
    }

    /// The same areas, for another program.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn duplicate(&self) -> Result<Areas<B>, TooMany> {
        let mut list = Vec::new();
        list.try_reserve_exact(self.list.len())
            .map_err(|_| TooMany)?;
        list.extend(self.list.iter().cloned());
        Ok(Areas { list })
    }
}

/// A range of whole pages that holds these bytes; `None` if it ends beyond all addresses.
#[must_use]
pub fn pages(start: u64, bytes: u64) -> Option<Range<u64>> {
    let end = start.checked_add(bytes)?.checked_next_multiple_of(PAGE)?;
    Some(start & !(PAGE - 1)..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pages of a file, or zeros.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum From {
        Zeros,
        File(u64),
    }

    impl Backing for From {
        fn advanced(&self, bytes: u64) -> From {
            match self {
                From::Zeros => From::Zeros,
                From::File(at) => From::File(at + bytes),
            }
        }

        fn goes_on_as(&self, bytes: u64, next: &From) -> bool {
            self.advanced(bytes) == *next
        }
    }

    fn area(range: Range<u64>, rights: Rights, backing: From) -> Area<From> {
        Area {
            range: range.start * PAGE..range.end * PAGE,
            rights,
            backing,
        }
    }

    #[test]
    fn neighbours_that_mean_the_same_are_one() {
        let mut areas = Areas::new();
        let rw = Rights::READ | Rights::WRITE;
        areas.insert(area(1..2, rw, From::Zeros)).unwrap();
        areas.insert(area(3..4, rw, From::Zeros)).unwrap();
        areas.insert(area(2..3, rw, From::Zeros)).unwrap();
        assert_eq!(areas.iter().len(), 1);
        areas.insert(area(4..5, Rights::READ, From::Zeros)).unwrap();
        areas
            .insert(area(5..6, Rights::READ, From::File(0)))
            .unwrap();
        areas
            .insert(area(6..7, Rights::READ, From::File(PAGE)))
            .unwrap();
        assert_eq!(areas.iter().len(), 3);
        assert!(areas.covers(PAGE..7 * PAGE));
        assert!(!areas.covers(PAGE..8 * PAGE));
        assert!(!areas.covers(0..PAGE));
    }

    #[test]
    fn gaps_are_found_from_above() {
        let mut areas = Areas::new();
        for range in [4..6, 7..8] {
            areas
                .insert(area(range, Rights::READ, From::Zeros))
                .unwrap();
        }
        let gap = |pages: u64| {
            areas
                .gap(pages * PAGE, 2 * PAGE..9 * PAGE)
                .map(|at| at / PAGE)
        };
        assert_eq!(gap(1), Some(8));
        assert_eq!(gap(2), Some(2));
        assert_eq!(gap(3), None);
        assert_eq!(areas.gap(PAGE, 2 * PAGE..8 * PAGE), Some(6 * PAGE));
        assert_eq!(areas.gap(PAGE, 4 * PAGE..6 * PAGE), None);
    }

    /// A page of the model: what it may do, and what is in it.
    type Page = Option<(Rights, From)>;

    proptest! {
        /// Whatever is asked for, each page means what a list of pages says.
        #[test]
        fn areas_are_what_their_pages_are(asked in prop::collection::vec((0..3, 0_u64..24, 1_u64..8, 0_u32..8), 1..60)) {
            let mut areas = Areas::new();
            let mut model: Vec<Page> = vec![None; 32];
            for (what, first, count, bits) in asked {
                let range = first * PAGE..(first + count) * PAGE;
                let rights = Rights::from_bits_truncate(bits);
                let pages = first as usize..(first + count) as usize;
                match what {
                    0 => {
                        let backing = if bits & 1 == 0 { From::Zeros } else { From::File(first * PAGE) };
                        areas.remove(range.clone()).unwrap();
                        areas.insert(Area { range, rights, backing: backing.clone() }).unwrap();
                        for page in pages {
                            let at = (page as u64 - first) * PAGE;
                            model[page] = Some((rights, backing.advanced(at)));
                        }
                    }
                    1 => {
                        areas.remove(range).unwrap();
                        model[pages].fill(None);
                    }
                    _ => {
                        areas.set_rights(range, rights).unwrap();
                        model[pages].iter_mut().flatten().for_each(|page| page.0 = rights);
                    }
                }
                for (page, expected) in model.iter().enumerate() {
                    let at = page as u64 * PAGE;
                    let found = areas.find(at).map(|area| (area.rights, area.backing.advanced(at - area.range.start)));
                    prop_assert_eq!(&found, expected);
                }
                let list: Vec<_> = areas.iter().collect();
                for pair in list.windows(2) {
                    prop_assert!(pair[0].range.end <= pair[1].range.start);
                    let bytes = pair[0].range.end - pair[0].range.start;
                    let same = pair[0].rights == pair[1].rights && pair[0].backing.goes_on_as(bytes, &pair[1].backing);
                    prop_assert!(!(pair[0].range.end == pair[1].range.start && same));
                }
            }
        }
    }
}
