//! Linux' file system calls for a kernel: paths, files in memory, pipes, devices, descriptors.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod calls;
mod descriptors;
mod errno;
mod file;
mod host;
mod inode;
mod lock;
mod locks;
mod memory_fs;
mod mount;
mod pipe;
mod ready;
mod system;
mod transfer;
mod walk;

pub use calls::{Calls, Opening};
pub use descriptors::Descriptors;
pub use errno::{Errno, Result};
pub use file::{File, OpenFile};
pub use host::{Call, Caller, Host, Identity, PAGE, Page, Time};
pub use inode::{
    Allocate, Attributes, Change, DeviceNumber, Entry, FIRST_ENTRY, FileSystem, Inode, Kind, New,
    Rename, Usage, Where,
};
pub use memory_fs::{Limits, MemoryFs};
pub use mount::{Mount, Mounts, Place};
pub use ready::{Ready, Watchers};
pub use system::{Device, Opened, System, View};
pub use transfer::{Argument, Drain, Fill, Number, Sink, Source};
pub use walk::{EXECUTE, READ, WRITE, may};
