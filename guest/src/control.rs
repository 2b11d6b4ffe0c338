//! What Xen's tools ask of the running domain, in nodes of xenstore that the kernel watches from its boot
//! on: `control/shutdown` (`xl shutdown`, `xl reboot`, `xl save`), `control/sysrq` (`xl sysrq`), what is
//! below `cpu` (`xl vcpu-set`), and `memory/target` (`xl mem-set`).
//!
//! Who waits looks all the time ([`look`]); whatever else the kernel does, it looks whenever a step of
//! that is done ([`attend`]), which is soon enough for tools that wait a minute.
//!
//! A word in `control/shutdown` is acknowledged by emptying the node, in a transaction, before it is
//! obeyed: who wrote it learns so that it was seen, and no word that comes meanwhile is lost. What the
//! kernel does not do it leaves there: the tools wait for the acknowledgement, and take the request
//! back when none comes (libxl waits a minute). Words and nodes are listed in
//! `docs/misc/xenstore-paths.pandoc`.
//!
//! A connection that broke is begun anew where xenstored does that (`docs/misc/xenstore-ring.txt`), at most
//! once a minute, so that one that breaks again and again holds nothing up.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use heapless::String;
use hypercall::sched::Resumed;
use marks::init;
use spin::Once;
use xenstore_wire::{CallError, Errno, Path, Popped};

use crate::init::initcall;
use crate::options::Options;
use crate::refused::Refused;
use crate::xenstore::{self, Failed, Requests};
use crate::{balloon, mm, println, smp, suspend, time};

const SHUTDOWN: Path<'_> = Path::constant("control/shutdown");
const SYSRQ: Path<'_> = Path::constant("control/sysrq");

const CPU: Path<'_> = Path::constant("cpu");

const MEMORY: Path<'_> = Path::constant("memory/target");

/// A node that is watched, with what is below it.
struct Watched {
    path: Path<'static>,
    token: &'static [u8],
    /// It was written since it was read last.
    written: AtomicBool,
    /// Reads it, and says what is asked.
    read: fn() -> Option<Asked>,
}

impl Watched {
    const fn new(
        path: Path<'static>,
        token: &'static [u8],
        read: fn() -> Option<Asked>,
    ) -> Watched {
        Watched {
            path,
            token,
            written: AtomicBool::new(false),
            read,
        }
    }

    fn note(&self) {
        self.written.store(true, Ordering::Relaxed);
    }
}

/// In the order in which they are read.
static WATCHED: [Watched; 4] = [
    Watched::new(SHUTDOWN, b"shutdown", || ask(shutdown)),
    Watched::new(SYSRQ, b"sysrq", || ask(sysrq)),
    Watched::new(CPU, b"cpu", || smp::wanted().map(Asked::Vcpus)),
    Watched::new(MEMORY, b"memory", || balloon::wanted().map(Asked::Memory)),
];

/// What the tools may rely on while the watches stand, and where.
const FEATURES: [(Path<'_>, fn() -> bool); 5] = [
    (Path::constant("control/feature-poweroff"), || true),
    (Path::constant("control/feature-reboot"), || true),
    (
        Path::constant("control/feature-suspend"),
        suspend::is_possible,
    ),
    (Path::constant("control/feature-halt"), || true),
    (Path::constant("control/feature-sysrq"), || true),
];

/// A word that nobody knows, made fit to be printed, and cut if it is long.
type Word = String<64>;

/// Something that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end the domain. `halt` is the same: Xen has no other reason for it to end well
    /// (`SHUTDOWN_poweroff`, "Domain exited normally", in `xen/include/public/sched.h`).
    Poweroff(&'static str),
    /// To end it, and begin it anew.
    Reboot,
    /// To be saved.
    Suspend,
    /// The same, where it cannot be.
    Impossible,
    /// Something else.
    Unknown(Word),
    /// To have more or fewer vCPUs run.
    Vcpus(u32),
    /// To have so many KiB of memory.
    Memory(u64),
    /// A key of the kind that Linux calls magic.
    Key(u8),
}

/// What is done in a transaction.
type Read = fn(&mut Requests<'_>) -> Result<Option<Asked>, CallError>;

/// How the kernel ends when it is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It powers off.
    Poweroff,
    /// It reboots.
    Reboot,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Poweroff => "power off",
            End::Reboot => "reboot",
        })
    }
}

/// That the connection cannot be used was said.
static SAID: AtomicBool = AtomicBool::new(false);
/// From when on a broken connection may be begun anew, by [`time::monotonic`].
static MAY_BEGIN: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds from one such attempt to the next.
const PAUSE: u64 = 60_000_000_000;
/// How the kernel was asked to end.
static END: Once<End> = Once::new();

/// Sets the watches, and tells the tools what they may ask. Without xenstore nothing is ever asked; the
/// boot has said so.
pub(crate) fn begin() {
    match xenstore::with(watch) {
        Ok(()) => log::debug!("Xen's tools can shut this domain down"),
        Err(Failed::None) => {}
        Err(e) => fail(e),
    }
}

/// Begins with the boot.
#[init]
fn init(_: &Options<'_>) -> Result<(), Refused> {
    begin();
    Ok(())
}
initcall!("control", Service, after ["xenstore"], needs HYPERCALLS, init);

/// Says what went wrong with xenstore; a connection that is broken only once.
fn fail(failed: Failed) {
    let lasting = matches!(failed, Failed::Call(CallError::Broken(_)));
    if !(lasting && SAID.load(Ordering::Relaxed)) {
        log::warn!("Xen's tools cannot ask anything of this domain: {failed}");
    }
    SAID.fetch_or(lasting, Ordering::Relaxed);
}

/// Has xenstored begin anew after a connection broke, sets the watches again, and has everything read again
/// that may have been written meanwhile.
fn begin_anew() {
    let Some(now) = time::monotonic() else { return };
    if now < MAY_BEGIN.load(Ordering::Relaxed) {
        return;
    }
    MAY_BEGIN.store(now.saturating_add(PAUSE), Ordering::Relaxed);
    match xenstore::with(|session| session.reconnect()) {
        Ok(()) => {
            println!("control: xenstored has begun anew");
            SAID.store(false, Ordering::Relaxed);
            WATCHED.iter().for_each(Watched::note);
            begin();
        }
        // Most do not.
        Err(Failed::Call(CallError::Stays)) => {}
        Err(e) => log::warn!("xenstored does not begin anew: {e}"),
    }
}

/// Takes the events that came, and what they are about; `other` gets those of other watches.
pub(crate) fn look(mut other: impl FnMut(Popped<'_>)) -> Option<Asked> {
    let served = xenstore::events(|popped| match popped {
        Popped::Event(event) => match WATCHED.iter().find(|node| node.token == event.token) {
            Some(node) => node.note(),
            None => other(popped),
        },
        Popped::Lost(_) => {
            WATCHED.iter().for_each(Watched::note);
            other(popped);
        }
    });
    match served {
        Ok(()) => {}
        Err(Failed::None) => return None,
        Err(e) => {
            fail(e);
            if matches!(e, Failed::Call(CallError::Broken(_))) {
                begin_anew();
            }
        }
    }
    balloon::work();
    WATCHED
        .iter()
        .filter(|node| node.written.swap(false, Ordering::Relaxed))
        .find_map(|node| (node.read)())
}

/// Does what was asked for since it looked last, between two steps of something else; how the kernel
/// is to end, if that was asked now or before.
pub(crate) fn attend() -> Option<End> {
    while let Some(asked) = look(|_| {}) {
        asked.carry_out();
    }
    end()
}

/// How the kernel was asked to end, if it was.
pub(crate) fn end() -> Option<End> {
    END.get().copied()
}

/// Reads, and acknowledges, in a transaction.
fn ask(read: Read) -> Option<Asked> {
    match xenstore::with(|session| session.transaction(read)) {
        Ok(asked) => asked,
        // Nobody has asked yet.
        Err(Failed::Call(e)) if e.is(Errno::ENOENT) => None,
        Err(e) => {
            fail(e);
            None
        }
    }
}

/// Sets the watches and writes the features.
fn watch(session: &mut Requests<'_>) -> Result<(), CallError> {
    for Watched { path, token, .. } in &WATCHED {
        match session.watch(*path, token) {
            // From before.
            Err(e) if e.is(Errno::EEXIST) => {}
            result => result?,
        }
    }
    for (feature, _) in FEATURES.iter().filter(|(_, is_here)| is_here()) {
        match session.write(*feature, b"1") {
            // Toolstacks differ in which of them a domain may write. They are obeyed all the same.
            Err(e) if e.is(Errno::EACCES) => log::debug!("{feature}: {e}"),
            result => result?,
        }
    }
    Ok(())
}

/// What `control/shutdown` asks; acknowledged if the kernel does it.
fn shutdown(session: &mut Requests<'_>) -> Result<Option<Asked>, CallError> {
    let asked = match session.read(SHUTDOWN)? {
        b"" => return Ok(None),
        b"poweroff" => Asked::Poweroff("poweroff"),
        b"halt" => Asked::Poweroff("halt"),
        b"reboot" => Asked::Reboot,
        b"suspend" if suspend::is_possible() => Asked::Suspend,
        b"suspend" => return Ok(Some(Asked::Impossible)),
        other => return Ok(Some(Asked::Unknown(word(other)))),
    };
    session.write(SHUTDOWN, b"")?;
    Ok(Some(asked))
}

/// The key in `control/sysrq`, which is emptied as Linux does it.
fn sysrq(session: &mut Requests<'_>) -> Result<Option<Asked>, CallError> {
    let Some(key) = session.read(SYSRQ)?.first().copied() else {
        return Ok(None);
    };
    session.write(SYSRQ, b"")?;
    Ok((key != 0).then_some(Asked::Key(key)))
}

fn word(bytes: &[u8]) -> Word {
    let mut word = Word::new();
    // What does not fit is cut.
    let _ = fmt::Write::write_fmt(&mut word, format_args!("{}", bytes.escape_ascii()));
    word
}

impl Asked {
    /// Does it, or says why not; the end of the kernel is left to those who look for it ([`end`]).
    pub(crate) fn carry_out(&self) {
        match self {
            Asked::Poweroff(word) => {
                println!("control: asked to {word}");
                END.call_once(|| End::Poweroff);
            }
            Asked::Reboot => {
                println!("control: asked to reboot");
                END.call_once(|| End::Reboot);
            }
            Asked::Suspend => {
                println!("control: asked to suspend");
                match suspend::run() {
                    Ok(Resumed::Restored) => {
                        println!("control: restored");
                        begin();
                    }
                    Ok(Resumed::Cancelled) => println!("control: goes on as it was"),
                    Err(e) => println!("control: not suspended: {e}"),
                }
            }
            Asked::Impossible => {
                println!("control: asked to suspend, which only a domain of xl's does");
            }
            Asked::Unknown(word) => {
                println!("control: asked to '{word}', which is nothing that it knows");
            }
            Asked::Vcpus(wanted) => smp::follow(*wanted),
            Asked::Memory(kib) => balloon::aim(*kib),
            Asked::Key(key) => press(*key),
        }
    }
}

/// What a key does, for help.
const KEYS: &[(u8, &str)] = &[
    (b'b', "reboot"),
    (b'c', "crash"),
    (b'h', "help"),
    (b'm', "memory"),
    (b'o', "power off"),
];

/// Does what a key asks for.
fn press(key: u8) {
    let Some((_, what)) = KEYS.iter().find(|(known, _)| *known == key) else {
        println!("sysrq: no key '{}'; h lists them", key.escape_ascii());
        return;
    };
    println!("sysrq: {what}");
    match key {
        b'b' => {
            END.call_once(|| End::Reboot);
        }
        b'o' => {
            END.call_once(|| End::Poweroff);
        }
        b'c' => panic!("asked for by sysrq"),
        b'm' => {
            let counts = mm::with(|tables| tables.frames().counts());
            let (total, mapped, free) = (counts.total, counts.mapped, counts.free);
            println!("{total:>9} pages, {mapped} in the direct map, {free} of them free");
        }
        _ => {
            for (key, what) in KEYS {
                println!("  {}  {what}", key.escape_ascii());
            }
        }
    }
}
