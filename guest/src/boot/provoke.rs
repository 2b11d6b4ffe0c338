//! Failures on purpose, so that whoever watches the kernel can be tested.

extern crate alloc;

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use marks::init;

use crate::options::Provoke;
use crate::trap::report::FAIL_IN_REPORT;
use crate::{cpu, mm, power, println, smp, task, verdict, xen::HV};

/// An address in the user half that nothing maps.
const NOWHERE: u64 = 0x5ead_beef_0000;

/// Fails in the given way.
#[init]
pub(crate) fn provoke(kind: Provoke) {
    println!("provoking: {kind:?}");
    match kind {
        Provoke::Panic => panic!("provoked by the command line"),
        Provoke::PageFault => fault(),
        Provoke::HeldFault => crate::mm::with(|_| fault()),
        Provoke::DoubleFault => {
            FAIL_IN_REPORT.store(true, Ordering::Relaxed);
            fault();
        }
        Provoke::StackOverflow => {
            println!("depth reached: {}", recurse(0));
        }
        Provoke::Relock => mm::with(|_| mm::with(|_| ())),
        Provoke::Reprint => println!("printed {}", Prints),
        Provoke::Reboot => {
            verdict::pass("reboot=1");
            power::reboot();
        }
        Provoke::Hang => loop {
            // A refused yield is a busier hang.
            let _ = hypercall::sched::r#yield(&HV);
        },
        Provoke::VcpuPanic => {
            let last = cpu::running() - 1;
            smp::on_all(&|number| {
                assert_ne!(number, last, "provoked by the command line");
                loop {
                    core::hint::spin_loop();
                }
            });
        }
        Provoke::HeldPark => mm::with(|_| task::park()),
        Provoke::LockOrder => mm::with(|_| drop(core::hint::black_box(Box::new(0)))),
        Provoke::ThreadOverflow => match task::spawn("overflows", || recurse(0)) {
            Ok(thread) => println!("depth reached: {:?}", thread.join()),
            Err(e) => panic!("a thread that overflows: {e}"),
        },
    }
}

/// Prints when it is printed.
struct Prints;

impl core::fmt::Display for Prints {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        println!("while something is printed");
        f.write_str("text")
    }
}

#[init]
fn fault() {
    let nowhere = core::ptr::with_exposed_provenance::<u64>(NOWHERE as usize);
    // SAFETY: never succeeds: nothing is mapped there, the fault is the point.
    unsafe { nowhere.read_volatile() };
}

/// Uses up the stack. Not marked: a thread begins with it, which is an instance of what stays.
#[expect(unconditional_recursion, reason = "the overflow is the point")]
fn recurse(depth: u64) -> u64 {
    let page = core::hint::black_box([depth; 64]);
    recurse(page[0] + 1) + core::hint::black_box(page)[63]
}
