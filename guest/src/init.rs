//! Init calls: the steps of the boot that modules register themselves.
//!
//! ```text
//! initcall!("timer", Service, after ["events"], needs OWN_VECTORS, init);
//! ```
//!
//! A call is made where its capability is, at its level, after the calls it names. The order is
//! that of [`linker::order`], by which the build has sorted the same table: a cycle, a name that
//! nobody has, or a call that comes after one that is not made everywhere it is, does not build.
//! The table and whatever only it leads to is given back when the kernel has booted.

use core::fmt;

use heapless::Vec;
use hypercall::XenError;
use linker::order::{MOST, OrderError, order};
use linker::tables::{InitCall, Level};
use linkme::distributed_slice;

use crate::boot::cmdline::Options;
use crate::capability::admits;
use crate::mm::MmError;
use crate::subarch;

/// What an init call is: it gets what the command line asked for.
pub(crate) type Call = for<'a> fn(&Options<'a>) -> Result<(), InitError>;

/// Every init call, in no order.
#[distributed_slice]
pub(crate) static INIT_CALLS: [InitCall<Call>];

/// Registers an init call; see the [module](self).
macro_rules! initcall {
    ($name:literal, $level:ident, after [$($after:literal),*], needs $needs:ident, $run:path) => {
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

/// Why an init call failed.
#[derive(Debug)]
pub(crate) enum InitError {
    /// The page tables refused, or Xen did for them.
    Memory(MmError),
    /// Xen refused.
    Xen(XenError),
}

impl From<MmError> for InitError {
    fn from(error: MmError) -> Self {
        InitError::Memory(error)
    }
}

impl From<XenError> for InitError {
    fn from(error: XenError) -> Self {
        InitError::Xen(error)
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InitError::Memory(error) => error.fmt(f),
            InitError::Xen(error) => error.fmt(f),
        }
    }
}

/// The calls of the running subarch, in order.
pub(crate) struct Calls(Vec<&'static InitCall<Call>, MOST>);

impl Calls {
    /// Sorts them.
    ///
    /// # Errors
    /// The table cannot be sorted: the build did not look at this image.
    pub(crate) fn sort() -> Result<Calls, OrderError<'static>> {
        Ok(Calls(order(&INIT_CALLS[..], subarch::current())?))
    }

    /// Makes the calls of a level.
    ///
    /// # Errors
    /// The first that fails, with its name.
    pub(crate) fn make(
        &self,
        level: Level,
        options: &Options<'_>,
    ) -> Result<(), (&'static str, InitError)> {
        for call in self.0.iter().filter(|call| call.level == level) {
            (call.run)(options).map_err(|error| (call.item.name, error))?;
        }
        Ok(())
    }

    /// Says what was called, and what is not called here and why.
    pub(crate) fn tell(&self) {
        let names = fmt::from_fn(|f| {
            let mut names = self.0.iter().map(|call| call.item.name);
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
}
