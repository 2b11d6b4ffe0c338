//! The hypercalls that are not about page tables, as far as a kernel under test needs them:
//! version, memory, scheduling, console, assists, vCPUs.

use hypercall::{
    Errno, MachAddr, Mfn,
    abi::{
        features::{
            XENFEAT_dom0, XENFEAT_gnttab_map_avail_bits, XENFEAT_highmem_assist,
            XENFEAT_memory_op_vnode_supported, XENFEAT_mmu_pt_update_preserve_ad,
        },
        memory::{
            XENMEM_current_reservation, XENMEM_decrease_reservation, XENMEM_machphys_mapping,
            XENMEM_maximum_ram_page, XENMEM_maximum_reservation, XENMEM_memory_map,
            XENMEM_populate_physmap, e820entry, xen_machphys_mapping, xen_memory_map,
            xen_memory_reservation,
        },
        physdev::{PHYSDEVOP_set_iopl, physdev_set_iopl},
        sched::{
            SCHEDOP_block, SCHEDOP_poll, SCHEDOP_shutdown, SCHEDOP_yield, sched_poll,
            sched_shutdown,
        },
        vcpu::{
            RUNSTATE_offline, RUNSTATE_running, VCPUOP_down, VCPUOP_get_runstate_info,
            VCPUOP_initialise, VCPUOP_is_up, VCPUOP_register_vcpu_info, VCPUOP_send_nmi,
            VCPUOP_set_periodic_timer, VCPUOP_set_singleshot_timer, VCPUOP_stop_periodic_timer,
            VCPUOP_stop_singleshot_timer, VCPUOP_up, vcpu_register_vcpu_info, vcpu_runstate_info,
            vcpu_set_periodic_timer,
        },
        version::{
            XENVER_capabilities, XENVER_changeset, XENVER_extraversion, XENVER_get_features,
            XENVER_guest_handle, XENVER_pagesize, XENVER_platform_parameters, XENVER_version,
            xen_feature_info, xen_platform_parameters,
        },
        xen::{
            CONSOLEIO_read, CONSOLEIO_write, DOMID_SELF, VMASST_CMD_disable, VMASST_CMD_enable,
            VMASST_TYPE_architectural_iopl, VMASST_TYPE_m2p_strict,
            VMASST_TYPE_runstate_update_flag, VMASST_TYPE_writable_pagetables,
        },
    },
};

use crate::{
    Model,
    config::Kind,
    frame::{Frame, Owner, Type},
    state::{State, copy_from, copy_to, handle_ok},
};

/// The first virtual address that is Xen's; the M2P is there.
pub const XEN_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// One past the room for the M2P.
const M2P_END: u64 = 0xffff_8040_0000_0000;

/// The first bytes of a text, the rest of the array zero.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes[..N - 1].iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

impl Model {
    /// The domain may have so many pages from now on.
    pub fn limit_pages(&self, most: u64) {
        self.state.borrow_mut().pages.1 = most;
    }
}

impl State {
    pub(crate) fn xen_version(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, arg, ..] = args;
        match cmd as u32 {
            XENVER_version => {
                return Ok((self.version.major as i64) << 16 | self.version.minor as i64);
            }
            XENVER_extraversion => copy_to(arg, text::<16>(".0-model"))?,
            XENVER_capabilities => copy_to(arg, text::<1024>("xen-3.0-x86_64 "))?,
            XENVER_changeset => copy_to(arg, text::<64>("none"))?,
            XENVER_platform_parameters => copy_to(
                arg,
                xen_platform_parameters {
                    virt_start: XEN_VIRT_START,
                },
            )?,
            XENVER_get_features => {
                let mut info: xen_feature_info = copy_from(arg)?;
                if info.submap_idx != 0 {
                    return Err(Errno::EINVAL);
                }
                info.submap = 1 << XENFEAT_mmu_pt_update_preserve_ad
                    | 1 << XENFEAT_highmem_assist
                    | 1 << XENFEAT_gnttab_map_avail_bits
                    | 1 << XENFEAT_memory_op_vnode_supported
                    | ((self.kind == Kind::Dom0) as u32) << XENFEAT_dom0;
                copy_to(arg, info)?;
            }
            XENVER_pagesize if arg != 0 => return Err(Errno::EINVAL),
            XENVER_pagesize => return Ok(4096),
            XENVER_guest_handle => copy_to(arg, [0u8; 16])?,
            _ => return Err(Errno::ENOSYS),
        }
        Ok(0)
    }

    pub(crate) fn memory_op(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, arg, ..] = args;
        match cmd as u32 {
            XENMEM_maximum_ram_page => Ok(self.mem.end() as i64 - 1),
            XENMEM_machphys_mapping => {
                let map = xen_machphys_mapping {
                    v_start: XEN_VIRT_START,
                    v_end: M2P_END,
                    max_mfn: (M2P_END - XEN_VIRT_START) / 8 - 1,
                };
                copy_to(arg, map)?;
                Ok(0)
            }
            XENMEM_current_reservation | XENMEM_maximum_reservation => {
                let domid: u16 = copy_from(arg)?;
                if domid != DOMID_SELF && domid != self.domid {
                    return Err(Errno::ESRCH);
                }
                let (now, max) = self.pages;
                let current = cmd as u32 == XENMEM_current_reservation;
                Ok(if current { now } else { max } as i64)
            }
            XENMEM_memory_map => {
                let mut map: xen_memory_map = copy_from(arg)?;
                if self.kind == Kind::Dom0 {
                    return Err(Errno::ENOSYS);
                }
                let ram = e820entry {
                    addr: 0,
                    size: self.pages.1 * 4096,
                    r#type: 1,
                };
                if map.nr_entries > 0 {
                    copy_to(map.buffer as u64, ram)?;
                }
                map.nr_entries = map.nr_entries.min(1);
                copy_to(arg, map)?;
                Ok(0)
            }
            XENMEM_decrease_reservation => self.decrease(arg),
            XENMEM_populate_physmap => self.populate(arg),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Takes frames back; those still mapped go when the last mapping does.
    fn decrease(&mut self, arg: u64) -> Result<i64, Errno> {
        let list: xen_memory_reservation = copy_from(arg)?;
        if list.domid != DOMID_SELF || list.extent_order != 0 {
            return Err(Errno::EPERM);
        }
        for index in 0..list.nr_extents {
            let number: Result<u64, _> = copy_from(list.extent_start as u64 + index * 8);
            let mfn = number.ok().and_then(Mfn::new);
            let given = mfn.filter(|&mfn| {
                self.mem.is_valid(mfn)
                    && self.mem[mfn].owner == Owner::Guest
                    && self.mem[mfn].allocated
                    && !self.mem[mfn].special
            });
            let Some(mfn) = given else {
                return Ok(index as i64);
            };
            self.m2p_write(mfn, u64::MAX);
            self.mem[mfn].allocated = false;
            self.pages.0 -= 1;
            self.put_page(mfn);
        }
        Ok(list.nr_extents as i64)
    }

    /// Hands out frames nobody owns, zeroed.
    fn populate(&mut self, arg: u64) -> Result<i64, Errno> {
        let list: xen_memory_reservation = copy_from(arg)?;
        if list.domid != DOMID_SELF || list.extent_order != 0 {
            return Err(Errno::EPERM);
        }
        for index in 0..list.nr_extents {
            let at = list.extent_start as u64 + index * 8;
            let Ok(pfn) = copy_from::<u64>(at) else {
                return Ok(index as i64);
            };
            if self.pages.0 == self.pages.1 {
                return Ok(index as i64);
            }
            let Some(mfn) = self.freed.pop() else {
                return Ok(index as i64);
            };
            let stamp = self.mem[mfn].stamp;
            self.mem[mfn] = Frame::new(Owner::Guest);
            self.mem[mfn].stamp = stamp;
            // Somebody may still have a translation from when the frame was theirs.
            self.flush_older(stamp);
            self.mem.clear(mfn);
            self.m2p_write(mfn, pfn);
            self.pages.0 += 1;
            copy_to(at, mfn.as_u64())?;
        }
        Ok(list.nr_extents as i64)
    }

    pub(crate) fn sched_op(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, arg, ..] = args;
        match cmd as u32 {
            SCHEDOP_yield => Ok(0),
            SCHEDOP_block => {
                self.upcall_mask(Some(false));
                Ok(0)
            }
            SCHEDOP_poll => {
                let poll: sched_poll = copy_from(arg)?;
                if poll.nr_ports > 128 {
                    return Err(Errno::EINVAL);
                }
                for index in 0..poll.nr_ports as u64 {
                    let port: u32 = copy_from(poll.ports as u64 + index * 4)?;
                    if port as usize >= self.ports.len() {
                        return Err(Errno::EINVAL);
                    }
                }
                Ok(0)
            }
            SCHEDOP_shutdown => {
                let shutdown: sched_shutdown = copy_from(arg)?;
                // Any reason is taken; what it means is the tool stack's business.
                self.shutdown.get_or_insert(shutdown.reason & 0xff);
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    pub(crate) fn console_io(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, count, buffer, ..] = args;
        let count = count as u32 as usize;
        // A release Xen lets dom0 and the shim's guest in; a debug one lets anybody write.
        let allowed = self.kind != Kind::DomU || self.debug && cmd as u32 == CONSOLEIO_write;
        if !allowed {
            return Err(Errno::EPERM);
        }
        if !handle_ok(buffer, count as u64) {
            return Err(Errno::EFAULT);
        }
        match cmd as u32 {
            CONSOLEIO_write => {
                for index in 0..count as u64 {
                    self.console.push(copy_from(buffer + index)?);
                }
                Ok(0)
            }
            CONSOLEIO_read => {
                let count = count.min(self.input.len());
                for (index, byte) in self.input.drain(..count).enumerate() {
                    copy_to(buffer + index as u64, byte)?;
                }
                Ok(count as i64)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    pub(crate) fn vm_assist(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, kind, ..] = args;
        let assist = match kind as u32 {
            VMASST_TYPE_writable_pagetables => &mut self.assists.writable_pagetables,
            VMASST_TYPE_architectural_iopl => &mut self.assists.architectural_iopl,
            VMASST_TYPE_runstate_update_flag => &mut self.assists.runstate_update_flag,
            VMASST_TYPE_m2p_strict => &mut self.assists.m2p_strict,
            // Accepted although they mean something to 32-bit guests only.
            0 | 1 | 3 => return Ok(0),
            _ => return Err(Errno::EINVAL),
        };
        match cmd as u32 {
            VMASST_CMD_enable => *assist = true,
            VMASST_CMD_disable => *assist = false,
            _ => return Err(Errno::ENOSYS),
        }
        Ok(0)
    }

    pub(crate) fn physdev_op(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, arg, ..] = args;
        match cmd as u32 {
            PHYSDEVOP_set_iopl => {
                let op: physdev_set_iopl = copy_from(arg)?;
                if op.iopl > 3 {
                    return Err(Errno::EINVAL);
                }
                self.vcpu().iopl = op.iopl;
                Ok(0)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    pub(crate) fn vcpu_op(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, id, arg, ..] = args;
        let id = id as u32 as usize;
        if id >= self.vcpus.len() {
            return Err(Errno::ENOENT);
        }
        match cmd as u32 {
            VCPUOP_initialise => self.initialise(id, arg),
            VCPUOP_up if !self.vcpus[id].initialised => Err(Errno::EINVAL),
            VCPUOP_up => {
                self.vcpus[id].up = true;
                Ok(0)
            }
            VCPUOP_down => {
                self.vcpus[id].up = false;
                Ok(0)
            }
            VCPUOP_is_up => Ok(self.vcpus[id].up as i64),
            VCPUOP_get_runstate_info => {
                let info = vcpu_runstate_info {
                    state: match self.vcpus[id].up {
                        true => RUNSTATE_running,
                        false => RUNSTATE_offline,
                    },
                    ..Default::default()
                };
                copy_to(arg, info)?;
                Ok(0)
            }
            VCPUOP_set_periodic_timer => {
                let timer: vcpu_set_periodic_timer = copy_from(arg)?;
                match timer.period_ns {
                    0..1_000_000 => Err(Errno::EINVAL),
                    _ => Ok(0),
                }
            }
            VCPUOP_stop_periodic_timer
            | VCPUOP_set_singleshot_timer
            | VCPUOP_stop_singleshot_timer => match id == self.current {
                true => Ok(0),
                false => Err(Errno::EINVAL),
            },
            VCPUOP_register_vcpu_info => self.register_vcpu_info(id, arg),
            VCPUOP_send_nmi => Ok(0),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// A first context: of it, the tables count here.
    fn initialise(&mut self, id: usize, arg: u64) -> Result<i64, Errno> {
        if self.vcpus[id].initialised {
            return Err(Errno::EEXIST);
        }
        let context: hypercall::abi::arch::vcpu_guest_context = copy_from(arg)?;
        // As in CR3: the frame number, with its top bits at the bottom.
        let unpack = |cr3: u64| Mfn::truncate(cr3 >> 12 | cr3 << 52 >> 12);
        let kernel = unpack(context.ctrlreg[3]);
        self.get_page_and_type(kernel, Type::Table(hypercall::mmu::Level::L4))?;
        self.vcpus[id].kernel_l4 = kernel;
        if context.ctrlreg[1] != 0 {
            let user = unpack(context.ctrlreg[1]);
            self.get_page_and_type(user, Type::Table(hypercall::mmu::Level::L4))?;
            self.vcpus[id].user_l4 = Some(user);
        }
        self.vcpus[id].initialised = true;
        Ok(0)
    }

    /// Moves a `vcpu_info`, what is in it included, and marks everything pending, so that nothing
    /// raised meanwhile is lost.
    fn register_vcpu_info(&mut self, id: usize, arg: u64) -> Result<i64, Errno> {
        let place: vcpu_register_vcpu_info = copy_from(arg)?;
        let old = self.vcpus[id].info;
        let newer = self.version.minor >= 19;
        let mfn = Mfn::new(place.mfn).ok_or(Errno::EINVAL)?;
        if place.offset > 4096 - 64 {
            return Err(Errno::ENXIO);
        }
        if self.vcpus[id].info_moved {
            return Err(if newer { Errno::EBUSY } else { Errno::EINVAL });
        }
        self.get_page_and_type(mfn, Type::Writable)?;
        for word in 0..8 {
            let value = self
                .mem
                .read(old.frame(), old.page_offset() as usize / 8 + word);
            self.mem.write(mfn, place.offset as usize / 8 + word, value);
        }
        self.vcpus[id].info = MachAddr::from_frame(mfn, place.offset as u64);
        self.vcpus[id].info_moved = true;
        Ok(0)
    }
}
