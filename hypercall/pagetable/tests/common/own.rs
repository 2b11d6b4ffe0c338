//! The page tables of a domain that ends with them: a kernel's is a static, a test makes many.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use pagetable::machine::Machine;
use pagetable::{Domain, Tables};

/// Both.
pub(crate) struct Own<M: Machine> {
    tables: ManuallyDrop<Box<Tables<M>>>,
    domain: NonNull<Domain<M>>,
}

impl<M: Machine> Own<M> {
    pub(crate) fn new(hv: M::Hv, machine: M) -> Own<M> {
        let domain = NonNull::from(Box::leak(Box::new(Domain::new(machine))));
        // SAFETY: the domain is there until this value is dropped, which has the only tables of it.
        let tables = unsafe { Tables::new(hv, domain.as_ref()) };
        Own {
            tables: ManuallyDrop::new(Box::new(tables)),
            domain,
        }
    }
}

impl<M: Machine> Deref for Own<M> {
    type Target = Tables<M>;

    fn deref(&self) -> &Tables<M> {
        &self.tables
    }
}

impl<M: Machine> DerefMut for Own<M> {
    fn deref_mut(&mut self) -> &mut Tables<M> {
        &mut self.tables
    }
}

impl<M: Machine> Drop for Own<M> {
    fn drop(&mut self) {
        // SAFETY: neither is used again, and what refers to the domain goes first.
        unsafe {
            ManuallyDrop::drop(&mut self.tables);
            drop(Box::from_raw(self.domain.as_ptr()));
        }
    }
}
