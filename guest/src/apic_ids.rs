//! Processors by the ids of their APICs, as the firmware lists them and as they are sent to.

/// The first id that no processor has: ids have eight bits, of which all ones mean everybody.
pub const END: u32 = 255;

/// Ids, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApicIds([u64; 4]);

impl ApicIds {
    /// Adds an id; false if it is none that a processor can have.
    #[inline]
    pub fn insert(&mut self, id: u32) -> bool {
        let word = self.0.get_mut(id as usize / 64).filter(|_| id < END);
        word.map(|word| *word |= 1 << (id % 64)).is_some()
    }

    /// The ids, as they ascend.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let Self(words) = *self;
        (0..END).filter(move |id| words[*id as usize / 64] >> (id % 64) & 1 == 1)
    }

    /// How many there are.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}
