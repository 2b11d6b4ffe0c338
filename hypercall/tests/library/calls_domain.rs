//! The typed hypercalls about what a domain has: events, vCPUs, memory, parameters, and the Xen it
//! runs on. Which number and arguments each passes, and what it makes of the answer.

use crate::common::mock::*;
use hypercall::{
    Errno, MachAddr, Mfn, Op, Pfn,
    abi::{arch::*, event::*, hvm::*, memory::*, vcpu::*, version::*, xen::*},
    event,
    event::Port,
    hvm, memory, vcpu, version,
};

/// Asserts that the event-channel operation `cmd` was asked for, with the address of its argument.
#[track_caller]
fn saw_event_op<F: Fn(Call) -> i64>(xen: &MockXen<F>, cmd: u32) {
    xen.saw(Op::EventChannelOp, [Some(cmd.into()), None]);
}

/// Whatever is done to a port names that port to Xen, in the structure of its own operation.
#[test]
fn an_operation_on_a_port_names_it() {
    let port = Port(4);
    // SAFETY: `EVTCHNOP_send` takes this.
    let xen = unsafe { reading(1, |arg: evtchn_send| assert_eq!(arg.port, 4)) };
    event::send(&xen, port).unwrap();
    saw_event_op(&xen, EVTCHNOP_send);
    // SAFETY: `EVTCHNOP_unmask` takes this.
    let xen = unsafe { reading(1, |arg: evtchn_unmask| assert_eq!(arg.port, 4)) };
    event::unmask(&xen, port).unwrap();
    saw_event_op(&xen, EVTCHNOP_unmask);
    // SAFETY: `EVTCHNOP_close` takes this.
    let xen = unsafe { reading(1, |arg: evtchn_close| assert_eq!(arg.port, 4)) };
    event::close(&xen, port).unwrap();
    saw_event_op(&xen, EVTCHNOP_close);
    // SAFETY: `EVTCHNOP_bind_vcpu` takes this.
    let xen = unsafe {
        reading(1, |arg: evtchn_bind_vcpu| {
            assert_eq!((arg.port, arg.vcpu), (4, 2));
        })
    };
    event::bind_vcpu(&xen, port, 2).unwrap();
    saw_event_op(&xen, EVTCHNOP_bind_vcpu);
    // SAFETY: `EVTCHNOP_status` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: evtchn_status| {
            assert_eq!((arg.dom, arg.port), (DOMID_SELF, 4));
            let status = EVTCHNSTAT_unbound;
            evtchn_status { status, ..arg }
        })
    };
    let status = event::status(&xen, port).unwrap();
    assert_eq!(status.status, EVTCHNSTAT_unbound);
    saw_event_op(&xen, EVTCHNOP_status);
    assert_eq!(port.to_string(), "4");
}

/// Closing all ports closes those of this domain, and of no other.
#[test]
fn a_reset_is_of_this_domain() {
    // SAFETY: `EVTCHNOP_reset` takes this.
    let xen = unsafe { reading(1, |arg: evtchn_reset| assert_eq!(arg.dom, DOMID_SELF)) };
    event::reset(&xen).unwrap();
    saw_event_op(&xen, EVTCHNOP_reset);
}

/// A port that is made is the one that Xen wrote down, not a number of this side's.
#[test]
fn a_new_port_is_the_one_that_xen_names() {
    // SAFETY: `EVTCHNOP_bind_virq` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: evtchn_bind_virq| {
            assert_eq!((arg.virq, arg.vcpu), (VIRQ_TIMER, 1));
            evtchn_bind_virq { port: 17, ..arg }
        })
    };
    assert_eq!(event::bind_virq(&xen, VIRQ_TIMER, 1).unwrap(), Port(17));
    saw_event_op(&xen, EVTCHNOP_bind_virq);
    // SAFETY: `EVTCHNOP_bind_ipi` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: evtchn_bind_ipi| {
            assert_eq!(arg.vcpu, 1);
            evtchn_bind_ipi { port: 18, ..arg }
        })
    };
    assert_eq!(event::bind_ipi(&xen, 1).unwrap(), Port(18));
    saw_event_op(&xen, EVTCHNOP_bind_ipi);
    // SAFETY: `EVTCHNOP_alloc_unbound` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: evtchn_alloc_unbound| {
            assert_eq!((arg.dom, arg.remote_dom), (DOMID_SELF, 9));
            evtchn_alloc_unbound { port: 3, ..arg }
        })
    };
    assert_eq!(event::alloc_unbound(&xen, 9).unwrap(), Port(3));
    saw_event_op(&xen, EVTCHNOP_alloc_unbound);
    // SAFETY: `EVTCHNOP_bind_interdomain` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: evtchn_bind_interdomain| {
            assert_eq!((arg.remote_dom, arg.remote_port), (9, 5));
            let local_port = 3;
            evtchn_bind_interdomain { local_port, ..arg }
        })
    };
    assert_eq!(event::bind_interdomain(&xen, 9, 5).unwrap(), Port(3));
    saw_event_op(&xen, EVTCHNOP_bind_interdomain);
}

/// What the FIFO ABI takes is named by machine frames, a control block with its place in one.
#[test]
fn queues_are_set_up_by_machine_frames() {
    // SAFETY: `EVTCHNOP_init_control` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: evtchn_init_control| {
            assert_eq!((arg.control_gfn, arg.offset, arg.vcpu), (0x12, 0x380, 3));
            evtchn_init_control {
                link_bits: 17,
                ..arg
            }
        })
    };
    // SAFETY: nobody writes there.
    let bits = unsafe { event::init_control(&xen, 3, MachAddr::truncate(0x12380)) };
    assert_eq!(bits.unwrap(), 17);
    saw_event_op(&xen, EVTCHNOP_init_control);
    // SAFETY: `EVTCHNOP_expand_array` takes this.
    let xen = unsafe {
        reading(1, |arg: evtchn_expand_array| {
            assert_eq!(arg.array_gfn, 0x34)
        })
    };
    // SAFETY: nobody writes there.
    unsafe { event::expand_array(&xen, Mfn::truncate(0x34)) }.unwrap();
    saw_event_op(&xen, EVTCHNOP_expand_array);
    // SAFETY: `EVTCHNOP_set_priority` takes this.
    let xen = unsafe {
        reading(1, |arg: evtchn_set_priority| {
            assert_eq!((arg.port, arg.priority), (4, 15));
        })
    };
    event::set_priority(&xen, Port(4), 15).unwrap();
    saw_event_op(&xen, EVTCHNOP_set_priority);
}

/// What Xen refuses about events is an error that names the operation, and never a port or success.
#[test]
fn a_refused_event_operation_is_named() {
    let refused = || MockXen::new(|_| Errno::EEXIST.to_return());
    let port = Port(4);
    for (name, error) in [
        ("send", event::send(&refused(), port).unwrap_err()),
        ("unmask", event::unmask(&refused(), port).unwrap_err()),
        ("close", event::close(&refused(), port).unwrap_err()),
        (
            "bind_virq",
            event::bind_virq(&refused(), VIRQ_TIMER, 0).unwrap_err(),
        ),
        ("bind_ipi", event::bind_ipi(&refused(), 0).unwrap_err()),
        (
            "bind_interdomain",
            event::bind_interdomain(&refused(), 9, 5).unwrap_err(),
        ),
        (
            "alloc_unbound",
            event::alloc_unbound(&refused(), 9).unwrap_err(),
        ),
        (
            "bind_vcpu",
            event::bind_vcpu(&refused(), port, 2).unwrap_err(),
        ),
        ("status", event::status(&refused(), port).err().unwrap()),
        ("reset", event::reset(&refused()).unwrap_err()),
        (
            "init_control",
            // SAFETY: refused.
            unsafe { event::init_control(&refused(), 0, MachAddr::truncate(0)) }.unwrap_err(),
        ),
        (
            "expand_array",
            // SAFETY: refused.
            unsafe { event::expand_array(&refused(), Mfn::truncate(0)) }.unwrap_err(),
        ),
        (
            "set_priority",
            event::set_priority(&refused(), port, 0).unwrap_err(),
        ),
    ] {
        assert_eq!(
            error.to_string(),
            format!("event_channel_op({name}): EEXIST (exists already)")
        );
    }
}

/// What is done to a vCPU names that vCPU, and hands over its context or place where it has one.
#[test]
fn an_operation_on_a_vcpu_names_it() {
    let xen = fine();
    vcpu::down(&xen, 2).unwrap();
    xen.saw(Op::VcpuOp, [Some(VCPUOP_down.into()), Some(2)]);
    vcpu::send_nmi(&xen, 2).unwrap();
    xen.saw(Op::VcpuOp, [Some(VCPUOP_send_nmi.into()), Some(2)]);
    // SAFETY: nobody runs.
    unsafe { vcpu::up(&xen, 2) }.unwrap();
    xen.saw(Op::VcpuOp, [Some(VCPUOP_up.into()), Some(2)]);
    // SAFETY: `VCPUOP_initialise` takes this.
    let xen = unsafe { reading(2, |arg: vcpu_guest_context| assert_eq!(arg.kernel_sp, 77)) };
    // SAFETY: every field is a number.
    let mut context: vcpu_guest_context = unsafe { core::mem::zeroed() };
    context.kernel_sp = 77;
    // SAFETY: nobody runs.
    unsafe { vcpu::initialise(&xen, 2, &context) }.unwrap();
    xen.saw(Op::VcpuOp, [Some(VCPUOP_initialise.into()), Some(2), None]);
    // SAFETY: `VCPUOP_register_vcpu_info` takes this.
    let xen = unsafe {
        reading(2, |arg: vcpu_register_vcpu_info| {
            assert_eq!((arg.mfn, arg.offset, arg.rsvd), (0x12, 0x340, 0));
        })
    };
    // SAFETY: nobody writes there.
    unsafe { vcpu::register_vcpu_info(&xen, 40, MachAddr::truncate(0x12340)) }.unwrap();
    xen.saw(
        Op::VcpuOp,
        [Some(VCPUOP_register_vcpu_info.into()), Some(40), None],
    );
}

/// An area of a vCPU is named by the command that takes such an address.
#[test]
fn an_area_of_a_vcpu_is_virtual_or_of_the_machine() {
    let va = vcpu::AreaPlace::Virtual(hypercall::VirtAddr::new(0x5000));
    let machine = vcpu::AreaPlace::Machine(MachAddr::truncate(0x12340));
    for (place, addr, commands) in [
        (
            va,
            0x5000,
            [
                VCPUOP_register_runstate_memory_area,
                VCPUOP_register_vcpu_time_memory_area,
            ],
        ),
        (
            machine,
            0x12340,
            [
                VCPUOP_register_runstate_phys_area,
                VCPUOP_register_vcpu_time_phys_area,
            ],
        ),
    ] {
        // SAFETY: both take one address.
        let xen = unsafe { reading(2, move |arg: u64| assert_eq!(arg, addr)) };
        // SAFETY: nobody writes there.
        unsafe { vcpu::register_runstate(&xen, 3, place) }.unwrap();
        xen.saw(Op::VcpuOp, [Some(commands[0].into()), Some(3), None]);
        // SAFETY: nobody writes there.
        unsafe { vcpu::register_time(&xen, 3, place) }.unwrap();
        xen.saw(Op::VcpuOp, [Some(commands[1].into()), Some(3), None]);
    }
}

/// Whether a vCPU is up, and how it spent its time, is what Xen says and no default.
#[test]
fn a_vcpus_state_is_what_xen_says() {
    for up in [true, false] {
        let xen = MockXen::new(|_| up.into());
        assert_eq!(vcpu::is_up(&xen, 2).unwrap(), up);
        xen.saw(Op::VcpuOp, [Some(VCPUOP_is_up.into()), Some(2)]);
    }
    // SAFETY: `VCPUOP_get_runstate_info` returns this.
    let xen = unsafe {
        exchanging(2, |_: vcpu_runstate_info| vcpu_runstate_info {
            state: RUNSTATE_blocked,
            state_entry_time: 5,
            time: [1, 2, 3, 4],
        })
    };
    let info = vcpu::runstate(&xen, 2).unwrap();
    assert_eq!((info.state, info.state_entry_time), (RUNSTATE_blocked, 5));
    assert_eq!(info.time, [1, 2, 3, 4]);
    xen.saw(
        Op::VcpuOp,
        [Some(VCPUOP_get_runstate_info.into()), Some(2), None],
    );
}

/// What Xen says of itself comes back whole, asked for by the command that it belongs to.
#[test]
fn what_xen_is_comes_back_as_it_says() {
    let xen = MockXen::new(|_| 0x4_0011);
    assert_eq!(version::version(&xen).unwrap().to_string(), "4.17");
    xen.saw(Op::XenVersion, [Some(XENVER_version.into())]);
    let text: [u8; 16] = *b".7-pre\0\0\0\0\0\0\0\0\0\0";
    // SAFETY: `XENVER_extraversion` returns this.
    let xen = unsafe { exchanging(1, |_: [u8; 16]| text) };
    assert_eq!(version::extraversion(&xen).unwrap(), text);
    xen.saw(Op::XenVersion, [Some(XENVER_extraversion.into()), None]);
    let mut text = [0; 1024];
    text[..14].copy_from_slice(b"xen-3.0-x86_64");
    // SAFETY: `XENVER_capabilities` returns this.
    let xen = unsafe { exchanging(1, |_: [u8; 1024]| text) };
    assert_eq!(version::capabilities(&xen).unwrap(), text);
    xen.saw(Op::XenVersion, [Some(XENVER_capabilities.into()), None]);
    // SAFETY: `XENVER_get_features` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: xen_feature_info| {
            assert_eq!(arg.submap_idx, 0);
            let submap = 1 << 11 | 1 << 30;
            xen_feature_info { submap, ..arg }
        })
    };
    let features = version::features(&xen).unwrap();
    assert!(features.contains(version::Features::DOM0));
    assert_eq!(features.bits(), 1 << 11 | 1 << 30);
    xen.saw(Op::XenVersion, [Some(XENVER_get_features.into()), None]);
    let virt_start = 0xffff_8000_0000_0000;
    // SAFETY: `XENVER_platform_parameters` returns this.
    let xen = unsafe { exchanging(1, |_| xen_platform_parameters { virt_start }) };
    assert_eq!(version::virt_start(&xen).unwrap(), virt_start);
    xen.saw(
        Op::XenVersion,
        [Some(XENVER_platform_parameters.into()), None],
    );
    let uuid = core::array::from_fn(|n| n as u8);
    // SAFETY: `XENVER_guest_handle` returns this.
    let xen = unsafe { exchanging(1, |_: [u8; 16]| uuid) };
    assert_eq!(version::guest_handle(&xen).unwrap(), uuid);
    xen.saw(Op::XenVersion, [Some(XENVER_guest_handle.into()), None]);
}

/// A poke goes to Xen, for it is the way back from there that delivers events.
#[test]
fn a_poke_is_a_call() {
    let xen = fine();
    version::poke(&xen).unwrap();
    xen.saw(Op::XenVersion, [Some(XENVER_version.into())]);
}

/// How much memory there is, and where the M2P is, is Xen's answer to the command for it.
#[test]
fn sizes_of_memory_are_what_xen_says() {
    for (ask, cmd) in [
        (
            memory::current_reservation as fn(&_) -> _,
            XENMEM_current_reservation,
        ),
        (memory::maximum_reservation, XENMEM_maximum_reservation),
    ] {
        let xen: MockXen<fn(Call) -> i64> = MockXen::new(|(_, args)| {
            // SAFETY: both commands take a domain number.
            assert_eq!(unsafe { at::<u16>(args[1]) }, DOMID_SELF);
            4096
        });
        assert_eq!(ask(&xen), Ok(4096));
        xen.saw(Op::MemoryOp, [Some(cmd.into()), None]);
    }
    let xen = MockXen::new(|_| 0x7_ffff);
    assert_eq!(memory::maximum_ram_page(&xen), Ok(0x7_ffff));
    xen.saw(Op::MemoryOp, [Some(XENMEM_maximum_ram_page.into())]);
    // SAFETY: `XENMEM_machphys_mapping` returns this.
    let xen = unsafe {
        exchanging(1, |_| xen_machphys_mapping {
            v_start: 1,
            v_end: 2,
            max_mfn: 3,
        })
    };
    let map = memory::machphys_mapping(&xen).unwrap();
    assert_eq!((map.v_start, map.v_end, map.max_mfn), (1, 2, 3));
    xen.saw(Op::MemoryOp, [Some(XENMEM_machphys_mapping.into()), None]);
}

/// The memory map has as many entries as Xen wrote, and never more than there was room for.
#[test]
fn the_memory_map_is_what_xen_filled() {
    for (written, had) in [(2, 2), (0, 0), (9, 3)] {
        // SAFETY: `XENMEM_memory_map` takes and returns this.
        let xen = unsafe {
            exchanging(1, |arg: xen_memory_map| {
                assert_eq!(arg.nr_entries, 3);
                let first = e820entry {
                    addr: 0,
                    size: 0x1000,
                    r#type: 1,
                };
                // SAFETY: the buffer has room for three.
                arg.buffer.write(first);
                let nr_entries = written;
                xen_memory_map { nr_entries, ..arg }
            })
        };
        let mut buffer = [e820entry::default(); 3];
        let map = memory::memory_map(&xen, &mut buffer).unwrap();
        assert_eq!(map.len(), had);
        assert!(map.first().is_none_or(|first| first.r#type == 1));
        xen.saw(Op::MemoryOp, [Some(XENMEM_memory_map.into()), None]);
    }
}

/// Frames that are given back or asked for are those of the list, one page each, and as many as Xen
/// says went through.
#[test]
fn frames_go_and_come_by_list() {
    let check = |arg: xen_memory_reservation| {
        assert_eq!((arg.nr_extents, arg.extent_order), (2, 0));
        assert_eq!((arg.mem_flags, arg.domid), (0, DOMID_SELF));
        // SAFETY: it names two frames.
        assert_eq!(unsafe { at::<[u64; 2]>(arg.extent_start as u64) }, [8, 9]);
    };
    let xen = MockXen::new(|(_, args)| {
        // SAFETY: `XENMEM_decrease_reservation` takes this.
        check(unsafe { at(args[1]) });
        1
    });
    // SAFETY: nobody takes them.
    let freed = unsafe { memory::decrease_reservation(&xen, &[8, 9].map(Mfn::truncate)) };
    assert_eq!(freed, Ok(1));
    xen.saw(
        Op::MemoryOp,
        [Some(XENMEM_decrease_reservation.into()), None],
    );
    // SAFETY: `XENMEM_decrease_reservation` takes this.
    let xen = unsafe {
        reading(1, |arg: xen_memory_reservation| {
            assert_eq!((arg.extent_order, arg.nr_extents), (9, 1));
        })
    };
    // SAFETY: nobody takes them.
    let freed = unsafe { memory::decrease_reservation_by(&xen, 9, &[Mfn::truncate(512)]) };
    assert_eq!(freed, Ok(0));
    let xen = MockXen::new(|(_, args)| {
        // SAFETY: `XENMEM_populate_physmap` takes this.
        let arg: xen_memory_reservation = unsafe { at(args[1]) };
        check(arg);
        // SAFETY: there is room for two frames.
        unsafe { put(arg.extent_start as u64, [0x80_u64, 9]) };
        1
    });
    let mut frames = [8, 9];
    assert_eq!(memory::populate_physmap(&xen, &mut frames), Ok(1));
    assert_eq!(frames, [0x80, 9]);
    xen.saw(Op::MemoryOp, [Some(XENMEM_populate_physmap.into()), None]);
}

/// `shared_info` goes to the frame that was given for it, of this domain.
#[test]
fn shared_info_goes_to_its_frame() {
    // SAFETY: `XENMEM_add_to_physmap` takes this.
    let xen = unsafe {
        reading(1, |arg: xen_add_to_physmap| {
            assert_eq!((arg.domid, arg.size, arg.space), (DOMID_SELF, 0, 0));
            assert_eq!((arg.idx, arg.gpfn), (0, 0x77));
        })
    };
    // SAFETY: nobody puts anything there.
    unsafe { memory::place_shared_info(&xen, Pfn::truncate(0x77)) }.unwrap();
    xen.saw(Op::MemoryOp, [Some(XENMEM_add_to_physmap.into()), None]);
}

/// Parameters are those of this domain: read as Xen has them, set as they were given.
#[test]
fn parameters_are_this_domains() {
    // SAFETY: `HVMOP_get_param` takes and returns this.
    let xen = unsafe {
        exchanging(1, |arg: xen_hvm_param| {
            assert_eq!((arg.domid, arg.index), (DOMID_SELF, 18));
            xen_hvm_param { value: 3, ..arg }
        })
    };
    assert_eq!(hvm::parameter(&xen, HVM_PARAM_CONSOLE_EVTCHN).unwrap(), 3);
    xen.saw(Op::HvmOp, [Some(HVMOP_get_param), None]);
    // SAFETY: `HVMOP_set_param` takes this.
    let xen = unsafe {
        reading(1, |arg: xen_hvm_param| {
            assert_eq!((arg.domid, arg.index), (DOMID_SELF, 0));
            assert_eq!(arg.value, 0x0200_0000_0000_0030);
        })
    };
    // SAFETY: nobody raises it.
    unsafe { hvm::set_callback_vector(&xen, 0x30) }.unwrap();
    xen.saw(Op::HvmOp, [Some(HVMOP_set_param), None]);
}

/// What is flushed is said by the number alone: Xen refuses a pointer.
#[test]
fn translations_are_forgotten_by_all_vcpus() {
    let xen = fine();
    hvm::flush_tlbs(&xen).unwrap();
    xen.saw(Op::HvmOp, [Some(HVMOP_flush_tlbs), Some(0)]);
}

/// A vCPU in hardware virtualisation starts from registers in long mode.
#[test]
fn a_vcpu_in_hardware_virtualisation_gets_registers() {
    // SAFETY: `VCPUOP_initialise` takes this.
    let xen = unsafe {
        reading(2, |arg: vcpu_hvm_context| {
            assert_eq!((arg.mode, arg.x86_64.rip), (VCPU_HVM_MODE_64B, 77));
        })
    };
    let mut context = vcpu_hvm_context {
        mode: VCPU_HVM_MODE_64B,
        ..Default::default()
    };
    context.x86_64.rip = 77;
    // SAFETY: nothing runs.
    unsafe { vcpu::initialise_hvm(&xen, 5, &context) }.unwrap();
    xen.saw(Op::VcpuOp, [Some(VCPUOP_initialise.into()), Some(5), None]);
}
