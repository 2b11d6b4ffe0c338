//! How processes end, and what of them stays until somebody asks.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::task::Waker;

use linux_raw_sys::general as linux;

use super::{FIRST, Life, Node, Process, TREE, Tree, family};
use crate::user::signal::{self, Info};
use crate::user::thread::Thread;

/// Ends a process with a status: all its threads, as soon as each can.
pub(crate) fn end(process: &Process, status: u32) {
    let settled = u64::from(status) + 1;
    // The first word counts.
    let _ = process
        .end
        .compare_exchange(0, settled, Ordering::AcqRel, Ordering::Relaxed);
    let mut tree = TREE.lock();
    if let Some(node) = tree.node(process.number) {
        node.threads.iter().for_each(|thread| thread.doom());
    }
}

/// Has memory given back for a process that found none: it ends, or, as there would be nobody without the
/// first, the last made of the others in its place, unless there is one that ends already. Returns who was
/// ended now.
pub(crate) fn make_room(process: &Process) -> Option<u32> {
    let victim = {
        let tree = TREE.lock();
        let others = || {
            let live = |node: &&Node| !matches!(node.life, Life::Ended(_));
            let nodes = tree.nodes.iter().filter(live).map(|node| &node.process);
            nodes.filter(|other| other.number != FIRST)
        };
        if process.number != FIRST {
            None
        } else if others().any(|other| other.status().is_some()) {
            return None;
        } else {
            others().next_back().cloned()
        }
    };
    let victim = victim.as_deref().unwrap_or(process);
    end(victim, signal::killed_by(linux::SIGKILL));
    Some(victim.number)
}

/// Whether a process has no other thread.
pub(crate) fn is_only_thread(thread: &Arc<Thread>) -> bool {
    let mut tree = TREE.lock();
    tree.node(thread.process.number)
        .is_none_or(|node| node.threads.len() <= 1)
}

/// Ends the other threads of a process, and waits until they are gone.
pub(crate) fn end_other_threads(thread: &Arc<Thread>) {
    let others = |doom: bool| {
        let mut tree = TREE.lock();
        let node = tree.node(thread.process.number);
        let threads = node.map_or(&[][..], |node| &node.threads[..]);
        let mut others = threads.iter().filter(|other| !Arc::ptr_eq(other, thread));
        if doom {
            others.by_ref().for_each(|other| other.doom());
        }
        threads.len() > 1
    };
    let mut left = others(true);
    while left {
        crate::task::yield_now();
        left = others(false);
    }
}

/// A thread has left its program for good, and the last one its process.
pub(crate) fn thread_ended(thread: &Arc<Thread>) {
    let process = &thread.process;
    let is_last = {
        let mut tree = TREE.lock();
        let tree = &mut *tree;
        tree.threads.retain(|number| *number != thread.number);
        let Some(node) = tree.node(process.number) else {
            return;
        };
        node.threads.retain(|other| !Arc::ptr_eq(other, thread));
        node.threads.is_empty()
    };
    if is_last {
        process_ended(process);
    }
}

/// The last thread has left: everything but the status is given back.
fn process_ended(process: &Arc<Process>) {
    let (memory, files) = (process.set_memory(None), process.files.lock().take());
    drop(memory);
    drop(files);
    let alarm = process.alarm.lock().take();
    drop(alarm);
    process.note_program(None, &[]);
    process.give_back_memory();
    let status = process.status().unwrap_or(0);
    let mut gone = Vec::new();
    let leads;
    {
        let mut tree = TREE.lock();
        let tree = &mut *tree;
        let number = process.number;
        let heir = if number == FIRST {
            0
        } else {
            heir(tree, number)
        };
        if let Some(node) = tree.node(number) {
            node.life = Life::Ended(status);
            family::hang_up(tree, number);
        }
        let mut orphans_ended = false;
        for node in tree.nodes.iter_mut().filter(|node| node.parent == number) {
            node.parent = heir;
            // What the parent asked for is nothing to the heir.
            node.end_signal = linux::SIGCHLD;
            orphans_ended |= matches!(node.life, Life::Ended(_));
            let signal = node.process.settings.parent_ended.load(Ordering::Relaxed);
            if signal != 0 {
                let info = Info::from_process(number, linux::SI_USER as i32);
                signal::send(&node.process, &node.threads, signal, info);
            }
        }
        if number == FIRST {
            // Nobody is left to wait for anybody.
            for node in &tree.nodes {
                let settled = u64::from(signal::killed_by(linux::SIGKILL)) + 1;
                let _ = node.process.end.compare_exchange(
                    0,
                    settled,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
                node.threads.iter().for_each(|thread| thread.doom());
            }
        }
        let Some(node) = tree.node(number) else {
            return;
        };
        leads = node.session == number;
        node.is_told = false;
        let (parent, signal) = (node.parent, node.end_signal);
        tree.tell(parent, signal, Info::of_status(number, status));
        if orphans_ended {
            tree.tell(heir, linux::SIGCHLD, Info::default());
        }
        let ignores = |tree: &mut Tree| {
            tree.node(parent).is_none_or(|node| {
                let action = node.process.signals.action(linux::SIGCHLD);
                action.handler == signal::IGNORE || action.has(linux::SA_NOCLDWAIT)
            })
        };
        // The first process is kept for the kernel, and nobody's children for nobody.
        if number != FIRST
            && ignores(tree)
            && let Ok(place) = tree.place(number)
        {
            gone.push(tree.nodes.remove(place));
        }
        if number == FIRST {
            let ended = |node: &mut Node| {
                node.process.number != FIRST && matches!(node.life, Life::Ended(_))
            };
            gone.extend(tree.nodes.extract_if(.., ended));
        }
        tree.waiting.take().into_iter().for_each(Waker::wake);
    }
    if leads {
        crate::user::console::leave_session(process.number);
    }
    // The tree is unlocked: what they have may take a while to give back.
    drop(gone);
}

/// Who inherits the children of a process: the next of those that it descends from that wants them.
fn heir(tree: &mut Tree, mut number: u32) -> u32 {
    while let Some(node) = tree.node(number) {
        number = node.parent;
        let wants = |node: &mut Node| {
            let is_there = !matches!(node.life, Life::Ended(_));
            is_there && node.process.settings.inherits.load(Ordering::Relaxed)
        };
        if number == FIRST || tree.node(number).is_some_and(wants) {
            break;
        }
    }
    number.max(FIRST)
}

/// Whether the first process and all others are gone; if so, its status.
pub(crate) fn all_ended(waker: &Waker) -> Option<u32> {
    let mut tree = TREE.lock();
    let tree = &mut *tree;
    let status = match &tree.nodes[..] {
        [node] => match node.life {
            Life::Ended(status) => Some(status),
            _ => None,
        },
        _ => None,
    };
    if status.is_some() {
        tree.nodes.clear();
        tree.nodes.shrink_to_fit();
        tree.threads.shrink_to_fit();
        tree.last = 0;
    } else {
        tree.waiting = Some(waker.clone());
    }
    status
}
