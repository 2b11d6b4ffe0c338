//! The kernel heap: memory that is there is served, memory that is not is an error.

use super::alloc::vec::Vec;

use super::context::{Context, PAGE};
use super::{TestResult, expect_eq, selftest};
use crate::mm::{self, Flags, layout};

/// An allocation of several pages is served, can be written from end to end, and gives its memory
/// back: the same again needs no growth. One larger than the heap's whole part of the address space
/// is refused with an error, and the heap works as before.
fn serves_and_refuses(context: &mut Context) -> TestResult {
    const BYTES: usize = 100_000;
    let mut grown = [0; 2];
    for grown in &mut grown {
        let mut bytes = Vec::<u8>::new();
        expect_eq!(
            bytes.try_reserve_exact(BYTES).is_ok(),
            true,
            "100 kB are served"
        );
        bytes.resize(BYTES, 0x5a);
        expect_eq!(
            bytes.iter().all(|byte| *byte == 0x5a),
            true,
            "what was written is there"
        );
        *grown = crate::heap::pages();
    }
    expect_eq!(grown[1], grown[0], "pages of the heap, the second time");
    let refused = Vec::<u8>::new().try_reserve_exact(1 << 40).is_err();
    expect_eq!(refused, true, "1 TiB is refused");
    expect_eq!(
        crate::heap::pages(),
        grown[0],
        "pages of the heap, after a refusal"
    );
    context.note(format_args!("({} pages)", grown[0]));
    Ok(())
}
selftest!("heap.serves_and_refuses", serves_and_refuses, needs EVERYWHERE);

/// A heap that cannot grow, as something is mapped where it would, loses nothing by trying.
fn refused_growth(context: &mut Context) -> TestResult {
    const BYTES: usize = 1 << 20;
    context.with_frames(|_, pile| {
        let next = layout::HEAP.start + crate::heap::pages() * PAGE;
        let free = || mm::with(|tables| tables.frames().counts().free);
        mm::with(|tables| {
            // SAFETY: the frame is the test's; the heap has not come to this page yet.
            unsafe { tables.map(next, pile.pfns().take(1), Flags::CONST) }?.commit(tables)
        })?;
        let before = free();
        let served = (0..10).any(|_| Vec::<u8>::new().try_reserve_exact(BYTES).is_ok());
        let after = free();
        mm::with(|tables| {
            // SAFETY: mapped above, and not the heap's.
            unsafe { tables.unmap(next, 1) }?.commit(tables)
        })?;
        expect_eq!(served, false, "memory is served beyond what is in the way");
        expect_eq!(after, before, "free frames after ten growths that failed");
        Ok(())
    })
}
selftest!("heap.refused_growth", refused_growth, needs EVERYWHERE);
