//! The processors of the machine, numbered as vCPUs are: the boot processor is 0, the others follow in
//! the order of their APIC ids.
//!
//! A record of each is made before it runs, for good. It lies in a frame of its own, in the direct map: those
//! that flush translations look there, whatever they have just unmapped. One that goes down sleeps
//! where no interrupt reaches it, and has its translations forgotten until it is up again as before.

extern crate alloc;

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use hypercall::Errno;
use marks::native;
use spin::Once;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::tlb;

use super::deadlines::Deadlines;
use super::descriptors::Descriptors;
use super::summons::{self, Summons};
use super::{apic, interrupts};
use crate::apic_ids::ApicIds;
use crate::cpu::{self, Area};
use crate::mm::machine::Machine;
use crate::mm::{self, MmError};
use crate::stack::{self, NoStack, Stack};

/// Those of the processors that the machine has, as its firmware says.
static FOUND: Once<ApicIds> = Once::new();
/// Number and APIC id of those that can be started: all but the boot processor.
static OTHERS: Once<Vec<u8>> = Once::new();

const _: () = assert!(size_of::<Processor>() <= 4096);

/// What the machine keeps for a processor.
pub(super) struct Processor {
    pub(super) summons: Summons,
    pub(super) descriptors: Descriptors,
    area: &'static Area,
    number: u32,
    apic: AtomicU32,
    /// The upper ends of its stacks for double faults and for summons; none for the boot processor.
    stacks: Option<[Stack; 2]>,
    /// Whether it was started and is not down.
    online: AtomicBool,
    /// Whether it is up, or is to be.
    up: AtomicBool,
    /// Whether it sleeps since it went down.
    down: AtomicBool,
    /// Whether it sleeps until an interrupt comes, and forgets all translations then.
    dozes: AtomicBool,
    pub(super) deadlines: Deadlines,
    /// The port of its timer; 0 for none.
    pub(super) timer: AtomicU32,
    /// Upcalls are masked, though interrupts are on so that they end a sleep.
    pub(super) held: AtomicBool,
    /// Interrupts that brought events.
    pub(super) brought: AtomicU32,
    /// Whether it waits for ports to be raised, whosever they are.
    pub(super) polls: AtomicBool,
    next: AtomicPtr<Processor>,
}

static BOOT: Processor = Processor::new(cpu::boot(), 0, None);

/// Why a processor is not made.
#[derive(Debug)]
pub(crate) enum NotMade {
    /// There is no frame for it.
    Mm(MmError),
    /// It has no stacks.
    Stack(NoStack),
}

impl fmt::Display for NotMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotMade::Mm(e) => e.fmt(f),
            NotMade::Stack(e) => e.fmt(f),
        }
    }
}

impl From<MmError> for NotMade {
    fn from(error: MmError) -> NotMade {
        NotMade::Mm(error)
    }
}

impl From<NoStack> for NotMade {
    fn from(error: NoStack) -> NotMade {
        NotMade::Stack(error)
    }
}

/// Says which processors the firmware lists, by their APIC ids.
pub(crate) fn found(ids: ApicIds) {
    FOUND.call_once(|| ids);
}

/// Readies the boot processor for others beside it, and says how many there are, itself included: one
/// where the firmware lists no others, or there is no APIC to start them by.
///
/// # Errors
/// The APIC cannot be mapped, or the heap has no room for a list of them.
pub(crate) fn begin() -> Result<u32, super::start::NotStarted> {
    let ids = FOUND.get().copied().unwrap_or_default();
    if ids.count() < 2 || !apic::is_there() {
        return Ok(1);
    }
    let own = apic::begin()?;
    let mut others = Vec::new();
    others.try_reserve_exact(ids.count() as usize)?;
    // Eight bits are enough for each.
    others.extend(ids.iter().filter(|id| *id != own).map(|id| id as u8));
    BOOT.apic.store(own, Ordering::Relaxed);
    let others = OTHERS.call_once(|| others);
    mm::processor::flush_others_by(summons::flush_others);
    Ok(1 + others.len() as u32)
}

/// The boot processor.
pub(super) fn boot() -> &'static Processor {
    &BOOT
}

/// Those that run, or did.
pub(super) fn all() -> impl Iterator<Item = &'static Processor> {
    core::iter::successors(Some(&BOOT), |processor| {
        // SAFETY: null, or a processor that was listed for good.
        unsafe { processor.next.load(Ordering::Acquire).as_ref() }
    })
}

/// The one that this runs on.
#[inline]
pub(super) fn here() -> &'static Processor {
    let machine = cpu::here().machine().cast::<Processor>();
    // SAFETY: null, or what `make` leaked.
    unsafe { machine.as_ref() }.unwrap_or(&BOOT)
}

/// The one of a number, if it was listed.
pub(super) fn find(number: u32) -> Result<&'static Processor, Errno> {
    let found = all().find(|processor| processor.number == number);
    found.ok_or(Errno::ENOENT)
}

/// The APIC id of a processor that can be started.
pub(super) fn id_of(number: u32) -> Option<u32> {
    let index = (number as usize).checked_sub(1)?;
    OTHERS.get()?.get(index).copied().map(u32::from)
}

/// A processor that does not run yet.
pub(crate) struct Made(&'static Processor);

/// Makes what a processor needs, which does not run yet and will have this area.
///
/// # Errors
/// See [`NotMade`].
pub(crate) fn make(area: &'static Area) -> Result<Made, NotMade> {
    let stacks = [
        stack::get(stack::Size::Thread)?,
        stack::get(stack::Size::Thread)?,
    ];
    let place = mm::with(|tables| -> Result<_, MmError> {
        // For good: a processor that was started keeps what it has.
        let pfn = tables.alloc_frame()?.pfn();
        let place = NonNull::new(tables.machine().memory(pfn).cast::<Processor>());
        place.ok_or(MmError::NoMemory { pfn: pfn.as_u64() })
    })?;
    // SAFETY: the frame was handed out just now, the direct map has it for good, and a record fits.
    let made: &'static Processor = unsafe {
        place.write(Processor::new(area, area.number(), Some(stacks)));
        place.as_ref()
    };
    made.summons.set_area(area.base());
    made.apic
        .store(id_of(made.number).unwrap_or(0), Ordering::Relaxed);
    area.set_machine(core::ptr::from_ref(made).cast_mut().cast());
    let last = all().last().unwrap_or(&BOOT);
    last.next
        .store(core::ptr::from_ref(made).cast_mut(), Ordering::Release);
    Ok(Made(made))
}

impl Made {
    /// Has the processor that calls, which is this one, take up what was made for it.
    #[native]
    pub(crate) fn take_up(&self) {
        let Made(processor) = self;
        if let Some(stacks) = &processor.stacks {
            let tops = stacks.each_ref().map(Stack::top);
            // SAFETY: the stacks were made for it, and it comes by here once.
            unsafe { processor.descriptors.load(tops, &processor.summons) };
        }
    }

    /// Lets others reach the processor, which calls and can take interrupts from here on.
    pub(crate) fn arrive(&self) {
        let Made(processor) = self;
        if apic::is_used() {
            apic::begin_here();
        }
        processor.come_up();
    }

    /// Notes that the processor was told to begin, did not, and is told to stay where it is.
    pub(super) fn give_up(&self) {
        self.0.up.store(false, Ordering::SeqCst);
        self.0.online.store(false, Ordering::SeqCst);
    }

    /// Whether it has arrived.
    pub(super) fn has_arrived(&self) -> bool {
        self.0.is_online()
    }

    /// Its APIC id.
    pub(super) fn apic(&self) -> u32 {
        self.0.apic()
    }
}

impl Processor {
    const fn new(area: &'static Area, number: u32, stacks: Option<[Stack; 2]>) -> Processor {
        let is_boot = stacks.is_none();
        Processor {
            summons: Summons::new(),
            descriptors: Descriptors::new(),
            area,
            number,
            apic: AtomicU32::new(0),
            stacks,
            online: AtomicBool::new(is_boot),
            up: AtomicBool::new(is_boot),
            down: AtomicBool::new(false),
            dozes: AtomicBool::new(false),
            deadlines: Deadlines::new(),
            timer: AtomicU32::new(0),
            held: AtomicBool::new(false),
            brought: AtomicU32::new(0),
            polls: AtomicBool::new(false),
            next: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Its APIC id.
    pub(super) fn apic(&self) -> u32 {
        self.apic.load(Ordering::Relaxed)
    }

    /// Its area.
    pub(super) fn area(&self) -> &'static Area {
        self.area
    }

    /// Whether it was started and is not down.
    pub(super) fn is_online(&self) -> bool {
        self.online.load(Ordering::SeqCst)
    }

    /// Whether it may use translations that it has cached.
    pub(super) fn may_be_stale(&self) -> bool {
        self.is_online() && !self.dozes.load(Ordering::SeqCst)
    }

    /// Calls `sleep`, in which nothing is done but to sleep and to take interrupts. It need not be told of
    /// changes meanwhile.
    pub(super) fn doze(&self, sleep: impl FnOnce()) {
        self.dozes.store(true, Ordering::SeqCst);
        sleep();
        self.wake();
    }

    /// Forgets all translations if it dozes: an interrupt was taken, or it goes on.
    pub(super) fn wake(&self) {
        if self.dozes.load(Ordering::Relaxed) {
            self.dozes.store(false, Ordering::SeqCst);
            tlb::flush_all();
        }
    }

    /// Whether this runs on it.
    pub(super) fn is_here(&self) -> bool {
        core::ptr::eq(self, here())
    }

    /// Whether it is up, or is to be.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    /// Whether it executes the kernel.
    pub(super) fn is_running(&self) -> bool {
        self.is_online() && !summons::has_stopped(self) && !self.down.load(Ordering::SeqCst)
    }

    /// What others change from here on reaches the processor, which calls; what they did before it has not
    /// cached.
    fn come_up(&self) {
        self.up.store(true, Ordering::SeqCst);
        self.online.store(true, Ordering::SeqCst);
        tlb::flush_all();
    }

    /// Goes down, which the processor does by itself, and returns when it is to come up.
    pub(super) fn go_down(&self) {
        without_interrupts(|| {
            self.up.store(false, Ordering::SeqCst);
            self.online.store(false, Ordering::SeqCst);
            self.down.store(true, Ordering::SeqCst);
            while !self.up.load(Ordering::SeqCst) {
                interrupts::halt();
            }
            self.down.store(false, Ordering::SeqCst);
            self.come_up();
        });
    }

    /// Has it come up again, and returns when it has.
    pub(super) fn bring_up(&self) {
        self.up.store(true, Ordering::SeqCst);
        while self.down.load(Ordering::SeqCst) {
            // It may have looked just before, and sleep now.
            summons::rouse(self);
            for _ in 0..1000 {
                core::hint::spin_loop();
            }
        }
    }
}
