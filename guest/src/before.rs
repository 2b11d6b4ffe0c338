//! What a kernel can see only before it takes over: kept for the rules about it.

use hypercall::Mfn;
use hypercall::abi::start_info::start_info;
use hypercall::addr::ADDR_MASK;
use marks::init;

use crate::probe;

/// What kind of PV guest the kernel was started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Xen's first domain.
    Dom0,
    /// A domain of a toolstack's.
    DomU,
    /// The only guest of the PV shim.
    Shim,
}

/// What only a kernel that has just been started can see.
pub(crate) struct Before {
    /// How the kernel was started.
    pub(crate) kind: Kind,
    /// What Xen said, before its page was used for something else.
    pub(crate) start_info: start_info,
    /// The flags of an entry of the initial mapping.
    pub(crate) flags: Option<u64>,
}

impl Before {
    /// Looks at the machine as Xen left it, for a kernel started as `kind`. `l4` is the address of
    /// the top table, `spare` that of a page which nothing used yet; `table` finds the address of
    /// another table.
    #[init]
    pub(crate) fn look(
        kind: Kind,
        start_info: &start_info,
        l4: u64,
        spare: u64,
        table: impl Fn(Mfn) -> Option<u64>,
    ) -> Before {
        let flags = || {
            let (mut at, mut value) = (l4, 0);
            for shift in [39, 30, 21, 12] {
                value = probe::read(at + (spare >> shift & 511) * 8).ok()?;
                if shift > 12 {
                    at = table(Mfn::truncate((value & ADDR_MASK) >> 12))?;
                }
            }
            Some(value & !ADDR_MASK)
        };
        Before {
            kind,
            start_info: *start_info,
            flags: flags(),
        }
    }
}
