//! What sockets' extension events come out of the ring as: [`trace::Event`]s.
//!
//! Callbacks are records of their socket. A socket's registrations are told when they are settled, and told to be over
//! when its close has completed, both as life-cycle events, which are never lost.

use super::plan::Row;
use super::slot::{BEGUN, ENDED, PARTS, Part, Slot, State};
use super::sockets::Sockets;
use crate::config::schema::Requirement;
use crate::dispatch::Weir;
use crate::ring::{ExtensionChange, ExtensionEvent, Kind, LifeCycle, Record};
use crate::trace::events::Provider;
use crate::trace::{self, Guid};
use core::sync::atomic::Ordering;

impl Sockets {
    /// Tells what a record of these kinds says. On the dispatcher's thread.
    pub fn tell_record(&self, record: &Record<'_, Weir>) {
        if record.kind == Kind::ExtensionEvent
            && let Some(event) = ExtensionEvent::decode(record.detail, record.payload)
        {
            self.tell_callback(&event);
        }
        if record.kind == Kind::ExtensionChange
            && let Some(change) = ExtensionChange::decode(record.detail, record.payload)
        {
            self.tell_change(&change);
        }
    }

    /// Tells of an event in a socket's life. On the dispatcher's thread.
    pub fn tell_life_cycle(&self, slot: &Slot, event: LifeCycle) {
        let parts = self.parts_of(slot);
        match event {
            LifeCycle::Opened => {
                for part in parts {
                    self.tell_beginning(slot, part);
                    self.tell_refusal(slot, part);
                }
                slot.told.store(true, Ordering::Release);
            }
            LifeCycle::ExtensionDetached => {
                for part in parts {
                    self.tell_beginning(slot, part);
                    self.tell_end(slot, part);
                }
            }
            LifeCycle::Closed => {}
        }
    }

    /// The interface that a part of any slot is for.
    fn row_of(&self, part: u8) -> Option<&Row> {
        self.plan.rows.get(usize::from(part).checked_div(PARTS)?)
    }

    fn tell_callback(&self, event: &ExtensionEvent<'_>) {
        let Some(row) = self.row_of(event.part) else { return };
        let provider = Provider::from_number(event.provider).unwrap_or(Provider::Wsk);
        let ExtensionEvent { session, code, value, data, .. } = *event;
        let interface = row.interface();
        trace::emit(&trace::Event::ExtensionCallback { session, interface, code, value, provider, data });
    }

    fn tell_change(&self, change: &ExtensionChange) {
        let Some(row) = self.row_of(change.part) else { return };
        let provider = Provider::from_number(change.provider).unwrap_or(Provider::Wsk);
        tell(change.session, row.interface(), provider, change.detached.then_some(change.callbacks));
    }

    /// Tells of a part's beginning, if that is not told yet.
    fn tell_beginning(&self, slot: &Slot, part: &Part) {
        if let Some(row) = self.row(part)
            && part.take(BEGUN)
        {
            tell(slot.session(), row.interface(), part.kind(), None);
        }
    }

    /// Tells of a part's end, if that is not told yet.
    fn tell_end(&self, slot: &Slot, part: &Part) {
        if let Some(row) = self.row(part)
            && part.take(ENDED)
        {
            let callbacks = part.callbacks.load(Ordering::Relaxed);
            tell(slot.session(), row.interface(), part.kind(), Some(callbacks));
        }
    }

    fn tell_refusal(&self, slot: &Slot, part: &Part) {
        let Some(row) = self.row(part) else { return };
        if part.state() == State::Refused && part.kind() != Provider::Nmr {
            let (session, interface) = (slot.session(), row.interface());
            let required = row.requirement == Requirement::Required;
            let status = part.status().into();
            trace::emit(&trace::Event::ExtensionRefused { session, interface, required, status });
        }
    }
}

/// Tells of a registration's beginning, or of its end after so many callbacks.
fn tell(session: u64, interface: Guid, provider: Provider, ended: Option<u64>) {
    match ended {
        None => trace::emit(&trace::Event::ExtensionRegistered { session, interface, provider }),
        Some(callbacks) => {
            trace::emit(&trace::Event::ExtensionDetached { session, interface, callbacks, provider });
        }
    }
}
