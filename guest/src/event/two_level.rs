//! The 2-level ABI: one bit a port in `shared_info`, and in `vcpu_info` a word that says which words
//! have something.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hypercall::event::Port;

use crate::shared;

/// Where the bits of a port are: word and bit, if there is such a port.
fn place(port: Port) -> Option<(shared::Ports, usize, u64)> {
    let ports = shared::ports()?;
    let word = port.0 as usize / 64;
    (word < ports.mask.len()).then_some((ports, word, 1 << (port.0 % 64)))
}

/// Whether the ABI has the port.
pub(super) fn has(port: Port) -> bool {
    place(port).is_some()
}

/// Has all events wait.
pub(super) fn mask_all() {
    for word in shared::ports().into_iter().flat_map(|ports| ports.mask) {
        word.store(!0, Ordering::Relaxed);
    }
}

/// Has events of `port` wait.
pub(super) fn mask(port: Port) {
    if let Some((ports, word, bit)) = place(port) {
        ports.mask[word].fetch_or(bit, Ordering::Relaxed);
    }
}

/// Whether `port` was raised; it is not from now on.
pub(super) fn take(port: Port) -> bool {
    place(port).is_some_and(|(ports, word, bit)| {
        ports.pending[word].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    })
}

/// Whether `port` is raised.
pub(super) fn is_raised(port: Port) -> bool {
    place(port)
        .is_some_and(|(ports, word, bit)| ports.pending[word].load(Ordering::Acquire) & bit != 0)
}

/// Calls `serve` for the ports that are raised, each once before one of them again, until none is. The
/// byte says that there is something.
pub(super) fn each_raised(pending: &AtomicU8, selector: &AtomicU64, serve: fn(Port)) {
    let Some(ports) = shared::ports() else { return };
    loop {
        pending.store(0, Ordering::SeqCst);
        // What is raised from here on sets its word's bit again.
        let words = selector.swap(0, Ordering::SeqCst);
        if words == 0 {
            break;
        }
        each_bit(words, |word| {
            let open = !ports.mask[word as usize].load(Ordering::Relaxed);
            let raised = ports.pending[word as usize].load(Ordering::Acquire) & open;
            each_bit(raised, |bit| serve(Port(word * 64 + bit)));
        });
    }
}

/// Calls `f` with the number of each bit that is set.
fn each_bit(mut bits: u64, mut f: impl FnMut(u32)) {
    while bits != 0 {
        f(bits.trailing_zeros());
        bits &= bits - 1;
    }
}
