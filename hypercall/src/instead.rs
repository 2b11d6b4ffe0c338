//! Who answers in place of Xen, request by request, where the kernel owns the processor: in hardware
//! virtualisation its own page tables, on bare metal a machine's devices as well.
//!
//! A [`Hypervisor`](crate::Hypervisor) that has such a back end is not called by number for what that
//! answers: the functions of this crate, and the batch, hand it their typed arguments. So what is
//! above asks the same way everywhere, and no back end takes numbers apart.
//!
//! ```
//! use hypercall::Errno;
//! use hypercall::instead::Refused;
//!
//! /// Writes what fits into a table of 512 entries.
//! fn update(requests: usize) -> Result<(), Refused> {
//!     match requests {
//!         0..=512 => Ok(()),
//!         _ => Err(Refused { errno: Errno::EINVAL, done: 512 }),
//!     }
//! }
//! assert_eq!(update(600).unwrap_err().done, 512);
//! ```

use crate::{
    Errno, Op, VirtAddr, XenError,
    abi::{event::evtchn_port_t, mmu::mmu_update},
    event::Port,
    mmu::{ExtOp, VaFlush},
    sched::Shutdown,
};

/// Requests of a list that were not all carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why.
    pub errno: Errno,
    /// How many were carried out; the one with this index was refused.
    pub done: u32,
}

/// Page tables that no Xen looks at.
pub trait PageTables {
    /// Carries out requests in order, up to the first that is refused.
    ///
    /// # Safety
    /// As [`mmu::update`](crate::mmu::update).
    unsafe fn update(&self, requests: &[mmu_update]) -> Result<(), Refused>;

    /// Carries out an operation.
    ///
    /// # Safety
    /// As [`mmu::ext`](crate::mmu::ext).
    unsafe fn ext(&self, op: ExtOp) -> Result<(), Errno>;

    /// Writes the L1 entry of an address in the tables in use, and flushes.
    ///
    /// # Safety
    /// As [`mmu::update_va_mapping`](crate::mmu::update_va_mapping).
    unsafe fn update_va(&self, va: VirtAddr, value: u64, flush: VaFlush) -> Result<(), Errno>;
}

/// The devices of a machine: what a domain has of Xen for its console, its time and its events.
/// What the machine lacks is refused with `ENODEV`.
pub trait Devices {
    /// Writes to the console, with a terminal's line ends.
    fn write(&self, text: &[u8]);

    /// Reads what was typed and says how many bytes.
    fn read(&self, buffer: &mut [u8]) -> usize;

    /// Waits a moment.
    fn pause(&self);

    /// Sleeps until one of the ports is raised or the time (ns, 0: never) has come.
    fn poll(&self, ports: &[evtchn_port_t], deadline: u64) -> Result<(), Errno>;

    /// Ends the run; returns where the machine has no way to.
    fn shutdown(&self, reason: Shutdown);

    /// Raises the port of the calling processor's timer at a time (ns); never for 0.
    fn set_timer(&self, deadline: u64) -> Result<(), Errno>;

    /// The port of a virtual interrupt (`VIRQ_*`) of a processor.
    fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<Port, Errno>;

    /// A port of a processor that the kernel raises itself.
    fn bind_ipi(&self, vcpu: u32) -> Result<Port, Errno>;

    /// Raises a port of the kernel's own.
    fn send(&self, port: Port) -> Result<(), Errno>;

    /// Unmasks a port; one that is raised is delivered.
    fn unmask(&self, port: Port) -> Result<(), Errno>;

    /// Gives a port back.
    fn close(&self, port: Port) -> Result<(), Errno>;

    /// Whether a processor is up. `ENOENT` if there is none of this number.
    fn is_up(&self, vcpu: u32) -> Result<bool, Errno>;

    /// Whether a processor executes instructions of the kernel's.
    fn is_running(&self, vcpu: u32) -> Result<bool, Errno>;

    /// Lets a processor go on that went down by itself.
    ///
    /// # Safety
    /// As [`vcpu::up`](crate::vcpu::up).
    unsafe fn up(&self, vcpu: u32) -> Result<(), Errno>;

    /// Stops a processor: another for good, the calling one until it is brought up again.
    fn down(&self, vcpu: u32) -> Result<(), Errno>;
}

/// An answer, as that of the call it stands for.
#[inline]
pub(crate) fn check<T>(
    op: Op,
    name: Option<&'static str>,
    answer: Result<T, Errno>,
) -> Result<T, XenError> {
    answer.map_err(|errno| XenError {
        op,
        sub: name,
        errno,
    })
}
