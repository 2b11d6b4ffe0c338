//! `/proc`: processes, which the kernel knows, in the files that programs read.

use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use linux_raw_sys::general as linux;

use super::describe::{self, Area, Status};
use super::table::Branch;
use super::{Listing, Named, Shown, ShownFs, Text};
use crate::descriptors::Descriptors;
use crate::errno::Errno;
use crate::host::Call;
use crate::inode::{DeviceNumber, FIRST_ENTRY, FileSystem, Kind};
use crate::mount::{Mount, Place};
use crate::system::System;

/// A process as the kernel knows it.
pub trait ProcessInfo: Send + Sync {
    /// What it is and has used.
    fn status(&self) -> Status;
    /// Its arguments, each with a zero behind it; nothing of a zombie.
    fn command_line(&self) -> Vec<u8>;
    /// Its environment, in the same way.
    fn environment(&self) -> Vec<u8> {
        Vec::new()
    }
    /// The areas of its memory, in order.
    fn areas(&self) -> Vec<Area>;
    /// The program that it runs.
    fn program(&self) -> Option<Place>;
    /// Its current directory and its root.
    fn directories(&self) -> Option<(Place, Place)>;
    /// Its descriptors, unless it is a zombie.
    fn descriptors(&self) -> Option<Arc<Descriptors>>;
}

/// All processes.
pub trait Processes: Send + Sync {
    /// Their numbers, in order.
    fn all(&self) -> Vec<u32>;
    /// One of them.
    fn get(&self, process: u32) -> Option<Arc<dyn ProcessInfo>>;
}

/// `/proc`.
pub struct ProcessFs;

impl ProcessFs {
    /// A `/proc` of these processes, which also has these texts, by their paths: `meminfo`,
    /// `sys/kernel/ostype`. It adds `mounts` and `filesystems` itself.
    #[expect(
        clippy::new_ret_no_self,
        reason = "it is one kind of what shows something, and has no type of its own"
    )]
    pub fn new(
        system: &Arc<System>,
        device: DeviceNumber,
        processes: Arc<dyn Processes>,
        mut texts: Vec<(&str, Text)>,
    ) -> Arc<dyn FileSystem> {
        let filesystems = "nodev\ttmpfs\nnodev\tproc\nnodev\tsysfs\nnodev\tpipefs\n";
        texts.push(("filesystems", Arc::new(|| filesystems.into())));
        let root = Root {
            processes,
            system: Arc::downgrade(system),
            texts: Branch::new(texts),
        };
        let born = system.host().now();
        ShownFs::new(
            "proc",
            linux::PROC_SUPER_MAGIC,
            device,
            Arc::new(root),
            born,
        )
    }
}

struct Root {
    processes: Arc<dyn Processes>,
    /// Weak: the system holds this file system by its mounts.
    system: Weak<System>,
    texts: Arc<Branch>,
}

/// A number in decimal digits, without zeros before it.
pub(crate) fn number(name: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(name).ok()?;
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn own_process(call: &Call<'_>) -> Vec<u8> {
    call.caller.process().to_string().into_bytes()
}

fn own_mounts(_call: &Call<'_>) -> Vec<u8> {
    b"self/mounts".to_vec()
}

impl Listing for Root {
    fn find(&self, name: &[u8]) -> Option<Shown> {
        match name {
            b"self" => return Some(Shown::Link(own_process)),
            b"mounts" => return Some(Shown::Link(own_mounts)),
            _ => {}
        }
        if let Some(number) = number(name) {
            let process = self.processes.get(number)?;
            return Some(Shown::Directory(Arc::new(OneProcess {
                process,
                system: self.system.clone(),
            })));
        }
        self.texts.find(name)
    }

    fn each(&self, from: u64, each: &mut dyn FnMut(Named<'_>) -> bool) {
        let mut go_on = true;
        let links = [&b"self"[..], b"mounts"];
        for (position, name) in (FIRST_ENTRY..).zip(links) {
            go_on = go_on && (position < from || each(link(name, position)));
        }
        // Below the processes there is room for all texts.
        let texts = FIRST_ENTRY + links.len() as u64;
        let first = texts - FIRST_ENTRY;
        if go_on && from < PROCESSES {
            self.texts.each(from.saturating_sub(first), &mut |named| {
                go_on = each(Named {
                    position: named.position + first,
                    ..named
                });
                go_on
            });
        }
        if go_on {
            let numbers = self.processes.all().into_iter().map(u64::from);
            each_number(numbers, PROCESSES, Kind::Directory, from, each);
        }
    }
}

/// Where the processes begin among the names of `/proc`.
const PROCESSES: u64 = 1 << 16;

fn link(name: &[u8], position: u64) -> Named<'_> {
    Named {
        name,
        kind: Kind::Symlink,
        position,
    }
}

/// Gives the numbers that are there as names, each at its own place from `base` on.
pub(crate) fn each_number(
    numbers: impl Iterator<Item = u64>,
    base: u64,
    kind: Kind,
    from: u64,
    each: &mut dyn FnMut(Named<'_>) -> bool,
) {
    for number in numbers {
        let position = base + number;
        let name = number.to_string();
        let named = Named {
            name: name.as_bytes(),
            kind,
            position,
        };
        if position >= from && !each(named) {
            break;
        }
    }
}

struct OneProcess {
    process: Arc<dyn ProcessInfo>,
    system: Weak<System>,
}

/// What a process' directory has.
const NAMES: [(&str, Kind); 13] = [
    ("cmdline", Kind::File),
    ("comm", Kind::File),
    ("cwd", Kind::Symlink),
    ("environ", Kind::File),
    ("exe", Kind::Symlink),
    ("fd", Kind::Directory),
    ("loginuid", Kind::File),
    ("maps", Kind::File),
    ("mounts", Kind::File),
    ("root", Kind::Symlink),
    ("stat", Kind::File),
    ("statm", Kind::File),
    ("status", Kind::File),
];

impl OneProcess {
    fn text(&self, make: fn(&dyn ProcessInfo) -> Vec<u8>) -> Shown {
        let process = self.process.clone();
        Shown::Text(Arc::new(move || Ok(make(&*process))))
    }
}

impl Listing for OneProcess {
    fn find(&self, name: &[u8]) -> Option<Shown> {
        Some(match name {
            b"cmdline" => self.text(|process| process.command_line()),
            b"environ" => self.text(|process| process.environment()),
            b"comm" => self.text(|process| {
                let mut name = process.status().name;
                name.push(b'\n');
                name
            }),
            // Nobody logged in: -1.
            b"loginuid" => self.text(|_| u32::MAX.to_string().into_bytes()),
            b"stat" => self.text(|process| process.status().stat()),
            b"statm" => self.text(|process| process.status().statm()),
            b"status" => self.text(|process| process.status().status()),
            b"maps" => {
                let process = self.process.clone();
                Shown::Text(Arc::new(move || describe::maps(&process.areas())))
            }
            b"mounts" => {
                let system = self.system.clone();
                let process = self.process.clone();
                Shown::Text(Arc::new(move || {
                    let system = system.upgrade().ok_or(Errno::EINVAL)?;
                    let root = match process.directories() {
                        Some((_, root)) => root,
                        None => system.mounts.root(),
                    };
                    Ok(mounts(&system, &root))
                }))
            }
            b"exe" => Shown::Place(self.process.program()?),
            b"cwd" => Shown::Place(self.process.directories()?.0),
            b"root" => Shown::Place(self.process.directories()?.1),
            b"fd" => Shown::Directory(Arc::new(Files(self.process.clone()))),
            _ => return None,
        })
    }

    fn each(&self, from: u64, each: &mut dyn FnMut(Named<'_>) -> bool) {
        for (position, (name, kind)) in (FIRST_ENTRY..).zip(NAMES) {
            let named = Named {
                name: name.as_bytes(),
                kind,
                position,
            };
            if position >= from && !each(named) {
                break;
            }
        }
    }

    fn owner(&self) -> (u32, u32) {
        let status = self.process.status();
        (status.users[1], status.groups[1])
    }
}

/// `/proc/PID/fd`.
struct Files(Arc<dyn ProcessInfo>);

impl Listing for Files {
    fn find(&self, name: &[u8]) -> Option<Shown> {
        let number = i32::try_from(number(name)?).ok()?;
        let file = self.0.descriptors()?.get(number).ok()?;
        Some(Shown::Place(file.place.clone()))
    }

    fn each(&self, from: u64, each: &mut dyn FnMut(Named<'_>) -> bool) {
        let Some(files) = self.0.descriptors() else {
            return;
        };
        let mut next = u32::try_from(from.saturating_sub(FIRST_ENTRY)).ok();
        let numbers = core::iter::from_fn(|| {
            let number = files.next_used(next?)?;
            next = number.checked_add(1);
            Some(number.into())
        });
        each_number(numbers, FIRST_ENTRY, Kind::Symlink, from, each);
    }

    fn owner(&self) -> (u32, u32) {
        let status = self.0.status();
        (status.users[1], status.groups[1])
    }
}

/// `/proc/mounts`, as seen from below a root.
fn mounts(system: &System, root: &Place) -> Vec<u8> {
    let mut text = Vec::new();
    for mount in system.mounts.all() {
        if let Some(path) = mount_path(&mount, root) {
            text.extend_from_slice(mount.source.as_bytes());
            text.push(b' ');
            for byte in path {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => {
                        text.extend_from_slice(alloc::format!("\\{byte:03o}").as_bytes());
                    }
                    byte => text.push(byte),
                }
            }
            let rights = if mount.read_only { "ro" } else { "rw" };
            let rest = alloc::format!(" {} {rights},relatime 0 0\n", mount.fs.name());
            text.extend_from_slice(rest.as_bytes());
        }
    }
    text
}

/// Where a mount lies as seen from below a root; `None` if that is elsewhere.
fn mount_path(mount: &Arc<Mount>, root: &Place) -> Option<Vec<u8>> {
    let (path, reached) = Place::root_of(mount).path(root).ok()?;
    reached.then_some(path)
}
