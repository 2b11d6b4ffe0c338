//! `shared_info`, the page that Xen and the domain share (`xen/include/public/xen.h`).
//!
//! Under Xen it is mapped in the fixmap, at the latest when events are opened; without Xen a page of
//! the kernel's own stands in for it from then on, of which only the events' part is used. Before,
//! every reader is told that it is not there.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use hypercall::Mfn;
use hypercall::abi::shared_info::{shared_info, vcpu_info};

use crate::cpu::{self, Area};

static PAGE: AtomicPtr<shared_info> = AtomicPtr::new(core::ptr::null_mut());

/// Says where the page is mapped, which has the boot vCPU's `vcpu_info`; the others have theirs
/// elsewhere.
///
/// # Safety
/// `page` must be the domain's `shared_info`, or one that stands in for it, mapped writable and
/// never unmapped. The boot vCPU calls.
pub(crate) unsafe fn publish(page: NonNull<shared_info>) {
    PAGE.store(page.as_ptr(), Ordering::Release);
    // SAFETY: only the address of a field is formed, in a page that stays mapped.
    unsafe {
        let vcpu = NonNull::new_unchecked(&raw mut (*page.as_ptr()).vcpu_info[0]);
        cpu::here().set_vcpu(vcpu);
    }
}

/// The same, with upcalls masked in the page before the boot vCPU looks for that there.
///
/// # Safety
/// As [`publish`].
pub(crate) unsafe fn publish_masked(page: NonNull<shared_info>) {
    // SAFETY: a byte of the page, which stays mapped; Xen only reads it.
    unsafe { (&raw mut (*page.as_ptr()).vcpu_info[0].evtchn_upcall_mask).write_volatile(1) };
    // SAFETY: the caller's promise.
    unsafe { publish(page) };
}

/// A `vcpu_info` of the boot vCPU's own, whose upcalls are masked there for good.
struct StandIn(UnsafeCell<vcpu_info>);

// SAFETY: the boot vCPU alone uses it.
unsafe impl Sync for StandIn {}

/// What stands in for the boot vCPU's `vcpu_info` while the page is not mapped.
static STAND_IN: StandIn = StandIn(UnsafeCell::new(vcpu_info {
    evtchn_upcall_mask: 1,
    // SAFETY: integers.
    ..unsafe { core::mem::zeroed() }
}));

/// Has nobody use the page any more, until it is [published](publish) again. Upcalls are masked, and
/// stay so; there are no events, and time stands still.
///
/// The boot vCPU calls, and no other runs.
pub(crate) fn withdraw() {
    PAGE.store(core::ptr::null_mut(), Ordering::Release);
    // SAFETY: a static, which is mapped for good; the pointer to it is not null.
    unsafe { cpu::here().set_vcpu(NonNull::new_unchecked(STAND_IN.0.get())) };
}

/// The page.
pub(crate) fn page() -> Option<NonNull<shared_info>> {
    NonNull::new(PAGE.load(Ordering::Acquire))
}

/// That there is no tree of the p2m list's frames.
const NO_TREE: u64 = !0;

/// Says how many pages the domain has and where its p2m list is mapped, by which table: what tools
/// outside of the domain read to find its memory (`arch_shared_info`, `arch-x86/xen.h`). `whole` says
/// that they have promised to go by the list's mapping (`SIF_VIRT_P2M_4TOOLS`): they are told that
/// there is no tree of its frames. Others find that tree not set up yet.
///
/// The generation is even, which means that no change is under way; the table stays for as long as the
/// domain.
pub(crate) fn publish_p2m(pages: u64, list: u64, root: Mfn, whole: bool) {
    let Some(page) = page() else { return };
    // SAFETY: the page stays mapped; the fields are aligned words that only the domain writes. The
    // table comes last: a reader who finds none takes nothing else for true.
    unsafe {
        let arch = &raw mut (*page.as_ptr()).arch;
        (&raw mut (*arch).max_pfn).write_volatile(pages);
        if whole {
            (&raw mut (*arch).pfn_to_mfn_frame_list_list).write_volatile(NO_TREE);
        }
        (&raw mut (*arch).p2m_vaddr).write_volatile(list);
        (&raw mut (*arch).p2m_generation).write_volatile(0);
        // As CR3 has it.
        (&raw mut (*arch).p2m_cr3).write_volatile(root.addr().as_u64());
    }
}

/// Says that the list is elsewhere and has more pages: of one that was published. The generation is odd
/// meanwhile, by which tools that look at the domain just now find that they have to begin again.
pub(crate) fn publish_longer_p2m(pages: u64, list: u64) {
    let Some(page) = page() else { return };
    // SAFETY: the page stays mapped; the fields are aligned words that only the domain writes.
    unsafe {
        let arch = &raw mut (*page.as_ptr()).arch;
        let generation = (&raw const (*arch).p2m_generation).read_volatile();
        (&raw mut (*arch).p2m_generation).write_volatile(generation | 1);
        fence(Ordering::SeqCst);
        (&raw mut (*arch).p2m_vaddr).write_volatile(list);
        (&raw mut (*arch).max_pfn).write_volatile(pages);
        fence(Ordering::SeqCst);
        (&raw mut (*arch).p2m_generation).write_volatile((generation | 1).wrapping_add(1));
    }
}

/// What the tools are told of the p2m list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct P2m {
    /// Pages of the domain.
    pub(crate) pages: u64,
    /// Where the list is mapped.
    pub(crate) list: u64,
    /// By which top table, as CR3 has it.
    pub(crate) root: u64,
    /// Odd while that changes.
    pub(crate) generation: u64,
    /// Whether they were told that there is no tree of its frames.
    pub(crate) whole: bool,
}

/// What the tools find of the p2m list.
pub(crate) fn p2m() -> Option<P2m> {
    let page = page()?;
    // SAFETY: the page stays mapped; the fields are aligned words that only the domain writes.
    unsafe {
        let arch = &raw const (*page.as_ptr()).arch;
        Some(P2m {
            pages: (&raw const (*arch).max_pfn).read_volatile(),
            list: (&raw const (*arch).p2m_vaddr).read_volatile(),
            root: (&raw const (*arch).p2m_cr3).read_volatile(),
            generation: (&raw const (*arch).p2m_generation).read_volatile(),
            whole: (&raw const (*arch).pfn_to_mfn_frame_list_list).read_volatile() == NO_TREE,
        })
    }
}

/// What the wall clock said when Xen's system time began, in nanoseconds since the beginning of 1970;
/// `None` before Xen says it, or where there is no Xen.
pub(crate) fn wall_clock() -> Option<u64> {
    let page = page()?.as_ptr();
    // SAFETY: an aligned u32 of a page that stays mapped, which Xen bumps around its writes.
    let version = unsafe { AtomicU32::from_ptr(&raw mut (*page).wc_version) };
    loop {
        let before = version.load(Ordering::Acquire);
        // SAFETY: aligned integers of the page; a torn read is thrown away because the version then
        // differs.
        let (low, high, nanoseconds) = unsafe {
            (
                (&raw const (*page).wc_sec).read_volatile(),
                (&raw const (*page).wc_sec_hi).read_volatile(),
                (&raw const (*page).wc_nsec).read_volatile(),
            )
        };
        fence(Ordering::Acquire);
        if before & 1 == 0 && version.load(Ordering::Relaxed) == before {
            let seconds = u64::from(high) << 32 | u64::from(low);
            let time = seconds.checked_mul(1_000_000_000)?;
            return (seconds != 0).then(|| time.saturating_add(nanoseconds.into()));
        }
    }
}

/// The `vcpu_info` of the vCPU that this runs on.
pub(crate) fn vcpu() -> Option<NonNull<vcpu_info>> {
    cpu::here().vcpu()
}

/// The address that the last page fault was about: PV has no CR2 of its own.
pub(crate) fn fault_address() -> Option<u64> {
    let vcpu = vcpu()?;
    // SAFETY: the page stays mapped; the field is an aligned u64 that Xen writes before it
    // delivers a fault, never while the handler runs.
    let cr2 = unsafe { AtomicU64::from_ptr(&raw mut (*vcpu.as_ptr()).arch.cr2) };
    Some(cr2.load(Ordering::Relaxed))
}

/// The bits of the event channels, 64 a word (2-level ABI).
pub(crate) struct Ports {
    /// Raised and not yet seen.
    pub(crate) pending: &'static [AtomicU64; 64],
    /// Not to be delivered.
    pub(crate) mask: &'static [AtomicU64; 64],
}

/// The event channels' bits.
pub(crate) fn ports() -> Option<Ports> {
    let page = page()?.as_ptr();
    // SAFETY: `publish` was given the page, mapped for good. Xen and the kernel write both arrays
    // one aligned word at a time, atomically; `AtomicU64` is laid out as `u64`.
    unsafe {
        Some(Ports {
            pending: &*(&raw const (*page).evtchn_pending).cast(),
            mask: &*(&raw const (*page).evtchn_mask).cast(),
        })
    }
}

/// Of the vCPU that this runs on: whether upcalls wait, and which words have something for it.
pub(crate) fn upcall() -> Option<(&'static AtomicU8, &'static AtomicU64)> {
    upcall_of(cpu::here())
}

/// Of a vCPU: whether upcalls wait, and which words have something for it.
pub(crate) fn upcall_of(area: &Area) -> Option<(&'static AtomicU8, &'static AtomicU64)> {
    let vcpu = area.vcpu()?.as_ptr();
    // SAFETY: the page stays mapped; the byte and the aligned word are written whole by Xen and
    // the kernel.
    unsafe {
        Some((
            AtomicU8::from_ptr(&raw mut (*vcpu).evtchn_upcall_pending),
            AtomicU64::from_ptr(&raw mut (*vcpu).evtchn_pending_sel),
        ))
    }
}
