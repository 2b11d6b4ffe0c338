//! The list: each line says what was called and what it came to.
//!
//! What a line says must be the same on every Linux: no numbers of processes, inodes and devices, no times
//! and no addresses.
//!
//! Each function of the list is one `unsafe` block, and this is why it may be: what a call writes is lent to
//! it by `to`, and as large as Linux' header says of that call; what is taken away, moved or protected is what
//! the case itself mapped; every other address is one where nothing is ([`BAD`]), or a list of addresses of
//! the former kinds. What a case does to itself besides happens in a child that is to die of it.

mod descriptors;
mod files;
mod memory;
mod names;
mod processes;
mod signals;
mod system;
mod used;
mod waiting;

use linux_program::{exit, print};
use linux_raw_sys::general as linux;

use crate::system::{at, call, fork, wait};

/// Where there is never anything: below what may be mapped, the last page of a program, no address, the
/// kernel's.
const BAD: [u64; 4] = [
    0x10,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0xffff_8880_0000_0000,
];
/// One of them.
const NOWHERE: u64 = BAD[0];
/// No descriptor.
const CLOSED: u64 = 999;
/// Where paths begin that name no directory.
const HERE: u64 = linux::AT_FDCWD as u64;
const PAGE: u64 = 4096;

/// Says what a call came to.
fn say(name: &str, result: i64) {
    print(format_args!("{name} = {result}\n"));
}

/// Says what a call wrote.
fn show<T: core::fmt::Debug>(name: &str, what: T) {
    print(format_args!("{name} : {what:?}\n"));
}

/// Says what a call comes to at each bad address.
fn bad(name: &str, mut f: impl FnMut(u64) -> i64) {
    let found = BAD.map(&mut f);
    print(format_args!("{name} at bad addresses = {found:?}\n"));
}

/// Does something in a child; says how that ended.
fn child(name: &str, f: impl FnOnce() -> u64) {
    let child = fork();
    if child == 0 {
        exit(f());
    }
    let status = if child < 0 { child } else { wait(child) };
    print(format_args!("{name} : ended with {status:#x}\n"));
}

/// Makes each call by its name. What is promised for it is what `call` asks for.
macro_rules! calls {
    ($($name:ident $number:ident,)*) => {
        $(unsafe fn $name<const N: usize>(arguments: [u64; N]) -> i64 {
            // SAFETY: as the caller promises.
            unsafe { crate::system::call(linux::$number, &arguments) }
        })*
    };
}
use calls;

calls! {
    open __NR_open,
    close __NR_close,
    read __NR_read,
    write __NR_write,
    mkdir __NR_mkdir,
    chdir __NR_chdir,
    unlink __NR_unlink,
    mmap __NR_mmap,
    pipe2 __NR_pipe2,
    lseek __NR_lseek,
}

/// A page that can be written, with one behind it that is not there.
fn edge() -> u64 {
    // SAFETY: as the list says.
    unsafe {
        let rights = linux::PROT_READ | linux::PROT_WRITE;
        let flags = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS;
        let start = mmap([0, 2 * PAGE, rights.into(), flags.into(), u64::MAX, 0]) as u64;
        call(linux::__NR_munmap, &[start + PAGE, PAGE]);
        start + PAGE
    }
}

/// A new file with these bytes, open for both.
fn file(path: &core::ffi::CStr, bytes: &[u8]) -> u64 {
    // SAFETY: as the list says.
    unsafe {
        let flags = linux::O_RDWR | linux::O_CREAT | linux::O_TRUNC;
        let file = open([at(path), flags.into(), 0o644]) as u64;
        write([file, at(bytes), bytes.len() as u64]);
        file
    }
}

/// Both ends of a pipe.
fn pipe(flags: u32) -> [u64; 2] {
    // SAFETY: as the list says.
    unsafe {
        let mut ends = [0_i32; 2];
        pipe2([crate::system::to(&mut ends), flags.into()]);
        ends.map(|end| end as u64)
    }
}

/// All of them.
pub(crate) fn run() -> u64 {
    // SAFETY: as the list says.
    unsafe {
        mkdir([at(c"/tmp"), 0o777]);
        mkdir([at(c"/tmp/calls"), 0o755]);
        chdir([at(c"/tmp/calls")]);
        call(linux::__NR_umask, &[0o022]);
        let families: &[fn()] = &[
            files::run,
            names::run,
            descriptors::run,
            memory::run,
            processes::run,
            signals::run,
            waiting::run,
            system::run,
            used::run,
        ];
        for family in families {
            // Each in a process of its own, so that none leaves anything to the next.
            child("family", || {
                family();
                0
            });
        }
        0
    }
}
