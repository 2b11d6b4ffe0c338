//! What an edit of a range makes of its entries: of one, or of all that lie in a table.

use hypercall::Pfn;

use super::map::{entry_for, may_be_frozen};
use super::writable::{check_all_may_be_writable, check_seen};
use super::{PAGE, check_rights, mask};
use crate::cost::{self, Cost};
use crate::domain::Domain;
use crate::entry::{Flags, Keep, L1, Pte, Value};
use crate::error::MmError;
use crate::machine::{Live, Machine};

/// What happens to the entries of a range.
#[derive(Clone, Copy)]
pub(super) enum Edit {
    /// Their rights change; the pages must be mapped.
    Rights { add: Flags, remove: Flags },
    /// They are cleared.
    Clear,
    /// They map consecutive frames, the `first` at the address `from`.
    Set { from: u64, first: Value<L1> },
}

impl Edit {
    pub(super) fn cost(self) -> Cost {
        match self {
            Edit::Rights { .. } | Edit::Set { .. } => cost::PROTECT,
            Edit::Clear => cost::CLEAR,
        }
    }

    /// Fewest pages for which something else than updating their entries can pay.
    pub(super) fn fewest(self) -> u64 {
        match self {
            Edit::Rights { .. } | Edit::Set { .. } => cost::PROTECT.break_even(),
            Edit::Clear => cost::DROP.break_even(),
        }
    }

    /// Which of A and D it leaves as they are.
    pub(super) fn keeps(self) -> Flags {
        match self {
            Edit::Rights { remove, .. } => Flags::MARKS - remove,
            Edit::Clear | Edit::Set { .. } => Flags::empty(),
        }
    }

    /// Whether it takes A or D from pages that keep their frames.
    pub(super) fn takes_marks(self) -> bool {
        matches!(self, Edit::Rights { remove, .. } if remove.intersects(Flags::MARKS))
    }

    /// The entry after the edit; nothing if it need not be written.
    #[inline(always)]
    pub(super) fn apply<M: Machine>(
        self,
        domain: &Domain<M>,
        va: u64,
        old: Pte,
    ) -> Result<Option<Pte>, MmError> {
        match self {
            Edit::Clear => Ok((old.bits() != 0).then_some(Pte::NONE)),
            // Who sets an entry says what A and D are as well.
            Edit::Set { from, first } => set(domain, from, first, va).map(Some),
            Edit::Rights { add, remove } => {
                let check = || check_seen(domain, &mut domain.frames().kinds(), va, old);
                Masks::new(add, remove).apply(va, old, check)
            }
        }
    }

    /// The entries after the edit, for consecutive pages from `va` on, which are mapped if it changes rights.
    pub(super) fn apply_all<M: Machine>(
        self,
        domain: &Domain<M>,
        va: u64,
        new: &mut [u64],
        old: Live<'_>,
    ) -> Result<(), MmError> {
        match self {
            Edit::Clear => new.fill(0),
            Edit::Rights { add, remove }
                if !remove.intersects(Flags::NO_EXECUTE | Flags::PRESENT) =>
            {
                mask(new, old, Keep::all_but(remove), add);
                // Rights that only shrink need no look at each page.
                if add.contains(Flags::WRITABLE) {
                    check_all_may_be_writable(domain, va, old, add)?;
                }
            }
            Edit::Set { from, first } => {
                for (new, i) in new.iter_mut().zip(0_u64..) {
                    *new = set(domain, from, first, va + i * PAGE)?.bits();
                }
            }
            Edit::Rights { .. } => {
                for ((new, old), i) in new.iter_mut().zip(old.iter()).zip(0_u64..) {
                    let old = Pte::from_table(old);
                    let changed = self.apply(domain, va + i * PAGE, old)?;
                    *new = changed.unwrap_or(old.with_flags(old.flags())).bits();
                }
            }
        }
        Ok(())
    }
}

/// A change of rights, as masks.
#[derive(Clone, Copy)]
pub(super) struct Masks {
    keep: Keep,
    add: Flags,
}

impl Masks {
    #[inline(always)]
    pub(super) fn new(add: Flags, remove: Flags) -> Masks {
        Masks {
            keep: Keep::all_but(remove),
            add,
        }
    }

    /// The entry of a mapped page after the change; nothing if it is that already. `may_grow` is asked
    /// where it becomes writable.
    #[inline(always)]
    pub(super) fn apply(
        self,
        va: u64,
        old: Pte,
        may_grow: impl FnOnce() -> Result<(), MmError>,
    ) -> Result<Option<Pte>, MmError> {
        if !old.is_present() {
            return Err(MmError::NotMapped { va });
        }
        let new = old.masked(self.keep, self.add);
        let grows = new.is_writable() && !old.is_writable();
        if grows {
            may_grow()?;
        }
        if !new.is_present() || new.is_writable() && new.is_executable() {
            check_rights(va, new.flags())?;
        }
        Ok((grows || !new.same(old)).then_some(new))
    }
}

/// The entry that maps at an address the frame that lies there if the `first` lies at `from`.
#[inline(always)]
pub(super) fn set<M: Machine>(
    domain: &Domain<M>,
    from: u64,
    first: Value<L1>,
    va: u64,
) -> Result<Pte, MmError> {
    let pfn = Pfn::truncate(first.pfn.as_u64() + (va - from) / PAGE);
    entry_for(domain, pfn, va, first.flags, || {
        may_be_frozen(domain, first.flags)
    })
}
