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
//! Not there: a look for locks of parts of files that wait for each other (`EDEADLK`), extended
//! attributes, access lists, `O_TMPFILE`,
//! `inotify`, sockets but connected streams, packet mode and `TIOCSTI` of terminals.
//!
//! # Example
//!
//! A kernel whose clock stands still, and a program that writes a file.
//!
//! ```
//! use std::cell::Cell;
//! use std::sync::Arc;
//! use std::task::{Poll, Waker};
//!
//! use guest_files::{
//!     Caller, Calls, Descriptors, DeviceNumber, Drain, HeapPage, Host, Identity, Limits, MemoryFs,
//!     Opening, Page, System, Time, View,
//! };
//! use linux_raw_sys::general::{AT_FDCWD, O_CREAT, O_WRONLY};
//!
//! struct Kernel;
//! impl Host for Kernel {
//!     fn page(&self) -> Option<Arc<dyn Page>> { HeapPage::zeroed() }
//!     fn now(&self) -> Time { Time::default() }
//!     fn since_boot(&self) -> u64 { 0 }
//!     fn random(&self, bytes: &mut [u8]) { bytes.fill(4) }
//!     fn wake_at(&self, _time: u64, _waker: &Waker) {}
//!     fn signal_group(&self, _group: u32, _signal: u32) {}
//! }
//!
//! struct Thread;
//! impl Caller for Thread {
//!     fn process(&self) -> u32 { 1 }
//!     fn thread(&self) -> u32 { 1 }
//!     fn group(&self) -> u32 { 1 }
//!     fn session(&self) -> u32 { 1 }
//!     fn ignores(&self, _signal: u32) -> bool { false }
//!     fn is_orphaned(&self) -> bool { false }
//!     fn session_of_group(&self, _group: u32) -> Option<u32> { None }
//!     fn descriptor_limit(&self) -> u32 { 1024 }
//! }
//!
//! let host = Arc::new(Kernel);
//! let limits = Limits { pages: 1000, inodes: 1000 };
//! let root = MemoryFs::new(host.clone(), DeviceNumber::new(0, 2), limits, 0o755)?;
//! let system = System::new(host, root);
//! let calls = Calls {
//!     system: &system,
//!     view: &View::new(&system),
//!     descriptors: &Descriptors::new(),
//!     who: &Identity::ROOT,
//!     caller: &Thread,
//!     waker: Waker::noop(),
//!     began: &Cell::new(None),
//! };
//! let mut opening = Opening::default();
//! let flags = O_CREAT | O_WRONLY;
//! let opened = calls.openat(&mut opening, AT_FDCWD, b"/motd", flags, 0o644);
//! assert_eq!(opened, Poll::Ready(Ok(0)));
//! assert_eq!(calls.write(0, &mut Drain::new(b"hello")), Poll::Ready(Ok(5)));
//! assert_eq!(calls.fstat(0)?.st_size, 5);
//! # Ok::<(), guest_files::Errno>(())
//! ```
//!
//! # Layers
//!
//! ```text
//! errno transfer host lock ready            words of the seam, locks, who waits
//! inode file locks records writers mount walk       a file system's side, open files, places, paths
//! memory_fs shown                           files in memory; `/proc`, `/sys`
//! pipe socket event epoll terminal devices  what else there is to open
//! descriptors system                        a process' numbers, what all processes share
//! calls                                     Linux' system calls
//! kernel ramdisk                            the root's first files
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
mod records;
mod shown;
mod socket;
mod system;
mod terminal;
mod transfer;
mod walk;
mod writers;

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
pub use ramdisk::{Contents, Problem, Refusal, unpack, unpack_lasting};
pub use ready::{Ready, Watchers};
pub use shown::{Area, ProcessFs, ProcessInfo, Processes, Status, Text, table_fs};
pub use system::{Device, System, View};
pub use terminal::{ConsoleDevice, Output, OwnTerminalDevice, Terminal, add_pseudo_terminals};
pub use transfer::{Argument, Drain, Fill, Number, Sink, Source};
pub use walk::{EXECUTE, READ, WRITE, may};
pub use writers::{Held, Writers};
