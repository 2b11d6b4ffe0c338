//! Linux' file system calls for a kernel: paths, files in memory, pipes, devices, descriptors.
//!
//! A kernel decodes a system call and calls the method of [`Calls`] that has its name; what the
//! files need of it is said by [`Host`], [`Caller`], [`Page`], [`Sink`] and [`Source`]. Nothing
//! here knows of processes, page tables or Xen, and all of it runs on the host in tests that compare
//! it with Linux call by call.
//!
//! # Waiting
//!
//! Nothing here waits. A call that would has the caller's waker registered where what it waits for
//! will change, looks once more, and gives `Poll::Pending`; after the waker was woken the call is
//! made again. Wakers may be woken for nothing, and are never forgotten.
//!
//! # Limits
//!
//! What programs control takes memory that is counted (`ENOSPC`, `EMFILE`) or that may be refused
//! (`ENOMEM`). Errors, flags and layouts are Linux', from `linux-raw-sys`.
//!
//! # Layers
//!
//! ```text
//! errno transfer host lock ready    words of the seam, locks, who waits
//! inode file mount walk             a file system's side, open files, places, paths
//! memory_fs pipe devices            what there is to open
//! descriptors system                a process' numbers, what all processes share
//! calls                             Linux' system calls
//! kernel ramdisk                    the root's first files
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod calls;
mod descriptors;
mod devices;
mod epoll;
mod errno;
mod event;
mod file;
mod heap_page;
mod host;
mod inode;
mod kernel;
mod lock;
mod locks;
mod memory_fs;
mod mount;
mod pipe;
mod ramdisk;
mod ready;
mod shown;
mod socket;
mod system;
mod terminal;
mod transfer;
mod walk;

pub use calls::{Calls, Opening, SetTime, Sets};
pub use descriptors::Descriptors;
pub use devices::{add_device, add_memory_devices};
pub use epoll::Event;
pub use errno::{Errno, Result};
pub use file::{File, OpenFile};
pub use heap_page::HeapPage;
pub use host::{Call, Caller, Host, Identity, PAGE, Page, Time};
pub use inode::{
    Allocate, Attributes, Change, DeviceNumber, Entry, FIRST_ENTRY, FileSystem, Inode, Kind, New,
    Rename, Usage, Where,
};
pub use memory_fs::{Limits, MemoryFs};
pub use mount::{Mount, Mounts, Place};
pub use ramdisk::{Contents, Problem, Refusal, unpack};
pub use ready::{Ready, Watchers};
pub use shown::{Area, ProcessFs, ProcessInfo, Processes, Status, Text, table_fs};
pub use system::{Device, System, View};
pub use terminal::{ConsoleDevice, Output, OwnTerminalDevice, Terminal, add_pseudo_terminals};
pub use transfer::{Argument, Drain, Fill, Number, Sink, Source};
pub use walk::{EXECUTE, READ, WRITE, may};
