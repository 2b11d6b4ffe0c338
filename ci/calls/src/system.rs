//! Linux' system calls, as numbers go in and come out.

use linux_raw_sys::general as linux;

/// Makes a system call; returns what is in RAX then.
///
/// # Safety
/// Memory that the call writes is lent to it, by [`to`], for as long as Linux writes there and as large as
/// what Linux writes, or it is mapped and has nothing of this program's. So is memory that the call takes
/// away, moves or protects. An address where nothing is may be given for anything.
pub(crate) unsafe fn call(number: u32, arguments: &[u64]) -> i64 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: what the call asks for is promised, as above; what Linux only reads it copies.
    unsafe { linux_program::call(number.into(), all) }
}

/// Where something is.
pub(crate) fn at<T: ?Sized>(what: &T) -> u64 {
    core::ptr::from_ref(what).cast::<u8>().expose_provenance() as u64
}

/// Where something is that the call writes.
pub(crate) fn to<T: ?Sized>(what: &mut T) -> u64 {
    core::ptr::from_mut(what).cast::<u8>().expose_provenance() as u64
}

/// Makes a process like this one; 0 in the child. It has this stack as it is, at the same place.
pub(crate) fn fork() -> i64 {
    // SAFETY: takes no memory; the child's is a copy.
    unsafe { call(linux::__NR_fork, &[]) }
}

/// Waits for a child; how it ended, as `wait4` has it, or the error.
pub(crate) fn wait(child: i64) -> i64 {
    let mut status = 0_i32;
    loop {
        // SAFETY: Linux writes the status, as large as this one, during the call.
        let found = unsafe { call(linux::__NR_wait4, &[child as u64, to(&mut status), 0, 0]) };
        match found {
            // EINTR.
            -4 => {}
            error @ ..0 => return error,
            _ => return status.into(),
        }
    }
}
