//! One classification, as safe code reads it.
//!
//! A thunk makes a [`Classify`] from what the filter engine passes and lends it to the handler of the layer; from
//! there on there is no pointer to follow. Every read asks first whether the value is there: the field's index
//! against `valueCount`, the value's type, the metadata's presence bit. What is not there is `None`, EMPTY fields on
//! reauthorization included.
//!
//! IRQL <= DISPATCH_LEVEL. Nothing is copied but what is asked for, and nothing outlives the classification.
//!
//! Documentation: "Data Field Identifiers", "Filtering conditions available at each filtering layer", "Metadata
//! fields at each filtering layer", "Data offset positions".

use core::ffi::c_void;
use core::ptr::NonNull;

use super::layer::Layer;
use crate::flow::{Address, Key};
use crate::policy::{App, Direction, Family, Tuple};
use crate::sys::fwp::{
    self, FWP_BYTE_ARRAY16_TYPE, FWP_BYTE_BLOB, FWP_BYTE_BLOB_TYPE, FWP_DATA_TYPE, FWP_UINT8, FWP_UINT16,
    FWP_UINT32, FWP_VALUE0, FWPS_FILTER3, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUE0,
    FWPS_INCOMING_VALUES0,
};

/// Where `FirstNetBuffer` lies in a NET_BUFFER_LIST, and the members of a NET_BUFFER that are read. The list's size
/// differs between NDIS versions; these places do not.
const FIRST_NET_BUFFER: usize = 8;
const NEXT: usize = 0;
const DATA_LENGTH: usize = 24;

/// The most buffers of one list that are looked at: what a callback does is bounded. More than a list ever has.
const MAX_NET_BUFFERS: u32 = 65_536;

/// The values of one classification.
pub struct Classify<'a> {
    layer: &'static Layer,
    values: &'a [FWPS_INCOMING_VALUE0],
    metadata: &'a FWPS_INCOMING_METADATA_VALUES0,
    packet: Option<NonNull<c_void>>,
}

/// What a net buffer list carries: how many buffers, and the bytes from the data position on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub packets: u32,
    pub bytes: u64,
}

impl<'a> Classify<'a> {
    /// The view of a classification at `layer`; `None` if the engine passed something else than a classification
    /// there.
    ///
    /// # Safety
    /// The pointers are those that the filter engine passed to a classifyFn that has not returned during `'a`:
    /// NULL, or valid as documented for the layer. `layer_data` is NULL or a NET_BUFFER_LIST.
    pub unsafe fn from_raw(
        layer: &'static Layer,
        values: *const FWPS_INCOMING_VALUES0,
        metadata: *const FWPS_INCOMING_METADATA_VALUES0,
        layer_data: *mut c_void,
    ) -> Option<Self> {
        // SAFETY: NULL or valid for the call (contract).
        let values = unsafe { values.as_ref() }?;
        // SAFETY: as above.
        let metadata = unsafe { metadata.as_ref() }?;
        if values.layerId != layer.id {
            return None;
        }
        let count = usize::try_from(values.valueCount).ok()?;
        let first = NonNull::new(values.incomingValue)?;
        // SAFETY: the engine passes `valueCount` values there (contract).
        let values = unsafe { NonNull::slice_from_raw_parts(first, count).as_ref() };
        Some(Self { layer, values, metadata, packet: NonNull::new(layer_data) })
    }

    /// The layer.
    pub const fn layer(&self) -> &'static Layer {
        self.layer
    }

    /// What the policy looks at. Ports of protocols that have none are not ports (ICMP's type and code stand in
    /// their place), which the policy knows.
    pub fn tuple(&self, direction: Direction) -> Tuple<'a> {
        let fields = &self.layer.fields;
        Tuple {
            direction,
            family: self.layer.family,
            protocol: self.uint8(fields.protocol),
            local: self.address(fields.local_address),
            remote: self.address(fields.remote_address),
            local_port: self.uint16(fields.local_port),
            remote_port: self.uint16(fields.remote_port),
            app: fields.app.and_then(|app| self.app(app)),
        }
    }

    /// What tells the connection from others, at a layer that does not decide. What is EMPTY counts as zero.
    pub fn key(&self) -> Key {
        let fields = &self.layer.fields;
        Key {
            family: self.layer.family,
            protocol: self.uint8(fields.protocol).unwrap_or_default(),
            local: self.address(fields.local_address).unwrap_or_default(),
            remote: self.address(fields.remote_address).unwrap_or_default(),
            local_port: self.uint16(fields.local_port).unwrap_or_default(),
            remote_port: self.uint16(fields.remote_port).unwrap_or_default(),
        }
    }

    /// `FWP_CONDITION_FLAG_*`; none where the field is EMPTY.
    pub fn flags(&self) -> u32 {
        self.uint32(self.layer.fields.flags).unwrap_or_default()
    }

    /// Whether a connection that was decided on before is decided on again.
    pub fn is_reauthorization(&self) -> bool {
        self.flags() & fwp::FWP_CONDITION_FLAG_IS_REAUTHORIZE != 0
    }

    /// The flow's run-time identifier; never zero.
    pub fn flow(&self) -> Option<u64> {
        self.present(fwp::FWPS_METADATA_FIELD_FLOW_HANDLE, self.metadata.flowHandle).filter(|flow| *flow != 0)
    }

    /// The transport endpoint; never zero.
    pub fn endpoint(&self) -> Option<u64> {
        self.present(
            fwp::FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE,
            self.metadata.transportEndpointHandle,
        )
        .filter(|endpoint| *endpoint != 0)
    }

    /// Bytes of the transport header before an inbound layer's data position; none where the layer does not say.
    pub fn transport_header_size(&self) -> u32 {
        self.present(fwp::FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE, self.metadata.transportHeaderSize)
            .unwrap_or_default()
    }

    /// Which way the indicated packet goes; on reauthorization it may be against the layer's direction.
    pub fn packet_direction(&self) -> Option<Direction> {
        match self.present(fwp::FWPS_METADATA_FIELD_PACKET_DIRECTION, self.metadata.packetDirection)? {
            fwp::FWP_DIRECTION_OUTBOUND => Some(Direction::Out),
            fwp::FWP_DIRECTION_INBOUND => Some(Direction::In),
            _ => None,
        }
    }

    /// What the classified net buffer list carries, from the layer's data position on: of an outbound packet the
    /// transport header and the data, of an inbound one the data alone.
    pub fn carried(&self) -> Carried {
        let mut carried = Carried::default();
        let Some(list) = self.packet else { return carried };
        // SAFETY: a NET_BUFFER_LIST (contract of `from_raw`), whose head reaches further than this.
        let first = unsafe { list.byte_add(FIRST_NET_BUFFER) };
        // SAFETY: NULL or the list's first NET_BUFFER.
        let mut next = unsafe { first.cast::<*mut c_void>().read() };
        while let Some(buffer) = NonNull::new(next) {
            if carried.packets == MAX_NET_BUFFERS {
                break;
            }
            // SAFETY: inside the NET_BUFFER.
            let length = unsafe { buffer.byte_add(DATA_LENGTH) };
            // SAFETY: its ULONG DataLength.
            let length = unsafe { length.cast::<u32>().read() };
            carried.packets = carried.packets.saturating_add(1);
            carried.bytes = carried.bytes.saturating_add(u64::from(length));
            // SAFETY: inside the NET_BUFFER.
            let link = unsafe { buffer.byte_add(NEXT) };
            // SAFETY: NULL or the next NET_BUFFER of the list.
            next = unsafe { link.cast::<*mut c_void>().read() };
        }
        carried
    }

    /// As [`Classify::carried`] at an inbound layer, with the transport headers that the data position is behind.
    pub fn carried_inbound(&self) -> Carried {
        let Carried { packets, bytes } = self.carried();
        let headers = u64::from(packets).saturating_mul(u64::from(self.transport_header_size()));
        Carried { packets, bytes: bytes.saturating_add(headers) }
    }

    fn present<T>(&self, bit: u32, value: T) -> Option<T> {
        (self.metadata.currentMetadataValues & bit != 0).then_some(value)
    }

    fn value(&self, index: usize, type_: FWP_DATA_TYPE) -> Option<&'a FWP_VALUE0> {
        let value = &self.values.get(index)?.value;
        (value.type_ == type_).then_some(value)
    }

    fn uint8(&self, index: usize) -> Option<u8> {
        let value = self.value(index, FWP_UINT8)?;
        // SAFETY: the type says which member it is.
        Some(unsafe { value.u.uint8 })
    }

    fn uint16(&self, index: usize) -> Option<u16> {
        let value = self.value(index, FWP_UINT16)?;
        // SAFETY: the type says which member it is.
        Some(unsafe { value.u.uint16 })
    }

    fn uint32(&self, index: usize) -> Option<u32> {
        let value = self.value(index, FWP_UINT32)?;
        // SAFETY: the type says which member it is.
        Some(unsafe { value.u.uint32 })
    }

    /// An address in network byte order. The engine gives IPv4 in host order, IPv6 by pointer in network order.
    fn address(&self, index: usize) -> Option<Address> {
        match self.layer.family {
            Family::V4 => {
                let mut address = Address::default();
                let (v4, _) = address.split_first_chunk_mut()?;
                *v4 = self.uint32(index)?.to_be_bytes();
                Some(address)
            }
            Family::V6 => {
                let value = self.value(index, FWP_BYTE_ARRAY16_TYPE)?;
                // SAFETY: the type says which member it is.
                let bytes = NonNull::new(unsafe { value.u.byteArray16 })?;
                // SAFETY: the engine's, for the length of the classification (contract).
                Some(unsafe { bytes.as_ref() }.byteArray16)
            }
        }
    }

    fn app(&self, index: usize) -> Option<App<'a>> {
        let value = self.value(index, FWP_BYTE_BLOB_TYPE)?;
        // SAFETY: the type says which member it is.
        let blob = NonNull::new(unsafe { value.u.byteBlob })?;
        // SAFETY: the engine's, for the length of the classification (contract).
        let blob: &'a FWP_BYTE_BLOB = unsafe { blob.as_ref() };
        let data = NonNull::new(blob.data)?;
        let bytes = NonNull::slice_from_raw_parts(data, usize::try_from(blob.size).ok()?);
        // SAFETY: the blob's own bytes, as long as the blob.
        App::from_utf16le(unsafe { bytes.as_ref() })
    }
}

/// The flags of the filter that called, `FWPS_FILTER_FLAG_*`.
///
/// # Safety
/// `filter` is NULL or what the engine passed to a classifyFn that has not returned.
pub unsafe fn filter_flags(filter: *const FWPS_FILTER3) -> u16 {
    // SAFETY: NULL or valid (contract).
    unsafe { filter.as_ref() }.map_or(0, |filter| filter.flags)
}
