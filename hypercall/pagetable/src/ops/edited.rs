//! What an edit of a range makes of its entries: of one, or of all that lie in a table.

use hypercall::abi::mmu::mmu_update;
use hypercall::{Mfn, Pfn};

use super::map::{entry_for, may_be_frozen};
use super::writable::{check_all_may_be_writable, check_seen};
use super::{PAGE, Seen, check_present, check_rights, mask};
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
                let check = || check_seen(domain, va, old);
                Masks::new(add, remove).apply(va, old, check)
            }
        }
    }

    /// Writes the values of requests for consecutive pages from `va` on. `false` where an entry need not be
    /// written, or is to be looked at closely.
    #[inline(never)]
    pub(super) fn fill<M: Machine>(
        self,
        domain: &Domain<M>,
        va: u64,
        requests: &mut [mmu_update],
        olds: Live<'_>,
    ) -> bool {
        match self {
            Edit::Clear => {
                let mut all = u64::MAX;
                for (request, old) in requests.iter_mut().zip(olds.iter()) {
                    request.val = Pte::NONE.bits();
                    all &= old;
                }
                Pte::from_table(all).is_present()
            }
            Edit::Set { from, first } => {
                let value = Value::new(at(from, first, va), first.flags);
                !may_be_frozen(domain, first.flags) && fill_frames(domain, value, values(requests))
            }
            Edit::Rights { add, remove } => {
                fill_rights(add, remove, requests, olds)
                    && (!add.contains(Flags::WRITABLE)
                        || check_all_may_be_writable(domain, va, olds, add).is_ok())
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
                let seen = mask(new.iter_mut(), old, Keep::all_but(remove), add);
                if !Pte::from_table(seen.all).is_present() {
                    check_present(va, old)?;
                }
                // Rights that only shrink need no look at each page.
                if add.contains(Flags::WRITABLE) {
                    check_all_may_be_writable(domain, va, old, add)?;
                }
            }
            Edit::Set { from, first } => {
                let value = Value::new(at(from, first, va), first.flags);
                if !may_be_frozen(domain, first.flags) && fill_frames(domain, value, new.iter_mut())
                {
                    return Ok(());
                }
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

/// Where the values of requests stand.
pub(super) fn values(requests: &mut [mmu_update]) -> impl Iterator<Item = &mut u64> {
    requests.iter_mut().map(|request| &mut request.val)
}

/// Writes values that map consecutive frames, if all are memory.
fn fill_frames<'a, M: Machine>(
    domain: &Domain<M>,
    first: Value<L1>,
    places: impl Iterator<Item = &'a mut u64>,
) -> bool {
    let bits = Pte::from_mfn(Mfn::truncate(0), first.flags).bits();
    let number_of = domain.machine().mfns_or_ones();
    let (mut pfn, mut seen) = (first.pfn.as_u64(), 0);
    for place in places {
        let number = number_of(Pfn::truncate(pfn));
        seen |= number;
        *place = number << PAGE.ilog2() | bits;
        pfn += 1;
    }
    seen <= Mfn::MAX.as_u64()
}

/// Writes the values that entries have with other rights, if all of them are present, each changes, and
/// none may become writable and executable.
fn fill_rights(add: Flags, remove: Flags, requests: &mut [mmu_update], olds: Live<'_>) -> bool {
    let Seen { all, any } = mask(values(requests), olds, Keep::all_but(remove), add);
    let (all, any) = (
        Flags::from_bits_truncate(all),
        Flags::from_bits_truncate(any),
    );
    let changes =
        (remove - Flags::MARKS).intersects(all) || !(add - Flags::MARKS).difference(any).is_empty();
    let is_data = (all | add).contains(Flags::NO_EXECUTE) && !remove.contains(Flags::NO_EXECUTE);
    let is_safe = is_data || !((any - remove) | add).contains(Flags::WRITABLE);
    all.contains(Flags::PRESENT) && !remove.contains(Flags::PRESENT) && changes && is_safe
}

/// The frame that lies at an address if the `first` lies at `from`.
#[inline(always)]
fn at(from: u64, first: Value<L1>, va: u64) -> Pfn {
    Pfn::truncate(first.pfn.as_u64() + (va - from) / PAGE)
}

/// The entry that maps at an address the frame that lies there if the `first` lies at `from`.
#[inline(always)]
pub(super) fn set<M: Machine>(
    domain: &Domain<M>,
    from: u64,
    first: Value<L1>,
    va: u64,
) -> Result<Pte, MmError> {
    entry_for(domain, at(from, first, va), va, first.flags, || {
        may_be_frozen(domain, first.flags)
    })
}
