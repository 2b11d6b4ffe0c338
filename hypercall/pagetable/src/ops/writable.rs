//! Which pages may become writable: those whose frames are neither tables nor read-only for good.

use hypercall::Pfn;

use super::{PAGE, check_rights};
use crate::domain::Domain;
use crate::entry::{Flags, Pte};
use crate::error::MmError;
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

/// As [`check_may_be_writable`], which asks seldom: first whether a frame may be mapped writable as far as
/// its number tells that stands in the M2P. One that is not this domain's may look as if it might not.
#[inline(always)]
pub(super) fn check_seen<M: Machine>(
    domain: &Domain<M>,
    va: u64,
    entry: Pte,
) -> Result<(), MmError> {
    match seen_pfn(domain, entry).is_none_or(|pfn| domain.frames().looks_writable(pfn)) {
        true => Ok(()),
        false => check_may_be_writable(domain, va, entry),
    }
}

/// The number of the frame that an entry maps, as it stands in the M2P.
#[inline(always)]
fn seen_pfn<M: Machine>(domain: &Domain<M>, entry: Pte) -> Option<Pfn> {
    domain.machine().pfn_to_check(entry.mfn()?)
}

/// Refuses to make one of consecutive mapped pages writable that has to stay read-only, or would be
/// executable as well.
pub(super) fn check_all_may_be_writable<M: Machine>(
    domain: &Domain<M>,
    va: u64,
    entries: Live<'_>,
    add: Flags,
) -> Result<(), MmError> {
    let mut index = 0;
    while index < entries.len() {
        let old = Pte::from_table(entries.get(index));
        let va = va + index as u64 * PAGE;
        if !old.is_writable() {
            if old.is_executable() {
                check_rights(va, old.flags() | add)?;
            }
            check_may_be_writable(domain, va, old)?;
        }
        // Mostly the others are like it.
        let rest = entries.split_at(index + 1).1;
        index += 1 + seen_pfn(domain, old).map_or(0, |pfn| plain(domain, pfn, rest));
    }
    Ok(())
}

/// How many entries, from the first on, are those of read-only data in frames that may be mapped writable,
/// as far as their numbers in the M2P tell, and as their records lie beside that of a frame.
// By itself: all that it needs then stays in registers.
#[inline(never)]
fn plain<M: Machine>(domain: &Domain<M>, pfn: Pfn, entries: Live<'_>) -> usize {
    let Some(near) = domain.frames().near(pfn) else {
        return 0;
    };
    let number_of = domain.machine().pfns_to_check();
    let odd = entries.iter().position(|word| {
        let old = Pte::from_table(word);
        let is_data = !old.is_writable() && !old.is_executable();
        let may_be = || near.may_be_writable(number_of(old.mfn()?)?);
        !is_data || may_be() != Some(true)
    });
    odd.unwrap_or(entries.len())
}
