//! Random bytes for programs: a stream cipher whose seed the processor gives.
//!
//! Where the processor has no generator of its own the seed is what its counter says at a few moments:
//! enough that two boots differ, no secret.

use core::arch::x86_64::__cpuid;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::lock::Lock;
use crate::rank;
use crate::{shared, time};

static STATE: Lock<Option<ChaCha20Rng>, rank::Random> = Lock::new(None);

/// A word of the processor's generator, if it has one (CPUID.1:ECX.30) and it gives one.
fn word() -> Option<u64> {
    /// How often it is asked, as its maker advises.
    const TRIES: u32 = 10;
    if __cpuid(1).ecx >> 30 & 1 == 0 {
        return None;
    }
    (0..TRIES).find_map(|_| {
        let (value, given): (u64, u8);
        // SAFETY: the processor has the instruction.
        unsafe {
            core::arch::asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) given, options(nomem, nostack));
        }
        (given == 1).then_some(value)
    })
}

fn seed() -> ChaCha20Rng {
    let mut seed = [0; 32];
    for bytes in seed.chunks_exact_mut(8) {
        let counter = time::tsc() ^ shared::wall_clock().unwrap_or(0).rotate_left(32);
        let mixed = word().unwrap_or(0) ^ counter;
        bytes.copy_from_slice(&mixed.to_le_bytes());
    }
    ChaCha20Rng::from_seed(seed)
}

/// Fills `bytes` at random.
pub(crate) fn fill(bytes: &mut [u8]) {
    STATE.lock().get_or_insert_with(seed).fill_bytes(bytes);
}

/// A number below `end`, which is a power of two.
pub(crate) fn below(end: u64) -> u64 {
    STATE.lock().get_or_insert_with(seed).next_u64() & (end - 1)
}
