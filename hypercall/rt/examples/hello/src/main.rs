//! A whole kernel: its domain says hello and powers off.
#![no_std]
#![no_main]

use xen_pv_rt::{Start, entry, println};

entry!(main);

fn main(start: Start) {
    println!("hello from a domain of {} pages", start.info.nr_pages);
}
