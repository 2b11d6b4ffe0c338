//! What a process has set for itself, and hands on to its children.

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as linux;

use crate::lock::Lock;
use crate::rank;
use crate::user::errno::{Errno, Result, Room};
use crate::user::files::DESCRIPTORS;
use crate::user::memory::STACK;

/// No limit.
const NONE: u64 = linux::RLIM64_INFINITY as i64 as u64;
/// Limits that a process has.
const LIMITS: usize = linux::RLIM_NLIMITS as usize;
/// Groups that a process may be in (`NGROUPS_MAX`).
const GROUPS: usize = 65_536;

/// What a limit is now.
fn loaded(limit: &[AtomicU64; 2]) -> [u64; 2] {
    limit.each_ref().map(|part| part.load(Ordering::Relaxed))
}

/// What a process has set for itself.
pub(crate) struct Settings {
    /// How important it is, as `getpriority` has it: 20 less what is called niceness. Nobody looks at it.
    pub(crate) priority: AtomicU32,
    /// The same of its files (`ioprio_set`).
    pub(crate) files_priority: AtomicU32,
    /// What is done with its memory when it ends by a signal: there are no dumps.
    pub(crate) dumpable: AtomicU32,
    /// Whether no program that it runs may give it more rights.
    pub(crate) no_new_privileges: AtomicBool,
    /// Whether it inherits those of its descendants whose parent ended.
    pub(crate) inherits: AtomicBool,
    /// The signal that it gets when its parent ends.
    pub(crate) parent_ended: AtomicU32,
    groups: Lock<Vec<u32>, rank::Process>,
    /// What holds, and up to what that may be raised; changed with the lock.
    limits: [[AtomicU64; 2]; LIMITS],
    limits_change: Lock<(), rank::Process>,
}

impl Settings {
    /// Those of the first process.
    pub(crate) fn new() -> Settings {
        let mut limits = [[NONE; 2]; LIMITS];
        limits[linux::RLIMIT_STACK as usize] = [STACK, NONE];
        limits[linux::RLIMIT_CORE as usize] = [0, NONE];
        limits[linux::RLIMIT_NOFILE as usize] = [DESCRIPTORS.into(); 2];
        limits[linux::RLIMIT_NICE as usize] = [0; 2];
        limits[linux::RLIMIT_RTPRIO as usize] = [0; 2];
        Settings {
            priority: AtomicU32::new(20),
            files_priority: AtomicU32::new(0),
            dumpable: AtomicU32::new(1),
            no_new_privileges: AtomicBool::new(false),
            inherits: AtomicBool::new(false),
            parent_ended: AtomicU32::new(0),
            groups: Lock::new(Vec::new()),
            limits: limits.map(|limit| limit.map(AtomicU64::new)),
            limits_change: Lock::new(()),
        }
    }

    /// Those of a child.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn duplicate(&self) -> Result<Settings> {
        let number = |of: &AtomicU32| AtomicU32::new(of.load(Ordering::Relaxed));
        Ok(Settings {
            priority: number(&self.priority),
            files_priority: number(&self.files_priority),
            dumpable: number(&self.dumpable),
            no_new_privileges: AtomicBool::new(self.no_new_privileges.load(Ordering::Relaxed)),
            inherits: AtomicBool::new(false),
            parent_ended: AtomicU32::new(0),
            groups: Lock::new(self.groups()?),
            limits: {
                let limits = self.limits.each_ref();
                limits.map(|limit| loaded(limit).map(AtomicU64::new))
            },
            limits_change: Lock::new(()),
        })
    }

    /// The groups that it is in besides its first.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn groups(&self) -> Result<Vec<u32>> {
        let groups = self.groups.lock();
        let mut copy = Vec::new();
        copy.room(groups.len())?;
        copy.extend_from_slice(&groups);
        Ok(copy)
    }

    /// Is in so many groups from now on, that `read` gives by their place.
    ///
    /// # Errors
    /// `EINVAL` for too many, `ENOMEM`, those of `read`.
    pub(crate) fn set_groups(
        &self,
        count: usize,
        read: impl Fn(usize) -> Result<u32>,
    ) -> Result<()> {
        if count > GROUPS {
            return Err(Errno::EINVAL);
        }
        let mut groups = Vec::new();
        groups.room(count)?;
        for place in 0..count {
            groups.push(read(place)?);
        }
        groups.sort_unstable();
        let old = core::mem::replace(&mut *self.groups.lock(), groups);
        drop(old);
        Ok(())
    }

    /// A limit: what holds, and up to what that may be raised.
    ///
    /// # Errors
    /// `EINVAL` for one that there is not.
    pub(crate) fn limit(&self, which: u32) -> Result<[u64; 2]> {
        self.limits
            .get(which as usize)
            .map(loaded)
            .ok_or(Errno::EINVAL)
    }

    /// Sets a limit.
    ///
    /// # Errors
    /// `EINVAL` for one that there is not or that lies above its own most, `EPERM` for more descriptors
    /// than there may be.
    pub(crate) fn set_limit(&self, which: u32, limit: [u64; 2]) -> Result<()> {
        let known = self.limits.get(which as usize).ok_or(Errno::EINVAL)?;
        if limit[0] > limit[1] {
            return Err(Errno::EINVAL);
        }
        if which == linux::RLIMIT_NOFILE && limit[1] > DESCRIPTORS.into() {
            return Err(Errno::EPERM);
        }
        let _change = self.limits_change.lock();
        for (known, limit) in known.iter().zip(limit) {
            known.store(limit, Ordering::Relaxed);
        }
        Ok(())
    }
}
