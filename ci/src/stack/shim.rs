//! `--via shim`: the kernel inside Xen's PV shim, itself a small Xen that runs as a PVH domain,
//! created by xl from `xen-cfg/guest-pvshim.cfg`.

use super::domain::Domain;

/// The shim is a Xen of its own and meets the same emulated processor as the outer one.
pub(crate) const DOMAIN: Domain = Domain {
    config: "xen-cfg/guest-pvshim.cfg",
    settings: &["pvshim_extra=\"spec-ctrl=eager-fpu cpuidle=0\""],
    virtualised: true,
    shared_console: true,
};
