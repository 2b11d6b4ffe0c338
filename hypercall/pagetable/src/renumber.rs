//! What a restored domain must do: its memory is what it was, and every machine frame behind it is
//! another.
//!
//! Xen's tools write entries of page tables and the p2m list anew. The records of frames and spaces
//! know pseudo-physical numbers alone, and stay. What is left are the places of tables that each vCPU
//! remembers, by the machine addresses that updates of them name.

use crate::entry::{L4, TableLevel};
use crate::machine::Machine;
use crate::tables::Tables;

impl<M: Machine> Tables<M> {
    /// Has all vCPUs forget the machine numbers that they remember, once the domain was restored.
    ///
    /// Updates that were queued before name numbers of before: whoever suspends a domain has every vCPU
    /// flush first ([`Tables::flush`]).
    pub fn renumbered(&mut self) {
        self.domain().changed(L4::NUMBER);
    }
}
