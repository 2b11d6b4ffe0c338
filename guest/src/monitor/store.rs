//! The command `store`: a look into xenstore, as the domain sees it.

use xenstore_wire::{Errno, Path, PathError, Popped};

use super::Monitor;
use super::commands::command;
use crate::console;
use crate::control::{self, End};
use crate::println;
use crate::xenstore::{self, Failed};

/// The token of the command's watch.
const TOKEN: &[u8] = b"monitor";

/// How long a watch is looked at, in seconds, unless a key ends it.
const LOOK: u64 = 60;

fn store(monitor: &mut Monitor, argument: &str) -> Option<End> {
    let (verb, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
    let path = Path::new(name.as_bytes());
    let result = match (verb, path, value) {
        ("ls", Ok(path), "") => list(path),
        ("read", Ok(path), "") => read(path),
        ("write", Ok(path), value) => {
            xenstore::with(|session| session.write(path, value.as_bytes()))
        }
        ("watch", Ok(path), "") => return watch(monitor, path),
        ("reconnect", Err(PathError::Empty), "") => {
            let result = xenstore::with(|session| session.reconnect());
            if result.is_ok() {
                // The watches are gone.
                control::begin();
            }
            result
        }
        ("ls" | "read" | "write" | "watch", Err(e), _) => {
            println!("store {verb}: {e}");
            return None;
        }
        _ => {
            println!("store ls PATH, store read PATH, store write PATH VALUE, store watch PATH");
            println!("store reconnect: have xenstored begin anew");
            return None;
        }
    };
    if let Err(e) = result {
        println!("store {verb}: {e}");
    }
    None
}
command!(
    "store",
    "VERB ...",
    "look into xenstore, where there is one: store alone lists the verbs",
    needs HYPERCALLS,
    store
);

fn list(path: Path<'_>) -> Result<(), Failed> {
    xenstore::with(|session| {
        session.list(path, |name| match name {
            Some(name) => println!("{}", name.escape_ascii()),
            None => println!("-- changed meanwhile, once more from the beginning:"),
        })
    })
}

fn read(path: Path<'_>) -> Result<(), Failed> {
    xenstore::with(|session| {
        let value = session.read(path)?;
        println!("{}", value.escape_ascii());
        Ok(())
    })
}

/// Prints what a watch says until a key is typed or time is over.
fn watch(monitor: &mut Monitor, path: Path<'_>) -> Option<End> {
    let set = xenstore::with(|session| match session.watch(path, TOKEN) {
        // A watch that could not be taken back.
        Err(e) if e.is(Errno::EEXIST) => Ok(()),
        result => result,
    });
    if let Err(e) = set {
        println!("store watch: {e}");
        return None;
    }
    println!("watching for {LOOK} s, until a key is typed:");
    let over = crate::time::monotonic().map(|now| now + LOOK * 1_000_000_000);
    let end = loop {
        monitor.arm();
        let asked = control::look(|popped| match popped {
            Popped::Event(event) if event.token == TOKEN => {
                println!("{}", event.path.escape_ascii());
            }
            Popped::Event(_) => {}
            Popped::Lost(count) => println!("-- {count} events did not fit, of any node"),
        });
        if let Some(asked) = asked {
            asked.carry_out();
        }
        if let Some(end) = control::end() {
            break Some(end);
        }
        let is_over = crate::time::monotonic()
            .zip(over)
            .is_none_or(|(now, over)| now >= over);
        if is_over || console::read(&mut [0; 1]) > 0 {
            break None;
        }
        monitor.sleep();
    };
    if let Err(e) = xenstore::with(|session| session.unwatch(path, TOKEN)) {
        println!("store watch: {e}");
    }
    end
}
