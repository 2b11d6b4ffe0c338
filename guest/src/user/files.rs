//! Files as programs reach them: the crate that has them asks the kernel for pages, time and chance here,
//! and copies to and from programs by what is here.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Poll, Waker};

use guest_files::{
    Argument, Caller, Calls, Fill, Host, Identity, Inode, OpenFile, Page, Place, Sink, Source,
    System, Time,
};
use spin::Once;

use super::access::User;
use super::copy;
use super::errno::{Errno, Result};
use super::memory::{Access, Content};
use super::pages;
use super::process::{self, Target};
use super::random;
use super::signal::{self, Info};
use super::thread::{self, Current, Thread};
use crate::lock::Lock;
use crate::mm::user::HeldFrame;
use crate::rank;
use crate::task::{self, Timer};
use crate::{shared, time};

/// Bytes that are made ready in a program's memory for one look at a file.
pub(crate) const PIECE: usize = 64 << 10;
/// Descriptors that a process may have.
pub(crate) const DESCRIPTORS: u32 = 1024;
const NANOS: u64 = 1_000_000_000;

/// All files, while there are programs.
static SYSTEM: Lock<Option<Arc<System>>, rank::Files> = Lock::new(None);
/// The kernel, as the files know it.
static HOST: Once<Arc<dyn Host>> = Once::new();

/// Has these files be all there are, or none any more.
pub(crate) fn set_system(system: Option<Arc<System>>) {
    let old = core::mem::replace(&mut *SYSTEM.lock(), system);
    drop(old);
    TIMERS.lock().clear();
}

/// All files.
///
/// # Errors
/// `ENOENT` while there are none.
pub(crate) fn system() -> Result<Arc<System>> {
    SYSTEM.lock().clone().ok_or(Errno::ENOENT)
}

/// The kernel, as the files know it.
pub(crate) fn host() -> Arc<dyn Host> {
    HOST.call_once(|| Arc::new(Kernel)).clone()
}

/// Nanoseconds since 1970; since the boot where nobody says more.
pub(crate) fn wall() -> u64 {
    match shared::wall_clock() {
        Some(wall) => wall.saturating_add(time::in_xen(now())),
        None => now(),
    }
}

/// Ticks of the processor's counter for which files are noted the same time: less than a millisecond. Linux
/// notes the time of its last tick, which is longer.
const TICK: u64 = 1_000_000;
/// What the wall clock said when it was looked at last for that, and when by the processor's counter.
static STAMP: AtomicU64 = AtomicU64::new(0);
static STAMPED: AtomicU64 = AtomicU64::new(0);

/// As [`wall`], or as it was within a tick.
fn stamp() -> u64 {
    let tsc = time::tsc();
    let stamped = STAMPED.load(Ordering::Acquire);
    let stamp = STAMP.load(Ordering::Relaxed);
    // A counter that went back, as after a restore, is far ahead.
    if tsc.wrapping_sub(stamped) < TICK && stamp != 0 {
        return stamp;
    }
    let now = wall();
    STAMP.store(now, Ordering::Relaxed);
    STAMPED.store(tsc, Ordering::Release);
    now
}

/// Nanoseconds since 1970 as files have them.
fn time_of(nanoseconds: u64) -> Time {
    Time {
        seconds: (nanoseconds / NANOS) as i64,
        nanos: (nanoseconds % NANOS) as u32,
    }
}

/// The kernel's clock, by which threads sleep: nanoseconds since some beginning.
pub(crate) fn now() -> u64 {
    time::monotonic().unwrap_or_else(time::since_start)
}

/// The kernel itself.
pub(crate) struct Kernel;

/// Who is to be woken at some time: each once, at the earliest that was asked for. Who is woken too early
/// asks again.
static TIMERS: Lock<Vec<(u64, Waker, Timer)>, rank::FileTimers> = Lock::new(Vec::new());

impl Host for Kernel {
    fn page(&self) -> Option<Arc<dyn Page>> {
        let memory = pages::held().ok()?;
        Some(Arc::new(Held(Lock::new(Inside {
            memory: Some(memory),
            is_lent: false,
        }))))
    }

    fn now(&self) -> Time {
        time_of(wall())
    }

    fn stamp(&self) -> Time {
        time_of(stamp())
    }

    fn since_boot(&self) -> u64 {
        now()
    }

    fn random(&self, bytes: &mut [u8]) {
        random::fill(bytes);
    }

    fn wake_at(&self, at: u64, waker: &Waker) {
        let now = now();
        let mut timers = TIMERS.lock();
        timers.retain(|(at, ..)| *at > now);
        let known = timers
            .iter()
            .position(|(_, known, _)| known.will_wake(waker));
        if known.is_some_and(|place| timers[place].0 <= at) {
            return;
        }
        known.map(|place| timers.swap_remove(place));
        let timer = task::wake_at(at, waker.clone());
        match (timer, timers.try_reserve(1)) {
            (Ok(timer), Ok(())) => timers.push((at, waker.clone(), timer)),
            // Without room for it, whoever waits looks again at once.
            _ => waker.wake_by_ref(),
        }
    }

    fn signal_group(&self, group: u32, signal: u32) {
        let info = Info {
            code: linux_raw_sys::general::SI_KERNEL as i32,
            ..Info::default()
        };
        // A group that is gone gets none.
        let _ = process::send(process::KERNEL, Target::Group(group), signal, info);
    }

    fn cut(&self, inode: &Arc<dyn Inode>, size: u64) {
        for number in process::numbers() {
            let memory = process::by_number(number).and_then(|process| process.memory());
            if let Some(memory) = memory {
                memory.cut(identity(inode), size);
            }
        }
    }
}

/// A number that no other file has while anybody has this one.
fn identity(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).addr()
}

/// A page of a file.
struct Held(Lock<Inside, rank::FilePage>);

struct Inside {
    /// None but at its end.
    memory: Option<HeldFrame>,
    /// Whether programs may have it mapped: then it changes under whoever looks at it.
    is_lent: bool,
}

/// Bytes that are copied at once of what programs may have mapped.
const BOUNCE: usize = 256;

impl Held {
    /// Calls `f` with a part of the page, in pieces if programs may have it mapped, until it takes less than
    /// a piece; `back` says whether what it leaves there is the page's. Returns how much it took.
    fn with(
        &self,
        at: usize,
        count: usize,
        back: bool,
        mut f: impl FnMut(&mut [u8]) -> usize,
    ) -> usize {
        let inside = self.0.lock();
        let end = at
            .checked_add(count)
            .filter(|end| *end <= pages::PAGE as usize);
        let (Some(memory), Some(end)) = (&inside.memory, end) else {
            return 0;
        };
        let start = pages::held_memory(memory);
        if !inside.is_lent {
            // SAFETY: a part of the page, which only this value has, behind its lock.
            return f(unsafe { core::slice::from_raw_parts_mut(start.add(at), end - at) });
        }
        let mut done = 0;
        while at + done < end {
            let mut piece = [0; BOUNCE];
            let piece = &mut piece[..BOUNCE.min(end - at - done)];
            // SAFETY: a part of the page.
            let place = unsafe { start.add(at + done) };
            // SAFETY: the page's memory on one side, the kernel's own on the other.
            unsafe { copy::shared(piece.as_mut_ptr(), place, piece.len()) };
            let taken = f(piece);
            if back {
                // SAFETY: the page's memory on one side, the kernel's own on the other.
                unsafe { copy::shared(place, piece.as_ptr(), taken.min(piece.len())) };
            }
            done += taken;
            if taken < piece.len() {
                break;
            }
        }
        done
    }
}

impl Page for Held {
    fn read(&self, at: usize, count: usize, sink: &mut dyn Sink) -> usize {
        self.with(at, count, false, |part| sink.put(part))
    }

    fn write(&self, at: usize, count: usize, source: &mut dyn Source) -> usize {
        self.with(at, count, true, |part| source.take(part))
    }

    fn clear(&self, at: usize, count: usize) {
        self.with(at, count, true, |part| {
            part.fill(0);
            part.len()
        });
    }

    /// Whoever asks may have it mapped from then on.
    fn id(&self) -> u64 {
        let mut inside = self.0.lock();
        inside.is_lent = true;
        inside
            .memory
            .as_ref()
            .map_or(0, |memory| memory.pfn().as_u64())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let memory = self.0.lock().memory.take();
        memory.into_iter().for_each(pages::let_go);
    }
}

/// A file's bytes, for programs that have it mapped.
pub(crate) struct Mapped {
    file: Arc<OpenFile>,
    /// That it is run, if it is.
    _runs: Option<guest_files::Held>,
}

impl Mapped {
    /// To be mapped.
    pub(crate) fn new(file: Arc<OpenFile>) -> Mapped {
        Mapped { file, _runs: None }
    }

    /// To be run.
    ///
    /// # Errors
    /// `ETXTBSY` if somebody has it open to write.
    pub(crate) fn to_run(file: Arc<OpenFile>) -> Result<Mapped> {
        let runs = guest_files::Held::to_run(&file.place.inode)?;
        Ok(Mapped { file, _runs: runs })
    }
}

impl Content for Mapped {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < into.len() {
            let mut fill = Fill::new(&mut into[done..]);
            let count = self.file.place.inode.read(at + done as u64, &mut fill)?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    fn page(&self, at: u64, make: bool) -> Result<Option<Arc<dyn Page>>> {
        self.file.place.inode.page(at / pages::PAGE, make)
    }

    fn identity(&self) -> usize {
        identity(&self.file.place.inode)
    }

    fn place(&self) -> Option<Place> {
        Some(self.file.place.clone())
    }
}

impl Caller for Kernel {
    fn process(&self) -> u32 {
        0
    }

    fn thread(&self) -> u32 {
        0
    }

    fn group(&self) -> u32 {
        0
    }

    fn session(&self) -> u32 {
        0
    }

    fn ignores(&self, _: u32) -> bool {
        true
    }

    fn is_orphaned(&self) -> bool {
        true
    }

    fn session_of_group(&self, _: u32) -> Option<u32> {
        None
    }

    fn descriptor_limit(&self) -> u32 {
        DESCRIPTORS
    }
}

/// The thread that makes a call, as files ask for it.
pub(crate) struct Who<'a>(pub(crate) &'a Thread);

impl Who<'_> {
    fn limit(&self, which: u32) -> [u64; 2] {
        let settings = &self.0.process.settings;
        settings.limit(which).unwrap_or([0; 2])
    }
}

impl Caller for Who<'_> {
    fn process(&self) -> u32 {
        self.0.process.number
    }

    fn thread(&self) -> u32 {
        self.0.number
    }

    fn group(&self) -> u32 {
        process::family(self.0.process.number).map_or(0, |family| family.group)
    }

    fn session(&self) -> u32 {
        process::family(self.0.process.number).map_or(0, |family| family.session)
    }

    fn ignores(&self, signal: u32) -> bool {
        let blocked = self.0.mask.load(Ordering::Relaxed);
        let action = self.0.process.signals.action(signal);
        blocked & signal::bit(signal) != 0 || action.handler == signal::IGNORE
    }

    fn is_orphaned(&self) -> bool {
        process::is_orphaned(self.group())
    }

    fn session_of_group(&self, group: u32) -> Option<u32> {
        process::session_of_group(group)
    }

    fn descriptor_limit(&self) -> u32 {
        let [limit, _] = self.limit(linux_raw_sys::general::RLIMIT_NOFILE);
        u32::try_from(limit).unwrap_or(DESCRIPTORS)
    }

    fn size_limit(&self) -> u64 {
        self.limit(linux_raw_sys::general::RLIMIT_FSIZE)[0]
    }
}

impl Current<'_> {
    /// Calls `f` with the calls on files; `began` is kept while a call is made again.
    pub(crate) fn poll_files<R>(
        &self,
        waker: &Waker,
        began: &Cell<Option<u64>>,
        f: impl FnOnce(&Calls<'_>) -> Poll<Result<R>>,
    ) -> Poll<Result<R>> {
        f(&Calls {
            system: &self.system,
            view: &self.thread.process.view,
            descriptors: &self.files,
            who: &Identity::ROOT,
            caller: &Who(self.thread),
            waker,
            began,
        })
    }

    /// A call that does not wait.
    ///
    /// # Errors
    /// Those of `f`.
    pub(crate) fn now<R>(&self, f: impl FnOnce(&Calls<'_>) -> Result<R>) -> Result<R> {
        match self.poll_files(self.thread.waker(), &Cell::new(None), |calls| {
            Poll::Ready(f(calls))
        }) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(Errno::EAGAIN),
        }
    }

    /// A call that may wait: until it has something, or a signal comes.
    ///
    /// # Errors
    /// As [`now`](Self::now), or the signal.
    pub(crate) fn waiting<R>(&self, mut f: impl FnMut(&Calls<'_>) -> Poll<Result<R>>) -> Result<R> {
        let began = Cell::new(None);
        thread::wait(self.thread, |waker| self.poll_files(waker, &began, &mut f))
    }
}

/// A part of a program's memory, filled from its start.
pub(crate) struct Into<'a> {
    address: u64,
    /// The program whose memory it is, which stays.
    memory: PhantomData<User<'a>>,
    left: usize,
}

impl<'a> Into<'a> {
    /// `count` bytes at an address, of which the pages are there as far as they may be.
    ///
    /// # Errors
    /// `EFAULT` if there is no byte that may be written.
    pub(crate) fn new(user: User<'a>, address: u64, count: usize) -> Result<Into<'a>> {
        let left = user.prepare(address, count.min(PIECE), Access::Write);
        if left == 0 && count > 0 {
            return Err(Errno::EFAULT);
        }
        Ok(Into {
            address,
            left,
            memory: PhantomData,
        })
    }
}

impl Sink for Into<'_> {
    fn room(&self) -> usize {
        self.left
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.left);
        let done = copy::to_user(self.address, &bytes[..count]);
        self.address += done as u64;
        self.left -= done;
        done
    }
}

/// A part of a program's memory, read from its start.
pub(crate) struct From<'a> {
    /// The program whose memory it is, which stays.
    memory: PhantomData<User<'a>>,
    start: u64,
    taken: usize,
    left: usize,
}

impl<'a> From<'a> {
    /// `count` bytes at an address, of which the pages are there as far as they may be.
    ///
    /// # Errors
    /// `EFAULT` if there is no byte that may be read.
    pub(crate) fn new(user: User<'a>, address: u64, count: usize) -> Result<From<'a>> {
        let left = user.prepare(address, count.min(PIECE), Access::Read);
        if left == 0 && count > 0 {
            return Err(Errno::EFAULT);
        }
        Ok(From {
            memory: PhantomData,
            start: address,
            taken: 0,
            left,
        })
    }
}

impl Source for From<'_> {
    fn left(&self) -> usize {
        self.left
    }

    fn taken(&self) -> usize {
        self.taken
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.left);
        let done = copy::from_user(&mut into[..count], self.start + self.taken as u64);
        self.taken += done;
        self.left -= done;
        done
    }

    fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.left);
        self.taken += count;
        self.left -= count;
        count
    }

    fn give_back(&mut self, count: usize) {
        let count = count.min(self.taken);
        self.taken -= count;
        self.left += count;
    }
}

/// The last argument of an ioctl or fcntl.
pub(crate) struct Last<'a>(pub(crate) User<'a>, pub(crate) u64);

impl Argument for Last<'_> {
    fn value(&self) -> u64 {
        self.1
    }

    fn get(&mut self, into: &mut [u8]) -> Result<()> {
        self.0.read_bytes(self.1, into)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_bytes(self.1, bytes)
    }
}
