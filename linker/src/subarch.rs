//! The ways of running, and sets of them: what linker tables say of each of their entries.

use core::fmt;

use bitflags::bitflags;

/// A way of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Subarch {
    /// A paravirtual guest: domU, dom0, or inside the PV shim. Xen owns the page tables.
    XenPv,
    /// A guest of Xen in hardware virtualisation, with page tables of its own.
    XenPvh,
    /// No Xen at all.
    Bare,
}

impl Subarch {
    /// All of them.
    pub const ALL: [Subarch; 3] = [Subarch::XenPv, Subarch::XenPvh, Subarch::Bare];

    /// Its name, as printed and as written on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Subarch::XenPv => "xen-pv",
            Subarch::XenPvh => "xen-pvh",
            Subarch::Bare => "bare",
        }
    }

    /// The set of it alone.
    #[must_use]
    pub const fn only(self) -> Subarches {
        match self {
            Subarch::XenPv => Subarches::XEN_PV,
            Subarch::XenPvh => Subarches::XEN_PVH,
            Subarch::Bare => Subarches::BARE,
        }
    }
}

impl fmt::Display for Subarch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

bitflags! {
    /// A set of ways of running.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Subarches: u8 {
        /// [`Subarch::XenPv`].
        const XEN_PV = 1 << 0;
        /// [`Subarch::XenPvh`].
        const XEN_PVH = 1 << 1;
        /// [`Subarch::Bare`].
        const BARE = 1 << 2;
    }
}

impl Subarches {
    /// Whether `subarch` is in the set.
    #[must_use]
    pub const fn has(self, subarch: Subarch) -> bool {
        self.contains(subarch.only())
    }
}

impl fmt::Display for Subarches {
    /// The names, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Subarch::ALL
            .into_iter()
            .filter(|subarch| self.has(*subarch));
        match names.next() {
            None => return f.write_str("none"),
            Some(first) => first.fmt(f)?,
        }
        names.try_for_each(|subarch| write!(f, ", {subarch}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_its_members_and_no_others() {
        let guests = Subarches::XEN_PV.union(Subarches::XEN_PVH);
        assert!(guests.has(Subarch::XenPv) && guests.has(Subarch::XenPvh));
        assert!(!guests.has(Subarch::Bare));
        assert_eq!(guests.to_string(), "xen-pv, xen-pvh");
        assert_eq!(Subarches::empty().to_string(), "none");
        let all = Subarch::ALL.map(Subarch::only);
        assert_eq!(Subarches::from_iter(all), Subarches::all());
    }
}
