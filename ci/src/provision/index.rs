//! What an archive has: the records of all its packages, as `apt-cache dumpavail` prints them.
//!
//! Archives that descend from Debian's name and split some packages otherwise. So packages are
//! looked up by what they are called or provide, and Linux by what its meta packages lead to.

use super::packages::XenRelease;

/// A package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(super) name: String,
    pub(super) version: String,
    /// Names that it stands for as well.
    provides: Vec<String>,
    /// Names that it needs; of alternatives the first.
    depends: Vec<String>,
    /// Where the archive has its file.
    pub(super) path: String,
    pub(super) size: u64,
    /// Of its file, in hexadecimal.
    pub(super) sha256: String,
}

/// The packages of an archive.
#[derive(Debug, Default)]
pub(crate) struct Index(Vec<Record>);

/// Meta packages that stand for the newest Linux, the leanest first.
const LINUX: &[&str] = &[
    "linux-image-amd64",
    "linux-image-virtual",
    "linux-image-generic",
];

impl Index {
    /// Reads the records.
    pub(super) fn parse(text: &str) -> Self {
        let mut records = Vec::new();
        for stanza in text.split("\n\n") {
            let mut record = Record::default();
            for line in stanza.lines() {
                let Some((field, value)) = line.split_once(": ") else {
                    continue;
                };
                match field {
                    "Package" => record.name = value.to_owned(),
                    "Version" => record.version = value.to_owned(),
                    "Provides" => record.provides = names(value),
                    "Depends" | "Pre-Depends" => record.depends.extend(names(value)),
                    "Filename" => record.path = value.to_owned(),
                    "Size" => record.size = value.parse().unwrap_or_default(),
                    "SHA256" => record.sha256 = value.to_owned(),
                    _ => {}
                }
            }
            if !record.name.is_empty() {
                records.push(record);
            }
        }
        Self(records)
    }

    /// A version of a package.
    pub(super) fn exact(&self, name: &str, version: &str) -> Option<&Record> {
        let mut records = self.0.iter();
        records.find(|record| record.name == name && record.version == version)
    }

    /// The package whose file is there.
    pub(super) fn at(&self, path: &str) -> Option<&Record> {
        self.0.iter().find(|record| record.path == path)
    }

    fn named(&self, name: &str) -> Option<&Record> {
        self.0.iter().find(|record| record.name == name)
    }

    /// The package of one of these names, or else one that provides it.
    pub(super) fn one_of(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| {
            let provides = |record: &&Record| record.provides.iter().any(|other| other == name);
            let found = self.named(name).or_else(|| self.0.iter().find(provides));
            found.map(|record| record.name.clone())
        })
    }

    /// The versions of Xen that it has, for a message.
    pub(super) fn xens(&self) -> Vec<String> {
        let names = self.0.iter().map(|record| record.name.as_str());
        let versions = names.filter_map(|name| {
            let rest = name.strip_prefix("xen-hypervisor-")?;
            let version = rest.strip_suffix("-amd64").unwrap_or(rest);
            version
                .starts_with(|c: char| c.is_ascii_digit())
                .then(|| version.to_owned())
        });
        let mut versions: Vec<_> = versions.collect();
        versions.sort();
        versions.dedup();
        versions
    }

    /// The package with the hypervisor.
    pub(super) fn hypervisor(&self, xen: XenRelease) -> Option<String> {
        let version = xen.version;
        let names = ["-amd64", ""].map(|end| format!("xen-hypervisor-{version}{end}"));
        self.one_of(&names.each_ref().map(String::as_str))
    }

    /// The packages with Linux and its modules.
    pub(super) fn linux(&self) -> Vec<String> {
        let Some(image) = self.linux_image() else {
            return Vec::new();
        };
        let mut found = vec![image.name.clone()];
        // Where modules are packages of their own, the image needs one, and others of its version
        // have the rest.
        let modules = image
            .depends
            .iter()
            .filter(|name| name.starts_with("linux-modules-"));
        for modules in modules {
            found.push(modules.clone());
            let extra = modules.replacen("linux-modules-", "linux-modules-extra-", 1);
            found.extend(self.named(&extra).map(|record| record.name.clone()));
        }
        found
    }

    /// The image that a meta package leads to, or else the newest of all.
    fn linux_image(&self) -> Option<&Record> {
        let metas = LINUX.iter().filter_map(|name| self.named(name));
        let led = metas
            .flat_map(|meta| &meta.depends)
            .filter(|name| is_image(name));
        if let Some(image) = led.filter_map(|name| self.named(name)).next() {
            return Some(image);
        }
        let images = self.0.iter().filter(|record| is_image(&record.name));
        let plain = images.filter(|record| {
            let odd = ["-dbg", "-unsigned", "-rt-", "-cloud-"];
            !odd.iter().any(|odd| record.name.contains(odd))
        });
        plain.max_by_key(|record| numbers(&record.name))
    }
}

fn is_image(name: &str) -> bool {
    let rest = name.strip_prefix("linux-image-");
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The numbers in a name, by which versions are compared.
fn numbers(name: &str) -> Vec<u64> {
    let numbers = name.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// The names in a list of relations: `a (>= 1), b | c, d:any`.
fn names(text: &str) -> Vec<String> {
    let relations = text
        .split(',')
        .filter_map(|relation| relation.split('|').next());
    let names = relations.filter_map(|relation| relation.split_whitespace().next());
    let names = names.map(|name| name.split(':').next().unwrap_or(name).to_owned());
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::super::packages::XEN_RELEASES;
    use super::*;

    const DEBIAN: &str = "\
Package: linux-image-amd64
Version: 6.1.174-1
Depends: linux-image-6.1.0-56-amd64 (= 6.1.174-1)

Package: linux-image-6.1.0-56-amd64
Version: 6.1.174-1
Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool

Package: xen-hypervisor-4.17-amd64
Version: 4.17.7-0
Filename: pool/main/x/xen/xen-hypervisor-4.17-amd64_4.17.7-0_amd64.deb
Size: 2273932
SHA256: fc07
";
    const UBUNTU: &str = "\
Package: linux-image-generic
Version: 6.8.0-31.31
Depends: linux-image-6.8.0-31-generic, linux-modules-extra-6.8.0-31-generic, linux-firmware

Package: linux-image-6.8.0-31-generic
Version: 6.8.0-31.31
Provides: fuse-module, linux-image, wireguard-modules (= 1.0.0)
Depends: kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-6.8.0-31-generic

Package: linux-modules-extra-6.8.0-31-generic
Version: 6.8.0-31.31

Package: xen-hypervisor-4.17
Version: 4.17.2
Provides: xen-hypervisor

Package: busybox-initramfs
Version: 1
Provides: busybox-static (= 1)
";

    #[test]
    fn linux_is_what_its_meta_package_leads_to_with_its_modules() {
        assert_eq!(Index::parse(DEBIAN).linux(), ["linux-image-6.1.0-56-amd64"]);
        let ubuntu = Index::parse(UBUNTU).linux();
        let expected = [
            "linux-image-6.8.0-31-generic",
            "linux-modules-6.8.0-31-generic",
            "linux-modules-extra-6.8.0-31-generic",
        ];
        assert_eq!(ubuntu, expected);
        assert!(Index::default().linux().is_empty());
    }

    #[test]
    fn without_a_meta_package_the_newest_is_taken() {
        let text = "Package: linux-image-6.9.2-x\n\nPackage: linux-image-6.12.1-x\n\n\
            Package: linux-image-6.12.1-x-dbg\n\nPackage: linux-image-6.99.1-rt-x\n\n\
            Package: linux-image-latest\n";
        assert_eq!(Index::parse(text).linux(), ["linux-image-6.12.1-x"]);
    }

    #[test]
    fn packages_are_found_by_name_and_by_what_they_provide() {
        let (debian, ubuntu) = (Index::parse(DEBIAN), Index::parse(UBUNTU));
        let xen = XEN_RELEASES[0];
        assert_eq!(debian.hypervisor(xen).unwrap(), "xen-hypervisor-4.17-amd64");
        assert_eq!(ubuntu.hypervisor(xen).unwrap(), "xen-hypervisor-4.17");
        assert_eq!(ubuntu.hypervisor(XEN_RELEASES[1]), None);
        assert_eq!(ubuntu.xens(), ["4.17"]);
        assert_eq!(
            ubuntu.one_of(&["busybox-static"]).unwrap(),
            "busybox-initramfs"
        );
        assert_eq!(
            ubuntu.one_of(&["nothing", "busybox-initramfs"]).unwrap(),
            "busybox-initramfs"
        );
        assert_eq!(debian.one_of(&["nothing"]), None);
    }

    #[test]
    fn a_record_has_file_size_and_hash() {
        let index = Index::parse(DEBIAN);
        let record = index
            .exact("xen-hypervisor-4.17-amd64", "4.17.7-0")
            .unwrap();
        assert!(record.path.starts_with("pool/main/x/xen/"));
        assert_eq!((record.size, record.sha256.as_str()), (2_273_932, "fc07"));
        assert_eq!(index.exact("xen-hypervisor-4.17-amd64", "4.17.8-0"), None);
    }
}
