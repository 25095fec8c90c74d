//! Events as a trace has them, for those that write traces by themselves: the very bytes that the image hands to ETW.

use std::vec::Vec;

use super::payload::Text;
use super::{Event, metadata, payload};

/// The provider's traits, which come with each event.
pub const TRAITS: &[u8] = &metadata::PROVIDER;

/// An event as bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Its name, and names and types of its fields.
    pub metadata: &'static [u8],
    /// The values of the fields.
    pub fields: Vec<u8>,
}

impl Recorded {
    pub fn of(event: &Event<'_>) -> Self {
        let (metadata, payload) = payload::event(event);
        let mut fields = Vec::new();
        payload.pieces(|piece| match piece {
            Text::Bytes(bytes) => fields.extend_from_slice(bytes),
            Text::Utf16(units) => fields.extend(units.iter().flat_map(|unit| unit.to_le_bytes())),
        });
        Self { metadata, fields }
    }
}
