//! The typed hypercalls about the processor: its page tables, entry points, time and console. Which number and arguments each passes, and what it makes of the answer.

use crate::common::mock::*;
use hypercall::{
    Errno, ExtOp, Level, MachAddr, Mfn, Op, Pfn, Scope, VirtAddr,
    abi::{arch::*, mmu::*, sched::*, vcpu::*, xen::*},
    console, descriptor, mmu,
    mmu::{VaFlush, VcpuMask},
    multicall, physdev, sched, time, trap, vm_assist,
};

#[test]
fn console() {
    let xen = fine();
    console::write(&xen, b"hello").unwrap();
    xen.saw(Op::ConsoleIo, [Some(CONSOLEIO_write as u64), Some(5), None]);
    // SAFETY: the argument is the buffer below.
    let xen = MockXen::new(|(_, args)| unsafe {
        put(args[2], *b"ab");
        2
    });
    assert_eq!(console::read(&xen, &mut [0; 16]).unwrap(), b"ab");
    xen.saw(Op::ConsoleIo, [Some(CONSOLEIO_read as u64), Some(16), None]);
    let xen = MockXen::new(|_| 1000);
    assert_eq!(console::read(&xen, &mut [7; 4]).unwrap(), [7; 4]);
    let xen = MockXen::new(|_| -1);
    let error = console::write(&xen, b"hello").unwrap_err();
    assert_eq!(
        error.to_string(),
        "console_io(write): EPERM (not permitted)"
    );
}

#[test]
fn scheduling_and_time() {
    let xen = fine();
    sched::r#yield(&xen).unwrap();
    xen.saw(Op::SchedOp, [Some(SCHEDOP_yield as u64)]);
    sched::block(&xen).unwrap();
    xen.saw(Op::SchedOp, [Some(SCHEDOP_block as u64)]);
    time::set_timer(&xen, 12345).unwrap();
    xen.saw(Op::SetTimerOp, [Some(12345)]);
    time::stop_periodic(&xen, 3).unwrap();
    xen.saw(
        Op::VcpuOp,
        [Some(VCPUOP_stop_periodic_timer as u64), Some(3)],
    );
    time::set_periodic(&xen, 3, 1_000_000).unwrap();
    xen.saw(
        Op::VcpuOp,
        [Some(VCPUOP_set_periodic_timer as u64), Some(3), None],
    );

    // SAFETY: `SCHEDOP_shutdown` takes this.
    let xen = unsafe {
        reading(1, |arg: sched_shutdown| {
            assert_eq!(arg.reason, SHUTDOWN_crash)
        })
    };
    sched::shutdown(&xen, sched::Shutdown::Crash).unwrap();
    xen.saw(Op::SchedOp, [Some(SCHEDOP_shutdown.into()), None]);
    for (answer, how) in [
        (0, Ok(sched::Resumed::Restored)),
        (1, Ok(sched::Resumed::Cancelled)),
        (Errno::EINVAL.to_return(), Err(Errno::EINVAL)),
    ] {
        let xen = MockXen::new(|(_, args)| {
            // SAFETY: `SCHEDOP_shutdown` takes this.
            let arg: sched_shutdown = unsafe { at(args[1]) };
            assert_eq!(arg.reason, SHUTDOWN_suspend);
            answer
        });
        // SAFETY: nothing has a machine number.
        let resumed = unsafe { sched::suspend(&xen, Mfn::truncate(0x77)) };
        assert_eq!(resumed.map_err(|e| e.errno), how);
        // Where the tools look for `start_info`.
        xen.saw(
            Op::SchedOp,
            [Some(SCHEDOP_shutdown.into()), None, Some(0x77)],
        );
    }
    let xen = MockXen::new(|(_, args)| {
        // SAFETY: `SCHEDOP_poll` takes this.
        let arg: sched_poll = unsafe { at(args[1]) };
        assert_eq!((arg.nr_ports, arg.timeout), (2, 99));
        // SAFETY: it names two ports.
        assert_eq!(unsafe { at::<[u32; 2]>(arg.ports as u64) }, [5, 6]);
        0
    });
    sched::poll(&xen, &[5, 6], 99).unwrap();
    xen.saw(Op::SchedOp, [Some(SCHEDOP_poll.into()), None]);
}

#[test]
fn page_tables() {
    let slot = MachAddr::of_entry(Mfn::truncate(0x55), 7);
    assert_eq!(mmu::pt_update(slot, 9, false).ptr, 0x55038);
    assert_eq!(mmu::pt_update(slot, 9, true).ptr, 0x5503a);
    let m2p = mmu::machphys_update(Mfn::truncate(0x55), Pfn::truncate(6));
    assert_eq!((m2p.ptr, m2p.val), (0x55001, 6));

    let xen = MockXen::new(|(_, args)| {
        // SAFETY: `done` is at the third argument.
        unsafe { put(args[2], 1u32) };
        -16
    });
    let requests = [mmu::pt_update(slot, 9, false); 3];
    // SAFETY: nobody carries it out.
    let stopped = unsafe { mmu::update(&xen, &requests, DOMID_SELF) }.unwrap_err();
    assert_eq!(stopped.to_string(), "mmu_update: EBUSY (busy) at request 1");
    xen.saw(Op::MmuUpdate, [None, Some(3), None, Some(SELF)]);

    let va = VirtAddr::new(0x7000);
    let xen = fine();
    for (flush, flags) in [
        (VaFlush::None, 0),
        (VaFlush::Page(Scope::Local), 2),
        (VaFlush::Page(Scope::All), 6),
        (VaFlush::Tlb(Scope::Local), 1),
        (VaFlush::Tlb(Scope::All), 5),
    ] {
        // SAFETY: nobody carries it out.
        unsafe { mmu::update_va_mapping(&xen, va, 0x1063, flush) }.unwrap();
        xen.saw(
            Op::UpdateVaMapping,
            [Some(0x7000), Some(0x1063), Some(flags)],
        );
    }
    let mask = VcpuMask::EMPTY.with(1).with(65);
    let xen = MockXen::new(|(_, args)| {
        assert_eq!(args[2] & 7, UVMF_INVLPG);
        // SAFETY: the rest is the address of the bitmap.
        assert_eq!(unsafe { at::<[u64; 2]>(args[2] & !7) }, [2, 2]);
        0
    });
    // SAFETY: nobody carries it out.
    unsafe { mmu::update_va_mapping(&xen, va, 0, VaFlush::Page(Scope::Vcpus(mask))) }.unwrap();
}

/// A set of vCPUs holds those put into it that it has room for, and no other.
#[test]
fn a_set_of_vcpus_holds_what_was_put_in() {
    for vcpu in [0, 63, 64, 127] {
        let mask = VcpuMask::EMPTY.with(vcpu);
        assert!(!mask.is_empty());
        let held: Vec<_> = (0..256).filter(|n| mask.contains(*n)).collect();
        assert_eq!(held, [vcpu]);
    }
    for beyond in [VcpuMask::MAX, VcpuMask::MAX + 1, u32::MAX] {
        assert!(VcpuMask::EMPTY.with(beyond).is_empty());
        assert!(!VcpuMask::EMPTY.with(0).contains(beyond));
    }
    for first in [0, 1, 63] {
        // The same bit in both words.
        assert!(!VcpuMask::EMPTY.with(first).with(first + 64).is_empty());
    }
    let all = (0..VcpuMask::MAX).fold(VcpuMask::EMPTY, VcpuMask::with);
    let even = (0..VcpuMask::MAX / 2).fold(VcpuMask::EMPTY, |mask, n| mask.with(2 * n));
    assert!((0..VcpuMask::MAX).all(|n| all.contains(n)));
    assert_eq!(all.union(even), all);
    assert_eq!(even.union(even.with(1)), even.with(1));
    assert!(!all.is_empty() && VcpuMask::EMPTY.is_empty());
}

/// A flush goes out as the operation for its scope, of one address or of everything.
#[test]
fn a_flush_by_itself_is_one_operation() {
    let va = VirtAddr::new(0x7000);
    for (address, cmd, arg1) in [
        (Some(va), MMUEXT_INVLPG_ALL, 0x7000),
        (None, MMUEXT_TLB_FLUSH_ALL, 0),
    ] {
        let xen = MockXen::new(|(_, args)| {
            // SAFETY: the list holds this one operation.
            let raw: mmuext_op = unsafe { at(args[0]) };
            // SAFETY: plain bits.
            assert_eq!((raw.cmd, unsafe { raw.arg1.mfn }), (cmd, arg1));
            0
        });
        mmu::flush(&xen, Scope::All, address).unwrap();
        xen.saw(Op::MmuextOp, [None, Some(1), None, Some(SELF)]);
    }
}

#[test]
fn extended_operations() {
    let frame = Mfn::truncate(0x99);
    let va = VirtAddr::new(0x7000);
    let mask = Scope::Vcpus(VcpuMask::EMPTY.with(1));
    for (op, cmd, arg1, arg2) in [
        (
            ExtOp::Pin(Level::L1, frame),
            MMUEXT_PIN_L1_TABLE,
            0x99,
            Some(0),
        ),
        (
            ExtOp::Pin(Level::L2, frame),
            MMUEXT_PIN_L2_TABLE,
            0x99,
            Some(0),
        ),
        (
            ExtOp::Pin(Level::L3, frame),
            MMUEXT_PIN_L3_TABLE,
            0x99,
            Some(0),
        ),
        (
            ExtOp::Pin(Level::L4, frame),
            MMUEXT_PIN_L4_TABLE,
            0x99,
            Some(0),
        ),
        (ExtOp::Unpin(frame), MMUEXT_UNPIN_TABLE, 0x99, Some(0)),
        (ExtOp::NewBaseptr(frame), MMUEXT_NEW_BASEPTR, 0x99, Some(0)),
        (
            ExtOp::NewUserBaseptr(Some(frame)),
            MMUEXT_NEW_USER_BASEPTR,
            0x99,
            Some(0),
        ),
        (
            ExtOp::NewUserBaseptr(None),
            MMUEXT_NEW_USER_BASEPTR,
            0,
            Some(0),
        ),
        (
            ExtOp::TlbFlush(Scope::Local),
            MMUEXT_TLB_FLUSH_LOCAL,
            0,
            Some(0),
        ),
        (ExtOp::TlbFlush(mask), MMUEXT_TLB_FLUSH_MULTI, 0, None),
        (
            ExtOp::TlbFlush(Scope::All),
            MMUEXT_TLB_FLUSH_ALL,
            0,
            Some(0),
        ),
        (
            ExtOp::Invlpg(Scope::Local, va),
            MMUEXT_INVLPG_LOCAL,
            0x7000,
            Some(0),
        ),
        (ExtOp::Invlpg(mask, va), MMUEXT_INVLPG_MULTI, 0x7000, None),
        (
            ExtOp::Invlpg(Scope::All, va),
            MMUEXT_INVLPG_ALL,
            0x7000,
            Some(0),
        ),
        (ExtOp::FlushCache, MMUEXT_FLUSH_CACHE, 0, Some(0)),
        (ExtOp::SetLdt(va, 12), MMUEXT_SET_LDT, 0x7000, Some(12)),
        (ExtOp::ClearPage(frame), MMUEXT_CLEAR_PAGE, 0x99, Some(0)),
        (
            ExtOp::CopyPage {
                to: frame,
                from: Mfn::truncate(3),
            },
            MMUEXT_COPY_PAGE,
            0x99,
            Some(3),
        ),
    ] {
        let xen = MockXen::new(|(_, args)| {
            // SAFETY: the list holds this one operation.
            let raw: mmuext_op = unsafe { at(args[0]) };
            assert_eq!(raw.cmd, cmd, "{op:?}");
            // SAFETY: plain bits, and the address of a bitmap in `op`.
            unsafe {
                assert_eq!(raw.arg1.mfn, arg1, "{op:?}");
                match (arg2, op) {
                    (None, _) => assert_eq!(at::<[u64; 2]>(raw.arg2.src_mfn), [2, 0], "{op:?}"),
                    (Some(n), ExtOp::SetLdt(..)) => assert_eq!(raw.arg2.nr_ents as u64, n),
                    (Some(n), _) => assert_eq!(raw.arg2.src_mfn, n, "{op:?}"),
                }
            }
            0
        });
        // SAFETY: nobody carries it out.
        unsafe { mmu::ext(&xen, op) }.unwrap();
        xen.saw(Op::MmuextOp, [None, Some(1), None, Some(SELF)]);
        let xen = MockXen::new(|_| -22);
        // SAFETY: nobody carries it out.
        let error = unsafe { mmu::ext(&xen, op) }.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("mmuext_op({}): EINVAL (invalid argument)", op.name())
        );
    }
}

#[test]
fn multicalls() {
    let xen = MockXen::new(|(_, args)| {
        assert_eq!(args[1], 2);
        // SAFETY: the list holds two entries; Xen comes to the first.
        unsafe { (*(args[0] as *mut hypercall::abi::multicall::multicall_entry)).result = 7 };
        -14
    });
    let mut calls = [multicall::entry(Op::XenVersion, [0; 5]); 2];
    // SAFETY: nobody carries them out.
    let error = unsafe { multicall::multicall(&xen, &mut calls) }.unwrap_err();
    assert_eq!(error.errno, Errno::EFAULT);
    assert_eq!(calls.each_ref().map(multicall::result), [Some(Ok(7)), None]);
}

#[test]
fn entry_points_and_segments() {
    let va = VirtAddr::new(0xffff_8800_0000_1000);
    let gate = trap::gate(14, va, 3, true);
    assert_eq!((gate.vector, gate.flags, gate.cs), (14, 7, 0xe033));
    assert_eq!(trap::gate(3, va, 0, false).flags, 0);
    let xen = fine();
    // SAFETY: nobody carries any of it out.
    unsafe {
        trap::set_trap_table(&xen, &[gate, trap::END]).unwrap();
        xen.saw(Op::SetTrapTable, [None]);
        trap::set_callbacks(&xen, va, va + 1, va + 2).unwrap();
        let [a, b, c] = [0, 1, 2].map(|n| Some(va.as_u64() + n));
        xen.saw(Op::SetCallbacks, [a, b, c]);
        trap::register_callback(&xen, trap::Callback::Syscall32, va, true).unwrap();
        xen.saw(Op::CallbackOp, [Some(0), None]);
        descriptor::set_gdt(&xen, &[Mfn::truncate(5)], 512).unwrap();
        xen.saw(Op::SetGdt, [None, Some(512)]);
        descriptor::update_descriptor(&xen, MachAddr::truncate(0x5008), 77).unwrap();
        xen.saw(Op::UpdateDescriptor, [Some(0x5008), Some(77)]);
        descriptor::set_segment_base(&xen, descriptor::SegmentBase::GsKernel, 9).unwrap();
        xen.saw(
            Op::SetSegmentBase,
            [Some(SEGBASE_GS_KERNEL as u64), Some(9)],
        );
        descriptor::set_user_gs_selector(&xen, 0x2b).unwrap();
        xen.saw(
            Op::SetSegmentBase,
            [Some(SEGBASE_GS_USER_SEL as u64), Some(0x2b)],
        );
        descriptor::stack_switch(&xen, va).unwrap();
        xen.saw(Op::StackSwitch, [Some(0xe02b), Some(va.as_u64())]);
    }
    descriptor::fpu_taskswitch(&xen, true).unwrap();
    xen.saw(Op::FpuTaskswitch, [Some(1)]);
    physdev::set_iopl(&xen, 1).unwrap();
    xen.saw(Op::PhysdevOp, [Some(6), None]);
    vm_assist::set(&xen, vm_assist::Assist::WritablePagetables, false).unwrap();
    xen.saw(Op::VmAssist, [Some(1), Some(2)]);
}
