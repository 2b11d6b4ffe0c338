//! `multicall`: several hypercalls in one trap (`xen.h`).
//!
//! Xen carries them out in order and **goes on after one that fails**: the call itself returns 0,
//! each entry has its own result. `EFAULT` means that the list could not be read or written;
//! entries before that point were carried out. Of an entry only `result` may be read afterwards
//! (a debug Xen overwrites the rest), and a multicall within a multicall is refused.
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::multicall::{self, entry};
//!
//! let mut calls = [entry(Op::SchedOp, [0; 5]), entry(Op::XenVersion, [0; 5])];
//! // SAFETY: neither passes memory.
//! unsafe { multicall::multicall(&says(0), &mut calls) }?;
//! // Whoever answered did not look at the entries.
//! assert!(calls.iter().all(|call| multicall::result(call).is_none()));
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{Errno, Hypervisor, Op, XenError, abi::multicall::multicall_entry};

/// What [`entry`] leaves in `result`: no hypercall returns it, so it tells an entry that Xen never
/// came to.
pub const NOT_DONE: u64 = 0x6e6f_7420_646f_6e65;

/// An entry for `op`.
#[inline]
pub const fn entry(op: Op, args: [u64; 5]) -> multicall_entry {
    let [a, b, c, d, e] = args;
    multicall_entry {
        op: op as u64,
        result: NOT_DONE,
        args: [a, b, c, d, e, 0],
    }
}

/// What became of an entry: not reached, a value, or an error.
#[inline]
pub const fn result(entry: &multicall_entry) -> Option<Result<u64, Errno>> {
    if entry.result == NOT_DONE {
        return None;
    }
    match Errno::from_return(entry.result as i64) {
        None => Some(Ok(entry.result)),
        Some(errno) => Some(Err(errno)),
    }
}

/// Carries out `calls`. Look at each [`result`] afterwards.
///
/// # Safety
/// Each entry is a call that the caller could make with [`Hypervisor::call`].
#[inline]
pub unsafe fn multicall<H: Hypervisor + ?Sized>(
    hv: &H,
    calls: &mut [multicall_entry],
) -> Result<(), XenError> {
    let args = [calls.as_mut_ptr() as u64, calls.len() as u64, 0, 0, 0];
    // SAFETY: Xen reads and writes the entries during the call. The caller promises of
    // each that it could be made by `Hypervisor::call`, which is how Xen makes it.
    let value = unsafe { hv.call(Op::Multicall, args) };
    XenError::check(Op::Multicall, None, value).map(drop)
}
