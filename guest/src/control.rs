//! What Xen's tools ask of the running domain, in two nodes of xenstore that the kernel watches while it
//! waits for commands: `control/shutdown` (`xl shutdown`, `xl reboot`) and `control/sysrq` (`xl sysrq`).
//!
//! A word in `control/shutdown` is acknowledged by emptying the node, in a transaction, before it is
//! obeyed: who wrote it learns so that it was seen, and no word that comes meanwhile is lost. What the
//! kernel does not do it leaves there: the tools wait for the acknowledgement, and take the request
//! back when none comes (libxl waits a minute). Words and nodes are listed in
//! `docs/misc/xenstore-paths.pandoc`.

use core::fmt;

use heapless::String;
use xenstore_wire::{CallError, Errno, Path, Popped};

use crate::xenstore::{self, Failed, Requests};
use crate::{mm, println};

const SHUTDOWN: Path<'_> = Path::constant("control/shutdown");
const SYSRQ: Path<'_> = Path::constant("control/sysrq");

/// Tokens of the two watches.
const SHUTDOWN_TOKEN: &[u8] = b"shutdown";
const SYSRQ_TOKEN: &[u8] = b"sysrq";

/// What the tools may rely on while the watches stand. No `feature-suspend`: it is not done.
const FEATURES: [Path<'_>; 4] = [
    Path::constant("control/feature-poweroff"),
    Path::constant("control/feature-reboot"),
    Path::constant("control/feature-halt"),
    Path::constant("control/feature-sysrq"),
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
    /// Something else.
    Unknown(Word),
    /// A key of the kind that Linux calls magic.
    Key(u8),
}

/// What is done in a transaction.
type Read = fn(&mut Requests<'_>) -> Result<Option<Asked>, CallError>;

/// What follows from what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The kernel goes on.
    GoOn,
    /// It powers off.
    Poweroff,
    /// It reboots.
    Reboot,
}

/// The watches, and what they have said.
#[derive(Debug, Default)]
pub(crate) struct Control {
    shutdown: bool,
    sysrq: bool,
    /// That the connection cannot be used was said.
    said: bool,
}

impl Control {
    /// Sets the watches, and tells the tools what they may ask. Without xenstore nothing is ever asked;
    /// the boot has said so.
    pub(crate) fn begin() -> Control {
        let mut control = Control::default();
        match xenstore::with(watch) {
            Ok(()) => log::debug!("Xen's tools can shut this domain down"),
            Err(Failed::None) => {}
            Err(e) => control.fail(e),
        }
        control
    }

    /// Says what went wrong with xenstore; a connection that is broken only once.
    fn fail(&mut self, failed: Failed) {
        let lasting = matches!(failed, Failed::Call(CallError::Broken(_)));
        if !(lasting && self.said) {
            log::warn!("Xen's tools cannot ask anything of this domain: {failed}");
        }
        self.said |= lasting;
    }

    /// Takes the events that came, and what they are about; `other` gets those of other watches.
    pub(crate) fn look(&mut self, mut other: impl FnMut(Popped<'_>)) -> Option<Asked> {
        let served = xenstore::events(|popped| match popped {
            Popped::Event(event) if event.token == SHUTDOWN_TOKEN => self.shutdown = true,
            Popped::Event(event) if event.token == SYSRQ_TOKEN => self.sysrq = true,
            Popped::Event(_) => other(popped),
            Popped::Lost(_) => {
                (self.shutdown, self.sysrq) = (true, true);
                other(popped);
            }
        });
        match served {
            Ok(()) => {}
            Err(Failed::None) => return None,
            Err(e) => self.fail(e),
        }
        if core::mem::take(&mut self.shutdown)
            && let Some(asked) = self.ask(shutdown)
        {
            return Some(asked);
        }
        if core::mem::take(&mut self.sysrq) {
            return self.ask(sysrq);
        }
        None
    }

    /// Reads, and acknowledges, in a transaction.
    fn ask(&mut self, read: Read) -> Option<Asked> {
        match xenstore::with(|session| session.transaction(read)) {
            Ok(asked) => asked,
            // Nobody has asked yet.
            Err(Failed::Call(e)) if e.is(Errno::ENOENT) => None,
            Err(e) => {
                self.fail(e);
                None
            }
        }
    }
}

/// Sets the watches and writes the features.
fn watch(session: &mut Requests<'_>) -> Result<(), CallError> {
    for (path, token) in [(SHUTDOWN, SHUTDOWN_TOKEN), (SYSRQ, SYSRQ_TOKEN)] {
        match session.watch(path, token) {
            // From the last time that the kernel waited for commands.
            Err(e) if e.is(Errno::EEXIST) => {}
            result => result?,
        }
    }
    for feature in FEATURES {
        match session.write(feature, b"1") {
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
        b"suspend" => return Ok(Some(Asked::Suspend)),
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
    /// Does it, or says why not.
    pub(crate) fn carry_out(&self) -> Then {
        match self {
            Asked::Poweroff(word) => {
                println!("control: asked to {word}");
                Then::Poweroff
            }
            Asked::Reboot => {
                println!("control: asked to reboot");
                Then::Reboot
            }
            Asked::Suspend => {
                println!("control: asked to suspend, which this kernel does not do");
                Then::GoOn
            }
            Asked::Unknown(word) => {
                println!("control: asked to '{word}', which is nothing that it knows");
                Then::GoOn
            }
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
fn press(key: u8) -> Then {
    let Some((_, what)) = KEYS.iter().find(|(known, _)| *known == key) else {
        println!("sysrq: no key '{}'; h lists them", key.escape_ascii());
        return Then::GoOn;
    };
    println!("sysrq: {what}");
    match key {
        b'b' => return Then::Reboot,
        b'o' => return Then::Poweroff,
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
    Then::GoOn
}
