//! What a system call reads and writes in the memory of the program that made it.
//!
//! The program's space is the one that this vCPU runs in. A page that is not there yet is made by the
//! same fault as if the program had touched it; what the program may not touch is `EFAULT`.

extern crate alloc;

use alloc::vec::Vec;
use core::mem::{MaybeUninit, size_of};

use linux_raw_sys::general as linux;
use linux_raw_sys::system as linux_system;
use smallvec::SmallVec;

use super::copy;
use super::errno::{Errno, Result, Room};
use super::memory::{Access, Memory};
use super::pages::PAGE;

/// A layout of Linux' that is nothing but numbers, without padding: any bytes are one.
///
/// # Safety
/// It is so.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty)*) => {
        // SAFETY: integers, and arrays and structures of those, that fill the whole type.
        $(unsafe impl Plain for $name {})*
    };
}

plain! {
    u8 u16 u32 u64 i32 i64 [u64; 2] [u64; 6]
    linux::timespec linux::timeval linux::timezone linux::rusage linux::rlimit64 linux::stat linux::iovec
    linux::pollfd linux::clone_args linux::statx linux::statfs [u64; 4] [u64; 3] [i32; 2]
    linux_system::new_utsname
}

/// Bytes of a string that are read at once: not beyond the end of a page, where nothing may be.
const PIECE: usize = 64;

/// A string of a program's, which needs no room on the heap if it is short.
pub(crate) type Text = SmallVec<[u8; PIECE]>;

/// The memory of the program that runs on this vCPU.
#[derive(Clone, Copy)]
pub(crate) struct User<'a>(pub(crate) &'a Memory);

impl User<'_> {
    /// Copies from the program; returns how much could be read.
    pub(crate) fn take(self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            done += copy::from_user(&mut into[done..], address + done as u64);
            if done == into.len() || !self.has(address + done as u64, Access::Read) {
                break;
            }
        }
        done
    }

    /// Copies to the program; returns how much could be written.
    pub(crate) fn put(self, address: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            done += copy::to_user(address + done as u64, &bytes[done..]);
            if done == bytes.len() || !self.has(address + done as u64, Access::Write) {
                break;
            }
        }
        done
    }

    /// Has the pages of a range there, as far as they may be; returns for how many bytes.
    pub(crate) fn prepare(self, address: u64, count: usize, access: Access) -> usize {
        let end = address.saturating_add(count as u64);
        let mut at = address;
        while at < end {
            if !copy::touch(at, access == Access::Write) && !self.has(at, access) {
                break;
            }
            at = (at | (PAGE - 1)) + 1;
        }
        (at.min(end) - address) as usize
    }

    /// Has a byte that a copy faulted at. A thread whose memory could not be entered has none: a copy would
    /// fault there for ever.
    pub(crate) fn has(self, address: u64, access: Access) -> bool {
        self.0.is_entered() && self.0.fault(address, access).is_ok()
    }

    /// Fills `into` from the program.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn read_bytes(self, address: u64, into: &mut [u8]) -> Result<()> {
        let all = into.len();
        let count = self.take(address, into);
        if count == all {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Gives the program these bytes.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn write_bytes(self, address: u64, bytes: &[u8]) -> Result<()> {
        let count = self.put(address, bytes);
        if count == bytes.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn read<T: Plain>(self, address: u64) -> Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let start = value.as_mut_ptr().cast::<u8>();
        // SAFETY: the bytes of the value, which were set to zero.
        let bytes = unsafe { core::slice::from_raw_parts_mut(start, size_of::<T>()) };
        self.read_bytes(address, bytes)?;
        // SAFETY: any bytes are one, by `Plain`.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a value.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn write<T: Plain>(self, address: u64, value: &T) -> Result<()> {
        let start = core::ptr::from_ref(value).cast::<u8>();
        // SAFETY: the bytes of the value, all of which are set: it has no padding, by `Plain`.
        let bytes = unsafe { core::slice::from_raw_parts(start, size_of::<T>()) };
        self.write_bytes(address, bytes)
    }

    /// Reads a string up to its 0, which is not part of what is returned.
    ///
    /// # Errors
    /// `EFAULT`; `too_long` if there is no 0 within `most` bytes; `ENOMEM`.
    pub(crate) fn read_string(self, address: u64, most: usize, too_long: Errno) -> Result<Text> {
        let mut string = Text::new();
        self.read_string_into(&mut string, address, most, too_long)?;
        Ok(string)
    }

    /// As [`read_string`](Self::read_string), into an empty string: to move one costs more than to read it.
    ///
    /// # Errors
    /// As [`read_string`](Self::read_string); there may be anything in it then.
    pub(crate) fn read_string_into(
        self,
        string: &mut Text,
        address: u64,
        most: usize,
        too_long: Errno,
    ) -> Result<()> {
        loop {
            let had = string.len();
            let at = address.checked_add(had as u64).ok_or(Errno::EFAULT)?;
            let piece = PIECE - (at as usize) % PIECE;
            let mut bytes = [0; PIECE];
            self.read_bytes(at, &mut bytes[..piece])?;
            let end = bytes[..piece].iter().position(|byte| *byte == 0);
            let bytes = &bytes[..end.unwrap_or(piece)];
            if string.capacity() - had < bytes.len() {
                string.try_reserve(bytes.len()).map_err(|_| Errno::ENOMEM)?;
            }
            string.extend_from_slice(bytes);
            if string.len() >= most {
                return Err(too_long);
            }
            if end.is_some() {
                return Ok(());
            }
        }
    }

    /// Reads a list of strings that ends with a null pointer; a null list is an empty one.
    ///
    /// # Errors
    /// `EFAULT`, `E2BIG` beyond `most` bytes together, `ENOMEM`.
    pub(crate) fn read_strings(self, address: u64, most: usize) -> Result<Vec<Vec<u8>>> {
        /// Bytes of one string (`MAX_ARG_STRLEN`).
        const LONGEST: usize = 32 * PAGE as usize;
        let mut strings = Vec::new();
        let mut bytes = 0;
        if address == 0 {
            return Ok(strings);
        }
        for place in (address..).step_by(8) {
            let pointer: u64 = self.read(place)?;
            if pointer == 0 {
                break;
            }
            let string = self.read_string(pointer, most.min(LONGEST), Errno::E2BIG)?;
            // The pointer counts as well: else there is no end to empty strings.
            bytes += string.len() + 1 + size_of::<u64>();
            if bytes > most {
                return Err(Errno::E2BIG);
            }
            strings.room(1)?;
            strings.push(string.into_vec());
        }
        Ok(strings)
    }
}
