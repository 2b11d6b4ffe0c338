//! The linker tables of the built image: sorted as they are, and refused when they are spoilt.
//!
//! The build has judged the tables already; here the same judge gets the same image with a few
//! pointers changed, so that a judge who accepts everything is found out.

use std::time::Instant;

use linker::read::{InitCallRead, ItemRead};
use linker::subarch::Subarch;
use linker::tables::{InitCall, Item};

use super::Suite;
use crate::exit::{Failure, Result};
use crate::image::tables::Tables;
use crate::image::{self, Loaded};

/// The image and its tables.
struct Image<'a> {
    file: object::File<'a>,
    bytes: &'a [u8],
    tables: Tables,
}

/// Changes to make: the call to change, and the entry whose name it is to come after.
type Changes<'t> = Vec<(&'t InitCallRead, &'t ItemRead)>;

/// A way of spoiling tables: its name, what it changes, and what the refusal says.
struct Spoil {
    name: &'static str,
    changes: fn(&Tables) -> Option<Changes<'_>>,
    says: &'static str,
}

const SPOILS: &[Spoil] = &[
    Spoil {
        name: "two init calls that wait for each other are refused",
        changes: |tables| {
            let (a, b) = two(tables)?;
            Some(vec![(a, &b.item), (b, &a.item)])
        },
        says: "wait for each other",
    },
    Spoil {
        name: "an init call after one that does not exist is refused",
        changes: |tables| Some(vec![(tables.init_calls.first()?, tables.commands.first()?)]),
        says: "which no table has",
    },
    Spoil {
        name: "an init call after one that its subarch lacks is refused",
        changes: |tables| {
            let lacking = |call: &&InitCallRead| !call.item.needs.subarches.is_all();
            let everywhere = |call: &&InitCallRead| call.item.needs.subarches.is_all();
            let (a, b) = (
                tables.init_calls.iter().find(everywhere)?,
                tables.init_calls.iter().find(lacking)?,
            );
            Some(vec![(a, &b.item)])
        },
        says: "which is not made on",
    },
];

/// Two calls of one level that are made in the same places; if there are none, one twice.
fn two(tables: &Tables) -> Option<(&InitCallRead, &InitCallRead)> {
    let calls = &tables.init_calls;
    let alike = |a: &InitCallRead, b: &InitCallRead| {
        let places = a.item.needs.subarches == b.item.needs.subarches;
        a.item.address < b.item.address && a.level == b.level && places
    };
    let pair = |a| Some((a, calls.iter().find(|b| alike(a, b))?));
    calls
        .iter()
        .find_map(pair)
        .or(calls.first().map(|a| (a, a)))
}

/// Shows the order on every subarch, and spoils the tables.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let path = suite.kernel()?;
    let bytes = std::fs::read(&path).map_err(Failure::file("read", &path))?;
    let file = image::parse(&bytes).map_err(Failure::Guest)?;
    let tables = Tables::read(&file, &bytes).map_err(Failure::Guest)?;
    let image = Image {
        file,
        bytes: &bytes,
        tables,
    };
    for subarch in Subarch::ALL {
        let order = image.tables.order(subarch).join(", ");
        let name = format!("tables: init calls on {subarch}: {order}");
        suite.report(&name, Instant::now(), image.tables.check());
    }
    for spoil in SPOILS {
        let name = format!("tables: {}", spoil.name);
        suite.report(&name, Instant::now(), image.refuses(spoil));
    }
    Ok(())
}

impl Image<'_> {
    fn refuses(&self, spoil: &Spoil) -> std::result::Result<(), String> {
        let changes = (spoil.changes)(&self.tables).ok_or("the image has no calls for it")?;
        let mut bytes = self.bytes.to_vec();
        for (call, after) in changes {
            // A list of one name: that of the other entry, where it stands there.
            let list = after.address + core::mem::offset_of!(Item, name) as u64;
            let field = call.item.address + core::mem::offset_of!(InitCall<fn()>, after) as u64;
            let at = Loaded::new(&self.file, self.bytes).offset(field);
            let at = at.ok_or("the table is not in the file")?;
            bytes[at..at + 8].copy_from_slice(&list.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&1_u64.to_le_bytes());
        }
        match Tables::read(&self.file, &bytes)?.check() {
            Err(error) if error.contains(spoil.says) => Ok(()),
            Err(error) => Err(format!("refused for another reason: {error}")),
            Ok(()) => Err("it was accepted".into()),
        }
    }
}
