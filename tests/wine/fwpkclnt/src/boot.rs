//! The machine is booted once, when the stand-in is loaded.

/// A number that tells machines of one process apart.
pub(crate) fn generation() -> u64 {
    1
}
