//! Suspend: what Xen's tools do to save the domain, or to go on after they tried.
//!
//! A restored domain is another one: its memory is what it was, and everything that names something of
//! Xen's is not. What was registered or bound is neither any more, and under PV machine frames have other
//! numbers. [`PARTS`] is the one list of what in this kernel holds such a number, with what is done about
//! it before and after. What differs by the kind of guest is in [`pv`] and [`pvh`].
//!
//! A domain whose suspension is cancelled (`xl save -c`, or a file that is full) goes on with all that
//! it had; to register it again would be refused.

mod pv;
mod pvh;

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hypercall::event::Port;
use hypercall::queue::Access;
use hypercall::sched::Resumed;
use hypercall::{Hypervisor, LazyMmu};

use crate::capability::{SHARED_FRAME, XEN_TABLES, is_here};
use crate::mm::layout::Fixed;
use crate::mm::{self, Current, Tables};
use crate::refused::Refused;
use crate::smp::{self, NotStarted};
use crate::task::{self, NotBegun};
use crate::xen::HV;
use crate::xenstore::{self, Failed};
use crate::{console, event, runstate, shared, time};

/// A part of the kernel that holds something by which Xen or its tools know the domain.
struct Part {
    name: &'static str,
    /// Has nothing of it in use.
    before: fn() -> Result<(), Trouble>,
    /// Has it in use again.
    after: fn(&Told) -> Result<(), Trouble>,
}

/// The part that waits for the tools.
pub(crate) const WAITS: &str = "console";

/// Every such part: before in this order, after in the opposite one.
const PARTS: &[Part] = &[
    // They have contexts, ports and areas, and what they have queued names machine frames.
    Part {
        name: "vCPUs",
        before: || Ok(smp::all_down()?),
        after: |told| Ok(smp::all_up(told.is_new())?),
    },
    // The boot vCPU's ports by which threads are woken, those of its timer among them.
    Part {
        name: "threads",
        before: || Ok(()),
        after: |told| match told.is_new() {
            true => Ok(task::begin_anew()?),
            false => Ok(()),
        },
    },
    // Where Xen writes how the boot vCPU spends its time.
    Part {
        name: "runstate",
        before: || Ok(()),
        after: |told| {
            if told.is_new() {
                runstate::begin_anew();
            }
            Ok(())
        },
    },
    // Its port, and the watches that xenstored keeps.
    Part {
        name: "xenstore",
        before: || Ok(()),
        after: |told| match told.is_new() {
            true => Ok(xenstore::begin_anew(told.store)?),
            false => Ok(()),
        },
    },
    // Its port. What the daemon has not taken by now the next one would print again.
    Part {
        name: WAITS,
        before: || {
            console::drain();
            Ok(())
        },
        after: |told| {
            if told.is_new() {
                console::set_port(told.console.0);
            }
            Ok(())
        },
    },
    // Every port, and the timer that Xen gives a new vCPU.
    Part {
        name: "event channels",
        before: || Ok(()),
        after: |told| match told.is_new() {
            true => Ok(event::begin_anew()?),
            false => Ok(()),
        },
    },
    // It has the boot vCPU's `vcpu_info` with the clock.
    Part {
        name: "shared_info",
        before: withdraw_shared_info,
        after: publish_shared_info,
    },
    // The queue, and the places of tables that vCPUs remember.
    Part {
        name: "page tables",
        before: || Ok(mm::with(Tables::flush)?),
        after: |told| {
            if told.is_new() {
                mm::with(Tables::renumbered);
            }
            Ok(())
        },
    },
];

/// What a domain finds when it goes on.
struct Told {
    how: Resumed,
    store: Port,
    console: Port,
    /// What only a PV guest is told.
    pv: Option<pv::Told>,
}

impl Told {
    /// Whether it is a new domain.
    fn is_new(&self) -> bool {
        self.how == Resumed::Restored
    }
}

/// Where the boot vCPU's `shared_info` is.
const SHARED_INFO: u64 = Fixed::SharedInfo.address();

/// Why the domain was not suspended, or what does not go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It has no xenstore, or no console of its own.
    NotSaved,
    /// Updates may be queued, and are not to be sent yet.
    Lazy,
    Refused(Refused),
    Vcpus(NotStarted),
    Threads(NotBegun),
    Store(Failed),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NotSaved => f.write_str("Xen's tools save no domain of this kind"),
            Trouble::Lazy => f.write_str("it was asked for in a lazy section"),
            Trouble::Refused(e) => e.fmt(f),
            Trouble::Vcpus(e) => write!(f, "a vCPU: {e}"),
            Trouble::Threads(e) => write!(f, "threads: {e}"),
            Trouble::Store(e) => e.fmt(f),
        }
    }
}

impl<E: Into<Refused>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Refused(error.into())
    }
}

impl From<NotStarted> for Trouble {
    fn from(error: NotStarted) -> Trouble {
        Trouble::Vcpus(error)
    }
}

impl From<NotBegun> for Trouble {
    fn from(error: NotBegun) -> Trouble {
        Trouble::Threads(error)
    }
}

impl From<Failed> for Trouble {
    fn from(error: Failed) -> Trouble {
        Trouble::Store(error)
    }
}

/// Ticks of the processor's counter that a part took the last time: before the tools had the domain, and
/// after that. Over a restore each is of one host.
struct Took {
    before: AtomicU64,
    after: AtomicU64,
}

static TOOK: [Took; PARTS.len()] = [const {
    Took {
        before: AtomicU64::new(0),
        after: AtomicU64::new(0),
    }
}; PARTS.len()];

/// What the last suspend cost, by parts in their order: a name, ticks before, ticks after.
pub(crate) fn costs() -> impl Iterator<Item = (&'static str, u64, u64)> {
    PARTS.iter().zip(&TOOK).map(|(part, took)| {
        let [before, after] = [&took.before, &took.after].map(|took| took.load(Ordering::Relaxed));
        (part.name, before, after)
    })
}

/// Calls `f`, and keeps how long that took.
fn timed<T>(took: &AtomicU64, f: impl FnOnce() -> T) -> T {
    let began = time::tsc();
    let result = f();
    took.store(time::tsc().wrapping_sub(began), Ordering::Relaxed);
    result
}

/// How often the domain was suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// And went on as a new one.
    pub(crate) restored: u32,
    /// And went on as it was.
    pub(crate) cancelled: u32,
}

static RESTORED: AtomicU32 = AtomicU32::new(0);
static CANCELLED: AtomicU32 = AtomicU32::new(0);

/// How often it was until now.
pub(crate) fn times() -> Times {
    Times {
        restored: RESTORED.load(Ordering::Relaxed),
        cancelled: CANCELLED.load(Ordering::Relaxed),
    }
}

/// Whether the tools can save this domain: one of theirs.
pub(crate) fn is_possible() -> bool {
    let is_guest = is_here(&XEN_TABLES) || is_here(&SHARED_FRAME);
    is_guest && console::port().is_some() && xenstore::port().is_some()
}

/// Suspends the domain and returns when it goes on, ready for anything but who asked xenstored for
/// something: in a restored domain no watch stands. The boot vCPU calls, in no lazy section.
///
/// # Errors
/// It was not suspended, and goes on as before.
///
/// # Panics
/// A part cannot go on.
pub(crate) fn run() -> Result<Resumed, Trouble> {
    if !is_possible() {
        return Err(Trouble::NotSaved);
    }
    if Current.with(|mmu| *mmu.lazy()) != LazyMmu::new() {
        return Err(Trouble::Lazy);
    }
    let was = HV.mask_upcalls();
    let result = masked();
    HV.restore_upcalls(was);
    match result {
        Ok(Resumed::Restored) => RESTORED.fetch_add(1, Ordering::Relaxed),
        Ok(Resumed::Cancelled) => CANCELLED.fetch_add(1, Ordering::Relaxed),
        Err(_) => 0,
    };
    result
}

/// The same, with upcalls masked.
fn masked() -> Result<Resumed, Trouble> {
    let mut told = before()?;
    let mut done = 0;
    let mut result = Ok(());
    for (part, took) in PARTS.iter().zip(&TOOK) {
        // One that failed may be half done, and is undone with the others.
        done += 1;
        result = timed(&took.before, part.before);
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = match &mut told.pv {
            Some(pv) => pv.suspend(),
            None => pvh::suspend(),
        }
        .map(|(how, store, console)| {
            told.how = how;
            told.store = store;
            told.console = console;
        });
    }
    for (part, took) in PARTS.iter().zip(&TOOK).take(done).rev() {
        if let Err(e) = timed(&took.after, || (part.after)(&told)) {
            panic!("after a suspend, {}: {e}", part.name);
        }
    }
    result.map(|()| told.how)
}

/// What is told to a domain that goes on with all that it had.
fn before() -> Result<Told, Trouble> {
    let store = xenstore::port().ok_or(Trouble::NotSaved)?;
    let console = console::port().ok_or(Trouble::NotSaved)?;
    let pv = match is_here(&XEN_TABLES) {
        true => Some(pv::Told::prepare(store, console)?),
        false => None,
    };
    Ok(Told {
        how: Resumed::Cancelled,
        store,
        console,
        pv,
    })
}

fn withdraw_shared_info() -> Result<(), Trouble> {
    shared::withdraw();
    match is_here(&XEN_TABLES) {
        true => pv::unmap_shared_info(),
        false => Ok(()),
    }
}

fn publish_shared_info(told: &Told) -> Result<(), Trouble> {
    match &told.pv {
        Some(pv) => pv.map_shared_info()?,
        None if told.is_new() => pvh::share_anew()?,
        None => {}
    }
    let page = core::ptr::with_exposed_provenance_mut(SHARED_INFO as usize);
    // SAFETY: the page is mapped there, for good, but for the next suspend. The boot vCPU runs alone.
    unsafe { shared::publish_masked(NonNull::new(page).ok_or(Trouble::NotSaved)?) };
    if told.is_new() {
        if let Some(pv) = &told.pv {
            pv.publish_p2m()?;
        }
        time::go_on();
    }
    Ok(())
}
