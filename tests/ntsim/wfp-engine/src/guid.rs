//! GUIDs, laid out as Windows has them.

use core::fmt;

/// A globally unique identifier.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(non_snake_case, reason = "the headers' names")]
pub struct Guid {
    pub Data1: u32,
    pub Data2: u16,
    pub Data3: u16,
    pub Data4: [u8; 8],
}

impl Guid {
    /// All digits zero: where a key is optional, none.
    pub const ZERO: Self = Self { Data1: 0, Data2: 0, Data3: 0, Data4: [0; 8] };

    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, tail @ ..] = self.Data4;
        write!(f, "{{{:08x}-{:04x}-{:04x}-{a:02x}{b:02x}-", self.Data1, self.Data2, self.Data3)?;
        for byte in tail {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
