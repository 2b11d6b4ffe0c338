//! A kernel that fails in the way that its command line names: what is said of it can be looked at.
#![no_std]
#![no_main]

use xen_pv_rt::{Start, entry};

entry!(main);

fn main(start: Start) -> Result<(), &'static str> {
    match &*start.info.cmdline {
        b"panic" => panic!("as I was told"),
        b"pagefault" => read(0x5ead_beef_0000),
        b"overflow" => recurse([1; 64]),
        _ => return Err("no word says how to fail: panic, pagefault or overflow"),
    };
    Err("nothing happened")
}

fn read(address: usize) -> u64 {
    // SAFETY: nothing is there, which is the point.
    unsafe { core::ptr::with_exposed_provenance::<u64>(address).read_volatile() }
}

#[expect(unconditional_recursion, reason = "until the stack ends")]
fn recurse(words: [u64; 64]) -> u64 {
    let next = core::hint::black_box(words).map(|word| word + 1);
    recurse(next) + core::hint::black_box(next)[0]
}
