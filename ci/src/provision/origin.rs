//! Where the packages of a run come from: from a mirror that was named, or by the host's own means.

use super::host::{Family, Host};
use super::mirror::Mirror;
use super::sources;
use crate::exit::Result;

/// Where a host gets packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From a mirror that was named, by the lock file; on any host.
    Mirror(Mirror, Host),
    /// By the host's own means, if it has any.
    Host(Host),
}

/// The means of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From<'a> {
    /// Its archives have Debian's releases; this is its own.
    Debian(&'a str),
    /// They have what their own makers built.
    Own,
}

impl Origin {
    /// The host.
    pub(crate) fn host(&self) -> &Host {
        match self {
            Self::Mirror(_, host) | Self::Host(host) => host,
        }
    }

    /// What the packages come from, in words.
    ///
    /// # Errors
    /// There is nothing.
    pub(crate) fn words(&self) -> Result<String> {
        if let Self::Mirror(mirror, host) = self {
            let named = format!("the mirror that {} names, by ci/packages.lock", mirror.by());
            return mirror.obstacle(host).map_or(Ok(named), Err);
        }
        let host = self.host();
        let sources = sources::read_host(&host.apt_configuration())?;
        let (archives, whose) = match self.check()? {
            From::Debian(own) => (
                sources::derive(&sources, own, own),
                format!("Debian's {own}"),
            ),
            From::Own => (sources::own(&sources), host.to_string()),
        };
        match archives {
            Some(_) => Ok(format!(
                "apt, which is configured with the archives of {whose}"
            )),
            None => Err(super::nowhere(&format!("apt has no archive of {whose}"))),
        }
    }

    /// The host's own means.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn check(&self) -> Result<From<'_>> {
        let host = self.host();
        match host.family() {
            Family::Debian => Ok(From::Debian(host.codename())),
            Family::Derivative => Ok(From::Own),
            Family::Other => {
                let apt = match host.program("apt-get") {
                    Some(_) => "does not descend from Debian",
                    None => "has no apt-get",
                };
                Err(super::nowhere(&format!("this host, {host}, {apt}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{FEDORA, host};
    use super::*;

    #[test]
    fn a_host_without_means_is_told_how_to_name_a_mirror() {
        let dir = tempfile::tempdir().unwrap();
        let bare = host(&dir.path().join("bare"), FEDORA, &[]);
        let strange = host(&dir.path().join("strange"), "ID=suse\n", &["apt-get"]);
        for (host, why) in [
            (bare, "Fedora Linux 43 (Forty Three), has no apt-get"),
            (strange, "suse, does not descend from Debian"),
        ] {
            let origin = Origin::Host(host);
            let failure = origin.check().unwrap_err();
            assert_eq!(failure.status(), 3);
            let text = failure.to_string();
            for says in [
                why,
                "--mirror URL|DIR",
                "XEN_PV_GUEST_MIRROR",
                "packages.lock",
            ] {
                assert!(text.contains(says), "{says} is not in: {text}");
            }
        }
    }
}
