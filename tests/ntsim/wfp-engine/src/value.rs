//! Values of fields and of conditions, and how two of them compare (*FWP_VALUE0*, *FWP_MATCH_TYPE*).

use alloc::boxed::Box;
use core::cmp::Ordering;

/// `FWP_DATA_TYPE`, of single values.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    Empty = 0,
    Uint8 = 1,
    Uint16 = 2,
    Uint32 = 3,
    Uint64 = 4,
    Int8 = 5,
    Int16 = 6,
    Int32 = 7,
    Int64 = 8,
    Float = 9,
    Double = 10,
    ByteArray16 = 11,
    ByteBlob = 12,
    Sid = 13,
    SecurityDescriptor = 14,
    TokenInformation = 15,
    TokenAccessInformation = 16,
    UnicodeString = 17,
    ByteArray6 = 18,
}

impl DataType {
    /// "Sortable data types consist of all integer types, FWP_BYTE_ARRAY16_TYPE, FWP_BYTE_BLOB_TYPE, and
    /// FWP_UNICODE_STRING_TYPE" (*FWP_MATCH_TYPE*).
    pub const fn is_sortable(self) -> bool {
        matches!(
            self,
            Self::Uint8
                | Self::Uint16
                | Self::Uint32
                | Self::Uint64
                | Self::Int8
                | Self::Int16
                | Self::Int32
                | Self::Int64
                | Self::ByteArray16
                | Self::ByteBlob
                | Self::UnicodeString
        )
    }

    /// The types that flags can be tested in (*FWP_MATCH_TYPE*).
    pub const fn is_unsigned(self) -> bool {
        matches!(self, Self::Uint8 | Self::Uint16 | Self::Uint32 | Self::Uint64)
    }
}

/// `FWP_MATCH_TYPE`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchType {
    Equal = 0,
    Greater = 1,
    Less = 2,
    GreaterOrEqual = 3,
    LessOrEqual = 4,
    Range = 5,
    FlagsAllSet = 6,
    FlagsAnySet = 7,
    FlagsNoneSet = 8,
    EqualCaseInsensitive = 9,
    NotEqual = 10,
    /// "Tests whether the value **ends** with the condition value" (*FWP_MATCH_TYPE*: the name misleads).
    Prefix = 11,
    NotPrefix = 12,
}

impl MatchType {
    /// Whether a single value of `data` can be tested so (*FWP_MATCH_TYPE*).
    pub const fn supports(self, data: DataType) -> bool {
        match self {
            Self::Equal => !matches!(data, DataType::Empty),
            Self::Greater
            | Self::Less
            | Self::GreaterOrEqual
            | Self::LessOrEqual
            | Self::Range
            | Self::NotEqual => data.is_sortable(),
            Self::FlagsAllSet | Self::FlagsAnySet | Self::FlagsNoneSet => data.is_unsigned(),
            Self::EqualCaseInsensitive => matches!(data, DataType::UnicodeString),
            Self::Prefix | Self::NotPrefix => matches!(data, DataType::ByteBlob | DataType::UnicodeString),
        }
    }
}

macro_rules! numbered {
    ($type:ident { $($name:ident)* }) => {
        impl TryFrom<i32> for $type {
            type Error = crate::Error;

            /// An enumerator out of range is `STATUS_FWP_INVALID_ENUMERATOR` (*WFP Error Codes*).
            fn try_from(number: i32) -> crate::Result<Self> {
                $(if number == Self::$name as i32 {
                    return Ok(Self::$name);
                })*
                Err(crate::Error::InvalidEnumerator)
            }
        }
    };
}

numbered! { DataType {
    Empty Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Float Double ByteArray16 ByteBlob Sid
    SecurityDescriptor TokenInformation TokenAccessInformation UnicodeString ByteArray6
} }
numbered! { MatchType {
    Equal Greater Less GreaterOrEqual LessOrEqual Range FlagsAllSet FlagsAnySet FlagsNoneSet
    EqualCaseInsensitive NotEqual Prefix NotPrefix
} }

/// A single value, owned: that of a condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Empty,
    Uint8(u8),
    Uint16(u16),
    Uint32(u32),
    Uint64(u64),
    Int8(i8),
    Int16(i16),
    Int32(i32),
    Int64(i64),
    Float(f32),
    Double(f64),
    ByteArray16([u8; 16]),
    ByteBlob(Box<[u8]>),
    Sid(Box<[u8]>),
    SecurityDescriptor(Box<[u8]>),
    TokenInformation(Box<[u8]>),
    TokenAccessInformation(Box<[u8]>),
    /// Without the terminating NUL.
    UnicodeString(Box<[u16]>),
    ByteArray6([u8; 6]),
}

/// A single value, borrowed: that of a field of a classification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRef<'a> {
    Empty,
    Uint8(u8),
    Uint16(u16),
    Uint32(u32),
    Uint64(u64),
    Int8(i8),
    Int16(i16),
    Int32(i32),
    Int64(i64),
    Float(f32),
    Double(f64),
    ByteArray16(&'a [u8; 16]),
    ByteBlob(&'a [u8]),
    Sid(&'a [u8]),
    SecurityDescriptor(&'a [u8]),
    TokenInformation(&'a [u8]),
    TokenAccessInformation(&'a [u8]),
    UnicodeString(&'a [u16]),
    ByteArray6(&'a [u8; 6]),
}

impl Value {
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Empty => ValueRef::Empty,
            Self::Uint8(v) => ValueRef::Uint8(*v),
            Self::Uint16(v) => ValueRef::Uint16(*v),
            Self::Uint32(v) => ValueRef::Uint32(*v),
            Self::Uint64(v) => ValueRef::Uint64(*v),
            Self::Int8(v) => ValueRef::Int8(*v),
            Self::Int16(v) => ValueRef::Int16(*v),
            Self::Int32(v) => ValueRef::Int32(*v),
            Self::Int64(v) => ValueRef::Int64(*v),
            Self::Float(v) => ValueRef::Float(*v),
            Self::Double(v) => ValueRef::Double(*v),
            Self::ByteArray16(v) => ValueRef::ByteArray16(v),
            Self::ByteBlob(v) => ValueRef::ByteBlob(v),
            Self::Sid(v) => ValueRef::Sid(v),
            Self::SecurityDescriptor(v) => ValueRef::SecurityDescriptor(v),
            Self::TokenInformation(v) => ValueRef::TokenInformation(v),
            Self::TokenAccessInformation(v) => ValueRef::TokenAccessInformation(v),
            Self::UnicodeString(v) => ValueRef::UnicodeString(v),
            Self::ByteArray6(v) => ValueRef::ByteArray6(v),
        }
    }

    pub fn data_type(&self) -> DataType {
        self.as_ref().data_type()
    }
}

impl ValueRef<'_> {
    pub fn data_type(self) -> DataType {
        match self {
            Self::Empty => DataType::Empty,
            Self::Uint8(_) => DataType::Uint8,
            Self::Uint16(_) => DataType::Uint16,
            Self::Uint32(_) => DataType::Uint32,
            Self::Uint64(_) => DataType::Uint64,
            Self::Int8(_) => DataType::Int8,
            Self::Int16(_) => DataType::Int16,
            Self::Int32(_) => DataType::Int32,
            Self::Int64(_) => DataType::Int64,
            Self::Float(_) => DataType::Float,
            Self::Double(_) => DataType::Double,
            Self::ByteArray16(_) => DataType::ByteArray16,
            Self::ByteBlob(_) => DataType::ByteBlob,
            Self::Sid(_) => DataType::Sid,
            Self::SecurityDescriptor(_) => DataType::SecurityDescriptor,
            Self::TokenInformation(_) => DataType::TokenInformation,
            Self::TokenAccessInformation(_) => DataType::TokenAccessInformation,
            Self::UnicodeString(_) => DataType::UnicodeString,
            Self::ByteArray6(_) => DataType::ByteArray6,
        }
    }

    /// How two values of one sortable type stand to each other; `None` for others: there is no conversion
    /// between types (*FWP_MATCH_TYPE*, remarks). Bytes and strings are compared from their start.
    pub fn compare(self, other: ValueRef<'_>) -> Option<Ordering> {
        Some(match (self, other) {
            (Self::Uint8(a), ValueRef::Uint8(b)) => a.cmp(&b),
            (Self::Uint16(a), ValueRef::Uint16(b)) => a.cmp(&b),
            (Self::Uint32(a), ValueRef::Uint32(b)) => a.cmp(&b),
            (Self::Uint64(a), ValueRef::Uint64(b)) => a.cmp(&b),
            (Self::Int8(a), ValueRef::Int8(b)) => a.cmp(&b),
            (Self::Int16(a), ValueRef::Int16(b)) => a.cmp(&b),
            (Self::Int32(a), ValueRef::Int32(b)) => a.cmp(&b),
            (Self::Int64(a), ValueRef::Int64(b)) => a.cmp(&b),
            (Self::ByteArray16(a), ValueRef::ByteArray16(b)) => a.cmp(b),
            (Self::ByteBlob(a), ValueRef::ByteBlob(b)) => a.cmp(b),
            (Self::UnicodeString(a), ValueRef::UnicodeString(b)) => a.cmp(b),
            _ => return None,
        })
    }

    /// The bits of an unsigned value, for the tests of flags.
    pub fn bits(self) -> Option<u64> {
        Some(match self {
            Self::Uint8(v) => v.into(),
            Self::Uint16(v) => v.into(),
            Self::Uint32(v) => v.into(),
            Self::Uint64(v) => v,
            _ => return None,
        })
    }

    /// Whether `self` ends with `tail`. A blob that holds a string may end with a NUL, which is not part of it.
    pub fn ends_with(self, tail: ValueRef<'_>) -> Option<bool> {
        fn text(blob: &[u8]) -> &[u8] {
            if blob.len().is_multiple_of(2) { blob.strip_suffix(&[0, 0]).unwrap_or(blob) } else { blob }
        }
        match (self, tail) {
            (Self::ByteBlob(a), ValueRef::ByteBlob(b)) => Some(text(a).ends_with(text(b))),
            (Self::UnicodeString(a), ValueRef::UnicodeString(b)) => Some(a.ends_with(b)),
            _ => None,
        }
    }

    /// Whether two strings are equal but for case.
    pub fn equals_ignoring_case(self, other: ValueRef<'_>) -> Option<bool> {
        fn fold(text: &[u16]) -> impl Iterator<Item = char> {
            char::decode_utf16(text.iter().copied())
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .flat_map(char::to_uppercase)
        }
        match (self, other) {
            (Self::UnicodeString(a), ValueRef::UnicodeString(b)) => Some(fold(a).eq(fold(b))),
            _ => None,
        }
    }
}
