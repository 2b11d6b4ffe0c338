//! The kernel itself as one who calls: it makes the root's files.

use alloc::sync::Arc;
use core::cell::Cell;
use core::task::Waker;

use linux_raw_sys::general as linux;

use crate::calls::Calls;
use crate::descriptors::Descriptors;
use crate::errno::{Errno, Result};
use crate::host::{Caller, Identity};
use crate::inode::{DeviceNumber, FileSystem, Kind};
use crate::system::{System, View};

/// The kernel, which nothing limits and no signal reaches.
pub(crate) struct Kernel;

impl Caller for Kernel {
    fn process(&self) -> u32 {
        0
    }

    fn thread(&self) -> u32 {
        0
    }

    fn group(&self) -> u32 {
        0
    }

    fn session(&self) -> u32 {
        0
    }

    fn ignores(&self, _signal: u32) -> bool {
        true
    }

    fn is_orphaned(&self) -> bool {
        true
    }

    fn session_of_group(&self, _group: u32) -> Option<u32> {
        None
    }

    fn descriptor_limit(&self) -> u32 {
        0
    }
}

/// Who it is.
static ROOT: Identity = Identity::ROOT;

/// The kernel's calls, with a root and a mask of its own.
pub(crate) struct Own<'a> {
    system: &'a System,
    view: View,
    descriptors: Descriptors,
    began: Cell<Option<u64>>,
}

impl<'a> Own<'a> {
    pub(crate) fn new(system: &'a System) -> Self {
        let view = View::new(system);
        view.set_mask(0);
        Self {
            system,
            view,
            descriptors: Descriptors::new(),
            began: Cell::new(None),
        }
    }

    pub(crate) fn calls(&self) -> Calls<'_> {
        Calls {
            system: self.system,
            view: &self.view,
            descriptors: &self.descriptors,
            who: &ROOT,
            caller: &Kernel,
            waker: Waker::noop(),
            began: &self.began,
        }
    }
}

/// Makes a directory, unless something is there.
pub(crate) fn make_directory(system: &System, path: &str, mode: u32) -> Result<()> {
    let made = Own::new(system)
        .calls()
        .mkdirat(linux::AT_FDCWD, path.as_bytes(), mode);
    match made {
        Err(Errno::EEXIST) => Ok(()),
        made => made,
    }
}

/// Gives a device a name in `/dev`, unless it is there.
pub(crate) fn make_device(
    system: &System,
    name: &str,
    mode: u32,
    number: DeviceNumber,
) -> Result<()> {
    let path = alloc::format!("/dev/{name}");
    let mode = Kind::CharDevice.bits() | mode;
    let made =
        Own::new(system)
            .calls()
            .mknodat(linux::AT_FDCWD, path.as_bytes(), mode, number.encoded());
    match made {
        Err(Errno::EEXIST) => Ok(()),
        made => made,
    }
}

/// Lays a file system over a directory.
pub(crate) fn mount(
    system: &System,
    fs: Arc<dyn FileSystem>,
    source: &'static str,
    path: &str,
) -> Result<()> {
    Own::new(system)
        .calls()
        .mount(fs, source, path.as_bytes(), false)
}
