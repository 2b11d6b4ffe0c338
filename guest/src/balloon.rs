//! Memory that goes and comes as Xen's tools say: `memory/target` in xenstore (`xl mem-set`), in KiB.
//!
//! What the tools say counts memory that a domain never sees (`videoram`), and leaves out pages of their
//! own. So the difference between the first target, that of a domain as it was built, and what Xen
//! counts then is taken off every later one; if it is too large for that, a new target came first.
//!
//! It goes on a little at a time, whenever the kernel looks what is asked of it ([`work`]), and stops
//! where the kernel would have too little to live on. Memory that Xen does not have to give is asked for
//! again later, ever more seldom.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use heapless::Vec;
use hypercall::{Mfn, memory};
use marks::init;
use xenstore_wire::{Errno, Path};

use crate::init::initcall;
use crate::lock::Lock;
use crate::mm::balloon::{BATCH, Moved};
use crate::mm::frames::CHUNK;
use crate::mm::machine::Machine;
use crate::mm::{self, MmError};
use crate::options::Options;
use crate::rank;
use crate::refused::Refused;
use crate::xen::HV;
use crate::xenstore::{self, Failed};
use crate::{shared, time};

const TARGET: Path<'_> = Path::constant("memory/target");

/// KiB of a page.
const KIB: u64 = 4;
/// The largest difference between a target and what Xen counts, in pages: 32 MiB. The shim keeps more than
/// 20 for itself.
const MOST_BESIDE: u64 = 8192;
/// How long it works before something else may be done, in nanoseconds.
const TURN: u64 = 100_000_000;
/// When Xen is asked again for memory that it refused: at first, and at last, in nanoseconds.
const SOON: u64 = 1_000_000_000;
const SELDOM: u64 = 60_000_000_000;

/// What is asked for, and how that goes.
struct Balloon {
    /// By how many pages a target is larger than what Xen counts.
    beside: Option<i64>,
    /// The node as it was read last, in KiB.
    read: Option<u64>,
    /// Pages that the domain is to have, until it has them or cannot.
    aim: Option<u64>,
    /// When Xen is asked again, and how long it is left alone after that.
    again: u64,
    pause: u64,
}

static BALLOON: Lock<Balloon, rank::Tools> = Lock::new(Balloon {
    beside: None,
    read: None,
    aim: None,
    again: 0,
    pause: SOON,
});

/// Whether there is more to do at once.
static AT_WORK: AtomicBool = AtomicBool::new(false);

/// Pages that are left to live on: a hundredth of all, and what page tables, heap and stacks need.
fn floor() -> u64 {
    let counts = mm::with(|tables| tables.frames().counts());
    512 + counts.total / 100
}

/// Reads how much memory the domain is to have, in KiB, if that is something new.
pub(crate) fn wanted() -> Option<u64> {
    let text = xenstore::with(|session| {
        let value = session.read(TARGET)?;
        let text = core::str::from_utf8(value).unwrap_or_default();
        Ok(text.trim().parse::<u64>().map_err(|_| word(value)))
    });
    match text {
        Ok(Ok(kib)) => {
            let before = BALLOON.lock().read.replace(kib);
            (before != Some(kib)).then_some(kib)
        }
        Ok(Err(word)) => {
            log::warn!("{TARGET} is '{word}', which is no number of KiB");
            None
        }
        // It was not built by tools that know it.
        Err(Failed::Call(e)) if e.is(Errno::ENOENT) => None,
        Err(e) => {
            log::warn!("{TARGET}: {e}");
            None
        }
    }
}

/// A value, made fit to be printed, and cut if it is long.
fn word(bytes: &[u8]) -> heapless::String<64> {
    let mut word = heapless::String::new();
    // What does not fit is cut.
    let _ = fmt::Write::write_fmt(&mut word, format_args!("{}", bytes.escape_ascii()));
    word
}

/// Begins to have so many KiB.
pub(crate) fn aim(kib: u64) {
    let Ok(has) = memory::current_reservation(&HV) else {
        log::warn!("Xen does not say how much memory there is");
        return;
    };
    let target = kib / KIB;
    let mut balloon = BALLOON.lock();
    let first = target.cast_signed().saturating_sub(has.cast_signed());
    let is_one = first.unsigned_abs() <= MOST_BESIDE;
    let beside = *balloon.beside.get_or_insert(if is_one { first } else { 0 });
    let pages = target.saturating_add_signed(beside.saturating_neg());
    balloon.aim = (pages != has).then_some(pages);
    (balloon.again, balloon.pause) = (0, SOON);
    AT_WORK.store(balloon.aim.is_some(), Ordering::Relaxed);
    drop(balloon);
    if pages == has {
        log::debug!("has {}, as asked", Pages(has));
    } else {
        log::info!("is to have {}, and has {}", Pages(pages), Pages(has));
    }
}

/// Has Xen promise no memory for frames that the kernel does not use: those that a map shows beyond the
/// memory that the domain has (`maxmem` above `memory`), to which Xen would give memory when they are
/// looked at. From then on memory comes when it is asked for, and as much as is counted.
#[init]
fn give_up_promises(_: &Options<'_>) -> Result<(), Refused> {
    let mut room = mm::with(|tables| tables.machine().room());
    while !room.is_empty() {
        // Whole chunks of 2 MiB, and one by one what is before and behind them.
        let whole = room.start.next_multiple_of(CHUNK).min(room.end)..room.end;
        let (order, end) = match room.start == whole.start && whole.end - whole.start >= CHUNK {
            true => (CHUNK.trailing_zeros(), room.end),
            false if room.start == whole.start => (0, room.end),
            false => (0, whole.start),
        };
        let all = (room.start..end).step_by(1 << order);
        let whole = all.filter(|first| first + (1 << order) <= end);
        let frames: Vec<Mfn, BATCH> = whole.take(BATCH).map(Mfn::truncate).collect();
        // SAFETY: these frames are not memory to the kernel.
        let done = unsafe { memory::decrease_reservation_by(&HV, order, &frames) }?;
        if done == 0 {
            log::warn!("Xen keeps promising memory from frame {:#x} on", room.start);
            return Ok(());
        }
        room.start += (done as u64) << order;
    }
    Ok(())
}
initcall!("promises", Service, after [], needs SHARED_FRAME, give_up_promises);

/// Whether [`work`] has more to do at once: nobody should sleep meanwhile.
pub(crate) fn is_at_work() -> bool {
    AT_WORK.load(Ordering::Relaxed)
}

/// Goes on towards what was asked for, for a little while.
pub(crate) fn work() {
    let (aim, again) = {
        let balloon = BALLOON.lock();
        (balloon.aim, balloon.again)
    };
    let (Some(aim), Some(begin)) = (aim, time::monotonic()) else {
        return;
    };
    if begin < again {
        return;
    }
    let came = loop {
        match step(aim) {
            Ok(Came::Further) => {}
            other => break other,
        }
        if time::monotonic().is_none_or(|now| now - begin > TURN) {
            return;
        }
    };
    let mut balloon = BALLOON.lock();
    AT_WORK.store(false, Ordering::Relaxed);
    let pause = balloon.pause;
    if let Ok(Came::Waits(_)) = came {
        balloon.again = begin.saturating_add(balloon.pause);
        balloon.pause = (2 * balloon.pause).min(SELDOM);
    } else {
        balloon.aim = None;
    }
    drop(balloon);
    let has = Pages(memory::current_reservation(&HV).unwrap_or(0));
    match came {
        Ok(Came::There | Came::Further) => log::info!("has {has}, as asked"),
        Ok(Came::Floor) => log::warn!(
            "has {has} and keeps it, not {}: the kernel must have {} to live on",
            Pages(aim),
            Pages(floor())
        ),
        Ok(Came::Most) => log::warn!("has {has}, all that it was built for, not {}", Pages(aim)),
        Ok(Came::Waits(moved)) => {
            let seconds = pause / 1_000_000_000;
            match moved.refused {
                Some(e) => log::warn!(
                    "has {has}, not {}: {e}; asks again in {seconds} s",
                    Pages(aim)
                ),
                None => log::warn!(
                    "has {has}, not {}: Xen has no more for it; asks again in {seconds} s",
                    Pages(aim)
                ),
            }
        }
        Err(e) => log::error!("has {has}, not {}: {e}", Pages(aim)),
    }
}

/// How far a step came.
enum Came {
    /// There is more to do.
    Further,
    /// There are as many pages as were asked for.
    There,
    /// No more can go.
    Floor,
    /// No number is left to put memory behind.
    Most,
    /// Xen did less than it was asked for.
    Waits(Moved),
}

/// Moves some pages.
fn step(aim: u64) -> Result<Came, MmError> {
    let Ok(has) = memory::current_reservation(&HV) else {
        return Ok(Came::Waits(Moved::default()));
    };
    let most = usize::try_from(aim.abs_diff(has)).unwrap_or(usize::MAX);
    if has == aim {
        return Ok(Came::There);
    }
    let moved = if has > aim {
        let floor = floor();
        let moved = mm::with(|tables| tables.give_back(most, floor))?;
        if moved == Moved::default() {
            return Ok(Came::Floor);
        }
        moved
    } else {
        let given = mm::with(|tables| tables.frames().counts().given);
        if given == 0 && !lengthen(aim - has)? {
            return Ok(Came::Most);
        }
        mm::with(|tables| tables.regain(most))?
    };
    match moved.frames {
        0 => Ok(Came::Waits(moved)),
        _ => Ok(Came::Further),
    }
}

/// Adds numbers for memory to come, behind those that the domain was built with; false if there can be no
/// more. Under PV the tools are told of the list that is longer now.
fn lengthen(missing: u64) -> Result<bool, MmError> {
    let before = mm::with(|tables| tables.frames().counts().total);
    let (now, list) = mm::with(|tables| {
        let most = before.saturating_add(missing);
        let now = tables.lengthen(most.min(tables.machine().room().end))?;
        let first = hypercall::Pfn::truncate(0);
        Ok::<_, MmError>((now, tables.machine().list_entry(first)))
    })?;
    if now > before
        && let Some(list) = list
    {
        shared::publish_longer_p2m(now, list);
    }
    Ok(now > before)
}

/// Pages, in KiB.
struct Pages(u64);

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}K", self.0 * KIB)
    }
}
