//! `mmuext_op`: pins, base pointers, flushes (`do_mmuext_op`, `new_guest_cr3` in
//! `xen/arch/x86/mm.c`).

use hypercall::{
    Errno, Mfn, Op,
    abi::mmu::{
        MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE, MMUEXT_FLUSH_CACHE_GLOBAL,
        MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, MMUEXT_NEW_BASEPTR,
        MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE,
        MMUEXT_PIN_L4_TABLE, MMUEXT_SET_LDT, MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_LOCAL,
        MMUEXT_TLB_FLUSH_MULTI, MMUEXT_UNPIN_TABLE, mmuext_op,
    },
    mmu::Level,
};

use crate::{
    entry,
    frame::{Owner, Type},
    list::List,
    state::{Outcome, State},
};

/// A frame number as a guest passes it: one beyond 52 bits of address is no frame.
fn guest_mfn(number: u64) -> Result<Mfn, Errno> {
    Mfn::new(number).ok_or(Errno::EINVAL)
}

impl State {
    pub(crate) fn mmuext_op(&mut self, args: [u64; 5]) -> Outcome {
        let list = match List::<mmuext_op>::new(Op::MmuextOp, args) {
            Ok(list) => list,
            Err(outcome) => return outcome,
        };
        match self.foreign(list.foreign as u16) {
            Ok(Owner::Guest) => {}
            // Only a domain that builds another may do this to it.
            Ok(_) => return Err(Errno::EPERM).into(),
            Err(errno) => return Err(errno).into(),
        }
        list.run(self, |state, index, op| {
            state.injected(Op::MmuextOp, op.cmd, Some(index))?;
            state.one_ext(&op)?;
            state.counters.ext_ops += 1;
            Ok(())
        })
    }

    fn one_ext(&mut self, op: &mmuext_op) -> Result<(), Errno> {
        // SAFETY: every member of both unions is a plain number of at most eight bytes, and any
        // bits are a number; the rest of a shorter one is not used below.
        let (arg1, arg2) = unsafe { (op.arg1.mfn, op.arg2.src_mfn) };
        match op.cmd {
            MMUEXT_PIN_L1_TABLE => self.pin(guest_mfn(arg1)?, Level::L1),
            MMUEXT_PIN_L2_TABLE => self.pin(guest_mfn(arg1)?, Level::L2),
            MMUEXT_PIN_L3_TABLE => self.pin(guest_mfn(arg1)?, Level::L3),
            MMUEXT_PIN_L4_TABLE => self.pin(guest_mfn(arg1)?, Level::L4),
            MMUEXT_UNPIN_TABLE => self.unpin(guest_mfn(arg1)?),
            MMUEXT_NEW_BASEPTR => self.new_baseptr(guest_mfn(arg1)?),
            MMUEXT_NEW_USER_BASEPTR => self.new_user_baseptr(guest_mfn(arg1)?),
            MMUEXT_TLB_FLUSH_LOCAL => {
                self.flush_vcpu(self.current);
                Ok(())
            }
            MMUEXT_TLB_FLUSH_ALL | MMUEXT_TLB_FLUSH_MULTI => {
                let vcpus = match op.cmd {
                    MMUEXT_TLB_FLUSH_ALL => self.dirty_vcpus().collect(),
                    _ => self.vcpus_in(arg2).map_err(|_| Errno::EINVAL)?,
                };
                for vcpu in vcpus {
                    self.flush_asked(vcpu, None);
                }
                Ok(())
            }
            MMUEXT_INVLPG_LOCAL => {
                self.flush_page(self.current, arg1);
                Ok(())
            }
            MMUEXT_INVLPG_ALL | MMUEXT_INVLPG_MULTI => {
                let vcpus = match op.cmd {
                    MMUEXT_INVLPG_ALL => self.dirty_vcpus().collect(),
                    _ => self.vcpus_in(arg2).map_err(|_| Errno::EINVAL)?,
                };
                // An address no guest can map has nothing to flush, and that is no error.
                for vcpu in vcpus.into_iter().filter(|_| entry::is_guest_va(arg1)) {
                    self.flush_asked(vcpu, Some(arg1));
                }
                Ok(())
            }
            MMUEXT_FLUSH_CACHE | MMUEXT_FLUSH_CACHE_GLOBAL => match self.kind.has_io() {
                true => Ok(()),
                false => Err(Errno::EACCES),
            },
            MMUEXT_SET_LDT => self.set_ldt(arg1, arg2 as u32),
            MMUEXT_CLEAR_PAGE => {
                let mfn = guest_mfn(arg1)?;
                self.get_page_and_type(mfn, Type::Writable)?;
                self.mem.clear(mfn);
                self.put_page_and_type(mfn);
                Ok(())
            }
            MMUEXT_COPY_PAGE => {
                let (to, from) = (guest_mfn(arg1)?, guest_mfn(arg2)?);
                if !self.get_page(from, Owner::Guest) {
                    return Err(Errno::EINVAL);
                }
                let result = self.get_page_and_type(to, Type::Writable);
                if result.is_ok() {
                    self.mem.copy(to, from);
                    self.put_page_and_type(to);
                }
                self.put_page(from);
                result
            }
            // MARK_SUPER and UNMARK_SUPER, which no Xen of today has.
            19 | 20 => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Validates a table and keeps it valid. A second pin is refused, whatever its level.
    pub(crate) fn pin(&mut self, mfn: Mfn, level: Level) -> Result<(), Errno> {
        self.get_page_and_type(mfn, Type::Table(level))?;
        if self.mem[mfn].pinned {
            self.put_page_and_type(mfn);
            return Err(Errno::EINVAL);
        }
        self.mem[mfn].pinned = true;
        Ok(())
    }

    fn unpin(&mut self, mfn: Mfn) -> Result<(), Errno> {
        if !self.get_page(mfn, Owner::Guest) {
            return Err(Errno::EINVAL);
        }
        let pinned = std::mem::take(&mut self.mem[mfn].pinned);
        if pinned {
            self.put_page_and_type(mfn);
        }
        self.put_page(mfn);
        if pinned { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Loads the kernel's CR3. Even for the table that is loaded already this flushes.
    pub(crate) fn new_baseptr(&mut self, mfn: Mfn) -> Result<(), Errno> {
        let old = self.vcpu().kernel_l4;
        if old != mfn {
            self.get_page_and_type(mfn, Type::Table(Level::L4))?;
            if !self.assists.m2p_strict && self.mem.read(mfn, entry::XEN_SLOT_FIRST) == 0 {
                self.mem.write(mfn, entry::XEN_SLOT_FIRST, self.m2p_slot);
            }
            self.vcpu().kernel_l4 = mfn;
            if old.as_u64() != 0 {
                self.put_page_and_type(old);
            }
        }
        self.flush_vcpu(self.current);
        Ok(())
    }

    /// Names the tables of user mode; 0 for none. Nothing is flushed: user mode does not run now.
    fn new_user_baseptr(&mut self, mfn: Mfn) -> Result<(), Errno> {
        let new = (mfn.as_u64() != 0).then_some(mfn);
        let old = self.vcpu().user_l4;
        if old == new {
            return Ok(());
        }
        if let Some(mfn) = new {
            self.get_page_and_type(mfn, Type::Table(Level::L4))?;
            if self.assists.m2p_strict {
                self.mem.write(mfn, entry::XEN_SLOT_FIRST, 0);
            }
        }
        self.vcpu().user_l4 = new;
        if let Some(old) = old {
            self.put_page_and_type(old);
        }
        Ok(())
    }

    /// Remembers the LDT. Xen looks its pages up, and makes them descriptor pages, when a selector
    /// is loaded; nothing here loads one.
    fn set_ldt(&mut self, base: u64, entries: u32) -> Result<(), Errno> {
        let base = if entries == 0 { 0 } else { base };
        if entries > 8192 || entries > 0 && (base & 4095 != 0 || !entry::is_guest_va(base)) {
            return Err(Errno::EINVAL);
        }
        self.vcpu().ldt = (base, entries);
        Ok(())
    }
}
