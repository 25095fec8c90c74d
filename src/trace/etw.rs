//! The events as Event Tracing for Windows carries them.
#![forbid(unsafe_code)]

use super::payload::{self, Text};
use super::wanted::Wanted;
use super::{Event, Keywords, Level, PROVIDER_ID, metadata};
use crate::kernel::etw::{Data, Header, Listener, Provider};
use crate::kernel::irql::Passive;

static PROVIDER: Provider<Wanted> = Provider::new(Wanted::nothing());

impl Listener for Wanted {
    fn changed(&self, listening: Option<(u8, u64)>) {
        match listening {
            // ETW's zeros mean everything.
            Some((level, keywords)) => self.set(
                if level == 0 { u8::MAX } else { level },
                if keywords == 0 { u64::MAX } else { keywords },
            ),
            None => self.clear(),
        }
    }
}

pub(super) fn open(passive: &Passive) {
    PROVIDER.register(passive, PROVIDER_ID.into(), &metadata::PROVIDER);
}

pub(super) fn close(passive: &Passive) {
    PROVIDER.unregister(passive);
}

#[inline]
pub(super) fn enabled(level: Level, keywords: Keywords) -> bool {
    PROVIDER.listener().includes(level, keywords)
}

pub(super) fn hold_to_limit() {
    PROVIDER.listener().hold_to_limit();
}

/// Provider, metadata, and the fields' pieces: each text with what stands before it, and what stands after the last.
const MOST_PIECES: usize = 2 + 2 * metadata::MOST_TEXTS + 1;

#[cold]
pub(super) fn write(event: &Event<'_>) {
    let (metadata, payload) = payload::event(event);
    let mut data = [const { Data::NONE }; MOST_PIECES];
    let mut places = data.iter_mut();
    let mut put = |piece| {
        if let Some(place) = places.next() {
            *place = piece;
        }
    };
    put(Data::provider(&metadata::PROVIDER));
    put(Data::event(metadata));
    payload.pieces(|piece| {
        put(match piece {
            Text::Bytes(bytes) => Data::bytes(bytes),
            Text::Utf16(units) => Data::units(units),
        });
    });
    let header = Header { id: event.id(), level: event.level() as u8, keywords: event.keywords().bits() };
    PROVIDER.write(&header, &data);
}
