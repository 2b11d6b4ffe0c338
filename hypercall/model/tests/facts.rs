//! What was seen on real Xen, one fact a test.

mod common;

use common::{Guest, RO, RW, TABLE, err, guest};
use hypercall::{
    Errno, MachAddr, Mfn, Op,
    abi::{
        mmu::{mmu_update, mmuext_op, mmuext_op_arg1, mmuext_op_arg2},
        multicall::multicall_entry,
        xen::DOMID_SELF,
    },
    mmu::Level,
};
use model::{Access, Injection, Kind, Layout, Mode, PREEMPTED, Type, entry};

const VA: u64 = 0x10_0000_0000;
const KINDS: [Kind; 3] = [Kind::DomU, Kind::Dom0, Kind::Shim];

fn slot(table: Mfn, index: usize) -> MachAddr {
    MachAddr::of_entry(table, index)
}

#[test]
fn pse_at_l2_is_refused() {
    for kind in KINDS {
        let g = guest(kind);
        let l1 = g.window(VA);
        let (l2_slot, _) = g.model.walk(g.l4(), VA).entry(Level::L2).unwrap();
        let value = entry::entry(l1, TABLE | entry::PSE);
        assert_eq!(g.update(l2_slot, value), err(Errno::EINVAL));
        g.audit();
    }
}

#[test]
fn cache_bits_are_dom0_s() {
    for kind in KINDS {
        let g = guest(kind);
        let l1 = g.window(VA);
        let page = g.page();
        for bit in [entry::PWT, entry::PCD, entry::PAT] {
            let result = g.update(slot(l1, 0), entry::entry(page, RW | bit));
            let expected = if kind == Kind::Dom0 { 0 } else { -22 };
            assert_eq!(result, expected, "{kind:?} {bit:#x}");
        }
        g.audit();
    }
}

#[test]
fn entries_come_back_rewritten() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let page = g.page();
    assert_eq!(g.update(slot(l1, 0), entry::entry(page, 0x61)), 0);
    assert_eq!(g.peek(l1, 0), entry::entry(page, 1 << 52 | 0x65));
    assert_eq!(g.update(slot(l1, 1), entry::entry(page, 0x65)), 0);
    assert_eq!(g.peek(l1, 1), entry::entry(page, 0x165));
    g.audit();
}

#[test]
fn a_table_is_never_writable() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let other = g.page();
    // Mapping a table writable, pinning what is mapped writable, pinning twice, at another level.
    assert_eq!(
        g.update(slot(l1, 0), entry::entry(l1, RW)),
        err(Errno::EBUSY)
    );
    assert_eq!(g.update(slot(l1, 0), entry::entry(l1, RO)), 0);
    assert_eq!(g.update(slot(l1, 1), entry::entry(other, RW)), 0);
    assert_eq!(g.pin(Level::L1, other), err(Errno::EINVAL));
    assert_eq!(g.update(slot(l1, 1), entry::entry(other, RO)), 0);
    assert_eq!(g.pin(Level::L1, other), 0);
    assert_eq!(g.pin(Level::L1, other), err(Errno::EINVAL));
    assert_eq!(g.pin(Level::L2, other), err(Errno::EINVAL));
    assert_eq!(g.unpin(other), 0);
    assert_eq!(g.unpin(other), err(Errno::EINVAL));
    assert_eq!(g.update(slot(l1, 1), entry::entry(other, RW)), 0);
    g.audit();
}

#[test]
fn xen_s_slots_are_xen_s() {
    let g = guest(Kind::DomU);
    let page = g.page();
    for index in 256..=271 {
        let result = g.update(slot(g.l4(), index), entry::entry(page, TABLE));
        assert_eq!(result, err(Errno::EINVAL));
        assert_eq!(g.update(slot(g.l4(), index), 0), err(Errno::EINVAL));
    }
    g.audit();
}

#[test]
fn update_va_mapping_needs_an_l1_table() {
    let g = guest(Kind::DomU);
    let page = g.page();
    assert_eq!(g.va_mapping(VA, entry::entry(page, RW), 0), -22);
    g.window(VA);
    assert_eq!(g.va_mapping(VA, entry::entry(page, RW), 0), 0);
    assert_eq!(g.model.store(VA, 7), Ok(()));
    assert_eq!(g.peek(page, 0), 7);
    assert_eq!(g.va_mapping(model::XEN_VIRT_START, 0, 0), -22);
    g.audit();
}

#[test]
fn an_update_of_an_ordinary_page_is_a_store() {
    let g = guest(Kind::DomU);
    let page = g.page();
    assert_eq!(g.update(slot(page, 3), 0xdead_beef), 0);
    assert_eq!(g.peek(page, 3), 0xdead_beef);
    // A table that nobody uses yet is an ordinary page, too, and so is one mapped writable.
    let l1 = g.window(VA);
    assert_eq!(g.update(slot(l1, 0), entry::entry(page, RW)), 0);
    assert_eq!(g.update(slot(page, 4), u64::MAX), 0);
    assert_eq!(g.peek(page, 4), u64::MAX);
    g.audit();
}

#[test]
fn a_gdt_page_is_not_written_by_mmu_update() {
    let g = guest(Kind::DomU);
    let page = g.page();
    let frames = [page.as_u64()];
    assert_eq!(
        g.call(Op::SetGdt, [frames.as_ptr() as u64, 512, 0, 0, 0]),
        0
    );
    assert_eq!(g.model.frame(page).unwrap().kind, Type::Segments);
    assert_eq!(g.update(slot(page, 0), 0), err(Errno::EINVAL));
    let flat = 0x00cf_fb00_0000_ffff;
    let args = [slot(page, 1).as_u64(), flat, 0, 0, 0];
    assert_eq!(g.call(Op::UpdateDescriptor, args), 0);
    assert_eq!(g.peek(page, 1), flat);
    g.audit();
    assert_eq!(g.call(Op::SetGdt, [0; 5]), 0);
    assert_eq!(g.update(slot(page, 0), 0), 0);
    g.audit();
}

#[test]
fn flush_kind_three_flushes_nothing() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let (old, new) = (g.page(), g.page());
    let seen = || g.model.access(VA, Access::Read, Mode::Kernel).unwrap().0;
    assert_eq!(g.update(slot(l1, 0), entry::entry(old, RO)), 0);
    assert_eq!(seen(), old);
    for (flags, expected) in [(0, old), (3, old), (2, new)] {
        assert_eq!(g.va_mapping(VA, entry::entry(new, RO), flags), 0);
        assert_eq!(seen(), expected, "flags {flags}");
    }
    assert_eq!(g.va_mapping(VA, entry::entry(old, RO), 1), 0);
    assert_eq!(seen(), old);
    assert_eq!(g.va_mapping(VA, entry::entry(new, RO), 4 | 1), 0);
    assert_eq!(seen(), new);
}

#[test]
fn l1_updates_do_not_flush_and_upper_ones_do() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let (old, new) = (g.page(), g.page());
    let seen = || g.model.access(VA, Access::Read, Mode::Kernel).unwrap().0;
    assert_eq!(g.update(slot(l1, 0), entry::entry(old, RO)), 0);
    assert_eq!(seen(), old);
    assert_eq!(g.update(slot(l1, 0), entry::entry(new, RO)), 0);
    assert_eq!(seen(), old, "nothing flushed");
    let (l2_slot, l2e) = g.model.walk(g.l4(), VA).entry(Level::L2).unwrap();
    assert_eq!(g.update(l2_slot, l2e), 0);
    assert_eq!(
        seen(),
        new,
        "an L2 update flushes even if it changes nothing"
    );
}

#[test]
fn a_frame_that_becomes_a_table_is_flushed_out_of_the_tlb() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let page = g.page();
    assert_eq!(g.update(slot(l1, 0), entry::entry(page, RW)), 0);
    g.model.store(VA, 0).unwrap();
    // Read-only in the table, writable still in the TLB: pinning must not leave it so.
    assert_eq!(g.update(slot(l1, 0), entry::entry(page, RO)), 0);
    g.model.store(VA, 0).unwrap();
    let before = g.model.counters().type_flushes;
    assert_eq!(g.pin(Level::L1, page), 0);
    assert_eq!(g.model.counters().type_flushes, before + 1);
    assert!(g.model.store(VA, 1).unwrap_err().is_protection());
    g.audit();
}

#[test]
fn accessed_and_dirty_are_kept_if_asked() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let page = g.page();
    let clean = entry::P | entry::RW | entry::U;
    for (kind, kept) in [(0, 0), (2, entry::A | entry::D)] {
        assert_eq!(g.va_mapping(VA, entry::entry(page, clean), 1), 0);
        g.model.store(VA, 1).unwrap();
        assert_ne!(g.peek(l1, 0) & entry::D, 0);
        let request = (slot(l1, 0).as_u64() | kind, entry::entry(page, clean));
        assert_eq!(g.update_list(&[request]), (0, 1));
        assert_eq!(g.peek(l1, 0) & (entry::A | entry::D), kept);
    }
}

#[test]
fn stores_to_tables_are_emulated_for_dom0_only() {
    for kind in KINDS {
        let g = guest(kind);
        let l1 = g.window(VA);
        let page = g.page();
        assert_eq!(g.update(slot(l1, 0), entry::entry(l1, RO)), 0);
        let stored = g.model.store(VA + 8, entry::entry(page, RW));
        assert_eq!(stored.is_ok(), kind == Kind::Dom0, "{kind:?}");
        // Not even dom0 writes other levels.
        let (l2_slot, _) = g.model.walk(g.l4(), VA).entry(Level::L2).unwrap();
        let l2 = l2_slot.frame();
        assert_eq!(g.update(slot(l1, 2), entry::entry(l2, RO)), 0);
        let stored = g.model.store(VA + 0x2000, 0);
        assert!(stored.unwrap_err().is_protection());
        // With the assist everybody may.
        assert_eq!(g.call(Op::VmAssist, [0, 2, 0, 0, 0]), 0);
        assert_eq!(g.model.store(VA + 8, entry::entry(page, RO)), Ok(()));
        assert_eq!(entry::frame(g.peek(l1, 1)), page);
        g.audit();
    }
}

#[test]
fn lists_stop_at_the_first_failure() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let page = g.page();
    let good = |index| (slot(l1, index).as_u64(), entry::entry(page, RW));
    let bad = (slot(l1, 9).as_u64(), entry::entry(l1, RW));
    assert_eq!(g.update_list(&[good(0), bad, good(1)]), (-16, 1));
    assert_ne!(g.peek(l1, 0), 0);
    assert_eq!(g.peek(l1, 1), 0);
    g.audit();
}

#[test]
fn multicalls_go_on() {
    for debug in [false, true] {
        let g = Guest::new(&Layout {
            debug,
            ..Layout::new(Kind::DomU, 4096)
        });
        g.window(VA);
        let page = g.page();
        let call = |va, value| multicall_entry {
            op: Op::UpdateVaMapping as u64,
            result: 77,
            args: [va, value, 0, 0, 0, 0],
        };
        let mut calls = [
            call(VA, entry::entry(page, RW)),
            call(model::XEN_VIRT_START, 0),
            call(VA + 4096, entry::entry(page, RO)),
            multicall_entry {
                op: Op::Multicall as u64,
                result: 77,
                args: [4096, 0, 0, 0, 0, 0],
            },
            multicall_entry {
                op: 999,
                result: 77,
                args: [0; 6],
            },
        ];
        let args = [calls.as_mut_ptr() as u64, 5, 0, 0, 0];
        assert_eq!(g.call(Op::Multicall, args), 0);
        let results = calls.map(|call| call.result as i64);
        assert_eq!(results, [0, -22, 0, -22, -38]);
        let kept = calls.iter().all(|call| call.op != 0xaaaa_aaaa_aaaa_aaaa);
        assert_eq!(kept, !debug);
        assert_eq!(g.call(Op::Multicall, [0, 1, 0, 0, 0]), err(Errno::EFAULT));
        g.audit();
    }
}

#[test]
fn bit_31_of_a_count_is_a_continuation() {
    let g = guest(Kind::DomU);
    let page = g.page();
    let request = [mmu_update {
        ptr: slot(page, 0).as_u64(),
        val: 5,
    }];
    let mut done = 7u32;
    let args = [
        request.as_ptr() as u64,
        (1 | PREEMPTED) as u64,
        &raw mut done as u64,
        DOMID_SELF as u64,
        0,
    ];
    assert_eq!(g.call(Op::MmuUpdate, args), 0);
    assert_eq!(done, 8);
    // With no list it hands its last argument back.
    assert_eq!(
        g.call(Op::MmuUpdate, [0, PREEMPTED as u64, 0, 1234, 0]),
        1234
    );
}

#[test]
fn preemption_changes_nothing_but_the_time_of_events() {
    let g = guest(Kind::DomU);
    let l1 = g.window(VA);
    let page = g.page();
    let list: Vec<_> = (0..100)
        .map(|i| (slot(l1, i).as_u64(), entry::entry(page, RW)))
        .collect();
    for every in [1, 7, 99] {
        g.model.preempt_every(Some(every));
        assert_eq!(g.update_list(&list), (0, 100));
        let mut bad = list.clone();
        bad[60].1 = entry::entry(l1, RW);
        assert_eq!(g.update_list(&bad), (-16, 60));
    }
    let mut calls: Vec<_> = (0..3)
        .map(|i| multicall_entry {
            op: Op::MmuUpdate as u64,
            result: 77,
            args: [
                list.as_ptr() as u64,
                if i == 1 { 100 } else { 10 },
                0,
                DOMID_SELF as u64,
                0,
                0,
            ],
        })
        .collect();
    g.model.preempt_every(Some(3));
    let args = [calls.as_mut_ptr() as u64, 3, 0, 0, 0];
    assert_eq!(g.call(Op::Multicall, args), 0);
    assert!(calls.iter().all(|call| call.result == 0));
    g.audit();
}

#[test]
fn base_pointers() {
    let g = guest(Kind::DomU);
    let old = g.l4();
    let new = g.page();
    for index in 0..512 {
        g.poke(new, index, g.peek(old, index));
    }
    // What a guest leaves in Xen's slots is overwritten.
    g.poke(new, 258, 0x1234_5000 | RW);
    assert_eq!(g.pin(Level::L4, new), 0);
    assert_eq!(g.peek(new, 258), entry::entry(new, 0x63));
    assert_eq!(g.ext(5, new.as_u64(), 0), 0);
    assert_eq!(g.l4(), new);
    assert_eq!(g.ext(15, new.as_u64(), 0), 0);
    assert_eq!(g.model.l4(Mode::User), Some(new));
    g.audit();
    assert_eq!(g.ext(5, old.as_u64(), 0), 0);
    assert_eq!(g.unpin(new), 0);
    assert_eq!(g.model.frame(new).unwrap().kind, Type::Table(Level::L4));
    assert_eq!(g.ext(15, 0, 0), 0);
    assert_eq!(g.model.frame(new).unwrap().type_count, 0);
    assert_eq!(g.ext(5, g.page().as_u64(), 0), 0, "an empty L4 is valid");
    assert!(g.model.load(g.model.boot().pt_base).is_err());
    g.audit();
}

#[test]
fn foreign_frames_and_devices() {
    for kind in KINDS {
        let g = guest(kind);
        let l1 = g.window(VA);
        let foreign = g.model.foreign_mfn();
        let result = g.update(slot(l1, 0), entry::entry(foreign, RO));
        assert_eq!(result, err(Errno::EBUSY));
        let device = Mfn::new(0x100).unwrap();
        let result = g.update(slot(l1, 0), entry::entry(device, RW));
        assert_eq!(result, if kind == Kind::Dom0 { 0 } else { -1 }, "{kind:?}");
        if kind == Kind::Dom0 {
            assert_eq!(g.peek(l1, 0) & entry::CACHE, entry::PCD | entry::PWT);
        }
        let result = g.update(slot(l1, 1), entry::entry(Mfn::MAX, RO));
        assert_eq!(result, err(Errno::EINVAL));
        g.audit();
    }
}

#[test]
fn linear_tables() {
    let g = guest(Kind::DomU);
    let l4 = g.l4();
    let map = entry::entry(l4, RO);
    assert_eq!(g.update(slot(l4, 5), map | entry::RW), err(Errno::EINVAL));
    assert_eq!(g.update(slot(l4, 5), map), 0);
    let other = g.page();
    assert_eq!(g.pin(Level::L4, other), 0);
    assert_eq!(g.update(slot(other, 6), map), 0);
    g.audit();
    // One that has linear entries is not itself a target.
    assert_eq!(
        g.update(slot(l4, 7), entry::entry(other, RO)),
        err(Errno::EINVAL)
    );
    assert_eq!(g.unpin(other), 0);
    assert_eq!(g.update(slot(l4, 5), 0), 0);
    g.audit();
}

#[test]
fn l1tf_ends_the_domain() {
    let g = Guest::new(&Layout {
        l1tf: true,
        survive_crash: true,
        ..Layout::new(Kind::DomU, 4096)
    });
    let l1 = g.window(VA);
    assert_eq!(g.update(slot(l1, 0), 0x80), 0);
    assert!(g.model.crashed().is_none());
    g.update(slot(l1, 0), 0x1000);
    assert!(g.model.crashed().unwrap().contains("L1TF"));
    assert_eq!(g.update(slot(l1, 0), 0), err(Errno::ESRCH));
}

#[test]
fn failures_come_when_asked_for() {
    let g = guest(Kind::DomU);
    let page = g.page();
    let list: Vec<_> = (0..4).map(|i| (slot(page, i).as_u64(), 1)).collect();
    g.model
        .inject(Injection::request(Op::MmuUpdate, 2, Errno::ENOMEM));
    assert_eq!(g.update_list(&list), (-12, 2));
    assert_eq!(g.update_list(&list), (0, 4));
    g.model.inject(Injection {
        nth: 2,
        times: 2,
        cmd: Some(4),
        index: Some(0),
        ..Injection::call(Op::MmuextOp, Errno::EBUSY)
    });
    assert_eq!(g.pin(Level::L1, g.page()), 0);
    let results: Vec<_> = (0..4).map(|_| g.unpin(page)).collect();
    assert_eq!(results, [-22, -16, -16, -22]);
    assert_eq!(g.model.clear_injections(), 0);
}

#[test]
fn remote_flushes_reach_the_vcpus_named() {
    let g = Guest::new(&Layout {
        vcpus: 3,
        ..Layout::new(Kind::DomU, 4096)
    });
    let l1 = g.window(VA);
    let (old, new) = (g.page(), g.page());
    let l4 = g.l4();
    for vcpu in 1..3 {
        g.model.run_on(vcpu);
        assert_eq!(g.ext(5, l4.as_u64(), 0), 0);
    }
    let seen = |vcpu| {
        g.model.run_on(vcpu);
        g.model.access(VA, Access::Read, Mode::Kernel).unwrap().0
    };
    g.model.run_on(0);
    assert_eq!(g.update(slot(l1, 0), entry::entry(old, RO)), 0);
    assert_eq!([seen(0), seen(1), seen(2)], [old; 3]);
    g.model.run_on(0);
    assert_eq!(g.update(slot(l1, 0), entry::entry(new, RO)), 0);
    let mask = [0b10u64; 2];
    let op = [mmuext_op {
        cmd: 9,
        arg1: mmuext_op_arg1 { linear_addr: VA },
        arg2: mmuext_op_arg2 {
            vcpumask: mask.as_ptr().cast(),
        },
    }];
    let args = [op.as_ptr() as u64, 1, 0, DOMID_SELF as u64, 0];
    assert_eq!(g.call(Op::MmuextOp, args), 0);
    assert_eq!([seen(0), seen(1), seen(2)], [old, new, old]);
    assert_eq!(g.ext(10, 0, 0), 0);
    assert_eq!([seen(0), seen(1), seen(2)], [new; 3]);
    g.audit();
}
