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
    /// Reads the registry form, `{57465043-616C-6C6F-7574-5F636C617373}`, in either case.
    pub fn parse(units: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut units = units.into_iter();
        let mut groups = [0; 5];
        if units.next()? != u16::from(b'{') {
            return None;
        }
        for (index, (group, length)) in groups.iter_mut().zip([8, 4, 4, 4, 12]).enumerate() {
            if index > 0 && units.next()? != u16::from(b'-') {
                return None;
            }
            for _ in 0..length {
                let digit = char::from_u32(u32::from(units.next()?))?.to_digit(16)?;
                *group = *group << 4 | u64::from(digit);
            }
        }
        if units.next()? != u16::from(b'}') || units.next().is_some() {
            return None;
        }
        let [data1, data2, data3, clock, node] = groups;
        Some(Self {
            data1: u32::try_from(data1).ok()?,
            data2: u16::try_from(data2).ok()?,
            data3: u16::try_from(data3).ok()?,
            data4: (clock << 48 | node).to_be_bytes(),
        })
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [clock @ .., _, _, _, _, _, _] = self.data4;
        let [_, _, node @ ..] = self.data4;
        write!(f, "{{{:08x}-{:04x}-{:04x}-", self.data1, self.data2, self.data3)?;
        clock.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        node.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("}")
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
