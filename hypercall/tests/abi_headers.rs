//! Every layout and every constant of `hypercall::abi` and `xenstore_wire::abi`, compared with Xen's own headers.
//!
//! The headers are Debian's `libxen-dev`, in `/usr/include` or where `XEN_INCLUDE` points. A C
//! program made from the tables below prints what the compiler makes of them; each line is then
//! compared with what Rust makes of this crate. A field left out of a table does not compile.
//! Without headers the test says so and passes, unless `XEN_INCLUDE` is set.

use std::{
    collections::BTreeMap,
    env, fs,
    mem::{offset_of, size_of},
    path::{Path, PathBuf},
    process::Command,
};

use hypercall::{Errno, Op, abi::*};
use xenstore_wire::abi as xenstore;

/// One thing to compare: a C expression, and its value here.
struct Fact {
    c: String,
    rust: u64,
}

#[derive(Default)]
struct Facts(Vec<Fact>);

impl Facts {
    fn add(&mut self, c: impl Into<String>, rust: u64) {
        self.0.push(Fact { c: c.into(), rust });
    }
}

/// The size of a type and the offset of each of its fields. All fields: the pattern has no `..`.
macro_rules! layout {
    ($facts:ident, $c:literal, $type:ty { $($field:ident $(= $c_field:literal)?),* $(,)? }) => {{
        type Type = $type;
        let _every_field = |Type { $($field: _),* }: Type| ();
        $facts.add(concat!("sizeof(", $c, ")"), size_of::<Type>() as u64);
        $($facts.add(
            layout!(@offset $c, $field $(, $c_field)?),
            offset_of!(Type, $field) as u64,
        );)*
    }};
    (@offset $c:literal, $field:ident) => {
        concat!("offsetof(", $c, ", ", stringify!($field), ")")
    };
    (@offset $c:literal, $field:ident, $c_field:literal) => {
        concat!("offsetof(", $c, ", ", $c_field, ")")
    };
}

/// The offsets of members that lie deeper.
macro_rules! members {
    ($facts:ident, $c:literal, $type:ty { $($($path:ident).+ = $c_path:literal),* $(,)? }) => {
        $($facts.add(
            concat!("offsetof(", $c, ", ", $c_path, ")"),
            offset_of!($type, $($path).+) as u64,
        );)*
    };
}

/// Constants that have the same name on both sides.
macro_rules! constants {
    ($facts:ident, $module:ident: $($name:ident),* $(,)?) => {
        $($facts.add(stringify!($name), $module::$name as u64);)*
    };
}

fn layouts(facts: &mut Facts) {
    use hypercall::abi::start_info::{
        start_info, start_info_console_dom0, start_info_console_domU, xen_multiboot_mod_list,
    };
    layout! { facts, "struct start_info", start_info {
        magic, nr_pages, shared_info, flags, store_mfn, store_evtchn, console, pt_base,
        nr_pt_frames, mfn_list, mod_start, mod_len, cmd_line, first_p2m_pfn, nr_p2m_frames,
    } }
    members! { facts, "struct start_info", start_info {
        console.domU.mfn = "console.domU.mfn", console.domU.evtchn = "console.domU.evtchn",
        console.dom0.info_off = "console.dom0.info_off", console.dom0.info_size =
        "console.dom0.info_size",
    } }
    facts.add(
        "sizeof(((struct start_info *)0)->console.domU)",
        size_of::<start_info_console_domU>() as u64,
    );
    facts.add(
        "sizeof(((struct start_info *)0)->console.dom0)",
        size_of::<start_info_console_dom0>() as u64,
    );
    layout! { facts, "struct xen_multiboot_mod_list", xen_multiboot_mod_list {
        mod_start, mod_end, cmdline, pad,
    } }

    layout! { facts, "struct vcpu_time_info", shared_info::vcpu_time_info {
        version, pad0, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags, pad1,
    } }
    layout! { facts, "struct arch_vcpu_info", shared_info::arch_vcpu_info { cr2, pad } }
    layout! { facts, "struct vcpu_info", shared_info::vcpu_info {
        evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time,
    } }
    layout! { facts, "struct arch_shared_info", shared_info::arch_shared_info {
        max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation,
    } }
    layout! { facts, "struct shared_info", shared_info::shared_info {
        vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch,
    } }

    layout! { facts, "struct mmu_update", mmu::mmu_update { ptr, val } }
    layout! { facts, "struct mmuext_op", mmu::mmuext_op { cmd, arg1, arg2 } }
    members! { facts, "struct mmuext_op", mmu::mmuext_op {
        arg1.mfn = "arg1.mfn", arg1.linear_addr = "arg1.linear_addr", arg2.nr_ents = "arg2.nr_ents",
        arg2.vcpumask = "arg2.vcpumask", arg2.src_mfn = "arg2.src_mfn",
    } }
    layout! { facts, "struct multicall_entry", multicall::multicall_entry { op, result, args } }

    layout! { facts, "struct sched_shutdown", sched::sched_shutdown { reason } }
    layout! { facts, "struct sched_poll", sched::sched_poll { ports, nr_ports, timeout } }
    layout! { facts, "struct sched_watchdog", sched::sched_watchdog { id, timeout } }

    layout! { facts, "struct evtchn_alloc_unbound", event::evtchn_alloc_unbound {
        dom, remote_dom, port,
    } }
    layout! { facts, "struct evtchn_bind_interdomain", event::evtchn_bind_interdomain {
        remote_dom, remote_port, local_port,
    } }
    layout! { facts, "struct evtchn_bind_virq", event::evtchn_bind_virq { virq, vcpu, port } }
    layout! { facts, "struct evtchn_bind_pirq", event::evtchn_bind_pirq { pirq, flags, port } }
    layout! { facts, "struct evtchn_bind_ipi", event::evtchn_bind_ipi { vcpu, port } }
    layout! { facts, "struct evtchn_bind_vcpu", event::evtchn_bind_vcpu { port, vcpu } }
    layout! { facts, "struct evtchn_close", event::evtchn_close { port } }
    layout! { facts, "struct evtchn_send", event::evtchn_send { port } }
    layout! { facts, "struct evtchn_unmask", event::evtchn_unmask { port } }
    layout! { facts, "struct evtchn_reset", event::evtchn_reset { dom } }
    layout! { facts, "struct evtchn_status", event::evtchn_status { dom, port, status, vcpu, u } }
    members! { facts, "struct evtchn_status", event::evtchn_status {
        u.unbound.dom = "u.unbound.dom", u.interdomain.dom = "u.interdomain.dom", u.interdomain.port
        = "u.interdomain.port", u.pirq = "u.pirq", u.virq = "u.virq",
    } }
    layout! { facts, "struct evtchn_init_control", event::evtchn_init_control {
        control_gfn, offset, vcpu, link_bits, _pad,
    } }
    layout! { facts, "struct evtchn_expand_array", event::evtchn_expand_array { array_gfn } }
    layout! { facts, "struct evtchn_set_priority", event::evtchn_set_priority { port, priority } }
    layout! { facts, "struct evtchn_fifo_control_block", event::evtchn_fifo_control_block {
        ready, _rsvd, head,
    } }

    layout! { facts, "struct xencons_interface", console::xencons_interface {
        r#in = "in", out, in_cons, in_prod, out_cons, out_prod,
    } }

    layout! { facts, "struct vcpu_runstate_info", vcpu::vcpu_runstate_info {
        state, state_entry_time, time,
    } }
    layout! { facts, "struct vcpu_register_runstate_memory_area", vcpu::vcpu_register_runstate_memory_area {
        addr,
    } }
    layout! { facts, "struct vcpu_set_periodic_timer", vcpu::vcpu_set_periodic_timer { period_ns } }
    layout! { facts, "struct vcpu_set_singleshot_timer", vcpu::vcpu_set_singleshot_timer {
        timeout_abs_ns, flags,
    } }
    layout! { facts, "struct vcpu_register_vcpu_info", vcpu::vcpu_register_vcpu_info {
        mfn, offset, rsvd,
    } }
    layout! { facts, "struct vcpu_register_time_memory_area", vcpu::vcpu_register_time_memory_area {
        addr,
    } }

    layout! { facts, "struct xen_memory_reservation", memory::xen_memory_reservation {
        extent_start, nr_extents, extent_order, mem_flags, domid,
    } }
    layout! { facts, "struct xen_memory_exchange", memory::xen_memory_exchange {
        r#in = "in", out, nr_exchanged,
    } }
    layout! { facts, "struct xen_machphys_mfn_list", memory::xen_machphys_mfn_list {
        max_extents, extent_start, nr_extents,
    } }
    layout! { facts, "struct xen_machphys_mapping", memory::xen_machphys_mapping {
        v_start, v_end, max_mfn,
    } }
    layout! { facts, "struct xen_memory_map", memory::xen_memory_map { nr_entries, buffer } }
    layout! { facts, "struct xen_add_to_physmap", memory::xen_add_to_physmap {
        domid, size, space, idx, gpfn,
    } }

    layout! { facts, "struct xen_compile_info", version::xen_compile_info {
        compiler, compile_by, compile_domain, compile_date,
    } }
    layout! { facts, "struct xen_platform_parameters", version::xen_platform_parameters {
        virt_start,
    } }
    layout! { facts, "struct xen_feature_info", version::xen_feature_info { submap_idx, submap } }

    layout! { facts, "struct trap_info", arch::trap_info { vector, flags, cs, address } }
    layout! { facts, "struct iret_context", arch::iret_context {
        rax, r11, rcx, flags, rip, cs, rflags, rsp, ss,
    } }
    layout! { facts, "struct cpu_user_regs", arch::cpu_user_regs {
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, error_code,
        entry_vector, rip, cs, _pad0, saved_upcall_mask, _pad1, rflags, rsp, ss, _pad2, es, _pad3,
        ds, _pad4, fs, _pad5, gs, _pad6,
    } }
    layout! { facts, "struct vcpu_guest_context", arch::vcpu_guest_context {
        fpu_ctxt, flags, user_regs, trap_ctxt, ldt_base, ldt_ents, gdt_frames, gdt_ents, kernel_ss,
        kernel_sp, ctrlreg, debugreg, event_callback_eip, failsafe_callback_eip,
        syscall_callback_eip, vm_assist, fs_base, gs_base_kernel, gs_base_user,
    } }

    layout! { facts, "struct callback_register", callback::callback_register {
        r#type = "type", flags, address,
    } }
    layout! { facts, "struct callback_unregister", callback::callback_unregister {
        r#type = "type", _unused,
    } }
    layout! { facts, "struct xen_hvm_param", hvm::xen_hvm_param { domid, pad, index, value } }
    layout! { facts, "struct vcpu_hvm_x86_64", hvm::vcpu_hvm_x86_64 {
        rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, rip, rflags, cr0, cr3, cr4, efer,
    } }
    layout! { facts, "struct vcpu_hvm_context", hvm::vcpu_hvm_context {
        mode, pad, x86_64 = "cpu_regs.x86_64", rest = "cpu_regs.x86_32.tr_ar",
    } }
    layout! { facts, "struct physdev_set_iopl", physdev::physdev_set_iopl { iopl } }

    layout! { facts, "struct xsd_sockmsg", xenstore::xsd_sockmsg {
        r#type = "type", req_id, tx_id, len,
    } }
    layout! { facts, "struct xenstore_domain_interface", xenstore::xenstore_domain_interface {
        req, rsp, req_cons, req_prod, rsp_cons, rsp_prod, server_features, connection, error,
    } }
}

fn constants(facts: &mut Facts) {
    for &op in Op::ALL {
        facts.add(format!("__HYPERVISOR_{}", op.name()), op as u64);
    }
    for (name, errno) in Errno::ALL {
        facts.add(format!("XEN_{name}"), errno.number() as u64);
    }
    facts.add("sizeof(domid_t)", size_of::<domid_t>() as u64);
    constants!(facts, xen:
        CONSOLEIO_read, CONSOLEIO_write, NR_VIRQS, VIRQ_CON_RING, VIRQ_CONSOLE, VIRQ_DEBUG,
        VIRQ_DOM_EXC, VIRQ_ENOMEM, VIRQ_PCPU_STATE, VIRQ_TIMER, VIRQ_XENPMU, VMASST_CMD_disable,
        VMASST_CMD_enable, VMASST_TYPE_4gb_segments, VMASST_TYPE_architectural_iopl,
        VMASST_TYPE_m2p_strict, VMASST_TYPE_pae_extended_cr3, VMASST_TYPE_runstate_update_flag,
        VMASST_TYPE_writable_pagetables, DOMID_FIRST_RESERVED, DOMID_SELF, DOMID_IO, DOMID_XEN,
        DOMID_COW, DOMID_INVALID, DOMID_IDLE,
    );
    constants!(facts, start_info:
        MAX_GUEST_CMDLINE, SIF_INITDOMAIN, SIF_MOD_START_PFN, SIF_MULTIBOOT_MOD, SIF_PM_MASK,
        SIF_PRIVILEGED, SIF_VIRT_P2M_4TOOLS,
    );
    constants!(facts, shared_info:
        XEN_LEGACY_MAX_VCPUS, XEN_PVCLOCK_GUEST_STOPPED, XEN_PVCLOCK_TSC_STABLE_BIT,
    );
    constants!(facts, mmu:
        MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE,
        MMU_PT_UPDATE_PRESERVE_AD, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE,
        MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI,
        MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE,
        MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_SET_LDT, MMUEXT_TLB_FLUSH_ALL,
        MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_UNPIN_TABLE, UVMF_NONE,
        UVMF_TLB_FLUSH, UVMF_INVLPG, UVMF_FLUSHTYPE_MASK, UVMF_MULTI, UVMF_LOCAL, UVMF_ALL,
    );
    constants!(facts, sched:
        SCHEDOP_block, SCHEDOP_poll, SCHEDOP_shutdown, SCHEDOP_shutdown_code, SCHEDOP_watchdog,
        SCHEDOP_yield, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_soft_reset,
        SHUTDOWN_suspend, SHUTDOWN_watchdog,
    );
    constants!(facts, event:
        BIND_PIRQ__WILL_SHARE, EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_BITS, EVTCHN_FIFO_LINK_MASK,
        EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_NR_CHANNELS,
        EVTCHN_FIFO_PENDING, EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MAX,
        EVTCHN_FIFO_PRIORITY_MIN, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain,
        EVTCHNOP_bind_ipi, EVTCHNOP_bind_pirq, EVTCHNOP_bind_vcpu, EVTCHNOP_bind_virq,
        EVTCHNOP_close, EVTCHNOP_expand_array, EVTCHNOP_init_control, EVTCHNOP_reset,
        EVTCHNOP_send, EVTCHNOP_set_priority, EVTCHNOP_status, EVTCHNOP_unmask, EVTCHNSTAT_closed,
        EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_pirq, EVTCHNSTAT_unbound,
        EVTCHNSTAT_virq, EVTCHN_2L_NR_CHANNELS,
    );
    constants!(facts, vcpu:
        VCPUOP_initialise, VCPUOP_up, VCPUOP_down, VCPUOP_is_up, VCPUOP_get_runstate_info,
        VCPUOP_register_runstate_memory_area, VCPUOP_set_periodic_timer,
        VCPUOP_stop_periodic_timer, VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer,
        VCPUOP_register_vcpu_info, VCPUOP_send_nmi, VCPUOP_register_vcpu_time_memory_area,
        RUNSTATE_running, RUNSTATE_runnable, RUNSTATE_blocked, RUNSTATE_offline,
        XEN_RUNSTATE_UPDATE, VCPU_SSHOTTMR_future,
    );
    constants!(facts, memory:
        XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_maximum_ram_page,
        XENMEM_current_reservation, XENMEM_maximum_reservation, XENMEM_machphys_mfn_list,
        XENMEM_populate_physmap, XENMEM_add_to_physmap, XENMEM_memory_map,
        XENMEM_machine_memory_map, XENMEM_exchange, XENMEM_machphys_mapping,
        XENMEM_set_memory_map, XENMEM_maximum_gpfn, XENMEM_remove_from_physmap,
        XENMAPSPACE_shared_info,
    );
    constants!(facts, version:
        XENVER_version, XENVER_extraversion, XENVER_compile_info, XENVER_capabilities,
        XENVER_changeset, XENVER_platform_parameters, XENVER_get_features, XENVER_pagesize,
        XENVER_guest_handle, XENVER_commandline,
    );
    constants!(facts, features:
        XENFEAT_writable_page_tables, XENFEAT_writable_descriptor_tables,
        XENFEAT_auto_translated_physmap, XENFEAT_supervisor_mode_kernel,
        XENFEAT_pae_pgdir_above_4gb, XENFEAT_mmu_pt_update_preserve_ad, XENFEAT_highmem_assist,
        XENFEAT_gnttab_map_avail_bits, XENFEAT_hvm_callback_vector, XENFEAT_hvm_safe_pvclock,
        XENFEAT_hvm_pirqs, XENFEAT_dom0, XENFEAT_memory_op_vnode_supported,
        XENFEAT_ARM_SMCCC_supported, XENFEAT_linux_rsdp_unrestricted,
    );
    constants!(facts, arch:
        __HYPERVISOR_VIRT_END, __HYPERVISOR_VIRT_START, __MACH2PHYS_VIRT_END,
        __MACH2PHYS_VIRT_START, FIRST_RESERVED_GDT_BYTE, FIRST_RESERVED_GDT_ENTRY,
        FIRST_RESERVED_GDT_PAGE, FLAT_KERNEL_CS, FLAT_KERNEL_DS, FLAT_KERNEL_SS, FLAT_RING3_CS32,
        FLAT_RING3_CS64, FLAT_RING3_DS32, FLAT_RING3_DS64, FLAT_RING3_SS32, FLAT_RING3_SS64,
        FLAT_USER_CS, FLAT_USER_CS32, FLAT_USER_DS, FLAT_USER_DS32, FLAT_USER_SS, FLAT_USER_SS32,
        SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL,
        VGCF_failsafe_disables_events, VGCF_i387_valid, VGCF_in_kernel, VGCF_in_syscall,
        VGCF_online, VGCF_syscall_disables_events,
    );
    constants!(facts, elfnote:
        XEN_ELFNOTE_BSD_SYMTAB, XEN_ELFNOTE_CRASH_INFO, XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_FEATURES,
        XEN_ELFNOTE_GUEST_OS, XEN_ELFNOTE_GUEST_VERSION, XEN_ELFNOTE_HV_START_LOW,
        XEN_ELFNOTE_HYPERCALL_PAGE, XEN_ELFNOTE_INFO, XEN_ELFNOTE_INIT_P2M,
        XEN_ELFNOTE_L1_MFN_VALID, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_MOD_START_PFN,
        XEN_ELFNOTE_PADDR_OFFSET, XEN_ELFNOTE_PAE_MODE, XEN_ELFNOTE_PHYS32_ENTRY,
        XEN_ELFNOTE_SUPPORTED_FEATURES, XEN_ELFNOTE_SUSPEND_CANCEL, XEN_ELFNOTE_VIRT_BASE,
        XEN_ELFNOTE_XEN_VERSION,
    );
    constants!(facts, callback:
        CALLBACKOP_register, CALLBACKOP_unregister, CALLBACKTYPE_event, CALLBACKTYPE_failsafe,
        CALLBACKTYPE_syscall, CALLBACKTYPE_nmi, CALLBACKTYPE_sysenter, CALLBACKTYPE_syscall32,
        CALLBACKF_mask_events,
    );
    constants!(facts, physdev: PHYSDEVOP_set_iopl);
    constants!(facts, hvm:
        HVMOP_flush_tlbs, HVMOP_get_param, HVMOP_set_param, HVM_PARAM_CALLBACK_IRQ,
        HVM_PARAM_CALLBACK_TYPE_VECTOR, VCPU_HVM_MODE_64B,
        HVM_PARAM_CONSOLE_PFN, HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_STORE_PFN,
        HVM_PARAM_STORE_EVTCHN,
    );
    constants!(facts, xenstore:
        XENSTORE_RING_SIZE, XENSTORE_PAYLOAD_MAX, XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX,
        XENSTORE_SERVER_FEATURE_RECONNECTION, XENSTORE_SERVER_FEATURE_ERROR, XENSTORE_CONNECTED,
        XENSTORE_RECONNECT, XENSTORE_ERROR_NONE, XENSTORE_ERROR_COMM, XENSTORE_ERROR_RINGIDX,
        XENSTORE_ERROR_PROTO, XS_DIRECTORY, XS_READ, XS_GET_PERMS, XS_WATCH, XS_UNWATCH,
        XS_TRANSACTION_START, XS_TRANSACTION_END, XS_GET_DOMAIN_PATH, XS_WRITE, XS_MKDIR, XS_RM,
        XS_SET_PERMS, XS_WATCH_EVENT, XS_ERROR, XS_RESET_WATCHES, XS_DIRECTORY_PART,
    );
}

/// Every `pub const` and every re-export under `src/abi`, here and in the crate of xenstore, is in a
/// table above.
fn nothing_is_left_out(facts: &Facts) {
    let compared: String = facts.0.iter().map(|fact| fact.c.clone() + "\n").collect();
    let compared: std::collections::BTreeSet<_> = compared
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    // Not in any header, or names for parts that are compared as members, or of headers that came later
    // than those of the Xen that is compared.
    let ours = [
        "domid_t",
        "e820entry",
        "evtchn_port_t",
        "VCPUOP_register_runstate_phys_area",
        "VCPUOP_register_vcpu_time_phys_area",
        "XENCONS_CONNECTION",
        "XENCONSOLE_CONNECTED",
        "XENCONSOLE_DISCONNECTED",
    ];
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(here.join("src/abi")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    for file in files.chain([here.join("xenstore/src/abi.rs")]) {
        let text = fs::read_to_string(file).unwrap();
        let mut names = Vec::new();
        for line in text.lines().map(str::trim) {
            for item in ["pub const ", "pub struct ", "pub type "] {
                if let Some(rest) = line.strip_prefix(item) {
                    names.push(rest.split([':', ' ', '=']).next().unwrap());
                }
            }
        }
        if let Some(list) = text.split("pub use xen_sys::").nth(1) {
            let list = list.split(';').next().unwrap();
            names.extend(
                list.trim_matches(['{', '}', ' ', '\n'])
                    .split(',')
                    .filter_map(|item| {
                        let item = item.trim();
                        (!item.is_empty() && !item.contains(" as ")).then_some(item)
                    }),
            );
        }
        for name in names {
            let known = compared.contains(name) || ours.contains(&name) || name == "$name";
            assert!(known, "{name} is compared with nothing");
        }
    }
}

fn include_directory() -> Option<PathBuf> {
    if let Some(directory) = env::var_os("XEN_INCLUDE") {
        let directory = PathBuf::from(directory);
        assert!(
            directory.join("xen/xen.h").exists(),
            "XEN_INCLUDE={} has no xen/xen.h",
            directory.display()
        );
        return Some(directory);
    }
    let directory = PathBuf::from("/usr/include");
    directory.join("xen/xen.h").exists().then_some(directory)
}

fn c_program(facts: &Facts) -> String {
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <xen/xen.h>\n\
         #include <xen/callback.h>\n#include <xen/elfnote.h>\n#include <xen/errno.h>\n\
         #include <xen/event_channel.h>\n#include <xen/features.h>\n\
         #include <xen/hvm/hvm_op.h>\n#include <xen/hvm/hvm_vcpu.h>\n#include <xen/hvm/params.h>\n\
         #include <xen/io/console.h>\n#include <xen/io/xs_wire.h>\n#include <xen/memory.h>\n\
         #include <xen/physdev.h>\n#include <xen/sched.h>\n\
         #include <xen/vcpu.h>\n#include <xen/version.h>\n\n\
         int main(void)\n{\n",
    );
    for (number, fact) in facts.0.iter().enumerate() {
        text += &format!(
            "    printf(\"{number} %llx\\n\", (unsigned long long)({}));\n",
            fact.c
        );
    }
    text + "    return 0;\n}\n"
}

#[test]
fn layouts_and_constants_are_those_of_the_headers() {
    let mut facts = Facts::default();
    layouts(&mut facts);
    constants(&mut facts);
    nothing_is_left_out(&facts);

    let Some(include) = include_directory() else {
        eprintln!(
            "NOT COMPARED: no xen/xen.h in /usr/include. Install libxen-dev, or unpack it and set \
             XEN_INCLUDE."
        );
        return;
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = directory.join("abi_headers.c");
    let program = directory.join("abi_headers");
    fs::write(&source, c_program(&facts)).unwrap();
    let compiled = Command::new("cc")
        .args(["-std=gnu11", "-w", "-m64"])
        .arg("-D__XEN_INTERFACE_VERSION__=__XEN_LATEST_INTERFACE_VERSION__")
        .arg("-I")
        .arg(&include)
        .arg("-o")
        .args([&program, &source])
        .output()
        .expect("a C compiler named cc");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let output = Command::new(&program).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let theirs: BTreeMap<usize, u64> = output
        .lines()
        .map(|line| {
            let (number, value) = line.split_once(' ').unwrap();
            (
                number.parse().unwrap(),
                u64::from_str_radix(value, 16).unwrap(),
            )
        })
        .collect();
    let differing: Vec<_> = facts
        .0
        .iter()
        .enumerate()
        .filter(|(number, fact)| theirs[number] != fact.rust)
        .map(|(number, fact)| {
            format!(
                "{} is {:#x} in C, {:#x} here",
                fact.c, theirs[&number], fact.rust
            )
        })
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    println!("{} facts agree with {}", facts.0.len(), include.display());
}
