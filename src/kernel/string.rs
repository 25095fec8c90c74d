//! Counted UTF-16 strings, as the kernel has them.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

use super::status::{Result, Status};
use crate::sys::nt::{self, UNICODE_STRING};

/// A UNICODE_STRING that borrows its characters. It is not terminated, and may hold any `u16`.
///
/// For functions that only read it: the characters are behind a pointer to mutable in the C type.
pub struct UnicodeStr<'a> {
    raw: UNICODE_STRING,
    _units: PhantomData<&'a [u16]>,
}

impl<'a> UnicodeStr<'a> {
    /// # Errors
    /// `STATUS_INVALID_PARAMETER` for more than 32,767 units: the length is 16 bits of bytes.
    pub fn new(units: &'a [u16]) -> Result<Self> {
        let bytes = u16::try_from(size_of_val(units)).map_err(|_| Status::INVALID_PARAMETER)?;
        let raw = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: units.as_ptr().cast_mut() };
        Ok(Self { raw, _units: PhantomData })
    }

    /// The C structure, for a call that reads the string and does not keep it.
    pub fn as_raw(&self) -> *mut UNICODE_STRING {
        (&raw const self.raw).cast_mut()
    }

    /// The units of a string that the kernel passes. Empty for NULL.
    ///
    /// # Safety
    /// `raw` is NULL or points to a valid UNICODE_STRING; both it and its characters stay for `'a`.
    pub unsafe fn units(raw: *const UNICODE_STRING) -> &'a [u16] {
        // SAFETY: NULL or valid, says the caller.
        let Some(string) = (unsafe { raw.as_ref() }) else { return &[] };
        if string.Buffer.is_null() {
            return &[];
        }
        let len = usize::from(string.Length).checked_div(size_of::<u16>()).unwrap_or(0);
        // SAFETY: the string has `Length` bytes at `Buffer`.
        unsafe { core::slice::from_raw_parts(string.Buffer, len) }
    }
}

/// ASCII text in UTF-16, for constants.
#[expect(clippy::indexing_slicing, reason = "each index is below N")]
pub const fn from_ascii<const N: usize>(text: &[u8; N]) -> [u16; N] {
    let (mut units, mut index) = ([0; N], 0);
    while index < N {
        units[index] = text[index] as u16;
        index = index.wrapping_add(1);
    }
    units
}

/// Up to `N` UTF-16 units, held inline.
#[derive(Clone, Copy)]
pub struct Utf16<const N: usize> {
    units: [u16; N],
    len: usize,
}

impl<const N: usize> Utf16<N> {
    pub const fn new() -> Self {
        Self { units: [0; N], len: 0 }
    }

    /// # Errors
    /// `STATUS_BUFFER_TOO_SMALL` if `text` takes more than `N` units.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut string = Self::new();
        for unit in text.encode_utf16() {
            string.push(unit)?;
        }
        Ok(string)
    }

    /// # Errors
    /// `STATUS_BUFFER_TOO_SMALL`; what fitted stays.
    pub fn extend(&mut self, units: &[u16]) -> Result {
        units.iter().try_for_each(|&unit| self.push(unit))
    }

    fn push(&mut self, unit: u16) -> Result {
        *self.units.get_mut(self.len).ok_or(Status::BUFFER_TOO_SMALL)? = unit;
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

impl<const N: usize> Default for Utf16<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Deref for Utf16<N> {
    type Target = [u16];
    fn deref(&self) -> &[u16] {
        self.units.get(..self.len).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Debug for Utf16<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        char::decode_utf16(self.iter().copied())
            .try_for_each(|unit| f.write_char(unit.unwrap_or(char::REPLACEMENT_CHARACTER)))
    }
}

const _: () = assert!(size_of::<UNICODE_STRING>() == 16 && size_of::<nt::PVOID>() == 8);
