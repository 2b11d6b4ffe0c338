//! What single hypercalls cost: doing nothing, an empty list, a multicall around nothing, and the
//! flushes.

use hypercall::abi::xen::{DOMID_SELF, XENVER_version};
use hypercall::mmu::{self as raw, ExtOp, Scope};
use hypercall::{Hypervisor, Op, VirtAddr, multicall};

use super::BASE;
use super::tally::{self, ROUNDS, Tally};
use crate::mm;
use crate::refused::Refused;
use crate::selection::Selection;
use crate::xen::PV;

/// Calls in a multicall.
const CALLS: usize = 32;
/// Flushes in one hypercall.
const FLUSHES: usize = 64;

/// What is measured here, without the prefix of a floor.
const NAMES: [&str; 8] = [
    "hypercall_null",
    "mmu_update_empty",
    "multicall_null",
    "tlb_flush_local",
    "tlb_flush_all",
    "invlpg_local",
    "invlpg_all",
    "new_baseptr",
];

/// Whether any hypercall is to be measured.
pub(super) fn is_selected(selection: &Selection<'_>) -> bool {
    NAMES
        .iter()
        .any(|name| tally::selects_floor(selection, name))
}

/// Measures the hypercalls and prints a line for each that is selected.
// Its stack frame is large, and not to be part of the caller's.
#[inline(never)]
pub(super) fn run(selection: &Selection<'_>) -> Result<usize, Refused> {
    let mut tally = Tally::default();
    mm::with(|tables| {
        let root = tables.mfn(tables.root())?;
        let va = VirtAddr::new_truncate(BASE);
        let nothing = multicall::entry(Op::XenVersion, [XENVER_version as u64, 0, 0, 0, 0]);
        let flushes = [const { ExtOp::Invlpg(Scope::Local, VirtAddr::zero()).raw() }; FLUSHES];
        for _ in 0..ROUNDS {
            tally.count("floor.hypercall_null", 1, || {
                let args = [XENVER_version as u64, 0, 0, 0, 0];
                // SAFETY: takes no memory and changes nothing.
                unsafe { PV.call(Op::XenVersion, args) };
                Ok(1)
            })?;
            tally.count("floor.mmu_update_empty", 1, || {
                // SAFETY: changes nothing.
                unsafe { raw::update(&PV, &[], DOMID_SELF) }.map_err(|stopped| stopped.error)?;
                Ok(1)
            })?;
            for calls in [1, CALLS] {
                let mut list = [nothing; CALLS];
                tally.count("floor.multicall_null", calls as u64, || {
                    // SAFETY: each call changes nothing.
                    unsafe { multicall::multicall(&PV, &mut list[..calls]) }?;
                    Ok(1)
                })?;
            }
            for (name, scope, address) in [
                ("floor.tlb_flush_local", Scope::Local, None),
                ("floor.tlb_flush_all", Scope::All, None),
                ("floor.invlpg_local", Scope::Local, Some(va)),
                ("floor.invlpg_all", Scope::All, Some(va)),
            ] {
                tally.count(name, 1, || {
                    raw::flush(&PV, scope, address)?;
                    Ok(1)
                })?;
            }
            tally.count("floor.invlpg_local", FLUSHES as u64, || {
                // SAFETY: flushes change no mapping.
                unsafe { raw::ext_raw(&PV, &flushes, "INVLPG_LOCAL") }
                    .map_err(|stopped| stopped.error)?;
                Ok(1)
            })?;
            tally.count("floor.new_baseptr", 1, || {
                // SAFETY: the root in use.
                unsafe { raw::ext(&PV, ExtOp::NewBaseptr(root)) }?;
                Ok(1)
            })?;
        }
        Ok::<_, Refused>(())
    })?;
    Ok(tally.print(selection))
}
