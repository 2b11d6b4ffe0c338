//! A kernel that is a test: heap pages, a clock that counts, one process after another.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use guest_files::{
    Caller, Calls, Descriptors, DeviceNumber, Drain, Errno, Fill, HeapPage, Host, Identity, Limits,
    MemoryFs, Opening, Page, Result, System, Time, View,
};
use linux_raw_sys::general as linux;

/// The kernel around the files.
#[derive(Default)]
pub(crate) struct TestHost {
    ticks: AtomicU64,
    pub(crate) signals: Mutex<Vec<(u32, u32)>>,
    pub(crate) timers: Mutex<Vec<(u64, Waker)>>,
    /// Pages that it still has; `None` for as many as there are.
    pub(crate) pages: Mutex<Option<u32>>,
}

impl TestHost {
    /// Time goes on to `time` nanoseconds after the boot.
    pub(crate) fn advance(&self, time: u64) {
        self.ticks.store(time, Ordering::Relaxed);
        let mut timers = self.timers.lock().unwrap();
        let (due, later) = timers.drain(..).partition(|(at, _)| *at <= time);
        *timers = later;
        drop(timers);
        let due: Vec<(u64, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Host for TestHost {
    fn page(&self) -> Option<Arc<dyn Page>> {
        let mut pages = self.pages.lock().unwrap();
        if let Some(left) = &mut *pages {
            *left = left.checked_sub(1)?;
        }
        HeapPage::zeroed()
    }

    fn now(&self) -> Time {
        Time {
            seconds: 1_700_000_000 + self.ticks.fetch_add(1, Ordering::Relaxed) as i64,
            nanos: 5,
        }
    }

    fn since_boot(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill_with(|| fastrand::u8(..));
    }

    fn wake_at(&self, time: u64, waker: &Waker) {
        self.timers.lock().unwrap().push((time, waker.clone()));
    }

    fn signal_group(&self, group: u32, signal: u32) {
        self.signals.lock().unwrap().push((group, signal));
    }
}

/// A waker that tells whether it was woken.
#[derive(Default)]
pub(crate) struct Woken(AtomicBool);

impl Woken {
    /// Whether it was woken since the last time.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Lets a thread go on.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A process.
pub(crate) struct Process {
    pub(crate) system: Arc<System>,
    pub(crate) host: Arc<TestHost>,
    pub(crate) view: View,
    pub(crate) descriptors: Arc<Descriptors>,
    pub(crate) who: Identity,
    pub(crate) pid: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    pub(crate) ignored: Vec<u32>,
    pub(crate) orphaned: bool,
    pub(crate) limit: u32,
    pub(crate) woken: Arc<Woken>,
    waker: Waker,
    /// When the last call began; a test that waits for time sets it anew.
    pub(crate) began: Cell<Option<u64>>,
}

impl Caller for Process {
    fn process(&self) -> u32 {
        self.pid
    }
    fn thread(&self) -> u32 {
        self.pid
    }
    fn group(&self) -> u32 {
        self.group
    }
    fn session(&self) -> u32 {
        self.session
    }
    fn ignores(&self, signal: u32) -> bool {
        self.ignored.contains(&signal)
    }
    fn is_orphaned(&self) -> bool {
        self.orphaned
    }
    fn session_of_group(&self, group: u32) -> Option<u32> {
        (group < 100).then_some(1)
    }
    fn descriptor_limit(&self) -> u32 {
        self.limit
    }
}

/// Limits that no test meets by accident.
pub(crate) const LIMITS: Limits = Limits {
    pages: 10_000,
    inodes: 10_000,
};

/// A system with an empty root, and its first process.
pub(crate) fn boot(limits: Limits) -> Process {
    let host = Arc::new(TestHost::default());
    let root = MemoryFs::new(host.clone(), DeviceNumber::new(0, 2), limits, 0o755).unwrap();
    let system = System::new(host.clone(), root);
    Process::first(system, host)
}

impl Process {
    pub(crate) fn first(system: Arc<System>, host: Arc<TestHost>) -> Self {
        let view = View::new(&system);
        let woken = Arc::new(Woken::default());
        Self {
            system,
            host,
            view,
            descriptors: Arc::new(Descriptors::new()),
            who: Identity::ROOT,
            pid: 1,
            group: 1,
            session: 1,
            ignored: Vec::new(),
            orphaned: false,
            limit: 1024,
            waker: woken.clone().into(),
            began: Cell::new(None),
            woken,
        }
    }

    /// Another process with the same descriptors.
    pub(crate) fn fork(&self, pid: u32) -> Self {
        let woken = Arc::new(Woken::default());
        Self {
            system: self.system.clone(),
            host: self.host.clone(),
            view: self.view.fork(),
            descriptors: Arc::new(self.descriptors.fork().unwrap()),
            who: self.who.clone(),
            ignored: self.ignored.clone(),
            waker: woken.clone().into(),
            began: Cell::new(None),
            woken,
            pid,
            ..*self
        }
    }

    /// A process of its own thread, with these descriptors: what waits parks the thread.
    pub(crate) fn in_thread(
        system: &Arc<System>,
        host: &Arc<TestHost>,
        descriptors: &Arc<Descriptors>,
    ) -> Self {
        let mut process = Self::first(system.clone(), host.clone());
        process.descriptors = descriptors.clone();
        process.waker = Arc::new(Unpark(std::thread::current())).into();
        process
    }

    /// Makes a call until it is done, and parks the thread while it waits.
    pub(crate) fn wait<T>(&self, mut call: impl FnMut(&Calls<'_>) -> Poll<Result<T>>) -> Result<T> {
        loop {
            match call(&self.calls()) {
                Poll::Ready(done) => return done,
                Poll::Pending => {
                    let since = Instant::now();
                    std::thread::park_timeout(Duration::from_secs(20));
                    assert!(
                        since.elapsed() < Duration::from_secs(20),
                        "nobody woke the thread"
                    );
                }
            }
        }
    }

    pub(crate) fn calls(&self) -> Calls<'_> {
        Calls {
            system: &self.system,
            view: &self.view,
            descriptors: &self.descriptors,
            who: &self.who,
            caller: self,
            waker: &self.waker,
            began: &self.began,
        }
    }

    /// Opens, and fails if that waits.
    pub(crate) fn open(&self, path: &str, flags: u32, mode: u32) -> Result<i32> {
        let mut opening = Opening::default();
        now(self
            .calls()
            .openat(&mut opening, linux::AT_FDCWD, path.as_bytes(), flags, mode))
    }

    /// Reads up to `count` bytes.
    pub(crate) fn poll_read(&self, descriptor: i32, count: usize) -> Poll<Result<Vec<u8>>> {
        let mut bytes = vec![0; count];
        let read = self.calls().read(descriptor, &mut Fill::new(&mut bytes));
        read.map(|count| {
            bytes.truncate(count?);
            Ok(bytes)
        })
    }

    pub(crate) fn read(&self, descriptor: i32, count: usize) -> Result<Vec<u8>> {
        now(self.poll_read(descriptor, count))
    }

    pub(crate) fn write(&self, descriptor: i32, bytes: &[u8]) -> Result<usize> {
        now(self.calls().write(descriptor, &mut Drain::new(bytes)))
    }

    /// Makes a file that has these bytes.
    pub(crate) fn make(&self, path: &str, bytes: &[u8]) {
        let flags = linux::O_CREAT | linux::O_WRONLY | linux::O_TRUNC;
        let file = self.open(path, flags, 0o644).unwrap();
        assert_eq!(self.write(file, bytes), Ok(bytes.len()));
        self.calls().close(file).unwrap();
    }

    /// All bytes of a file.
    pub(crate) fn contents(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.open(path, linux::O_RDONLY, 0)?;
        let mut all = Vec::new();
        loop {
            let bytes = self.read(file, 1000)?;
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        self.calls().close(file)?;
        Ok(all)
    }

    /// The names in a directory but `.` and `..`, as `getdents64` gives them.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>> {
        let file = self.open(path, linux::O_RDONLY | linux::O_DIRECTORY, 0)?;
        let mut names = Vec::new();
        loop {
            let mut bytes = [0; 400];
            let mut fill = Fill::new(&mut bytes);
            let count = now(self.calls().getdents64(file, &mut fill))?;
            if count == 0 {
                break;
            }
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
                let name = rest[19..length].split(|&byte| byte == 0).next().unwrap();
                names.push(String::from_utf8(name.to_vec()).unwrap());
                rest = &rest[length..];
            }
        }
        self.calls().close(file)?;
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }
}

/// What a call gives that must not wait here.
pub(crate) fn now<T>(done: Poll<Result<T>>) -> Result<T> {
    match done {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the call waits"),
    }
}

/// Whether an error is what Linux would give.
pub(crate) fn number<T>(done: Result<T>) -> core::result::Result<T, i32> {
    done.map_err(Errno::number)
}
