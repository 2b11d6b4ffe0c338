//! What `/proc` and `/sys` show of programs and of the kernel.

extern crate alloc;

use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use guest_files::{
    Area, Calls, Descriptors, DeviceNumber, Place, ProcessFs, ProcessInfo, Processes, Status,
    System, Text, table_fs,
};

use linux_raw_sys::general::AT_FDCWD;

use super::errno::Result;
use super::files;
use super::memory::Backing;
use super::process::{self, Process};
use crate::areas::Rights;
use crate::{cpu, mm, subarch};

/// The file systems' numbers.
const PROC: DeviceNumber = DeviceNumber::new(0, 3);
const SYS: DeviceNumber = DeviceNumber::new(0, 4);

/// Names of a process' own descriptors, as programs expect them in `/dev`.
const LINKS: [(&[u8], &[u8]); 4] = [
    (b"/proc/self/fd", b"/dev/fd"),
    (b"/proc/self/fd/0", b"/dev/stdin"),
    (b"/proc/self/fd/1", b"/dev/stdout"),
    (b"/proc/self/fd/2", b"/dev/stderr"),
];

/// All processes.
struct All;

/// One process, for as long as it is there.
struct One(u32, Weak<Process>);

impl Processes for All {
    fn all(&self) -> Vec<u32> {
        process::numbers()
    }

    fn get(&self, number: u32) -> Option<Arc<dyn ProcessInfo>> {
        let process = process::by_number(number)?;
        Some(Arc::new(One(number, Arc::downgrade(&process))))
    }
}

impl ProcessInfo for One {
    fn status(&self) -> Status {
        let mut status = Status {
            process: self.0,
            state: 'Z',
            foreground: -1,
            ..Status::default()
        };
        if let Ok(family) = process::family(self.0) {
            (status.parent, status.group) = (family.parent, family.group);
            (status.session, status.threads) = (family.session, family.threads);
            status.state = family.state;
        }
        let Some(process) = self.1.upgrade() else {
            return status;
        };
        status.name = process.name.lock().to_vec();
        status.mask = process.view.mask();
        for area in self.areas() {
            status.size += area.end - area.start;
        }
        status
    }

    fn command_line(&self) -> Vec<u8> {
        let process = self.1.upgrade();
        process.map_or_else(Vec::new, |process| process.command_line())
    }

    fn areas(&self) -> Vec<Area> {
        let mut areas = Vec::new();
        let Some(memory) = self.1.upgrade().and_then(|process| process.memory()) else {
            return areas;
        };
        memory.each(|area| {
            let has = |right| area.rights.contains(right);
            let (name, offset): (&[u8], u64) = match &area.backing {
                Backing::Zeros => (b"", 0),
                Backing::Stack => (b"[stack]", 0),
                Backing::Heap => (b"[heap]", 0),
                Backing::File(_, at) | Backing::Shared(_, at) => (b"", *at),
            };
            areas.push(Area {
                start: area.range.start,
                end: area.range.end,
                rights: [has(Rights::READ), has(Rights::WRITE), has(Rights::EXECUTE)],
                offset,
                name: name.to_vec(),
                ..Area::default()
            });
        });
        areas
    }

    fn program(&self) -> Option<Place> {
        self.1.upgrade()?.program.lock().clone()
    }

    fn directories(&self) -> Option<(Place, Place)> {
        let process = self.1.upgrade()?;
        Some((process.view.current(), process.view.root()))
    }

    fn descriptors(&self) -> Option<Arc<Descriptors>> {
        self.1.upgrade()?.files()
    }
}

/// How much memory there is, in the words of `/proc/meminfo`.
fn meminfo() -> Vec<u8> {
    let (total, free) = mm::with(|tables| {
        let frames = tables.frames();
        (frames.counts().total * 4, frames.obtainable() * 4)
    });
    format!(
        "MemTotal:       {total:>8} kB\nMemFree:        {free:>8} kB\nMemAvailable:   {free:>8} kB\n"
    )
    .into_bytes()
}

fn uptime() -> Vec<u8> {
    let hundredths = crate::time::since_start() / 10_000_000;
    let (seconds, rest) = (hundredths / 100, hundredths % 100);
    format!("{seconds}.{rest:02} 0.00\n").into_bytes()
}

fn cpuinfo() -> Vec<u8> {
    let mut text = Vec::new();
    for number in 0..cpu::running() {
        text.extend_from_slice(format!("processor\t: {number}\n\n").as_bytes());
    }
    text
}

fn version() -> Vec<u8> {
    format!(
        "Linux version {} (guest {})\n",
        super::RELEASE,
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

/// What Linux says of the hypervisor that a domain runs on (`Documentation/ABI/stable/sysfs-hypervisor-xen`).
fn hypervisor() -> Vec<u8> {
    match subarch::current() {
        subarch::Subarch::Bare => b"none\n".to_vec(),
        _ => b"xen\n".to_vec(),
    }
}

/// Mounts both, where the root has directories for them or can get them.
///
/// # Errors
/// Those of making directories and mounting.
pub(super) fn add(system: &Arc<System>, calls: &Calls<'_>) -> Result<()> {
    for path in [&b"/proc"[..], b"/sys"] {
        // They may be there.
        let _ = calls.mkdirat(AT_FDCWD, path, 0o555);
    }
    let texts: Vec<(&str, Text)> = [
        ("meminfo", Arc::new(meminfo) as Text),
        ("uptime", Arc::new(uptime)),
        ("cpuinfo", Arc::new(cpuinfo)),
        ("version", Arc::new(version)),
    ]
    .into_iter()
    .collect();
    let proc = ProcessFs::new(system, PROC, Arc::new(All), texts);
    calls.mount(proc, "proc", b"/proc", false)?;
    for (target, path) in LINKS {
        // A ramdisk may have its own.
        let _ = calls.symlinkat(target, AT_FDCWD, path);
    }
    let texts: Vec<(&str, Text)> = [("hypervisor/type", Arc::new(hypervisor) as Text)]
        .into_iter()
        .collect();
    let sys = table_fs(SYS, texts, files::host().now());
    calls.mount(sys, "sysfs", b"/sys", false)
}
