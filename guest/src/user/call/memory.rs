//! Calls about memory.

use linux_raw_sys::general as linux;

use super::{Arguments, Family, calls, descriptor};
use crate::areas::Rights;
use crate::user::errno::{Errno, Result};
use crate::user::files::Mapped;
use crate::user::memory::{Backing, Content, Fixed};
use crate::user::pages::PAGE;
use crate::user::thread::Current;

extern crate alloc;

use alloc::sync::Arc;

pub(super) const CALLS: Family = calls![
    (linux::__NR_mmap, mmap),
    (linux::__NR_munmap, munmap),
    (linux::__NR_mprotect, mprotect),
    (linux::__NR_mremap, mremap),
    (linux::__NR_madvise, madvise),
    (linux::__NR_brk, brk),
    (linux::__NR_msync, msync),
    (linux::__NR_mlock, covered),
    (linux::__NR_mlock2, |c, [at, bytes, flags, ..]| {
        match flags as u32 & !linux::MLOCK_ONFAULT {
            0 => covered(c, [at, bytes, 0, 0, 0, 0]),
            _ => Err(Errno::EINVAL),
        }
    }),
    (linux::__NR_mlockall, |_, [flags, ..]| {
        let known = linux::MCL_CURRENT | linux::MCL_FUTURE | linux::MCL_ONFAULT;
        match flags as u32 {
            0 | linux::MCL_ONFAULT => Err(Errno::EINVAL),
            flags if flags & !known != 0 => Err(Errno::EINVAL),
            _ => Ok(0),
        }
    }),
    (linux::__NR_munlockall, |_, _| Ok(0)),
    (linux::__NR_munlock, covered),
    (linux::__NR_mincore, mincore),
];

/// `/dev/zero`.
const ZERO: guest_files::DeviceNumber = guest_files::DeviceNumber::new(1, 5);

/// The rights that `PROT_*` asks for. Code is never writable.
///
/// # Errors
/// `EINVAL` for what there is not, `EACCES` for writable code.
fn rights(word: u64) -> Result<Rights> {
    let rights = Rights::from_bits(word as u32).ok_or(Errno::EINVAL)?;
    if rights.contains(Rights::WRITE | Rights::EXECUTE) {
        return Err(Errno::EACCES);
    }
    Ok(rights)
}

fn mmap(current: &mut Current<'_>, [at, bytes, prot, flags, fd, offset]: Arguments) -> Result<u64> {
    // Rights that there are not are passed over, unlike in `mprotect`.
    let known = Rights::all().bits();
    let (rights, flags) = (rights(prot & u64::from(known))?, flags as u32);
    if bytes == 0 || !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if offset.checked_add(bytes).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let how = match (
        flags & linux::MAP_FIXED_NOREPLACE != 0,
        flags & linux::MAP_FIXED != 0,
    ) {
        (true, _) => Fixed::Free,
        (_, true) => Fixed::Replace,
        _ => Fixed::No,
    };
    let shared = match flags & linux::MAP_TYPE {
        linux::MAP_PRIVATE => false,
        linux::MAP_SHARED_VALIDATE if flags & linux::MAP_ANONYMOUS != 0 => {
            return Err(Errno::EINVAL);
        }
        linux::MAP_SHARED | linux::MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    let backing = match (flags & linux::MAP_ANONYMOUS != 0, shared) {
        (true, false) => Backing::Zeros,
        (true, true) => Backing::Shared(nameless(current, bytes)?, 0),
        (false, _) => {
            let file = current.now(|calls| calls.descriptors.get(descriptor(fd)))?;
            if !file.can_read() || shared && rights.contains(Rights::WRITE) && !file.can_write() {
                return Err(Errno::EACCES);
            }
            let inode = file.place.inode.attributes();
            let is_zero = inode.names_device == ZERO && !shared;
            let file = Arc::new(Mapped::new(file));
            match (inode.kind, shared) {
                (guest_files::Kind::File, true) => Backing::Shared(file, offset),
                (guest_files::Kind::File, false) => Backing::File(file, offset),
                (guest_files::Kind::CharDevice, _) if is_zero => Backing::Zeros,
                _ => return Err(Errno::ENODEV),
            }
        }
    };
    let start = current.memory.map(at, bytes, rights, backing, how)?;
    if flags & (linux::MAP_POPULATE | linux::MAP_LOCKED) != 0 {
        current.memory.populate(start, bytes);
    }
    Ok(start)
}

/// A file of so many zeros that has no name: what processes share where no file is given.
fn nameless(current: &Current<'_>, bytes: u64) -> Result<Arc<dyn Content>> {
    let bytes = bytes.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    let file = current.waiting(|calls| calls.nameless(b"dev/zero", bytes));
    match file {
        Ok(file) => Ok(Arc::new(Mapped::new(file))),
        Err(Errno::EFBIG | Errno::ENOSPC) => Err(Errno::ENOMEM),
        Err(e) => Err(e),
    }
}

fn munmap(current: &mut Current<'_>, [at, bytes, ..]: Arguments) -> Result<u64> {
    current.memory.unmap(at, bytes).map(|()| 0)
}

fn mprotect(current: &mut Current<'_>, [at, bytes, prot, ..]: Arguments) -> Result<u64> {
    if !at.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    current.memory.protect(at, bytes, rights(prot)?).map(|()| 0)
}

fn mremap(current: &mut Current<'_>, [at, old, new, flags, to, _]: Arguments) -> Result<u64> {
    current.memory.remap(at, old, new, flags as u32, to)
}

fn madvise(current: &mut Current<'_>, [at, bytes, advice, ..]: Arguments) -> Result<u64> {
    if !at.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let whole = || match bytes {
        0 => Ok(()),
        bytes if current.memory.covers(at, bytes) => Ok(()),
        _ => Err(Errno::ENOMEM),
    };
    match advice as u32 {
        linux::MADV_DONTNEED => current.memory.discard(at, bytes)?,
        linux::MADV_NORMAL
        | linux::MADV_RANDOM
        | linux::MADV_SEQUENTIAL
        | linux::MADV_WILLNEED
        | linux::MADV_FREE
        | linux::MADV_HUGEPAGE
        | linux::MADV_NOHUGEPAGE
        | linux::MADV_DONTDUMP
        | linux::MADV_DODUMP => whole()?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Nothing is written back.
fn msync(current: &mut Current<'_>, [at, bytes, flags, ..]: Arguments) -> Result<u64> {
    let both = linux::MS_SYNC | linux::MS_ASYNC;
    let flags = flags as u32;
    let known = flags & !(both | linux::MS_INVALIDATE) == 0;
    if !known || flags & both == both || !at.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    covered(current, [at, bytes, 0, 0, 0, 0])
}

fn brk(current: &mut Current<'_>, [end, ..]: Arguments) -> Result<u64> {
    Ok(current.memory.brk(end))
}

/// Nothing is written back, and nothing is taken from memory: these do nothing.
fn covered(current: &mut Current<'_>, [at, bytes, ..]: Arguments) -> Result<u64> {
    let start = at & !(PAGE - 1);
    let bytes = bytes.checked_add(at - start).ok_or(Errno::EINVAL)?;
    if bytes == 0 || current.memory.covers(start, bytes) {
        Ok(0)
    } else {
        Err(Errno::ENOMEM)
    }
}

/// A page that may be touched counts as there.
fn mincore(current: &mut Current<'_>, [at, bytes, to, ..]: Arguments) -> Result<u64> {
    if !at.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    covered(current, [at, bytes, 0, 0, 0, 0])?;
    for place in to..to.saturating_add(bytes.div_ceil(PAGE)) {
        current.user().write(place, &1_u8)?;
    }
    Ok(0)
}
