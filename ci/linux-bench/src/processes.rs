//! What programs do besides mapping memory: processes, pipes, files, the heap.

use crate::operations::{HERE, Measured, PAGE, POPULATE, anonymous, count, least, line, release};
use linux_program::Refusal;

use crate::system::{self, Spawn, tsc};

/// Rounds that do not count: the first ones fill what both kernels keep.
const IDLE: usize = 3;
/// Pages that a child writes to.
const WRITTEN: u64 = 4096;
/// A page away from the measured ones, for bytes that are read and written.
const BUFFER: u64 = HERE - (64 << 20);

/// The program that is executed: `exit(0)` and nothing else, in one page.
static SMALL: [u8; 64 + 56 + 9] = small();
const PATH: &core::ffi::CStr = c"/small";

// Values of Linux' headers.
const WRITE_ONLY: u64 = 0o1;
const CREATE: u64 = 0o100;
const NO_RANDOM_ADDRESSES: u64 = 0x4_0000;

/// An ELF file with one segment, which is the file.
const fn small() -> [u8; 64 + 56 + 9] {
    const BASE: u64 = 0x40_0000;
    const START: usize = 64 + 56;
    const CODE: [u8; 9] = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    /// Numbers by place and bytes (`Elf64_Ehdr`, `Elf64_Phdr`).
    const FIELDS: [(usize, u64, usize); 19] = [
        (0, 0x0001_0102_464c_457f, 8),
        (16, 2, 2),
        (18, 62, 2),
        (20, 1, 4),
        (24, BASE + START as u64, 8),
        (32, 64, 8),
        (52, 64, 2),
        (54, 56, 2),
        (56, 1, 2),
        (58, 64, 2),
        (64, 1, 4),
        (68, 5, 4),
        (72, 0, 8),
        (80, BASE, 8),
        (88, BASE, 8),
        (96, (START + CODE.len()) as u64, 8),
        (104, (START + CODE.len()) as u64, 8),
        (112, 0x1000, 8),
        (48, 0, 4),
    ];
    let mut file = [0; START + CODE.len()];
    let mut field = 0;
    while field < FIELDS.len() {
        let (at, number, bytes) = FIELDS[field];
        let mut i = 0;
        while i < bytes {
            file[at + i] = (number >> (8 * i)) as u8;
            i += 1;
        }
        field += 1;
    }
    let mut i = 0;
    while i < CODE.len() {
        file[START + i] = CODE[i];
        i += 1;
    }
    file
}

/// Does something once and says what it took.
type Row = fn() -> Measured;

const ROWS: &[(&str, Row)] = &[
    ("copy_on_write_fault", copy_on_write),
    ("brk_touch", brk),
    ("pipe", pipe),
    ("pipe_ping_pong", ping_pong),
    ("pwrite", || transfer(true)),
    ("pread", || transfer(false)),
    ("open_close", open_close),
    ("fork_exit_wait", fork_exit_wait),
    ("vfork_exec_wait", || exec(Spawn::Vfork)),
    ("fork_exec_wait", || exec(Spawn::Fork)),
];

/// Measures everything and prints a line for each; returns how many were refused.
pub(crate) fn run() -> usize {
    let prepared = anonymous(BUFFER, 1, POPULATE).and_then(|_| {
        // Where a stack lies decides how many tables it takes.
        // SAFETY: takes no memory.
        unsafe { system::personality(NO_RANDOM_ADDRESSES) }?;
        install()
    });
    let mut refused = usize::from(prepared.is_err());
    for &(name, row) in ROWS {
        refused += line(name, 1, least(row, IDLE));
    }
    refused += line("fork_write", WRITTEN, least(fork_write, 1));
    refused + usize::from(release(BUFFER, 1).is_err())
}

// SAFETY (all rows): the addresses are far from the program, its stack and each other, and nothing but
// the row uses them.

/// Writes the file of the program that is executed.
fn install() -> Result<u64, Refusal> {
    // SAFETY: a path and the file's bytes, all of which stay as they are.
    unsafe {
        let file = system::open(PATH.as_ptr() as u64, WRITE_ONLY | CREATE, 0o755)?;
        system::write(file, SMALL.as_ptr() as u64, SMALL.len() as u64)?;
        system::close(file)
    }
}

/// Writes to a page.
fn touch(at: u64) {
    let at = core::ptr::with_exposed_provenance_mut::<u8>(at as usize);
    // SAFETY: the caller mapped it, writable.
    unsafe { at.write_volatile(1) };
}

/// The two ends of a new pipe: to read from, and to write to.
fn new_pipe() -> Result<[u64; 2], Refusal> {
    let mut ends = [0_u32; 2];
    // SAFETY: there is room for both numbers.
    unsafe { system::pipe(ends.as_mut_ptr() as u64) }?;
    Ok(ends.map(u64::from))
}

fn close_both(ends: [u64; 2]) -> Result<(), Refusal> {
    for end in ends {
        // SAFETY: takes no memory.
        unsafe { system::close(end) }?;
    }
    Ok(())
}

/// Moves bytes through a file and the buffer.
fn through(
    call: unsafe fn(u64, u64, u64) -> Result<u64, Refusal>,
    file: u64,
    bytes: u64,
) -> Result<u64, Refusal> {
    // SAFETY: the buffer has room for a page.
    unsafe { call(file, BUFFER, bytes) }
}

/// Has a child do something and end.
fn child(does: impl FnOnce() -> Result<(), Refusal>) -> Result<u64, Refusal> {
    // SAFETY: the child is a copy that ends below.
    let number = unsafe { system::fork(0) }?;
    if number == 0 {
        let failed = does().is_err();
        // SAFETY: takes no memory.
        unsafe { system::exit(failed.into()) }?;
    }
    Ok(number)
}

fn wait(number: u64) -> Result<u64, Refusal> {
    // SAFETY: nothing is written.
    unsafe { system::wait4(number, 0, 0, 0) }
}

/// The fault of a write to a page that a child has as well, in a table that is the writer's already.
fn copy_on_write() -> Measured {
    anonymous(HERE, 32, POPULATE)?;
    let pipe = new_pipe()?;
    let number = child(|| through(system::read, pipe[0], 1).map(drop))?;
    touch(HERE);
    // So is the stack, which the count below is written to.
    let mut spot = 0_u8;
    touch((&raw mut spot) as u64);
    let ticks = count(|| {
        touch(HERE + 8 * PAGE);
        Ok(())
    })?;
    through(system::write, pipe[1], 1)?;
    wait(number)?;
    close_both(pipe)?;
    release(HERE, 32)?;
    Ok(ticks)
}

/// A child that writes to each page that it has of its parent's, from the fork until it has.
fn fork_write() -> Measured {
    anonymous(HERE, WRITTEN, POPULATE)?;
    let pipe = new_pipe()?;
    let start = tsc();
    let number = child(|| {
        for page in 0..WRITTEN {
            touch(HERE + page * PAGE);
        }
        let end = tsc();
        // SAFETY: the number's bytes.
        unsafe { system::write(pipe[1], (&raw const end) as u64, 8) }.map(drop)
    })?;
    wait(number)?;
    let mut end = 0_u64;
    // SAFETY: there is room for the number.
    unsafe { system::read(pipe[0], (&raw mut end) as u64, 8) }?;
    close_both(pipe)?;
    release(HERE, WRITTEN)?;
    Ok(end - start)
}

/// A heap that is one page larger, and the first write there.
fn brk() -> Measured {
    // SAFETY: nothing of the program is in the heap.
    let end = unsafe { system::brk(0) }?.next_multiple_of(PAGE);
    // SAFETY: nothing of the program is in the heap.
    unsafe { system::brk(end + PAGE) }?;
    touch(end);
    let ticks = count(|| {
        // SAFETY: nothing of the program is in the heap.
        unsafe { system::brk(end + 2 * PAGE) }?;
        touch(end + PAGE);
        Ok(())
    })?;
    // SAFETY: nothing of the program is in the heap.
    unsafe { system::brk(end) }?;
    Ok(ticks)
}

/// A byte into a pipe and out of it.
fn pipe() -> Measured {
    let ends = new_pipe()?;
    let once = || {
        through(system::write, ends[1], 1)?;
        through(system::read, ends[0], 1)
    };
    // The first byte takes the pipe a page.
    once()?;
    let ticks = count(once)?;
    close_both(ends)?;
    Ok(ticks)
}

/// A byte to another process and back.
fn ping_pong() -> Measured {
    const TRIPS: usize = 4;
    let (there, back) = (new_pipe()?, new_pipe()?);
    let number = child(|| {
        for _ in 0..TRIPS {
            through(system::read, there[0], 1)?;
            through(system::write, back[1], 1)?;
        }
        Ok(())
    })?;
    let trip = || {
        count(|| {
            through(system::write, there[1], 1)?;
            through(system::read, back[0], 1)
        })
    };
    for _ in 2..TRIPS {
        trip()?;
    }
    let ticks = trip()?;
    // In the last one the child ends before its parent goes on.
    trip()?;
    wait(number)?;
    close_both(there)?;
    close_both(back)?;
    Ok(ticks)
}

/// A page of a file in memory, written or read.
fn transfer(writes: bool) -> Measured {
    let call = match writes {
        true => system::pwrite,
        false => system::pread,
    };
    // SAFETY: the name is a string, and the buffer has a page.
    unsafe {
        let file = system::memfd_create(c"page".as_ptr() as u64, 0)?;
        system::pwrite(file, BUFFER, PAGE, 0)?;
        let ticks = count(|| call(file, BUFFER, PAGE, 0))?;
        system::close(file)?;
        Ok(ticks)
    }
}

fn open_close() -> Measured {
    // SAFETY: the path is a string.
    count(|| unsafe { system::close(system::open(PATH.as_ptr() as u64, 0, 0)?) })
}

fn fork_exit_wait() -> Measured {
    count(|| wait(child(|| Ok(()))?))
}

/// Another program in a process of its own, up to its end.
fn exec(by: Spawn) -> Measured {
    let arguments = [PATH.as_ptr() as u64, 0];
    let lists = arguments.as_ptr() as u64;
    let words = [PATH.as_ptr() as u64, lists, lists + 8];
    // SAFETY: a path, a list of one argument, and the end of that list as one of none.
    count(|| wait(unsafe { system::spawn(by, words) }?))
}
