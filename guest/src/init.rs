//! Init calls: the steps of the boot that modules register themselves.
//!
//! ```text
//! initcall!("timer", Service, after ["events"], needs OWN_VECTORS, init);
//! ```
//!
//! A call is made where its capability is, at its level, after the calls it names. The order is
//! that of [`linker::order`], by which the build has sorted the same table: a cycle, a name that
//! nobody has, or a call that comes after one that is not made everywhere it is, does not build.

use core::fmt;

use linker::order::{order, order_at};
use linker::tables::{InitCall, Level};
use linkme::distributed_slice;
use marks::init;

use crate::capability::admits;
use crate::options::Options;
use crate::refused::Refused;
use crate::subarch;

/// What an init call is: it gets what the command line asked for.
pub(crate) type Call = for<'a> fn(&Options<'a>) -> Result<(), Refused>;

/// Every init call, in no order.
#[distributed_slice]
pub(crate) static INIT_CALLS: [InitCall<Call>];

/// Registers an init call; see the [module](self).
macro_rules! initcall {
    ($name:literal, $level:ident, after [$($after:literal),*], needs $needs:ident, $run:path) => {
        linker::record!(
            "init call", $name, stringify!($needs), stringify!($level) $(, $after)*
        );
        const _: () = {
            #[linkme::distributed_slice($crate::init::INIT_CALLS)]
            static CALL: linker::tables::InitCall<$crate::init::Call> = linker::tables::InitCall {
                item: linker::tables::Item {
                    name: $name,
                    needs: &$crate::capability::$needs,
                },
                after: &[$($after),*],
                level: linker::tables::Level::$level,
                run: $run,
            };
        };
    };
}
pub(crate) use initcall;

/// Makes the calls of a level.
///
/// # Errors
/// The first that fails, with its name.
#[init]
pub(crate) fn make(level: Level, options: &Options<'_>) -> Result<(), (&'static str, Refused)> {
    for call in order_at(&INIT_CALLS[..], subarch::current(), level) {
        (call.run)(options).map_err(|error| (call.item.name, error))?;
    }
    Ok(())
}

/// The calls of the running subarch, in order.
fn calls() -> impl Iterator<Item = &'static InitCall<Call>> {
    order(&INIT_CALLS[..], subarch::current())
}

/// Says what was called, and what is not called here and why.
#[init]
pub(crate) fn tell() {
    let names = fmt::from_fn(|f| {
        let mut names = calls().map(|call| call.item.name);
        names.next().map_or(Ok(()), |name| f.write_str(name))?;
        names.try_for_each(|name| write!(f, ", {name}"))
    });
    log::info!(target: "init", "called {names}");
    for call in INIT_CALLS {
        if let Err(lacking) = admits(&call.item) {
            log::info!(target: "init", "{} not called, {lacking}", call.item.name);
        }
    }
}
