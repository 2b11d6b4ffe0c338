//! `console_io`: Xen's own console. Dom0 and the shim's guest may use it; to a domU of a release
//! Xen, writing is refused or goes nowhere (`xen/drivers/char/console.c`).
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::console;
//!
//! let xen = says(0);
//! console::write(&xen, b"hello\n")?;
//! assert_eq!((xen.asked().0, xen.asked().1[1]), (Op::ConsoleIo, 6));
//! # Ok::<(), hypercall::XenError>(())
//! ```

use crate::{Hypervisor, Op, XenError, abi::xen};

/// Writes bytes to Xen's console, which takes all of them.
///
/// Fails with `EPERM` where the domain may not, `EFAULT`.
#[inline]
pub fn write<H: Hypervisor + ?Sized>(hv: &H, bytes: &[u8]) -> Result<(), XenError> {
    if let Some(devices) = hv.devices() {
        devices.write(bytes);
        return Ok(());
    }
    let args = [
        xen::CONSOLEIO_write as u64,
        bytes.len() as u64,
        bytes.as_ptr() as u64,
        0,
        0,
    ];
    // SAFETY: Xen reads `bytes`, no further than its length, during the call.
    let value = unsafe { hv.call(Op::ConsoleIo, args) };
    XenError::check(Op::ConsoleIo, Some("write"), value).map(drop)
}

/// Reads what was typed into Xen's console, and returns the part of `buffer` that was filled:
/// nothing, if nothing waits.
#[inline]
pub fn read<'b, H: Hypervisor + ?Sized>(
    hv: &H,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], XenError> {
    if let Some(devices) = hv.devices() {
        let read = devices.read(buffer).min(buffer.len());
        return Ok(&buffer[..read]);
    }
    let args = [
        xen::CONSOLEIO_read as u64,
        buffer.len() as u64,
        buffer.as_mut_ptr() as u64,
        0,
        0,
    ];
    // SAFETY: Xen writes into `buffer`, no further than its length, during the call.
    let value = unsafe { hv.call(Op::ConsoleIo, args) };
    let read = XenError::check(Op::ConsoleIo, Some("read"), value)? as usize;
    Ok(&buffer[..read.min(buffer.len())])
}
