//! What every socket is asked to have: the rows, one for each interface, as the settings want them.

use super::INTERFACES;
use super::interface::Interface;
use crate::config::schema::{Extension, Extensions, Providers, Requirement};
use crate::kernel::pool::{PoolSlice, tags};
use crate::kernel::{Result, Status};
use crate::sys::nt::GUID;
use crate::sys::wsk::NPIID;
use crate::trace::Guid;
use crate::trace::events::Provider;

/// An interface that sockets are registered for.
pub(super) struct Row {
    /// What it is asked for by: the interface's own identifier, or an alias.
    npi: NPIID,
    /// The interface whose tables it has; `None`: weir does not know it, so nobody provides it.
    spoken: Option<&'static Interface>,
    pub(super) requirement: Requirement,
    /// The events to switch on.
    pub(super) events: u32,
    pub(super) providers: Providers,
}

impl Row {
    fn new(wanted: &Extension) -> Self {
        let tables = wanted.speaks.unwrap_or(wanted.interface);
        let spoken = INTERFACES.iter().find(|interface| Guid::from(*interface.npi_id()) == tables);
        Self {
            npi: GUID::from(wanted.interface),
            spoken,
            requirement: wanted.requirement,
            events: wanted.events.unwrap_or_else(|| spoken.map_or(0, Interface::event_mask)),
            providers: wanted.providers,
        }
    }

    /// The identifier, at an address that lasts as long as the plan.
    pub(super) const fn npi(&self) -> &NPIID {
        &self.npi
    }

    pub(super) fn interface(&self) -> Guid {
        Guid::from(self.npi)
    }

    pub(super) const fn spoken(&self) -> Option<&'static Interface> {
        self.spoken
    }

    /// Whether modules of vendors are to be had for it.
    pub(super) fn wants_modules(&self) -> bool {
        self.spoken.is_some() && self.providers.iter().any(|kind| kind == Provider::Nmr)
    }

    /// Whether `first` is asked before `second`, or at all if `second` is not.
    pub(super) fn asks_before(&self, first: Provider, second: Provider) -> bool {
        let at = |wanted| self.providers.iter().position(|kind| kind == wanted);
        at(first).is_some_and(|first| at(second).is_none_or(|second| first < second))
    }
}

/// The bytes that wait in a direction from which a provider is to say so; 0: it need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub receive: u64,
    pub send: u64,
}

/// The rows, and what providers are asked for.
pub struct Plan {
    pub(super) rows: PoolSlice<Row>,
    pub(super) marks: Marks,
}

impl Plan {
    /// The interfaces of the settings, and those that weir speaks and the settings do not name, as optional ones.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn try_new(settings: &Extensions, marks: Marks) -> Result<Self> {
        let named = |interface: &Interface| {
            let interface = Guid::from(*interface.npi_id());
            settings.as_slice().iter().any(|wanted| wanted.interface == interface)
        };
        let others = INTERFACES.iter().filter(|interface| !named(interface));
        let others =
            others.map(|interface| Extension::new(Guid::from(*interface.npi_id()), Requirement::Optional));
        let wanted = settings.as_slice().iter().copied().filter(|row| row.requirement != Requirement::Off);
        let mut rows = wanted.chain(others);
        let count = rows.clone().count();
        let rows = PoolSlice::try_from_fallible(tags::EXTENSION, count, |_| {
            rows.next().map(|wanted| Row::new(&wanted)).ok_or(Status::INVALID_PARAMETER)
        })?;
        Ok(Self { rows, marks })
    }
}
