//! `version.h`: what `xen_version` answers.

/// major << 16 | minor.
pub const XENVER_version: u32 = 0;
/// The rest of the version, 16 bytes with NUL.
pub const XENVER_extraversion: u32 = 1;
/// Who compiled it.
pub const XENVER_compile_info: u32 = 2;
/// Guest types, 1024 bytes with NUL.
pub const XENVER_capabilities: u32 = 3;
/// The commit, 64 bytes with NUL.
pub const XENVER_changeset: u32 = 4;
/// Where Xen's part of the address space begins.
pub const XENVER_platform_parameters: u32 = 5;
/// `XENFEAT_*` bits.
pub const XENVER_get_features: u32 = 6;
/// 4096.
pub const XENVER_pagesize: u32 = 7;
/// The domain's UUID.
pub const XENVER_guest_handle: u32 = 8;
/// Xen's command line, privileged.
pub const XENVER_commandline: u32 = 9;

/// Result of `XENVER_compile_info`: four strings with NUL.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xen_compile_info {
    /// Compiler.
    pub compiler: [u8; 64],
    /// By whom.
    pub compile_by: [u8; 16],
    /// Where.
    pub compile_domain: [u8; 32],
    /// When.
    pub compile_date: [u8; 32],
}

/// Result of `XENVER_platform_parameters`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct xen_platform_parameters {
    /// First virtual address that is Xen's.
    pub virt_start: u64,
}

/// Argument and result of `XENVER_get_features`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct xen_feature_info {
    /// In: which 32 features.
    pub submap_idx: u32,
    /// Out: their bits.
    pub submap: u32,
}
