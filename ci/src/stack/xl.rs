//! `--via xl`: an ordinary PV domain, created by xl from `xen-cfg/guest.cfg` as on any Xen host.

use super::domain::Domain;

/// The domain as its configuration file describes it.
pub(crate) const DOMAIN: Domain = Domain {
    config: "xen-cfg/guest.cfg",
    settings: &[],
    virtualised: false,
    shared_console: false,
};
