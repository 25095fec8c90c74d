//! Numbers drawn from a seed, the same in every run.

/// A xorshift generator (Marsaglia, "Xorshift RNGs").
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeds that differ give sequences that differ; 0 is allowed.
    pub const fn new(seed: u64) -> Self {
        // Spread, so that neighbouring seeds begin far apart; the state is never 0.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in about `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
