//! The command `spaces`: user halves that stay, for what is to cost the same however many there are.

extern crate alloc;

use alloc::vec::Vec;

use super::pile::Pile;
use super::{TestResult, Trouble, reason};
use crate::control::End;
use crate::lock::Lock;
use crate::mm::spaces::AddressSpace;
use crate::mm::{self, Flags};
use crate::monitor::Monitor;
use crate::monitor::commands::command;
use crate::{println, rank};

/// Where each of them maps a page.
const USER: u64 = 0x12_3456_7000;

/// Those that stay.
static HELD: Lock<Vec<AddressSpace>, rank::Check> = Lock::new(Vec::new());

/// Makes one more, with tables of every level and a page.
fn hold() -> TestResult {
    let space = mm::with(|tables| tables.create_space())?;
    let pile = mm::with(|tables| Pile::of(tables, 1))?;
    let pfn = pile
        .pfns()
        .next()
        .ok_or_else(|| Trouble::error("no page"))?;
    mm::in_space(&space, |tables| {
        // SAFETY: the page stays where it is mapped for good: a pile gives nothing back by itself.
        unsafe { tables.map(USER, core::iter::once(pfn), Flags::DATA) }?.commit(tables)
    })?;
    let mut held = HELD.lock();
    held.try_reserve(1)?;
    held.push(space);
    Ok(())
}

fn spaces(_: &mut Monitor, argument: &str) -> Option<End> {
    let Ok(count) = argument.parse::<usize>() else {
        println!("spaces needs a number: spaces 50");
        return None;
    };
    while HELD.lock().len() < count {
        if hold().is_err() {
            println!("spaces: {}", reason());
            return None;
        }
    }
    println!("spaces: {} stay", HELD.lock().len());
    None
}
command!(
    "spaces",
    "N",
    "make user halves until there are N that stay",
    needs XEN_TABLES,
    spaces
);
