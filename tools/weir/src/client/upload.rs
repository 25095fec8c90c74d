//! A policy on its way to the driver.

use std::collections::VecDeque;

use weir::control::protocol::message::{Applied, Begin, Chunk, Commit, MAX_LIST, Request};
use weir::control::protocol::noise::Digest;

use super::{Client, Error};
use crate::record;

/// How many chunks may be under way.
const AHEAD: usize = 8;

/// A policy image's digest, by which the driver knows it.
pub fn digest(image: &[u8]) -> [u8; 32] {
    let mut digest = Digest::default();
    digest.update(image);
    digest.finish()
}

impl Client {
    /// Sends a policy's image up and lets it decide, for `window` seconds unless it is confirmed. `replaces`: the
    /// generation that it is to take the place of.
    ///
    /// # Errors
    /// The driver says no, or does not answer. What decided before goes on.
    pub fn apply(
        &mut self,
        image: &[u8],
        window: Option<u32>,
        replaces: Option<u32>,
    ) -> Result<Applied, Error> {
        let size = u32::try_from(image.len()).map_err(|_| Error::TooLarge)?;
        let begun = self.ask(&Request::PolicyBegin(Begin { size, digest: digest(image) }))?;
        let begun = record!(begun, PolicyBegin)?;
        let most = usize::try_from(begun.chunk).unwrap_or(usize::MAX).clamp(1, MAX_LIST);
        let (mut under_way, mut offset) = (VecDeque::new(), 0);
        for bytes in image.chunks(most) {
            if under_way.len() == AHEAD
                && let Some(first) = under_way.pop_front()
            {
                self.reply(first)?;
            }
            under_way.push_back(self.send(&Request::PolicyChunk(Chunk {
                upload: begun.upload,
                offset,
                bytes,
            }))?);
            // No more than the image, which has 32 bits of length.
            offset += u32::try_from(bytes.len()).unwrap_or_default();
        }
        for id in under_way {
            self.reply(id)?;
        }
        let commit = self.ask(&Request::PolicyCommit(Commit { upload: begun.upload, window, replaces }))?;
        record!(commit, PolicyCommit)
    }
}
