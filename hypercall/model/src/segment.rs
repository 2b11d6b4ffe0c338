//! Segments, stacks and entry points: what a guest may say about them (`pv/descriptor-tables.c`,
//! `pv/callback.c`, `pv/misc-hypercalls.c`). Nothing is ever entered; what is set can be read
//! back by a test.

use hypercall::{
    Errno, MachAddr, Mfn,
    abi::{
        arch::{
            FIRST_RESERVED_GDT_ENTRY, FLAT_KERNEL_CS, SEGBASE_FS, SEGBASE_GS_KERNEL,
            SEGBASE_GS_USER, SEGBASE_GS_USER_SEL, trap_info,
        },
        callback::{
            CALLBACKOP_register, CALLBACKOP_unregister, CALLBACKTYPE_event, CALLBACKTYPE_failsafe,
            CALLBACKTYPE_nmi, CALLBACKTYPE_syscall, CALLBACKTYPE_syscall32, CALLBACKTYPE_sysenter,
            callback_register, callback_unregister,
        },
    },
};

use crate::{
    entry,
    frame::{Owner, Type},
    state::{State, copy_from},
};

const fn is_canonical(va: u64) -> bool {
    (va as i64) << 16 >> 16 == va as i64
}

/// A selector that a guest may run on: ring 3, as it is in for Xen. Ring 0 becomes ring 3.
const fn fix_selector(selector: u16) -> u16 {
    selector | 3
}

/// What Xen makes of a descriptor, or `None` if it refuses it.
pub(crate) fn check_descriptor(descriptor: u64) -> Option<u64> {
    let (mut low, mut high) = (descriptor as u32, (descriptor >> 32) as u32);
    // Not present: harmless.
    if high & 1 << 15 == 0 {
        return Some(descriptor);
    }
    let dpl = fix_selector((high >> 13 & 3) as u16) as u32 & 3;
    high = high & !(3 << 13) | dpl << 13;
    if high & 1 << 12 == 0 {
        // A system segment: the empty type is harmless, a call gate is made to fault, and nothing
        // else is allowed.
        match high & 0xf00 {
            0 => return Some(descriptor),
            0xc00 => {}
            _ => return None,
        }
        let target = low >> 16;
        // The gate's target is a code segment of the guest's, or a flat one of Xen's for it.
        let guests = target >> 3 < FIRST_RESERVED_GDT_ENTRY || target & 4 != 0;
        if !guests && target as u16 | 3 != FLAT_KERNEL_CS as u16 {
            return None;
        }
        high &= !(3 << 13);
        low = low & 0xffff | (target & !3 | dpl) << 16;
        if high & 0xff != 0 {
            return None;
        }
    }
    Some((high as u64) << 32 | low as u64)
}

impl State {
    /// Whether every descriptor of a page is one a guest may have.
    pub(crate) fn validate_segments(&mut self, mfn: Mfn) -> Result<(), Errno> {
        for index in 0..512 {
            let fixed = check_descriptor(self.mem.read(mfn, index)).ok_or(Errno::EINVAL)?;
            self.mem.write(mfn, index, fixed);
        }
        Ok(())
    }

    pub(crate) fn set_gdt(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [list, entries, ..] = args;
        let entries = entries as u32;
        if entries > FIRST_RESERVED_GDT_ENTRY {
            return Err(Errno::EINVAL);
        }
        let mut frames = Vec::new();
        for index in 0..entries.div_ceil(512) as u64 {
            let number: u64 = copy_from(list + index * 8)?;
            frames.push(Mfn::new(number).ok_or(Errno::EINVAL)?);
        }
        for (index, &frame) in frames.iter().enumerate() {
            if self.get_page_and_type(frame, Type::Segments).is_err() {
                for &taken in &frames[..index] {
                    self.put_page_and_type(taken);
                }
                return Err(Errno::EINVAL);
            }
        }
        let old = std::mem::replace(&mut self.vcpu().gdt, frames);
        for frame in old {
            self.put_page_and_type(frame);
        }
        self.flush_vcpu(self.current);
        Ok(0)
    }

    pub(crate) fn update_descriptor(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [slot, descriptor, ..] = args;
        let fixed = check_descriptor(descriptor).ok_or(Errno::EINVAL)?;
        let slot = MachAddr::new(slot).ok_or(Errno::EINVAL)?;
        let mfn = slot.frame();
        if !slot.is_aligned(8) || !self.get_page(mfn, Owner::Guest) {
            return Err(Errno::EINVAL);
        }
        let kind = match self.mem[mfn].kind {
            Type::Segments => Type::Segments,
            _ => Type::Writable,
        };
        let result = self.get_type(mfn, kind);
        if result.is_ok() {
            self.mem.write(mfn, slot.entry_index(), fixed);
            self.put_type(mfn, None);
        }
        self.put_page(mfn);
        result.map(|()| 0)
    }

    pub(crate) fn set_trap_table(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let mut at = args[0];
        if at == 0 {
            self.vcpu().traps.clear();
            return Ok(0);
        }
        loop {
            let trap: trap_info = copy_from(at)?;
            if trap.address == 0 {
                return Ok(0);
            }
            if !is_canonical(trap.address) {
                return Err(Errno::EINVAL);
            }
            let fixed = trap_info {
                cs: fix_selector(trap.cs),
                ..trap
            };
            self.vcpu().traps.insert(trap.vector, fixed);
            at += size_of::<trap_info>() as u64;
        }
    }

    /// Three entry points at once. One that is not canonical is left as it was, without a word.
    pub(crate) fn set_callbacks(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let types = [
            CALLBACKTYPE_event,
            CALLBACKTYPE_failsafe,
            CALLBACKTYPE_syscall,
        ];
        for (kind, address) in types.into_iter().zip(args) {
            let _ = self.register_callback(kind, address);
        }
        Ok(0)
    }

    fn register_callback(&mut self, kind: u16, address: u64) -> Result<i64, Errno> {
        if !is_canonical(address) {
            return Err(Errno::EINVAL);
        }
        match kind {
            CALLBACKTYPE_event
            | CALLBACKTYPE_failsafe
            | CALLBACKTYPE_syscall
            | CALLBACKTYPE_syscall32
            | CALLBACKTYPE_sysenter
            | CALLBACKTYPE_nmi => {
                self.vcpu().callbacks.insert(kind, address);
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    pub(crate) fn callback_op(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, arg, ..] = args;
        match cmd as u32 {
            CALLBACKOP_register => {
                let op: callback_register = copy_from(arg)?;
                self.register_callback(op.r#type, op.address)
            }
            CALLBACKOP_unregister => {
                let op: callback_unregister = copy_from(arg)?;
                match op.r#type {
                    CALLBACKTYPE_nmi => {
                        self.vcpu().callbacks.remove(&CALLBACKTYPE_nmi);
                        Ok(0)
                    }
                    CALLBACKTYPE_event
                    | CALLBACKTYPE_failsafe
                    | CALLBACKTYPE_syscall
                    | CALLBACKTYPE_syscall32
                    | CALLBACKTYPE_sysenter => Err(Errno::EINVAL),
                    _ => Err(Errno::ENOSYS),
                }
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Any stack is accepted; a bad one ends the domain when it is needed.
    pub(crate) fn stack_switch(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [ss, sp, ..] = args;
        self.vcpu().kernel_stack = (fix_selector(ss as u16) as u64, sp);
        Ok(0)
    }

    pub(crate) fn set_segment_base(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [which, base, ..] = args;
        match which as u32 {
            SEGBASE_FS | SEGBASE_GS_USER | SEGBASE_GS_KERNEL if !is_canonical(base) => {
                Err(Errno::EINVAL)
            }
            which @ (SEGBASE_FS | SEGBASE_GS_USER | SEGBASE_GS_KERNEL | SEGBASE_GS_USER_SEL) => {
                self.vcpu().segment_bases[which as usize] = base;
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn set_debugreg(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [register, value, ..] = args;
        match register as u32 {
            // A breakpoint in Xen's part of the address space would be Xen's to take.
            0..=3 if !entry::is_guest_va(value) => return Err(Errno::EPERM),
            0..=3 => self.vcpu().debug_registers[register as usize] = value,
            4..=7 if value >> 32 != 0 => return Err(Errno::EINVAL),
            5 | 7 if value & 1 << 13 != 0 => return Err(Errno::EPERM),
            4 | 6 => self.vcpu().debug_registers[6] = value & 0xe00f | 0xffff_0ff0,
            5 | 7 => self.vcpu().debug_registers[7] = value & 0xffff_23ff | 0x400,
            _ => return Err(Errno::ENODEV),
        }
        Ok(0)
    }

    pub(crate) fn get_debugreg(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        match args[0] as u32 {
            register @ (0..=3 | 6 | 7) => Ok(self.vcpu().debug_registers[register as usize] as i64),
            register @ (4 | 5) => Ok(self.vcpu().debug_registers[register as usize + 2] as i64),
            _ => Err(Errno::ENODEV),
        }
    }
}
