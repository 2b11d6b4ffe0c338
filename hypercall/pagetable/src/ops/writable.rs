//! Which pages may become writable: those whose frames are neither tables nor read-only for good.

use super::{PAGE, check_rights};
use crate::domain::Domain;
use crate::entry::{Flags, Pte};
use crate::error::MmError;
use crate::frames::Kinds;
use crate::machine::{Live, Machine};

/// Refuses to make the mapping of a frame writable that has to stay read-only.
pub(super) fn check_may_be_writable<M: Machine>(
    domain: &Domain<M>,
    va: u64,
    entry: Pte,
) -> Result<(), MmError> {
    // A frame without a record is none of the kernel's tables or constants.
    let pfn = entry.mfn().and_then(|mfn| domain.machine().pfn(mfn));
    if pfn.is_some_and(|pfn| !domain.frames().may_be_writable(pfn)) {
        return Err(MmError::MustStayReadOnly { va });
    }
    Ok(())
}

/// As [`check_may_be_writable`], which asks seldom.
#[inline(always)]
pub(super) fn check_seen<M: Machine>(
    domain: &Domain<M>,
    kinds: &mut Kinds<'_>,
    va: u64,
    entry: Pte,
) -> Result<(), MmError> {
    match looks_writable(domain, kinds, entry) {
        true => Ok(()),
        false => check_may_be_writable(domain, va, entry),
    }
}

/// Refuses to make one of consecutive mapped pages writable that has to stay read-only, or would be
/// executable as well.
// By itself: all that it needs then stays in registers.
#[inline(never)]
pub(super) fn check_all_may_be_writable<M: Machine>(
    domain: &Domain<M>,
    va: u64,
    entries: Live<'_>,
    add: Flags,
) -> Result<(), MmError> {
    let mut kinds = domain.frames().kinds();
    let mut from = 0;
    // What looks wrong is looked at closely, and mostly nothing does.
    while let Some(index) = first_odd(domain, &mut kinds, entries, from) {
        let (old, va) = (
            Pte::from_table(entries.get(index)),
            va + index as u64 * PAGE,
        );
        if !old.is_writable() {
            if old.is_executable() {
                check_rights(va, old.flags() | add)?;
            }
            check_may_be_writable(domain, va, old)?;
        }
        from = index + 1;
    }
    Ok(())
}

/// The first entry from one on that is not that of a read-only page which may become writable as it is,
/// as far as can be told at a glance.
#[inline(always)]
fn first_odd<M: Machine>(
    domain: &Domain<M>,
    kinds: &mut Kinds<'_>,
    entries: Live<'_>,
    from: usize,
) -> Option<usize> {
    let rest = entries.split_at(from).1;
    let odd = rest.iter().position(|word| {
        let old = Pte::from_table(word);
        old.is_writable() || old.is_executable() || !looks_writable(domain, kinds, old)
    });
    odd.map(|index| from + index)
}

/// Whether a frame may be mapped writable as far as its number tells that stands in the M2P: one that
/// is not this domain's may look as if it might not.
#[inline(always)]
fn looks_writable<M: Machine>(domain: &Domain<M>, kinds: &mut Kinds<'_>, entry: Pte) -> bool {
    let pfn = entry
        .mfn()
        .and_then(|mfn| domain.machine().pfn_to_check(mfn));
    pfn.is_none_or(|pfn| kinds.may_be_writable(pfn))
}
