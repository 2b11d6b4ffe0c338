//! A queue made where it is to stay.
//!
//! A queue is large: a kernel that makes one while it runs may have less stack than that. Nothing of it is
//! on the stack here, however the code is optimised: every field is written in its place.

use core::mem::MaybeUninit;

use super::{Batch, ExtEntry, Info, Pending, Round, Stats, mmu_update, multicall_entry};

/// Writes every field of a structure in its place, arrays element by element. Does not compile if one
/// is missing.
macro_rules! write_fields {
    ($place:ident: $($field:ident = $value:expr),*; $($array:ident $(. $inner:ident)? of $element:expr),* $(,)?) => {{
        let _ = |all: &Self| {
            let Self { $($field: _,)* $($array: _,)* } = all;
        };
        // SAFETY: each is a field of the place, which the reference holds for writing.
        unsafe {
            $((&raw mut (*$place).$field).write($value);)*
            $(fill(&raw mut (*$place).$array $(. $inner)?, $element);)*
        }
    }};
}

/// Writes an element to all places of an array.
///
/// # Safety
/// The array can be written; nothing in it is dropped.
unsafe fn fill<T: Copy, const LENGTH: usize>(array: *mut [T; LENGTH], element: T) {
    for index in 0..LENGTH {
        // SAFETY: an element of the array.
        unsafe { array.cast::<T>().add(index).write(element) };
    }
}

impl<const N: usize> Batch<N> {
    /// An empty queue at `place`: [`new`](Self::new) without a copy of it on the stack.
    pub fn new_in(place: &mut MaybeUninit<Self>) -> &mut Self {
        let to = place.as_mut_ptr();
        write_fields!(to:
            len = 0,
            limit = 0,
            ext_len = 0,
            start = Round::ZERO,
            closed = 0,
            run = 0,
            second = 0,
            tagged = false,
            run_end = 0,
            second_end = 0,
            pending = Pending::new(),
            stats = Stats::new();
            index.buckets of [0; 2],
            updates of mmu_update { ptr: 0, val: 0 },
            info of Info::ZERO,
            rounds of Round::ZERO,
            ext of ExtEntry::ZERO,
            ext_raw of ExtEntry::RAW_ZERO,
            calls of multicall_entry { op: 0, result: 0, args: [0; 6] },
            done of 0,
        );
        // SAFETY: every field was written.
        unsafe { place.assume_init_mut() }
    }
}
