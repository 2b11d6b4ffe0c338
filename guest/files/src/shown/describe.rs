//! Processes in the words of `/proc` (`proc_pid_stat(5)` and its neighbours).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::errno::{Errno, Result};
use crate::host::PAGE;

/// What a process is and has used.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its name, of up to 15 bytes.
    pub name: Vec<u8>,
    /// `R`, `S`, `D`, `T` or `Z`.
    pub state: char,
    /// Its number.
    pub process: u32,
    /// Its parent's number.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Its terminal, as `st_rdev` has it; 0 for none.
    pub terminal: u32,
    /// The group in its terminal's foreground; -1 for none.
    pub foreground: i32,
    /// Real, effective, saved and file system's user.
    pub users: [u32; 4],
    /// The same of groups.
    pub groups: [u32; 4],
    /// Further groups.
    pub more_groups: Vec<u32>,
    /// The rights that new files do not get.
    pub mask: u32,
    /// Its threads.
    pub threads: u32,
    /// Faults that took no disk: its own, and those of children that it waited for.
    pub faults: [u64; 2],
    /// Time in user mode and in the kernel, its own and that of children that it waited for, in
    /// hundredths of a second.
    pub ticks: [u64; 4],
    /// When it began, in hundredths of a second after the boot.
    pub began: u64,
    /// Bytes of its areas.
    pub size: u64,
    /// Pages that it has.
    pub resident: u64,
    /// Pages of these that are of files.
    pub resident_files: u64,
    /// Bytes of its code, data and stack.
    pub parts: [u64; 3],
    /// Where its code begins and ends, and its stack begins.
    pub code: [u64; 3],
    /// Signals that are pending, blocked, ignored, caught.
    pub signals: [u64; 4],
    /// Which processor it ran on last.
    pub processor: u32,
}

/// An area of a process' memory.
#[derive(Clone, Debug, Default)]
pub struct Area {
    /// Its first byte.
    pub start: u64,
    /// The byte behind it.
    pub end: u64,
    /// Whether it can be read, written, executed.
    pub rights: [bool; 3],
    /// Whether writes go to others that map the same.
    pub is_shared: bool,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file's device: major and minor.
    pub device: (u32, u32),
    /// The file's inode.
    pub inode: u64,
    /// The file's path, or `[heap]` and the like.
    pub name: Vec<u8>,
}

/// A state in words, as `status` has it.
fn state_name(state: char) -> &'static str {
    match state {
        'R' => "running",
        'S' => "sleeping",
        'D' => "disk sleep",
        'T' => "stopped",
        'Z' => "zombie",
        'X' => "dead",
        _ => "unknown",
    }
}

/// A name without what would end the line or the field.
fn escaped(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
}

impl Status {
    /// `/proc/PID/stat`.
    pub(super) fn stat(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory cannot fail, but for memory itself.
        let mut head = String::new();
        let _ = write!(head, "{} (", self.process);
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(&self.name);
        let mut rest = String::new();
        let _ = write!(
            rest,
            ") {} {} {} {} {} {} 0",
            self.state, self.parent, self.group, self.session, self.terminal, self.foreground
        );
        let _ = write!(rest, " {} {} 0 0", self.faults[0], self.faults[1]);
        for ticks in self.ticks {
            let _ = write!(rest, " {ticks}");
        }
        let _ = write!(
            rest,
            " 20 0 {} 0 {} {} {} {}",
            self.threads,
            self.began,
            self.size,
            self.resident,
            u64::MAX
        );
        for address in self.code {
            let _ = write!(rest, " {address}");
        }
        // Registers are told to nobody.
        rest.push_str(" 0 0");
        for signals in self.signals {
            let _ = write!(rest, " {signals}");
        }
        let _ = writeln!(
            rest,
            " 0 0 0 17 {} 0 0 0 0 0 0 0 0 0 0 0 0 0",
            self.processor
        );
        text.extend_from_slice(rest.as_bytes());
        text
    }

    /// `/proc/PID/statm`.
    pub(super) fn statm(&self) -> Vec<u8> {
        let pages = |bytes: u64| bytes / PAGE as u64;
        let [code, data, stack] = self.parts;
        alloc::format!(
            "{} {} {} {} 0 {} 0\n",
            pages(self.size),
            self.resident,
            self.resident_files,
            pages(code),
            pages(data + stack)
        )
        .into_bytes()
    }

    /// `/proc/PID/status`.
    pub(super) fn status(&self) -> Vec<u8> {
        let mut text = String::new();
        let process = self.process;
        let _ = write!(
            text,
            "Name:\t{}\nUmask:\t{:04o}\nState:\t{} ({})\nTgid:\t{process}\nNgid:\t0\n\
             Pid:\t{process}\nPPid:\t{}\nTracerPid:\t0\n",
            escaped(&self.name),
            self.mask,
            self.state,
            state_name(self.state),
            self.parent
        );
        for (name, ids) in [("Uid", self.users), ("Gid", self.groups)] {
            let _ = writeln!(
                text,
                "{name}:\t{}\t{}\t{}\t{}",
                ids[0], ids[1], ids[2], ids[3]
            );
        }
        let _ = write!(text, "FDSize:\t64\nGroups:\t");
        for group in &self.more_groups {
            let _ = write!(text, "{group} ");
        }
        text.push('\n');
        if self.state != 'Z' {
            let kib = |bytes: u64| bytes / 1024;
            let of_pages = |pages: u64| pages * (PAGE as u64 / 1024);
            let files = self.resident_files;
            let [code, data, stack] = self.parts;
            for (name, size) in [
                ("VmPeak", kib(self.size)),
                ("VmSize", kib(self.size)),
                ("VmLck", 0),
                ("VmPin", 0),
                ("VmHWM", of_pages(self.resident)),
                ("VmRSS", of_pages(self.resident)),
                ("RssAnon", of_pages(self.resident.saturating_sub(files))),
                ("RssFile", of_pages(files)),
                ("RssShmem", 0),
                ("VmData", kib(data)),
                ("VmStk", kib(stack)),
                ("VmExe", kib(code)),
                ("VmLib", 0),
            ] {
                let _ = writeln!(text, "{name}:\t{size:8} kB");
            }
        }
        let _ = writeln!(text, "Threads:\t{}", self.threads);
        let [pending, blocked, ignored, caught] = self.signals;
        for (name, signals) in [
            ("SigPnd", pending),
            ("ShdPnd", 0),
            ("SigBlk", blocked),
            ("SigIgn", ignored),
            ("SigCgt", caught),
        ] {
            let _ = writeln!(text, "{name}:\t{signals:016x}");
        }
        text.into_bytes()
    }
}

/// The column at which a name begins in `maps`.
const NAME_COLUMN: usize = 73;

/// `/proc/PID/maps`: as long as a program likes, so memory may be short for it.
pub(super) fn maps(areas: &[Area]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for area in areas {
        let right = |at: usize, letter: char| if area.rights[at] { letter } else { '-' };
        let mut line = alloc::format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
            area.start,
            area.end,
            right(0, 'r'),
            right(1, 'w'),
            right(2, 'x'),
            if area.is_shared { 's' } else { 'p' },
            area.offset,
            area.device.0,
            area.device.1,
            area.inode
        );
        if !area.name.is_empty() {
            while line.len() < NAME_COLUMN {
                line.push(' ');
            }
        }
        // A line feed in the name takes four bytes.
        let most = line.len() + area.name.len() * 4 + 1;
        text.try_reserve(most).map_err(|_| Errno::ENOMEM)?;
        text.extend_from_slice(line.as_bytes());
        for &byte in &area.name {
            match byte {
                b'\n' => text.extend_from_slice(b"\\012"),
                byte => text.push(byte),
            }
        }
        text.push(b'\n');
    }
    Ok(text)
}
