//! QEMU: its command line as data, and the running process with its serial ports.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::inquest;
use crate::console::serial::{Ports, Theirs};
use crate::console::verdict::End;
use crate::exit::{Failure, Result};
use crate::provision::qemu::{Qemu, Version};

/// The first QEMU whose page faults under SMAP are all real.
const RIGHT_ABOUT_SMAP: Version = Version(10, 0);

/// How the directories that QEMU runs in are called; the owner's process id follows.
const DIR_PREFIX: &str = "xtask-";

/// The first descriptor after the standard ones, where QEMU finds the pipes of its serial ports:
/// for each what comes in, then what goes out.
const FIRST_FD: i32 = 3;

/// Where QEMU answers questions, in the directory that it runs in.
const MONITOR: &str = "monitor";

/// I/O addresses and interrupts of the serial ports. Xen keeps the first with its interrupt, so
/// none of the others shares it.
const SERIAL: [(u16, u8); 3] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 5)];

/// What executes the machine's instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accel {
    /// Software emulation of a processor that Xen knows.
    Tcg {
        /// Let virtual time be the number of instructions executed.
        icount: bool,
    },
    /// Software emulation of a processor with all that QEMU can emulate.
    Bare {
        /// As above.
        icount: bool,
        /// Five levels of page tables.
        la57: bool,
        /// QEMU's machine, with its options, if not the usual one.
        machine: Option<&'static str>,
    },
    /// Hardware, with KVM in the part of Xen 4.17.
    KvmXen,
}

/// A file that the boot loader places in memory, with its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// The file.
    pub(crate) file: PathBuf,
    /// Its words.
    pub(crate) cmdline: String,
}

impl Module {
    /// A file without words.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self {
            file,
            cmdline: String::new(),
        }
    }
}

/// A machine to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What executes it.
    pub(crate) accel: Accel,
    /// Memory in MiB.
    pub(crate) mem_mib: u32,
    /// Processors.
    pub(crate) cpus: u32,
    /// What they have or lack beside what their model says: `-NAME`, `+NAME`.
    pub(crate) features: Vec<String>,
    /// A plugin with its arguments.
    pub(crate) plugin: Option<String>,
    /// The multiboot kernel: Xen.
    pub(crate) kernel: PathBuf,
    /// Its command line.
    pub(crate) append: String,
    /// Modules, the first being dom0's kernel.
    pub(crate) modules: Vec<Module>,
    /// Number of serial ports.
    pub(crate) serials: usize,
    /// A port that ends QEMU when written to.
    pub(crate) debug_exit: bool,
    /// Whether to wait for a debugger.
    pub(crate) gdb: bool,
}

impl Machine {
    /// The processor model. Xen's AMD code refuses QEMU's generic models. TCG has no MWAIT, takes
    /// RDTSCP for RDTSC under emulated SVM, which the shim of Xen 4.20 does not survive, and before
    /// QEMU 10.0 raises page faults that SMAP does not ask for.
    fn cpu(&self, version: Version) -> &'static str {
        match self.accel {
            Accel::Tcg { .. } if version < RIGHT_ABOUT_SMAP => "EPYC,-monitor,-rdtscp,-smap",
            Accel::Tcg { .. } => "EPYC,-monitor,-rdtscp",
            Accel::Bare { la57: true, .. } => "max",
            Accel::Bare { la57: false, .. } => "max,-la57",
            Accel::KvmXen => "host",
        }
    }

    /// The arguments. Files are named as in `names`, relative to the directory QEMU runs in:
    /// blanks and commas in a path would be taken apart by the multiboot loader.
    pub(super) fn arguments(&self, version: Version) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        match &self.accel {
            Accel::Tcg { icount } | Accel::Bare { icount, .. } => {
                add(&["-accel", "tcg"]);
                if *icount {
                    add(&["-icount", "shift=0,sleep=off"]);
                }
                if let Accel::Bare {
                    machine: Some(machine),
                    ..
                } = &self.accel
                {
                    add(&["-machine", machine]);
                }
            }
            Accel::KvmXen => {
                add(&["-accel", "kvm,xen-version=0x40011,kernel-irqchip=split"]);
                add(&["-action", "panic=exit-failure"]);
            }
        }
        if let Some(plugin) = &self.plugin {
            add(&["-plugin", plugin]);
        }
        let words = [self.cpu(version)].into_iter();
        let cpu: Vec<_> = words
            .chain(self.features.iter().map(String::as_str))
            .collect();
        add(&["-cpu", &cpu.join(",")]);
        add(&[
            "-m",
            &self.mem_mib.to_string(),
            "-smp",
            &self.cpus.to_string(),
        ]);
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        for (port, (address, irq)) in SERIAL.iter().enumerate().take(self.serials) {
            add(&[
                "-chardev",
                &format!("pipe,id=serial{port},path=serial{port}"),
            ]);
            let device = match self.accel {
                Accel::Tcg { .. } | Accel::Bare { .. } => {
                    format!("isa-serial,chardev=serial{port},iobase={address:#x},irq={irq}")
                }
                // A guest of KVM's Xen has Xen's own console.
                Accel::KvmXen => format!("xen-console,chardev=serial{port}"),
            };
            add(&["-device", &device]);
        }
        add(&["-qmp", &format!("unix:{MONITOR},server=on,wait=off")]);
        if self.debug_exit {
            add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        }
        if self.gdb {
            add(&["-gdb", "unix:path=gdb,server=on,wait=off", "-S"]);
        }
        add(&["-kernel", "kernel", "-append", &self.append]);
        let modules: Vec<_> = self.modules.iter().enumerate().map(module_text).collect();
        if !modules.is_empty() {
            add(&["-initrd", &modules.join(",")]);
        }
        arguments
    }

    /// The same as a line for a shell, to be run by hand: in a directory of its own, where `first` is run
    /// first, with links of the names above. What this program reads from pipes is on the terminal if there is one port; of
    /// several, the last is, and the others go to files.
    pub(crate) fn line(&self, qemu: &Qemu, first: &[String]) -> String {
        let mut words = vec!["cd \"$(mktemp -d)\"".to_owned(), "pwd".to_owned()];
        words.extend_from_slice(first);
        let files = self.files();
        words.extend(files.iter().map(|(file, name)| {
            let file = quoted(&file.display().to_string());
            format!("ln -s {file} {name}")
        }));
        let command = qemu.command();
        let environment = command.get_envs().filter_map(|(name, value)| {
            let value = value?.to_string_lossy().into_owned();
            Some(format!("{}={}", name.to_string_lossy(), quoted(&value)))
        });
        let program = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let program = program.map(|word| quoted(&word.to_string_lossy()));
        let arguments = self.arguments(qemu.version).into_iter();
        let arguments = arguments.map(|word| quoted(&self.by_hand(word)));
        let run: Vec<_> = environment.chain(program).chain(arguments).collect();
        words.push(run.join(" "));
        format!("({})", words.join(" && "))
    }

    /// An argument as it is when nobody holds the other ends of the pipes.
    fn by_hand(&self, word: String) -> String {
        let port = word
            .strip_prefix("pipe,id=serial")
            .and_then(|rest| rest.split(',').next()?.parse::<usize>().ok());
        match port {
            Some(port) if port + 1 == self.serials => format!("stdio,id=serial{port}"),
            Some(port) => format!("file,id=serial{port},path=serial{port}.log"),
            None => word,
        }
    }

    /// The files that it boots from, by the names that arguments know them by.
    fn files(&self) -> Vec<(&Path, String)> {
        let modules = self.modules.iter().enumerate();
        let modules = modules.map(|(at, module)| (module.file.as_path(), format!("module{at}")));
        let kernel = (self.kernel.as_path(), "kernel".to_owned());
        [kernel].into_iter().chain(modules).collect()
    }

    /// Starts it. `log` gets what QEMU itself has to say.
    pub(crate) fn start(&self, qemu: &Qemu, log: &Path) -> Result<Running> {
        sweep(&std::env::temp_dir());
        let dir = tempfile::Builder::new()
            .prefix(&format!("{DIR_PREFIX}{}-", std::process::id()))
            .tempdir()
            .map_err(Failure::file("create a directory in", std::env::temp_dir()))?;
        for (file, name) in self.files() {
            let file = file.canonicalize().map_err(Failure::file("open", file))?;
            std::os::unix::fs::symlink(file, dir.path().join(&name))
                .map_err(Failure::file("link", name))?;
        }
        let messages = File::create(log).map_err(Failure::file("create", log))?;
        let (ports, theirs) = Ports::open(self.serials)?;
        for (name, fd) in pipes(self.serials) {
            let end = format!("/proc/self/fd/{fd}");
            std::os::unix::fs::symlink(end, dir.path().join(&name))
                .map_err(Failure::file("link", &name))?;
        }

        let mut command = qemu.command();
        command
            .args(self.arguments(qemu.version).into_iter().map(OsString::from))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages)
            // Ctrl-C is for this program alone, which then ends QEMU.
            .process_group(0);
        command
            .fd_mappings(mappings(theirs))
            .map_err(|error| Failure::Guest(format!("serial ports collide: {error}")))?;
        // SAFETY: the closure runs between fork and exec and makes one system call, which neither
        // allocates nor takes locks.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)
            });
        }
        let child = command.spawn().map_err(|error| {
            Failure::host(
                format!("QEMU cannot be run: {error}"),
                "pass one with --qemu PATH",
            )
        })?;
        // Our copies of QEMU's ends must go, or its end would not be seen on them.
        drop(command);
        Ok(Running {
            child,
            ports,
            log: log.to_path_buf(),
            dir,
        })
    }
}

/// Deletes directories of runs that were killed and could not do so.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(DIR_PREFIX))
            .and_then(|rest| {
                let (pid, _) = rest.split_once('-')?;
                pid.parse::<u32>().ok()
            });
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A word as a shell takes it, in quotes only where it needs them.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,.:/@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn module_text((index, module): (usize, &Module)) -> String {
    // A comma separates modules; two stand for one.
    let cmdline = module.cmdline.replace(',', ",,");
    format!("module{index} {cmdline}").trim_end().to_owned()
}

/// By which names QEMU finds the pipes of so many ports, and as which descriptors it has them.
fn pipes(ports: usize) -> impl Iterator<Item = (String, i32)> {
    let names = (0..ports).flat_map(|port| ["in", "out"].map(|way| format!("serial{port}.{way}")));
    names.zip(FIRST_FD..)
}

fn mappings(ports: Vec<Theirs>) -> Vec<FdMapping> {
    (FIRST_FD..)
        .zip(ports.into_iter().flat_map(|port| [port.input, port.output]))
        .map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        })
        .collect()
}

/// A running QEMU; dropping it ends it.
pub(crate) struct Running {
    child: Child,
    /// Its serial ports.
    pub(crate) ports: Ports,
    log: PathBuf,
    dir: tempfile::TempDir,
}

impl Running {
    /// The debugger's socket.
    pub(crate) fn gdb_socket(&self) -> PathBuf {
        self.dir.path().join("gdb")
    }

    /// What QEMU knows of a machine that stands still, written to `stall.log` in `dir`; returns a
    /// line about it.
    pub(crate) fn inquest(&self, dir: &Path) -> String {
        let path = dir.join("stall.log");
        let told = inquest::ask(&self.dir.path().join(MONITOR));
        match std::fs::write(&path, &told.text) {
            Ok(()) => format!("{}; more in {}", told.summary, path.display()),
            Err(_) => told.summary,
        }
    }

    /// Waits for the end of a QEMU whose ports are closed; none if a signal ended it.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().ok()?.code()
    }

    /// Waits for the end of a QEMU whose ports are closed and that no guest ended. With status 1 it
    /// refused to start: no memory, a file it cannot open.
    pub(crate) fn end(&mut self) -> End {
        let refused = self.exit_code() == Some(1);
        let epitaph = self.epitaph();
        match refused {
            true => End::Unbuilt {
                why: epitaph,
                least_mib: None,
            },
            false => End::Broken(epitaph),
        }
    }

    /// Waits for the end of a QEMU whose ports are closed, and says how it ended.
    pub(crate) fn epitaph(&mut self) -> String {
        let status = self
            .child
            .wait()
            .map(|status| status.to_string())
            .unwrap_or_default();
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said: Vec<_> = said
            .lines()
            .filter(|line| !line.contains("warning: TCG"))
            .collect();
        format!("QEMU ended ({status}) {}", said.join("; "))
            .trim_end()
            .to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accel: Accel::Tcg { icount: false },
            mem_mib: 512,
            cpus: 2,
            plugin: None,
            features: Vec::new(),
            kernel: "/cache/xen".into(),
            append: "console=com1".into(),
            modules: vec![Module {
                file: "/a b/guest".into(),
                cmdline: "log=info,mm=debug".into(),
            }],
            serials: 2,
            debug_exit: true,
            gdb: false,
        }
    }

    fn text(machine: &Machine) -> String {
        machine.arguments(Version(10, 0)).join(" ")
    }

    #[test]
    fn commas_reach_the_kernel_and_paths_do_not_reach_the_loader() {
        let arguments = machine().arguments(Version(10, 0));
        let index = arguments.iter().position(|word| word == "-initrd").unwrap();
        assert_eq!(arguments[index + 1], "module0 log=info,,mm=debug");
        assert!(!arguments.iter().any(|word| word.contains("/a b/")));
    }

    #[test]
    fn only_directories_of_the_dead_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir
            .path()
            .join(format!("{DIR_PREFIX}{}-a", std::process::id()));
        // Above the largest process id that Linux gives.
        let dead = dir.path().join(format!("{DIR_PREFIX}4194305-a"));
        let other = dir.path().join("other");
        for path in [&own, &dead, &other] {
            std::fs::create_dir(path).unwrap();
        }
        sweep(dir.path());
        assert!(own.exists() && other.exists() && !dead.exists());
    }

    #[test]
    fn a_shell_takes_the_line_apart_into_the_same_words() {
        let dir = tempfile::tempdir().unwrap();
        // It says what it is, and then what it was given.
        let fake = dir.path().join("a qemu's");
        let text = "#!/bin/sh\n[ \"$1\" = --version ] && echo QEMU emulator version 10.0.2 && exit\n\
                    readlink kernel module0; printf '%s\\n' \"$@\"\n";
        std::fs::write(&fake, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fake, mode).unwrap();
        let qemu = Qemu::choose(&crate::provision::Provision {
            cache: crate::provision::cache::Cache::at(dir.path().join("cache")).unwrap(),
            qemu: Some(fake),
            xen: crate::provision::Xen::parse("4.17").unwrap(),
            dom0_root: None,
            origin: crate::provision::origin::Origin::Host(crate::provision::host::Host::this()),
            update: false,
        });
        let mut machine = machine();
        machine.append = "a='b c' \"$d\" `e` \\ *".into();
        let qemu = qemu.unwrap();
        let line = machine.line(&qemu, &[]);
        assert!(!line.contains('\n'));
        let shell = std::process::Command::new("sh")
            .args(["-c", &line])
            .output();
        let said = String::from_utf8(shell.unwrap().stdout).unwrap();
        let words: Vec<_> = said.lines().collect();
        assert_eq!(words[1..3], ["/cache/xen", "/a b/guest"]);
        let mut expected = machine.arguments(Version(10, 0));
        for word in &mut expected {
            *word = machine.by_hand(std::mem::take(word));
        }
        assert_eq!(words[3..], expected);
        assert!(line.contains("file,id=serial0,path=serial0.log"), "{line}");
        assert!(line.contains("stdio,id=serial1"), "{line}");
        assert!(!line.contains("pipe"), "{line}");
    }

    #[test]
    fn several_modules_are_separated_by_one_comma() {
        let mut machine = machine();
        machine.modules.push(Module::new("/initrd".into()));
        assert!(text(&machine).contains("-initrd module0 log=info,,mm=debug,module1"));
    }

    #[test]
    fn pipes_are_found_where_they_were_put() {
        let (_ports, theirs) = Ports::open(2).unwrap();
        let places: Vec<_> = mappings(theirs).iter().map(|m| m.child_fd).collect();
        let names: Vec<_> = pipes(2).collect();
        assert_eq!(places, [3, 4, 5, 6]);
        assert_eq!(
            names[2..],
            [("serial1.in".into(), 5), ("serial1.out".into(), 6)]
        );
    }

    #[test]
    fn every_port_has_its_own_interrupt() {
        let mut machine = machine();
        machine.serials = 3;
        let text = text(&machine);
        for port in [
            "pipe,id=serial0,path=serial0 -device isa-serial,chardev=serial0,iobase=0x3f8,irq=4",
            "pipe,id=serial1,path=serial1 -device isa-serial,chardev=serial1,iobase=0x2f8,irq=3",
            "pipe,id=serial2,path=serial2 -device isa-serial,chardev=serial2,iobase=0x3e8,irq=5",
        ] {
            assert!(text.contains(port), "{text}");
        }
    }

    #[test]
    fn the_processor_is_one_that_xen_and_tcg_agree_on() {
        assert!(text(&machine()).contains("-accel tcg -cpu EPYC,-monitor,-rdtscp -m 512 -smp 2"));
    }

    #[test]
    fn options_appear_only_when_asked_for() {
        let plain = text(&machine());
        assert!(!plain.contains("-icount") && !plain.contains("-gdb"));
        let counted = Machine {
            accel: Accel::Tcg { icount: true },
            gdb: true,
            ..machine()
        };
        let counted = text(&counted);
        assert!(counted.contains("-icount shift=0,sleep=off"));
        assert!(counted.contains("-gdb unix:path=gdb,server=on,wait=off -S"));
    }
}
