//! `arch-x86/xen.h`, `arch-x86/xen-x86_64.h`: registers, traps, segments, the address space.

pub use xen_sys::{
    __HYPERVISOR_VIRT_END, __HYPERVISOR_VIRT_START, __MACH2PHYS_VIRT_END, __MACH2PHYS_VIRT_START,
    FIRST_RESERVED_GDT_BYTE, FIRST_RESERVED_GDT_ENTRY, FIRST_RESERVED_GDT_PAGE, FLAT_KERNEL_CS,
    FLAT_KERNEL_DS, FLAT_KERNEL_SS, FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_DS32,
    FLAT_RING3_DS64, FLAT_RING3_SS32, FLAT_RING3_SS64, FLAT_USER_CS, FLAT_USER_CS32, FLAT_USER_DS,
    FLAT_USER_DS32, FLAT_USER_SS, FLAT_USER_SS32, SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER,
    SEGBASE_GS_USER_SEL, VGCF_failsafe_disables_events, VGCF_i387_valid, VGCF_in_kernel,
    VGCF_in_syscall, VGCF_online, VGCF_syscall_disables_events, iret_context, trap_info,
};

/// The registers of a vCPU, as a context is handed over.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "registers")]
pub struct cpu_user_regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub error_code: u32,
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u16,
    pub _pad0: [u16; 1],
    pub saved_upcall_mask: u8,
    pub _pad1: [u8; 3],
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    pub _pad2: [u16; 3],
    pub es: u16,
    pub _pad3: [u16; 3],
    pub ds: u16,
    pub _pad4: [u16; 3],
    pub fs: u16,
    pub _pad5: [u16; 3],
    pub gs: u16,
    pub _pad6: [u16; 3],
}

/// A vCPU's first context, for `VCPUOP_initialise`.
///
/// `gdt_frames` and `ctrlreg[3]`, `ctrlreg[1]` (the user tables) hold machine frames.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(missing_docs, reason = "named as the state they set")]
pub struct vcpu_guest_context {
    pub fpu_ctxt: [u8; 512],
    pub flags: u64,
    pub user_regs: cpu_user_regs,
    pub trap_ctxt: [trap_info; 256],
    pub ldt_base: u64,
    pub ldt_ents: u64,
    pub gdt_frames: [u64; 16],
    pub gdt_ents: u64,
    pub kernel_ss: u64,
    pub kernel_sp: u64,
    pub ctrlreg: [u64; 8],
    pub debugreg: [u64; 8],
    pub event_callback_eip: u64,
    pub failsafe_callback_eip: u64,
    pub syscall_callback_eip: u64,
    pub vm_assist: u64,
    pub fs_base: u64,
    pub gs_base_kernel: u64,
    pub gs_base_user: u64,
}
