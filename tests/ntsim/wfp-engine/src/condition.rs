//! Conditions of filters: what may be asked of a field, and whether a value meets it
//! (*FWPM_FILTER_CONDITION0*, *FWP_MATCH_TYPE*).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::classify::Host;
use crate::layer::LayerInfo;
use crate::{DataType, Error, Field, FieldKind, Guid, MatchType, Result, Runtime, Value, ValueRef};

/// A condition as it is added: the key of a field, a test and an operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub field: Guid,
    pub match_type: MatchType,
    pub value: ConditionValue,
}

/// `FWP_CONDITION_VALUE0`.
#[derive(Clone, Debug, PartialEq)]
pub enum ConditionValue {
    Single(Value),
    /// Both in host byte order.
    V4AddrMask {
        addr: u32,
        mask: u32,
    },
    V6AddrMask {
        addr: [u8; 16],
        prefix: u8,
    },
    /// Both ends belong to it.
    Range(Value, Value),
}

impl Condition {
    /// Holds the condition against its field.
    fn check(&self, field: &Field) -> Result<()> {
        match &self.value {
            ConditionValue::Single(value) => {
                let data = value.data_type();
                if self.match_type == MatchType::Range {
                    return Err(Error::MatchTypeMismatch);
                }
                // "An FWP_TOKEN_INFORMATION_TYPE field can be compared with an FWP_SECURITY_DESCRIPTOR_TYPE value
                // when adding filters", and so can an FWP_TOKEN_ACCESS_INFORMATION_TYPE field; all others must be
                // of the field's type (FWP_MATCH_TYPE, remarks).
                let token =
                    matches!(field.data_type, DataType::TokenInformation | DataType::TokenAccessInformation);
                if data != field.data_type && !(token && data == DataType::SecurityDescriptor) {
                    return Err(Error::TypeMismatch);
                }
                if self.match_type.supports(data) { Ok(()) } else { Err(Error::MatchTypeMismatch) }
            }
            // "An FWP_UINT32 field that contains an IPv4 address can be compared with an FWP_V4_ADDR_MASK value."
            ConditionValue::V4AddrMask { mask, .. } => {
                Self::check_mask(self.match_type, field, DataType::Uint32)?;
                // A mask is ones, then zeros.
                if mask.leading_ones() + mask.trailing_zeros() < u32::BITS {
                    Err(Error::InvalidNetMask)
                } else {
                    Ok(())
                }
            }
            // "An FWP_BYTE_ARRAY16_TYPE field that contains an IPv6 address can be compared with an
            // FWP_V6_ADDR_MASK value."
            ConditionValue::V6AddrMask { prefix, .. } => {
                Self::check_mask(self.match_type, field, DataType::ByteArray16)?;
                if *prefix > 128 { Err(Error::OutOfBounds) } else { Ok(()) }
            }
            ConditionValue::Range(low, high) => {
                let data = low.data_type();
                if high.data_type() != data {
                    return Err(Error::InvalidRange);
                }
                if data != field.data_type {
                    return Err(Error::TypeMismatch);
                }
                if self.match_type != MatchType::Range || !data.is_sortable() {
                    return Err(Error::MatchTypeMismatch);
                }
                match low.as_ref().compare(high.as_ref()) {
                    Some(Ordering::Less | Ordering::Equal) => Ok(()),
                    _ => Err(Error::InvalidRange),
                }
            }
        }
    }

    fn check_mask(match_type: MatchType, field: &Field, data: DataType) -> Result<()> {
        if field.kind != FieldKind::IpAddress || field.data_type != data {
            return Err(Error::TypeMismatch);
        }
        match match_type {
            MatchType::Equal | MatchType::NotEqual => Ok(()),
            _ => Err(Error::MatchTypeMismatch),
        }
    }
}

/// The conditions of one field, one of which must hold: "consecutive conditions with the same fieldKey will be
/// evaluated using the OR operator" (*FWPM_FILTER0*). Whether they stand together makes no difference here.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    field: usize,
    tests: Box<[Test]>,
}

/// One test, ready to run.
#[derive(Clone, Debug)]
enum Test {
    Single(MatchType, Value),
    V4 { addr: u32, mask: u32, negate: bool },
    V6 { addr: u128, mask: u128, negate: bool },
    Range(Value, Value),
}

/// Checks the conditions of a filter against its layer and sorts them by field.
pub(crate) fn compile(conditions: &[Condition], layer: &LayerInfo) -> Result<Box<[Group]>> {
    let mut groups: Vec<(usize, Vec<Test>)> = Vec::new();
    for condition in conditions {
        let index = layer.field_index(&condition.field).ok_or(Error::ConditionNotFound)?;
        condition.check(&layer.fields[index])?;
        let test = Test::new(condition);
        match groups.iter_mut().find(|(field, _)| *field == index) {
            Some((_, tests)) => tests.push(test),
            None => groups.push((index, alloc::vec![test])),
        }
    }
    Ok(groups.into_iter().map(|(field, tests)| Group { field, tests: tests.into() }).collect())
}

impl Test {
    fn new(condition: &Condition) -> Self {
        let negate = condition.match_type == MatchType::NotEqual;
        match condition.value.clone() {
            ConditionValue::Single(value) => Self::Single(condition.match_type, value),
            ConditionValue::V4AddrMask { addr, mask } => Self::V4 { addr: addr & mask, mask, negate },
            ConditionValue::V6AddrMask { addr, prefix } => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Self::V6 { addr: u128::from_be_bytes(addr) & mask, mask, negate }
            }
            ConditionValue::Range(low, high) => Self::Range(low, high),
        }
    }

    /// A field without a value meets no condition: of a local address at the resource assignment layer, "an
    /// implicit bind would succeed because address, address type, and port may come back as FWP_EMPTY"
    /// (*FwpmFilterAdd0*). A value of another type than the field's meets none either.
    fn holds<R: Runtime>(&self, value: ValueRef<'_>, host: &impl Host<R>) -> bool {
        match self {
            Self::Single(match_type, operand) => Self::single(*match_type, value, operand.as_ref(), host),
            Self::V4 { addr, mask, negate } => match value {
                ValueRef::Uint32(v) => (v & mask == *addr) != *negate,
                _ => false,
            },
            Self::V6 { addr, mask, negate } => match value {
                ValueRef::ByteArray16(v) => (u128::from_be_bytes(*v) & mask == *addr) != *negate,
                _ => false,
            },
            Self::Range(low, high) => {
                value.compare(low.as_ref()).is_some_and(Ordering::is_ge)
                    && value.compare(high.as_ref()).is_some_and(Ordering::is_le)
            }
        }
    }

    fn single<R: Runtime>(
        match_type: MatchType,
        value: ValueRef<'_>,
        operand: ValueRef<'_>,
        host: &impl Host<R>,
    ) -> bool {
        let order = |test: fn(Ordering) -> bool| value.compare(operand).is_some_and(test);
        let flags = |test: fn(u64, u64) -> bool| {
            value.data_type() == operand.data_type()
                && value.bits().zip(operand.bits()).is_some_and(|(bits, flags)| test(bits, flags))
        };
        match match_type {
            MatchType::Equal => match (value, operand) {
                (
                    ValueRef::TokenInformation(token) | ValueRef::TokenAccessInformation(token),
                    ValueRef::SecurityDescriptor(descriptor),
                ) => host.grants(descriptor, token),
                (ValueRef::Empty, _) => false,
                _ => value == operand,
            },
            MatchType::NotEqual => order(Ordering::is_ne),
            MatchType::Greater => order(Ordering::is_gt),
            MatchType::Less => order(Ordering::is_lt),
            MatchType::GreaterOrEqual => order(Ordering::is_ge),
            MatchType::LessOrEqual => order(Ordering::is_le),
            MatchType::FlagsAllSet => flags(|bits, flags| bits & flags == flags),
            MatchType::FlagsAnySet => flags(|bits, flags| bits & flags != 0),
            MatchType::FlagsNoneSet => flags(|bits, flags| bits & flags == 0),
            MatchType::EqualCaseInsensitive => value.equals_ignoring_case(operand) == Some(true),
            MatchType::Prefix => value.ends_with(operand) == Some(true),
            MatchType::NotPrefix => value.ends_with(operand) == Some(false),
            // Conditions with this match type have a range for their operand.
            MatchType::Range => false,
        }
    }
}

impl Group {
    /// How many of a field's bits the group fixes at least, for the automatic weight.
    pub(crate) fn specificity(&self) -> u32 {
        self.tests.iter().map(Test::specificity).min().unwrap_or(0)
    }

    pub(crate) fn holds<R: Runtime>(&self, host: &impl Host<R>) -> bool {
        let value = host.value(self.field);
        self.tests.iter().any(|test| test.holds(value, host))
    }
}

impl Test {
    fn specificity(&self) -> u32 {
        match self {
            Self::Single(MatchType::Equal | MatchType::EqualCaseInsensitive, _) => 128,
            Self::V4 { mask, negate: false, .. } => 4 * mask.leading_ones(),
            Self::V6 { mask, negate: false, .. } => mask.leading_ones(),
            Self::Range(..) | Self::Single(..) | Self::V4 { .. } | Self::V6 { .. } => 1,
        }
    }
}
