//! What a message is, without a look at all of it: one of events may have hundreds, and is read once, by who wants them.

use minicbor::Decoder;
use minicbor::data::Type as Major;

/// A message around its record. The record has not been looked at.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    pub kind: u16,
    pub id: Option<u64>,
    body: usize,
}

impl Envelope {
    /// `None`: it is no message.
    pub fn of(message: &[u8]) -> Option<Self> {
        let mut reader = Decoder::new(message);
        let (mut kind, mut id, mut body) = (None, None, None);
        let count = reader.map().ok()??;
        for left in (0..count).rev() {
            let is_number =
                matches!(reader.datatype().ok()?, Major::U8 | Major::U16 | Major::U32 | Major::U64);
            if !is_number {
                // A key of a later version, and its value.
                reader.skip().ok()?;
                reader.skip().ok()?;
                continue;
            }
            match reader.u64().ok()? {
                0 => kind = Some(reader.u16().ok()?),
                1 => id = Some(reader.u64().ok()?),
                2 => {
                    body = Some(reader.position());
                    if left > 0 {
                        reader.skip().ok()?;
                    }
                }
                _ => reader.skip().ok()?,
            }
        }
        Some(Self { kind: kind?, id, body: body? })
    }

    /// At the record.
    pub fn body<'m>(&self, message: &'m [u8]) -> Decoder<'m> {
        let mut reader = Decoder::new(message);
        reader.set_position(self.body);
        reader
    }

    /// How many events the message has, if it is one of events.
    pub fn events(&self, message: &[u8]) -> Option<u64> {
        let mut reader = self.body(message);
        for _ in 0..reader.map().ok()?? {
            if reader.u64().ok()? == 3 {
                return reader.array().ok()?;
            }
            reader.skip().ok()?;
        }
        None
    }
}
