//! `features.h`: bit numbers of the feature map.

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = $bit;)*
    };
}

features! {
    /// Page tables may be written directly (no PV guest).
    XENFEAT_writable_page_tables = 0;
    /// Descriptor tables may be written directly.
    XENFEAT_writable_descriptor_tables = 1;
    /// Frames are translated for the guest (no PV guest).
    XENFEAT_auto_translated_physmap = 2;
    /// The kernel runs in ring 0.
    XENFEAT_supervisor_mode_kernel = 3;
    /// 32-bit page directories may lie above 4 GiB.
    XENFEAT_pae_pgdir_above_4gb = 4;
    /// `MMU_PT_UPDATE_PRESERVE_AD` works.
    XENFEAT_mmu_pt_update_preserve_ad = 5;
    /// High-memory operations.
    XENFEAT_highmem_assist = 6;
    /// Grant maps may set the available bits.
    XENFEAT_gnttab_map_avail_bits = 7;
    /// Callbacks by vector.
    XENFEAT_hvm_callback_vector = 8;
    /// The clock is safe without a hypercall.
    XENFEAT_hvm_safe_pvclock = 9;
    /// PIRQs in HVM guests.
    XENFEAT_hvm_pirqs = 10;
    /// Can be, or is, dom0.
    XENFEAT_dom0 = 11;
    /// `memory_op` takes virtual nodes.
    XENFEAT_memory_op_vnode_supported = 13;
    /// SMCCC calls on Arm.
    XENFEAT_ARM_SMCCC_supported = 14;
    /// The RSDP may lie anywhere.
    XENFEAT_linux_rsdp_unrestricted = 15;
}
