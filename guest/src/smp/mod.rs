//! All vCPUs: started at boot, given work, asleep otherwise.
//!
//! Each has an area, a stack with pages below that are never mapped, and a `vcpu_info` of its own, which
//! under Xen from vCPU 32 on it must have (`shared_info` has room for 32). From what it starts is in
//! [`begin`].
//!
//! What a vCPU does from there on is a thread that stays on it, as what was booted is on the boot vCPU:
//! it parks until work is given to all at once ([`on_all`]). Beside it the vCPU runs other threads.
//!
//! Those that run are the first so many ([`cpu::running`]). Xen's tools say how many that are to be, in
//! xenstore, while the domain runs as well ([`follow`]): the last go down, having handed their threads
//! over, or come up again. Before the domain is suspended each goes down ([`all_down`]), where it leaves
//! nothing queued in the page tables, and its threads as they are. After that it goes
//! on where it went down, or, in a restored domain, whose vCPUs have no context, starts from a new one,
//! with the area, the stack and the page tables that it had ([`all_up`]).

mod begin;

extern crate alloc;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;

use heapless::String;
use hypercall::abi::shared_info::vcpu_info;
use hypercall::{Errno, Hypervisor, XenError, sched, vcpu};
use marks::init;
use spin::Once;
use xenstore_wire::Path;

use crate::cpu::{self, Area};
use crate::event::NotReady;
use crate::init::initcall;
use crate::lock::Lock;
use crate::mm::{self, MmError};
use crate::options::Options;
use crate::pc::processors::{self, Made, NotMade};
use crate::pc::start;
use crate::rank;
use crate::refused::Refused;
use crate::stack::{self, NoStack, Stack};
use crate::task::{self, NotBegun};
use crate::time;
use crate::xen::HV;
use crate::xenstore::{self, Failed};

/// How long a vCPU may take from its start to its idle loop, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// A vCPU besides the boot vCPU.
#[repr(C)]
struct Cpu {
    area: Area,
    info: Info,
    stack: Stack,
    /// What the machine keeps for it, where the processor is the kernel's own.
    machine: Once<Made>,
    /// What it runs threads with.
    threads: task::Room,
    work: Lock<Work, rank::Cpus>,
    /// Wakes it to look for work, once it runs.
    waker: Once<Waker>,
    /// Whether it has a context, from which it goes on.
    has_context: AtomicBool,
    /// Where its page tables go.
    room: Lock<Option<mm::Room>, rank::Cpus>,
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
    /// It does not run yet.
    Start,
    Nothing,
    /// To go down: for good, as far as its threads can know, or for as long as none runs anywhere.
    Leave {
        for_good: bool,
    },
    /// It does, and runs nothing until it is brought up.
    Left,
    Given(&'static (dyn Fn(u32) + Sync)),
    Done,
}

/// The vCPUs 1, 2 and so on.
static CPUS: Lock<Vec<&'static Cpu>, rank::Cpus> = Lock::new(Vec::new());

/// Whether as many run as Xen's tools want to: not where others start them.
static FOLLOWS: AtomicBool = AtomicBool::new(false);

/// Whether work was given to all.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Why a vCPU was not started, or does not go down.
#[derive(Debug)]
pub(crate) enum NotStarted {
    NoMemory,
    Refused(Refused),
    Stack(NoStack),
    Events(NotReady),
    Threads(NotBegun),
    Machine(NotMade),
    Processor(start::NotStarted),
    Late,
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotStarted::NoMemory => f.write_str("the heap has no room for what it needs"),
            NotStarted::Refused(e) => e.fmt(f),
            NotStarted::Stack(e) => e.fmt(f),
            NotStarted::Events(e) => e.fmt(f),
            NotStarted::Threads(e) => e.fmt(f),
            NotStarted::Machine(e) => e.fmt(f),
            NotStarted::Processor(e) => e.fmt(f),
            NotStarted::Late => write!(f, "it takes longer than {} s", PATIENCE / 1_000_000_000),
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

impl From<NoStack> for NotStarted {
    fn from(error: NoStack) -> NotStarted {
        NotStarted::Stack(error)
    }
}

impl From<NotReady> for NotStarted {
    fn from(error: NotReady) -> NotStarted {
        NotStarted::Events(error)
    }
}

impl From<NotBegun> for NotStarted {
    fn from(error: NotBegun) -> NotStarted {
        NotStarted::Threads(error)
    }
}

impl From<NotMade> for NotStarted {
    fn from(error: NotMade) -> NotStarted {
        NotStarted::Machine(error)
    }
}

impl From<start::NotStarted> for NotStarted {
    fn from(error: start::NotStarted) -> NotStarted {
        NotStarted::Processor(error)
    }
}

/// Starts every processor that a machine has.
#[init]
fn start_processors(options: &Options<'_>) -> Result<(), Refused> {
    let ready = processors::begin().and_then(|count| match count {
        1 => Ok(()),
        _ => start::take_pages(),
    });
    match ready {
        Ok(()) => start_all(options)?,
        Err(e) => log::error!(target: "smp", "one processor runs, and no other is started: {e}"),
    }
    Ok(start::give_pages_back()?)
}
initcall!("processors", Service, after ["events", "threads"], needs PC, start_processors);

/// Starts every vCPU that a domain has, as Xen's tools want it.
#[init]
fn start_vcpus(options: &Options<'_>) -> Result<(), Refused> {
    begin::flush_by_xen();
    start_all(options)?;
    FOLLOWS.store(!begin::are_left(options), Ordering::Relaxed);
    Ok(())
}
initcall!("smp", Service, after ["events", "threads", "xenstore"], needs HYPERCALLS, start_vcpus);

/// Starts every vCPU that there is, in order; the first that cannot be started is the last that
/// was tried.
#[init]
fn start_all(options: &Options<'_>) -> Result<(), Refused> {
    if begin::are_left(options) {
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
    tell();
    Ok(())
}

/// Says how many run.
fn tell() {
    match cpu::running() {
        1 => log::info!(target: "smp", "1 vCPU runs"),
        running => log::info!(target: "smp", "{running} vCPUs run"),
    }
}

/// Whether Xen's tools want a vCPU not to run (`cpu/N/availability`, `docs/misc/xenstore-paths.pandoc`):
/// a domain has `maxvcpus` of them, the first `vcpus` of which are online. Where they say nothing, all
/// are.
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
    let mut room = Vec::new();
    room.try_reserve_exact(1)?;
    // For good, all of it: a vCPU that was started keeps what it has.
    room.push(Cpu {
        area: Area::new(number),
        // SAFETY: integers.
        info: Info(UnsafeCell::new(unsafe { core::mem::zeroed() })),
        stack: stack::get(stack::Size::Vcpu)?,
        machine: Once::new(),
        threads: task::make_room(number)?,
        work: Lock::new(Work::Start),
        waker: Once::new(),
        has_context: AtomicBool::new(false),
        room: Lock::new(Some(mm::make_room()?)),
    });
    let cpu: &'static Cpu = &room.leak()[0];
    {
        let mut cpus = CPUS.lock();
        cpus.try_reserve(1)?;
        cpus.push(cpu);
    }
    cpu.begin()
}

/// Gives its processor to other vCPUs until something is so.
fn wait_until(is_so: impl Fn() -> Result<bool, XenError>) -> Result<(), NotStarted> {
    // They may wait for page tables that this one keeps.
    mm::let_go();
    let began = time::monotonic().unwrap_or(0);
    while !is_so()? {
        if time::monotonic().unwrap_or(u64::MAX).saturating_sub(began) > PATIENCE {
            return Err(NotStarted::Late);
        }
        sched::r#yield(&HV)?;
    }
    Ok(())
}

/// Runs a vCPU.
extern "C" fn run(cpu: &'static Cpu) -> ! {
    let number = cpu.area.number();
    // Taken apart from the call: the lock is not held meanwhile.
    let room = cpu.room.lock().take();
    // One that begins anew in a restored domain has its tables, and was counted.
    if let Some(room) = room {
        if let Err(e) = mm::join(room) {
            panic!("vCPU {number} and the page tables: {e}");
        }
        cpu::began();
    }
    if let Err(e) = hypercall::time::stop_periodic(&HV, number) {
        panic!("the timer of vCPU {number}: {e}");
    }
    if let Err(e) = begin::take_system_calls() {
        panic!("vCPU {number} and system calls: {e}");
    }
    if !task::are_here() {
        if let Err(e) = cpu.threads.begin("vcpu") {
            panic!("vCPU {number} and its threads: {e}");
        }
        cpu.waker.call_once(task::waker);
    }
    cpu.threads.go_on();
    *cpu.work.lock() = Work::Nothing;
    HV.restore_upcalls(false);
    loop {
        cpu.leave_if_told();
        if let Some(work) = cpu.take() {
            work(number);
            *cpu.work.lock() = Work::Done;
            continue;
        }
        task::park();
    }
}

impl Cpu {
    /// What there is to do.
    fn take(&self) -> Option<&'static (dyn Fn(u32) + Sync)> {
        match *self.work.lock() {
            Work::Given(work) => Some(work),
            Work::Start | Work::Nothing | Work::Done | Work::Leave { .. } | Work::Left => None,
        }
    }

    /// Goes down if it is told to, and returns when it is up again.
    fn leave_if_told(&self) {
        let Work::Leave { for_good } = *self.work.lock() else {
            return;
        };
        let masked = HV.mask_upcalls();
        let number = self.area.number();
        self.threads.leave(for_good);
        // A new context begins in the boot's space.
        let boot = mm::with(|tables| tables.boot_space());
        // SAFETY: a vCPU without work uses no user half.
        if let Err(e) = unsafe { mm::switch_space(&boot) } {
            panic!("vCPU {number} cannot leave its space: {e}");
        }
        mm::let_go();
        *self.work.lock() = Work::Left;
        if let Err(e) = vcpu::down(&HV, number) {
            panic!("vCPU {number} cannot go down: {e}");
        }
        self.threads.go_on();
        HV.restore_upcalls(masked);
    }

    /// Waits until it is down, which it was told.
    fn wait_for_down(&self) -> Result<(), NotStarted> {
        wait_until(|| {
            let left = matches!(*self.work.lock(), Work::Left);
            Ok(left && !vcpu::is_up(&HV, self.area.number())?)
        })
    }

    /// Has it run again after it went down: from there, or from a new context where Xen has none.
    fn bring_up(&'static self) -> Result<(), NotStarted> {
        let number = self.area.number();
        if self.has_context.load(Ordering::Relaxed) {
            *self.work.lock() = Work::Nothing;
            // SAFETY: it has a context, from which it went down by itself.
            return Ok(unsafe { vcpu::up(&HV, number) }?);
        }
        *self.work.lock() = Work::Start;
        self.begin()
    }

    /// Has it look for work.
    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// The vCPUs that run besides the boot vCPU. One that was listed but did not come up runs nothing.
fn others() -> impl Iterator<Item = &'static Cpu> {
    let count = cpu::running() as usize - 1;
    (0..count).map(|index| CPUS.lock()[index])
}

/// Has every other vCPU go down, with nothing queued.
///
/// # Errors
/// One that does not, or Xen's refusal. Those that went down are then to be brought up by [`all_up`].
pub(crate) fn all_down() -> Result<(), NotStarted> {
    for cpu in others() {
        *cpu.work.lock() = Work::Leave { for_good: false };
        cpu.wake();
    }
    others().try_for_each(Cpu::wait_for_down)
}

/// Has every other vCPU run again: where it went down, or `anew`, in a domain that has none of what was
/// registered for it.
///
/// # Errors
/// One that does not, or Xen's refusal.
pub(crate) fn all_up(anew: bool) -> Result<(), NotStarted> {
    let count = CPUS.lock().len();
    for cpu in (0..count).map(|index| CPUS.lock()[index]) {
        cpu.has_context.fetch_and(!anew, Ordering::Relaxed);
    }
    others().try_for_each(Cpu::bring_up)
}

/// How many vCPUs Xen's tools want to run, by xenstore, if not as many as do.
pub(crate) fn wanted() -> Option<u32> {
    if !FOLLOWS.load(Ordering::Relaxed) {
        return None;
    }
    let exists = |number: u32| vcpu::is_up(&HV, number).is_ok();
    let wanted = (1..).find(|number| !exists(*number) || is_offline(*number))?;
    (wanted != cpu::running()).then_some(wanted)
}

/// Has as many vCPUs run as are [`wanted`], and says how many do.
pub(crate) fn follow(wanted: u32) {
    if let Err(e) = bring_to(wanted) {
        log::error!(target: "smp", "{wanted} vCPUs are to run: {e}");
    }
    tell();
}

/// Has so many vCPUs run.
fn bring_to(wanted: u32) -> Result<(), NotStarted> {
    while cpu::running() > wanted {
        let Some(last) = others().last() else { break };
        *last.work.lock() = Work::Leave { for_good: true };
        last.wake();
        last.wait_for_down()?;
        cpu::ended();
    }
    while cpu::running() < wanted {
        let number = cpu::running();
        let before = CPUS.lock().get(number as usize - 1).copied();
        match before {
            Some(cpu) => {
                cpu.bring_up()?;
                cpu::began();
            }
            None => start(number)?,
        }
    }
    Ok(())
}

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
    // They may wait for page tables that this one keeps.
    mm::let_go();
    for cpu in others() {
        *cpu.work.lock() = Work::Given(given);
        cpu.wake();
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
