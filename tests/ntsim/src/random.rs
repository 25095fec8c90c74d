//! Random numbers: the host's, or the same ones each time from a seed ([`Config::random`](crate::Config::random)).

use std::sync::Mutex;

use crate::verify::lock;

/// The seeded generator's state; `None`: the host's randomness.
static SEEDED: Mutex<Option<u64>> = Mutex::new(None);

pub(crate) fn start(seed: Option<u64>) {
    *lock(&SEEDED) = seed;
}

/// Fills the buffer.
///
/// # Panics
/// When the host has no randomness.
pub(crate) fn fill(buffer: &mut [u8]) {
    let mut seeded = lock(&SEEDED);
    let Some(state) = &mut *seeded else {
        return getrandom::fill(buffer).expect("the host's randomness");
    };
    for piece in buffer.chunks_mut(8) {
        *state = crate::fault::mix(*state);
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
}
