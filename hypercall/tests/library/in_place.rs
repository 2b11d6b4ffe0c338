//! The queue of a vCPU is made where it stays: on a stack that has no room for one.

use std::mem::{MaybeUninit, size_of};

use hypercall::batch::DEFAULT_CAPACITY;
use hypercall::{Batch, Hypervisor, Level, MachAddr, Mfn, Mmu, Op, Update};

/// Agrees to everything.
struct Agreeable;

impl Hypervisor for Agreeable {
    unsafe fn call(&self, _: Op, _: [u64; 5]) -> i64 {
        0
    }
    fn mask_upcalls(&self) -> bool {
        true
    }
    fn restore_upcalls(&self, _: bool) {}
}

type Large = Mmu<Agreeable, (), 16384>;

#[test]
fn a_queue_is_made_on_a_stack_that_has_no_room_for_it() {
    const STACK: usize = 128 * 1024;
    const { assert!(size_of::<Large>() > 4 * STACK) };
    let mut place = Box::<Large>::new_uninit();
    let work = move || {
        let mmu = Large::new_in(&mut place, Agreeable, |completion| completion.write(()));
        let slot = MachAddr::of_entry(Mfn::truncate(0x1234), 7);
        mmu.enable().unwrap();
        // SAFETY: there are no tables.
        unsafe { mmu.set(Update::new(Level::L1, slot, 0x5000_0061)) }.unwrap();
        assert_eq!(mmu.read(slot, 0), 0x5000_0061);
        assert_eq!(mmu.batch().len(), 1);
        mmu.disable().unwrap();
        assert!(mmu.batch().is_empty() && mmu.refused().is_none());
    };
    let thread = std::thread::Builder::new().stack_size(STACK);
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn what_was_in_the_place_before_does_not_matter() {
    let mut place = MaybeUninit::<Mmu<Agreeable>>::uninit();
    // SAFETY: the place is this test's, and its bytes are no value yet.
    unsafe { place.as_mut_ptr().write_bytes(0xff, 1) };
    let mmu = Mmu::new_in(&mut place, Agreeable, |completion| completion.write(()));
    assert!(mmu.batch().is_empty() && !mmu.lazy().is_lazy() && mmu.refused().is_none());
    let slot = MachAddr::of_entry(Mfn::truncate(1), 0);
    assert_eq!(mmu.read(slot, 7), 7);
    assert_eq!(mmu.batch().stats().hypercalls, 0);
}

#[test]
fn the_documentation_says_how_large_it_is() {
    let kib = size_of::<Batch<DEFAULT_CAPACITY>>() as f64 / 1024.0;
    assert!((35.5..36.5).contains(&kib), "{kib} KiB, not some 36");
    let more = size_of::<Batch<1024>>() - size_of::<Batch<512>>();
    assert_eq!(more / 512, 52, "bytes an entry");
}
