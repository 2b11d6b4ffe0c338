//! From Xen's page tables to a page of one's own.

use core::ops::Range;

use hypercall::abi::start_info::start_info;
use pagetable::layout::Layout;
use pagetable::pv::Guest;
use pagetable::takeover::{Initial, Segments};
use pagetable::{Domain, Flags, MmError, Tables};

use crate::entry::XEN;

/// Where Xen is to put the p2m list.
pub(crate) const P2M_LIST: u64 = 0xffff_c000_0000_0000;
/// Where the page is mapped.
const PAGE: u64 = 0xffff_c900_0000_0000;

struct Places;

static DOMAIN: Domain<Guest<Places>> = Domain::new(Guest::unknown());

impl Layout for Places {
    const XEN: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
    const DIRECT: Range<u64> = 0xffff_8880_0000_0000..0xffff_9880_0000_0000;
    const P2M: Range<u64> = P2M_LIST..P2M_LIST + (1 << 39);
    const IMAGE: Range<u64> = linker::VIRT_BASE..linker::VIRT_BASE + (1 << 30);
    const FIXMAP: Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_c020_0000;
    const RUNTIME: &'static [Range<u64>] = core::slice::from_ref(&(PAGE..PAGE + (1 << 39)));
}

pub(crate) fn run(info: &start_info, stack: u64) -> Result<(), MmError> {
    let image = linker::Image::current();
    let image = Segments {
        text: image.text,
        rodata: image.rodata,
        data: image.data,
        guard: image.stack_guard,
    };
    // SAFETY: `info` is Xen's, the layout is the linker script's, and no device is mapped.
    let machine = unsafe { Guest::<Places>::new(info) };
    let start = machine.start(info, stack, image);
    // SAFETY: boot comes by here once, before anything uses the domain, which has these tables only.
    let mut tables = unsafe {
        DOMAIN.set_machine(machine);
        Tables::new(XEN, &DOMAIN)
    };
    (Initial::survey(&mut tables, start)?.fixmap()?).direct_map()?;

    let frame = tables.alloc_frame()?;
    let mapping = tables.map_frames(PAGE, [frame], Flags::DATA)?;
    let page = core::ptr::with_exposed_provenance_mut::<u64>(PAGE as usize);
    // SAFETY: mapped just now, writable, and nobody else's.
    let read = unsafe {
        page.write_volatile(PAGE);
        page.read_volatile()
    };
    assert_eq!(read, PAGE);
    (tables.unmap_and_free(mapping)).map_err(|refused| refused.error)
}
