//! The walk from the root to one address, level by level, for people.
//!
//! It shows each entry as it stands in the table, what the kernel would have written and what Xen
//! or the hardware added, and the rights that result. It reads only what the window reaches, so it
//! can be printed in the middle of a crash.
//!
//! ```
//! use pagetable::walk::Size;
//!
//! assert_eq!(Size(2 << 20).to_string(), "    2M");
//! ```

use core::fmt;

use crate::entry::{Entry, Flags, L1, L2, Rights};
use crate::layout::Layout;
use crate::machine::Machine;
use crate::state::State;
use crate::tables::Tables;
use hypercall::Pfn;

const PAGE: u64 = 4096;

/// One level of a walk.
#[derive(Clone, Copy, Debug)]
pub struct WalkEntry {
    /// The level: 5 to 1.
    pub level: usize,
    /// Index of the entry in its table.
    pub index: usize,
    /// The entry, as it stands in the table.
    pub entry: Entry<L1>,
    /// A value that is queued for it and not yet in force.
    pub queued: Option<u64>,
    /// The frame it refers to, if that is memory of the domain.
    pub pfn: Option<Pfn>,
    /// What that frame is recorded as.
    pub state: Option<State>,
}

/// Where a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At a page of this size in bytes, with these rights.
    Page(u64, Flags),
    /// At an entry that is not present.
    NotPresent,
    /// At a table that the window does not reach.
    OutOfReach,
    /// Not an address at all.
    NotCanonical,
}

/// The walk from the root to an address.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The address.
    pub va: u64,
    /// The region of the kernel's that it lies in.
    pub region: Option<&'static str>,
    /// The entries on the way, topmost first.
    pub entries: heapless::Vec<WalkEntry, 5>,
    /// How it ends.
    pub end: End,
}

impl<M: Machine> Tables<M> {
    /// Walks to an address.
    #[must_use]
    pub fn walk(&self, va: u64) -> Walk {
        let top = usize::from(self.fold().top());
        let mut walk = Walk {
            va,
            region: M::Layout::name_of(va),
            entries: heapless::Vec::new(),
            end: End::NotCanonical,
        };
        if self.fold().canonical(va) != va {
            return walk;
        }
        let mut table = self.root();
        let mut flags = Flags::PRESENT | Flags::WRITABLE | Flags::USER;
        for level in (1..=top).rev() {
            let shift = 12 + 9 * (level as u32 - 1);
            let index = (va >> shift & 511) as usize;
            // SAFETY: the root and what it leads to are tables, so nobody's own memory.
            let words = unsafe { self.machine().live(table) };
            let (Ok(mfn), Some(words)) = (self.mfn(table), words) else {
                walk.end = End::OutOfReach;
                return walk;
            };
            let word = words.get(index);
            let slot = hypercall::MachAddr::of_entry(mfn, index);
            let entry = Entry::<L1>::from_table(word);
            let pfn = entry.mfn().and_then(|mfn| self.machine().pfn(mfn));
            let state = pfn.and_then(|p| self.frames().states(p).ok());
            let queued = self.mmu.batch().queued(slot);
            let seen = WalkEntry {
                level,
                index,
                entry,
                queued,
                pfn,
                state: state.map(|s| s.0),
            };
            // Five levels at most fit.
            let _ = walk.entries.push(seen);
            if !entry.is_present() {
                walk.end = End::NotPresent;
                return walk;
            }
            let own = entry.flags();
            flags = (flags & own) | ((flags | own) & Flags::NO_EXECUTE);
            let large = Entry::<L2>::from_table(word).is_large() && level > 1;
            if level == 1 || large {
                walk.end = End::Page(1 << shift, flags);
                return walk;
            }
            let Some(next) = pfn else {
                walk.end = End::OutOfReach;
                return walk;
            };
            table = next;
        }
        walk
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.unwrap_or("no region of the kernel's");
        write!(f, "{:#018x} ({region})", self.va)?;
        for seen in &self.entries {
            let WalkEntry {
                level,
                index,
                entry,
                ..
            } = seen;
            write!(f, "\n  L{level}[{index:3}] {:#018x}", entry.bits())?;
            if entry.is_present() {
                write!(
                    f,
                    " {} mfn {}",
                    Rights(entry.flags()),
                    Hex(entry.mfn().map(|m| m.as_u64()))
                )?;
                write!(f, " pfn {}", Hex(seen.pfn.map(|p| p.as_u64())))?;
                let added = [(8, "G"), (52, "bit 52")];
                for (bit, name) in added {
                    if entry.bits() >> bit & 1 == 1 {
                        write!(f, ", Xen set {name}")?;
                    }
                }
            }
            if let Some(state) = seen.state {
                write!(f, "; {state}")?;
            }
            if let Some(queued) = seen.queued {
                write!(f, "; {queued:#x} is queued for it")?;
            }
        }
        match self.end {
            End::Page(size, flags) => {
                let rights = Rights(flags);
                write!(f, "\n  = {rights}, page of {}", Size(size))
            }
            End::NotPresent => write!(f, "\n  = not mapped"),
            End::OutOfReach => write!(f, "\n  = the next table is out of reach"),
            End::NotCanonical => write!(f, "\n  = not a canonical address"),
        }
    }
}

/// A size in the largest unit that divides it, six columns wide.
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = [("T", 40), ("G", 30), ("M", 20), ("K", 10)]
            .into_iter()
            .find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift))
            .unwrap_or(("B", 0));
        write!(f, "{:>5}{unit}", self.0 >> shift)
    }
}

/// A number in hexadecimal, or a dash.
struct Hex(Option<u64>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number:#x}"),
            None => f.write_str("-"),
        }
    }
}

/// A run of consecutive pages with the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedRange {
    /// First address.
    pub va: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Rights.
    pub flags: Flags,
}

impl<M: Machine> Tables<M> {
    /// Calls `each` for every run of pages with the same rights in a range, in order.
    pub fn for_each_mapped(&self, range: core::ops::Range<u64>, mut each: impl FnMut(MappedRange)) {
        const SHOWN: Flags = Flags::PRESENT
            .union(Flags::WRITABLE)
            .union(Flags::NO_EXECUTE);
        let mut open: Option<MappedRange> = None;
        let mut va = range.start;
        while va < range.end {
            let walk = self.walk(va);
            let (size, flags) = match walk.end {
                End::Page(size, flags) => (size, Some(flags & SHOWN)),
                // Nothing below the entry where the walk ended.
                _ => {
                    let level = walk.entries.last().map_or(1, |s| s.level);
                    (PAGE << (9 * (level - 1)), None)
                }
            };
            let next = (va & !(size - 1)).saturating_add(size).min(range.end);
            match (&mut open, flags) {
                (Some(run), Some(flags)) if run.flags == flags => run.bytes += next - va,
                _ => {
                    if let Some(run) = open.take() {
                        each(run);
                    }
                    open = flags.map(|flags| MappedRange {
                        va,
                        bytes: next - va,
                        flags,
                    });
                }
            }
            if next <= va {
                break;
            }
            va = next;
        }
        if let Some(run) = open {
            each(run);
        }
    }
}
