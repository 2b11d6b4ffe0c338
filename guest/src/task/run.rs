//! Which thread runs where, and what happens when one gives its vCPU away.
//!
//! Each vCPU runs its threads in the order in which they came; there are no priorities, and the kernel
//! is not preempted: a thread runs until it parks, ends, or gives way. One that is woken is put on a
//! vCPU that idles, its last one if that does, for as nobody is preempted it could wait for long behind
//! what runs there; where none idles it waits for its last one. A vCPU that runs out of threads takes
//! from others what waits there, before it idles: so nothing waits while a vCPU sleeps.
//!
//! A thread that gives its vCPU away holds nothing: locks mask upcalls, and that is a panic here, with
//! the place. What it has queued in a lazy section is sent, and the parts of the page tables that it
//! works on are let go; the section goes on when the thread does.

extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hypercall::Hypervisor;

use super::state::{Left, State};
use super::switch;
use super::thread::{self, Thread};
use super::vcpu::{self, Vcpu};
use crate::xen::{self, HV};
use crate::{event, mm, stack};

/// Stacks of threads that have ended which are kept for others.
const KEPT: usize = 8;

/// Queues a thread that its state says is to be queued, for the vCPU that suits it, and has that look.
pub(super) fn queue(thread: Arc<Thread>) {
    let mut thread = thread;
    loop {
        let vcpu = choose(&thread);
        match vcpu.push(thread) {
            Ok(first) => {
                // One that idles sleeps, and one that is busy may be in user mode: it learns that
                // somebody waits now.
                if first && !core::ptr::eq(vcpu, vcpu::here_or_boot()) {
                    vcpu.kick();
                }
                return;
            }
            // It was closed meanwhile.
            Err(back) => thread = back,
        }
    }
}

/// The vCPU for a thread that is to wait for one.
fn choose(thread: &Thread) -> &'static Vcpu {
    let home = thread.home();
    if thread.is_pinned() || (home.is_open() && home.claim()) {
        return home;
    }
    let idle = || vcpu::all().find(|vcpu| vcpu.is_open() && vcpu.claim());
    let other = if vcpu::some_idle() { idle() } else { None };
    match other {
        Some(other) => other,
        None if home.is_open() => home,
        None => Vcpu::boot(),
    }
}

/// A thread that waits elsewhere and may run here.
fn steal(here: &'static Vcpu) -> Option<Arc<Thread>> {
    let others = vcpu::all().filter(|vcpu| !core::ptr::eq(*vcpu, here));
    let waiting = others.filter(|vcpu| vcpu.length() != 0);
    waiting
        .map(|vcpu| vcpu.take(|thread| !thread.is_pinned()))
        .find_map(|taken| taken)
}

/// Gives this vCPU to another thread, if `leaves` says of this one's state that it still does; returns
/// when the thread gets a vCPU again, be it this one or another.
///
/// # Panics
/// Upcalls are masked: a lock is held, or this is a handler.
#[track_caller]
pub(super) fn leave(leaves: impl FnOnce(&State) -> bool) {
    let masked = HV.mask_upcalls();
    assert!(
        !masked,
        "the vCPU is given away with upcalls masked: a lock is held, or this is a handler"
    );
    let here = vcpu::here();
    if leaves(&here.current().state) {
        if here.timers.is_lent() {
            here.timers.serve(here);
        }
        let next = here.pop().or_else(|| steal(here));
        match next.or_else(|| here.idle().cloned()) {
            Some(next) => to(here, next),
            None => panic!("vCPU {} has no thread to idle in", here.number()),
        }
    }
    HV.restore_upcalls(false);
}

/// Goes to the next thread that waits for this vCPU, if any does, and queues this one behind the others.
///
/// # Panics
/// As [`leave`].
#[track_caller]
pub(crate) fn yield_now() {
    let masked = HV.mask_upcalls();
    assert!(
        !masked,
        "the vCPU is given away with upcalls masked: a lock is held, or this is a handler"
    );
    give_way();
    HV.restore_upcalls(false);
}

/// The same with upcalls masked, as they are again afterwards.
#[track_caller]
fn give_way() {
    let here = vcpu::here();
    if let Some(next) = here.pop() {
        here.current().state.give_way();
        to(here, next);
    }
}

/// Goes to another thread if this one has had its time while others wait: to be called on the way to
/// user mode, where nothing is held, with upcalls masked or not.
#[inline]
#[track_caller]
pub(crate) fn yield_if_needed() {
    let here = vcpu::here();
    let waits = here.length() != 0 && !here.timers.is_limited();
    if here.overdue.load(Ordering::Relaxed) || waits {
        share();
    }
}

/// The same where others wait, or did when this one had had its time.
#[cold]
#[track_caller]
fn share() {
    let masked = HV.mask_upcalls();
    if vcpu::here().overdue.swap(false, Ordering::Relaxed) {
        give_way();
    }
    // It may be another vCPU now. Who runs from here on has a time of its own.
    let here = vcpu::here();
    if here.length() != 0 {
        here.timers.limit();
    }
    HV.restore_upcalls(masked);
}

/// Goes to a thread that was taken from a queue, or the one that idles, and returns when this one gets
/// a vCPU again. Upcalls are masked.
#[track_caller]
fn to(here: &'static Vcpu, next: Arc<Thread>) {
    let is_idle = |thread: &Arc<Thread>| here.idle().is_some_and(|idle| Arc::ptr_eq(idle, thread));
    if !is_idle(&next) {
        next.state.picked();
    }
    next.set_home(here);
    here.overdue.store(false, Ordering::Relaxed);
    here.timers.forget_limit();
    let current = here.current();
    // SAFETY: this is the thread itself, and a vCPU that switches from it.
    let from = unsafe { current.own.parts() };
    // SAFETY: nobody else switches to it, for it was taken from the queue, or idles here.
    let parts = unsafe { next.own.parts() };
    if let Some(hooks) = &from.hooks {
        hooks.switched_out(parts.hooks.is_some());
    }
    // The page tables go on with what was there before: one is exchanged for the other's twice.
    mm::exchange(&mut parts.section);
    parts.section.swap(&mut from.section);
    if let Some(hooks) = &parts.hooks {
        hooks.switching_in();
    }
    let place = &raw mut from.stack;
    let stack = parts.stack;
    let ran = here.run_next(next);
    if let Some(hooks) = &from.hooks {
        hooks.ran(ran);
    }
    // SAFETY: it was left there by a switch, or prepared. Upcalls are masked.
    unsafe { switch::switch(place, stack) };
    arrived();
}

/// Sees to the thread that this vCPU has left for the one that calls. Upcalls are masked.
pub(super) fn arrived() {
    let here = vcpu::here();
    let Some(before) = here.take_before() else {
        return;
    };
    if here.idle().is_some_and(|idle| Arc::ptr_eq(idle, &before)) {
        return;
    }
    match before.state.left() {
        Left::Parked => {}
        Left::Queue => queue_here(here, before),
        Left::Ended => thread::reap(before),
    }
}

/// Queues a thread on the vCPU that it has just left.
fn queue_here(here: &'static Vcpu, thread: Arc<Thread>) {
    if let Err(thread) = here.push(thread) {
        queue(thread);
    }
}

/// Gives the threads that wait for a vCPU, which is closed and calls, to others, and those that wait for
/// a time there their turn now, so that they wait elsewhere. Those that run nowhere else stay.
pub(super) fn hand_over(here: &'static Vcpu) {
    while let Some(thread) = here.take(|thread| !thread.is_pinned()) {
        queue(thread);
    }
    here.timers.wake_all();
}

/// Sleeps until something comes. Upcalls are masked, and are open meanwhile.
fn sleep(here: &'static Vcpu) {
    if here.timers.is_lent() && here.timers.is_waited_for() {
        // Nothing would end the sleep at its time.
        HV.restore_upcalls(false);
        let _ = hypercall::sched::r#yield(&HV);
        here.timers.serve(here);
    } else if let Err(e) = xen::block() {
        panic!("vCPU {} cannot sleep: {e}", here.number());
    }
    HV.mask_upcalls();
}

/// What a vCPU does while it has no thread to run: it sleeps in Xen, or where there is none in the
/// processor, until something comes.
pub(super) fn idle() {
    loop {
        event::idle();
        if stack::is_trim_due(KEPT)
            && let Err(e) = stack::trim(KEPT)
        {
            log::warn!(target: "task", "a stack is lost: {e}");
        }
        HV.mask_upcalls();
        let here = vcpu::here();
        here.set_idles();
        // Who queues one from here on sees that this vCPU idles.
        let next = here.pop().or_else(|| steal(here));
        if next.is_none() {
            sleep(here);
        }
        here.claim();
        let next = next.or_else(|| here.pop());
        if let Some(next) = next {
            to(here, next);
        }
        HV.restore_upcalls(false);
    }
}
