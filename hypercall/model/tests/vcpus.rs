//! Several vCPUs: which flush reaches whose translations, and how one that reached too few is found.

mod common;

use common::{Guest, RO, RW, TABLE};
use hypercall::abi::memory::{
    XENMEM_decrease_reservation, XENMEM_populate_physmap, xen_memory_reservation,
};
use hypercall::abi::mmu::{
    MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR, MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI,
    UVMF_ALL, UVMF_INVLPG, UVMF_LOCAL, UVMF_TLB_FLUSH,
};
use hypercall::abi::xen::DOMID_SELF;
use hypercall::mmu::Level;
use hypercall::{MachAddr, Mfn, Op};
use model::{Access, Kind, Layout, Mode, entry};

const VCPUS: usize = 3;
const VA: u64 = 0x40_0000_0000;
/// Another page of the same table, which nothing changes.
const OTHER: u64 = VA + 0x5000;

/// A guest whose vCPUs all run on the boot's tables, with a table for [`VA`]; and that table.
fn guest_with(layout: Layout) -> (Guest, Mfn) {
    let g = Guest::new(&Layout {
        vcpus: VCPUS,
        ..layout
    });
    let l1 = g.window(VA);
    let l4 = g.l4();
    for vcpu in 1..VCPUS {
        g.model.run_on(vcpu);
        assert_eq!(g.ext(MMUEXT_NEW_BASEPTR, l4.as_u64(), 0), 0);
    }
    g.model.run_on(0);
    (g, l1)
}

fn guest() -> (Guest, Mfn) {
    guest_with(Layout::new(Kind::DomU, 4096))
}

fn slot(table: Mfn, va: u64) -> MachAddr {
    MachAddr::of_entry(table, entry::index(va, Level::L1))
}

fn look(g: &Guest, vcpu: usize, va: u64, mode: Mode) -> Option<Mfn> {
    let before = g.model.current_vcpu();
    g.model.run_on(vcpu);
    let found = g.model.access(va, Access::Read, mode);
    g.model.run_on(before);
    found.ok().map(|(mfn, _)| mfn)
}

/// The vCPUs that remember a page.
fn remember(g: &Guest, va: u64) -> Vec<usize> {
    let all = g.model.remembered();
    let page = all.iter().filter(|one| one.va == va);
    page.map(|one| one.vcpu).collect()
}

/// The requests that flush, asked for by vCPU 1, with the vCPUs that they reach; and whether they are
/// about one page.
#[test]
fn each_flush_reaches_whom_it_names() {
    let bitmap = bitmap(0b101);
    let all = [0, 1, 2].as_slice();
    let ext = |cmd| move |g: &Guest| g.ext(cmd, VA, bitmap);
    let uvmf = |flags| {
        move |g: &Guest| {
            let value = g.model.walk(g.l4(), VA).entry(Level::L1).unwrap().1;
            g.va_mapping(VA, value, flags)
        }
    };
    let base = |g: &Guest| g.ext(MMUEXT_NEW_BASEPTR, g.l4().as_u64(), 0);
    let upper = |g: &Guest| {
        let (at, value) = g.model.walk(g.l4(), VA).entry(Level::L2).unwrap();
        g.update(at, value ^ entry::A)
    };
    type Flush<'a> = &'a dyn Fn(&Guest) -> i64;
    let rows: [(&str, Flush<'_>, &[usize], bool); 14] = [
        ("local", &ext(MMUEXT_TLB_FLUSH_LOCAL), &[1], false),
        ("multi", &ext(MMUEXT_TLB_FLUSH_MULTI), &[0, 2], false),
        ("all", &ext(MMUEXT_TLB_FLUSH_ALL), all, false),
        ("invlpg local", &ext(MMUEXT_INVLPG_LOCAL), &[1], true),
        ("invlpg multi", &ext(MMUEXT_INVLPG_MULTI), &[0, 2], true),
        ("invlpg all", &ext(MMUEXT_INVLPG_ALL), all, true),
        ("uvmf none", &uvmf(0), &[], true),
        (
            "uvmf local",
            &uvmf(UVMF_TLB_FLUSH | UVMF_LOCAL),
            &[1],
            false,
        ),
        ("uvmf multi", &uvmf(UVMF_TLB_FLUSH | bitmap), &[0, 2], false),
        ("uvmf all", &uvmf(UVMF_TLB_FLUSH | UVMF_ALL), all, false),
        ("uvmf page", &uvmf(UVMF_INVLPG | UVMF_LOCAL), &[1], true),
        ("uvmf page all", &uvmf(UVMF_INVLPG | UVMF_ALL), all, true),
        ("base pointer", &base, &[1], false),
        ("upper level", &upper, all, false),
    ];
    for (name, flush, reached, one_page) in rows {
        let (g, l1) = guest();
        let frame = g.page();
        for va in [VA, OTHER] {
            assert_eq!(g.update(slot(l1, va), entry::entry(frame, RO)), 0);
            for vcpu in 0..VCPUS {
                assert_eq!(look(&g, vcpu, va, Mode::Kernel), Some(frame));
            }
        }
        g.model.run_on(1);
        assert_eq!(flush(&g), 0, "{name}");
        let kept: Vec<_> = (0..VCPUS).filter(|vcpu| !reached.contains(vcpu)).collect();
        assert_eq!(remember(&g, VA), kept, "{name}");
        let others = if one_page { vec![0, 1, 2] } else { kept };
        assert_eq!(remember(&g, OTHER), others, "{name}");
        g.audit();
    }
}

/// What a change leaves on a vCPU that its flush did not reach has all names in it.
#[test]
fn a_flush_that_reached_too_few_is_named() {
    let (g, l1) = guest();
    let (old, new) = (g.page(), g.page());
    assert_eq!(g.update(slot(l1, VA), entry::entry(old, RW)), 0);
    for vcpu in 0..VCPUS {
        look(&g, vcpu, VA, Mode::Kernel);
    }
    assert!(g.model.stale().is_empty());
    let flags = UVMF_INVLPG | UVMF_LOCAL;
    assert_eq!(g.va_mapping(VA, entry::entry(new, RO), flags), 0);
    let stale = g.model.stale();
    let who: Vec<_> = stale.iter().map(|stale| stale.old.vcpu).collect();
    assert_eq!(who, [1, 2]);
    assert_eq!((stale[0].old.va, stale[0].old.frame), (VA, old));
    assert_eq!(stale[0].new.map(|(frame, _)| frame), Some(new));
    let words = format!(
        "vCPU 1 in kernel mode, {VA:#x}: remembers mfn {old} rwx, the tables have mfn {new} r-x"
    );
    assert_eq!(stale[0].to_string(), words);
    // Less than is remembered: gone.
    assert_eq!(g.va_mapping(VA, 0, UVMF_INVLPG | bitmap(0b10)), 0);
    let words = g.model.stale()[0].to_string();
    assert!(words.ends_with("the tables have nothing"), "{words}");
    assert_eq!(g.ext(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
    assert!(g.model.stale().is_empty());
}

/// The address of a bitmap of vCPUs, which stays for good.
fn bitmap(vcpus: u64) -> u64 {
    &raw const *Box::leak(Box::new(vcpus)) as u64
}

/// Rights that were added are none: a processor looks again. Each that was taken is.
#[test]
fn rights_that_were_taken_are_stale() {
    let (g, l1) = guest();
    let frame = g.page();
    let rights = [RO | entry::NX, RO, RW | entry::NX, RW];
    for before in rights {
        for after in rights {
            assert_eq!(g.update(slot(l1, VA), entry::entry(frame, before)), 0);
            assert_eq!(g.ext(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
            look(&g, 2, VA, Mode::Kernel);
            assert_eq!(g.update(slot(l1, VA), entry::entry(frame, after)), 0);
            let wrote = before & !after & entry::RW != 0;
            let ran = after & !before & entry::NX != 0;
            assert_eq!(g.model.stale().len(), usize::from(wrote || ran));
        }
    }
}

/// Who gave its processor up has forgotten everything, and nobody need flush it; who only sleeps is
/// flushed.
#[test]
fn the_mask_has_whose_translations_may_be_left() {
    let (g, l1) = guest();
    let (old, new) = (g.page(), g.page());
    assert_eq!(g.update(slot(l1, VA), entry::entry(old, RO)), 0);
    for vcpu in 0..VCPUS {
        look(&g, vcpu, VA, Mode::Kernel);
    }
    assert_eq!(g.model.dirty_vcpus(), [0, 1, 2]);
    g.model.sched_out(2);
    assert_eq!(g.model.dirty_vcpus(), [0, 1]);
    assert_eq!(remember(&g, VA), [0, 1]);
    let before = g.model.counters().flushes;
    assert_eq!(g.ext(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
    let flags = UVMF_TLB_FLUSH | bitmap(0b111);
    assert_eq!(g.va_mapping(VA, entry::entry(new, RO), flags), 0);
    assert_eq!(g.model.counters().flushes - before, 4);
    assert_eq!(look(&g, 2, VA, Mode::Kernel), Some(new));
    assert_eq!(g.model.dirty_vcpus(), [0, 1, 2]);
    g.audit();
    // A hypercall is made by a vCPU that runs.
    g.model.sched_out(0);
    assert_eq!(g.ext(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
    assert_eq!(g.model.dirty_vcpus(), [0, 1, 2]);
    // One that has not run yet is not in it.
    let fresh = Guest::new(&Layout {
        vcpus: VCPUS,
        ..Layout::new(Kind::DomU, 4096)
    });
    assert_eq!(fresh.model.dirty_vcpus(), [0]);
}

/// Before a frame becomes a table Xen flushes whoever may still write to it, and nobody else.
#[test]
fn a_change_of_type_flushes_those_not_flushed_since() {
    let (g, l1) = guest();
    let frame = g.page();
    assert_eq!(g.update(slot(l1, VA), entry::entry(frame, RW)), 0);
    for vcpu in 0..VCPUS {
        g.model.run_on(vcpu);
        assert!(g.model.access(VA, Access::Write, Mode::Kernel).is_ok());
    }
    g.model.run_on(0);
    assert_eq!(g.update(slot(l1, VA), 0), 0);
    assert_eq!(g.ext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0), 0);
    g.model.sched_out(2);
    let before = g.model.counters().type_flushes;
    assert_eq!(g.pin(Level::L1, frame), 0);
    assert_eq!(g.model.counters().type_flushes - before, 1);
    assert!(remember(&g, VA).is_empty());
    g.audit();
}

/// A frame that the guest gave back and that comes from the host again is reached by no translation of
/// its past, even one that was never writable.
#[test]
fn a_frame_from_the_host_is_reached_by_nobody() {
    let (g, l1) = guest();
    let frame = g.page();
    assert_eq!(g.update(slot(l1, VA), entry::entry(frame, RO)), 0);
    // Long after the frame's type was anything.
    assert_eq!(g.ext(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
    assert_eq!(look(&g, 1, VA, Mode::Kernel), Some(frame));
    assert_eq!(g.update(slot(l1, VA), 0), 0);
    let number = std::cell::Cell::new(frame.as_u64());
    let list = xen_memory_reservation {
        extent_start: number.as_ptr(),
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: DOMID_SELF,
    };
    let exchange = |cmd: u32| g.call(Op::MemoryOp, [cmd.into(), &raw const list as u64, 0, 0, 0]);
    assert_eq!(exchange(XENMEM_decrease_reservation), 1);
    assert_eq!(remember(&g, VA), [1]);
    number.set(7);
    assert_eq!(exchange(XENMEM_populate_physmap), 1);
    assert_eq!(
        number.get(),
        frame.as_u64(),
        "the frame freed last comes first"
    );
    assert!(remember(&g, VA).is_empty());
}

/// Makes user tables for the running vCPU that map [`VA`] by a table of their own; and that table.
fn user_tables(g: &Guest) -> Mfn {
    let [l4, l3, l2, l1] = [(); 4].map(|()| g.page());
    g.poke(l2, entry::index(VA, Level::L2), entry::entry(l1, TABLE));
    g.poke(l3, entry::index(VA, Level::L3), entry::entry(l2, TABLE));
    g.poke(l4, entry::index(VA, Level::L4), entry::entry(l3, TABLE));
    assert_eq!(g.pin(Level::L4, l4), 0);
    assert_eq!(g.ext(MMUEXT_NEW_USER_BASEPTR, l4.as_u64(), 0), 0);
    l1
}

/// With PCIDs each mode has its translations, and keeps them; without them a user page's serves both
/// modes, a kernel page's goes with CR3.
#[test]
fn modes_share_what_is_global() {
    for pcid in [true, false] {
        let (g, kernels) = guest_with(Layout {
            pcid,
            ..Layout::new(Kind::DomU, 4096)
        });
        let users = user_tables(&g);
        let (old, new) = (g.page(), g.page());
        // The kernel's own: without U, so not global.
        let own = entry::P | entry::A;
        assert_eq!(g.update(slot(kernels, OTHER), entry::entry(new, own)), 0);
        assert_eq!(look(&g, 0, OTHER, Mode::Kernel), Some(new));
        assert_eq!(g.update(slot(users, VA), entry::entry(old, RO)), 0);
        assert_eq!(g.update(slot(kernels, VA), entry::entry(new, RO)), 0);
        assert_eq!(look(&g, 0, VA, Mode::User), Some(old));
        let kept: &[usize] = if pcid { &[0] } else { &[] };
        assert_eq!(remember(&g, OTHER), kept);
        let found = look(&g, 0, VA, Mode::Kernel);
        assert_eq!(found, Some(if pcid { new } else { old }));
        // That the kernel sees what its tables do not have is said.
        assert_eq!(g.model.stale().len(), usize::from(!pcid));
        // The page is forgotten in both modes.
        assert_eq!(g.ext(MMUEXT_INVLPG_LOCAL, VA, 0), 0);
        assert!(remember(&g, VA).is_empty());
    }
}

/// New tables for user mode flush nothing: what user mode remembers of the old ones is found.
#[test]
fn new_user_tables_flush_nothing() {
    let (g, _) = guest();
    let first = user_tables(&g);
    let (old, new) = (g.page(), g.page());
    assert_eq!(g.update(slot(first, VA), entry::entry(old, RO)), 0);
    assert_eq!(look(&g, 0, VA, Mode::User), Some(old));
    let second = user_tables(&g);
    assert_eq!(g.update(slot(second, VA), entry::entry(new, RO)), 0);
    let stale = g.model.stale();
    assert_eq!(stale.len(), 1);
    assert_eq!((stale[0].old.mode, stale[0].old.frame), (Mode::User, old));
    assert_eq!(g.ext(MMUEXT_NEW_BASEPTR, g.l4().as_u64(), 0), 0);
    assert!(g.model.stale().is_empty());
}
