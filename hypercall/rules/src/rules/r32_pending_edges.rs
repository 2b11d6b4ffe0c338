//! # R32: An event is an edge
//!
//! Xen sets the port's bit in `evtchn_pending`; if that was clear and the port is not masked, the
//! word's bit in the vCPU's `evtchn_pending_sel`, and then `evtchn_upcall_pending`. A port whose
//! bit is set already raises nothing. So a handler clears `evtchn_upcall_pending` first and scans
//! after, and a kernel that unmasks looks at the byte again. With the mask set nothing is
//! delivered, however much is pending.
//!
//! **Why.** The guest may clear bits at the same time; in this order nothing is lost.
//!
//! **Source.** xen/common/event_2l.c: `evtchn_2l_set_pending`; xen/arch/x86/domain.c:
//! `vcpu_mark_events_pending`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let hv = machine.hv();
    let was = hv.mask_upcalls();
    let result = edges(&bench);
    hv.restore_upcalls(was);
    result
}

fn edges(bench: &TestBench<'_>) -> Check {
    let port = bench.bind_ipi()?;
    let result = with_port(bench, port);
    bench.close_port(port);
    result
}

fn with_port(bench: &TestBench<'_>, port: u32) -> Check {
    let (word, bit) = (port as usize / 64, 1u64 << (port % 64));
    let shared = bench.machine.shared_info();
    let info = bench.machine.vcpu_info();
    // SAFETY: both structures are mapped as long as the kernel runs, and fields are accessed as
    // Xen does, whole. With upcalls masked no handler of this vCPU is in the way.
    let (pending, select, upcall) = unsafe {
        (
            &raw mut (*shared).evtchn_pending[word],
            &raw mut (*info).evtchn_pending_sel,
            &raw mut (*info).evtchn_upcall_pending,
        )
    };
    // SAFETY: both structures are mapped as long as the kernel runs, and fields are accessed as Xen does,
    // whole. With upcalls masked no handler of this vCPU is in the way.
    let look = || unsafe {
        (
            pending.read_volatile() & bit != 0,
            select.read_volatile() >> word & 1 != 0,
            upcall.read_volatile() != 0,
        )
    };
    // SAFETY: both structures are mapped as long as the kernel runs; what other ports had pending in these two is kept pending in their bits,
    // and put back below.
    let (old_select, old_upcall) = unsafe { (select.read_volatile(), upcall.read_volatile()) };
    // SAFETY: both structures are mapped as long as the kernel runs, and fields are accessed as Xen does,
    // whole. With upcalls masked no handler of this vCPU is in the way.
    let clear = || unsafe {
        select.write_volatile(0);
        upcall.write_volatile(0);
    };
    bench.unmask_port(port)?;
    clear();
    expect_result!(bench.send(port), 0, "sending to an IPI port");
    let first = look();
    clear();
    expect_result!(bench.send(port), 0, "sending again");
    let second = look();
    // SAFETY: both structures are mapped as long as the kernel runs, and fields are accessed as Xen does,
    // whole. With upcalls masked no handler of this vCPU is in the way.
    unsafe { pending.write_volatile(pending.read_volatile() & !bit) };
    expect_result!(bench.send(port), 0, "sending with the port's bit cleared");
    let third = look();
    // SAFETY: both structures are mapped as long as the kernel runs, and fields are accessed as Xen does,
    // whole. With upcalls masked no handler of this vCPU is in the way.
    unsafe {
        pending.write_volatile(pending.read_volatile() & !bit);
        select.write_volatile(old_select);
        upcall.write_volatile(old_upcall);
    }
    expect_eq!(first, (true, true, true), "pending, selector and byte after the first");
    expect_eq!(second, (true, false, false), "the same after a second");
    expect_eq!(third, (true, true, true), "the same after a new edge");
    Ok(())
}
