//! A Linux dom0 that runs one domain after the other: what `xl` and `shim` have in common.
//!
//! Three serial ports keep three things apart: Xen's and Linux' log, the guest's console, and a
//! control port on which a shell obeys (`init.sh`). xl runs in the foreground and reports on the
//! control port why a domain shut down; a domain that did is kept until its console is complete.

mod ended;
mod machine;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::alone::earlier;
use super::control::{Answer, Control, request};
use super::domain::{XlEvent, create_command, dumped, payload, unbuilt, xl_event};
use super::dump::{self, Dump, DumpError, unpacked};
use super::overdue::Overdue;
use super::qemu::Running;
use super::silence::{self, Silence};
use super::{ByHand, Does, Job, Mode, Session, Setting, Stack, by_hand, gdb_hint, rootfs};
use crate::console::contract::Watch;
use crate::console::serial::Input;
use crate::console::terminal::{Keys, Terminal};
use crate::console::transcript::Transcript;
use crate::console::verdict::{End, Shutdown};
use crate::exit::{Failure, Result};
use crate::provision::Provision;
use crate::provision::qemu::{Qemu, Version};
use crate::ui;

/// Serial ports by purpose.
const LOG: usize = 0;
const CONSOLE: usize = 1;
const CONTROL: usize = 2;

/// When a dom0 is taken for dead that boots in ten seconds on a slow machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(240);

/// When an answer on the control port is overdue, on a machine that has ten other things to do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// When the end of a line may have been lost that the dom0 does not answer.
const NUDGE: Duration = Duration::from_secs(10);

/// What is noted when Xen may have been asleep while the dom0 was asked (see [`silence`]).
pub(crate) const WOKEN: &str = "xen: a key was typed, as the dom0 did not answer";

/// The dom0's file system with what a run adds.
const INITRAMFS: &str = "initramfs";

/// Where a dump of a running domain goes.
const DUMP: &str = "/tmp/dump";

/// What ends a domain whose monitor waits for a command.
const LEAVE: &[u8] = b"poweroff\r";

/// The stack.
pub(crate) struct Linux;

impl Stack for Linux {
    fn prepare(&self, provision: &Provision) -> Result<()> {
        Qemu::choose(provision)?;
        provision.hypervisor()?;
        rootfs::pack(&provision.dom0()?, &provision.cache).map(drop)
    }

    fn by_hand(&self, setting: &Setting<'_>, job: &Job) -> Result<ByHand> {
        let provision = setting.provision;
        let qemu = Qemu::choose(provision)?;
        let xen = provision.hypervisor()?;
        let root = rootfs::pack(&provision.dom0()?, &provision.cache)?;
        let jobs = std::slice::from_ref(job);
        let files = payload(setting.workspace, jobs);
        let domain = job.via.domain();
        let create =
            domain.map(|domain| request(1, &create_command(jobs, 0, &domain, qemu.version)));
        let show = request(2, "cat /var/log/xen/console/*");
        let typed = create.map(|create| {
            vec![
                format!("once it is ready: {create}"),
                format!("to see the domain's console: {show}"),
            ]
        });
        let mode = setting.mode;
        Ok(ByHand {
            qemu,
            machine: machine::machine(&xen, &root.kernel, INITRAMFS.as_ref(), jobs, mode),
            first: by_hand::archive(&root.initramfs, &files, INITRAMFS),
            then: typed.unwrap_or_default(),
        })
    }

    fn open<'jobs>(
        &self,
        setting: Setting<'_>,
        jobs: &'jobs [Job],
    ) -> Result<Box<dyn Session + 'jobs>> {
        let qemu = Qemu::choose(setting.provision)?;
        let xen = setting.provision.hypervisor()?;
        let root = rootfs::pack(&setting.provision.dom0()?, &setting.provision.cache)?;
        let initramfs = setting.dir.join(INITRAMFS);
        machine::append_payload(
            &root.initramfs,
            &payload(setting.workspace, jobs),
            &initramfs,
        )?;

        let machine = machine::machine(&xen, &root.kernel, &initramfs, jobs, setting.mode);
        let running = machine.start(&qemu, &setting.dir.join("qemu.log"))?;
        if let Some(job) = jobs.first() {
            gdb_hint(setting.mode, &running, job);
        }
        let log = setting.dir.join("dom0.log");
        let mut open = Open {
            running,
            log: File::create(&log).map_err(Failure::file("create", &log))?,
            log_path: log,
            jobs,
            qemu: qemu.version,
            mode: setting.mode,
            control: Control::new(),
            keys: Keys::default(),
            received: 0,
            boot_log: Vec::new(),
            shared_console: false,
        };
        open.wait_until_ready()?;
        let _ = std::fs::remove_file(&initramfs);
        Ok(Box::new(open))
    }
}

/// A running Linux dom0.
struct Open<'a> {
    running: Running,
    log: File,
    log_path: PathBuf,
    jobs: &'a [Job],
    /// Which QEMU runs it.
    qemu: Version,
    mode: Mode,
    control: Control,
    keys: Keys,
    /// Bytes of the present guest's console.
    received: u64,
    /// What Xen and Linux said while they booted, part of every record.
    boot_log: Vec<u8>,
    /// [`Domain::shared_console`](super::domain::Domain::shared_console) of the present one.
    shared_console: bool,
}

/// Why a wait ended without what was waited for.
enum Stop {
    Deadline,
    Gone(String),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Where the guest has said so, among its lines from one on.
fn heard(transcript: &Option<&mut Transcript>, from: usize, text: &str) -> Option<usize> {
    let lines = &transcript.as_ref()?.guest;
    let mut lines = lines.iter().enumerate().skip(from);
    lines
        .find(|(_, line)| line.contains(text))
        .map(|(at, _)| at)
}

/// Whether the guest has said so.
fn says(transcript: &Option<&mut Transcript>, text: &str) -> bool {
    heard(transcript, 0, text).is_some()
}

impl Open<'_> {
    /// Takes one input to where it belongs.
    fn step(
        &mut self,
        deadline: Option<Instant>,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<(), Stop> {
        match self.running.ports.next(deadline)? {
            None => return Err(Stop::Deadline),
            Some(Input::Bytes(LOG, bytes)) => {
                let _ = self.log.write_all(&bytes);
                match transcript {
                    Some(transcript) => transcript.host_bytes(&bytes),
                    None => self.boot_log.extend(bytes),
                }
            }
            Some(Input::Bytes(CONSOLE, bytes)) => {
                self.received += bytes.len() as u64;
                match transcript {
                    Some(transcript) if self.shared_console => transcript.shared_bytes(&bytes),
                    Some(transcript) => transcript.guest_bytes(&bytes),
                    None => {}
                }
            }
            Some(Input::Bytes(_, bytes)) => self.control.feed(&bytes),
            Some(Input::Keys(typed)) => self.keys.typed(&typed),
            Some(Input::Leave) => return Err(Stop::Failed(Failure::Interrupted)),
            Some(Input::Closed) => return Err(Stop::Gone(self.running.epitaph())),
        }
        if let Some(transcript) = transcript {
            self.running
                .ports
                .write(CONSOLE, &self.keys.deliver(&transcript.guest));
        }
        Ok(())
    }

    /// When to stop waiting; never while a debugger may hold the machine.
    fn within(&self, time: Duration) -> Option<Instant> {
        (!self.mode.gdb).then(|| Instant::now() + time)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let step = ui::spinner("boot Xen and a Linux dom0");
        let deadline = self.within(BOOT_TIMEOUT);
        while !self.control.is_ready() {
            let what = match self.step(deadline, &mut None) {
                Ok(()) => continue,
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(Stop::Gone(epitaph)) => epitaph,
                Err(Stop::Deadline) => format!("not up within {} s", BOOT_TIMEOUT.as_secs()),
            };
            step.clear();
            return Err(Failure::host(
                format!("the Linux dom0 did not boot: {what}\n{}", self.log_tail()),
                "see the log above; a loaded machine may just need another try",
            ));
        }
        step.done();
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log_path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        format!("{last}\n--- full log: {}", self.log_path.display())
    }

    /// Runs a command in the dom0 and returns what it printed. The dom0 asks for a line again of which
    /// something is missing; that may be its end, which is sent alone after a while.
    fn call(
        &mut self,
        command: &str,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<Vec<String>, Stop> {
        let call = self.control.call(command);
        self.running.ports.write(CONTROL, call.line.as_bytes());
        let deadline = self.within(ANSWER_TIMEOUT);
        let (mut nudge, mut wake) = (self.within(NUDGE), self.within(silence::PATIENCE));
        loop {
            match self.control.answer(&call) {
                Some(Answer::Done(lines)) => return Ok(lines),
                Some(Answer::Again(garbled)) => {
                    if let Some(transcript) = transcript {
                        transcript.host_bytes(format!("control: {garbled}\n").as_bytes());
                    }
                    self.running.ports.write(CONTROL, call.line.as_bytes());
                }
                None => {}
            }
            match self.step(nudge.or(wake).or(deadline), transcript) {
                Err(Stop::Deadline) if nudge.take().is_some() => {
                    self.running.ports.write(CONTROL, b"\n");
                }
                Err(Stop::Deadline) if wake.take().is_some() => {
                    self.wake(WOKEN, transcript);
                }
                result => result?,
            }
        }
    }

    /// Types a key on Xen's console, which may be asleep, and notes why.
    fn wake(&mut self, why: &str, transcript: &mut Option<&mut Transcript>) {
        if let Some(transcript) = transcript {
            transcript.host_bytes(format!("{why}\n").as_bytes());
        }
        self.running.ports.type_in(LOG, silence::KEYS);
    }

    /// Runs a job to the end of its domain.
    fn domain(&mut self, job: &Job, transcript: &mut Transcript) -> std::result::Result<End, Stop> {
        transcript.host_bytes(&self.boot_log);
        let transcript = &mut Some(transcript);
        let deadline = job.timeout.map(|timeout| Instant::now() + timeout);
        let index = self
            .jobs
            .iter()
            .position(|other| other == job)
            .unwrap_or_default();
        let Some(domain) = job.via.domain() else {
            return Ok(End::Broken(format!("{} is not run by xl", job.via.name())));
        };
        self.received = 0;
        self.shared_console = domain.shared_console;
        self.control.reports.clear();
        self.call(
            &create_command(self.jobs, index, &domain, self.qemu),
            transcript,
        )?;

        let mut said = Vec::new();
        let mut domid = None;
        let mut suspended = false;
        let mut overdue = Overdue::default();
        let mut silence = Silence::new(Instant::now());
        let mut watch = Watch::new(&job.contract);
        let mut live = match job.dump {
            Some(Dump::Live(ready)) => Some(ready),
            _ => None,
        };
        let mut acts = job.acts.iter().peekable();
        let mut from = 0;
        let end = loop {
            while let Some(line) = self.control.reports.pop_front() {
                match xl_event(&line) {
                    Some(XlEvent::Created(id)) => {
                        domid = Some(id);
                        self.call(&format!("attach {id}"), transcript)?;
                    }
                    // It is being saved: xl goes, and what the act does comes back to it.
                    Some(XlEvent::Shutdown(Shutdown::Suspend)) => suspended = true,
                    Some(XlEvent::Exit) if suspended => suspended = false,
                    Some(XlEvent::Shutdown(reason)) => {
                        if job.dump == Some(Dump::Crash) {
                            self.crashed(transcript)?;
                            return Ok(End::Shutdown(reason));
                        }
                        self.collect(transcript)?;
                        self.remove(domid, transcript)?;
                        return Ok(End::Shutdown(reason));
                    }
                    Some(XlEvent::Exit) if domid.is_none() => return Ok(unbuilt(&said)),
                    Some(XlEvent::Exit) => {
                        return Ok(End::Broken(format!("xl ended: {}", said.join("; "))));
                    }
                    None => said.push(line),
                }
            }
            if let (Some(ready), Some(id)) = (live, domid)
                && says(transcript, ready)
            {
                live = None;
                self.call(&format!("xl dump-core {id} {DUMP}"), transcript)?;
                self.examine(DUMP, transcript)?;
                self.running.ports.write(CONSOLE, LEAVE);
            }
            while let (Some(act), Some(id)) = (acts.peek(), domid)
                && let Some(at) = heard(transcript, from, act.when)
            {
                from = at + 1;
                self.act(act.does, id, transcript)?;
                acts.next();
            }
            let decided = transcript.as_deref().and_then(|said| watch.until(said));
            let said = transcript.as_deref().map_or(&[][..], |said| &said.guest);
            let look = overdue.at(said, Instant::now());
            // Without a time-out somebody sits before it, and is as silent as the guest.
            let wake = deadline.map(|_| silence.at(self.received, Instant::now()));
            let next = earlier(earlier(look, wake), earlier(deadline, decided));
            match self.step(next, transcript) {
                Ok(()) => {}
                Err(Stop::Deadline) if wake.is_some() && silence.is_due(Instant::now()) => {
                    self.wake(silence::TYPED, transcript);
                }
                Err(Stop::Deadline) if overdue.is_due(Instant::now()) => {
                    self.ended(domid, transcript)?;
                }
                Err(Stop::Deadline) if decided.is_some() => break End::Stopped,
                Err(Stop::Deadline) => {
                    break End::TimedOut(job.timeout.unwrap_or_default().as_secs());
                }
                Err(stop) => return Err(stop),
            }
        };
        match domid {
            Some(_) => self.collect(transcript)?,
            None => domid = self.created(transcript)?,
        }
        self.remove(domid, transcript)?;
        Ok(end)
    }

    /// Asks whether a domain has shut down, which xl has not reported, and takes the answer for the
    /// report.
    fn ended(
        &mut self,
        domid: Option<u32>,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<(), Stop> {
        let Some(domid) = domid else { return Ok(()) };
        for line in self.call(&format!("ended {domid}"), transcript)? {
            if let Some(transcript) = transcript {
                let said = format!("xl create does not say it, but xl list does: {line}\n");
                transcript.host_bytes(said.as_bytes());
            }
            self.control.reports.push_back(line);
        }
        Ok(())
    }

    /// Does something to a running domain.
    fn act(
        &mut self,
        does: Does,
        domid: u32,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<(), Stop> {
        match does {
            Does::Type(keys) => self.running.ports.write(CONSOLE, keys.as_bytes()),
            Does::Host(command) => {
                let said = self.call(&format!("domain={domid}; {command}"), transcript)?;
                if let Some(transcript) = transcript {
                    for line in said {
                        transcript.host_bytes(format!("{line}\n").as_bytes());
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until xl has dumped and destroyed the domain that crashed, and looks at the dump.
    fn crashed(
        &mut self,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<(), Stop> {
        let deadline = self.within(ANSWER_TIMEOUT);
        let mut file = None;
        loop {
            while let Some(line) = self.control.reports.pop_front() {
                if let Some(name) = dumped(&line) {
                    file = Some(name.to_owned());
                }
                if xl_event(&line) == Some(XlEvent::Exit) {
                    self.collect(transcript)?;
                    self.call("detach", transcript)?;
                    return self.examine(file.as_deref().unwrap_or(DUMP), transcript);
                }
            }
            self.step(deadline, transcript)?;
        }
    }

    /// Says in the record what is in a dump, and removes it.
    fn examine(
        &mut self,
        file: &str,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<(), Stop> {
        let found = dump::read(&mut |at, bytes| {
            let lines = self.call(&format!("piece {file} {at} {bytes}"), transcript)?;
            Ok(unpacked(&lines))
        });
        let said = match found {
            Ok(found) => format!(
                "dump: all {} pages, and {} page tables on the way to the p2m list\n",
                found.pages, found.tables
            ),
            Err(DumpError::Wrong(what)) => format!("dump: {what}\n"),
            Err(DumpError::Fetch(stop)) => return Err(stop),
        };
        self.call(&format!("rm -f {file}"), transcript)?;
        if let Some(transcript) = transcript {
            transcript.host_bytes(said.as_bytes());
        }
        Ok(())
    }

    /// Waits until xl says whether it has created the domain after all.
    fn created(
        &mut self,
        transcript: &mut Option<&mut Transcript>,
    ) -> std::result::Result<Option<u32>, Stop> {
        let deadline = self.within(ANSWER_TIMEOUT);
        loop {
            while let Some(line) = self.control.reports.pop_front() {
                match xl_event(&line) {
                    Some(XlEvent::Created(domid)) => return Ok(Some(domid)),
                    Some(XlEvent::Exit) => return Ok(None),
                    _ => {}
                }
            }
            self.step(deadline, transcript)?;
        }
    }
}

impl Session for Open<'_> {
    fn run(&mut self, job: &Job, transcript: &mut Transcript) -> Result<End> {
        let _terminal = if self.mode.interactive {
            Some(Terminal::attach(self.running.ports.sender())?)
        } else {
            None
        };
        let end = self.domain(job, transcript);
        match end.and_then(|end| self.gone(end, transcript)) {
            Ok(end) => Ok(end),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Gone(epitaph)) => Ok(End::Broken(epitaph)),
            Err(Stop::Deadline) => {
                let silent = self.control.silence().as_secs();
                let inquest = self.inquest(transcript);
                Ok(End::Broken(format!(
                    "the dom0 does not answer any more; its last sign of life was {silent} s ago; \
                     {inquest}"
                )))
            }
        }
    }
}
