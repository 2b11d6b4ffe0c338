//! Operations on the user half of a space: what processes are made of.

use super::Bench;
use crate::mm::spaces::AddressSpace;
use crate::mm::user::OnWrite;
use crate::mm::{Flags, MmError, Running, Tables};

/// Where the pages of user mode's lie: from the begin of a table on.
const USER: u64 = 0x12_3440_0000;
const PAGE: u64 = 4096;

/// Runs `f` with a space that has as many pages as are asked for.
fn with_space(
    bench: &mut Bench<'_>,
    f: impl FnOnce(&mut Bench<'_>, &AddressSpace) -> Result<(), MmError>,
) -> Result<(), MmError> {
    let space = bench.tables.create_space()?;
    let pages = bench.pages;
    bench
        .tables
        .in_space(&space, |tables| map_pages(tables, pages))?;
    f(bench, &space)?;
    destroy(bench.tables, space)
}

fn map_pages(tables: &mut Tables<Running>, pages: u64) -> Result<(), MmError> {
    tables.map_user(USER, pages, Flags::DATA, |va, words| words[0] = va)
}

fn destroy(tables: &mut Tables<Running>, space: AddressSpace) -> Result<(), MmError> {
    tables.spare_space(space).map_err(|refused| refused.error)
}

/// Memory for user mode, which is not cleared: that costs 512 instructions a page besides.
pub(super) fn map(bench: &mut Bench<'_>) -> Result<(), MmError> {
    let space = bench.tables.create_space()?;
    bench.measure(|tables, _, pages| tables.in_space(&space, |tables| map_pages(tables, pages)))?;
    destroy(bench.tables, space)
}

/// It is free afterwards.
pub(super) fn unmap(bench: &mut Bench<'_>) -> Result<(), MmError> {
    with_space(bench, |bench, space| {
        bench.measure(|tables, _, pages| {
            tables.in_space(space, |tables| tables.unmap_user(USER, pages))
        })
    })
}

/// A space that has the same memory, copy-on-write, and its end, whose tables serve the next.
pub(super) fn fork(bench: &mut Bench<'_>) -> Result<(), MmError> {
    with_space(bench, |bench, space| {
        bench.measure(|tables, _, _| {
            let child = tables.fork_space(space)?;
            destroy(tables, child)
        })
    })
}

/// The first write to each page after a fork: every fault gives the child a copy of its own, the first
/// in a table one of the table as well.
pub(super) fn copy_on_write(bench: &mut Bench<'_>) -> Result<(), MmError> {
    with_space(bench, |bench, space| {
        let child = bench.tables.fork_space(space)?;
        bench.measure(|tables, _, pages| {
            let mut pages = (0..pages).map(|page| USER + page * PAGE);
            pages.try_for_each(|va| {
                tables.in_space(&child, |tables| tables.make_writable(va, OnWrite::Copy))
            })
        })?;
        destroy(bench.tables, child)
    })
}
