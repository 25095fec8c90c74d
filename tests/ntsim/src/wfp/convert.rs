//! Between the platform's structures and the engine's types.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::ffi::c_void;
use core::ptr::null_mut;

use wfp_engine::{
    Action, CalloutKind, Condition, ConditionValue, DataType, Error, FilterFlags, FilterInfo, FilterSpec,
    Guid, LayerInfo, MatchType, Result, Value, ValueRef, Weight,
};

use crate::sys::fwp::{
    FWP_ACTION_BLOCK, FWP_ACTION_CALLOUT_INSPECTION, FWP_ACTION_CALLOUT_TERMINATING,
    FWP_ACTION_CALLOUT_UNKNOWN, FWP_ACTION_PERMIT, FWP_BYTE_ARRAY6, FWP_BYTE_ARRAY16, FWP_BYTE_BLOB,
    FWP_CONDITION_VALUE0, FWP_CONDITION_VALUE0_U, FWP_DATA_TYPE, FWP_EMPTY, FWP_RANGE_TYPE, FWP_RANGE0,
    FWP_UINT8, FWP_UINT64, FWP_V4_ADDR_AND_MASK, FWP_V4_ADDR_MASK, FWP_V6_ADDR_AND_MASK, FWP_V6_ADDR_MASK,
    FWP_VALUE0, FWP_VALUE0_U, FWPM_ACTION0, FWPM_ACTION0_U, FWPM_DISPLAY_DATA0, FWPM_FIELD0,
    FWPM_FILTER_CONDITION0, FWPM_FILTER_FLAG_BOOTTIME, FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT,
    FWPM_FILTER_FLAG_HAS_PROVIDER_CONTEXT, FWPM_FILTER_FLAG_INDEXED,
    FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, FWPM_FILTER_FLAG_PERSISTENT, FWPM_FILTER0, FWPM_LAYER0,
    FWPS_ACTION0, FWPS_FILTER_CONDITION0, FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT,
    FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED, FWPS_FILTER3, STATUS_FWP_PROVIDER_CONTEXT_NOT_FOUND,
};
use crate::sys::nt::{GUID, NTSTATUS};

pub(crate) fn guid(guid: GUID) -> Guid {
    Guid { Data1: guid.Data1, Data2: guid.Data2, Data3: guid.Data3, Data4: guid.Data4 }
}

pub(crate) fn to_guid(guid: Guid) -> GUID {
    GUID { Data1: guid.Data1, Data2: guid.Data2, Data3: guid.Data3, Data4: guid.Data4 }
}

/// The UTF-16 units before the NUL.
///
/// # Safety
/// `text` is null or a string that ends with a NUL.
pub(crate) unsafe fn wide(text: *const u16) -> Option<Box<[u16]>> {
    if text.is_null() {
        return None;
    }
    let mut units = Vec::new();
    let mut at = text;
    loop {
        // SAFETY: no unit before this one was the NUL, so it is in the string.
        let unit = unsafe { at.read() };
        if unit == 0 {
            return Some(units.into());
        }
        units.push(unit);
        at = at.wrapping_add(1);
    }
}

/// The bytes of a blob; none if it has no data.
///
/// # Safety
/// The blob describes memory that lives as long as the result is used.
unsafe fn bytes<'a>(blob: &FWP_BYTE_BLOB) -> &'a [u8] {
    if blob.data.is_null() {
        return &[];
    }
    // SAFETY: by the contract.
    unsafe { core::slice::from_raw_parts(blob.data, blob.size as usize) }
}

/// A SID in binary form: revision, count of sub-authorities, six bytes, four bytes for each sub-authority.
pub(super) fn sid<'a>(sid: *const u8) -> &'a [u8] {
    // SAFETY: a SID has at least its head; it lives as long as the value or the token that it is part of.
    let count = unsafe { sid.wrapping_add(1).read() };
    // SAFETY: as above.
    unsafe { core::slice::from_raw_parts(sid, 8 + 4 * usize::from(count)) }
}

/// A value of a classification. What it points at lives until the classification is over; a null pointer is no value.
/// "Treat any unknown type as no value" is what a reader does who is older than the type.
pub(super) fn value_ref(value: &FWP_VALUE0) -> ValueRef<'_> {
    let Ok(data) = DataType::try_from(value.type_) else {
        return ValueRef::Empty;
    };
    // SAFETY: the type says which member of the union is set, and the maker of the value keeps it and what it points
    // at until the classification is over.
    unsafe { read(data, value.u) }.unwrap_or(ValueRef::Empty)
}

/// Reads a value by its type. `None` where it is a null pointer.
///
/// # Safety
/// The union holds the member of that type, and what that points at is there.
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reading a member and following it is one step, 18 times"
)]
unsafe fn read<'a>(data: DataType, u: FWP_VALUE0_U) -> Option<ValueRef<'a>> {
    // SAFETY: by the contract. Pointers are followed only if they are not null.
    unsafe {
        Some(match data {
            DataType::Empty => ValueRef::Empty,
            DataType::Uint8 => ValueRef::Uint8(u.uint8),
            DataType::Uint16 => ValueRef::Uint16(u.uint16),
            DataType::Uint32 => ValueRef::Uint32(u.uint32),
            DataType::Uint64 => ValueRef::Uint64(*u.uint64.as_ref()?),
            DataType::Int8 => ValueRef::Int8(u.int8),
            DataType::Int16 => ValueRef::Int16(u.int16),
            DataType::Int32 => ValueRef::Int32(u.int32),
            DataType::Int64 => ValueRef::Int64(*u.int64.as_ref()?),
            DataType::Float => ValueRef::Float(u.float32),
            DataType::Double => ValueRef::Double(*u.double64.as_ref()?),
            DataType::ByteArray16 => ValueRef::ByteArray16(&u.byteArray16.as_ref()?.byteArray16),
            DataType::ByteBlob => ValueRef::ByteBlob(bytes(u.byteBlob.as_ref()?)),
            DataType::Sid => ValueRef::Sid(sid(u.sid.cast::<u8>().as_ref()?)),
            DataType::SecurityDescriptor => ValueRef::SecurityDescriptor(bytes(u.sd.as_ref()?)),
            // TOKEN_INFORMATION begins as TOKEN_ACCESS_INFORMATION does: with its SIDs.
            DataType::TokenInformation => ValueRef::TokenInformation(core::slice::from_raw_parts(
                u.tokenInformation.cast::<u8>().as_ref()?,
                size_of::<*const c_void>(),
            )),
            DataType::TokenAccessInformation => {
                ValueRef::TokenAccessInformation(bytes(u.tokenAccessInformation.as_ref()?))
            }
            DataType::UnicodeString => {
                let start = u.unicodeString;
                start.as_ref()?;
                let mut length = 0;
                while *start.add(length) != 0 {
                    length += 1;
                }
                ValueRef::UnicodeString(core::slice::from_raw_parts(start, length))
            }
            DataType::ByteArray6 => ValueRef::ByteArray6(&u.byteArray6.as_ref()?.byteArray6),
        })
    }
}

fn own(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Empty => Value::Empty,
        ValueRef::Uint8(v) => Value::Uint8(v),
        ValueRef::Uint16(v) => Value::Uint16(v),
        ValueRef::Uint32(v) => Value::Uint32(v),
        ValueRef::Uint64(v) => Value::Uint64(v),
        ValueRef::Int8(v) => Value::Int8(v),
        ValueRef::Int16(v) => Value::Int16(v),
        ValueRef::Int32(v) => Value::Int32(v),
        ValueRef::Int64(v) => Value::Int64(v),
        ValueRef::Float(v) => Value::Float(v),
        ValueRef::Double(v) => Value::Double(v),
        ValueRef::ByteArray16(v) => Value::ByteArray16(*v),
        ValueRef::ByteBlob(v) => Value::ByteBlob(v.into()),
        ValueRef::Sid(v) => Value::Sid(v.into()),
        ValueRef::SecurityDescriptor(v) => Value::SecurityDescriptor(v.into()),
        ValueRef::TokenInformation(v) => Value::TokenInformation(v.into()),
        ValueRef::TokenAccessInformation(v) => Value::TokenAccessInformation(v.into()),
        ValueRef::UnicodeString(v) => Value::UnicodeString(v.into()),
        ValueRef::ByteArray6(v) => Value::ByteArray6(*v),
    }
}

/// A single value of a condition or of an end of a range.
///
/// # Safety
/// As for [`read`].
unsafe fn single(type_: FWP_DATA_TYPE, u: FWP_VALUE0_U) -> Result<Value> {
    let data = DataType::try_from(type_)?;
    // SAFETY: by the contract.
    unsafe { read(data, u) }.map(own).ok_or(Error::NullPointer)
}

/// # Safety
/// The condition is as the platform's documentation has it: its value is of its type, and pointers lead somewhere.
unsafe fn condition(condition: &FWPM_FILTER_CONDITION0) -> Result<Condition> {
    let FWP_CONDITION_VALUE0 { type_, u } = condition.conditionValue;
    let value = match type_ {
        FWP_V4_ADDR_MASK => {
            // SAFETY: the type says so.
            let mask = unsafe { u.v4AddrMask };
            // SAFETY: by the contract.
            let mask = unsafe { mask.as_ref() }.ok_or(Error::NullPointer)?;
            ConditionValue::V4AddrMask { addr: mask.addr, mask: mask.mask }
        }
        FWP_V6_ADDR_MASK => {
            // SAFETY: the type says so.
            let mask = unsafe { u.v6AddrMask };
            // SAFETY: by the contract.
            let mask = unsafe { mask.as_ref() }.ok_or(Error::NullPointer)?;
            ConditionValue::V6AddrMask { addr: mask.addr, prefix: mask.prefixLength }
        }
        FWP_RANGE_TYPE => {
            // SAFETY: the type says so.
            let range = unsafe { u.rangeValue };
            // SAFETY: by the contract.
            let range = unsafe { range.as_ref() }.ok_or(Error::NullPointer)?;
            // SAFETY: by the contract.
            let low = unsafe { single(range.valueLow.type_, range.valueLow.u) }?;
            // SAFETY: by the contract.
            let high = unsafe { single(range.valueHigh.type_, range.valueHigh.u) }?;
            ConditionValue::Range(low, high)
        }
        _ => {
            // SAFETY: the members of the two unions that hold single values are the same.
            let single_union = unsafe { (&raw const u).cast::<FWP_VALUE0_U>().read() };
            // SAFETY: by the contract.
            ConditionValue::Single(unsafe { single(type_, single_union) }?)
        }
    };
    Ok(Condition {
        field: guid(condition.fieldKey),
        match_type: MatchType::try_from(condition.matchType)?,
        value,
    })
}

/// A filter as a driver gives it. An error is a status: one of them is none of the engine's.
///
/// # Safety
/// The filter is as the platform's documentation has it.
pub(crate) unsafe fn filter_spec(filter: &FWPM_FILTER0) -> core::result::Result<FilterSpec, NTSTATUS> {
    if filter.flags & FWPM_FILTER_FLAG_HAS_PROVIDER_CONTEXT != 0 {
        return Err(STATUS_FWP_PROVIDER_CONTEXT_NOT_FOUND);
    }
    // SAFETY: by the contract.
    unsafe { plain_filter_spec(filter) }.map_err(Error::status)
}

/// # Safety
/// As for [`filter_spec`].
unsafe fn plain_filter_spec(filter: &FWPM_FILTER0) -> Result<FilterSpec> {
    const KNOWN: u32 = FWPM_FILTER_FLAG_PERSISTENT
        | FWPM_FILTER_FLAG_BOOTTIME
        | FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT
        | FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED
        | FWPM_FILTER_FLAG_INDEXED;
    // FWPM_FILTER_FLAG_DISABLED "cannot be set when adding new filters" (FWPM_FILTER0).
    if filter.flags & !KNOWN != 0 {
        return Err(Error::InvalidFlags);
    }
    let has = |flag| filter.flags & flag != 0;
    let count = filter.numFilterConditions as usize;
    let conditions: &[FWPM_FILTER_CONDITION0] = match count {
        0 => &[],
        _ if filter.filterCondition.is_null() => return Err(Error::NullPointer),
        // SAFETY: by the contract, there are that many.
        _ => unsafe { core::slice::from_raw_parts(filter.filterCondition, count) },
    };
    let weight = match filter.weight.type_ {
        FWP_EMPTY => Weight::Auto,
        // SAFETY: the type says so.
        FWP_UINT8 => Weight::Range(unsafe { filter.weight.u.uint8 }),
        FWP_UINT64 => {
            // SAFETY: the type says so.
            let weight = unsafe { filter.weight.u.uint64 };
            // SAFETY: by the contract.
            Weight::Exact(*unsafe { weight.as_ref() }.ok_or(Error::NullPointer)?)
        }
        _ => return Err(Error::InvalidWeight),
    };
    // SAFETY: each member is a GUID.
    let callout = guid(unsafe { filter.action.u.calloutKey });
    let action = match filter.action.type_ {
        FWP_ACTION_BLOCK => Action::Block,
        FWP_ACTION_PERMIT => Action::Permit,
        FWP_ACTION_CALLOUT_TERMINATING => Action::Callout(CalloutKind::Terminating, callout),
        FWP_ACTION_CALLOUT_INSPECTION => Action::Callout(CalloutKind::Inspection, callout),
        FWP_ACTION_CALLOUT_UNKNOWN => Action::Callout(CalloutKind::Unknown, callout),
        _ => return Err(Error::InvalidActionType),
    };
    Ok(FilterSpec {
        key: guid(filter.filterKey),
        // SAFETY: by the contract.
        display: unsafe { display(&filter.displayData) },
        flags: FilterFlags {
            persistent: has(FWPM_FILTER_FLAG_PERSISTENT),
            boot_time: has(FWPM_FILTER_FLAG_BOOTTIME),
            clear_action_right: has(FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT),
            permit_if_callout_unregistered: has(FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED),
        },
        // SAFETY: by the contract.
        provider: unsafe { filter.providerKey.as_ref() }.map(|key| guid(*key)),
        // SAFETY: by the contract.
        data: unsafe { bytes(&filter.providerData) }.into(),
        layer: guid(filter.layerKey),
        sublayer: guid(filter.subLayerKey),
        weight,
        // SAFETY: by the contract.
        conditions: conditions.iter().map(|c| unsafe { condition(c) }).collect::<Result<_>>()?,
        action,
        // SAFETY: without a provider context it is the raw context; both are plain bytes.
        context: unsafe { filter.u.rawContext },
    })
}

/// # Safety
/// The strings are null or end with a NUL.
pub(crate) unsafe fn display(data: &FWPM_DISPLAY_DATA0) -> wfp_engine::DisplayData {
    // SAFETY: by the contract.
    let name = unsafe { wide(data.name) };
    // SAFETY: by the contract.
    let description = unsafe { wide(data.description) };
    wfp_engine::DisplayData { name, description }
}

/// # Safety
/// The blob is as it says.
pub(crate) unsafe fn blob(data: &FWP_BYTE_BLOB) -> Box<[u8]> {
    // SAFETY: by the contract.
    unsafe { bytes(data) }.into()
}

/// What structures that are handed out point at: everything stays where it is as long as the store lives.
#[derive(Default)]
pub(crate) struct Store {
    kept: Vec<Box<dyn Any>>,
}

impl Store {
    /// Keeps a value and gives its address.
    fn keep<T: 'static>(&mut self, value: T) -> *mut T {
        self.kept.push(Box::new(value));
        self.kept
            .last_mut()
            .and_then(|kept| kept.downcast_mut::<T>())
            .map_or(null_mut(), |kept| core::ptr::from_mut(kept))
    }

    /// Keeps some values and gives the address of the first, and how many there are.
    fn keep_all<T: 'static>(&mut self, values: Vec<T>) -> (*mut T, u32) {
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let values = self.keep(values);
        // SAFETY: it was kept just now, and nobody else has its address.
        let first = unsafe { values.as_mut() }.map_or(null_mut(), Vec::as_mut_ptr);
        (first, count)
    }

    pub fn bytes(&mut self, data: &[u8]) -> FWP_BYTE_BLOB {
        if data.is_empty() {
            return FWP_BYTE_BLOB::ZERO;
        }
        let (data, size) = self.keep_all(data.to_vec());
        FWP_BYTE_BLOB { size, data }
    }

    fn blob(&mut self, data: &[u8]) -> *mut FWP_BYTE_BLOB {
        let blob = self.bytes(data);
        self.keep(blob)
    }

    /// A string with its NUL; null for none.
    pub fn wide(&mut self, text: Option<&[u16]>) -> *mut u16 {
        text.map_or(null_mut(), |text| self.keep_all(text.iter().copied().chain([0]).collect()).0)
    }

    pub fn display(&mut self, display: &wfp_engine::DisplayData) -> FWPM_DISPLAY_DATA0 {
        FWPM_DISPLAY_DATA0 {
            name: self.wide(display.name.as_deref()),
            description: self.wide(display.description.as_deref()),
        }
    }

    pub fn key(&mut self, key: Option<Guid>) -> *mut GUID {
        key.map_or(null_mut(), |key| self.keep(to_guid(key)))
    }

    pub fn number(&mut self, number: u64) -> FWP_VALUE0 {
        FWP_VALUE0 { type_: FWP_UINT64, u: FWP_VALUE0_U { uint64: self.keep(number) } }
    }

    pub fn value(&mut self, value: &Value) -> FWP_VALUE0 {
        let type_ = value.data_type() as FWP_DATA_TYPE;
        let u = match value {
            Value::Empty => return FWP_VALUE0::ZERO,
            Value::Uint8(v) => FWP_VALUE0_U { uint8: *v },
            Value::Uint16(v) => FWP_VALUE0_U { uint16: *v },
            Value::Uint32(v) => FWP_VALUE0_U { uint32: *v },
            Value::Uint64(v) => FWP_VALUE0_U { uint64: self.keep(*v) },
            Value::Int8(v) => FWP_VALUE0_U { int8: *v },
            Value::Int16(v) => FWP_VALUE0_U { int16: *v },
            Value::Int32(v) => FWP_VALUE0_U { int32: *v },
            Value::Int64(v) => FWP_VALUE0_U { int64: self.keep(*v) },
            Value::Float(v) => FWP_VALUE0_U { float32: *v },
            Value::Double(v) => FWP_VALUE0_U { double64: self.keep(*v) },
            Value::ByteArray16(v) => {
                FWP_VALUE0_U { byteArray16: self.keep(FWP_BYTE_ARRAY16 { byteArray16: *v }) }
            }
            Value::ByteArray6(v) => {
                FWP_VALUE0_U { byteArray6: self.keep(FWP_BYTE_ARRAY6 { byteArray6: *v }) }
            }
            Value::ByteBlob(v) => FWP_VALUE0_U { byteBlob: self.blob(v) },
            Value::SecurityDescriptor(v) => FWP_VALUE0_U { sd: self.blob(v) },
            Value::TokenAccessInformation(v) => FWP_VALUE0_U { tokenAccessInformation: self.blob(v) },
            Value::Sid(v) => FWP_VALUE0_U { sid: self.bytes(v).data.cast() },
            Value::TokenInformation(v) => FWP_VALUE0_U { tokenInformation: self.bytes(v).data.cast() },
            Value::UnicodeString(v) => FWP_VALUE0_U { unicodeString: self.wide(Some(v)) },
        };
        FWP_VALUE0 { type_, u }
    }

    fn condition_value(&mut self, value: &ConditionValue) -> FWP_CONDITION_VALUE0 {
        match value {
            ConditionValue::Single(value) => {
                let FWP_VALUE0 { type_, u } = self.value(value);
                // SAFETY: both unions are eight bytes, and the members of this one are members of that.
                let u = unsafe { core::mem::transmute::<FWP_VALUE0_U, FWP_CONDITION_VALUE0_U>(u) };
                FWP_CONDITION_VALUE0 { type_, u }
            }
            ConditionValue::V4AddrMask { addr, mask } => {
                let kept = self.keep(FWP_V4_ADDR_AND_MASK { addr: *addr, mask: *mask });
                FWP_CONDITION_VALUE0 {
                    type_: FWP_V4_ADDR_MASK,
                    u: FWP_CONDITION_VALUE0_U { v4AddrMask: kept },
                }
            }
            ConditionValue::V6AddrMask { addr, prefix } => {
                let kept = self.keep(FWP_V6_ADDR_AND_MASK { addr: *addr, prefixLength: *prefix });
                FWP_CONDITION_VALUE0 {
                    type_: FWP_V6_ADDR_MASK,
                    u: FWP_CONDITION_VALUE0_U { v6AddrMask: kept },
                }
            }
            ConditionValue::Range(low, high) => {
                let range = FWP_RANGE0 { valueLow: self.value(low), valueHigh: self.value(high) };
                let kept = self.keep(range);
                FWP_CONDITION_VALUE0 { type_: FWP_RANGE_TYPE, u: FWP_CONDITION_VALUE0_U { rangeValue: kept } }
            }
        }
    }

    /// A layer as FwpmLayerGetById0 gives it.
    pub fn layer(&mut self, layer: &LayerInfo) -> FWPM_LAYER0 {
        let fields = layer
            .fields
            .iter()
            .map(|field| FWPM_FIELD0 {
                fieldKey: self.key(Some(field.key)),
                type_: field.kind as i32,
                dataType: field.data_type as i32,
            })
            .collect();
        let (field, count) = self.keep_all(fields);
        let name: Vec<u16> = layer.name.encode_utf16().collect();
        FWPM_LAYER0 {
            layerKey: to_guid(layer.key),
            displayData: FWPM_DISPLAY_DATA0 { name: self.wide(Some(&name)), description: null_mut() },
            flags: 0,
            numFields: count,
            field,
            defaultSubLayerKey: to_guid(layer.default_sublayer),
            layerId: layer.id,
        }
    }

    /// A filter as FwpmFilterGetById0 gives it.
    pub fn filter(&mut self, info: &FilterInfo) -> FWPM_FILTER0 {
        let spec = &info.spec;
        let conditions = spec
            .conditions
            .iter()
            .map(|condition| FWPM_FILTER_CONDITION0 {
                fieldKey: to_guid(condition.field),
                matchType: condition.match_type as i32,
                conditionValue: self.condition_value(&condition.value),
            })
            .collect();
        let (conditions, count) = self.keep_all(conditions);
        let (type_, key) = action(spec.action);
        let flag = |set, flag| if set { flag } else { 0 };
        FWPM_FILTER0 {
            filterKey: to_guid(spec.key),
            displayData: self.display(&spec.display),
            flags: flag(spec.flags.persistent, FWPM_FILTER_FLAG_PERSISTENT)
                | flag(spec.flags.boot_time, FWPM_FILTER_FLAG_BOOTTIME)
                | flag(spec.flags.clear_action_right, FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT)
                | flag(
                    spec.flags.permit_if_callout_unregistered,
                    FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED,
                ),
            providerKey: self.key(spec.provider),
            providerData: self.bytes(&spec.data),
            layerKey: to_guid(spec.layer),
            subLayerKey: to_guid(spec.sublayer),
            weight: match spec.weight {
                Weight::Auto => FWP_VALUE0::ZERO,
                Weight::Range(range) => FWP_VALUE0 { type_: FWP_UINT8, u: FWP_VALUE0_U { uint8: range } },
                Weight::Exact(weight) => self.number(weight),
            },
            numFilterConditions: count,
            filterCondition: conditions,
            action: FWPM_ACTION0 { type_, u: FWPM_ACTION0_U { calloutKey: to_guid(key) } },
            filterId: info.id,
            effectiveWeight: self.number(info.weight),
            u: crate::sys::fwp::FWPM_FILTER0_U { rawContext: spec.context },
            ..FWPM_FILTER0::ZERO
        }
    }
}

fn action(action: Action) -> (u32, Guid) {
    match action {
        Action::Block => (FWP_ACTION_BLOCK, Guid::ZERO),
        Action::Permit => (FWP_ACTION_PERMIT, Guid::ZERO),
        Action::Callout(CalloutKind::Terminating, key) => (FWP_ACTION_CALLOUT_TERMINATING, key),
        Action::Callout(CalloutKind::Inspection, key) => (FWP_ACTION_CALLOUT_INSPECTION, key),
        Action::Callout(CalloutKind::Unknown, key) => (FWP_ACTION_CALLOUT_UNKNOWN, key),
    }
}

/// A filter as callouts see it.
pub(crate) struct NativeFilter {
    filter: Box<FWPS_FILTER3>,
    _store: Store,
}

// SAFETY: the pointers lead into the filter itself, which nobody writes to once it is made.
unsafe impl Send for NativeFilter {}
// SAFETY: as above.
unsafe impl Sync for NativeFilter {}
// SAFETY: as above.
unsafe impl Send for Store {}

impl NativeFilter {
    pub fn new(info: &FilterInfo, layer: &LayerInfo) -> Self {
        let mut store = Store::default();
        let conditions = info
            .spec
            .conditions
            .iter()
            .map(|condition| {
                let field = layer.fields.iter().position(|field| field.key == condition.field);
                FWPS_FILTER_CONDITION0 {
                    fieldId: field.and_then(|index| u16::try_from(index).ok()).unwrap_or(u16::MAX),
                    reserved: 0,
                    matchType: condition.match_type as i32,
                    conditionValue: store.condition_value(&condition.value),
                }
            })
            .collect();
        let (conditions, count) = store.keep_all(conditions);
        let flags = &info.spec.flags;
        let filter = Box::new(FWPS_FILTER3 {
            filterId: info.id,
            weight: store.number(info.weight),
            subLayerWeight: info.sublayer_weight,
            flags: if flags.clear_action_right { FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT } else { 0 }
                | if flags.permit_if_callout_unregistered {
                    FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED
                } else {
                    0
                },
            numFilterConditions: count,
            filterCondition: conditions,
            action: FWPS_ACTION0 { type_: action(info.spec.action).0, calloutId: info.callout.unwrap_or(0) },
            context: info.context,
            providerContext: null_mut(),
        });
        Self { filter, _store: store }
    }

    #[inline]
    pub fn as_ptr(&self) -> *const FWPS_FILTER3 {
        &raw const *self.filter
    }

    pub fn as_mut_ptr(&mut self) -> *mut FWPS_FILTER3 {
        &raw mut *self.filter
    }

    pub fn context(&self) -> u64 {
        self.filter.context
    }
}
