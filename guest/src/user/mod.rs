//! Programs: processes that run Linux' unmodified static binaries.
//!
//! ```text
//! exec ─▶ memory ─▶ pages ─▶ mm               what a program has
//! process ─▶ thread ─▶ usermode               who runs it, and when it stops
//! thread ─▶ call ─▶ files, memory, process    what it asks for
//! deliver ◀─ signal                           what interrupts it
//! ```
//!
//! The contract is Linux' x86-64 ABI. A program never sees an address of the kernel's, and whatever it
//! does ends at most itself: what it gives is copied before it is looked at, its faults are its
//! signals, and what it takes is taken from memory beyond what the kernel keeps for itself.

mod access;
mod alarm;
mod call;
mod console;
mod copy;
mod deliver;
mod errno;
mod exec;
mod files;
mod futex;
mod memory;
mod pages;
mod proc;
mod process;
mod random;
mod signal;
mod thread;
mod traffic;
mod usage;

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Poll;

use guest_files::{
    Calls, Contents, Descriptors, DeviceNumber, FileSystem, Host, Identity, Limits, MemoryFs,
    Opening, Refusal, System, View, unpack, unpack_lasting,
};
use linux_raw_sys::general as linux;

use crate::ended::Ended;
use crate::usermode::{self, Context};
use crate::{mm, task};
use errno::{Errno, Result, Room};
use memory::{Content, Memory};
use process::New;
use thread::Thread;
use xen_pv_rt::start_info::{ConsoleInfo, Module};

/// The version of Linux whose calls are meant.
const RELEASE: &str = "6.1.0";

/// A program that could not be begun.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// No ramdisk came with the kernel.
    NoRamdisk,
    /// The direct map does not grow up to its end.
    Unreachable(mm::MmError),
    /// Page faults come without their address.
    NoFaultAddresses,
    /// The ramdisk is damaged.
    Ramdisk(Refusal),
    /// The files' own memory.
    Files(Errno),
    /// The program.
    Program(Errno),
}

impl fmt::Display for NotBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotBegun::NoRamdisk => {
                f.write_str("no ramdisk came with the kernel to run a program from")
            }
            NotBegun::Unreachable(e) => write!(f, "the ramdisk cannot be read: {e}"),
            NotBegun::NoFaultAddresses => f.write_str(
                "page faults come without their address here, as they do from Xen 4.17 where QEMU \
                 emulates virtualisation: no program can be run",
            ),
            NotBegun::Ramdisk(refusal) => refusal.fmt(f),
            NotBegun::Files(e) => write!(f, "the root cannot be made: {e:?}"),
            NotBegun::Program(e) => write!(f, "the program cannot be run: {e:?}"),
        }
    }
}

/// Runs a program of the ramdisk that came with the kernel as the first process, and returns when it and
/// all others have ended; all that they had is free then. Its arguments are words, in which `%20` is a
/// blank.
///
/// # Errors
/// See [`NotBegun`].
pub(crate) fn run(
    ramdisk: Option<Module>,
    console: ConsoleInfo,
    path: &str,
    arguments: &[u8],
) -> Result<Ended, NotBegun> {
    let ramdisk = ramdisk.ok_or(NotBegun::NoRamdisk)?;
    let bytes = reach(ramdisk).map_err(NotBegun::Unreachable)?;
    run_with(
        |system| unpack_lasting(system, bytes),
        console,
        path,
        arguments,
    )
}

/// As [`run`], from an archive.
///
/// # Errors
/// See [`NotBegun`].
pub(crate) fn run_from(
    archive: &[u8],
    console: ConsoleInfo,
    path: &str,
    arguments: &[u8],
) -> Result<Ended, NotBegun> {
    run_with(|system| unpack(system, archive), console, path, arguments)
}

/// As [`run`], with a root that something fills.
fn run_with(
    fill: impl FnOnce(&System) -> Result<Contents, Refusal>,
    console: ConsoleInfo,
    path: &str,
    arguments: &[u8],
) -> Result<Ended, NotBegun> {
    if !usermode::has_fault_addresses() {
        return Err(NotBegun::NoFaultAddresses);
    }
    let ended = root(fill).and_then(|system| {
        files::set_system(Some(system.clone()));
        begin(&system, path, arguments).map_err(NotBegun::Program)?;
        drop(system);
        Ok(Ended(console::serve(console)))
    });
    thread::join_all();
    traffic::tell();
    pages::release_spares();
    console::remove();
    files::set_system(None);
    ended
}

/// The bytes of the ramdisk: the direct map grows up to their end.
///
/// # Errors
/// No memory for its tables, or Xen's refusal.
fn reach(ramdisk: Module) -> Result<&'static [u8], mm::MmError> {
    let first = ramdisk.pfn.as_u64();
    let end = first + ramdisk.bytes.div_ceil(pages::PAGE);
    mm::with(|tables| tables.reach(end))?;
    let address = mm::layout::DIRECT.start + first * pages::PAGE;
    let start = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the loader put so many bytes there, in frames that are declared the module's and never
    // handed out; the direct map reaches them as of now.
    Ok(unsafe { core::slice::from_raw_parts(start, ramdisk.bytes as usize) })
}

/// Files in memory, of which there may be half.
///
/// # Errors
/// `ENOMEM`.
fn memory_files(host: &Arc<dyn Host>) -> Result<Arc<dyn FileSystem>> {
    /// The number of the next device without a driver, behind those of what the kernel shows.
    static NEXT: AtomicU32 = AtomicU32::new(16);
    let total = mm::with(|tables| tables.frames().counts().total);
    let limits = Limits {
        pages: total / 2,
        inodes: total / 2,
    };
    let number = DeviceNumber::new(0, NEXT.fetch_add(1, Ordering::Relaxed));
    let fs = MemoryFs::new(host.clone(), number, limits, 0o755)?;
    Ok(fs)
}

/// Makes the root of all files, and has it filled from a ramdisk.
fn root(fill: impl FnOnce(&System) -> Result<Contents, Refusal>) -> Result<Arc<System>, NotBegun> {
    let host = files::host();
    let root = memory_files(&host).map_err(NotBegun::Files)?;
    let system = System::new(host, root);
    let contents = fill(&system).map_err(NotBegun::Ramdisk)?;
    log::info!(
        target: "user",
        "ramdisk: {} names, {} bytes", contents.names, contents.bytes
    );
    guest_files::add_memory_devices(&system).map_err(NotBegun::Files)?;
    console::add(&system).map_err(NotBegun::Files)?;
    Ok(system)
}

/// A word of the command line, in which `%` and two digits stand for a byte.
fn decode(word: &[u8]) -> Result<Vec<u8>> {
    let mut decoded = Vec::new();
    decoded.room(word.len())?;
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .first_chunk::<2>()
            .and_then(|digits| core::str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, number) {
            (b'%', Some(number)) => {
                decoded.push(number);
                rest = &after[2..];
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    Ok(decoded)
}

/// Has the first process run a program.
fn begin(system: &Arc<System>, path: &str, words: &[u8]) -> Result<()> {
    let mut arguments = Vec::new();
    let given = words
        .split(|byte| *byte <= b' ')
        .filter(|word| !word.is_empty());
    for word in core::iter::once(path.as_bytes()).chain(given) {
        arguments.room(1)?;
        arguments.push(decode(word)?);
    }
    let variables: [&[u8]; 3] = [
        b"HOME=/",
        b"TERM=linux",
        b"PATH=/sbin:/usr/sbin:/bin:/usr/bin",
    ];
    let with = exec::Arguments {
        path: decode(path.as_bytes())?,
        arguments,
        environment: variables.iter().map(|variable| variable.to_vec()).collect(),
    };
    let (view, descriptors) = (Arc::new(View::new(system)), Arc::new(Descriptors::new()));
    let (waker, began) = (task::waker(), Cell::new(None));
    let calls = Calls {
        system,
        view: &view,
        descriptors: &descriptors,
        who: &Identity::ROOT,
        caller: &files::Kernel,
        waker: &waker,
        began: &began,
    };
    proc::add(system, &calls)?;
    let open = |calls: &Calls<'_>, path: &[u8], flags: u32| {
        let mut opening = Opening::default();
        match calls.open_file(&mut opening, linux::AT_FDCWD, path, flags, 0) {
            Poll::Ready(file) => file,
            Poll::Pending => Err(Errno::EAGAIN),
        }
    };
    let program = |path: &[u8]| {
        let file = open(&calls, path, linux::O_RDONLY)?;
        Ok(Arc::new(files::Mapped::to_run(file)?) as Arc<dyn Content>)
    };
    let (file, with) = exec::interpret(with, program)?;
    let (memory, start) = exec::load(&file, &with, true)?;
    Memory::leave();
    let new = New {
        parent: None,
        memory: Arc::new(memory),
        files: descriptors.clone(),
        view: view.clone(),
        borrows: false,
        end_signal: 0,
    };
    let thread = process::create(new, Thread::new)?;
    thread.process.set_name(&with.path);
    thread.process.note_program(file.place(), &with.arguments);
    // As the leader of a session the first process gets the terminal that it opens.
    let who = files::Who(&thread);
    let calls = Calls {
        caller: &who,
        ..calls
    };
    let started = open(&calls, b"/dev/console", linux::O_RDWR).and_then(|console| {
        for number in 0..3 {
            descriptors.add(console.clone(), number, files::DESCRIPTORS, false)?;
        }
        thread.start(Context::new(start.rip, start.rsp))
    });
    if let Err(e) = started {
        process::withdraw(&thread);
        return Err(e);
    }
    Ok(())
}
