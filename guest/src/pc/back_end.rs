//! Who answers where the kernel owns the processor: its page tables and interrupts are the kernel's
//! own; for the rest there is Xen underneath ([`OnXen`]), or the devices of a machine ([`OnMetal`]).

use hypercall::event::Port;
use hypercall::instead::{Devices, PageTables};
use hypercall::sched::Shutdown;
use hypercall::{Errno, Hypervisor, Op};
use pagetable::native::OwnTables;

use super::{deadlines, devices, interrupts, ports, processors, summons};
use crate::console::Device;
use crate::mm::processor::Processor;
use crate::xen::BackEnd;

static TABLES: OwnTables<Processor> = OwnTables(Processor);

/// In Xen's hardware virtualisation.
pub(crate) struct OnXen;

/// Without Xen.
pub(crate) struct OnMetal;

impl BackEnd for OnXen {
    fn page_tables(&self) -> &dyn PageTables {
        &TABLES
    }

    fn devices(&self) -> Option<&dyn Devices> {
        None
    }

    unsafe fn call(&self, op: Op, args: [u64; 5]) -> i64 {
        // SAFETY: this back end is told only to a guest that Xen runs, where the instruction is a
        // hypercall. The arguments are unchanged, and `BackEnd::call` has its caller promise that their
        // pointers are good and that no memory in use changes.
        unsafe { hypercall::hvm::XenHvm::detect().call(op, args) }
    }

    fn mask(&self) -> bool {
        interrupts::mask()
    }

    fn unmask(&self) {
        interrupts::unmask();
    }

    fn is_requested(&self) -> bool {
        false
    }

    fn block(&self) {
        interrupts::block();
    }
}

impl BackEnd for OnMetal {
    fn page_tables(&self) -> &dyn PageTables {
        &TABLES
    }

    fn devices(&self) -> Option<&dyn Devices> {
        Some(self)
    }

    unsafe fn call(&self, _: Op, _: [u64; 5]) -> i64 {
        Errno::ENOSYS.to_return()
    }

    fn mask(&self) -> bool {
        interrupts::mask()
    }

    fn unmask(&self) {
        interrupts::unmask();
    }

    fn is_requested(&self) -> bool {
        interrupts::is_requested()
    }

    fn block(&self) {
        interrupts::block();
    }
}

impl Devices for OnMetal {
    fn write(&self, text: &[u8]) {
        devices::write(text);
    }

    fn read(&self, buffer: &mut [u8]) -> usize {
        devices::Serial.take(buffer)
    }

    /// Nobody else waits for this processor.
    fn pause(&self) {
        core::hint::spin_loop();
    }

    fn poll(&self, polled: &[u32], deadline: u64) -> Result<(), Errno> {
        ports::poll(polled, deadline)
    }

    fn shutdown(&self, reason: Shutdown) {
        devices::end(reason);
    }

    fn set_timer(&self, deadline: u64) -> Result<(), Errno> {
        ports::need(deadlines::has_timer()).map(|()| deadlines::set_event(deadline))
    }

    fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<Port, Errno> {
        ports::bind_virq(virq, vcpu)
    }

    fn bind_ipi(&self, vcpu: u32) -> Result<Port, Errno> {
        ports::bind_ipi(vcpu)
    }

    fn send(&self, port: Port) -> Result<(), Errno> {
        ports::send(port)
    }

    fn unmask(&self, port: Port) -> Result<(), Errno> {
        ports::unmask(port)
    }

    fn close(&self, port: Port) -> Result<(), Errno> {
        ports::close(port)
    }

    fn is_up(&self, vcpu: u32) -> Result<bool, Errno> {
        match processors::find(vcpu) {
            Ok(processor) => Ok(processor.is_up()),
            // One that was not started yet.
            Err(e) => processors::id_of(vcpu).map(|_| false).ok_or(e),
        }
    }

    fn is_running(&self, vcpu: u32) -> Result<bool, Errno> {
        processors::find(vcpu).map(|processor| processor.is_running())
    }

    unsafe fn up(&self, vcpu: u32) -> Result<(), Errno> {
        processors::find(vcpu)?.bring_up();
        Ok(())
    }

    fn down(&self, vcpu: u32) -> Result<(), Errno> {
        let processor = processors::find(vcpu)?;
        if processor.is_here() {
            processor.go_down();
            return Ok(());
        }
        summons::stop(processor)
    }
}
