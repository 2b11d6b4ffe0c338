//! An image without programs: nothing enters user mode, and nothing is told of it.

use hypercall::XenError;
use marks::native;

/// The asm text by which an entry goes another way if it came out of user mode: none.
macro_rules! leave_to {
    ($cs:literal, $exit:literal) => {
        ""
    };
}
pub(crate) use leave_to;

/// Tells Xen nothing of system calls: it refuses those of a mode that is never entered.
///
/// # Errors
/// None.
pub(crate) fn install() -> Result<(), XenError> {
    Ok(())
}

/// Leaves the processor as it is.
#[native]
pub(crate) fn install_native() {}

/// Leaves the stack of entries from user mode as it is.
///
/// # Safety
/// Nothing is asked for.
#[native]
pub(crate) unsafe fn set_stack_word(_: *mut u64) {}
