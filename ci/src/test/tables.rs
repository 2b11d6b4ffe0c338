//! The linker tables of the built image: sorted as they are, and refused when one line is added to
//! them, so that a judge who accepts everything is found out.

use std::time::Instant;

use linker::subarch::Subarch;
use object::{Object, ObjectSection};

use super::Suite;
use crate::exit::{Failure, Result};
use crate::image;
use crate::image::tables::Tables;

/// What a line is, the line, and what the refusal says.
const SPOILS: &[(&str, &str, &str)] = &[
    (
        "an init call that waits for itself",
        "init call\tx\tEVERYWHERE\tService\tx",
        "wait for each other",
    ),
    (
        "an init call after one that does not exist",
        "init call\tx\tEVERYWHERE\tService\tnobody",
        "which no table has",
    ),
    (
        "an init call after one that its subarch lacks",
        "init call\tx\tEVERYWHERE\tService\tupcalls",
        "which is not made on",
    ),
    (
        "an init call after one of a later level",
        "init call\tx\tEVERYWHERE\tMemory\tevents",
        "of the later level",
    ),
    (
        "a second command of a name",
        "command\thelp\tEVERYWHERE",
        "two commands are named help",
    ),
    (
        "a self-test that needs what nobody declared",
        "self-test\tx\tNOTHING",
        "which is not in the table of capabilities",
    ),
];

/// Shows the order on every subarch, and spoils the tables.
pub(super) fn run(suite: &mut Suite) -> Result<()> {
    let path = suite.kernel()?;
    let bytes = std::fs::read(&path).map_err(Failure::file("read", &path))?;
    let file = image::parse(&bytes).map_err(Failure::Guest)?;
    let tables = Tables::read(&file).map_err(Failure::Guest)?;
    for subarch in Subarch::ALL {
        let order = tables.order(subarch).join(", ");
        let name = format!("tables: init calls on {subarch}: {order}");
        suite.report(&name, Instant::now(), tables.check());
    }
    let section = file.section_by_name(".registry");
    let text = section.and_then(|section| section.data().ok());
    let text = String::from_utf8_lossy(text.unwrap_or_default());
    for (what, line, says) in SPOILS {
        let name = format!("tables: {what} is refused");
        let checked = Tables::parse(&format!("{text}{line}\n")).and_then(|tables| tables.check());
        let result = match checked {
            Err(error) if error.contains(says) => Ok(()),
            Err(error) => Err(format!("refused for another reason: {error}")),
            Ok(()) => Err("it was accepted".into()),
        };
        suite.report(&name, Instant::now(), result);
    }
    Ok(())
}
