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

/// Refuses to make one of consecutive mapped pages writable that has to stay read-only, or would be
/// executable as well.
pub(super) fn check_all_may_be_writable<M: Machine>(
    domain: &Domain<M>,
    va: u64,
    entries: Live<'_>,
    add: Flags,
) -> Result<(), MmError> {
    let mut kinds = domain.frames().kinds();
    for (word, i) in entries.iter().zip(0_u64..) {
        let old = Pte::from_table(word);
        if old.is_writable() {
            continue;
        }
        if old.is_executable() {
            check_rights(va + i * PAGE, old.flags() | add)?;
        }
        if !looks_writable(domain, &mut kinds, old) {
            check_may_be_writable(domain, va + i * PAGE, old)?;
        }
    }
    Ok(())
}

/// Whether a frame may be mapped writable as far as its number tells that stands in the M2P: one that
/// is not this domain's may look as if it might not.
#[inline(always)]
pub(super) fn looks_writable<M: Machine>(
    domain: &Domain<M>,
    kinds: &mut Kinds<'_>,
    entry: Pte,
) -> bool {
    let pfn = entry
        .mfn()
        .and_then(|mfn| domain.machine().pfn_to_check(mfn));
    pfn.is_none_or(|pfn| kinds.may_be_writable(pfn))
}
