//! A provider of Event Tracing for Windows whose events describe themselves (TraceLogging).
//!
//! Registered and taken away at PASSIVE_LEVEL; [`Provider::write`] may be called at any level. ETW copies what it is
//! given before it returns.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::{from_ref, null};
use core::sync::atomic::{AtomicU64, Ordering};

use super::irql::Passive;
use super::status::Status;
use crate::sys::etw::{
    EVENT_CONTROL_CODE_DISABLE_PROVIDER, EVENT_CONTROL_CODE_ENABLE_PROVIDER, EVENT_DATA_DESCRIPTOR,
    EVENT_DATA_DESCRIPTOR_TYPE_EVENT_METADATA, EVENT_DATA_DESCRIPTOR_TYPE_PROVIDER_METADATA,
    EVENT_DESCRIPTOR, EtwRegister, EtwSetInformation, EtwUnregister, EtwWriteTransfer,
    EventProviderSetTraits, WINEVENT_CHANNEL_TRACELOGGING,
};
use crate::sys::nt::GUID;

/// Who is told that somebody listens to the provider's events.
pub trait Listener: Sync {
    /// Level and keywords, ETW's (0: all of them); `None`: nobody listens. At PASSIVE_LEVEL, at any time while the
    /// provider is registered.
    fn changed(&self, listening: Option<(u8, u64)>);
}

/// A provider. It lives as long as the image.
pub struct Provider<L: Listener + 'static> {
    /// REGHANDLE; 0: not registered.
    handle: AtomicU64,
    listener: L,
}

/// What an event is, for filters.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub id: u16,
    pub level: u8,
    pub keywords: u64,
}

/// A piece of an event.
#[repr(transparent)]
pub struct Data<'a>(EVENT_DATA_DESCRIPTOR, PhantomData<&'a [u8]>);

impl<'a> Data<'a> {
    /// No bytes.
    pub const NONE: Self =
        Self(EVENT_DATA_DESCRIPTOR { Ptr: 0, Size: 0, Type: 0, Reserved1: 0, Reserved2: 0 }, PhantomData);

    fn new<T>(data: &'a [T], kind: u8) -> Self {
        Self(
            EVENT_DATA_DESCRIPTOR {
                Ptr: data.as_ptr().expose_provenance() as u64,
                Size: u32::try_from(size_of_val(data)).unwrap_or(0),
                Type: kind,
                Reserved1: 0,
                Reserved2: 0,
            },
            PhantomData,
        )
    }

    /// Part of the event's fields.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self::new(bytes, 0)
    }

    /// Part of the event's fields, in UTF-16.
    pub fn units(units: &'a [u16]) -> Self {
        Self::new(units, 0)
    }

    /// The provider's traits, which are an event's first piece.
    pub fn provider(traits: &'a [u8]) -> Self {
        Self::new(traits, EVENT_DATA_DESCRIPTOR_TYPE_PROVIDER_METADATA)
    }

    /// The event's metadata, its second piece.
    pub fn event(metadata: &'a [u8]) -> Self {
        Self::new(metadata, EVENT_DATA_DESCRIPTOR_TYPE_EVENT_METADATA)
    }
}

impl<L: Listener> Provider<L> {
    pub const fn new(listener: L) -> Self {
        Self { handle: AtomicU64::new(0), listener }
    }

    /// Who is told of listeners.
    pub const fn listener(&self) -> &L {
        &self.listener
    }

    /// Registers the provider (EtwRegister), with its traits. A failure leaves it without listeners: pages "EtwRegister"
    /// and "EtwSetInformation" advise drivers to go on.
    pub fn register(&'static self, _passive: &Passive, id: GUID, traits: &'static [u8]) {
        let context = from_ref(&self.listener).cast_mut().cast::<c_void>();
        let mut handle = 0;
        // SAFETY: PASSIVE_LEVEL; the context is static, and the callback takes it for what it is.
        let registered = unsafe { EtwRegister(&raw const id, Some(changed::<L>), context, &raw mut handle) };
        if !Status(registered).nt_success() {
            return;
        }
        let size = u32::try_from(traits.len()).unwrap_or(0);
        // SAFETY: the provider's own handle; the traits are static.
        _ = unsafe { EtwSetInformation(handle, EventProviderSetTraits, traits.as_ptr().cast(), size) };
        self.handle.store(handle, Ordering::Release);
    }

    /// Takes the provider away (EtwUnregister): when it returns, the callback does not run and will not.
    pub fn unregister(&self, _passive: &Passive) {
        let handle = self.handle.swap(0, Ordering::AcqRel);
        if handle != 0 {
            // SAFETY: PASSIVE_LEVEL; the swap gives the handle to one caller.
            _ = unsafe { EtwUnregister(handle) };
        }
        self.listener.changed(None);
    }

    /// Writes an event. IRQL: any.
    pub fn write(&self, header: &Header, data: &[Data<'_>]) {
        let handle = self.handle.load(Ordering::Acquire);
        if handle == 0 {
            return;
        }
        let descriptor = EVENT_DESCRIPTOR {
            Id: header.id,
            Version: 0,
            Channel: WINEVENT_CHANNEL_TRACELOGGING,
            Level: header.level,
            Opcode: 0,
            Task: 0,
            Keyword: header.keywords,
        };
        let count = u32::try_from(data.len()).unwrap_or(0);
        // SAFETY: descriptor and data are read before the call returns, at any level, for
        // neither stack nor image are paged out under running code.
        _ = unsafe {
            EtwWriteTransfer(handle, &raw const descriptor, null(), null(), count, data.as_ptr().cast())
        };
    }
}

/// EtwEnableCallback.
unsafe extern "system" fn changed<L: Listener>(
    _source: *const GUID,
    control: u32,
    level: u8,
    any: u64,
    _all: u64,
    _filter: *const c_void,
    context: *mut c_void,
) {
    // SAFETY: the context that `register` gave, which is static.
    let listener = unsafe { &*context.cast::<L>() };
    match control {
        EVENT_CONTROL_CODE_ENABLE_PROVIDER => listener.changed(Some((level, any))),
        EVENT_CONTROL_CODE_DISABLE_PROVIDER => listener.changed(None),
        _ => {}
    }
}
