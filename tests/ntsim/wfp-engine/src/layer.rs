//! The layers of the kernel and their fields (*Management Filtering Layer Identifiers*, *Filtering Conditions
//! Available at Each Filtering Layer*, *Filtering Condition Identifiers*).

use alloc::vec::Vec;

use crate::id::{self, field};
use crate::{DataType, Guid};

/// `FWPM_FIELD_TYPE`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    RawData = 0,
    IpAddress = 1,
    Flags = 2,
}

/// `FWPM_FIELD0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The key of conditions on it; zero where no condition can name it.
    pub key: Guid,
    pub kind: FieldKind,
    pub data_type: DataType,
}

/// `FWPM_LAYER0`.
#[derive(Clone, Debug)]
pub struct LayerInfo {
    pub id: u16,
    pub key: Guid,
    /// The name without its prefix, e.g. `ALE_AUTH_CONNECT_V4`.
    pub name: &'static str,
    pub fields: Vec<Field>,
    pub default_sublayer: Guid,
    /// Whether flows pass here, so that contexts can be associated: the layers whose metadata has a flow handle
    /// (*Metadata Fields at Each Filtering Layer*).
    pub has_flows: bool,
}

impl LayerInfo {
    pub(crate) fn field_index(&self, key: &Guid) -> Option<usize> {
        if key.is_zero() {
            return None;
        }
        self.fields.iter().position(|field| field.key == *key)
    }
}

/// All layers, by rising id.
pub fn layers() -> Vec<LayerInfo> {
    id::LAYERS
        .iter()
        .filter_map(|(name, id)| {
            let name = name.strip_prefix("FWPS_LAYER_")?;
            let (family, v6) = name
                .strip_suffix("_V4")
                .map(|family| (family, false))
                .or_else(|| name.strip_suffix("_V6").map(|family| (family, true)))?;
            let fields =
                field::TABLE.iter().find(|(layer, _)| layer.eq_ignore_ascii_case(family)).map(|(_, f)| *f)?;
            let key = id::LAYER_KEYS.iter().find(|(key, _)| key.strip_prefix("FWPM_LAYER_") == Some(name))?.1;
            Some(LayerInfo {
                id: *id,
                key,
                name,
                fields: fields.iter().map(|(field, _)| describe(field, v6)).collect(),
                // Not documented for each layer; a filter without a sublayer goes to the universal one.
                default_sublayer: id::FWPM_SUBLAYER_UNIVERSAL,
                has_flows: matches!(
                    family,
                    "ALE_AUTH_CONNECT"
                        | "ALE_AUTH_RECV_ACCEPT"
                        | "ALE_FLOW_ESTABLISHED"
                        | "STREAM"
                        | "DATAGRAM_DATA"
                        | "INBOUND_TRANSPORT"
                        | "OUTBOUND_TRANSPORT"
                ),
            })
        })
        .collect()
}

/// The key and the type of a field, by its name.
fn describe(name: &str, v6: bool) -> Field {
    // Names that differ between the field and its condition. Of ICMP the type is the local port's condition and
    // the code the remote port's.
    let condition = match name {
        "ICMP_TYPE" => "IP_LOCAL_PORT",
        "ICMP_CODE" => "IP_REMOTE_PORT",
        "NAP_CONTEXT" => "ALE_NAP_CONTEXT",
        "SIO_FIREWALL_SYSTEM_PORT" => "ALE_SIO_FIREWALL_SYSTEM_PORT",
        "PROFILE_ID" => "CURRENT_PROFILE_ID",
        _ => name,
    };
    let key = id::CONDITION_KEYS
        .iter()
        .find(|(key, _)| key.strip_prefix("FWPM_CONDITION_") == Some(condition))
        .map_or(Guid::ZERO, |(_, key)| *key);
    let kind = match name {
        "FLAGS" => FieldKind::Flags,
        _ if name.ends_with("_ADDRESS") => FieldKind::IpAddress,
        _ => FieldKind::RawData,
    };
    let data_type = match name {
        "ALE_APP_ID"
        | "ALE_ORIGINAL_APP_ID"
        | "ALE_EFFECTIVE_NAME"
        | "ALE_SECURITY_ATTRIBUTE_FQBN_VALUE"
        | "IPSEC_SECURITY_REALM_ID"
        | "PEER_NAME" => DataType::ByteBlob,
        "ALE_USER_ID" | "ALE_REMOTE_USER_ID" | "ALE_REMOTE_MACHINE_ID" => DataType::TokenAccessInformation,
        "ALE_PACKAGE_ID" => DataType::Sid,
        "INTERFACE_QUARANTINE_EPOCH" => DataType::Uint64,
        "IP_PROTOCOL" | "EMBEDDED_PROTOCOL" => DataType::Uint8,
        "ICMP_TYPE" | "ICMP_CODE" | "ORIGINAL_ICMP_TYPE" => DataType::Uint16,
        _ if name.starts_with("RESERVED_") => DataType::Empty,
        _ if name.ends_with("_ADDRESS_TYPE") => DataType::Uint8,
        _ if name.ends_with("_PORT") && name != "SIO_FIREWALL_SYSTEM_PORT" => DataType::Uint16,
        // A locally unique identifier of an interface, by name IP_..._INTERFACE.
        _ if name.starts_with("IP_") && name.ends_with("_INTERFACE") => DataType::Uint64,
        _ if name.ends_with("_ADDRESS") => {
            if v6 {
                DataType::ByteArray16
            } else {
                DataType::Uint32
            }
        }
        _ => DataType::Uint32,
    };
    Field { key, kind, data_type }
}
