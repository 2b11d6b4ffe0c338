//! `--via pvh`: a domain in hardware virtualisation with page tables of its own, created by xl from
//! `xen-cfg/guest-pvh.cfg`.

use super::domain::Domain;

/// The domain as its configuration file describes it.
pub(crate) const DOMAIN: Domain = Domain {
    config: "xen-cfg/guest-pvh.cfg",
    settings: &[],
    virtualised: true,
    shared_console: false,
};
