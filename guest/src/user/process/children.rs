//! What parents are told of their children: that they ended, stopped, or go on.

extern crate alloc;

use alloc::sync::Arc;
use core::task::{Poll, Waker};

use linux_raw_sys::general as linux;

use super::{Life, Process, TREE};
use crate::user::errno::{ECHILD, Errno, Result};
use crate::user::signal::Info;

/// Which children are waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Any,
    Process(u32),
    Group(u32),
}

/// What is waited for, besides an end (`WUNTRACED`, `WCONTINUED`, `WNOWAIT`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct For {
    pub(crate) ends: bool,
    pub(crate) stops: bool,
    pub(crate) continues: bool,
    pub(crate) keep: bool,
}

/// A child of which there is something to tell.
pub(crate) struct Found {
    /// As `wait4` has it.
    pub(crate) status: u32,
    /// Who it is.
    pub(crate) process: Arc<Process>,
}

/// Looks for a child of which there is something to tell.
///
/// # Errors
/// `ECHILD` if there is none to wait for.
pub(crate) fn wait(
    parent: &Process,
    which: Which,
    what: For,
    waker: &Waker,
) -> Poll<Result<Found>> {
    let mut tree = TREE.lock();
    let tree = &mut *tree;
    let group = match which {
        // 0 stands for the caller's own.
        Which::Group(0) => tree.node(parent.number).map_or(0, |node| node.group),
        Which::Group(group) => group,
        _ => 0,
    };
    let mut found = None;
    let mut any = false;
    for node in tree
        .nodes
        .iter_mut()
        .filter(|node| node.parent == parent.number)
    {
        let is_meant = match which {
            Which::Any => true,
            Which::Process(number) => node.process.number == number,
            Which::Group(_) => node.group == group,
        };
        if !is_meant {
            continue;
        }
        any = true;
        let status = match node.life {
            Life::Ended(status) if what.ends => Some(status),
            Life::Stopped(signal) if what.stops && !node.is_told => Some(signal << 8 | 0x7f),
            Life::Continued if what.continues && !node.is_told => Some(0xffff),
            _ => None,
        };
        if let Some(status) = status {
            node.is_told |= !what.keep;
            let child = Found {
                status,
                process: node.process.clone(),
            };
            found = Some((child, matches!(node.life, Life::Ended(_))));
            break;
        }
    }
    if let Some((child, is_over)) = found {
        if is_over
            && !what.keep
            && let Ok(place) = tree.place(child.process.number)
        {
            tree.nodes.remove(place);
            for used in [&child.process.usage, &child.process.children_usage] {
                parent.children_usage.add(used);
            }
            if let Some(first) = tree.waiting.take() {
                first.wake();
            }
        }
        return Poll::Ready(Ok(child));
    }
    if !any {
        return Poll::Ready(Err(ECHILD));
    }
    let node = tree.node(parent.number);
    if let Some(node) = node.filter(|node| !node.waiting.iter().any(|known| known.will_wake(waker)))
    {
        if node.waiting.try_reserve(1).is_err() {
            return Poll::Ready(Err(Errno::ENOMEM));
        }
        node.waiting.push(waker.clone());
    }
    Poll::Pending
}

/// Has a process stop by a signal, and its parent told.
pub(crate) fn stop(process: &Process, signal: u32) {
    let mut tree = TREE.lock();
    let Some(node) = tree.node(process.number) else {
        return;
    };
    node.life = Life::Stopped(signal);
    node.is_told = false;
    let parent = node.parent;
    node.threads.iter().for_each(|thread| thread.wake());
    let info = Info::of_child(process.number, linux::CLD_STOPPED, signal);
    let wants = tree.node(parent).is_some_and(|node| {
        !node
            .process
            .signals
            .action(linux::SIGCHLD)
            .has(linux::SA_NOCLDSTOP)
    });
    tree.tell(parent, if wants { linux::SIGCHLD } else { 0 }, info);
}

/// Whether a process is stopped.
pub(crate) fn is_stopped(process: &Process) -> bool {
    let mut tree = TREE.lock();
    tree.node(process.number)
        .is_some_and(|node| matches!(node.life, Life::Stopped(_)))
}
