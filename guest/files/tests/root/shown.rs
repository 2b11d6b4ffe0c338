//! `/proc` and `/sys` as programs read them.

use std::sync::Arc;

use crate::common::{LIMITS, Process, boot};
use guest_files::{
    Area, Descriptors, DeviceNumber, Errno, Fill, Place, ProcessFs, ProcessInfo, Processes, Status,
    Text, Time, table_fs,
};
use linux_raw_sys::general as linux;

struct One {
    descriptors: Arc<Descriptors>,
    root: Place,
    program: Place,
}

impl ProcessInfo for One {
    fn status(&self) -> Status {
        Status {
            name: b"a b)c".into(),
            state: 'S',
            process: 1,
            group: 1,
            session: 1,
            foreground: -1,
            threads: 2,
            size: 8192,
            resident: 1,
            ..Status::default()
        }
    }
    fn command_line(&self) -> Vec<u8> {
        b"init\0-x\0".into()
    }
    fn areas(&self) -> Vec<Area> {
        vec![
            Area {
                start: 0x40_0000,
                end: 0x40_1000,
                rights: [true, false, true],
                device: (0, 2),
                inode: 5,
                name: b"/bin/busybox".into(),
                ..Area::default()
            },
            Area {
                start: 0x7fff_0000_0000,
                end: 0x7fff_0000_2000,
                rights: [true, true, false],
                ..Area::default()
            },
        ]
    }
    fn program(&self) -> Option<Place> {
        Some(self.program.clone())
    }
    fn directories(&self) -> Option<(Place, Place)> {
        Some((self.root.clone(), self.root.clone()))
    }
    fn descriptors(&self) -> Option<Arc<Descriptors>> {
        Some(self.descriptors.clone())
    }
}

struct All(Arc<One>);

impl Processes for All {
    fn all(&self) -> Vec<u32> {
        vec![1]
    }
    fn get(&self, process: u32) -> Option<Arc<dyn ProcessInfo>> {
        (process == 1).then(|| self.0.clone() as Arc<dyn ProcessInfo>)
    }
}

fn with_proc() -> Process {
    let process = boot(LIMITS);
    let cwd = linux::AT_FDCWD;
    for path in [&b"/proc"[..], b"/sys", b"/bin"] {
        process.calls().mkdirat(cwd, path, 0o755).unwrap();
    }
    process.make("/bin/busybox", b"program");
    let program = process.open("/bin/busybox", 0, 0).unwrap();
    let one = One {
        descriptors: process.descriptors.clone(),
        root: process.view.root(),
        program: process.descriptors.get(program).unwrap().place.clone(),
    };
    let uptime: Text = Arc::new(|| b"1.00 0.50\n".into());
    let proc = ProcessFs::new(
        &process.system,
        DeviceNumber::new(0, 5),
        Arc::new(All(Arc::new(one))),
        vec![("uptime", uptime.clone()), ("sys/kernel/ostype", uptime)],
    );
    process
        .calls()
        .mount(proc, "proc", b"/proc", false)
        .unwrap();
    let kind: Text = Arc::new(|| b"xen\n".into());
    let sys = table_fs(
        DeviceNumber::new(0, 6),
        vec![
            ("hypervisor/type", kind.clone()),
            ("hypervisor/version/major", kind),
        ],
        Time::default(),
    );
    process.calls().mount(sys, "sysfs", b"/sys", true).unwrap();
    process
}

fn link(process: &Process, path: &str) -> guest_files::Result<String> {
    let mut memory = [0; 200];
    let mut fill = Fill::new(&mut memory);
    let count = process
        .calls()
        .readlinkat(linux::AT_FDCWD, path.as_bytes(), &mut fill)?;
    Ok(String::from_utf8(memory[..count].to_vec()).unwrap())
}

fn text(process: &Process, path: &str) -> String {
    String::from_utf8(process.contents(path).unwrap()).unwrap()
}

#[test]
fn a_process_is_shown_as_linux_shows_it() {
    let process = with_proc();
    assert_eq!(text(&process, "/proc/self/cmdline"), "init\0-x\0");
    assert_eq!(text(&process, "/proc/1/comm"), "a b)c\n");
    assert_eq!(
        text(&process, "/proc/self/maps"),
        "00400000-00401000 r-xp 00000000 00:02 5                                  /bin/busybox\n\
         7fff00000000-7fff00002000 rw-p 00000000 00:00 0 \n"
    );
    let stat = text(&process, "/proc/1/stat");
    assert!(stat.starts_with("1 (a b)c) S 0 1 1 0 -1 0 "), "{stat}");
    assert_eq!(
        stat.split(") ").last().unwrap().split(' ').count(),
        50,
        "{stat}"
    );
    let status = text(&process, "/proc/1/status");
    assert!(status.contains("\nState:\tS (sleeping)\n") && status.contains("VmSize:\t       8 kB"));
    assert_eq!(text(&process, "/proc/1/statm"), "2 1 0 0 0 0 0\n");
}

#[test]
fn links_lead_to_the_very_file() {
    let process = with_proc();
    assert_eq!(link(&process, "/proc/self").unwrap(), "1");
    assert_eq!(link(&process, "/proc/1/exe").unwrap(), "/bin/busybox");
    assert_eq!(link(&process, "/proc/self/cwd").unwrap(), "/");
    let calls = process.calls();
    calls.unlinkat(linux::AT_FDCWD, b"/bin/busybox", 0).unwrap();
    assert_eq!(
        link(&process, "/proc/1/exe").unwrap(),
        "/bin/busybox (deleted)"
    );
    assert_eq!(text(&process, "/proc/1/exe"), "program");
    let [from, to] = calls.pipe2(linux::O_NONBLOCK).unwrap();
    let name = link(&process, &format!("/proc/self/fd/{from}")).unwrap();
    assert!(name.starts_with("pipe:["), "{name}");
    // Opened by its name it is the same pipe.
    let again = process
        .open(&format!("/proc/self/fd/{to}"), linux::O_WRONLY, 0)
        .unwrap();
    assert_eq!(process.write(again, b"x"), Ok(1));
    assert_eq!(process.read(from, 2).unwrap(), b"x");
    let event = calls.eventfd2(0, 0).unwrap();
    let path = format!("/proc/self/fd/{event}");
    assert_eq!(link(&process, &path).unwrap(), "anon_inode:[eventfd]");
    assert_eq!(process.open(&path, 0, 0), Err(Errno::ENXIO));
}

#[test]
fn directories_show_all_names_and_nothing_else() {
    let process = with_proc();
    let mut names = process.names("/proc").unwrap();
    names.sort();
    assert_eq!(
        names,
        ["1", "filesystems", "mounts", "self", "sys", "uptime"]
    );
    assert_eq!(process.names("/proc/self/fd").unwrap(), ["0", "1"]);
    for wrong in [
        "/proc/2",
        "/proc/01",
        "/proc/+1",
        "/proc/x",
        "/proc/self/fd/7",
        "/proc/1/no",
    ] {
        assert_eq!(process.open(wrong, 0, 0), Err(Errno::ENOENT), "{wrong}");
    }
    for name in process.names("/proc/1").unwrap() {
        let path = format!("/proc/1/{name}");
        let flags = linux::AT_SYMLINK_NOFOLLOW;
        process
            .calls()
            .fstatat(linux::AT_FDCWD, path.as_bytes(), flags)
            .unwrap();
    }
    assert_eq!(text(&process, "/proc/sys/kernel/ostype"), "1.00 0.50\n");
    assert_eq!(text(&process, "/sys/hypervisor/type"), "xen\n");
    assert_eq!(
        process.names("/sys/hypervisor").unwrap(),
        ["type", "version"]
    );
}

#[test]
fn what_is_shown_cannot_be_changed() {
    let process = with_proc();
    let calls = process.calls();
    assert_eq!(
        calls.mkdirat(linux::AT_FDCWD, b"/proc/x", 0o755),
        Err(Errno::EPERM)
    );
    assert_eq!(
        calls.mkdirat(linux::AT_FDCWD, b"/sys/x", 0o755),
        Err(Errno::EROFS)
    );
    assert_eq!(
        calls.unlinkat(linux::AT_FDCWD, b"/proc/uptime", 0),
        Err(Errno::EPERM)
    );
    let file = process.open("/proc/uptime", linux::O_RDWR, 0).unwrap();
    assert_eq!(process.write(file, b"x"), Err(Errno::EINVAL));
}

#[test]
fn mounts_are_listed_and_are_in_the_way() {
    let process = with_proc();
    assert_eq!(
        text(&process, "/proc/mounts"),
        "rootfs / tmpfs rw,relatime 0 0\n\
         proc /proc proc rw,relatime 0 0\n\
         sysfs /sys sysfs ro,relatime 0 0\n"
    );
    let calls = process.calls();
    let cwd = linux::AT_FDCWD;
    assert_eq!(
        calls.unlinkat(cwd, b"/proc", linux::AT_REMOVEDIR),
        Err(Errno::EBUSY)
    );
    assert_eq!(
        calls.renameat2(cwd, b"/proc", cwd, b"/old", 0),
        Err(Errno::EBUSY)
    );
    assert_eq!(
        calls.renameat2(cwd, b"/proc/uptime", cwd, b"/x", 0),
        Err(Errno::EXDEV)
    );
    calls.chdir(b"/sys/hypervisor/version").unwrap();
    assert_eq!(link(&process, "/proc/self/cwd").unwrap(), "/");
    let mut memory = [0; 64];
    let count = calls.getcwd(&mut Fill::new(&mut memory)).unwrap();
    assert_eq!(&memory[..count], b"/sys/hypervisor/version\0");
    assert_eq!(process.names("../../../bin").unwrap(), ["busybox"]);
    assert_eq!(calls.umount(b"/sys"), Err(Errno::EBUSY));
    calls.chdir(b"/").unwrap();
    assert_eq!(calls.umount(b"/sys"), Ok(()));
    assert_eq!(process.names("/sys").unwrap(), [""; 0]);
}
