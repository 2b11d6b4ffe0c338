//! A kernel that takes over the page tables that Xen built, maps a page, uses it, and says so.
#![no_std]
#![no_main]

use xen_pv_rt::memory::{self, Flags, MmError, WORK};
use xen_pv_rt::{Start, entry, println};

entry!(main);

fn main(start: Start) -> Result<(), MmError> {
    let tables = memory::take_over(start)?;
    println!("{} pages are free", tables.frames().counts().free);

    let page = WORK.start;
    let frame = tables.alloc_frame()?;
    let mapping = tables.map_frames(page, [frame], Flags::DATA)?;
    println!("{}", tables.walk(page));

    let word = core::ptr::with_exposed_provenance_mut::<u64>(page as usize);
    // SAFETY: mapped just now, writable, and nobody else's.
    let read = unsafe {
        word.write_volatile(page);
        word.read_volatile()
    };
    assert_eq!(read, page);
    (tables.unmap_and_free(mapping)).map_err(|refused| refused.error)
}
