//! The page tables without Xen, on the host: the native back end on a memory of its own, with four
//! levels and with five. Everything a level can be asked for is asked of both foldings.

#[path = "../../hypercall/pagetable/tests/common/own.rs"]
mod own;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use guest::mm::entry::Entry;
use guest::mm::fuzz::{Fuzzer, Probe, window};
use guest::mm::layout::{self, Fixed};
use guest::mm::machine::{Machine, Words};
use guest::mm::native::Memory;
use guest::mm::state::Kind;
use guest::mm::tables::Fold;
use guest::mm::takeover::{Initial, Segments, Start};
use guest::mm::walk::End;
use guest::mm::{Flags, MmError, Value};
use hypercall::abi::mmu::mmu_update;
use hypercall::instead::PageTables;
use hypercall::mmu::Scope;
use hypercall::mmu::{ExtOp, VaFlush, pt_update};
use hypercall::{Errno, Hypervisor, MachAddr, Mfn, Op, Pfn};
use own::Own;
use pagetable::native::{Cpu, OwnTables};

const PAGE: u64 = 4096;
const FRAMES: u64 = 6144;
/// What is not memory: the end of the first MiB, and a piece beyond the early mapping.
const HOLES: [std::ops::Range<u64>; 2] = [0x9f..0x100, 0x500..0x510];
/// The early tables, behind the image: L5, L4, L3, L2, two L1, the fixmap's L2 and L1.
const TABLES: u64 = 0x200;

/// A processor with its memory.
struct Bare {
    frames: Vec<RefCell<Box<Words>>>,
    memory: Memory,
    fold: Fold,
    root: Cell<u64>,
    /// Translations that a processor may have kept: page to entry.
    tlb: RefCell<HashMap<u64, u64>>,
    protected: Cell<bool>,
}

impl Bare {
    fn words(&self, frame: u64) -> *mut Words {
        // SAFETY: only the address of the words inside the box is taken.
        unsafe { &raw mut **self.frames[frame as usize].as_ptr() }
    }

    /// The entry that maps an address, if one does; its W bit is that of all levels.
    fn translate(&self, va: u64) -> Option<u64> {
        let page = va & !(PAGE - 1);
        if let Some(kept) = self.tlb.borrow().get(&page) {
            return Some(*kept);
        }
        let (mut table, mut rights) = (self.root.get(), !0);
        for level in (1..=u32::from(self.fold.top())).rev() {
            let index = va >> (12 + 9 * (level - 1)) & 511;
            // SAFETY: a table in this memory, used by one thread.
            let word = unsafe { self.entry(table + index * 8).read() };
            if word & 1 == 0 {
                return None;
            }
            assert_eq!(word >> 7 & 1, 0, "a large page at level {level}");
            rights &= word | !2;
            table = word & 0x000f_ffff_ffff_f000;
        }
        let kept = table | rights & 3;
        self.tlb.borrow_mut().insert(page, kept);
        Some(kept)
    }
}

impl Cpu for Bare {
    fn entry(&self, address: u64) -> *mut u64 {
        let frame = address / PAGE;
        if !self.memory.contains(frame) {
            return std::ptr::null_mut();
        }
        self.words(frame)
            .cast::<u64>()
            .wrapping_add((address % PAGE / 8) as usize)
    }

    fn root(&self) -> u64 {
        self.root.get()
    }

    unsafe fn set_root(&self, address: u64) {
        self.root.set(address);
        self.invalidate(Scope::Local, None);
    }

    fn fold(&self) -> Fold {
        self.fold
    }

    fn invalidate(&self, _: Scope, address: Option<u64>) {
        match address {
            Some(va) => drop(self.tlb.borrow_mut().remove(&(va & !(PAGE - 1)))),
            None => self.tlb.borrow_mut().clear(),
        }
    }

    fn maps_page(&self, _: u64) -> bool {
        false
    }

    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R {
        assert!(self.protected.replace(false));
        let result = f();
        self.protected.set(true);
        result
    }
}

/// The one processor of a test, as everybody there reaches it.
#[derive(Clone)]
struct Shared(Rc<Bare>);

impl Cpu for Shared {
    fn entry(&self, address: u64) -> *mut u64 {
        self.0.entry(address)
    }

    fn root(&self) -> u64 {
        self.0.root()
    }

    unsafe fn set_root(&self, address: u64) {
        // SAFETY: `Cpu::set_root` has its caller promise that the tables at `address` map what is in
        // use; it is the same method, of the same processor, with the same address.
        unsafe { self.0.set_root(address) };
    }

    fn fold(&self) -> Fold {
        self.0.fold()
    }

    fn invalidate(&self, scope: Scope, address: Option<u64>) {
        self.0.invalidate(scope, address);
    }

    fn maps_page(&self, address: u64) -> bool {
        self.0.maps_page(address)
    }

    fn unprotected<R>(&self, f: impl FnOnce() -> R) -> R {
        self.0.unprotected(f)
    }
}

#[derive(Clone)]
struct Native(OwnTables<Shared>);

impl Native {
    fn new(cpu: &Rc<Bare>) -> Native {
        Native(OwnTables(Shared(Rc::clone(cpu))))
    }

    fn cpu(&self) -> &Bare {
        &self.0.0.0
    }
}

impl Hypervisor for Native {
    /// Nobody is called by number.
    unsafe fn call(&self, op: Op, _: [u64; 5]) -> i64 {
        panic!("{op} by number")
    }
    fn mask_upcalls(&self) -> bool {
        true
    }
    fn restore_upcalls(&self, _: bool) {}
    fn page_tables(&self) -> Option<&dyn PageTables> {
        Some(&self.0)
    }
}

struct BareMachine {
    cpu: Rc<Bare>,
    reach: Cell<u64>,
    direct: Cell<bool>,
}

impl Machine for BareMachine {
    type Hv = Native;
    type Lock = spin::Mutex<()>;
    type Layout = layout::Regions;

    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        Mfn::new(self.cpu.memory.mfn_or_ones(pfn))
    }
    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        self.cpu.memory.pfn(mfn)
    }
    fn memory(&self, pfn: Pfn) -> *mut Words {
        if pfn.as_u64() >= self.reach.get() || self.mfn(pfn).is_none() {
            return std::ptr::null_mut();
        }
        self.cpu.words(pfn.as_u64())
    }
    fn window(&self, pfn: Pfn) -> u64 {
        let base = if self.direct.get() {
            layout::DIRECT.start
        } else {
            layout::IMAGE.start
        };
        base + pfn.as_u64() * PAGE
    }
    fn set_reach(&self, pages: u64) {
        self.reach.set(pages);
    }
    fn open_direct_map(&self) {
        self.direct.set(true);
    }
    fn direct_map_is_open(&self) -> bool {
        self.direct.get()
    }
}

impl Probe for Native {
    fn load(&mut self, va: u64) -> Option<u64> {
        let entry = self.cpu().translate(va)?;
        // SAFETY: a frame of this memory, used by one thread.
        Some(unsafe { self.cpu().entry((entry & !0xfff) + va % PAGE).read() })
    }

    fn store(&mut self, va: u64, value: u64) -> bool {
        match self.cpu().translate(va) {
            Some(entry) if entry & 2 != 0 => {
                // SAFETY: a frame of this memory, used by one thread.
                unsafe { self.cpu().entry((entry & !0xfff) + va % PAGE).write(value) };
                true
            }
            _ => false,
        }
    }

    fn executes(&mut self, _: u64) -> Option<bool> {
        None
    }
}

type World = (Rc<Bare>, Own<BareMachine>);

/// A machine as the PVH entry leaves it.
fn bare(fold: Fold) -> Rc<Bare> {
    let mut ranges = guest::mm::native::Ranges::new();
    for range in [
        0..HOLES[0].start,
        HOLES[0].end..HOLES[1].start,
        HOLES[1].end..FRAMES,
    ] {
        ranges.push(range).unwrap();
    }
    let root = match fold {
        Fold::FourLevels => TABLES + 1,
        Fold::FiveLevels => TABLES,
    };
    let cpu = Rc::new(Bare {
        frames: (0..FRAMES)
            .map(|_| RefCell::new(Box::new([0; 512])))
            .collect(),
        memory: Memory::new(ranges),
        fold,
        root: Cell::new(root * PAGE),
        tlb: RefCell::default(),
        protected: Cell::new(true),
    });
    let set = |table: u64, index: u64, word: u64| {
        // SAFETY: the memory is this function's.
        unsafe { cpu.entry((TABLES + table) * PAGE + index * 8).write(word) };
    };
    let table = |number: u64| ((TABLES + number) * PAGE) | 0x63;
    set(0, 511, table(1));
    set(1, 511, table(2));
    set(2, 510, table(3));
    set(3, 0, table(4));
    set(3, 1, table(5));
    set(3, 511, table(6));
    for frame in (0..1024).filter(|frame| cpu.memory.contains(*frame)) {
        let is_table = (root..TABLES + 7).contains(&frame);
        let flags = if is_table { 0x61 } else { 0x63 };
        set(4 + frame / 512, frame % 512, (frame * PAGE) | flags);
    }
    cpu
}

fn image() -> Segments {
    let at = |frame: u64| layout::IMAGE.start + frame * PAGE;
    Segments {
        text: at(0x100)..at(0x120),
        kept_text: at(0x100)..at(0x118),
        rodata: at(0x120)..at(0x140),
        data: at(0x140)..at(TABLES),
        guard: at(0x150)..at(0x151),
    }
}

/// The early tables taken over, with one machine frame looked at on the way.
fn world(fold: Fold) -> World {
    let cpu = bare(fold);
    let machine = BareMachine {
        cpu: Rc::clone(&cpu),
        reach: Cell::new(0),
        direct: Cell::new(false),
    };
    let mut tables = Own::new(Native::new(&cpu), machine);
    let root = cpu.root() / PAGE;
    let start = Start {
        nr_pages: FRAMES,
        fold,
        pt_base: layout::IMAGE.start + root * PAGE,
        nr_pt_frames: TABLES + 7 - root,
        p2m_list: None,
        p2m_frames: 0..0,
        start_info: 0,
        shared: [None, None],
        module: 0..0,
        boot_stack: 0,
        image: image(),
    };
    let mut early = Initial::survey(&mut tables, start)
        .unwrap()
        .fixmap()
        .unwrap();
    // A frame that is no memory, as a device's.
    let device = Mfn::truncate(0xf_ee00);
    let va = Fixed::Console.address();
    // SAFETY: nobody reads it.
    unsafe { early.map_fixed(va, device, Flags::DATA) }.unwrap();
    assert_eq!(
        cpu.translate(va).unwrap() >> 12,
        device.as_u64(),
        "{fold:?}"
    );
    early.direct_map().unwrap();
    (cpu, tables)
}

fn clean((_, tables): &mut World) {
    let report = tables.audit().unwrap();
    assert!(report.is_clean(), "{report}");
}

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
