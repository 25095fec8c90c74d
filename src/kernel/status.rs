//! NTSTATUS as a type.

use core::fmt;

use crate::sys::nt::{self, NTSTATUS};

/// An NTSTATUS, compared exactly.
///
/// Several codes pass `NT_SUCCESS` without meaning that the call did what was asked (OBJECT_NAME_EXISTS,
/// EVENT_PENDING, PENDING), so there is no conversion that looks only at the sign: choose between
/// [`Status::exact`] and [`Status::nt_success`] at each call.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
#[must_use]
pub struct Status(pub NTSTATUS);

/// What a fallible driver function returns. The error is never `STATUS_SUCCESS`.
pub type Result<T = ()> = core::result::Result<T, Status>;

impl Status {
    pub const SUCCESS: Self = Self(nt::STATUS_SUCCESS);
    pub const PENDING: Self = Self(nt::STATUS_PENDING);
    pub const BUFFER_OVERFLOW: Self = Self(nt::STATUS_BUFFER_OVERFLOW);
    pub const NO_MORE_ENTRIES: Self = Self(nt::STATUS_NO_MORE_ENTRIES);
    pub const END_OF_FILE: Self = Self(nt::STATUS_END_OF_FILE);
    pub const UNSUCCESSFUL: Self = Self(nt::STATUS_UNSUCCESSFUL);
    pub const INVALID_PARAMETER: Self = Self(nt::STATUS_INVALID_PARAMETER);
    pub const INVALID_DEVICE_STATE: Self = Self(nt::STATUS_INVALID_DEVICE_STATE);
    pub const OBJECT_NAME_NOT_FOUND: Self = Self(nt::STATUS_OBJECT_NAME_NOT_FOUND);
    pub const OBJECT_NAME_EXISTS: Self = Self(nt::STATUS_OBJECT_NAME_EXISTS);
    pub const BUFFER_TOO_SMALL: Self = Self(nt::STATUS_BUFFER_TOO_SMALL);
    pub const INSUFFICIENT_RESOURCES: Self = Self(nt::STATUS_INSUFFICIENT_RESOURCES);
    pub const NOT_SUPPORTED: Self = Self(nt::STATUS_NOT_SUPPORTED);
    pub const NOINTERFACE: Self = Self(nt::STATUS_NOINTERFACE);
    pub const CANCELLED: Self = Self(nt::STATUS_CANCELLED);
    pub const DEVICE_NOT_READY: Self = Self(nt::STATUS_DEVICE_NOT_READY);

    /// `Ok` for exactly `STATUS_SUCCESS`.
    ///
    /// # Errors
    /// Every other status, those that pass `NT_SUCCESS` included.
    pub const fn exact(self) -> Result {
        if self.0 == nt::STATUS_SUCCESS { Ok(()) } else { Err(self) }
    }

    /// `NT_SUCCESS`: success and informational codes. True for PENDING, OBJECT_NAME_EXISTS, EVENT_PENDING.
    pub const fn nt_success(self) -> bool {
        nt::NT_SUCCESS(self.0)
    }

    /// The code as the field writes it: `0xC000009A`.
    pub const fn code(self) -> u32 {
        self.0.cast_unsigned()
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010X}", self.code())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010X}", self.code())
    }
}
