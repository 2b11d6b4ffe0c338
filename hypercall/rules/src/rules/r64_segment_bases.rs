//! # R64: A segment base is canonical
//!
//! `set_segment_base` sets FS, the user's GS or the kernel's GS; an address that is not canonical,
//! or a base that does not exist, gives `EINVAL`. Addresses of Xen's are accepted: they only fault.
//!
//! **Why.** The instruction that Xen uses for it would fault on anything else.
//!
//! **Source.** xen/arch/x86/pv/misc-hypercalls.c: `do_set_segment_base`.

use crate::prelude::*;
use abi::arch::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER};

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let set = |which: u32, base: u64| bench.call(Op::SetSegmentBase, [which as u64, base, 0, 0, 0]);
    for which in [SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL] {
        expect_result!(set(which, 1 << 47), EINVAL, "base {which} at no canonical address");
    }
    expect_result!(set(99, 0), EINVAL, "base 99");
    expect_result!(set(SEGBASE_GS_USER, 0x1234_5000), 0, "the user's GS");
    expect_result!(set(SEGBASE_GS_USER, 0), 0, "the user's GS");
    Ok(())
}
