//! What `/proc` and `/sys` show of programs and of the kernel.

extern crate alloc;

use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use guest_files::{
    Area, Calls, Descriptors, DeviceNumber, FileSystem, Place, ProcessFs, ProcessInfo, Processes,
    Status, System, Text, table_fs,
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
        "MemTotal:       {total:>8} kB\nMemFree:        {free:>8} kB\nMemAvailable:   {free:>8} kB\n\
         Buffers:               0 kB\nCached:                0 kB\nSwapCached:            0 kB\n\
         SwapTotal:             0 kB\nSwapFree:              0 kB\nDirty:                 0 kB\n\
         Shmem:                 0 kB\nSlab:                  0 kB\nSReclaimable:          0 kB\n"
    )
    .into_bytes()
}

fn uptime() -> Vec<u8> {
    let hundredths = crate::time::since_start() / 10_000_000;
    let (seconds, rest) = (hundredths / 100, hundredths % 100);
    format!("{seconds}.{rest:02} 0.00\n").into_bytes()
}

/// How long the processors did what, in hundredths of a second: nobody counts, so that they seem idle.
fn stat() -> Vec<u8> {
    let hundredths = crate::time::since_start() / 10_000_000;
    let mut text = format!(
        "cpu  0 0 0 {} 0 0 0 0 0 0\n",
        hundredths * u64::from(cpu::running())
    );
    for number in 0..cpu::running() {
        text.push_str(&format!("cpu{number} 0 0 0 {hundredths} 0 0 0 0 0 0\n"));
    }
    let born = files::wall().saturating_sub(crate::time::since_start()) / 1_000_000_000;
    let count = process::count();
    text.push_str(&format!(
        "ctxt 0\nbtime {born}\nprocesses {count}\nprocs_running 1\nprocs_blocked 0\n"
    ));
    text.into_bytes()
}

fn loadavg() -> Vec<u8> {
    let numbers = process::numbers();
    let last = numbers.last().copied().unwrap_or_default();
    format!("0.00 0.00 0.00 1/{} {last}\n", numbers.len()).into_bytes()
}

/// A name for this boot.
fn boot() -> Vec<u8> {
    static NAME: spin::Once<[u8; 16]> = spin::Once::new();
    let name = NAME.call_once(|| {
        let mut name = [0; 16];
        super::random::fill(&mut name);
        name
    });
    let number = u128::from_be_bytes(*name);
    let part = |from: u32, digits: u32| number >> from & ((1 << (4 * digits)) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}\n",
        part(96, 8),
        part(80, 4),
        part(64, 4),
        part(48, 4),
        part(0, 12)
    )
    .into_bytes()
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
    calls.mount(processes(system), "proc", b"/proc", false)?;
    for (target, path) in LINKS {
        // A ramdisk may have its own.
        let _ = calls.symlinkat(target, AT_FDCWD, path);
    }
    calls.mount(tables(), "sysfs", b"/sys", false)
}

/// `/proc`.
pub(super) fn processes(system: &Arc<System>) -> Arc<dyn FileSystem> {
    let kernel = |text: &'static str| Arc::new(move || text.as_bytes().to_vec()) as Text;
    let texts: Vec<(&str, Text)> = [
        ("meminfo", Arc::new(meminfo) as Text),
        ("uptime", Arc::new(uptime)),
        ("cpuinfo", Arc::new(cpuinfo)),
        ("version", Arc::new(version)),
        ("stat", Arc::new(stat)),
        ("loadavg", Arc::new(loadavg)),
        ("modules", kernel("")),
        ("sys/kernel/ostype", kernel("Linux\n")),
        (
            "sys/kernel/osrelease",
            Arc::new(|| format!("{}\n", super::RELEASE).into_bytes()),
        ),
        (
            "sys/kernel/hostname",
            Arc::new(|| {
                let mut name = super::call::host_name();
                name.push(b'\n');
                name
            }),
        ),
        ("sys/kernel/pid_max", kernel("32768\n")),
        ("sys/kernel/random/boot_id", Arc::new(boot)),
        ("sys/vm/overcommit_memory", kernel("0\n")),
    ]
    .into_iter()
    .collect();
    ProcessFs::new(system, PROC, Arc::new(All), texts)
}

/// `/sys`.
pub(super) fn tables() -> Arc<dyn FileSystem> {
    let texts: Vec<(&str, Text)> = [("hypervisor/type", Arc::new(hypervisor) as Text)]
        .into_iter()
        .collect();
    table_fs(SYS, texts, files::host().now())
}
