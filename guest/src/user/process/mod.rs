//! Processes: who descends from whom, how they end, and who is told.
//!
//! What the threads of a process share is in [`Process`]; what a process is to others is a node of the
//! tree, behind one lock, which is held for a look or a change and never while something is waited for
//! or given back.

mod children;
mod end;
mod family;
mod settings;

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::task::{Poll, Waker};

pub(crate) use children::{For, Found, Which, is_stopped, stop, wait};
pub(crate) use end::{all_ended, end, end_other_threads, is_only_thread, make_room, thread_ended};
pub(crate) use family::{
    Target, by_number, count, executed, family, is_orphaned, numbers, send, session_of_group,
    set_group, set_session, spares, thread,
};

pub(crate) use settings::Settings;

use guest_files::{Descriptors, Place, View};

use crate::lock::Lock;
use crate::rank;
use crate::user::alarm::Alarm;
use crate::user::errno::{Errno, Result, Room};
use crate::user::memory::Memory;
use crate::user::signal::{self, Info, Signals};
use crate::user::thread::Thread;
use crate::user::usage::Usage;

/// Processes and threads that there may be together, as Linux' `kernel.pid_max` is by default.
const MOST: u32 = 32768;
/// The first process, which inherits those whose parent ended.
pub(crate) const FIRST: u32 = 1;
/// Whose signals those of no process are.
pub(crate) const KERNEL: u32 = 0;

/// What the threads of a process share.
pub(crate) struct Process {
    /// Its number.
    pub(crate) number: u32,
    pub(crate) signals: Signals,
    pub(crate) settings: Settings,
    /// None once it has ended.
    memory: Lock<Option<Arc<Memory>>, rank::Process>,
    /// The name of what it runs.
    pub(crate) name: Lock<heapless::Vec<u8, 15>, rank::Process>,
    /// What it runs, and its arguments, each with a 0 behind it.
    pub(crate) program: Lock<Option<Place>, rank::Process>,
    arguments: Lock<Vec<u8>, rank::Process>,
    /// Its open files; none once it has ended.
    files: Lock<Option<Arc<Descriptors>>, rank::Process>,
    /// Where paths begin for it.
    pub(crate) view: Arc<View>,
    /// How it wants to be run, by the bits of `personality`.
    pub(crate) personality: AtomicU32,
    /// Whether it has run a program since it was made.
    pub(crate) has_executed: AtomicBool,
    /// Whether its parent waits until it no longer uses the parent's memory.
    borrows: AtomicBool,
    /// That parent's thread.
    lender: Lock<Option<Waker>, rank::Process>,
    /// What tells it at some time.
    pub(crate) alarm: Lock<Option<Alarm>, rank::Process>,
    /// What it used, and those of its children that it has waited for.
    pub(crate) usage: Usage,
    pub(crate) children_usage: Usage,
    /// How it ends, once that is settled: the status and one.
    end: AtomicU64,
}

/// What a process is to others.
struct Node {
    process: Arc<Process>,
    parent: u32,
    group: u32,
    session: u32,
    threads: Vec<Arc<Thread>>,
    /// The signal its parent gets when it ends.
    end_signal: u32,
    life: Life,
    /// Whether the parent was told of its stop, or of its going on.
    is_told: bool,
    /// Threads that wait for a child.
    waiting: Vec<Waker>,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Runs,
    /// By this signal.
    Stopped(u32),
    /// It goes on after it was stopped.
    Continued,
    /// With this status.
    Ended(u32),
}

struct Tree {
    /// By number.
    nodes: Vec<Node>,
    /// Numbers of threads besides the first of each process.
    threads: Vec<u32>,
    last: u32,
    /// Who waits for all to be gone.
    waiting: Option<Waker>,
}

static TREE: Lock<Tree, rank::Tree> = Lock::new(Tree {
    nodes: Vec::new(),
    threads: Vec::new(),
    last: 0,
    waiting: None,
});

impl Tree {
    fn place(&self, number: u32) -> Result<usize, usize> {
        self.nodes
            .binary_search_by_key(&number, |node| node.process.number)
    }

    fn node(&mut self, number: u32) -> Option<&mut Node> {
        let place = self.place(number).ok()?;
        self.nodes.get_mut(place)
    }

    /// A number that nobody has.
    fn number(&mut self) -> Result<u32> {
        for _ in 0..MOST {
            self.last = if self.last + 1 < MOST {
                self.last + 1
            } else {
                FIRST + 1
            };
            let number = self.last;
            let is_used = self.place(number).is_ok()
                || self.threads.contains(&number)
                || self
                    .nodes
                    .iter()
                    .any(|node| node.group == number || node.session == number);
            if !is_used {
                return Ok(number);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Tells a process that something became of a child.
    fn tell(&mut self, parent: u32, signal: u32, info: Info) {
        let Some(node) = self.node(parent) else {
            return;
        };
        // `clone` takes any number for it; one that is no signal's is never sent.
        if (1..=signal::COUNT).contains(&signal) {
            signal::send(&node.process, &node.threads, signal, info);
        }
        node.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Process {
    /// Its memory, which it has up to its end.
    pub(crate) fn memory(&self) -> Option<Arc<Memory>> {
        self.memory.lock().clone()
    }

    /// Has other memory from now on, or none; the old is the caller's to drop.
    pub(crate) fn set_memory(&self, memory: Option<Arc<Memory>>) -> Option<Arc<Memory>> {
        core::mem::replace(&mut self.memory.lock(), memory)
    }

    /// Its open files, which it has up to its end.
    pub(crate) fn files(&self) -> Option<Arc<Descriptors>> {
        self.files.lock().clone()
    }

    /// Uses its parent's memory no more.
    pub(crate) fn give_back_memory(&self) {
        self.borrows.store(false, Ordering::Release);
        let lender = self.lender.lock().take();
        lender.into_iter().for_each(Waker::wake);
    }

    /// Whether it still uses its parent's memory; if so, `waker` is woken when that ends.
    pub(crate) fn borrows(&self, waker: &Waker) -> Poll<()> {
        *self.lender.lock() = Some(waker.clone());
        if self.borrows.load(Ordering::Acquire) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Its arguments, each with a 0 behind it.
    pub(crate) fn command_line(&self) -> Vec<u8> {
        let arguments = self.arguments.lock();
        let mut copy = Vec::new();
        if copy.room(arguments.len()).is_ok() {
            copy.extend_from_slice(&arguments);
        }
        copy
    }

    /// Notes what it runs.
    pub(crate) fn note_program(&self, place: Option<Place>, arguments: &[Vec<u8>]) {
        let mut line = Vec::new();
        for argument in arguments {
            // What there is no memory for is not shown.
            if line.room(argument.len() + 1).is_ok() {
                line.extend_from_slice(argument);
                line.push(0);
            }
        }
        let old = core::mem::replace(&mut *self.arguments.lock(), line);
        let place = core::mem::replace(&mut *self.program.lock(), place);
        drop((old, place));
    }

    /// Names what it runs, by a path.
    pub(crate) fn set_name(&self, path: &[u8]) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let mut kept = heapless::Vec::new();
        // What does not fit is cut.
        let _ = kept.extend_from_slice(&name[..name.len().min(kept.capacity())]);
        *self.name.lock() = kept;
    }

    /// How it ends, if that is settled.
    fn status(&self) -> Option<u32> {
        (self.end.load(Ordering::Acquire) as u32).checked_sub(1)
    }
}

/// What a new process has of its parent's.
pub(crate) struct New<'a> {
    /// The parent; none has the first process.
    pub(crate) parent: Option<&'a Process>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) files: Arc<Descriptors>,
    pub(crate) view: Arc<View>,
    /// Whether the memory is the parent's own.
    pub(crate) borrows: bool,
    /// The signal that the parent gets when it ends.
    pub(crate) end_signal: u32,
}

/// Makes a process, with a first thread that is made by `thread` and does not run yet.
///
/// # Errors
/// `EAGAIN` for too many, `ENOMEM`.
pub(crate) fn create(
    new: New<'_>,
    thread: impl FnOnce(u32, Arc<Process>) -> Option<Arc<Thread>>,
) -> Result<Arc<Thread>> {
    let parent = new.parent;
    let number = {
        let mut tree = TREE.lock();
        if parent.is_none() {
            // Whatever became of one that was to be the first before.
            tree.last = FIRST - 1;
        }
        tree.number()?
    };
    let process = Arc::new(Process {
        number,
        signals: parent.map_or_else(Signals::new, |parent| parent.signals.duplicate()),
        settings: match parent {
            Some(parent) => parent.settings.duplicate()?,
            None => Settings::new(),
        },
        memory: Lock::new(Some(new.memory)),
        name: Lock::new(
            parent.map_or_else(heapless::Vec::new, |parent| parent.name.lock().clone()),
        ),
        program: Lock::new(parent.and_then(|parent| parent.program.lock().clone())),
        arguments: Lock::new(parent.map_or_else(Vec::new, Process::command_line)),
        files: Lock::new(Some(new.files)),
        view: new.view,
        personality: AtomicU32::new(
            parent.map_or(0, |parent| parent.personality.load(Ordering::Relaxed)),
        ),
        has_executed: AtomicBool::new(false),
        borrows: AtomicBool::new(new.borrows),
        lender: Lock::new(None),
        alarm: Lock::new(None),
        usage: Usage::default(),
        children_usage: Usage::default(),
        end: AtomicU64::new(0),
    });
    let thread = thread(number, process.clone()).ok_or(Errno::ENOMEM)?;
    let mut threads = Vec::new();
    threads.room(1)?;
    threads.push(thread.clone());
    let mut tree = TREE.lock();
    tree.nodes.room(1)?;
    let (group, session) = match parent.and_then(|parent| tree.node(parent.number)) {
        Some(node) => (node.group, node.session),
        None => (number, number),
    };
    // Between two looks at the tree somebody else may have taken the number.
    let place = match tree.place(number) {
        Ok(_) => return Err(Errno::EAGAIN),
        Err(place) => place,
    };
    tree.nodes.insert(
        place,
        Node {
            process,
            parent: parent.map_or(0, |parent| parent.number),
            group,
            session,
            threads,
            end_signal: new.end_signal,
            life: Life::Runs,
            is_told: true,
            waiting: Vec::new(),
        },
    );
    Ok(thread)
}

/// Takes back a process that was created and never ran.
pub(crate) fn withdraw(thread: &Arc<Thread>) {
    let mut tree = TREE.lock();
    let gone = tree
        .place(thread.process.number)
        .ok()
        .map(|place| tree.nodes.remove(place));
    drop(tree);
    drop(gone);
}

/// Adds a thread to a process; `thread` makes it.
///
/// # Errors
/// `EAGAIN` for too many or if the process ends, `ENOMEM`.
pub(crate) fn add_thread(
    process: &Arc<Process>,
    thread: impl FnOnce(u32) -> Option<Arc<Thread>>,
) -> Result<Arc<Thread>> {
    let number = TREE.lock().number()?;
    let thread = thread(number).ok_or(Errno::ENOMEM)?;
    let mut tree = TREE.lock();
    let tree = &mut *tree;
    tree.threads.room(1)?;
    let is_taken = tree.place(number).is_ok() || tree.threads.contains(&number);
    let node = tree.node(process.number).ok_or(Errno::EAGAIN)?;
    if is_taken || process.status().is_some() {
        return Err(Errno::EAGAIN);
    }
    node.threads.room(1)?;
    node.threads.push(thread.clone());
    tree.threads.push(number);
    Ok(thread)
}
