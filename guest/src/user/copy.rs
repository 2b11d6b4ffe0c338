//! Copies between the kernel and the program that runs: whatever address a program gives, the worst is
//! that fewer bytes are copied.
//!
//! An address is compared with the end of the lower half before it is used, so that none is the
//! kernel's; the instructions are listed in the exception table, so that a page that is not there, or
//! not any more, ends the copy.

use crate::usermode;

/// Copies up to `count` bytes; returns how many it did not copy, from the first on that faulted.
///
/// # Safety
/// Of the two ranges, the kernel's is the caller's for `count` bytes, and the other lies in the lower
/// half.
unsafe fn copy_words(to: *mut u8, from: *const u8, count: usize) -> usize {
    let left: usize;
    // SAFETY: the caller's promise. Where an access faults, the exception table goes on behind the
    // instruction, with what is left in RCX; RAX gets a word about it.
    unsafe {
        core::arch::asm!(
            "2: rep movsq",
            xen_pv_rt::goes_on_behind!(),
            inout("rcx") count / 8 => left,
            inout("rdi") to => _,
            inout("rsi") from => _,
            out("rax") _,
            options(nostack),
        );
    }
    left * 8 + count % 8
}

/// As [`copy_words`], byte by byte: up to the very first that faults.
///
/// # Safety
/// As [`copy_words`].
unsafe fn copy_bytes(to: *mut u8, from: *const u8, count: usize) -> usize {
    let left: usize;
    // SAFETY: the caller's promise. Where an access faults, the exception table goes on behind the
    // instruction, with what is left in RCX; RAX gets a word about it.
    unsafe {
        core::arch::asm!(
            "2: rep movsb",
            xen_pv_rt::goes_on_behind!(),
            inout("rcx") count => left,
            inout("rdi") to => _,
            inout("rsi") from => _,
            out("rax") _,
            options(nostack),
        );
    }
    left
}

/// # Safety
/// As [`copy_words`].
unsafe fn copy(to: *mut u8, from: *const u8, count: usize) -> usize {
    let mut done = 0;
    while done < count {
        // SAFETY: parts of the caller's ranges.
        unsafe {
            let left = copy_words(to.wrapping_add(done), from.wrapping_add(done), count - done);
            done = count - left;
            if left == 0 {
                break;
            }
            let few = left.min(8);
            let missed = copy_bytes(to.wrapping_add(done), from.wrapping_add(done), few);
            done += few - missed;
            if missed > 0 {
                break;
            }
        }
    }
    done
}

/// Copies bytes of which a program may have one side mapped: no reference leads there, and what it writes
/// meanwhile is copied or not.
///
/// # Safety
/// `count` bytes at both places are mapped and lie apart; those that no program has mapped are the
/// caller's.
pub(crate) unsafe fn shared(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") count => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

/// How many of `count` bytes at an address a program could have.
fn within(address: u64, count: usize) -> usize {
    usermode::END.saturating_sub(address).min(count as u64) as usize
}

/// Copies from the running program's memory; returns how many bytes could be read.
pub(crate) fn from_user(into: &mut [u8], address: u64) -> usize {
    let count = within(address, into.len());
    let from = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the slice is the caller's, and all that is read lies in the lower half.
    unsafe { copy(into.as_mut_ptr(), from, count) }
}

/// Copies to the running program's memory; returns how many bytes could be written.
pub(crate) fn to_user(address: u64, bytes: &[u8]) -> usize {
    let count = within(address, bytes.len());
    let to = core::ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: the slice is the caller's, and all that is written lies in the lower half, of which the
    // kernel has no references.
    unsafe { copy(to, bytes.as_ptr(), count) }
}

/// Whether a byte of the running program's memory is there to be read, or written: it stays as it is.
pub(crate) fn touch(address: u64, write: bool) -> bool {
    if within(address, 1) == 0 {
        return false;
    }
    let fault: u64;
    // SAFETY: the byte lies in the lower half, and does not change; where the access faults, the
    // exception table goes on behind the instruction, with a word in RAX.
    unsafe {
        if write {
            core::arch::asm!(
                "2: lock or byte ptr [{address}], 0",
                xen_pv_rt::goes_on_behind!(),
                address = in(reg) address,
                inout("rax") 0_u64 => fault,
                options(nostack),
            );
        } else {
            core::arch::asm!(
                "2: test byte ptr [{address}], 0",
                xen_pv_rt::goes_on_behind!(),
                address = in(reg) address,
                inout("rax") 0_u64 => fault,
                options(nostack, readonly),
            );
        }
    }
    fault == 0
}
