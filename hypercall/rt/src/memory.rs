//! The page tables, taken over in one call, for kernels that are content with these places.
//!
//! ```text
//! ffff8000_00000000  Xen, and the M2P table that it shows
//! ffff8880_00000000  direct map of all memory but the image's constants
//! ffffc000_00000000  p2m list, where the notes asked Xen to put it
//! ffffc900_00000000  WORK: where the kernel maps what it likes
//! ffffffff_80000000  the image
//! ffffffff_c0000000  fixmap: the console's ring
//! ```
//!
//! A kernel with places of its own implements [`Layout`] and does what [`take_over`] does.

use core::ops::Range;

use hypercall::Pfn;
use pagetable::layout::Layout;
use pagetable::machine::Machine;
use pagetable::pv::Guest;
use pagetable::takeover::{Initial, Segments};
use pagetable::{Domain, Pte};
use spin::Mutex;

pub use pagetable::{Flags, MmError};

use crate::console::{self, ring::Page};
use crate::entry::{Start, XEN, map_guard};
use crate::image::{Image, M2P, P2M_LIST, VIRT_BASE};
use crate::start_info::ConsoleInfo;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Where the kernel maps what it likes.
pub const WORK: Range<u64> = 0xffff_c900_0000_0000..0xffff_c900_0000_0000 + TIB / 2;

/// Where the ring of the console is mapped for good.
const RING: u64 = Places::FIXMAP.start;

/// The address space.
pub struct Places;

impl Layout for Places {
    const XEN: Range<u64> = M2P..M2P + 8 * TIB;
    const DIRECT: Range<u64> = 0xffff_8880_0000_0000..0xffff_8880_0000_0000 + 16 * TIB;
    const P2M: Range<u64> = P2M_LIST..P2M_LIST + TIB / 2;
    const IMAGE: Range<u64> = VIRT_BASE..VIRT_BASE + GIB;
    const FIXMAP: Range<u64> = VIRT_BASE + GIB..VIRT_BASE + GIB + (2 << 20);
    const RUNTIME: &'static [Range<u64>] = &[WORK];
}

/// The page tables of the vCPU that took them over.
pub type Tables = pagetable::Tables<Guest<Places>>;

static DOMAIN: Domain<Guest<Places>> = Domain::new(Guest::unknown());
// SAFETY: the one vCPU that runs uses them; a second would be given others by its kernel.
static TABLES: Mutex<Tables> = Mutex::new(unsafe { Tables::new(XEN, &DOMAIN) });

/// Takes over the page tables that Xen built: from here on all memory is the kernel's, through the
/// direct map, and what Xen left of the boot is free. Built where it stays: a queue is large.
///
/// # Errors
/// The tables are not what the ABI promises, or Xen's refusal.
///
/// # Panics
/// Xen refuses to map the page below the stack, which it had mapped.
pub fn take_over(start: Start) -> Result<&'static mut Tables, MmError> {
    let Start {
        info, given, stack, ..
    } = start;
    // SAFETY: `given` is Xen's, the layout is that of the linker script and of the notes, and no device
    // is mapped.
    let machine = unsafe { Guest::<Places>::new(given) };
    let image = Image::current();
    // The tables are surveyed as Xen built them, and leave the guard page out themselves.
    let guard = Pfn::truncate((image.stack_guard.start - VIRT_BASE) / 4096);
    let frame = machine.mfn(guard).ok_or(MmError::NoMemory {
        pfn: guard.as_u64(),
    })?;
    // SAFETY: the page that was there, which nobody uses.
    if let Err(error) = unsafe { map_guard(Pte::from_mfn(frame, Flags::DATA).bits()) } {
        panic!("guard page of the stack: {error}");
    }
    let from = machine.start(given, stack, segments(image));
    // Whoever has a `Start` comes by once, and nobody else has the tables.
    let tables = spin::MutexGuard::leak(TABLES.lock());
    // SAFETY: nothing has used the domain.
    unsafe { DOMAIN.set_machine(machine) };
    let mut early = Initial::survey(tables, from)?.fixmap()?;
    if let ConsoleInfo::Ring { mfn, .. } = info.console {
        // SAFETY: the frame is the console's, all atomics, and this is its place for good.
        console::move_ring(unsafe {
            early.map_fixed(RING, mfn, Flags::DATA)?;
            &*core::ptr::with_exposed_provenance::<Page>(RING as usize)
        });
    }
    early.direct_map()?;
    Ok(tables)
}

/// The parts of the image as the takeover asks for them.
fn segments(image: Image) -> Segments {
    Segments {
        kept_text: image.text.clone(),
        text: image.text,
        rodata: image.rodata,
        data: image.data,
        guard: image.stack_guard,
    }
}
