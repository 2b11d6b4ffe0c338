//! A kernel's page tables on the host, over the model of Xen: taken over, changed, shared, audited.
//!
//! ```text
//! cargo run -p pagetable --example on_model
//! ```
//!
//! What a kernel brings itself, its machine and the layout of its addresses, is that of this crate's tests
//! here (`tests/common`), and on real Xen that of `xen_pv_rt::memory`.
#![allow(clippy::result_large_err, reason = "an error ends the example")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{BASE, PAGE, World};
use pagetable::user::OnWrite;
use pagetable::{Flags, MmError};

/// Where user mode has its pages.
const USER: u64 = 0x40_0000;

fn main() -> Result<(), MmError> {
    // The live, read-only tables that Xen hands to a domain of 16 MiB, and a direct map of all memory.
    let mut world = World::small().populated();
    let tables = &mut *world.tables;
    println!("{} pages are free", tables.frames().counts().free);

    // Memory of the kernel's: a mapping owns its frames, and gives them back when nothing leads there.
    let frames = [tables.alloc_frame()?, tables.alloc_frame()?];
    let mapping = tables.map_frames(BASE, frames, Flags::DATA)?;
    // SAFETY: nobody has an address in there so far.
    let change = unsafe { tables.protect(BASE, 2, Flags::empty(), Flags::WRITABLE) }?;
    change.commit(tables)?;
    println!("{}", tables.walk(BASE + PAGE));
    (tables.unmap_and_free(mapping)).map_err(|refused| refused.error)?;

    // Tables of the kernel's half stay. What user mode has goes with its space.
    let before = tables.frames().counts().free;

    // A space of user mode's: in lazy sections, what is done goes to Xen together at their ends.
    let parent = tables.create_space()?;
    tables.in_space(&parent, |tables| {
        tables.map_user(USER, 3, Flags::DATA | Flags::USER, |_, page| page.fill(7))?;
        tables.move_user(USER, USER + 8 * PAGE, 3)
    })?;

    // Another that has the same memory until one of the two writes.
    let child = tables.fork_space(&parent)?;
    let page_of = |tables: &mut _, space| {
        let look = |tables: &mut pagetable::Tables<_>| Ok(tables.user_page(USER + 8 * PAGE));
        pagetable::Tables::in_space(tables, space, look)
    };
    assert_eq!(page_of(tables, &parent)?, page_of(tables, &child)?);
    tables.in_space(&child, |tables| {
        tables.make_writable(USER + 8 * PAGE, OnWrite::Copy)
    })?;
    assert_ne!(page_of(tables, &parent)?, page_of(tables, &child)?);

    // Every table and every record says the same, and nothing is lost.
    println!("{}", tables.audit()?);
    for space in [child, parent] {
        tables
            .destroy_space(space)
            .map_err(|refused| refused.error)?;
    }
    let report = tables.audit()?;
    assert!(report.is_clean(), "{report}");
    assert_eq!(tables.frames().counts().free, before);
    println!("all {before} pages are free again");
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
