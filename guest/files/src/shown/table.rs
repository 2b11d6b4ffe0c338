//! A fixed tree of texts, such as `/sys/hypervisor`.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Listing, Named, SYSFS, Shown, ShownFs};
use crate::host::Time;
use crate::inode::{DeviceNumber, FIRST_ENTRY, FileSystem, Kind};

/// Makes the text of a file.
pub type Text = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// A directory of the tree.
#[derive(Default)]
pub(super) struct Branch(BTreeMap<Vec<u8>, Leaf>);

enum Leaf {
    Branch(Arc<Branch>),
    Text(Text),
}

impl Branch {
    /// The directory with these files, by their paths without a slash at the front.
    pub(super) fn new(texts: Vec<(&str, Text)>) -> Arc<Self> {
        let mut inner: BTreeMap<&str, Vec<(&str, Text)>> = BTreeMap::new();
        let mut all = BTreeMap::new();
        for (path, text) in texts {
            match path.split_once('/') {
                Some((name, rest)) => inner.entry(name).or_default().push((rest, text)),
                None => {
                    all.insert(path.into(), Leaf::Text(text));
                }
            }
        }
        for (name, texts) in inner {
            all.insert(name.into(), Leaf::Branch(Self::new(texts)));
        }
        Arc::new(Self(all))
    }
}

impl Listing for Branch {
    fn find(&self, name: &[u8]) -> Option<Shown> {
        Some(match self.0.get(name)? {
            Leaf::Branch(branch) => Shown::Directory(branch.clone()),
            Leaf::Text(text) => {
                let text = text.clone();
                Shown::Text(Arc::new(move || Ok(text())))
            }
        })
    }

    fn each(&self, from: u64, each: &mut dyn FnMut(Named<'_>) -> bool) {
        for (position, (name, leaf)) in (FIRST_ENTRY..).zip(&self.0) {
            let kind = match leaf {
                Leaf::Branch(_) => Kind::Directory,
                Leaf::Text(_) => Kind::File,
            };
            let named = Named {
                name,
                kind,
                position,
            };
            if position >= from && !each(named) {
                break;
            }
        }
    }
}

/// A file system like `/sys` that shows these texts, by their paths: `hypervisor/type`.
pub fn table_fs(device: DeviceNumber, texts: Vec<(&str, Text)>, born: Time) -> Arc<dyn FileSystem> {
    ShownFs::new("sysfs", SYSFS, device, Branch::new(texts), born)
}
