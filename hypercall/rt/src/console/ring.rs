//! The PV console ring: one page shared with the console daemon (`xen/include/public/io/console.h`).
//!
//! Both directions are byte rings ([`byte_ring`]), whose indices the other side can set to anything. An
//! impossible one is said once, and the console goes on behind it.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use byte_ring::{Impossible, Ring};
use hypercall::abi::console::{XENCONS_CONNECTION, XENCONSOLE_DISCONNECTED, xencons_interface};

#[cfg(target_os = "none")]
use {crate::image::M2P, crate::probe, crate::start_info::BootError, hypercall::Mfn};

/// Bytes from the daemon to us that fit in the page.
pub const INPUT: usize = 1024;
/// Bytes from us to the daemon that fit in the page.
pub const OUTPUT: usize = 2048;

/// The shared page. Atomics, because the other side writes concurrently.
#[repr(C)]
pub struct Page {
    input: [AtomicU8; INPUT],
    output: [AtomicU8; OUTPUT],
    in_cons: AtomicU32,
    in_prod: AtomicU32,
    out_cons: AtomicU32,
    out_prod: AtomicU32,
    connection: AtomicU8,
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Page, output) == offset_of!(xencons_interface, out));
    assert!(offset_of!(Page, in_cons) == offset_of!(xencons_interface, in_cons));
    assert!(offset_of!(Page, in_prod) == offset_of!(xencons_interface, in_prod));
    assert!(offset_of!(Page, out_cons) == offset_of!(xencons_interface, out_cons));
    assert!(offset_of!(Page, out_prod) == offset_of!(xencons_interface, out_prod));
    assert!(offset_of!(Page, connection) == XENCONS_CONNECTION);
};

/// The other side put an index where it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptIndex {
    /// Which direction.
    pub direction: Direction,
    /// Producer index, bytes since the ring was made.
    pub prod: u32,
    /// Consumer index, bytes since the ring was made.
    pub cons: u32,
}

/// A direction of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the daemon to us.
    Input,
    /// From us to the daemon.
    Output,
}

impl core::fmt::Display for CorruptIndex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (name, size) = match self.direction {
            Direction::Input => ("in", INPUT),
            Direction::Output => ("out", OUTPUT),
        };
        let (prod, cons) = (self.prod, self.cons);
        write!(
            f,
            "console ring: {name}_prod {prod:#x}, {name}_cons {cons:#x}: "
        )?;
        write!(
            f,
            "{} bytes waiting in a ring of {size}",
            prod.wrapping_sub(cons)
        )
    }
}

impl Page {
    /// Puts as many of `bytes` as fit into the output ring and returns how many.
    ///
    /// # Errors
    /// The consumer index is impossible. It is then taken to equal ours, so that the console goes
    /// on working if the other side does.
    pub fn put(&self, bytes: &[u8]) -> Result<usize, CorruptIndex> {
        self.or_give_up(self.output().put(bytes))
    }

    /// Bytes that the other side has not taken yet.
    ///
    /// # Errors
    /// As [`Page::put`].
    pub fn pending_output(&self) -> Result<usize, CorruptIndex> {
        self.or_give_up(self.output().unread())
    }

    /// Whether somebody takes what is put, as far as the other side says: newer tools say that nobody does.
    pub fn is_connected(&self) -> bool {
        self.connection.load(Ordering::Relaxed) != XENCONSOLE_DISCONNECTED
    }

    /// Takes input into `buffer` and returns how many bytes.
    ///
    /// # Errors
    /// The producer index is impossible. What it claims is skipped.
    pub fn take(&self, buffer: &mut [u8]) -> Result<usize, CorruptIndex> {
        let input = Ring {
            bytes: &self.input,
            prod: &self.in_prod,
            cons: &self.in_cons,
        };
        input.take(buffer).map_err(|Impossible { prod, cons }| {
            self.in_cons.store(prod, Ordering::Release);
            CorruptIndex {
                direction: Direction::Input,
                prod,
                cons,
            }
        })
    }

    fn output(&self) -> Ring<'_, OUTPUT> {
        Ring {
            bytes: &self.output,
            prod: &self.out_prod,
            cons: &self.out_cons,
        }
    }

    /// Gives up the output that waits if the consumer index is impossible.
    fn or_give_up(&self, result: Result<usize, Impossible>) -> Result<usize, CorruptIndex> {
        result.map_err(|Impossible { prod, cons }| {
            self.out_prod.store(cons, Ordering::Release);
            CorruptIndex {
                direction: Direction::Output,
                prod,
                cons,
            }
        })
    }
}

/// The page of a ring, where Xen's initial mapping has it: from `virt_base` on up to `end` at most.
///
/// Its pfn comes from the M2P; whether the p2m agrees is for whoever takes the page tables over to see.
///
/// # Errors
/// The initial mapping does not reach it.
///
/// # Safety
/// `mfn` is that of the console in `start_info`, the tables are Xen's, faults are
/// [handled](crate::probe::resume), and what is returned is not used once the initial mapping is gone.
#[cfg(target_os = "none")]
#[marks::init]
pub unsafe fn find(mfn: Mfn, virt_base: u64, end: u64) -> Result<&'static Page, BootError> {
    const PAGE: u64 = 4096;
    let bad = BootError {
        field: "console.domU.mfn",
        value: mfn.as_u64(),
        expected: "a machine frame that the initial mapping reaches",
    };
    let pfn = probe::read(M2P + mfn.as_u64() * 8).map_err(|_| bad)?;
    let offset = pfn.checked_mul(PAGE).filter(|n| *n < end - virt_base);
    let address = virt_base + offset.ok_or(bad)?;
    probe::read(address).map_err(|_| bad)?;
    // SAFETY: the frame is the console's by Xen's word, the initial mapping reaches it as long as it is
    // used, and it is all atomics.
    Ok(unsafe { &*core::ptr::with_exposed_provenance(address as usize) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page() -> Box<Page> {
        // SAFETY: all fields are atomics, for which zero bytes are a value.
        unsafe { Box::new(core::mem::zeroed()) }
    }

    /// The daemon's half, written from the header's point of view.
    fn drain(page: &Page) -> Vec<u8> {
        let (cons, prod) = (
            page.out_cons.load(Ordering::Relaxed),
            page.out_prod.load(Ordering::Relaxed),
        );
        let bytes = (0..prod.wrapping_sub(cons))
            .map(|i| page.output[cons.wrapping_add(i) as usize % OUTPUT].load(Ordering::Relaxed))
            .collect();
        page.out_cons.store(prod, Ordering::Relaxed);
        bytes
    }

    #[test]
    fn a_full_ring_takes_nothing_more() {
        let page = page();
        assert_eq!(page.put(&[b'x'; 3000]), Ok(OUTPUT));
        assert_eq!(page.put(b"y"), Ok(0));
        assert_eq!(page.pending_output(), Ok(OUTPUT));
        assert_eq!(drain(&page).len(), OUTPUT);
        assert_eq!(page.put(b"y"), Ok(1));
    }

    #[test]
    fn only_who_says_so_is_not_there() {
        let page = page();
        for (said, connected) in [(0, true), (1, false), (2, true), (0, true)] {
            page.connection.store(said, Ordering::Relaxed);
            assert_eq!(page.is_connected(), connected, "{said}");
        }
    }

    #[test]
    fn an_impossible_consumer_is_reported_once_and_survived() {
        let page = page();
        page.put(b"hello").unwrap();
        page.out_cons.store(6, Ordering::Relaxed);
        let error = page.put(b"x").unwrap_err();
        assert_eq!(
            error,
            CorruptIndex {
                direction: Direction::Output,
                prod: 5,
                cons: 6
            }
        );
        assert!(
            error
                .to_string()
                .contains("4294967295 bytes waiting in a ring of 2048")
        );
        assert_eq!(page.put(b"x"), Ok(1));
        assert_eq!(drain(&page), b"x");
    }

    #[test]
    fn an_impossible_producer_is_reported_once_and_skipped() {
        let page = page();
        page.in_prod.store(INPUT as u32 + 1, Ordering::Relaxed);
        assert!(page.take(&mut [0; 8]).is_err());
        assert_eq!(page.take(&mut [0; 8]), Ok(0));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(start: u32, pieces: Vec<Vec<u8>>) {
            let page = page();
            page.out_prod.store(start, Ordering::Relaxed);
            page.out_cons.store(start, Ordering::Relaxed);
            let (mut sent, mut received) = (Vec::<u8>::new(), Vec::<u8>::new());
            for piece in pieces {
                let n = page.put(&piece).unwrap();
                sent.extend(&piece[..n]);
                if n.is_multiple_of(2) {
                    received.extend(drain(&page));
                }
            }
            received.extend(drain(&page));
            prop_assert_eq!(sent, received);
        }

        #[test]
        fn no_indices_can_make_it_panic(prod: u32, cons: u32, own: u32, data: Vec<u8>) {
            let page = page();
            page.out_cons.store(cons, Ordering::Relaxed);
            page.out_prod.store(own, Ordering::Relaxed);
            page.in_prod.store(prod, Ordering::Relaxed);
            let _ = page.put(&data);
            let _ = page.take(&mut [0; 2000]);
            prop_assert!(page.pending_output().is_ok());
        }
    }
}
