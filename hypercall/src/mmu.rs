//! `mmu_update`, `mmuext_op`, `update_va_mapping`: everything one asks of Xen's MMU (`xen.h`).
//!
//! Xen checks each request and refuses what would let a guest write a page table, a descriptor
//! table or memory that is not its own. Both list calls carry out their requests in order and
//! **stop at the first that is refused**; how many were done comes back in [`Stopped::done`].
//!
//! `says(0)` stands for a Xen that answers 0.
//!
//! ```
#![doc = include_str!("says.in")]
//! use hypercall::mmu::{self, Scope, VcpuMask};
//! use hypercall::{ExtOp, Mfn, VirtAddr};
//!
//! let others = VcpuMask::EMPTY.with(1).with(3);
//! assert!(others.contains(3) && !others.contains(0));
//! mmu::flush(&says(0), Scope::Vcpus(others), Some(VirtAddr::new(0x1000)))?;
//! assert_eq!(ExtOp::Unpin(Mfn::truncate(5)).name(), "UNPIN_TABLE");
//! # Ok::<(), hypercall::XenError>(())
//! ```

use core::fmt;

use crate::{
    Hypervisor, MachAddr, Mfn, Op, VirtAddr, XenError,
    abi::{
        domid_t,
        mmu::{self, mmu_update, mmuext_op, mmuext_op_arg1, mmuext_op_arg2},
        xen::DOMID_SELF,
    },
    instead::{Refused, check},
};

/// The level of a page table, and of the entries in it: 1 maps pages, 4 is the root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Maps pages.
    L1 = 1,
    /// Points at L1 tables.
    L2 = 2,
    /// Points at L2 tables.
    L3 = 3,
    /// The root.
    L4 = 4,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", *self as u8)
    }
}

/// A list call that Xen stopped in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// Why.
    pub error: XenError,
    /// How many requests were carried out; the one with this index was refused.
    pub done: u32,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at request {}", self.error, self.done)
    }
}

impl core::error::Error for Stopped {}

/// A request for [`update`]: write `value` into the page-table entry at `slot`.
///
/// With `preserve_ad`, the accessed and dirty bits that the hardware has set meanwhile stay.
#[inline]
pub const fn pt_update(slot: MachAddr, value: u64, preserve_ad: bool) -> mmu_update {
    let kind = if preserve_ad {
        mmu::MMU_PT_UPDATE_PRESERVE_AD
    } else {
        mmu::MMU_NORMAL_PT_UPDATE
    };
    mmu_update {
        ptr: slot.as_u64() & !7 | kind as u64,
        val: value,
    }
}

/// A request for [`update`]: from now on the M2P says `pfn` for `frame`.
#[inline]
pub const fn machphys_update(frame: Mfn, pfn: crate::Pfn) -> mmu_update {
    mmu_update {
        ptr: frame.addr().as_u64() | mmu::MMU_MACHPHYS_UPDATE as u64,
        val: pfn.as_u64(),
    }
}

/// Carries out `requests`, on tables of this domain, with frames of `owner` (usually
/// [`DOMID_SELF`]).
///
/// # Safety
/// No mapping that safe code relies on goes away, changes its frame or loses rights.
#[inline]
pub unsafe fn update<H: Hypervisor + ?Sized>(
    hv: &H,
    requests: &[mmu_update],
    owner: domid_t,
) -> Result<(), Stopped> {
    if let Some(tables) = hv.page_tables() {
        // SAFETY: the requests are the same, and the caller promises that they take, move or narrow no
        // mapping that safe code relies on, whoever carries them out.
        let answer = unsafe { tables.update(requests) };
        return answer.map_err(|Refused { errno, done }| Stopped {
            error: XenError {
                op: Op::MmuUpdate,
                sub: None,
                errno,
            },
            done,
        });
    }
    let mut done = 0u32;
    let args = [
        requests.as_ptr() as u64,
        requests.len() as u64,
        &raw mut done as u64,
        owner as u64,
        0,
    ];
    // SAFETY: Xen reads the requests and writes `done`, during the call. The caller promises
    // that they take, move or narrow no mapping that safe code relies on.
    let value = unsafe { hv.call(Op::MmuUpdate, args) };
    XenError::check(Op::MmuUpdate, None, value)
        .map_err(|error| Stopped { error, done })
        .map(drop)
}

/// A set of vCPUs, for flushes. Xen reads as many bits as the domain has vCPUs at most, so this
/// serves domains of up to [`VcpuMask::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct VcpuMask([u64; 2]);

impl VcpuMask {
    /// The most vCPUs a domain may have for these sets to be used.
    pub const MAX: u32 = 128;
    /// No vCPU.
    pub const EMPTY: Self = Self([0; 2]);

    /// With `vcpu` as well; numbers from [`MAX`](Self::MAX) on are left out.
    #[inline]
    pub const fn with(mut self, vcpu: u32) -> Self {
        if vcpu < Self::MAX {
            self.0[(vcpu / 64) as usize] |= 1 << (vcpu % 64);
        }
        self
    }

    /// Both.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    /// Whether no vCPU is in it.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    /// Whether `vcpu` is in it.
    #[inline]
    pub const fn contains(self, vcpu: u32) -> bool {
        vcpu < Self::MAX && self.0[(vcpu / 64) as usize] >> (vcpu % 64) & 1 != 0
    }
}

/// Whose TLB is flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The calling vCPU's.
    Local,
    /// Those of these vCPUs; the calling one only if it is among them.
    Vcpus(VcpuMask),
    /// All vCPUs'.
    All,
}

/// One thing [`ext`] can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ExtOp {
    /// Writes back and flushes the cache (with I/O resources only).
    FlushCache,
    /// Validates the table in a frame, at this level, and keeps it valid until unpinned.
    Pin(Level, Mfn),
    /// Lets go of a pinned table.
    Unpin(Mfn),
    /// Makes a frame's L4 table the one of the kernel (CR3).
    NewBaseptr(Mfn),
    /// Makes a frame's L4 table the one of user mode. `None`: there is none.
    NewUserBaseptr(Option<Mfn>),
    /// Flushes whole TLBs.
    TlbFlush(Scope),
    /// Flushes one address.
    Invlpg(Scope, VirtAddr),
    /// Loads an LDT of so many entries (at most 8192) at a page-aligned address; 0: none.
    SetLdt(VirtAddr, u32),
    /// Fills a frame with zeros.
    ClearPage(Mfn),
    /// Copies a frame.
    CopyPage {
        /// To.
        to: Mfn,
        /// From.
        from: Mfn,
    },
}

impl ExtOp {
    /// The command's name in Xen's header, without `MMUEXT_`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pin(Level::L1, _) => "PIN_L1_TABLE",
            Self::Pin(Level::L2, _) => "PIN_L2_TABLE",
            Self::Pin(Level::L3, _) => "PIN_L3_TABLE",
            Self::Pin(Level::L4, _) => "PIN_L4_TABLE",
            Self::Unpin(_) => "UNPIN_TABLE",
            Self::NewBaseptr(_) => "NEW_BASEPTR",
            Self::NewUserBaseptr(_) => "NEW_USER_BASEPTR",
            Self::TlbFlush(Scope::Local) => "TLB_FLUSH_LOCAL",
            Self::TlbFlush(Scope::Vcpus(_)) => "TLB_FLUSH_MULTI",
            Self::TlbFlush(Scope::All) => "TLB_FLUSH_ALL",
            Self::Invlpg(Scope::Local, _) => "INVLPG_LOCAL",
            Self::Invlpg(Scope::Vcpus(_), _) => "INVLPG_MULTI",
            Self::Invlpg(Scope::All, _) => "INVLPG_ALL",
            Self::FlushCache => "FLUSH_CACHE",
            Self::SetLdt(..) => "SET_LDT",
            Self::ClearPage(_) => "CLEAR_PAGE",
            Self::CopyPage { .. } => "COPY_PAGE",
        }
    }

    /// As Xen takes it. The vCPUs of a flush are named by pointer: this one's, if it has any.
    #[inline]
    pub const fn raw(&self) -> mmuext_op {
        let none = mmuext_op_arg2 { src_mfn: 0 };
        let (cmd, arg1, arg2) = match self {
            Self::Pin(level, mfn) => (
                mmu::MMUEXT_PIN_L1_TABLE + *level as u32 - 1,
                mfn.as_u64(),
                none,
            ),
            Self::Unpin(mfn) => (mmu::MMUEXT_UNPIN_TABLE, mfn.as_u64(), none),
            Self::NewBaseptr(mfn) => (mmu::MMUEXT_NEW_BASEPTR, mfn.as_u64(), none),
            Self::NewUserBaseptr(Some(mfn)) => (mmu::MMUEXT_NEW_USER_BASEPTR, mfn.as_u64(), none),
            Self::NewUserBaseptr(None) => (mmu::MMUEXT_NEW_USER_BASEPTR, 0, none),
            Self::TlbFlush(scope) => {
                let cmd = match scope {
                    Scope::Local => mmu::MMUEXT_TLB_FLUSH_LOCAL,
                    Scope::Vcpus(_) => mmu::MMUEXT_TLB_FLUSH_MULTI,
                    Scope::All => mmu::MMUEXT_TLB_FLUSH_ALL,
                };
                (cmd, 0, scope.mask_arg())
            }
            Self::Invlpg(scope, va) => {
                let cmd = match scope {
                    Scope::Local => mmu::MMUEXT_INVLPG_LOCAL,
                    Scope::Vcpus(_) => mmu::MMUEXT_INVLPG_MULTI,
                    Scope::All => mmu::MMUEXT_INVLPG_ALL,
                };
                (cmd, va.as_u64(), scope.mask_arg())
            }
            Self::FlushCache => (mmu::MMUEXT_FLUSH_CACHE, 0, none),
            Self::SetLdt(base, entries) => (
                mmu::MMUEXT_SET_LDT,
                base.as_u64(),
                mmuext_op_arg2 { nr_ents: *entries },
            ),
            Self::ClearPage(mfn) => (mmu::MMUEXT_CLEAR_PAGE, mfn.as_u64(), none),
            Self::CopyPage { to, from } => (
                mmu::MMUEXT_COPY_PAGE,
                to.as_u64(),
                mmuext_op_arg2 {
                    src_mfn: from.as_u64(),
                },
            ),
        };
        mmuext_op {
            cmd,
            arg1: mmuext_op_arg1 { mfn: arg1 },
            arg2,
        }
    }
}

impl Scope {
    #[inline]
    const fn mask_arg(&self) -> mmuext_op_arg2 {
        match self {
            Self::Vcpus(mask) => mmuext_op_arg2 {
                vcpumask: (&raw const *mask).cast(),
            },
            _ => mmuext_op_arg2 { src_mfn: 0 },
        }
    }
}

/// Carries out operations, as [`ExtOp::raw`] makes them, on frames of this domain.
///
/// # Safety
/// The bitmaps named by flushes are readable. Tables that become current map what is in use as
/// before; tables that are let go of, frames that are cleared or copied to, are not in use.
#[inline]
pub unsafe fn ext_raw<H: Hypervisor + ?Sized>(
    hv: &H,
    ops: &[mmuext_op],
    name: &'static str,
) -> Result<(), Stopped> {
    let mut done = 0u32;
    let args = [
        ops.as_ptr() as u64,
        ops.len() as u64,
        &raw mut done as u64,
        DOMID_SELF as u64,
        0,
    ];
    // SAFETY: Xen reads the operations and writes `done`, during the call. The caller promises
    // that a table which becomes current maps what is in use, and that what is let go of or overwritten
    // is not in use.
    let value = unsafe { hv.call(Op::MmuextOp, args) };
    XenError::check(Op::MmuextOp, Some(name), value)
        .map_err(|error| Stopped { error, done })
        .map(drop)
}

/// Carries out one operation.
///
/// Fails with `EINVAL` for a frame of the wrong type or a table with an entry that Xen does not
/// allow, `EBUSY`, `EPERM`.
///
/// # Safety
/// A table that becomes current maps what is in use as before; a table that is let go of, a frame
/// that is cleared or copied to, is not in use.
#[inline]
pub unsafe fn ext<H: Hypervisor + ?Sized>(hv: &H, op: ExtOp) -> Result<(), XenError> {
    if let Some(tables) = hv.page_tables() {
        // SAFETY: the operation is the same, and the caller promises that a table which becomes current
        // maps what is in use, and that what is let go of or overwritten is not in use.
        return check(Op::MmuextOp, Some(op.name()), unsafe { tables.ext(op) });
    }
    let raw = [op.raw()];
    // SAFETY: `op`, and the bitmap in it, live until the call is over. The caller promises that
    // a table which becomes current maps what is in use, and that what is let go of is not in use.
    unsafe { ext_raw(hv, &raw, op.name()) }.map_err(|stopped| stopped.error)
}

/// Flushes TLB entries: one address or everything. Flushing is always allowed.
#[inline]
pub fn flush<H: Hypervisor + ?Sized>(
    hv: &H,
    scope: Scope,
    address: Option<VirtAddr>,
) -> Result<(), XenError> {
    let op = match address {
        Some(va) => ExtOp::Invlpg(scope, va),
        None => ExtOp::TlbFlush(scope),
    };
    // SAFETY: a flush changes no mapping.
    unsafe { ext(hv, op) }
}

/// Which TLB entries [`update_va_mapping`] flushes, after a successful update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VaFlush {
    /// None: nothing was mapped, or the caller flushes later.
    None,
    /// The address itself.
    Page(Scope),
    /// Everything.
    Tlb(Scope),
}

impl VaFlush {
    /// As Xen takes it. vCPUs are named by pointer: this one's, if it has any.
    #[inline(always)]
    pub fn raw(&self) -> u64 {
        let (kind, scope) = match self {
            Self::None => return mmu::UVMF_NONE,
            Self::Page(scope) => (mmu::UVMF_INVLPG, scope),
            Self::Tlb(scope) => (mmu::UVMF_TLB_FLUSH, scope),
        };
        kind | match scope {
            Scope::Local => mmu::UVMF_LOCAL,
            Scope::All => mmu::UVMF_ALL,
            // Xen tells the address from the flags by its low bits, so it is a multiple of 8.
            Scope::Vcpus(mask) => mmu::UVMF_MULTI | (&raw const *mask) as u64,
        }
    }
}

/// Writes the L1 entry that maps `va` in the current tables: the cheapest way for a single one.
///
/// Fails with `EINVAL` if no L1 table of this domain maps `va`, and as [`update`] does.
///
/// # Safety
/// No mapping that safe code relies on goes away, changes its frame or loses rights.
#[inline]
pub unsafe fn update_va_mapping<H: Hypervisor + ?Sized>(
    hv: &H,
    va: VirtAddr,
    value: u64,
    flush: VaFlush,
) -> Result<(), XenError> {
    if let Some(tables) = hv.page_tables() {
        // SAFETY: address and value are the same, and the caller promises that no mapping which safe
        // code relies on goes away, moves or is narrowed by them.
        let answer = unsafe { tables.update_va(va, value, flush) };
        return check(Op::UpdateVaMapping, None, answer);
    }
    let args = [va.as_u64(), value, flush.raw(), 0, 0];
    // SAFETY: a bitmap of vCPUs lives in `flush` until the call is over. The caller promises
    // that no mapping which safe code relies on goes away, moves or is narrowed by the new value.
    let value = unsafe { hv.call(Op::UpdateVaMapping, args) };
    XenError::check(Op::UpdateVaMapping, None, value).map(drop)
}

/// The flags of [`update_va_by_flags`] that flush the address itself, if no list of vCPUs goes with them.
#[inline(always)]
pub(crate) const fn invlpg_flags(scope: Scope) -> Option<u64> {
    match scope {
        Scope::Local => Some(mmu::UVMF_INVLPG | mmu::UVMF_LOCAL),
        Scope::All => Some(mmu::UVMF_INVLPG | mmu::UVMF_ALL),
        Scope::Vcpus(_) => None,
    }
}

/// As [`update_va_mapping`], with no flush or one of [`invlpg_flags`], as Xen takes it: nothing of it is
/// in memory.
///
/// # Safety
/// As [`update_va_mapping`].
#[inline(always)]
pub(crate) unsafe fn update_va_by_flags<H: Hypervisor + ?Sized>(
    hv: &H,
    va: VirtAddr,
    value: u64,
    flags: u64,
) -> Result<(), XenError> {
    // SAFETY: the caller's promise covers it; the flags name no memory.
    let answer = unsafe { hv.call_straight(Op::UpdateVaMapping, [va.as_u64(), value, flags]) };
    match answer {
        Some(answer) => XenError::check(Op::UpdateVaMapping, None, answer).map(drop),
        // SAFETY: the caller's promise covers it.
        None => unsafe { update_va_around(hv, va, value, flags) },
    }
}

/// As [`update_va_by_flags`], where calls do not go straight to Xen.
#[cold]
#[inline(never)]
unsafe fn update_va_around<H: Hypervisor + ?Sized>(
    hv: &H,
    va: VirtAddr,
    value: u64,
    flags: u64,
) -> Result<(), XenError> {
    let flush = match flags & mmu::UVMF_FLUSHTYPE_MASK {
        mmu::UVMF_NONE => VaFlush::None,
        _ if flags & mmu::UVMF_ALL != 0 => VaFlush::Page(Scope::All),
        _ => VaFlush::Page(Scope::Local),
    };
    // SAFETY: the caller's promise covers it.
    unsafe { update_va_mapping(hv, va, value, flush) }
}
