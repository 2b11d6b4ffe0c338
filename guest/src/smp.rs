//! All vCPUs of a PV guest: started at boot, given work, asleep in Xen otherwise.
//!
//! A vCPU starts from a context that the boot vCPU makes (`VCPUOP_initialise`, `vcpu_guest_context` in
//! `arch-x86/xen.h`): the boot tables, the same gates and callback, a GS base that leads to its own
//! area, a stack of its own with pages below that are never mapped, and a `vcpu_info` of its own, which
//! from vCPU 32 on it must have (`shared_info` has room for 32).
//!
//! Work is given to all at once ([`on_all`]). A vCPU looks for it in its idle loop, with upcalls masked
//! before it sleeps: what is given in between raises its port, and so wakes it.

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use heapless::String;
use hypercall::abi::arch::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_in_kernel, vcpu_guest_context};
use hypercall::abi::shared_info::vcpu_info;
use hypercall::event::Port;
use hypercall::{Errno, Hypervisor, MachAddr, XenError, sched, vcpu};
use marks::init;
use xenstore_wire::Path;

use crate::cpu::{self, Area};
use crate::event::{self, BindError};
use crate::init::initcall;
use crate::lock::Lock;
use crate::mm::{self, Flags, MmError, layout};
use crate::options::Options;
use crate::refused::Refused;
use crate::selection::Selection;
use crate::xen::HV;
use crate::xenstore::{self, Failed};
use crate::{time, trap};

const PAGE: u64 = 4096;
/// Bytes of a stack, as many as the boot vCPU's has.
const STACK: u64 = 64 << 10;
/// From one stack to the next: the pages in between are never mapped.
const STRIDE: u64 = 2 * STACK;
/// How long a vCPU may take from its start to its idle loop, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// A vCPU besides the boot vCPU.
#[repr(C)]
struct Cpu {
    area: Area,
    info: Info,
    /// Raised to wake it.
    port: Port,
    work: Lock<Work>,
    /// Where its page tables go.
    room: Lock<Option<mm::Room>>,
}

/// Its `vcpu_info`, which lies within a page.
#[repr(C, align(64))]
struct Info(UnsafeCell<vcpu_info>);

// SAFETY: Xen and the vCPU whose it is access it, by atomic words.
unsafe impl Sync for Info {}
// SAFETY: integers.
unsafe impl Send for Info {}

const _: () = assert!(size_of::<vcpu_info>() <= 64);

/// What a vCPU has to do.
enum Work {
    Nothing,
    Given(&'static (dyn Fn(u32) + Sync)),
    Done,
}

/// The vCPUs 1, 2 and so on.
static CPUS: Lock<Vec<&'static Cpu>> = Lock::new(Vec::new());

/// Whether work was given to all.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Why a vCPU was not started.
enum NotStarted {
    NoMemory,
    Refused(Refused),
    Port(BindError),
    Late,
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotStarted::NoMemory => f.write_str("the heap has no room for what it needs"),
            NotStarted::Refused(e) => e.fmt(f),
            NotStarted::Port(e) => e.fmt(f),
            NotStarted::Late => write!(f, "it is not there after {} s", PATIENCE / 1_000_000_000),
        }
    }
}

impl From<TryReserveError> for NotStarted {
    fn from(_: TryReserveError) -> NotStarted {
        NotStarted::NoMemory
    }
}

impl From<MmError> for NotStarted {
    fn from(error: MmError) -> NotStarted {
        NotStarted::Refused(error.into())
    }
}

impl From<XenError> for NotStarted {
    fn from(error: XenError) -> NotStarted {
        NotStarted::Refused(error.into())
    }
}

impl From<BindError> for NotStarted {
    fn from(error: BindError) -> NotStarted {
        NotStarted::Port(error)
    }
}

/// Starts every vCPU that the domain has, in order; the first that cannot be started is the last that
/// was tried.
#[init]
fn start_all(options: &Options<'_>) -> Result<(), Refused> {
    if options.rules != Selection::None || options.differential.is_some() {
        log::info!(target: "smp", "other vCPUs are left to the rules, which start them themselves");
        return Ok(());
    }
    for number in 1.. {
        match vcpu::is_up(&HV, number) {
            Ok(_) => {}
            Err(e) if e.errno == Errno::ENOENT => break,
            Err(e) => return Err(e.into()),
        }
        if is_offline(number) {
            log::info!(target: "smp", "vCPU {number} and those behind it are offline, by xenstore");
            break;
        }
        if let Err(e) = start(number) {
            log::error!(target: "smp", "vCPU {number} and those behind it are not started: {e}");
            break;
        }
    }
    match cpu::running() {
        1 => log::info!(target: "smp", "1 vCPU runs"),
        running => log::info!(target: "smp", "{running} vCPUs run"),
    }
    Ok(())
}
initcall!("smp", Service, after ["events", "xenstore"], needs XEN_TABLES, start_all);

/// Whether Xen's tools want a vCPU not to run (`cpu/N/availability`, `docs/misc/xenstore-paths.pandoc`):
/// a domain has `maxvcpus` of them, the first `vcpus` of which are online. Where they say nothing, all
/// are.
#[init]
fn is_offline(number: u32) -> bool {
    let mut name = String::<24>::new();
    // There is room for every number.
    let _ = write!(name, "cpu/{number}/availability");
    let Ok(path) = Path::new(name.as_bytes()) else {
        return false;
    };
    match xenstore::with(|session| Ok(session.read(path)? == b"offline")) {
        Ok(offline) => offline,
        Err(Failed::None) => false,
        Err(Failed::Call(e)) if e.is(xenstore_wire::Errno::ENOENT) => false,
        Err(e) => {
            log::warn!(target: "smp", "{name}: {e}");
            false
        }
    }
}

/// Starts a vCPU and waits until it is there.
fn start(number: u32) -> Result<(), NotStarted> {
    let stack = map_stack(number)?;
    let mut room = Vec::new();
    room.try_reserve_exact(1)?;
    room.push(Cpu {
        area: Area::new(number),
        // SAFETY: integers.
        info: Info(UnsafeCell::new(unsafe { core::mem::zeroed() })),
        port: hypercall::event::bind_ipi(&HV, number)?,
        work: Lock::new(Work::Nothing),
        room: Lock::new(Some(mm::make_room()?)),
    });
    let cpu: &'static Cpu = &room.leak()[0];
    core::mem::forget(event::bind(cpu.port, &woken)?);
    let info = register(cpu, number)?;
    // SAFETY: the heap's memory is mapped for good, and this is never freed.
    unsafe { cpu.area.set_vcpu(info) };
    {
        let mut cpus = CPUS.lock();
        cpus.try_reserve(1)?;
        cpus.push(cpu);
    }
    let context = context(cpu, stack)?;
    // SAFETY: the context is made for this vCPU: its own stack and area, the gates and the callback that
    // the boot vCPU has, the boot tables, and an entry that expects just this.
    unsafe {
        vcpu::initialise(&HV, number, &context)?;
        vcpu::up(&HV, number)?;
    }
    let began = time::monotonic().unwrap_or(0);
    // They start one after the other, and this one counts itself.
    while cpu::running() <= number {
        if time::monotonic().unwrap_or(u64::MAX).saturating_sub(began) > PATIENCE {
            return Err(NotStarted::Late);
        }
        sched::r#yield(&HV)?;
    }
    Ok(())
}

/// Maps a stack and returns its top. Growing down from it too far meets a page that is not there.
fn map_stack(number: u32) -> Result<u64, MmError> {
    let top = layout::STACKS.start + u64::from(number + 1) * STRIDE;
    if top > layout::STACKS.end {
        let va = top - STACK;
        return Err(MmError::BadRange {
            va,
            pages: STACK / PAGE,
        });
    }
    mm::with(|tables| {
        for va in (top - STACK..top).step_by(PAGE as usize) {
            let frame = tables.alloc_frame()?;
            // For good: a vCPU that was started keeps its stack.
            let _ = tables.map_frames(va, [frame], Flags::DATA)?;
        }
        Ok(top)
    })
}

/// Tells Xen where the vCPU's `vcpu_info` is, with upcalls masked.
fn register(cpu: &'static Cpu, number: u32) -> Result<NonNull<vcpu_info>, NotStarted> {
    let info = cpu.info.0.get();
    let va = info.expose_provenance() as u64;
    let entry = mm::with(|tables| tables.ptep_get(va))?;
    let mfn = entry.mfn().ok_or(MmError::NotMapped { va })?;
    let place = MachAddr::from_frame(mfn, va);
    // SAFETY: aligned as it is it lies within the page, which the heap never gives up.
    unsafe { vcpu::register_vcpu_info(&HV, number, place) }?;
    // SAFETY: a byte of memory that is mapped for good; the vCPU does not run yet.
    unsafe { (&raw mut (*info).evtchn_upcall_mask).write_volatile(1) };
    // SAFETY: the address of a field of a reference.
    Ok(unsafe { NonNull::new_unchecked(info) })
}

/// What the vCPU starts from.
fn context(cpu: &'static Cpu, stack: u64) -> Result<vcpu_guest_context, NotStarted> {
    let root = mm::with(|tables| tables.mfn(tables.root()))?;
    // SAFETY: integers.
    let mut context: vcpu_guest_context = unsafe { core::mem::zeroed() };
    context.flags = VGCF_in_kernel.into();
    for gate in trap::gates() {
        context.trap_ctxt[usize::from(gate.vector)] = gate;
    }
    context.event_callback_eip = event::entry().as_u64();
    context.gs_base_kernel = cpu.area.base();
    context.kernel_ss = FLAT_KERNEL_SS.into();
    context.kernel_sp = stack;
    // CR3.
    context.ctrlreg[3] = root.addr().as_u64();
    let registers = &mut context.user_regs;
    registers.rip = entry as *const () as u64;
    registers.cs = FLAT_KERNEL_CS as u16;
    registers.ss = FLAT_KERNEL_SS as u16;
    registers.rsp = stack;
    registers.rdi = core::ptr::from_ref(cpu).expose_provenance() as u64;
    Ok(context)
}

/// The first instruction of a vCPU: the chain of frame pointers ends here.
///
/// # Safety
/// Only Xen enters here, with the context that [`context`] makes.
#[unsafe(naked)]
unsafe extern "C" fn entry() -> ! {
    naked_asm!(
        "cld",
        "xor ebp, ebp",
        "call {run}",
        "ud2",
        run = sym run,
    )
}

/// Runs a vCPU.
extern "C" fn run(cpu: &'static Cpu) -> ! {
    let number = cpu.area.number();
    // Taken apart from the call: the lock is not held meanwhile.
    let room = cpu.room.lock().take();
    if let Err(e) = room.map_or(Err(MmError::NotTakenOver), mm::join) {
        panic!("vCPU {number} and the page tables: {e}");
    }
    if let Err(e) = hypercall::time::stop_periodic(&HV, number) {
        panic!("the timer of vCPU {number}: {e}");
    }
    cpu::began();
    HV.restore_upcalls(false);
    loop {
        HV.mask_upcalls();
        if let Some(work) = cpu.take() {
            HV.restore_upcalls(false);
            work(number);
            *cpu.work.lock() = Work::Done;
            continue;
        }
        // Unmasks upcalls, and returns at once if one waits.
        if let Err(e) = sched::block(&HV) {
            panic!("vCPU {number} cannot sleep: {e}");
        }
    }
}

impl Cpu {
    /// What there is to do.
    fn take(&self) -> Option<&'static (dyn Fn(u32) + Sync)> {
        match *self.work.lock() {
            Work::Given(work) => Some(work),
            Work::Nothing | Work::Done => None,
        }
    }
}

/// The port that wakes a vCPU was raised: it looks for work.
fn woken() {}

/// Has every vCPU that runs call `work` with its number, all at once, and returns when all have.
///
/// # Panics
/// It is called while it runs already, by another than the boot vCPU, or with upcalls masked: then
/// what the others wait for may be held here.
pub(crate) fn on_all(work: &(dyn Fn(u32) + Sync)) {
    assert!(
        !BUSY.swap(true, Ordering::Acquire),
        "work is given to all vCPUs already"
    );
    let masked = HV.mask_upcalls();
    HV.restore_upcalls(masked);
    assert!(!masked, "work is given to all vCPUs with upcalls masked");
    assert!(
        cpu::here().number() == 0,
        "only the boot vCPU gives work to all"
    );
    // SAFETY: only the lifetime changes. Nobody has the reference any more when this returns: every
    // vCPU that was given it has said that it is done.
    let given: &'static (dyn Fn(u32) + Sync) = unsafe { core::mem::transmute(work) };
    // One that was listed but did not come up runs nothing.
    let count = cpu::running() as usize - 1;
    let others = || (0..count).map(|index| CPUS.lock()[index]);
    // They may wait for page tables that this one keeps.
    mm::let_go();
    for cpu in others() {
        *cpu.work.lock() = Work::Given(given);
        // Refused it would never be done.
        if let Err(e) = hypercall::event::send(&HV, cpu.port) {
            panic!("waking vCPU {}: {e}", cpu.area.number());
        }
    }
    work(0);
    mm::let_go();
    for cpu in others() {
        while !matches!(*cpu.work.lock(), Work::Done) {
            // Refused, it is asked again.
            let _ = sched::r#yield(&HV);
        }
        *cpu.work.lock() = Work::Nothing;
    }
    BUSY.store(false, Ordering::Release);
}
