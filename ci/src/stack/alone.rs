//! A machine for one job alone: what `dom0`, `bare` and `kvm-shim` have in common. QEMU starts with
//! the job and ends with it, and its one console is the guest's.

use std::time::{Duration, Instant};

use super::qemu::{Accel, Machine, Running};
use super::{Job, Mode, gdb_hint};
use crate::console::contract::Watch;
use crate::console::serial::Input;
use crate::console::terminal::{Keys, Terminal};
use crate::console::transcript::Transcript;
use crate::console::verdict::End;
use crate::exit::{Failure, Result};
use crate::provision::qemu::Qemu;

/// Memory of a domain that does not say.
const DEFAULT_MEM_MIB: u32 = 128;

/// Memory of the job's domain in MiB.
pub(super) fn mem_mib(job: &Job) -> u32 {
    job.mem_mib.unwrap_or(DEFAULT_MEM_MIB)
}

/// The machine whose kernel is the job's own.
pub(super) fn machine(job: &Job, mode: Mode, accel: Accel) -> Machine {
    Machine {
        accel,
        mem_mib: mem_mib(job),
        cpus: job.vcpus.unwrap_or(1),
        features: job.cpu.clone(),
        plugin: job.plugin.clone(),
        kernel: job.kernel.clone(),
        append: job.cmdline.clone(),
        modules: Vec::new(),
        serials: 1,
        debug_exit: true,
        gdb: mode.gdb,
    }
}

/// The earlier of two times at which to stop waiting, where there are any.
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// What came of listening.
pub(super) enum Heard {
    /// The console said something.
    Bytes(Vec<u8>),
    /// QEMU is gone.
    Closed,
    /// The job has had its time, or has said all that it is judged by.
    Over(End),
}

/// Such a machine, running, and the person at its console if there is one.
pub(super) struct Alone {
    _terminal: Option<Terminal>,
    /// The process.
    pub(super) running: Running,
    keys: Keys,
    watch: Watch,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl Alone {
    /// Starts it.
    pub(super) fn start(
        machine: &Machine,
        qemu: &Qemu,
        mode: Mode,
        job: &Job,
        transcript: &Transcript,
    ) -> Result<Self> {
        let running = machine.start(qemu, &transcript.dir().join("qemu.log"))?;
        gdb_hint(mode, &running, job);
        let terminal = mode
            .interactive
            .then(|| Terminal::attach(running.ports.sender()))
            .transpose()?;
        Ok(Self {
            _terminal: terminal,
            running,
            keys: Keys::default(),
            watch: Watch::new(&job.contract),
            timeout: job.timeout.unwrap_or_default(),
            deadline: job.timeout.map(|timeout| Instant::now() + timeout),
        })
    }

    /// Passes on what was typed, once the guest has said a line, and waits for what it says next.
    pub(super) fn listen(&mut self, transcript: &Transcript) -> Result<Heard> {
        loop {
            let keys = self.keys.deliver(&transcript.guest);
            self.running.ports.type_in(0, &keys);
            let said = self.watch.until(transcript);
            return match self.running.ports.next(earlier(self.deadline, said))? {
                Some(Input::Bytes(_, bytes)) => Ok(Heard::Bytes(bytes)),
                Some(Input::Keys(typed)) => {
                    self.keys.typed(&typed);
                    continue;
                }
                Some(Input::Leave) => Err(Failure::Interrupted),
                Some(Input::Closed) => Ok(Heard::Closed),
                None if said.is_some() => Ok(Heard::Over(End::Stopped)),
                None => {
                    self.running.inquest(transcript.dir());
                    Ok(Heard::Over(End::TimedOut(self.timeout.as_secs())))
                }
            };
        }
    }
}
