//! The audit: counts every reference again, from the tables, and compares.
//!
//! This is what the model's own tests rest on: a count that is off by one is found at the request
//! that made it so, not when a table is torn down much later.

use std::fmt::Write as _;

use hypercall::{Mfn, mmu::Level};

use crate::{
    entry::{self, P, PSE, RW},
    frame::{Owner, Type},
    state::State,
};

/// References and uses of a frame that something accounts for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    count: u32,
    types: u32,
}

impl State {
    /// Every difference between what the tables hold and what the frames say.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let mut wrong = String::new();
        let first = self.mem.mfns().next().map_or(0, Mfn::as_u64);
        let mut held = vec![Held::default(); (self.mem.end() - first) as usize];
        let mut hold = |mfn: Mfn, types: u32| {
            if let Some(held) = held.get_mut(mfn.as_u64().wrapping_sub(first) as usize) {
                held.count += 1;
                held.types += types;
            }
        };
        for mfn in self.mem.mfns() {
            let frame = &self.mem[mfn];
            if frame.owner != Owner::Guest {
                continue;
            }
            if frame.allocated {
                hold(mfn, frame.special as u32);
            }
            if frame.pinned {
                hold(mfn, 1);
            }
            if frame.type_count == 0 {
                continue;
            }
            if !frame.validated {
                let _ = writeln!(wrong, "{mfn}: used as {:?}, not validated", frame.kind);
            }
            let Type::Table(level) = frame.kind else {
                continue;
            };
            for index in 0..512 {
                let value = self.mem.read(mfn, index);
                let xen = level == Level::L4 && entry::is_xen_slot(index);
                if value & P == 0 || xen {
                    continue;
                }
                self.audit_entry(&mut wrong, &mut hold, mfn, level, index, value);
            }
        }
        for vcpu in self
            .vcpus
            .iter()
            .filter(|vcpu| vcpu.kernel_l4 != Mfn::default())
        {
            hold(vcpu.kernel_l4, 1);
            for &frame in vcpu.user_l4.iter().chain(&vcpu.gdt) {
                hold(frame, 1);
            }
            if vcpu.info_moved {
                hold(vcpu.info.frame(), 1);
            }
        }
        for (mfn, held) in self.mem.mfns().zip(held) {
            let frame = &self.mem[mfn];
            let said = Held {
                count: frame.count,
                types: frame.type_count,
            };
            if frame.owner == Owner::Guest && said != held {
                let _ = writeln!(
                    wrong,
                    "{mfn} ({:?}): {} references and {} uses, {} and {} accounted for",
                    frame.kind, said.count, said.types, held.count, held.types
                );
            }
        }
        for (id, vcpu) in self.vcpus.iter().enumerate() {
            if !vcpu.tlb.dirty && !vcpu.tlb.is_empty() {
                let _ = writeln!(wrong, "vCPU {id} has a TLB, and no flush reaches it");
            }
        }
        for mfn in self.vcpus.iter().flat_map(|vcpu| vcpu.tlb.writable()) {
            let live = |frame: &crate::Frame| {
                frame.type_count > 0 && matches!(frame.kind, Type::Table(_) | Type::Segments)
            };
            if self.mem.is_valid(mfn) && live(&self.mem[mfn]) {
                let kind = self.mem[mfn].kind;
                let _ = writeln!(wrong, "{mfn} ({kind:?}) is writable through a TLB");
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn audit_entry(
        &self,
        wrong: &mut String,
        hold: &mut impl FnMut(Mfn, u32),
        table: Mfn,
        level: Level,
        index: usize,
        value: u64,
    ) {
        let target = entry::frame(value);
        let large = level != Level::L1 && value & PSE != 0;
        let bad = value & self.rights().disallowed(level) & !if large { PSE } else { 0 };
        if bad != 0 && self.mem.is_valid(target) {
            let _ = writeln!(
                wrong,
                "{table} {level}[{index}]: {value:#x} has bits {bad:#x}"
            );
        }
        if entry::adjust(level, value) != value {
            let _ = writeln!(
                wrong,
                "{table} {level}[{index}]: {value:#x} is not rewritten"
            );
        }
        if !self.mem.is_valid(target) {
            if level != Level::L1 {
                let _ = writeln!(wrong, "{table} {level}[{index}]: {value:#x} names no RAM");
            }
            return;
        }
        let writable = (value & RW != 0) as u32;
        match level {
            Level::L1 => hold(target, writable),
            _ if target == table => {}
            _ if large => {
                let pages = if level == Level::L2 { 512 } else { 512 * 512 };
                for page in 0..pages {
                    hold(target.add(page), writable);
                }
            }
            _ => {
                let linear = self.mem[target].kind == Type::Table(level);
                let below = crate::types::below(level).map(Type::Table);
                if !linear && Some(self.mem[target].kind) != below {
                    let kind = self.mem[target].kind;
                    let _ = writeln!(
                        wrong,
                        "{table} {level}[{index}] points at {kind:?} {target}"
                    );
                }
                hold(target, 1);
            }
        }
    }
}
