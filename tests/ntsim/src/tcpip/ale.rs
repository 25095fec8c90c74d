//! The values and metadata of each layer, as the pages "Filtering conditions available at each filtering layer" and
//! "Metadata fields at each filtering layer" have them: IPv4 addresses and ports in host order, IPv6 addresses as
//! bytes in network order; for ICMP the type stands in the local port's place, the code in the remote port's.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::net::IpAddr;

use super::buffer::PacketBuffer;
use super::table::{Direction, Endpoints, Entry};
use super::{IPPROTO_TCP, Identity, Packet, token};
use crate::sys::fwp::field;
#[allow(clippy::wildcard_imports, reason = "the constants of six layers and their metadata")]
use crate::sys::fwp::*;
use crate::sys::nt::{DISPATCH_LEVEL, PASSIVE_LEVEL};
use crate::wfp::{self, ClassifyRequest};

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;

// NL_ADDRESS_TYPE (nldef.h).
const NL_UNICAST: u8 = 1;
const NL_MULTICAST: u8 = 3;
const NL_BROADCAST: u8 = 4;

/// Whether an address is a group's: multicast, or IPv4's limited broadcast.
pub(super) fn is_group(address: IpAddr) -> bool {
    address_type(address) != NL_UNICAST
}

fn address_type(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => NL_BROADCAST,
        address if address.is_multicast() => NL_MULTICAST,
        _ => NL_UNICAST,
    }
}

fn uint8(value: u8) -> FWPS_INCOMING_VALUE0 {
    FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { type_: FWP_UINT8, u: FWP_VALUE0_U { uint8: value } } }
}

fn uint16(value: u16) -> FWPS_INCOMING_VALUE0 {
    FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { type_: FWP_UINT16, u: FWP_VALUE0_U { uint16: value } } }
}

fn uint32(value: u32) -> FWPS_INCOMING_VALUE0 {
    FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { type_: FWP_UINT32, u: FWP_VALUE0_U { uint32: value } } }
}

/// What the values of one classification point at.
struct Pointees {
    local: FWP_BYTE_ARRAY16,
    remote: FWP_BYTE_ARRAY16,
    application: Option<(Arc<[u16]>, FWP_BYTE_BLOB)>,
    user: Option<Box<token::AccessInformation>>,
    luid: u64,
}

/// The field indexes that the layers share in meaning, not in place. `usize::MAX` where a layer lacks one.
struct Places {
    application: usize,
    user: usize,
    protocol: usize,
    local: usize,
    local_type: usize,
    local_port: usize,
    remote: usize,
    remote_type: usize,
    remote_port: usize,
    interface: usize,
    interface_index: usize,
    interface_type: usize,
    flags: usize,
    direction: usize,
    count: usize,
}

const NONE: usize = usize::MAX;

/// What every layer in use has.
macro_rules! places {
    ($layer:ident, $($place:ident: $index:ident),*) => {{
        let mut places = Places {
            application: NONE,
            user: NONE,
            protocol: field::$layer::IP_PROTOCOL,
            local: field::$layer::IP_LOCAL_ADDRESS,
            local_type: field::$layer::IP_LOCAL_ADDRESS_TYPE,
            local_port: field::$layer::IP_LOCAL_PORT,
            remote: field::$layer::IP_REMOTE_ADDRESS,
            remote_type: NONE,
            remote_port: field::$layer::IP_REMOTE_PORT,
            interface: field::$layer::IP_LOCAL_INTERFACE,
            interface_index: NONE,
            interface_type: NONE,
            flags: field::$layer::FLAGS,
            direction: NONE,
            count: field::$layer::COUNT,
        };
        $(places.$place = field::$layer::$index;)*
        places
    }};
}

const AUTH_CONNECT: Places = places!(ale_auth_connect,
    application: ALE_APP_ID, user: ALE_USER_ID, remote_type: IP_DESTINATION_ADDRESS_TYPE,
    interface_index: INTERFACE_INDEX, interface_type: INTERFACE_TYPE);
const AUTH_RECV_ACCEPT: Places = places!(ale_auth_recv_accept,
    application: ALE_APP_ID, user: ALE_USER_ID, interface_index: INTERFACE_INDEX, interface_type: INTERFACE_TYPE);
const FLOW_ESTABLISHED: Places = places!(ale_flow_established,
    application: ALE_APP_ID, user: ALE_USER_ID, remote_type: IP_DESTINATION_ADDRESS_TYPE,
    interface_type: INTERFACE_TYPE, direction: DIRECTION);
const ENDPOINT_CLOSURE: Places = places!(ale_endpoint_closure, application: ALE_APP_ID, user: ALE_USER_ID);
const INBOUND_TRANSPORT: Places = places!(inbound_transport,
    interface_index: INTERFACE_INDEX, interface_type: INTERFACE_TYPE);
const OUTBOUND_TRANSPORT: Places = places!(outbound_transport,
    remote_type: IP_DESTINATION_ADDRESS_TYPE, interface_index: INTERFACE_INDEX, interface_type: INTERFACE_TYPE);

/// The most fields that a layer in use has.
const MOST_FIELDS: usize = field::ale_auth_connect::COUNT;

/// Shows classifications to the filter engine.
pub(super) struct Ale {
    values: [FWPS_INCOMING_VALUE0; MOST_FIELDS],
    pointees: Box<Pointees>,
    buffer: PacketBuffer,
}

impl Ale {
    pub fn new() -> Self {
        Self {
            values: [FWPS_INCOMING_VALUE0::ZERO; MOST_FIELDS],
            pointees: Box::new(Pointees {
                local: FWP_BYTE_ARRAY16::ZERO,
                remote: FWP_BYTE_ARRAY16::ZERO,
                application: None,
                user: None,
                luid: 0,
            }),
            buffer: PacketBuffer::new(),
        }
    }

    /// ALE_AUTH_CONNECT or ALE_AUTH_RECV_ACCEPT; true if the connection is permitted.
    pub fn authorize(&mut self, entry: &Entry, packet: &Packet<'_>) -> bool {
        let mut metadata = Self::metadata(entry);
        metadata.currentMetadataValues |=
            FWPS_METADATA_FIELD_PACKET_DIRECTION | FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
        metadata.transportHeaderSize = packet.transport_header_len;
        match entry.connection.direction {
            Direction::Outbound => {
                metadata.packetDirection = FWP_DIRECTION_OUTBOUND;
                // A TCP connect has no packet yet (page "Data offset positions").
                let list = if packet.protocol == IPPROTO_TCP {
                    core::ptr::null_mut()
                } else {
                    self.buffer.list(packet.data, packet.transport_len)
                };
                let layer = pair(entry, FWPS_LAYER_ALE_AUTH_CONNECT_V4, FWPS_LAYER_ALE_AUTH_CONNECT_V6);
                self.classify(layer, &AUTH_CONNECT, entry, packet.icmp, &mut metadata, list, PASSIVE_LEVEL)
            }
            Direction::Inbound => {
                metadata.packetDirection = FWP_DIRECTION_INBOUND;
                metadata.currentMetadataValues |= FWPS_METADATA_FIELD_IP_HEADER_SIZE;
                metadata.ipHeaderSize = packet.ip_header_len;
                let list = self.payload(packet);
                let layer =
                    pair(entry, FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4, FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V6);
                self.classify(
                    layer,
                    &AUTH_RECV_ACCEPT,
                    entry,
                    packet.icmp,
                    &mut metadata,
                    list,
                    DISPATCH_LEVEL,
                )
            }
        }
    }

    /// ALE_FLOW_ESTABLISHED, which never blocks (wfp.md, page "ALE layers": filters here must not).
    pub fn flow_established(&mut self, entry: &Entry) {
        let layer = pair(entry, FWPS_LAYER_ALE_FLOW_ESTABLISHED_V4, FWPS_LAYER_ALE_FLOW_ESTABLISHED_V6);
        let list = core::ptr::null_mut();
        let icmp = entry.connection.endpoints.icmp;
        self.classify(
            layer,
            &FLOW_ESTABLISHED,
            entry,
            icmp,
            &mut Self::metadata(entry),
            list,
            DISPATCH_LEVEL,
        );
    }

    /// ALE_ENDPOINT_CLOSURE. Its metadata has no flow handle, only the endpoint's.
    pub fn endpoint_closure(&mut self, entry: &Entry) {
        let layer = pair(entry, FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V4, FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V6);
        let mut metadata = Self::metadata(entry);
        metadata.currentMetadataValues &= !FWPS_METADATA_FIELD_FLOW_HANDLE;
        metadata.flowHandle = 0;
        let list = core::ptr::null_mut();
        let icmp = entry.connection.endpoints.icmp;
        self.classify(layer, &ENDPOINT_CLOSURE, entry, icmp, &mut metadata, list, DISPATCH_LEVEL);
    }

    /// INBOUND_TRANSPORT; true if the packet is let through. `first`: it will visit ALE_AUTH_RECV_ACCEPT too.
    pub fn inbound_transport(&mut self, entry: &Entry, packet: &Packet<'_>, first: bool) -> bool {
        let layer = pair(entry, FWPS_LAYER_INBOUND_TRANSPORT_V4, FWPS_LAYER_INBOUND_TRANSPORT_V6);
        if !wfp::layer_has_filters(layer) {
            return true;
        }
        let mut metadata = Self::transport_metadata(entry, packet);
        metadata.currentMetadataValues |= FWPS_METADATA_FIELD_IP_HEADER_SIZE;
        metadata.ipHeaderSize = packet.ip_header_len;
        if first {
            metadata.currentMetadataValues |= FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED;
        }
        let list = self.payload(packet);
        self.classify(layer, &INBOUND_TRANSPORT, entry, packet.icmp, &mut metadata, list, DISPATCH_LEVEL)
    }

    /// OUTBOUND_TRANSPORT; true if the packet is let through.
    pub fn outbound_transport(&mut self, entry: &Entry, packet: &Packet<'_>) -> bool {
        let layer = pair(entry, FWPS_LAYER_OUTBOUND_TRANSPORT_V4, FWPS_LAYER_OUTBOUND_TRANSPORT_V6);
        if !wfp::layer_has_filters(layer) {
            return true;
        }
        let mut metadata = Self::transport_metadata(entry, packet);
        // The data starts at the transport header (page "Data offset positions").
        let list = self.buffer.list(packet.data, packet.transport_len);
        self.classify(layer, &OUTBOUND_TRANSPORT, entry, packet.icmp, &mut metadata, list, DISPATCH_LEVEL)
    }

    /// The packet from behind its transport header on: where the data of the inbound layers starts.
    fn payload(&mut self, packet: &Packet<'_>) -> *mut core::ffi::c_void {
        let header = packet.transport_header_len as usize;
        self.buffer.list(
            packet.data.get(header..).unwrap_or_default(),
            packet.transport_len.saturating_sub(packet.transport_header_len),
        )
    }

    /// What every layer tells of a connection.
    fn metadata(entry: &Entry) -> FWPS_INCOMING_METADATA_VALUES0 {
        let mut metadata = FWPS_INCOMING_METADATA_VALUES0::ZERO;
        metadata.currentMetadataValues = FWPS_METADATA_FIELD_FLOW_HANDLE
            | FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE
            | FWPS_METADATA_FIELD_COMPARTMENT_ID;
        metadata.flowHandle = entry.flow.id();
        // An endpoint of its own for each connection; any value that is unique will do.
        metadata.transportEndpointHandle = entry.serial;
        metadata.compartmentId = 1;
        metadata
    }

    fn transport_metadata(entry: &Entry, packet: &Packet<'_>) -> FWPS_INCOMING_METADATA_VALUES0 {
        let mut metadata = Self::metadata(entry);
        metadata.currentMetadataValues |= FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
        metadata.transportHeaderSize = packet.transport_header_len;
        metadata
    }

    #[expect(clippy::too_many_arguments, reason = "what one classification is made of")]
    fn classify(
        &mut self,
        layer: u16,
        places: &Places,
        entry: &Entry,
        icmp: (u8, u8),
        metadata: &mut FWPS_INCOMING_METADATA_VALUES0,
        layer_data: *mut core::ffi::c_void,
        irql: u8,
    ) -> bool {
        if !wfp::layer_has_filters(layer) {
            return true;
        }
        self.fill(places, entry, icmp);
        let outcome = wfp::classify(ClassifyRequest {
            layer,
            values: &mut self.values[..places.count],
            metadata,
            layer_data,
            flow: Some(&entry.flow),
            irql,
        });
        outcome.action != FWP_ACTION_BLOCK
    }

    fn fill(&mut self, places: &Places, entry: &Entry, icmp: (u8, u8)) {
        let Endpoints { protocol, local, remote, local_port, remote_port, .. } = entry.connection.endpoints;
        let (local_slot, remote_slot) = match protocol {
            IPPROTO_ICMP | IPPROTO_ICMPV6 => (icmp.0.into(), icmp.1.into()),
            _ => (local_port, remote_port),
        };
        self.values[..places.count].fill(FWPS_INCOMING_VALUE0::ZERO);
        let values = &mut self.values;
        let pointees = &mut *self.pointees;
        let mut set = |place: usize, value: FWPS_INCOMING_VALUE0| {
            if place != NONE {
                values[place] = value;
            }
        };
        set(places.protocol, uint8(protocol));
        set(places.local, address(local, &mut pointees.local));
        set(places.local_type, uint8(address_type(local)));
        set(places.local_port, uint16(local_slot));
        set(places.remote, address(remote, &mut pointees.remote));
        set(places.remote_type, uint8(address_type(remote)));
        set(places.remote_port, uint16(remote_slot));
        let loopback = local.is_loopback() || local == remote;
        set(places.flags, uint32(if loopback { FWP_CONDITION_FLAG_IS_LOOPBACK } else { 0 }));
        set(
            places.direction,
            uint32(match entry.connection.direction {
                Direction::Outbound => FWP_DIRECTION_OUTBOUND.cast_unsigned(),
                Direction::Inbound => FWP_DIRECTION_INBOUND.cast_unsigned(),
            }),
        );
        let Identity { application, user, interface } = &entry.identity;
        if let Some(interface) = interface {
            pointees.luid = interface.luid;
            set(
                places.interface,
                FWPS_INCOMING_VALUE0 {
                    value: FWP_VALUE0 {
                        type_: FWP_UINT64,
                        u: FWP_VALUE0_U { uint64: &raw mut pointees.luid },
                    },
                },
            );
            set(places.interface_index, uint32(interface.index));
            set(places.interface_type, uint32(interface.kind));
        }
        if places.application != NONE {
            pointees.application = application.clone().map(|path| {
                let blob = FWP_BYTE_BLOB {
                    size: u32::try_from(path.len() * 2).unwrap_or(u32::MAX),
                    data: path.as_ptr().cast_mut().cast(),
                };
                (path, blob)
            });
            if let Some((_, blob)) = &mut pointees.application {
                set(
                    places.application,
                    FWPS_INCOMING_VALUE0 {
                        value: FWP_VALUE0 { type_: FWP_BYTE_BLOB_TYPE, u: FWP_VALUE0_U { byteBlob: blob } },
                    },
                );
            }
            pointees.user = user.clone().map(token::AccessInformation::new);
            if let Some(user) = &mut pointees.user {
                set(
                    places.user,
                    FWPS_INCOMING_VALUE0 {
                        value: FWP_VALUE0 {
                            type_: FWP_TOKEN_ACCESS_INFORMATION_TYPE,
                            u: FWP_VALUE0_U { tokenAccessInformation: user.blob() },
                        },
                    },
                );
            }
        }
    }
}

/// The layer of the connection's family.
fn pair(entry: &Entry, v4: u16, v6: u16) -> u16 {
    if entry.connection.endpoints.local.is_ipv4() { v4 } else { v6 }
}

fn address(address: IpAddr, bytes: &mut FWP_BYTE_ARRAY16) -> FWPS_INCOMING_VALUE0 {
    match address {
        IpAddr::V4(v4) => uint32(v4.to_bits()),
        IpAddr::V6(v6) => {
            bytes.byteArray16 = v6.octets();
            FWPS_INCOMING_VALUE0 {
                value: FWP_VALUE0 { type_: FWP_BYTE_ARRAY16_TYPE, u: FWP_VALUE0_U { byteArray16: bytes } },
            }
        }
    }
}
