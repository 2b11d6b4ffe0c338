//! `mmu_update` and `update_va_mapping`: writing entries of live tables (`mod_l1_entry` to
//! `mod_l4_entry`, `do_mmu_update`, `do_update_va_mapping` in `xen/arch/x86/mm.c`).
//!
//! What a new entry needs is taken before it is written, what the old one held is given up after:
//! an update that is refused has changed nothing.

use hypercall::{
    Errno, Mfn, Op,
    abi::{
        mmu::{
            MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE,
            MMU_PT_UPDATE_PRESERVE_AD, UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL,
            UVMF_TLB_FLUSH, mmu_update,
        },
        xen::{DOMID_IO, DOMID_SELF, DOMID_XEN},
    },
    mmu::Level,
};

use crate::{
    config::Kind,
    entry::{self, A, D, P},
    frame::{Owner, Type},
    list::List,
    state::{Outcome, State, copy_from},
};

impl State {
    /// Writes `new` into entry `index` of the validated table `table`.
    pub(crate) fn write_entry(
        &mut self,
        level: Level,
        table: Mfn,
        index: usize,
        new: u64,
        preserve_ad: bool,
        pages_of: Owner,
    ) -> Result<(), Errno> {
        if level == Level::L4 && entry::is_xen_slot(index) {
            return Err(Errno::EINVAL);
        }
        let old = self.mem.read(table, index);
        let kept = if preserve_ad { old & (A | D) } else { 0 };
        if new & P == 0 {
            self.check_l1tf(level, new)?;
            self.mem.write(table, index, new | kept);
            self.put_entry(level, old, table);
            return Ok(());
        }
        if new & self.rights().disallowed(level) != 0 {
            return Err(Errno::EINVAL);
        }
        let new = entry::adjust(level, new);
        if entry::is_fast(old, new) {
            self.mem.write(table, index, new | kept);
            return Ok(());
        }
        let flip = self.get_entry(level, new, table, pages_of)?;
        self.mem.write(table, index, new ^ flip | kept);
        self.put_entry(level, old, table);
        Ok(())
    }

    /// Whose frames a list call is about.
    pub(crate) fn foreign(&self, domid: u16) -> Result<Owner, Errno> {
        match domid {
            DOMID_SELF => Ok(Owner::Guest),
            DOMID_IO => Ok(Owner::Io),
            DOMID_XEN => Ok(Owner::Xen),
            // A domain that is not dom0 sees that dom0 exists. Its own number it may not use.
            0 if self.kind != Kind::Dom0 => Ok(Owner::Foreign),
            _ => Err(Errno::ESRCH),
        }
    }

    pub(crate) fn mmu_update(&mut self, args: [u64; 5]) -> Outcome {
        let list = match List::<mmu_update>::new(Op::MmuUpdate, args) {
            Ok(list) => list,
            Err(outcome) => return outcome,
        };
        if list.foreign >> 16 > 1 {
            // Page tables of another domain: of one that does not exist, or not ours to touch.
            return Err(Errno::ESRCH).into();
        }
        let pages_of = match self.foreign(list.foreign as u16) {
            Ok(pages_of) => pages_of,
            Err(errno) => return Err(errno).into(),
        };
        let mut flush = false;
        let outcome = list.run(self, |state, index, request| {
            state.injected(Op::MmuUpdate, request.ptr as u32 & 7, Some(index))?;
            state.one_update(request, pages_of, &mut flush)?;
            state.counters.updates += 1;
            Ok(())
        });
        if flush {
            // Something above L1 changed: translations of any address may be stale, and Xen's own
            // linear map with them.
            self.flush_all();
        }
        outcome
    }

    fn one_update(
        &mut self,
        request: mmu_update,
        pages_of: Owner,
        flush: &mut bool,
    ) -> Result<(), Errno> {
        let cmd = request.ptr as u32 & 7;
        let mfn = entry::frame(request.ptr);
        let index = (request.ptr as usize & 4095) / 8;
        if !matches!(pages_of, Owner::Guest | Owner::Io) && self.kind != Kind::Dom0 {
            return Err(Errno::EPERM);
        }
        match cmd {
            MMU_NORMAL_PT_UPDATE | MMU_PT_UPDATE_PRESERVE_AD | MMU_PT_UPDATE_NO_TRANSLATE => {
                if !self.get_page(mfn, Owner::Guest) {
                    return Err(Errno::EINVAL);
                }
                let preserve_ad = cmd == MMU_PT_UPDATE_PRESERVE_AD;
                let result = self.update_frame(mfn, index, request.val, preserve_ad, pages_of);
                self.put_page(mfn);
                *flush |= result?;
                Ok(())
            }
            MMU_MACHPHYS_UPDATE => {
                if !self.mem.is_valid(mfn) || self.mem[mfn].owner != pages_of {
                    return Err(Errno::EINVAL);
                }
                self.m2p_write(mfn, request.val);
                Ok(())
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Writes a word of a frame, as what the frame is used as. Says whether to flush.
    fn update_frame(
        &mut self,
        mfn: Mfn,
        index: usize,
        value: u64,
        preserve_ad: bool,
        pages_of: Owner,
    ) -> Result<bool, Errno> {
        let frame = self.mem[mfn];
        if frame.type_count == 0 || !frame.validated {
            // Not in use: for the moment it is a writable page, and this an ordinary store.
            self.get_type(mfn, Type::Writable)?;
            self.mem.write(mfn, index, value);
            self.put_type(mfn, None);
            return Ok(false);
        }
        match frame.kind {
            Type::Table(Level::L1) => {
                self.write_entry(Level::L1, mfn, index, value, preserve_ad, pages_of)?;
                Ok(false)
            }
            Type::Table(_) if pages_of != Owner::Guest => Err(Errno::EINVAL),
            Type::Table(level) => {
                self.write_entry(level, mfn, index, value, preserve_ad, pages_of)?;
                Ok(true)
            }
            Type::Writable => {
                self.mem.write(mfn, index, value);
                Ok(false)
            }
            Type::None | Type::Segments => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn update_va_mapping(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [va, value, flags, ..] = args;
        if !entry::is_guest_va(va) {
            return Err(Errno::EINVAL);
        }
        let root = self.vcpus[self.current].kernel_l4;
        let (slot, _) = self.walk(root, va).entry(Level::L1).ok_or(Errno::EINVAL)?;
        let table = slot.frame();
        let frame = self.mem[table];
        if frame.owner != Owner::Guest
            || frame.kind != Type::Table(Level::L1)
            || frame.type_count == 0
            || !frame.validated
        {
            return Err(Errno::EINVAL);
        }
        self.write_entry(
            Level::L1,
            table,
            slot.entry_index(),
            value,
            false,
            Owner::Guest,
        )?;
        let one = match flags & UVMF_FLUSHTYPE_MASK {
            UVMF_TLB_FLUSH => false,
            UVMF_INVLPG => true,
            // 3 is no kind of flush, and nobody complains about it.
            _ => return Ok(0),
        };
        let vcpus = match flags & !UVMF_FLUSHTYPE_MASK {
            UVMF_LOCAL => vec![self.current],
            UVMF_ALL => self.dirty_vcpus().collect(),
            bitmap => self.vcpus_in(bitmap)?,
        };
        for vcpu in vcpus {
            self.flush_asked(vcpu, one.then_some(va));
        }
        Ok(0)
    }

    /// The vCPUs in the bitmap at `bitmap` that a flush reaches: as many words of it are read as the
    /// domain has vCPUs for.
    pub(crate) fn vcpus_in(&self, bitmap: u64) -> Result<Vec<usize>, Errno> {
        let mut set = Vec::new();
        for word in 0..self.vcpus.len().div_ceil(64) {
            let bits: u64 = copy_from(bitmap + word as u64 * 8)?;
            set.extend(
                (0..64)
                    .filter(|bit| bits >> bit & 1 != 0)
                    .map(|bit| word * 64 + bit)
                    .filter(|&vcpu| self.vcpus.get(vcpu).is_some_and(|vcpu| vcpu.tlb.dirty)),
            );
        }
        Ok(set)
    }
}
