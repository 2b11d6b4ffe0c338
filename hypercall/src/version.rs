//! `xen_version`: what Xen is and can do (`version.h`).
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::version;
//!
//! assert_eq!(version::version(&says(4 << 16 | 17))?.to_string(), "4.17");
//! # Ok::<(), hypercall::XenError>(())
//! ```

use core::fmt;

use crate::{
    Hypervisor, Op, XenError,
    abi::{features, version},
};

bitflags::bitflags! {
    /// What Xen offers, or what a domain is (`features.h`). Unknown bits are kept.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u32 {
        /// Descriptor tables may be written directly.
        const WRITABLE_DESCRIPTOR_TABLES = 1 << features::XENFEAT_writable_descriptor_tables;
        /// Frames are translated for the guest.
        const AUTO_TRANSLATED_PHYSMAP = 1 << features::XENFEAT_auto_translated_physmap;
        /// `MMU_PT_UPDATE_PRESERVE_AD` works.
        const MMU_PT_UPDATE_PRESERVE_AD = 1 << features::XENFEAT_mmu_pt_update_preserve_ad;
        /// Grant maps may set the available bits.
        const GNTTAB_MAP_AVAIL_BITS = 1 << features::XENFEAT_gnttab_map_avail_bits;
        /// The domain is dom0.
        const DOM0 = 1 << features::XENFEAT_dom0;
        const _ = !0;
    }
}

/// Xen's version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Such as 4.
    pub major: u16,
    /// Such as 17.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Calls with `arg`, which Xen writes its answer into.
#[inline]
fn op<H: Hypervisor + ?Sized, A>(
    hv: &H,
    cmd: u32,
    name: &'static str,
    arg: &mut A,
) -> Result<u64, XenError> {
    let args = [cmd as u64, core::ptr::from_mut(arg) as u64, 0, 0, 0];
    // SAFETY: `arg` is the structure that `cmd` reads and writes, during the call; the callers
    // below pair them.
    let value = unsafe { hv.call(Op::XenVersion, args) };
    XenError::check(Op::XenVersion, Some(name), value)
}

/// The version.
#[inline]
pub fn version<H: Hypervisor + ?Sized>(hv: &H) -> Result<Version, XenError> {
    // SAFETY: no memory is involved.
    let value = unsafe { hv.call(Op::XenVersion, [version::XENVER_version as u64, 0, 0, 0, 0]) };
    let value = XenError::check(Op::XenVersion, Some("version"), value)?;
    Ok(Version {
        major: (value >> 16) as u16,
        minor: value as u16,
    })
}

/// The rest of the version, such as `.7`, with trailing NULs.
#[inline]
pub fn extraversion<H: Hypervisor + ?Sized>(hv: &H) -> Result<[u8; 16], XenError> {
    let mut text = [0; 16];
    op(hv, version::XENVER_extraversion, "extraversion", &mut text)?;
    Ok(text)
}

/// The guest types Xen runs, as text with trailing NULs.
#[inline]
pub fn capabilities<H: Hypervisor + ?Sized>(hv: &H) -> Result<[u8; 1024], XenError> {
    let mut text = [0; 1024];
    op(hv, version::XENVER_capabilities, "capabilities", &mut text)?;
    Ok(text)
}

/// The first 32 features.
#[inline]
pub fn features<H: Hypervisor + ?Sized>(hv: &H) -> Result<Features, XenError> {
    let mut info = version::xen_feature_info {
        submap_idx: 0,
        submap: 0,
    };
    op(hv, version::XENVER_get_features, "get_features", &mut info)?;
    Ok(Features::from_bits_retain(info.submap))
}

/// The first virtual address that is Xen's and not the guest's.
#[inline]
pub fn virt_start<H: Hypervisor + ?Sized>(hv: &H) -> Result<u64, XenError> {
    let mut info = version::xen_platform_parameters::default();
    op(
        hv,
        version::XENVER_platform_parameters,
        "platform_parameters",
        &mut info,
    )?;
    Ok(info.virt_start)
}

/// The domain's UUID.
#[inline]
pub fn guest_handle<H: Hypervisor + ?Sized>(hv: &H) -> Result<[u8; 16], XenError> {
    let mut uuid = [0; 16];
    op(hv, version::XENVER_guest_handle, "guest_handle", &mut uuid)?;
    Ok(uuid)
}

/// Has Xen deliver what is pending: a hypercall that does nothing, on the way back from which Xen
/// looks for events.
#[inline]
pub fn poke<H: Hypervisor + ?Sized>(hv: &H) -> Result<(), XenError> {
    version(hv).map(drop)
}
