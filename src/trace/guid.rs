//! A GUID as data: what names an extension interface in settings and events.

use core::fmt;

/// A GUID, in the fields of the Windows structure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Guid {
    pub data1: u32,
    pub data2: u16,
    pub data3: u16,
    pub data4: [u8; 8],
}

impl Guid {
    /// From the digits of its registry form, in their order: `0x57465043_616c_6c6f_7574_5f636c617373`.
    pub const fn from_u128(digits: u128) -> Self {
        let [a, b, c, d, e, f, g, h, data4 @ ..] = digits.to_be_bytes();
        Self {
            data1: u32::from_be_bytes([a, b, c, d]),
            data2: u16::from_be_bytes([e, f]),
            data3: u16::from_be_bytes([g, h]),
            data4,
        }
    }

    /// Reads the registry form, `{57465043-616C-6C6F-7574-5F636C617373}`, in either case.
    pub fn parse(units: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut units = units.into_iter();
        if units.next()? != u16::from(b'{') {
            return None;
        }
        let mut digits: u128 = 0;
        for (group, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
            if group > 0 && units.next()? != u16::from(b'-') {
                return None;
            }
            for _ in 0..length {
                let digit = char::from_u32(u32::from(units.next()?))?.to_digit(16)?;
                digits = digits << 4 | u128::from(digit);
            }
        }
        let ends = units.next()? == u16::from(b'}') && units.next().is_none();
        ends.then(|| Self::from_u128(digits))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i] = self.data4;
        write!(f, "{{{:08x}-{:04x}-{:04x}-", self.data1, self.data2, self.data3)?;
        write!(f, "{a:02x}{b:02x}-{c:02x}{d:02x}{e:02x}{g:02x}{h:02x}{i:02x}}}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(kernel)]
impl From<Guid> for crate::sys::nt::GUID {
    fn from(guid: Guid) -> Self {
        Self { Data1: guid.data1, Data2: guid.data2, Data3: guid.data3, Data4: guid.data4 }
    }
}

#[cfg(kernel)]
impl From<crate::sys::nt::GUID> for Guid {
    fn from(guid: crate::sys::nt::GUID) -> Self {
        Self { data1: guid.Data1, data2: guid.Data2, data3: guid.Data3, data4: guid.Data4 }
    }
}
