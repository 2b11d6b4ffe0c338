//! A page that becomes code and data again, with its frame's alias in step.

use hypercall::Pfn;

use super::page::{Divergence, What};
use super::{Fuzzer, NAME, Op, Probe, name};
use crate::entry::Flags;
use crate::error::MmError;
use crate::frames::FrameError;
use crate::machine::Machine;
use crate::tables::Tables;

/// Where the page lies, seen from the window's start: below another L3 entry.
pub(super) const CODE: u64 = 7 << 30;

impl<const PAGES: usize, const POOL: usize> Fuzzer<PAGES, POOL> {
    /// Maps a new frame, makes it code, perhaps data again (`way`), unmaps it and gives it back.
    pub(super) fn code<M: Machine>(
        &mut self,
        tables: &mut Tables<M>,
        probe: &mut impl Probe,
        op: Op,
        way: u8,
    ) -> Result<(), Divergence> {
        let mut frame = match tables.alloc_frame() {
            Ok(frame) => frame,
            Err(MmError::Frame(FrameError::OutOfMemory)) if self.hogged.is_some() => return Ok(()),
            Err(e) => return Err(self.differs(op, 0, What::Error(e), 0, 0)),
        };
        name(tables, &mut frame);
        let (pfn, va) = (frame.pfn(), self.base ^ CODE);
        let failed = |fuzzer: &Self, e| fuzzer.differs(op, va, What::Error(e), 0, 0);
        // SAFETY: the frame is the run's own, and nothing else is mapped there.
        unsafe {
            let mapped = tables.map(va, core::iter::once(pfn), Flags::CONST);
            let mapped = mapped.and_then(|change| change.commit(tables));
            mapped.map_err(|e| failed(self, e))?;
            self.allows(tables, probe, (op, pfn), (true, false))?;
            let made = tables.set_memory_x(va, 1);
            let made = made.and_then(|change| change.commit(tables));
            made.map_err(|e| failed(self, e))?;
        }
        self.allows(tables, probe, (op, pfn), (false, true))?;
        if way & 1 == 1 {
            // SAFETY: nobody executes it.
            let unmade = unsafe { tables.set_memory_nx(va, 1) };
            let unmade = unmade.and_then(|change| change.commit(tables));
            unmade.map_err(|e| failed(self, e))?;
            self.allows(tables, probe, (op, pfn), (true, false))?;
        }
        // SAFETY: nobody uses it.
        let unmapped = unsafe { tables.unmap(va, 1) };
        let freed = unmapped
            .and_then(|change| change.commit(tables))
            .and_then(|()| tables.free_frame(frame))
            .and_then(|()| tables.flush());
        freed.map_err(|e| failed(self, e))?;
        // Free or handed out again, it is ordinary memory.
        let window = tables.machine().window(pfn);
        let entry = tables.ptep_get(window).map_err(|e| failed(self, e))?;
        if !entry.flags().contains(Flags::WRITABLE) {
            return Err(self.differs(op, window, What::Entry, 2, entry.bits()));
        }
        Ok(())
    }

    /// Whether the frame can be written by the direct map, and the page executed.
    fn allows<M: Machine>(
        &mut self,
        tables: &Tables<M>,
        probe: &mut impl Probe,
        (op, pfn): (Op, Pfn),
        (write, execute): (bool, bool),
    ) -> Result<(), Divergence> {
        self.counts.touched += 1;
        let (va, window) = (self.base ^ CODE, tables.machine().window(pfn));
        let name = NAME + pfn.as_u64();
        let found = probe.load(va);
        if found != Some(name) {
            return Err(self.differs(op, va, What::Load, name, found.unwrap_or(0)));
        }
        let stored = probe.store(window, name);
        if stored != write {
            return Err(self.differs(op, window, What::Store, write.into(), stored.into()));
        }
        match probe.executes(va) {
            Some(found) if found != execute => {
                Err(self.differs(op, va, What::Execute, execute.into(), found.into()))
            }
            _ => Ok(()),
        }
    }
}
