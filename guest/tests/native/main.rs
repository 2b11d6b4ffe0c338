//! The page tables without Xen, on the host: the native back end on a memory of its own, with four
//! levels and with five. Everything a level can be asked for is asked of both foldings.

mod bare;
#[path = "../../../hypercall/pagetable/tests/common/own.rs"]
mod own;

use guest::mm::entry::Entry;
use guest::mm::fuzz::{Fuzzer, window};
use guest::mm::layout;
use guest::mm::state::Kind;
use guest::mm::tables::Fold;
use guest::mm::walk::End;
use guest::mm::{Flags, MmError, Value};
use hypercall::abi::mmu::mmu_update;
use hypercall::mmu::{ExtOp, Scope, VaFlush, pt_update};
use hypercall::{Errno, MachAddr, Mfn, Op, Pfn};
use pagetable::native::Cpu as _;

use bare::{FRAMES, HOLES, Native, PAGE, TABLES, bare, clean, image, world};

#[test]
fn the_early_tables_are_taken_over() {
    for fold in Fold::ALL {
        let mut world = world(fold);
        assert_eq!(world.1.fold(), fold);
        clean(&mut world);
        world.1.populate_all().unwrap();
        clean(&mut world);
        let (cpu, tables) = &world;
        for frame in 0..FRAMES {
            let va = layout::DIRECT.start + frame * PAGE;
            let found = cpu.translate(va).map(|entry| entry >> 12);
            let is_const = tables
                .frames()
                .states(Pfn::truncate(frame))
                .is_ok_and(|(state, _)| state.kind == Kind::ImageConst);
            let expected = (cpu.memory.contains(frame) && !is_const).then_some(frame);
            assert_eq!(found, expected, "{fold:?}");
            let page = matches!(tables.walk(va).end, End::Page(PAGE, _));
            assert_eq!(page, expected.is_some(), "{fold:?} {frame:#x}");
        }
        let guard = image().guard.start;
        assert_eq!(cpu.translate(guard), None, "{fold:?}");
        // The window that the entry made is gone but for the image.
        assert_eq!(cpu.translate(layout::IMAGE.start + 0x10 * PAGE), None);
    }
}

#[test]
fn parts_of_the_image_become_memory() {
    for fold in Fold::ALL {
        let mut world = world(fold);
        let start = image().text.start;
        let before = world.1.frames().counts().free;
        // SAFETY: nobody runs this image.
        unsafe { world.1.release(start, 0x30) }.unwrap();
        assert_eq!(world.1.frames().counts().free, before + 0x30, "{fold:?}");
        assert_eq!(world.0.translate(start), None, "{fold:?}");
        let alias = layout::DIRECT.start + (start - layout::IMAGE.start);
        let entry = world.0.translate(alias).unwrap();
        assert_eq!(entry & 2, 2, "{fold:?}");
        clean(&mut world);
    }
}

#[test]
fn entries_are_made_and_read_alike_on_every_level() {
    for fold in Fold::ALL {
        let (_, tables) = world(fold);
        macro_rules! each {
            ($($make:ident $val:ident)*) => {
                $(
                    let value = Value::new(Pfn::truncate(0x312), Flags::TABLE);
                    let entry = tables.$make(value).unwrap();
                    assert_eq!(tables.$val(entry), Some(value), "{fold:?}");
                    assert_eq!(tables.$val(Entry::NONE), None, "{fold:?}");
                    for nowhere in [HOLES[0].start, HOLES[1].start, FRAMES] {
                        let value = Value::new(Pfn::truncate(nowhere), Flags::TABLE);
                        assert!(matches!(tables.$make(value), Err(MmError::NoMemory { .. })));
                    }
                )*
            };
        }
        each! {
            make_pgd pgd_val make_p4d p4d_val make_pud pud_val make_pmd pmd_val make_pte pte_val
        }
    }
}

/// Addresses below entries of their own on every level.
const ADDRESSES: [u64; 4] = [
    0x40_0000,
    0x7fff_ffe0_0000,
    layout::DYNAMIC.start + (7 << 30),
    layout::FIXMAP.end - PAGE,
];

#[test]
fn every_level_is_found_cleared_and_set() {
    for fold in Fold::ALL {
        let (cpu, mut tables) = world(fold);
        for va in ADDRESSES {
            tables.ensure_pte_table(va).unwrap();
            let frame = tables.alloc_frame().unwrap().pfn();
            let pgd = tables.pgd_offset(va).unwrap();
            let p4d = tables.p4d_offset(pgd, va).unwrap();
            let pud = tables.pud_offset(p4d, va).unwrap();
            let pmd = tables.pmd_offset(pud, va).unwrap();
            let pte = tables.pte_offset(pmd, va).unwrap();
            let folded = pgd.machine() == p4d.machine();
            assert_eq!(folded, fold == Fold::FourLevels, "{va:#x}");
            let (pgd, p4d, pud) = (pgd.place(), p4d.place(), pud.place());
            let (pmd, pte) = (pmd.place(), pte.place());
            let entry = tables.make_pte(Value::new(frame, Flags::DATA)).unwrap();
            // SAFETY: nothing else is mapped there.
            unsafe { tables.set_pte(pte, va, entry) }.unwrap();
            assert_eq!(cpu.translate(va).unwrap() >> 12, frame.as_u64(), "{va:#x}");
            let top = usize::from(fold.top());
            // A walk to an entry that was cleared ends there; the kernel's own upper levels stay.
            macro_rules! cleared {
                ($level:literal $slot:ident $set:ident) => {
                    // SAFETY: the tables on the way stay.
                    let entry = unsafe { tables.get_at($slot) };
                    assert!(entry.is_present(), "{va:#x} level {}", $level);
                    // SAFETY: nobody uses what is mapped below; it comes back at once.
                    unsafe { tables.$set($slot, Entry::NONE) }.unwrap();
                    tables.flush().unwrap();
                    cpu.invalidate(Scope::Local, None);
                    let walk = tables.walk(va);
                    assert_eq!(walk.end, End::NotPresent, "{va:#x}");
                    assert_eq!(
                        walk.entries.last().unwrap().level,
                        top.min($level),
                        "{va:#x}"
                    );
                    assert_eq!(cpu.translate(va), None, "{va:#x}");
                    // SAFETY: as it was.
                    unsafe { tables.$set($slot, entry) }.unwrap();
                    assert_eq!(cpu.translate(va).unwrap() >> 12, frame.as_u64());
                };
            }
            cleared!(2 pmd set_pmd);
            cleared!(3 pud set_pud);
            if va >> 63 == 0 {
                cleared!(4 p4d set_p4d);
                cleared!(5 pgd set_pgd);
            }
        }
        clean(&mut (cpu, tables));
    }
}

/// The fifth level adds addresses to the user half. They are walked to; what is mapped stays where
/// it would be with four levels.
#[test]
fn addresses_that_only_five_levels_have_are_not_mapped() {
    for fold in Fold::ALL {
        let (_, mut tables) = world(fold);
        for va in [1 << 47, 0x00ff_ffff_ffe0_0000] {
            let walk = tables.walk(va);
            let expected = match fold {
                Fold::FourLevels => End::NotCanonical,
                Fold::FiveLevels => End::NotPresent,
            };
            assert_eq!(walk.end, expected, "{va:#x}");
            let frame = tables.alloc_frame().unwrap().pfn();
            // SAFETY: refused.
            let mapped = unsafe { tables.map(va, [frame].into_iter(), Flags::DATA) };
            assert!(matches!(mapped, Err(MmError::BadRange { .. })), "{va:#x}");
        }
    }
}

#[test]
fn spaces_differ_in_the_user_half_alone() {
    for fold in Fold::ALL {
        let mut world = world(fold);
        let (cpu, tables) = &mut world;
        let (boot, user, kernel) = (tables.boot_space(), 0x40_0000, layout::DYNAMIC.start);
        let before = tables.frames().counts().free;
        let space = tables.create_space().unwrap();
        // SAFETY: the user half is in nobody's use.
        unsafe { tables.switch_space(&space) }.unwrap();
        assert_eq!(cpu.root() / PAGE, space.roots().kernel.as_u64(), "{fold:?}");
        let frame = tables.alloc_frame().unwrap().pfn();
        for va in [user, kernel] {
            // SAFETY: the frame is the test's.
            unsafe { tables.map(va, [frame].into_iter(), Flags::DATA) }
                .unwrap()
                .commit(tables)
                .unwrap();
        }
        // SAFETY: the frame is the test's.
        unsafe { tables.switch_space(&boot) }.unwrap();
        assert_eq!(cpu.translate(user), None, "{fold:?}");
        assert_eq!(
            cpu.translate(kernel).unwrap() >> 12,
            frame.as_u64(),
            "{fold:?}"
        );
        // SAFETY: the frame is the test's.
        unsafe { tables.unmap(kernel, 1) }
            .unwrap()
            .commit(tables)
            .unwrap();
        tables.destroy_space(space).unwrap();
        // The frame and the kernel's tables that lead to where it was mapped.
        assert!(before - tables.frames().counts().free <= 4, "{fold:?}");
        clean(&mut world);
    }
}

#[test]
fn random_operations_do_as_the_reference() {
    for fold in Fold::ALL {
        let mut world = world(fold);
        let (cpu, tables) = &mut world;
        let mut probe = Native::new(cpu);
        tables.populate_all().unwrap();
        let mut fuzzer = Box::new(Fuzzer::<2048, 640>::EMPTY);
        fuzzer
            .begin(tables, window::<layout::Regions>(), 7)
            .unwrap();
        fuzzer.spare_image(image().text.start);
        for _ in 0..4000 {
            fuzzer
                .step(tables, &mut probe)
                .unwrap_or_else(|e| panic!("{fold:?}: {e}"));
        }
        fuzzer
            .end(tables, &mut probe)
            .unwrap_or_else(|e| panic!("{fold:?}: {e}"));
        clean(&mut world);
    }
}

#[test]
fn what_xen_would_not_have_is_refused() {
    let cpu = bare(Fold::FourLevels);
    let hv = Native::new(&cpu);
    let slot = |index: u64| MachAddr::truncate((TABLES + 6) * PAGE + index * 8);
    let beyond = MachAddr::truncate(FRAMES * PAGE);
    let good = 0x30_0063;
    for (slot, bad) in [
        (slot(1), good | 1 << 7),
        (slot(1), 0x30_0000),
        (beyond, good),
    ] {
        let list: [mmu_update; 3] = [
            pt_update(slot_zero(), good, false),
            pt_update(slot, bad, false),
            pt_update(slot_zero(), 0, false),
        ];
        // SAFETY: the fixmap's table, which nobody uses here.
        let stopped = unsafe { hypercall::mmu::update(&hv, &list, 0x7ff0) }.unwrap_err();
        assert_eq!((stopped.done, stopped.error.errno), (1, Errno::EINVAL));
        // SAFETY: this memory is the test's.
        assert_eq!(unsafe { cpu.entry(slot_zero().as_u64()).read() }, good);
    }
    // A and D bits stay where they are to stay.
    let keeping = [pt_update(slot_zero(), 0x30_0001, true)];
    // SAFETY: this memory is the test's.
    unsafe { hypercall::mmu::update(&hv, &keeping, 0x7ff0) }.unwrap();
    // SAFETY: this memory is the test's.
    assert_eq!(unsafe { cpu.entry(slot_zero().as_u64()).read() }, 0x30_0061);
    // SAFETY: refused; nothing is cleared.
    let error = unsafe { hypercall::mmu::ext(&hv, ExtOp::ClearPage(Mfn::truncate(3))) };
    let error = error.unwrap_err();
    assert_eq!(
        (error.op, error.sub, error.errno),
        (Op::MmuextOp, Some("CLEAR_PAGE"), Errno::ENOSYS)
    );
    // An address that no table maps has no entry to write.
    let nowhere = hypercall::VirtAddr::new(0xffff_a000_0000_0000);
    // SAFETY: refused.
    let error = unsafe { hypercall::mmu::update_va_mapping(&hv, nowhere, good, VaFlush::None) };
    assert_eq!(error.unwrap_err().errno, Errno::EINVAL);
}

fn slot_zero() -> MachAddr {
    MachAddr::truncate((TABLES + 6) * PAGE)
}
