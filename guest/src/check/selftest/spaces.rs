//! Address spaces: separate below, one kernel above, and nothing left of them afterwards.

use hypercall::queue::LazyGuard;

use super::context::{ABSENT_READ, Context, in_table, marked, need_frames};
use super::pile::Pile;
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::mm::entry::{L4, TableLevel, XEN_BITS};
use crate::mm::machine::Machine;
use crate::mm::spaces::{AddressSpace, NotDestroyed};
use crate::mm::{self, Flags, MmError};
use crate::probe;

/// An address of the user half.
const USER: u64 = 0x12_3456_7000;

/// Runs `f` with two new spaces, and goes back to the first one and destroys them, whatever comes
/// of it.
fn with_two(
    context: &mut Context,
    f: impl FnOnce(&Pile, &AddressSpace, &AddressSpace) -> TestResult,
) -> TestResult {
    context.with_frames(|_, pile| {
        let one = mm::with(|tables| tables.create_space())?;
        let two = mm::with(|tables| tables.create_space())?;
        let outcome = f(pile, &one, &two);
        let gone = switch(&boot()).and_then(|()| {
            mm::with(|tables| {
                let ended = [one, two].map(|space| tables.destroy_space(space));
                ended.into_iter().try_for_each(destroyed)
            })?;
            Ok(())
        });
        outcome.and(gone)
    })
}

/// What came of the end of a space; one that Xen did not let go of is lost to the test.
fn destroyed(ended: Result<(), NotDestroyed>) -> Result<(), MmError> {
    ended.map_err(|refused| refused.error)
}

fn boot() -> AddressSpace {
    mm::with(|tables| tables.boot_space())
}

fn switch(to: &AddressSpace) -> TestResult {
    // SAFETY: the user half of every space here is used by the test alone.
    unsafe { mm::switch_space(to) }?;
    Ok(())
}

/// Maps frame `number` of the pile at the user address.
fn map(pile: &Pile, number: usize) -> TestResult {
    mm::with_all(|tables| {
        let frame = pile.pfns().skip(number).take(1);
        // SAFETY: frame and address are the test's.
        unsafe { tables.map(USER, frame, Flags::DATA) }?.commit(tables)
    })?;
    Ok(())
}

/// What the user address reads as, if it is frame `number` of the pile.
fn expected(pile: &Pile, number: usize) -> Result<u64, probe::Fault> {
    pile.pfns()
        .nth(number)
        .map_or(ABSENT_READ, |pfn| Ok(marked(pfn)))
}

/// The same user address leads to different pages in different spaces, and to none in a space that
/// maps nothing there. The page is touched before each switch, so that a translation that survived
/// it would show.
fn separate(context: &mut Context) -> TestResult {
    with_two(context, |pile, one, two| {
        for (space, number) in [(one, 0), (two, 1)] {
            switch(space)?;
            expect_eq!(probe::read(USER), ABSENT_READ, "in a new space");
            map(pile, number)?;
            expect_eq!(probe::read(USER), expected(pile, number), "once mapped");
        }
        for _ in 0..2 {
            for (space, found) in [
                (one, expected(pile, 0)),
                (&boot(), ABSENT_READ),
                (two, expected(pile, 1)),
            ] {
                switch(space)?;
                expect_eq!(probe::read(USER), found, "after a switch");
            }
        }
        Ok(())
    })
}
selftest!("spaces.separate", separate, &[2], needs EVERYWHERE);

/// User mode's root has the user half and nothing else: an entry made there is in both roots, and
/// no entry of the kernel half is in it, so that user code cannot reach the kernel although both
/// run in ring 3.
fn roots(context: &mut Context) -> TestResult {
    with_two(context, |pile, one, _| {
        switch(one)?;
        map(pile, 0)?;
        mm::with(|tables| {
            tables.flush()?;
            let entry = |root, index| {
                let words = tables.machine().memory(root).cast::<u64>();
                // SAFETY: the direct map shows the root read-only; an aligned word of it is read.
                unsafe { words.add(index).read_volatile() }
            };
            let roots = one.roots();
            let user = roots.user.ok_or_else(|| Trouble::error("no user half"))?;
            let shared = entry(roots.kernel, L4::index(USER)) & !XEN_BITS;
            expect_eq!(shared & 1, 1, "present in the kernel's root");
            expect_eq!(
                entry(user, L4::index(USER)) & !XEN_BITS,
                shared,
                "the entry in user mode's root"
            );
            for index in 272..512 {
                expect_eq!(entry(user, index), 0, "slot {index} of user mode's root");
            }
            Ok(())
        })
    })
}
selftest!("spaces.roots", roots, &[1], needs EVERYWHERE);

/// The kernel is the same everywhere: what is mapped in its half in one space is there in all
/// others, and what is unmapped is gone.
fn kernel_half(context: &mut Context) -> TestResult {
    let va = context.area(0);
    with_two(context, |pile, one, two| {
        switch(one)?;
        mm::with(|tables| {
            // SAFETY: the frame and the area are the test's.
            unsafe { tables.map(va, pile.pfns(), Flags::DATA) }?.commit(tables)
        })?;
        for space in [one, two, &boot()] {
            switch(space)?;
            expect_eq!(
                probe::read(va),
                expected(pile, 0),
                "mapped in another space"
            );
        }
        mm::with(|tables| {
            // SAFETY: the area is the test's.
            unsafe { tables.unmap(va, 1) }?.commit(tables)
        })?;
        for space in [two, one] {
            switch(space)?;
            expect_eq!(probe::read(va), ABSENT_READ, "unmapped in another space");
        }
        Ok(())
    })
}
selftest!("spaces.kernel_half", kernel_half, &[1], needs EVERYWHERE);

/// A switch in a lazy section takes the queue along: what was queued for the space that is left is
/// in its tables afterwards, and the section goes on.
fn lazy_switch(context: &mut Context) -> TestResult {
    with_two(context, |pile, one, two| {
        switch(one)?;
        map(pile, 0)?;
        let section = mm::lazy()?;
        mm::with_all(|tables| {
            // SAFETY: nobody writes there.
            unsafe { tables.ptep_set_wrprotect(USER) }
        })?;
        let before = mm::with_all(|tables| in_table(tables, USER))?;
        expect_eq!(before & 2, 2, "W in the table while queued");
        switch(two)?;
        expect_eq!(probe::read(USER), ABSENT_READ, "in the other space");
        switch(one)?;
        let after = mm::with_all(|tables| in_table(tables, USER))?;
        expect_eq!(after & 2, 0, "W in the table after the switch");
        section.end()?;
        // SAFETY: refused by the processor, or the test's to write.
        let write = unsafe { probe::write(USER + 8, 1) };
        expect_eq!(write, super::context::READ_ONLY, "a write afterwards");
        Ok(())
    })
}
selftest!("spaces.lazy_switch", lazy_switch, &[1], needs EVERYWHERE);

/// The current space cannot be destroyed, nor the one that boot ran in: the value comes back.
fn refused(context: &mut Context) -> TestResult {
    context.with_frames(|_, _| {
        let space = mm::with(|tables| tables.create_space())?;
        let (roots, boots) = (space.roots(), boot().roots());
        switch(&space)?;
        let current = mm::with(|tables| tables.destroy_space(space));
        let first = mm::with(|tables| {
            let boot = tables.boot_space();
            tables.destroy_space(boot)
        });
        switch(&boot())?;
        for (ended, of) in [(current, roots), (first, boots)] {
            let Err(NotDestroyed {
                error: MmError::Frame(_),
                space: Some(space),
            }) = ended
            else {
                return Err(Trouble::error("a space in use was destroyed"));
            };
            expect_eq!(space.roots(), of, "the space that comes back");
            if of == roots {
                mm::with(|tables| destroyed(tables.destroy_space(space)))?;
            }
        }
        Ok(())
    })
}
selftest!("spaces.refused", refused, &[1], needs EVERYWHERE);

/// Spaces in the test of many: more than are listed without a frame for the list.
const MANY: usize = 40;

/// Many spaces, each with a page of its own; all are given back with their tables.
fn many(context: &mut Context) -> TestResult {
    context.with_frames(|_, pile| {
        let mut spaces = heapless::Vec::<AddressSpace, MANY>::new();
        mm::with(|tables| need_frames(tables, 6 * MANY as u64))?;
        let made = (0..MANY).try_for_each(|number| {
            let space = mm::with(|tables| tables.create_space())?;
            let used = switch(&space).and_then(|()| map(pile, number));
            // There is room: no more are made.
            let _ = spaces.push(space);
            used
        });
        let found = (0..).zip(&spaces).try_for_each(|(number, space)| {
            switch(space)?;
            expect_eq!(probe::read(USER), expected(pile, number), "space {number}");
            Ok(())
        });
        let gone = switch(&boot()).and_then(|()| {
            for space in spaces {
                mm::with(|tables| destroyed(tables.destroy_space(space)))?;
            }
            Ok(())
        });
        made.and(found).and(gone)
    })
}
selftest!("spaces.many", many, &[MANY as u64], needs EVERYWHERE);

/// A space that uses any number of slots of its root is given back, with all that it took.
fn sparse(context: &mut Context) -> TestResult {
    context.with_frames(|context, pile| {
        let slots = context.pages();
        mm::with(|tables| need_frames(tables, 3 * slots))?;
        let space = mm::with(|tables| tables.create_space())?;
        let used = switch(&space).and_then(|()| {
            for (slot, pfn) in (1..).zip(pile.pfns()) {
                let va = slot << L4::SHIFT;
                mm::with_all(|tables| {
                    // SAFETY: the frame and the space are the test's.
                    unsafe { tables.map(va, core::iter::once(pfn), Flags::DATA) }?.commit(tables)
                })?;
                expect_eq!(probe::read(va), Ok(marked(pfn)), "slot {slot}");
            }
            Ok(())
        });
        let gone = switch(&boot());
        let ended = mm::with(|tables| destroyed(tables.destroy_space(space)));
        used.and(gone)?;
        Ok(ended?)
    })
}
selftest!("spaces.sparse", sparse, &[14, 15, 100], needs EVERYWHERE);

/// What is done to a space that is not the current one is there when it is switched to, at once or
/// queued in a lazy section, and changes nothing here: the same address maps another page here, whose
/// translation is cached meanwhile.
fn elsewhere(context: &mut Context) -> TestResult {
    with_two(context, |pile, one, two| {
        switch(one)?;
        map(pile, 0)?;
        for lazy in [false, true] {
            let section = if lazy { Some(mm::lazy()?) } else { None };
            expect_eq!(probe::read(USER), expected(pile, 0), "here, before");
            mm::in_space(two, |tables| {
                let frame = pile.pfns().skip(1).take(1);
                // SAFETY: frame and address are the test's, and not touched meanwhile.
                unsafe {
                    tables.map(USER, frame, Flags::DATA)?.defer();
                    tables.ptep_set_wrprotect(USER)
                }
            })?;
            section.map_or(Ok(()), LazyGuard::end)?;
            // SAFETY: the page is the test's.
            let here = unsafe { probe::write(USER + 8, 1) };
            expect_eq!(here, Ok(()), "a write here, lazily {lazy}");
            expect_eq!(probe::read(USER), expected(pile, 0), "here, after");
            switch(two)?;
            expect_eq!(probe::read(USER), expected(pile, 1), "there");
            // SAFETY: refused by the processor.
            let there = unsafe { probe::write(USER + 8, 1) };
            expect_eq!(there, super::context::READ_ONLY, "a write there");
            switch(one)?;
            mm::in_space(two, |tables| {
                // SAFETY: the page is the test's.
                unsafe { tables.unmap(USER, 1) }?.commit(tables)
            })?;
            expect_eq!(probe::read(USER), expected(pile, 0), "here, at the end");
            switch(two)?;
            expect_eq!(probe::read(USER), ABSENT_READ, "there, at the end");
            switch(one)?;
        }
        Ok(())
    })
}
selftest!("spaces.elsewhere", elsewhere, &[2], needs EVERYWHERE);
