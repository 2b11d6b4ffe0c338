//! The FIFO ABI, where Xen has it: a word a port, in pages that are given to Xen as ports need them, and
//! queues by priority for each vCPU ([`hypercall::fifo`]).
//!
//! A domain begins with two levels, and a restored one again. It changes over when the boot vCPU's
//! control block is given to Xen, and never back: so all memory that this takes is there before. Xen keeps
//! the pages for as long as the domain lives.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use hypercall::event::{Port, expand_array, init_control, set_priority};
use hypercall::fifo::{
    Block, MASKED, PENDING, PORTS, PORTS_OF_A_PAGE, Reader, Shared, Taken, Word,
};
use hypercall::{MachAddr, XenError};

use crate::cpu::{self, Area};
use crate::lock::Lock;
use crate::mm::machine::Machine;
use crate::mm::{self, MmError};
use crate::rank;
use crate::xen::HV;

/// Pages of words that there can be.
const PAGES: usize = (PORTS / PORTS_OF_A_PAGE) as usize;
/// Words that an upcall looks at. A Xen that means harm could have it go on for ever.
const MOST_WORDS: u32 = 1 << 16;

/// A page of words.
type Page = [Word; PORTS_OF_A_PAGE as usize];

/// The pages of words, the first ones that there are.
static WORDS: [AtomicPtr<Page>; PAGES] = [const { AtomicPtr::new(core::ptr::null_mut()) }; PAGES];

/// How many of them Xen has.
static GIVEN: Lock<usize, rank::EventWords> = Lock::new(0);

/// Whether the ABI is used.
static USED: AtomicBool = AtomicBool::new(false);

/// Why the ABI is not used, or knows a vCPU or a port not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotReady {
    /// The heap has no room for a control block.
    NoMemory,
    /// The page tables refuse a page for words.
    Memory(MmError),
    /// Xen refuses.
    Xen(XenError),
}

impl From<MmError> for NotReady {
    fn from(error: MmError) -> NotReady {
        NotReady::Memory(error)
    }
}

impl From<XenError> for NotReady {
    fn from(error: XenError) -> NotReady {
        NotReady::Xen(error)
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReady::NoMemory => f.write_str("no memory for the events of a vCPU"),
            NotReady::Memory(e) => e.fmt(f),
            NotReady::Xen(e) => e.fmt(f),
        }
    }
}

/// What a vCPU has of it.
struct Own {
    block: Block,
    reader: Lock<Reader, rank::EventWords>,
}

impl Own {
    /// That of a vCPU, if it has any.
    fn of(area: &Area) -> Option<&'static Own> {
        // SAFETY: null, or what `make` leaked.
        unsafe { area.events().cast::<Own>().as_ref() }
    }

    /// Makes what a vCPU has of it, once, for good.
    fn make(area: &Area) -> Result<&'static Own, NotReady> {
        if let Some(own) = Own::of(area) {
            return Ok(own);
        }
        let mut memory = Vec::new();
        if memory.try_reserve_exact(1).is_err() {
            return Err(NotReady::NoMemory);
        }
        memory.push(Own {
            block: Block::new(),
            reader: Lock::new(Reader::new()),
        });
        let own: &'static Own = &memory.leak()[0];
        area.set_events(core::ptr::from_ref(own).cast_mut().cast());
        Ok(own)
    }

    /// Gives Xen the block of the vCPU, which has none in this domain.
    fn give(&'static self, number: u32) -> Result<(), NotReady> {
        self.block.clear();
        *self.reader.lock() = Reader::new();
        let place = place(core::ptr::from_ref(&self.block).addr() as u64)?;
        // SAFETY: aligned as it is it lies within its page, which the heap never gives up.
        unsafe { init_control(&HV, number, place) }?;
        Ok(())
    }
}

impl Shared for Own {
    fn take_ready(&self) -> u32 {
        self.block.take_ready()
    }

    fn head(&self, queue: usize) -> u32 {
        self.block.head(queue)
    }

    fn clear(&self, port: Port, bits: u32) -> Option<u32> {
        Some(word(port)?.fetch_and(!bits, Ordering::AcqRel))
    }
}

/// Where the memory at an address is for Xen.
fn place(va: u64) -> Result<MachAddr, NotReady> {
    let entry = mm::with(|tables| tables.ptep_get(va))?;
    let mfn = entry.mfn().ok_or(MmError::NotMapped { va })?;
    Ok(MachAddr::from_frame(mfn, va))
}

/// Whether the ABI is used.
pub(super) fn is_used() -> bool {
    USED.load(Ordering::Relaxed)
}

/// Changes over to it, in a domain that has two levels. Every port is masked.
///
/// # Errors
/// Xen has no such ABI, or there is no memory: two levels it is.
pub(super) fn begin() -> Result<(), NotReady> {
    USED.store(false, Ordering::Relaxed);
    let own = Own::make(cpu::here())?;
    page(0)?;
    own.give(cpu::here().number())?;
    USED.store(true, Ordering::Relaxed);
    let mut given = GIVEN.lock();
    *given = 0;
    let there = WORDS
        .iter()
        .take_while(|page| !page.load(Ordering::Relaxed).is_null());
    for index in 0..there.count() {
        give(index).unwrap_or_else(|e| panic!("Xen has the FIFO ABI, but takes no words: {e}"));
        *given += 1;
    }
    Ok(())
}

/// Readies a vCPU that does not run yet, before a port is bound there.
///
/// # Errors
/// No memory, or Xen's refusal.
pub(super) fn prepare(area: &Area) -> Result<(), NotReady> {
    match is_used() {
        true => Own::make(area)?.give(area.number()),
        false => Ok(()),
    }
}

/// The page of words with this number, which is made if need be.
fn page(index: usize) -> Result<NonNull<Page>, MmError> {
    if let Some(page) = NonNull::new(WORDS[index].load(Ordering::Acquire)) {
        return Ok(page);
    }
    mm::with(|tables| {
        let frame = tables.alloc_frame()?;
        // Xen's for good, as soon as it has it.
        let pfn = tables.share_frame(frame)?;
        let page = NonNull::new(tables.machine().memory(pfn).cast::<Page>());
        let page = page.ok_or(MmError::NoMemory { pfn: pfn.as_u64() })?;
        // SAFETY: the frame was handed out just now, and the direct map has it for good. Zeros are words.
        unsafe { page.write_bytes(0, 1) };
        WORDS[index].store(page.as_ptr(), Ordering::Release);
        Ok(page)
    })
}

/// Gives Xen a page of words, all of them masked.
fn give(index: usize) -> Result<(), NotReady> {
    let page = page(index)?;
    // SAFETY: a page of words, for good.
    for word in unsafe { page.as_ref() } {
        word.store(MASKED, Ordering::Relaxed);
    }
    let place = place(page.addr().get() as u64)?;
    // SAFETY: the page is shared with Xen for good, and holds words.
    unsafe { expand_array(&HV, place.frame()) }?;
    Ok(())
}

/// Has Xen know the word of a port.
///
/// # Errors
/// No memory, or Xen's refusal.
pub(super) fn reach(port: Port) -> Result<(), NotReady> {
    let mut given = GIVEN.lock();
    while *given <= (port.0 / PORTS_OF_A_PAGE) as usize {
        give(*given)?;
        *given += 1;
    }
    Ok(())
}

/// Pages of words that Xen has.
pub(super) fn pages() -> u64 {
    *GIVEN.lock() as u64
}

/// Whether the ABI has the port.
pub(super) fn has(port: Port) -> bool {
    port.0 < PORTS
}

/// The word of a port.
fn word(port: Port) -> Option<&'static Word> {
    let page = WORDS.get((port.0 / PORTS_OF_A_PAGE) as usize)?;
    // SAFETY: null, or a page of words for good.
    let page = unsafe { page.load(Ordering::Acquire).as_ref() }?;
    page.get((port.0 % PORTS_OF_A_PAGE) as usize)
}

/// Has events of `port` wait.
pub(super) fn mask(port: Port) {
    if let Some(word) = word(port) {
        word.fetch_or(MASKED, Ordering::AcqRel);
    }
}

/// Whether `port` was raised; it is not from now on.
pub(super) fn take(port: Port) -> bool {
    word(port).is_some_and(|word| word.fetch_and(!PENDING, Ordering::AcqRel) & PENDING != 0)
}

/// Whether `port` is raised.
pub(super) fn is_raised(port: Port) -> bool {
    word(port).is_some_and(|word| word.load(Ordering::Acquire) & PENDING != 0)
}

/// Has a port, which is masked, served in another order than those of the usual priority, 7.
pub(super) fn prefer(port: Port, priority: u32) -> Result<(), XenError> {
    set_priority(&HV, port, priority)
}

/// Calls `serve` for the ports that are raised, by priority and in the order in which they were, until
/// none is; false if it is to be called once more a while later. The byte says that there is something.
pub(super) fn each_raised(pending: &AtomicU8, serve: fn(Port)) -> bool {
    let Some(own) = Own::of(cpu::here()) else {
        return true;
    };
    // What is raised from here on sets it again, after the queue.
    pending.store(0, Ordering::SeqCst);
    for _ in 0..MOST_WORDS {
        // The lock is free while a handler runs.
        let taken = own.reader.lock().next(own);
        match taken {
            Some(Taken::Port(port, word)) if word & (PENDING | MASKED) == PENDING => serve(port),
            // It is not raised any more, or whoever masked it looks for himself.
            Some(Taken::Port(..)) => {}
            Some(Taken::Stray(number)) => {
                log::warn!(target: "event", "Xen says that {number} is raised, which is no port");
            }
            None => return true,
        }
    }
    false
}
