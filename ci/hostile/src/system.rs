//! Linux' system calls (numbers: `arch/x86/entry/syscalls/syscall_64.tbl`), and what `privcmd` takes
//! (`include/uapi/xen/privcmd.h`).

use linux_program::{Refusal, checked};

/// Makes a system call.
///
/// # Safety
/// Pointers among the arguments are good for what the call does with them.
unsafe fn call(name: &'static str, number: u64, arguments: [u64; 6]) -> Result<u64, Refusal> {
    // SAFETY: the caller promises that pointers are good for this call.
    checked(name, unsafe { linux_program::call(number, arguments) })
}

/// Opens the device by which Linux lets programs work on domains.
pub(crate) fn privcmd() -> Result<u64, Refusal> {
    const READ_WRITE: u64 = 2;
    let path = c"/dev/xen/privcmd".as_ptr() as u64;
    // SAFETY: Linux reads the path during the call.
    unsafe { call("open privcmd", 2, [path, READ_WRITE, 0, 0, 0, 0]) }
}

/// Addresses of the device's, of which none is mapped yet.
pub(crate) fn shared_pages(file: u64, bytes: u64) -> Result<u64, Refusal> {
    const READ_WRITE: u64 = 3;
    const SHARED: u64 = 1;
    // SAFETY: Linux chooses addresses that nothing uses.
    unsafe { call("mmap", 9, [0, bytes, READ_WRITE, SHARED, file, 0]) }
}

/// `struct privcmd_mmapbatch_v2`.
#[repr(C)]
struct MapBatch {
    count: u32,
    domain: u16,
    address: u64,
    frames: *const u64,
    errors: *mut i32,
}

/// Maps a frame of a domain at an address of the device's.
pub(crate) fn map_foreign(file: u64, domain: u16, frame: u64, address: u64) -> Result<(), Refusal> {
    let mut error = 0;
    let batch = MapBatch {
        count: 1,
        domain,
        address,
        frames: &raw const frame,
        errors: &raw mut error,
    };
    // SAFETY: Linux reads the structure and the frame, and writes the error, during the call.
    unsafe { ioctl("map a page of the domain", file, 4, &batch) }?;
    match error {
        0 => Ok(()),
        _ => Err(Refusal {
            call: "map a page of the domain",
            errno: i64::from(-error),
        }),
    }
}

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    op: u64,
    arguments: [u64; 5],
}

/// Makes a hypercall with a command and what that reads.
pub(crate) fn hypercall(
    file: u64,
    [op, command]: [u64; 2],
    argument: &u32,
) -> Result<u64, Refusal> {
    let argument = core::ptr::from_ref(argument) as u64;
    let hypercall = Hypercall {
        op,
        arguments: [command, argument, 0, 0, 0],
    };
    // SAFETY: Linux reads the structure, and Xen the argument, during the call.
    unsafe { ioctl("hypercall", file, 0, &hypercall) }
}

/// Asks the device for something.
///
/// # Safety
/// `argument` is what the command reads.
unsafe fn ioctl<T>(
    name: &'static str,
    file: u64,
    command: u64,
    argument: &T,
) -> Result<u64, Refusal> {
    // `_IOC(_IOC_NONE, 'P', command, size)`.
    let request = (size_of::<T>() as u64) << 16 | u64::from(b'P') << 8 | command;
    let argument = core::ptr::from_ref(argument) as u64;
    // SAFETY: the caller's promise.
    unsafe { call(name, 16, [file, request, argument, 0, 0, 0]) }
}

/// Milliseconds of a clock that goes on.
pub(crate) fn now() -> Result<u64, Refusal> {
    const MONOTONIC: u64 = 1;
    let mut time = [0_u64; 2];
    // SAFETY: Linux writes the two words during the call.
    unsafe {
        let to = time.as_mut_ptr() as u64;
        call("clock_gettime", 228, [MONOTONIC, to, 0, 0, 0, 0])
    }?;
    Ok(time[0] * 1000 + time[1] / 1_000_000)
}
