//! # R21: Of a multicall only the results come back
//!
//! After the call, nothing but `result` of an entry may be read. A release Xen leaves the rest
//! alone, unless an entry was interrupted (then its arguments are those of the rest of it); a debug
//! Xen overwrites it with 0xAA.
//!
//! **Why.** So that nobody builds on what only happens to be left.
//!
//! **Source.** xen/common/multicall.c: `do_multicall`, under `NDEBUG`.

use crate::prelude::*;

pub(crate) fn test(machine: &dyn Machine) -> Check {
    let bench = TestBench::new(machine);
    let version = abi::version::XENVER_version as u64;
    let mut calls = [entry_for(Op::XenVersion as u64, [version, 0, 3, 4, 5])];
    expect_result!(bench.multicall(&mut calls), 0, "the multicall");
    let (major, minor) = machine.about().version;
    let expected = (major as u64) << 16 | minor as u64;
    expect_eq!(calls[0].result, expected, "the version as result");
    let debug = machine.about().debug;
    let expected = match debug {
        true => 0xaaaa_aaaa_aaaa_aaaa,
        false => Op::XenVersion as u64,
    };
    expect_eq!(calls[0].op, expected, "what is left of op");
    let expected = if debug { 0xaaaa_aaaa_aaaa_aaaa } else { 0x6666 };
    expect_eq!(calls[0].args[5], expected, "what is left of the sixth argument");
    Ok(())
}
