//! Event channels, and when a vCPU takes an upcall (`xen/common/event_channel.c`,
//! `event_2l.c`). The other ends of inter-domain channels do not exist: what is sent there is
//! counted.

use hypercall::{
    Errno,
    abi::{
        event::{
            EVTCHN_2L_NR_CHANNELS, EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain,
            EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu, EVTCHNOP_bind_virq, EVTCHNOP_close,
            EVTCHNOP_init_control, EVTCHNOP_reset, EVTCHNOP_send, EVTCHNOP_status, EVTCHNOP_unmask,
            EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_unbound,
            EVTCHNSTAT_virq, evtchn_alloc_unbound, evtchn_bind_interdomain, evtchn_bind_ipi,
            evtchn_bind_vcpu, evtchn_bind_virq, evtchn_close, evtchn_init_control, evtchn_reset,
            evtchn_send, evtchn_status, evtchn_unmask,
        },
        shared_info::{shared_info, vcpu_info},
        xen::{DOMID_SELF, NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENPMU},
    },
};

use crate::{
    config::Kind,
    state::{State, copy_from, copy_to},
};

/// What a port is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// Nothing; the port is free.
    Closed,
    /// Free below the shim, taken in it: closed twice.
    Lost,
    /// Nobody yet; that domain may bind.
    Unbound(u16),
    /// A port of another domain, or of this one.
    Interdomain(u16, u32),
    /// A virtual interrupt.
    Virq(u32),
    /// Other vCPUs.
    Ipi,
}

/// An event-channel port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) bound: Bound,
    pub(crate) vcpu: u32,
}

impl State {
    fn shared(&self) -> *mut shared_info {
        self.mem.ptr(self.shared_info).cast()
    }

    fn info(&self, vcpu: usize) -> *mut vcpu_info {
        let place = self.vcpus[vcpu].info;
        self.mem
            .ptr(place.frame())
            .wrapping_byte_add(place.page_offset() as usize)
            .cast()
    }

    /// The mask and the pending byte of the current vCPU.
    fn upcall_bytes(&self) -> (*mut u8, *mut u8) {
        let info = self.info(self.current);
        // SAFETY: `info` points at a `vcpu_info` within a frame; the fields' places are computed,
        // nothing is read.
        unsafe {
            (
                &raw mut (*info).evtchn_upcall_mask,
                &raw mut (*info).evtchn_upcall_pending,
            )
        }
    }

    /// Whether the current vCPU has masked upcalls; optionally sets that.
    pub(crate) fn upcall_mask(&mut self, set: Option<bool>) -> bool {
        let (mask, _) = self.upcall_bytes();
        // SAFETY: a byte of the model's memory, which only this thread accesses.
        unsafe {
            let was = mask.read_volatile() != 0;
            if let Some(set) = set {
                mask.write_volatile(set as u8);
            }
            was
        }
    }

    /// Whether the current vCPU is to take an upcall.
    pub(crate) fn upcall_due(&self) -> bool {
        let (mask, pending) = self.upcall_bytes();
        // SAFETY: bytes of the model's memory, which only this thread accesses.
        unsafe { mask.read_volatile() == 0 && pending.read_volatile() != 0 }
    }

    /// Marks `port` pending, and its vCPU if nothing masks it.
    pub(crate) fn raise(&mut self, port: u32) {
        let (word, bit) = (port as usize / 64, 1u64 << (port % 64));
        let info = self.info(self.ports[port as usize].vcpu as usize);
        let shared = self.shared();
        self.counters.events += 1;
        // SAFETY: both point at structures within frames of the model's memory, which only this
        // thread accesses; ports are below 4096, so `word` is within the arrays.
        unsafe {
            let pending = (&raw mut (*shared).evtchn_pending[word]).cast::<u64>();
            let was = pending.read_volatile();
            pending.write_volatile(was | bit);
            let masked = (&raw mut (*shared).evtchn_mask[word]).read_volatile();
            if was & bit == 0 && masked & bit == 0 {
                let selector = &raw mut (*info).evtchn_pending_sel;
                selector.write_volatile(selector.read_volatile() | 1 << word);
                (&raw mut (*info).evtchn_upcall_pending).write_volatile(1);
            }
        }
    }

    fn unmask(&mut self, port: u32) {
        let (word, bit) = (port as usize / 64, 1u64 << (port % 64));
        let info = self.info(self.ports[port as usize].vcpu as usize);
        let shared = self.shared();
        // SAFETY: as in `raise`.
        unsafe {
            let mask = &raw mut (*shared).evtchn_mask[word];
            let was = mask.read_volatile();
            mask.write_volatile(was & !bit);
            let pending = (&raw mut (*shared).evtchn_pending[word]).read_volatile();
            if was & bit != 0 && pending & bit != 0 {
                let selector = &raw mut (*info).evtchn_pending_sel;
                selector.write_volatile(selector.read_volatile() | 1 << word);
                (&raw mut (*info).evtchn_upcall_pending).write_volatile(1);
            }
        }
    }

    /// Raises `virq` on `vcpu`; false if no port is bound to it.
    pub(crate) fn raise_virq(&mut self, virq: u32, vcpu: u32) -> bool {
        let found = self
            .ports
            .iter()
            .position(|port| port.bound == Bound::Virq(virq) && port.vcpu == vcpu);
        found.map(|port| self.raise(port as u32)).is_some()
    }

    /// The port's state, if there is such a port.
    fn port(&mut self, number: u32) -> Result<&mut Port, Errno> {
        self.ports.get_mut(number as usize).ok_or(Errno::EINVAL)
    }

    /// Binds a free port. 0 is never one.
    pub(crate) fn bind(&mut self, bound: Bound, vcpu: u32) -> Result<u32, Errno> {
        if vcpu as usize >= self.vcpus.len() {
            return Err(Errno::ENOENT);
        }
        let new = Port { bound, vcpu };
        let is_free = |port: &Port| matches!(port.bound, Bound::Closed | Bound::Lost);
        let free = (1..self.ports.len()).find(|&i| is_free(&self.ports[i]));
        if free.is_some_and(|i| self.ports[i].bound == Bound::Lost) {
            return Err(Errno::EBUSY);
        }
        match free {
            Some(number) => self.ports[number] = new,
            None if self.ports.len() < EVTCHN_2L_NR_CHANNELS => self.ports.push(new),
            None => return Err(Errno::ENOSPC),
        }
        Ok(free.unwrap_or(self.ports.len() - 1) as u32)
    }

    fn close(&mut self, number: u32) {
        if let Bound::Interdomain(DOMID_SELF, other) = self.ports[number as usize].bound
            && other != number
        {
            self.ports[other as usize].bound = Bound::Unbound(DOMID_SELF);
        }
        self.ports[number as usize].bound = Bound::Closed;
    }

    pub(crate) fn event_channel_op(&mut self, args: [u64; 5]) -> Result<i64, Errno> {
        let [cmd, arg, ..] = args;
        match cmd as u32 {
            EVTCHNOP_alloc_unbound => {
                let mut op: evtchn_alloc_unbound = copy_from(arg)?;
                if op.dom != DOMID_SELF && op.dom != self.domid {
                    return Err(Errno::EPERM);
                }
                op.port = self.bind(Bound::Unbound(op.remote_dom), 0)?;
                copy_to(arg, op)?;
            }
            EVTCHNOP_bind_interdomain => {
                let mut op: evtchn_bind_interdomain = copy_from(arg)?;
                let own = op.remote_dom == DOMID_SELF || op.remote_dom == self.domid;
                if !own {
                    return Err(Errno::ESRCH);
                }
                let domid = self.domid;
                match self.port(op.remote_port)?.bound {
                    Bound::Unbound(from) if from == DOMID_SELF || from == domid => {}
                    _ => return Err(Errno::EINVAL),
                }
                let bound = Bound::Interdomain(DOMID_SELF, op.remote_port);
                op.local_port = self.bind(bound, 0)?;
                self.port(op.remote_port)?.bound = Bound::Interdomain(DOMID_SELF, op.local_port);
                // The new end is pending at once, so that nothing sent early is lost.
                self.raise(op.local_port);
                copy_to(arg, op)?;
            }
            EVTCHNOP_bind_virq => {
                let mut op: evtchn_bind_virq = copy_from(arg)?;
                let per_vcpu = matches!(op.virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENPMU);
                if op.virq >= NR_VIRQS || !per_vcpu && op.vcpu != 0 {
                    return Err(Errno::EINVAL);
                }
                let bound = Bound::Virq(op.virq);
                if self
                    .ports
                    .iter()
                    .any(|port| port.bound == bound && port.vcpu == op.vcpu)
                {
                    return Err(Errno::EEXIST);
                }
                op.port = self.bind(bound, op.vcpu)?;
                copy_to(arg, op)?;
            }
            EVTCHNOP_bind_ipi => {
                let mut op: evtchn_bind_ipi = copy_from(arg)?;
                op.port = self.bind(Bound::Ipi, op.vcpu)?;
                copy_to(arg, op)?;
            }
            EVTCHNOP_close => {
                let op: evtchn_close = copy_from(arg)?;
                let shim = self.kind == Kind::Shim;
                let port = self.port(op.port)?;
                if matches!(port.bound, Bound::Closed | Bound::Lost) {
                    if shim {
                        port.bound = Bound::Lost;
                    }
                    return Err(Errno::EINVAL);
                }
                self.close(op.port);
            }
            EVTCHNOP_send => {
                let op: evtchn_send = copy_from(arg)?;
                match self.port(op.port)?.bound {
                    Bound::Interdomain(DOMID_SELF, other) => self.raise(other),
                    Bound::Interdomain(..) => self.counters.events += 1,
                    Bound::Ipi => self.raise(op.port),
                    // Nobody listens yet; that is no error.
                    Bound::Unbound(_) => {}
                    Bound::Closed | Bound::Lost | Bound::Virq(_) => return Err(Errno::EINVAL),
                }
            }
            EVTCHNOP_status => {
                let mut op: evtchn_status = copy_from(arg)?;
                if op.dom != DOMID_SELF && op.dom != self.domid {
                    return Err(Errno::EPERM);
                }
                let port = *self.port(op.port)?;
                op.vcpu = port.vcpu;
                op.status = match port.bound {
                    Bound::Closed | Bound::Lost => EVTCHNSTAT_closed,
                    Bound::Unbound(_) => EVTCHNSTAT_unbound,
                    Bound::Interdomain(..) => EVTCHNSTAT_interdomain,
                    Bound::Virq(virq) => {
                        op.u.virq = virq;
                        EVTCHNSTAT_virq
                    }
                    Bound::Ipi => EVTCHNSTAT_ipi,
                };
                copy_to(arg, op)?;
            }
            EVTCHNOP_bind_vcpu => {
                let op: evtchn_bind_vcpu = copy_from(arg)?;
                if op.vcpu as usize >= self.vcpus.len() {
                    return Err(Errno::ENOENT);
                }
                let port = self.port(op.port)?;
                match port.bound {
                    Bound::Interdomain(..) | Bound::Unbound(_) => port.vcpu = op.vcpu,
                    Bound::Virq(virq) if !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENPMU) => {
                        port.vcpu = op.vcpu;
                    }
                    _ => return Err(Errno::EINVAL),
                }
            }
            EVTCHNOP_unmask => {
                let op: evtchn_unmask = copy_from(arg)?;
                self.port(op.port)?;
                self.unmask(op.port);
            }
            EVTCHNOP_reset => {
                let op: evtchn_reset = copy_from(arg)?;
                if op.dom != DOMID_SELF && op.dom != self.domid {
                    return Err(Errno::EPERM);
                }
                for port in 1..self.ports.len() as u32 {
                    self.close(port);
                }
            }
            // FIFO channels: the shim has none, and the model none for anybody.
            EVTCHNOP_init_control if self.kind == Kind::Shim => return Err(Errno::EOPNOTSUPP),
            EVTCHNOP_init_control => {
                let op: evtchn_init_control = copy_from(arg)?;
                return match op.offset % 8 {
                    0 => Err(Errno::ENOSYS),
                    _ => Err(Errno::EINVAL),
                };
            }
            _ if self.kind == Kind::Shim => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::ENOSYS),
        }
        Ok(0)
    }
}
