//! Processes by number, group and session: whom signals reach, and who belongs together.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_raw_sys::general as linux;

use super::{FIRST, KERNEL, Life, Node, Process, TREE, Tree};
use crate::user::errno::{Errno, Result};
use crate::user::signal::{self, Effect, Info};
use crate::user::thread::Thread;

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Process(u32),
    Group(u32),
    /// All but the first and the sender.
    All,
}

/// Whether a signal of a process' is nothing to the first one, without which there are no others: what would
/// end or stop it is sent by itself, by its terminal and by the kernel (`SIGNAL_UNKILLABLE` in Linux'
/// `kernel/signal.c`, which lets it not even end itself).
pub(crate) fn spares(process: &Process, sender: u32, signal: u32) -> bool {
    let others = process.number == FIRST && !matches!(sender, KERNEL | FIRST);
    let effect = || process.signals.action(signal).effect(signal);
    others && matches!(effect(), Effect::End | Effect::Stop)
}

/// Sends a signal of a process' or of the kernel's, or with 0 looks whether there is anybody.
///
/// # Errors
/// `ESRCH`.
pub(crate) fn send(sender: u32, target: Target, signal: u32, info: Info) -> Result<()> {
    send_in(&mut TREE.lock(), sender, target, signal, info)
}

/// As [`send`], with the tree.
fn send_in(tree: &mut Tree, sender: u32, target: Target, signal: u32, info: Info) -> Result<()> {
    let mut any = false;
    let mut continued = Vec::new();
    for node in &mut tree.nodes {
        let number = node.process.number;
        let is_meant = match target {
            Target::Process(one) => number == one,
            Target::Group(group) => node.group == group,
            Target::All => number != FIRST && number != sender,
        };
        if !is_meant {
            continue;
        }
        any = true;
        let is_over = matches!(node.life, Life::Ended(_));
        if signal == 0 || is_over || spares(&node.process, sender, signal) {
            continue;
        }
        let goes_on = matches!(signal, linux::SIGCONT | linux::SIGKILL);
        if goes_on && matches!(node.life, Life::Stopped(_)) {
            node.life = Life::Continued;
            node.is_told = false;
            if continued.try_reserve(1).is_ok() {
                continued.push((node.parent, number));
            }
        }
        signal::send(&node.process, &node.threads, signal, info);
    }
    for (parent, number) in continued {
        let info = Info::of_child(number, linux::CLD_CONTINUED, linux::SIGCONT);
        tree.tell(parent, linux::SIGCHLD, info);
    }
    if any { Ok(()) } else { Err(Errno::ESRCH) }
}

/// The thread of a number, in a process or any.
pub(crate) fn thread(process: Option<u32>, number: u32) -> Option<Arc<Thread>> {
    let tree = TREE.lock();
    tree.nodes
        .iter()
        .filter(|node| process.is_none_or(|process| node.process.number == process))
        .flat_map(|node| &node.threads)
        .find(|thread| thread.number == number)
        .cloned()
}

/// The processes' numbers, in order.
pub(crate) fn numbers() -> Vec<u32> {
    let tree = TREE.lock();
    let mut numbers = Vec::new();
    if numbers.try_reserve_exact(tree.nodes.len()).is_ok() {
        numbers.extend(tree.nodes.iter().map(|node| node.process.number));
    }
    numbers
}

/// A process by its number.
pub(crate) fn by_number(number: u32) -> Option<Arc<Process>> {
    let tree = TREE.lock();
    let place = tree.place(number).ok()?;
    Some(tree.nodes[place].process.clone())
}

/// What a process is to others, and what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// How many threads it has, and what it does, by the letter that `/proc` has for it.
    pub(crate) threads: u32,
    pub(crate) state: char,
}

/// What a process is to others.
///
/// # Errors
/// `ESRCH`.
pub(crate) fn family(number: u32) -> Result<Family> {
    let mut tree = TREE.lock();
    let node = tree.node(number).ok_or(Errno::ESRCH)?;
    Ok(Family {
        parent: node.parent,
        group: node.group,
        session: node.session,
        threads: node.threads.len() as u32,
        state: match node.life {
            Life::Runs | Life::Continued => 'S',
            Life::Stopped(_) => 'T',
            Life::Ended(_) => 'Z',
        },
    })
}

/// Puts a process into a group of its session.
///
/// # Errors
/// `ESRCH`, `EPERM`, `EACCES` as `setpgid`.
pub(crate) fn set_group(caller: &Process, number: u32, group: u32) -> Result<()> {
    let mut tree = TREE.lock();
    let tree = &mut *tree;
    let session = tree.node(caller.number).ok_or(Errno::ESRCH)?.session;
    let exists = |tree: &Tree| {
        tree.nodes
            .iter()
            .any(|node| node.group == group && node.session == session)
    };
    let known = group == number || exists(tree);
    let node = tree.node(number).ok_or(Errno::ESRCH)?;
    let is_child = node.parent == caller.number;
    if number != caller.number && !is_child {
        return Err(Errno::ESRCH);
    }
    if is_child && node.process.has_executed.load(Ordering::Relaxed) {
        return Err(Errno::EACCES);
    }
    if node.session != session || node.session == number || !known {
        return Err(Errno::EPERM);
    }
    node.group = group;
    Ok(())
}

/// Begins a session.
///
/// # Errors
/// `EPERM` for the leader of a group.
pub(crate) fn set_session(caller: &Process) -> Result<u32> {
    let mut tree = TREE.lock();
    let number = caller.number;
    if tree.nodes.iter().any(|node| node.group == number) {
        return Err(Errno::EPERM);
    }
    let node = tree.node(number).ok_or(Errno::ESRCH)?;
    (node.group, node.session) = (number, number);
    Ok(number)
}

/// Notes that a process runs a program of its own; whoever made it is told of its end as of any child's.
pub(crate) fn executed(process: &Process) {
    process.has_executed.store(true, Ordering::Relaxed);
    if let Some(node) = TREE.lock().node(process.number) {
        node.end_signal = linux::SIGCHLD;
    }
}

/// The session of a group.
pub(crate) fn session_of_group(group: u32) -> Option<u32> {
    let tree = TREE.lock();
    let node = tree.nodes.iter().find(|node| node.group == group)?;
    Some(node.session)
}

/// Whether nobody in a group's session but outside of it could have the group go on once it stopped.
pub(crate) fn is_orphaned(group: u32) -> bool {
    !is_kept(&TREE.lock(), group, |_| true)
}

/// Whether a member of a group has a parent in its session but outside of the group, which is one that
/// `counts`.
fn is_kept(tree: &Tree, group: u32, counts: impl Fn(&Node) -> bool) -> bool {
    let is_over = |node: &Node| matches!(node.life, Life::Ended(_));
    let parent = |node: &Node| tree.nodes.get(tree.place(node.parent).ok()?);
    let mut members = tree.nodes.iter().filter(|node| node.group == group);
    members.any(|node| {
        let keeps = |parent: &Node| {
            parent.session == node.session && parent.group != group && !is_over(parent)
        };
        !is_over(node) && parent(node).is_some_and(|parent| keeps(parent) && counts(parent))
    })
}

/// Has the groups end or go on whose last keeper a process was that has ended: of its children, who are
/// still its own, and that it is in itself. A group that is stopped is told by a hang-up, as nobody else
/// would wake it (`kill_orphaned_pgrp` in Linux' `kernel/exit.c`, where the first process keeps nobody).
pub(super) fn hang_up(tree: &mut Tree, number: u32) {
    let Ok(place) = tree.place(number) else {
        return;
    };
    let (group, session, parent) = {
        let node = &tree.nodes[place];
        (node.group, node.session, node.parent)
    };
    let is_kept_by_parent = tree
        .node(parent)
        .is_some_and(|parent| parent.session == session && parent.group != group);
    if is_kept_by_parent {
        hang_up_group(tree, group);
    }
    for place in 0..tree.nodes.len() {
        let node = &tree.nodes[place];
        if node.parent == number && node.session == session && node.group != group {
            let group = node.group;
            hang_up_group(tree, group);
        }
    }
}

fn hang_up_group(tree: &mut Tree, group: u32) {
    let stopped = |node: &Node| node.group == group && matches!(node.life, Life::Stopped(_));
    if tree.nodes.iter().any(stopped) && !is_kept(tree, group, |by| by.process.number != FIRST) {
        for signal in [linux::SIGHUP, linux::SIGCONT] {
            // There is somebody: a member that stopped.
            let _ = send_in(tree, KERNEL, Target::Group(group), signal, Info::default());
        }
    }
}

/// How many processes there are.
pub(crate) fn count() -> usize {
    TREE.lock().nodes.len()
}
