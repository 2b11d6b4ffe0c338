//! Spaces that come of others: the memory of user mode's that both map, and the tables that they share
//! until one of them writes.

use core::sync::atomic::{AtomicU64, Ordering};

use super::context::{ABSENT_READ, Context, PAGE, READ_ONLY};
use super::race::{need_others, on_racers};
use super::smp_spaces::enter;
use super::{TestResult, Trouble, expect_eq, selftest};
use crate::mm::spaces::AddressSpace;
use crate::mm::user::OnWrite;
use crate::mm::{self, Flags, MmError};
use crate::probe;

/// An address of the user half, in the middle of an L1 table.
const USER: u64 = 0x12_3450_0000;

/// Maps fresh memory, each page full of its own address.
fn fill(space: &AddressSpace, pages: u64) -> Result<(), MmError> {
    mm::in_space(space, |tables| {
        tables.map_user(USER, pages, Flags::DATA, |va, words| words.fill(va))
    })
}

/// Writes to a page of the space that this vCPU runs in, as user mode would: the fault is resolved.
fn write(space: &AddressSpace, va: u64, value: u64) -> Result<(), MmError> {
    // SAFETY: the pages are the test's, and nobody's code or stack.
    let store = || unsafe { probe::write(va, value) };
    if store().is_err() {
        mm::in_space(space, |tables| tables.make_writable(va, OnWrite::Copy))?;
        store().map_err(|_| MmError::NotMapped { va })?;
    }
    Ok(())
}

fn destroy(space: AddressSpace) -> TestResult {
    let ended = mm::with(|tables| tables.destroy_space(space));
    ended.map_err(|refused| Trouble::from(refused.error))
}

/// What one of two spaces writes, unmaps or moves the other does not see, and with the last of them all
/// memory is free again, which the runner counts.
fn fork(context: &mut Context) -> TestResult {
    let pages = context.pages();
    let last = USER + (pages - 1) * PAGE;
    let parent = mm::with(|tables| tables.create_space())?;
    fill(&parent, pages)?;
    enter(Some(&parent))?;
    write(&parent, USER, 1)?;
    let child = mm::with(|tables| tables.fork_space(&parent))?;
    // SAFETY: as in `write`.
    let denied = unsafe { probe::write(USER, 2) };
    expect_eq!(
        denied,
        READ_ONLY,
        "the parent's write to a table that is shared"
    );
    write(&parent, USER, 2)?;
    enter(Some(&child))?;
    expect_eq!(probe::read(USER), Ok(1), "what the child finds");
    if pages > 1 {
        expect_eq!(probe::read(last), Ok(last), "the last page");
        write(&child, last, 3)?;
    }
    mm::in_space(&child, |tables| tables.move_user(USER, USER + (1 << 30), 1))?;
    expect_eq!(
        probe::read(USER),
        ABSENT_READ,
        "where the child moved a page away"
    );
    expect_eq!(
        probe::read(USER + (1 << 30)),
        Ok(1),
        "where the child moved it to"
    );
    enter(Some(&parent))?;
    expect_eq!(probe::read(USER), Ok(2), "what the parent wrote");
    if pages > 1 {
        expect_eq!(probe::read(last), Ok(last), "what the child wrote over");
    }
    mm::in_space(&parent, |tables| tables.unmap_user(USER, pages))?;
    enter(Some(&child))?;
    expect_eq!(
        probe::read(USER + (1 << 30)),
        Ok(1),
        "what the parent unmapped"
    );
    let report = mm::with_all(|tables| tables.audit())?;
    expect_eq!(report.findings, 0, "findings of an audit");
    enter(None)?;
    destroy(parent)?;
    destroy(child)
}
selftest!("user.fork", fork, &[1, 20, 513, 1500], needs EVERYWHERE);

/// Pages of the parent that every vCPU writes to in a child of its own.
const PAGES: u64 = 40;
const ROUNDS: u64 = 5;

/// All vCPUs fork one space at the same time, write to the same pages of their children while another
/// writes to the parent's, and end their children: the tables that all share are taken apart by all at
/// once.
fn forked(_: &mut Context) -> TestResult {
    need_others()?;
    let parent = mm::with(|tables| tables.create_space())?;
    fill(&parent, PAGES)?;
    let wrong = AtomicU64::new(0);
    let raced = on_racers("in a child of its own", &|number| {
        for round in 1..=ROUNDS {
            if number == 0 {
                enter(Some(&parent))?;
                write(&parent, USER + round * PAGE, round)?;
                enter(None)?;
                continue;
            }
            let child = mm::with(|tables| tables.fork_space(&parent))?;
            enter(Some(&child))?;
            let pages = (0..PAGES).map(|page| USER + page * PAGE);
            for va in pages.clone().filter(|va| va / PAGE % 3 != number % 3) {
                write(&child, va, va ^ number)?;
            }
            let is_wrong = |va: &u64| {
                let page = (va - USER) / PAGE;
                let found = probe::read(*va);
                let written = va / PAGE % 3 != number % 3;
                let parents = found == Ok(*va) || (page <= ROUNDS && found == Ok(page));
                if written {
                    found != Ok(va ^ number)
                } else {
                    !parents
                }
            };
            wrong.fetch_add(pages.filter(is_wrong).count() as u64, Ordering::Relaxed);
            enter(None)?;
            let ended = mm::with(|tables| tables.spare_space(child));
            ended.map_err(|refused| refused.error)?;
        }
        Ok(())
    });
    enter(Some(&parent))?;
    for page in 0..PAGES {
        let expected = if (1..=ROUNDS).contains(&page) {
            page
        } else {
            USER + page * PAGE
        };
        expect_eq!(
            probe::read(USER + page * PAGE),
            Ok(expected),
            "page {page} of the parent"
        );
    }
    enter(None)?;
    destroy(parent)?;
    raced?;
    expect_eq!(
        wrong.into_inner(),
        0,
        "pages of children that were not as they should be"
    );
    Ok(())
}
selftest!("smp.forked", forked, needs EVERYWHERE);
