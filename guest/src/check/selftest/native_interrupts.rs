//! What stands behind interrupts outside of PV: the page that is shared, vectors that nobody knows,
//! and the devices of a PC.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall::Errno;
use hypercall::abi::xen::VIRQ_CONSOLE;
use hypercall::event::bind_virq;
use x86_64::instructions::port::Port as IoPort;

use super::context::Context;
use super::interrupt::{Open, counting, one_shot, sleep_until_raised};
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::frame::Frame;
use crate::mm::layout::Fixed;
use crate::mm::state::{Kind, State};
use crate::mm::{self, MmError};
use crate::pc::interrupts;
use crate::xen::HV;
use crate::{console, trap};

/// In hardware virtualisation `shared_info` takes the place of a frame of the kernel's. Its record
/// says so, so that it is never handed out, freed or made a table.
fn page(_: &mut Context) -> TestResult {
    let va = Fixed::SharedInfo.address();
    let (applied, _) = mm::with(|tables| {
        let value = tables.pte_val(tables.ptep_get(va)?);
        let pfn = value.ok_or(MmError::NotMapped { va })?.pfn;
        let states = tables.frames().states(pfn);
        states.map_err(MmError::from)
    })?;
    if applied.kind == Kind::Shared {
        return Ok(());
    }
    Err(Trouble::fail(format_args!(
        "expected a frame that is {}, found one that is {applied}",
        State::of(Kind::Shared)
    )))
}
selftest!("interrupt.page", page, needs SHARED_FRAME);

/// The vector that went where unexpected exceptions go.
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

fn note_unexpected(frame: &Frame) -> bool {
    UNEXPECTED.store(frame.vector, Ordering::Relaxed);
    true
}

/// An interrupt that nobody knows is reported like an exception that nobody handles, whether it can be
/// masked or not.
fn unknown(_: &mut Context) -> TestResult {
    UNEXPECTED.store(0, Ordering::Relaxed);
    trap::observe(Some(note_unexpected));
    // SAFETY: the gate's stub saves all registers, and the observer stands in for the report.
    unsafe { core::arch::asm!("int 0x23") };
    let vector = UNEXPECTED.load(Ordering::Relaxed);
    // As one that cannot be masked comes, which no processor has sent.
    // SAFETY: the stub of this gate saves all registers too, and the observer takes what comes.
    unsafe { core::arch::asm!("int 2") };
    trap::observe(None);
    expect_eq!(vector, 0x23, "the vector reported");
    expect_eq!(
        UNEXPECTED.load(Ordering::Relaxed),
        2,
        "the next vector reported"
    );
    Ok(())
}
selftest!("interrupt.unknown", unknown, needs OWN_VECTORS);

/// A line of an interrupt controller whose request is gone when it is asked for comes as the
/// controller's last line. It is counted and forgotten, and what comes after it is taken as before:
/// a controller told of the end of an interrupt that it never gave would end another.
fn spurious(_: &mut Context) -> TestResult {
    if !interrupts::is_present() {
        return Err(Trouble::skip("this machine has no interrupt controllers"));
    }
    let before = interrupts::spurious();
    // SAFETY: both gates' stubs save all registers.
    unsafe { core::arch::asm!("int 0x27", "int 0x2f") };
    expect_eq!(interrupts::spurious() - before, 2, "spurious interrupts");
    let _timer = Open::timer(&counting)?;
    one_shot(1_000_000)
}
selftest!("interrupt.spurious", spurious, needs PC);

/// What comes in at the serial port ends a sleep. The port is its own other end here: in loopback
/// it receives what it sends.
fn serial(_: &mut Context) -> TestResult {
    const LOOPBACK: u8 = 1 << 4;
    let input = match bind_virq(&HV, VIRQ_CONSOLE, 0) {
        Err(e) if e.errno == Errno::EEXIST => {
            return Err(Trouble::skip("the monitor waits for the input"));
        }
        Err(e) if e.errno == Errno::ENODEV => {
            return Err(Trouble::skip(
                "this machine has no serial port that interrupts",
            ));
        }
        other => Open::masked(other?),
    };
    let (mut data, mut control) = (IoPort::<u8>::new(0x3f8), IoPort::<u8>::new(0x3fc));
    // SAFETY: the first serial port's registers; nothing is printed before it is as it was.
    let slept = unsafe {
        let was = control.read();
        control.write(was | LOOPBACK);
        data.write(b'x');
        let slept = sleep_until_raised(&input);
        control.write(was);
        slept
    };
    let mut typed = [0; 4];
    let count = console::read(&mut typed);
    slept?;
    expect_eq!(count, 1, "bytes received");
    expect_eq!(typed[0], b'x', "the byte received");
    Ok(())
}
selftest!("interrupt.serial", serial, needs PC);
