//! Sections of lazy mode, and pauses, that end where their scope does.

use core::panic::Location;

use super::{Mmu, MmuError};
use crate::{Hypervisor, batch::Completion};

/// How code reaches the `Mmu` of the vCPU it runs on.
pub trait Access {
    /// The hypervisor.
    type Hv: Hypervisor;
    /// The record.
    type Completion: Completion;

    /// Calls `f` with it, upcalls masked.
    fn with<R>(&self, f: impl FnOnce(&mut Mmu<Self::Hv, Self::Completion>) -> R) -> R;

    /// A guard that was dropped could not end its section properly. `at` is where it began.
    ///
    /// There is nobody to return this to: log it, and stop if nothing else makes sense. A guard
    /// that is ended by its method returns the error instead.
    fn failed(&self, error: MmuError, at: &'static Location<'static>);
}

impl<A: Access + ?Sized> Access for &A {
    type Hv = A::Hv;
    type Completion = A::Completion;

    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut Mmu<Self::Hv, Self::Completion>) -> R) -> R {
        (**self).with(f)
    }

    fn failed(&self, error: MmuError, at: &'static Location<'static>) {
        (**self).failed(error, at);
    }
}

macro_rules! guard {
    ($(#[$doc:meta])* $guard:ident, $begin:ident, $end:ident, $end_doc:literal) => {
        $(#[$doc])*
        #[must_use = "it ends where it is dropped"]
        pub struct $guard<A: Access> {
            access: A,
            began: &'static Location<'static>,
        }

        impl<A: Access> $guard<A> {
            /// Begins it.
            #[inline]
            #[track_caller]
            pub fn begin(access: A) -> Result<Self, MmuError> {
                if let Err(error) = access.with(|mmu| mmu.$begin()).map_err(MmuError::from) {
                    // A flush that failed has begun it nevertheless, and there will be no guard.
                    if let MmuError::Flush(_) = error {
                        access.with(|mmu| mmu.$end())?;
                    }
                    return Err(error);
                }
                Ok(Self { access, began: Location::caller() })
            }

            #[doc = $end_doc]
            #[inline]
            pub fn end(self) -> Result<(), MmuError> {
                let guard = core::mem::ManuallyDrop::new(self);
                // SAFETY: read once, from a guard that is not dropped: the handle is dropped here
                // instead.
                let access = unsafe { core::ptr::read(&guard.access) };
                access.with(|mmu| mmu.$end()).map_err(MmuError::from)
            }
        }

        impl<A: Access> Drop for $guard<A> {
            #[inline]
            fn drop(&mut self) {
                if let Err(error) = self.access.with(|mmu| mmu.$end()) {
                    self.access.failed(error.into(), self.began);
                }
            }
        }
    };
}

guard!(
    /// A lazy section.
    LazyGuard, enable, disable,
    "Leaves the section and says what came of the flush, if that was the outermost."
);
guard!(
    /// A pause of lazy mode: while it lasts, every write is in force when it returns.
    PauseGuard, pause, resume,
    "Ends the pause."
);
