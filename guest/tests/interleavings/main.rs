//! The kernel's lock and its threads in every order in which vCPUs can come to their words: the code of
//! the kernel, on words of loom's, which tries all orders and, for each load, all values that it may see.
//!
//! Two vCPUs are tried in all orders; three, and two that take a lock again and again, in those in which
//! one is preempted at most [`PREEMPTIONS`] times where it need not wait. The `spin` crate is not part of
//! this: in its place is the smallest lock that there is.
//!
//! `cargo xtask test vcpus`.

#[path = "../../src/lock.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it is the kernel's, and more than is tried here"
)]
mod lock;

#[path = "../../src/rank.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it is the kernel's, and more than is tried here"
)]
mod rank;

#[path = "../../src/task/fifo.rs"]
#[allow(dead_code, reason = "it is the kernel's, and more than is tried here")]
mod fifo;
#[path = "../../src/task/mailbox.rs"]
#[allow(dead_code, reason = "it is the kernel's, and more than is tried here")]
mod mailbox;
#[path = "../../src/task/run_queue.rs"]
#[allow(dead_code, reason = "it is the kernel's, and more than is tried here")]
mod run_queue;
#[path = "../../src/task/state.rs"]
#[allow(dead_code, reason = "it is the kernel's, and more than is tried here")]
mod state;

mod here;
mod locks;
mod threads;

/// The words of threads.
mod words {
    pub(super) use crate::here::{AtomicBool, AtomicUsize, Ordering};
}

use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed};

/// Preemptions of three vCPUs.
const PREEMPTIONS: usize = 3;

/// Tries all orders of what vCPUs do, and says how many there are.
fn try_all(name: &str, preemptions: Option<usize>, vcpus: impl Fn() + Sync + Send + 'static) {
    static ORDERS: [Count; 32] = [const { Count::new(0) }; 32];
    static NEXT: Count = Count::new(0);
    let orders = &ORDERS[NEXT.fetch_add(1, Relaxed)];
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        orders.fetch_add(1, Relaxed);
        vcpus();
    });
    println!("{name}: {} orders", orders.load(Relaxed));
}
