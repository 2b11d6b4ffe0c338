//! `memory.h`: how much memory, which frames, and where the M2P is.

use super::domid_t;

/// More memory.
pub const XENMEM_increase_reservation: u32 = 0;
/// Less memory.
pub const XENMEM_decrease_reservation: u32 = 1;
/// The highest machine frame of the host.
pub const XENMEM_maximum_ram_page: u32 = 2;
/// Pages the domain has.
pub const XENMEM_current_reservation: u32 = 3;
/// Pages the domain may have.
pub const XENMEM_maximum_reservation: u32 = 4;
/// The machine frames of the M2P.
pub const XENMEM_machphys_mfn_list: u32 = 5;
/// Fills holes of the pseudo-physical map.
pub const XENMEM_populate_physmap: u32 = 6;
/// Puts a frame of Xen's into the pseudo-physical map.
pub const XENMEM_add_to_physmap: u32 = 7;
/// What such a frame may be: `shared_info`.
pub const XENMAPSPACE_shared_info: u32 = 0;
/// The domain's E820 map.
pub const XENMEM_memory_map: u32 = 9;
/// The host's E820 map.
pub const XENMEM_machine_memory_map: u32 = 10;
/// Trades frames, for contiguous ones perhaps.
pub const XENMEM_exchange: u32 = 11;
/// Where the M2P is mapped.
pub const XENMEM_machphys_mapping: u32 = 12;
/// Replaces the domain's E820 map.
pub const XENMEM_set_memory_map: u32 = 13;
/// The highest pseudo-physical frame of the domain.
pub const XENMEM_maximum_gpfn: u32 = 14;
/// Takes a frame out of the pseudo-physical map.
pub const XENMEM_remove_from_physmap: u32 = 15;

/// Argument of the reservation calls.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xen_memory_reservation {
    /// In: frame numbers (machine or pseudo-physical, by call); out: machine frames.
    pub extent_start: *mut u64,
    /// How many.
    pub nr_extents: u64,
    /// Each of 2^this pages.
    pub extent_order: u32,
    /// `XENMEMF_*`: address bits, node.
    pub mem_flags: u32,
    /// Whose.
    pub domid: domid_t,
}

/// Argument of `XENMEM_exchange`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xen_memory_exchange {
    /// Given up.
    pub r#in: xen_memory_reservation,
    /// Got.
    pub out: xen_memory_reservation,
    /// Out: how many input extents were exchanged; zero on entry.
    pub nr_exchanged: u64,
}

/// Argument of `XENMEM_machphys_mfn_list`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xen_machphys_mfn_list {
    /// Room.
    pub max_extents: u32,
    /// Out: machine frames.
    pub extent_start: *mut u64,
    /// Out: how many.
    pub nr_extents: u32,
}

/// Argument of `XENMEM_add_to_physmap`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xen_add_to_physmap {
    /// Whose.
    pub domid: domid_t,
    /// Pages, where the space has ranges.
    pub size: u16,
    /// `XENMAPSPACE_*`.
    pub space: u32,
    /// Which frame of that space.
    pub idx: u64,
    /// Where it goes.
    pub gpfn: u64,
}

/// Result of `XENMEM_machphys_mapping`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct xen_machphys_mapping {
    /// First virtual address.
    pub v_start: u64,
    /// One past the last.
    pub v_end: u64,
    /// Highest machine frame with an entry.
    pub max_mfn: u64,
}

/// Argument of `XENMEM_memory_map`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct xen_memory_map {
    /// In: room; out: entries written.
    pub nr_entries: u32,
    /// Of [`e820entry`].
    pub buffer: *mut e820entry,
}

/// One range of an E820 map: 20 bytes, unaligned (`arch-x86/hvm/start_info.h` has no type for it,
/// `asm/e820.h` of Xen has).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed)]
pub struct e820entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// 1 RAM, 2 reserved, 3 ACPI, 4 NVS, 5 unusable.
    pub r#type: u32,
}
