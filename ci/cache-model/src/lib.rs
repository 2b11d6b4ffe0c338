//! A plugin of QEMU that counts what memory accesses cost a processor that has caches: under `-icount` one
//! that misses them all counts as much as one that hits.
//!
//! QEMU calls it for each access of the kernel's and of Xen's. What it counts are windows: one begins with
//! a store to the kernel's first mark, and one to the second, behind it, ends it. Between windows the caches are kept up,
//! and nothing is counted.
//!
//! Arguments: `marks=ADDRESS` (in hexadecimal), `out=FILE`. The file has a line `window N` for each window,
//! then one for each page that was accessed in it: who did it (`k` the kernel, `x` Xen), the page's
//! address, accesses, misses of the first and of the second level, misses of the TLB, different lines.

mod caches;
#[cfg(not(test))]
mod plugin;
#[cfg(not(test))]
mod qemu;
