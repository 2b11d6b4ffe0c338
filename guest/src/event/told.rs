//! What is told of events to whoever asks: how Xen says them, and who has which port.

use hypercall::event::Port;

use super::{Called, TABLE, fifo};

/// The ABI by which Xen says what is raised, in words.
pub(crate) fn abi() -> &'static str {
    match fifo::is_used() {
        true => "in queues by priority (FIFO)",
        false => "by two levels of bits",
    }
}

/// A port that somebody has.
pub(crate) struct Told {
    pub(crate) port: Port,
    pub(crate) vcpu: u32,
    /// Calls of its handler; `None` for one that somebody waits for.
    pub(crate) calls: Option<u64>,
    pub(crate) is_held: bool,
}

/// Every port that has a handler or is waited for, by number.
pub(crate) fn tell() -> impl Iterator<Item = Told> {
    let count = TABLE.lock().entries.len();
    (0..count as u32).filter_map(|number| {
        let mut table = TABLE.lock();
        let entry = table.entry(Port(number))?;
        Some(Told {
            port: Port(number),
            vcpu: entry.vcpu,
            calls: matches!(entry.called, Called::Handler(_)).then_some(entry.total),
            is_held: entry.held.is_some(),
        })
    })
}
