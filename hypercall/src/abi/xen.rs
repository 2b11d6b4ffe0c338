//! `xen.h`, the parts that belong to no structure: hypercall numbers, VIRQs, domain numbers,
//! assists, the emergency console.

pub use xen_sys::{
    __HYPERVISOR_callback_op, __HYPERVISOR_console_io, __HYPERVISOR_event_channel_op,
    __HYPERVISOR_fpu_taskswitch, __HYPERVISOR_get_debugreg, __HYPERVISOR_grant_table_op,
    __HYPERVISOR_hvm_op, __HYPERVISOR_iret, __HYPERVISOR_memory_op, __HYPERVISOR_mmu_update,
    __HYPERVISOR_mmuext_op, __HYPERVISOR_multicall, __HYPERVISOR_nmi_op, __HYPERVISOR_physdev_op,
    __HYPERVISOR_sched_op, __HYPERVISOR_set_callbacks, __HYPERVISOR_set_debugreg,
    __HYPERVISOR_set_gdt, __HYPERVISOR_set_segment_base, __HYPERVISOR_set_timer_op,
    __HYPERVISOR_set_trap_table, __HYPERVISOR_stack_switch, __HYPERVISOR_update_descriptor,
    __HYPERVISOR_update_va_mapping, __HYPERVISOR_vcpu_op, __HYPERVISOR_vm_assist,
    __HYPERVISOR_xen_version, CONSOLEIO_read, CONSOLEIO_write, NR_VIRQS, VIRQ_CON_RING,
    VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_DOM_EXC, VIRQ_ENOMEM, VIRQ_PCPU_STATE, VIRQ_TIMER, VIRQ_XENPMU,
    VMASST_CMD_disable, VMASST_CMD_enable, VMASST_TYPE_4gb_segments,
    VMASST_TYPE_architectural_iopl, VMASST_TYPE_m2p_strict, VMASST_TYPE_pae_extended_cr3,
    VMASST_TYPE_runstate_update_flag, VMASST_TYPE_writable_pagetables,
};

use super::domid_t;
pub use super::version::XENVER_version;

/// The first number that is no ordinary domain.
pub const DOMID_FIRST_RESERVED: domid_t = 0x7ff0;
/// The domain that asks.
pub const DOMID_SELF: domid_t = 0x7ff0;
/// The owner of memory-mapped devices.
pub const DOMID_IO: domid_t = 0x7ff1;
/// The owner of Xen's own heap pages.
pub const DOMID_XEN: domid_t = 0x7ff2;
/// The owner of pages shared copy-on-write.
pub const DOMID_COW: domid_t = 0x7ff3;
/// Nobody.
pub const DOMID_INVALID: domid_t = 0x7ff4;
/// The idle domain.
pub const DOMID_IDLE: domid_t = 0x7fff;
