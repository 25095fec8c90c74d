//! A single classification at any layer, of values that the request names.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::ptr::null_mut;

use wfp_engine::id::field;
use wfp_engine::{DataType, Field, FieldKind, LayerInfo, Value as FieldValue, layers};
use wine_support::drive::{self, Outcome, Request, fields};
use wine_support::json::{Value, json};

use crate::sys::fwp::{FWP_ACTION_BLOCK, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUE0};
use crate::sys::nt::{DISPATCH_LEVEL, PASSIVE_LEVEL};
use crate::wfp::convert::Store;
use crate::wfp::{self, ClassifyRequest};

/// The names of a layer's fields, in their order.
fn names(layer: &LayerInfo) -> &'static [(&'static str, usize)] {
    let family = layer.name.trim_end_matches("_V4").trim_end_matches("_V6");
    field::TABLE.iter().find(|(name, _)| name.eq_ignore_ascii_case(family)).map_or(&[], |(_, fields)| fields)
}

/// A value as the field holds it.
fn value(name: &str, field: &Field, value: &Value) -> Result<FieldValue, String> {
    let number = |most: u64| {
        let number = value.as_u64().filter(|number| *number <= most);
        number.ok_or_else(|| alloc::format!("{name} must be a whole number from 0 to {most}, not {value}"))
    };
    let address = || value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    Ok(match field.data_type {
        DataType::Uint8 => FieldValue::Uint8(u8::try_from(number(u8::MAX.into())?).unwrap_or(0)),
        DataType::Uint16 => FieldValue::Uint16(u16::try_from(number(u16::MAX.into())?).unwrap_or(0)),
        DataType::Uint32 if field.kind == FieldKind::IpAddress => match address() {
            Some(IpAddr::V4(v4)) => FieldValue::Uint32(v4.to_bits()),
            _ => return Err(alloc::format!("{name} must be an IPv4 address, not {value}")),
        },
        DataType::Uint32 => FieldValue::Uint32(u32::try_from(number(u32::MAX.into())?).unwrap_or(0)),
        DataType::Uint64 => FieldValue::Uint64(number(u64::MAX)?),
        DataType::ByteArray16 => match address() {
            Some(IpAddr::V6(v6)) => FieldValue::ByteArray16(v6.octets()),
            _ => return Err(alloc::format!("{name} must be an IPv6 address, not {value}")),
        },
        DataType::ByteBlob => match value.as_str() {
            Some(text) => FieldValue::ByteBlob(
                fields::application(text).iter().flat_map(|unit| unit.to_le_bytes()).collect(),
            ),
            None => return Err(alloc::format!("{name} must be text, not {value}")),
        },
        other => return Err(alloc::format!("{name} holds a {other:?}, which a request cannot name")),
    })
}

pub(super) fn classify(request: &Request) -> Outcome {
    let wanted = drive::text(request, "layer")?;
    let all = layers();
    let layer = all
        .iter()
        .find(|layer| layer.name.eq_ignore_ascii_case(wanted))
        .ok_or_else(|| alloc::format!("{wanted:?} is no layer, as ALE_AUTH_CONNECT_V4"))?;
    let mut store = Store::default();
    let mut values: Vec<FWPS_INCOMING_VALUE0> = Vec::new();
    values.resize(layer.fields.len(), FWPS_INCOMING_VALUE0::ZERO);
    if let Some(given) = request.get("values") {
        let given = given.as_object().ok_or("\"values\" must be an object of fields")?;
        for (name, said) in given {
            let known = names(layer).iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            let place =
                known.and_then(|(_, index)| Some((layer.fields.get(*index)?, values.get_mut(*index)?)));
            let (field, slot) =
                place.ok_or_else(|| alloc::format!("{} has no field {name:?}", layer.name))?;
            slot.value = store.value(&value(name, field, said)?);
        }
    }
    let dispatch = drive::flag(request, "dispatch", false)?;
    let mut metadata = FWPS_INCOMING_METADATA_VALUES0::ZERO;
    let outcome = wfp::classify(ClassifyRequest {
        layer: layer.id,
        values: &mut values,
        metadata: &mut metadata,
        layer_data: null_mut(),
        flow: None,
        irql: if dispatch { DISPATCH_LEVEL } else { PASSIVE_LEVEL },
    });
    Ok(json!({
        "verdict": if outcome.action == FWP_ACTION_BLOCK { "block" } else { "permit" },
        "filter": outcome.filter,
        "sublayer_weight": outcome.sublayer_weight,
        "absorb": outcome.absorb,
        "veto": outcome.veto,
    }))
}
