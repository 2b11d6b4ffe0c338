//! `xen.h`: page-table updates and the other things one asks of Xen's MMU.

pub use xen_sys::{
    MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE,
    MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI,
    MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE,
    MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_SET_LDT, MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_UNPIN_TABLE, mmu_update, mmuext_op,
    mmuext_op__bindgen_ty_1 as mmuext_op_arg1, mmuext_op__bindgen_ty_2 as mmuext_op_arg2,
};

/// `update_va_mapping`: flush nothing.
pub const UVMF_NONE: u64 = 0;
/// `update_va_mapping`: flush everything.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// `update_va_mapping`: flush this address.
pub const UVMF_INVLPG: u64 = 2;
/// The flush's kind. The value 3 is accepted and flushes nothing.
pub const UVMF_FLUSHTYPE_MASK: u64 = 3;
/// The flush's scope: the vCPUs of the bitmap whose address is added.
pub const UVMF_MULTI: u64 = 0 << 2;
/// The flush's scope: this vCPU.
pub const UVMF_LOCAL: u64 = 0 << 2;
/// The flush's scope: all vCPUs.
pub const UVMF_ALL: u64 = 1 << 2;
