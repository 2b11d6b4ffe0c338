//! How another processor of a bare machine begins: in real mode, at the start of a page below 1 MiB (SDM
//! volume 3, 9.4), from where it goes to long mode in one step.
//!
//! That page, and a few tables for the time in which it runs there, are taken from memory and given back
//! when all processors have arrived. The tables map the page at its physical address, and
//! beside that the kernel's half, by the entries of the kernel's own root. The processor gets the control
//! registers of the one that starts it: as many levels, and the same features.

extern crate alloc;

use alloc::collections::TryReserveError;
use core::arch::global_asm;
use core::fmt;

use heapless::Vec;
use marks::native;
use x86_64::registers::control::{Cr0, Cr4};
use x86_64::registers::model_specific::{Efer, EferFlags};

use super::apic::{self, Command};
use super::processors::Made;
use crate::lock::Lock;
use crate::mm::frames::{Frame, FrameError};
use crate::mm::machine::Machine;
use crate::mm::{self, Flags, MmError, Running, Tables};
use crate::{rank, time};

const PAGE: u64 = 4096;
/// The first frame that real mode does not reach.
const END: u64 = 0x100;
/// Pages: the code, and a table of each level.
const PAGES: usize = 6;
/// How long a processor may take to arrive, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;
/// How long after the one the next command is sent, in nanoseconds (Intel MultiProcessor Specification,
/// B.4).
const AFTER_INIT: u64 = 10_000_000;
const AFTER_START: u64 = 200_000;

/// Why a processor was not started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// There is no memory below 1 MiB that nobody uses.
    NoPage(MmError),
    /// Page tables.
    Mm(MmError),
    /// The heap has no room.
    NoMemory,
    /// It was told to begin, and does not come.
    Silent(u32),
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotStarted::NoPage(e) => write!(f, "no page below 1 MiB to begin in: {e}"),
            NotStarted::Mm(e) => e.fmt(f),
            NotStarted::NoMemory => f.write_str("the heap has no room for a list of processors"),
            NotStarted::Silent(id) => {
                let seconds = PATIENCE / 1_000_000_000;
                write!(
                    f,
                    "the processor of APIC id {id} does not begin within {seconds} s"
                )
            }
        }
    }
}

impl From<MmError> for NotStarted {
    fn from(error: MmError) -> NotStarted {
        NotStarted::Mm(error)
    }
}

impl From<TryReserveError> for NotStarted {
    fn from(_: TryReserveError) -> NotStarted {
        NotStarted::NoMemory
    }
}

// Addresses are offsets in the page. Data is reached by DS, which is CS here.
global_asm!(
    ".pushsection .native.text, \"ax\", @progbits",
    ".balign 16",
    "native_start:",
    ".code16",
    "    cli",
    "    cld",
    "    movw %cs, %ax",
    "    movw %ax, %ds",
    "    lgdtl native_start_table - native_start",
    "    movl native_start_cr4 - native_start, %eax",
    "    movl %eax, %cr4",
    "    movl native_start_cr3 - native_start, %eax",
    "    movl %eax, %cr3",
    "    movl $0xc0000080, %ecx",
    "    xorl %edx, %edx",
    "    movl native_start_efer - native_start, %eax",
    "    wrmsr",
    // Protection and paging at once: this is long mode, as soon as a segment says so.
    "    movl native_start_cr0 - native_start, %eax",
    "    movl %eax, %cr0",
    "    ljmpl *(native_start_long_pointer - native_start)",
    ".code64",
    "native_start_long:",
    "    movq native_start_stack(%rip), %rsp",
    "    movq native_start_argument(%rip), %rdi",
    "    movq native_start_root(%rip), %rsi",
    "    jmpq *native_start_entry(%rip)",
    // Null, and code of 64 bits.
    ".balign 8",
    "native_start_segments:",
    "    .quad 0, 0x00af9b000000ffff",
    "native_start_words:",
    "native_start_stack: .quad 0",
    "native_start_argument: .quad 0",
    "native_start_root: .quad 0",
    "native_start_entry: .quad 0",
    "native_start_cr3: .long 0",
    "native_start_cr4: .long 0",
    "native_start_efer: .long 0",
    "native_start_cr0: .long 0",
    "native_start_long_pointer: .long 0",
    "    .word 8",
    "native_start_table: .word 15",
    "    .long 0",
    "    .long 0",
    "native_start_end:",
    ".popsection",
    options(att_syntax)
);

unsafe extern "C" {
    static native_start: u64;
    static native_start_long: u8;
    static native_start_segments: u64;
    static native_start_words: u64;
    static native_start_end: u64;
}

/// Where a processor is to begin in long mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The instruction; RDI and RSI have the next two.
    pub(crate) code: u64,
    pub(crate) argument: u64,
    /// The root table that it is to load first.
    pub(crate) root: u64,
    pub(crate) stack: u64,
}

/// The pages, while processors are started.
static LOW: Lock<Vec<Frame, PAGES>, rank::Cpus> = Lock::new(Vec::new());

/// Takes the pages from memory, for the processors that are started next.
///
/// # Errors
/// There are not as many below 1 MiB.
#[native]
pub(crate) fn take_pages() -> Result<(), NotStarted> {
    let mut low = LOW.lock();
    mm::with(|tables| {
        for _ in 0..=tables.fold().top() {
            let frame = tables.alloc_frame_below(END);
            // There is room for each.
            drop(low.push(frame.map_err(NotStarted::NoPage)?));
        }
        Ok(())
    })
}

/// Gives them back.
///
/// # Errors
/// One is not what it was.
#[native]
pub(crate) fn give_pages_back() -> Result<(), MmError> {
    let mut low = LOW.lock();
    mm::with(|tables| {
        while let Some(frame) = low.pop() {
            tables.free_frame(frame)?;
        }
        Ok(())
    })
}

/// Starts a processor that was made, and returns when it has arrived. There are pages for it.
///
/// # Errors
/// See [`NotStarted`].
///
/// # Safety
/// What it finds at its entry is made for it alone.
#[native]
pub(crate) unsafe fn start(made: &Made, entry: Entry) -> Result<(), NotStarted> {
    let mut low = LOW.lock();
    let page = mm::with(|tables| prepare(tables, &mut low, entry))?;
    begin(made, page)
}

/// Fills the pages; the number of that where the code is.
#[native]
fn prepare(
    tables: &mut Tables<Running>,
    frames: &mut Vec<Frame, PAGES>,
    entry: Entry,
) -> Result<u8, NotStarted> {
    let numbers = frames.iter().map(|frame| frame.pfn().as_u64());
    let numbers: Vec<u64, PAGES> = numbers.collect();
    let [code, top, ..] = numbers[..] else {
        return Err(NotStarted::NoPage(FrameError::OutOfMemory.into()));
    };
    // SAFETY: a table in use, whose entries change atomically.
    let root = unsafe { tables.machine().live(tables.root()) };
    let root = root.ok_or(MmError::NoMemory {
        pfn: tables.root().as_u64(),
    })?;
    for (level, frame) in frames[1..].iter_mut().enumerate() {
        let words = tables.frame_memory(frame);
        words.fill(0);
        if level == 0 {
            for (word, live) in words.iter_mut().zip(root.iter()).skip(256) {
                *word = live;
            }
        }
        match numbers.get(level + 2) {
            Some(next) => words[0] = (next * PAGE) | Flags::TABLE.bits(),
            // The code lies below 1 MiB, which the last table maps.
            None => words[code as usize] = (code * PAGE) | Flags::CODE.bits(),
        }
    }
    let words = tables.frame_memory(&mut frames[0]);
    // SAFETY: the code is some hundred bytes of the image, aligned, from the one label to the other.
    let image = unsafe {
        let count = (&raw const native_start_end).offset_from_unsigned(&raw const native_start);
        core::slice::from_raw_parts(&raw const native_start, count)
    };
    words[..image.len()].copy_from_slice(image);
    let begin = (&raw const native_start).addr();
    let offset = |at: usize| (at - begin) as u64;
    let long = code * PAGE + offset((&raw const native_start_long).addr());
    let segments = code * PAGE + offset((&raw const native_start_segments).addr());
    let efer = Efer::read() - EferFlags::LONG_MODE_ACTIVE;
    let parameters = [
        entry.stack,
        entry.argument,
        entry.root,
        entry.code,
        (top * PAGE) | (Cr4::read_raw() << 32),
        efer.bits() | Cr0::read_raw() << 32,
        // The selector of the code, and the limit of the segments' table.
        long | 8 << 32 | 15 << 48,
        segments,
    ];
    let first = offset((&raw const native_start_words).addr()) as usize / 8;
    words[first..first + parameters.len()].copy_from_slice(&parameters);
    Ok(code as u8)
}

/// Sends the processor on its way, and waits for it.
#[native]
fn begin(made: &Made, page: u8) -> Result<(), NotStarted> {
    let id = made.apic();
    apic::send(id, Command::Init);
    pause(AFTER_INIT);
    // Twice, as the first may be lost; one that runs already does not hear the second.
    for _ in 0..2 {
        apic::send(id, Command::Start(page));
        pause(AFTER_START);
        if made.has_arrived() {
            return Ok(());
        }
    }
    let began = time::counted().unwrap_or(0);
    while time::counted().unwrap_or(u64::MAX).saturating_sub(began) < PATIENCE {
        if made.has_arrived() {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    // Wherever it is, it goes no further, and no summons is sent there.
    apic::send(id, Command::Init);
    pause(AFTER_INIT);
    made.give_up();
    Err(NotStarted::Silent(id))
}

/// Lets some time pass; where there is no clock, as much as some instructions take.
#[native]
fn pause(nanoseconds: u64) {
    let began = time::counted();
    for _ in 0..nanoseconds {
        let passed = time::counted().zip(began).map(|(now, began)| now - began);
        if passed.is_some_and(|passed| passed >= nanoseconds) {
            return;
        }
        core::hint::spin_loop();
    }
}
