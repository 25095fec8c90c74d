//! What the tests of the driver share: a machine with the driver in it, what the driver tells, and the TCP/IP stack's
//! part of a connection, classification by classification.
//!
//! The values and metadata are written from the documentation ("Filtering conditions available at each filtering
//! layer", "Metadata fields at each filtering layer", "Data offset positions"), not from the driver's own table.
#![allow(dead_code, reason = "each test program uses its part")]

use std::any::Any;
use std::ffi::c_void;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ntsim::registry::Value as Registry;
use ntsim::security::Descriptor;
#[allow(clippy::wildcard_imports, reason = "the constants of six layers")]
use ntsim::sys::fwp::*;
use ntsim::sys::nt::{DISPATCH_LEVEL, GUID, HANDLE, NTSTATUS, PASSIVE_LEVEL};
use ntsim::wfp::{ClassifyRequest, FlowRef, Outcome, flow_create, flow_end};
use weir::control::protocol::noise::Keys;
use weir::trace::events::Value;
use weir::trace::{Event, Keywords, Level, sink};

pub const PARAMETERS: &str = "\\Registry\\Machine\\SYSTEM\\CurrentControlSet\\Services\\weir\\Parameters";

/// The private key of the peer `root`.
pub const OPERATOR: [u8; 32] = [0x01; 32];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;

/// An event, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub name: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl Told {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Vec::new();
        event.fields(|name, value| {
            let text = match value {
                Value::Bool(it) => it.to_string(),
                Value::Unsigned(it) => it.to_string(),
                Value::NtStatus(it) => it.to_string(),
                Value::Guid(it) => it.to_string(),
                Value::Address(it) => it.to_string(),
                Value::Bytes(it) => it.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
                Value::Text(it) | Value::Named(_, it) => it.to_owned(),
                Value::Wide(it) => String::from_utf16_lossy(it),
            };
            fields.push((name, text));
        });
        Self { name: event.name(), fields }
    }

    #[track_caller]
    pub fn text(&self, field: &str) -> &str {
        let found = self.fields.iter().find(|(name, _)| *name == field);
        found.map_or_else(|| panic!("{} has no field {field}", self.name), |(_, text)| text)
    }

    #[track_caller]
    pub fn number(&self, field: &str) -> u64 {
        self.text(field).parse().unwrap_or_else(|_| panic!("{}.{field} is no number: {self:?}", self.name))
    }
}

/// What the driver has told so far.
#[derive(Clone, Default)]
pub struct Events(Arc<(Mutex<Vec<Told>>, Condvar)>);

impl Events {
    fn lock(&self) -> MutexGuard<'_, Vec<Told>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn all(&self) -> Vec<Told> {
        self.lock().clone()
    }

    pub fn named(&self, name: &str) -> Vec<Told> {
        self.lock().iter().filter(|told| told.name == name).cloned().collect()
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Keeps whoever tells something waiting for as long as the guard lives.
    pub fn hold(&self) -> MutexGuard<'_, Vec<Told>> {
        self.lock()
    }

    /// The first `count` events of that name; waits for them.
    #[track_caller]
    pub fn wait_for(&self, name: &str, count: usize) -> Vec<Told> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut told = self.lock();
        loop {
            let found: Vec<Told> =
                told.iter().filter(|told| told.name == name).take(count).cloned().collect();
            if found.len() == count {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{count} × {name} did not come: {told:#?}");
            told = self.0.1.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A booted machine, and the driver once it is loaded. Fields are dropped in this order.
pub struct Machine {
    driver: Option<ntsim::Driver>,
    _sink: sink::Installed,
    pub events: Events,
    pub sim: ntsim::Sim,
}

impl Machine {
    pub fn boot() -> Self {
        Self::boot_with(ntsim::Config::default())
    }

    /// A machine whose service key asks for no control socket, and has no policy.
    pub fn boot_with(config: ntsim::Config) -> Self {
        let sim = ntsim::boot(config);
        let events = Events::default();
        let sink = sink::install(Level::Verbose, Keywords::all(), {
            let events = events.clone();
            move |event| {
                let told = Told::of(event);
                events.lock().push(told);
                events.0.1.notify_all();
            }
        });
        let machine = Self { driver: None, _sink: sink, events, sim };
        machine.set("ControlListen", Registry::Sz(String::new()));
        machine
    }

    pub fn set(&self, name: &str, value: Registry) {
        self.sim.registry().set(PARAMETERS, name, value);
    }

    /// Gives the driver a key that only the system can read, and a peer `root` that may do everything.
    pub fn key(&self) {
        let registry = self.sim.registry();
        let key = format!("{PARAMETERS}\\Key");
        registry.set(&key, "PrivateKey", Registry::Binary(vec![0xD0; 32]));
        assert!(registry.set_security(&key, Descriptor::closed().bytes()));
        let operator = Keys::new(&OPERATOR);
        self.set("ControlPeers", Registry::MultiSz(vec![format!("root=operator:{}", operator.public())]));
    }

    /// Compiles a policy and puts it into the registry.
    #[track_caller]
    pub fn policy(&self, text: &str) {
        let compiled = weir_cli::policy::compile(text).expect("the policy compiles");
        self.set("PolicyImage", Registry::Binary(compiled.image));
    }

    /// Loads the driver.
    pub fn load(&mut self) -> Result<(), NTSTATUS> {
        self.driver = Some(self.sim.load_driver("weir", weir::DriverEntry)?);
        Ok(())
    }

    /// A machine with the driver running, by this policy.
    #[track_caller]
    pub fn running(policy: &str) -> Self {
        let mut machine = Self::boot();
        machine.policy(policy);
        machine.load().expect("the driver starts");
        machine
    }

    pub fn unload(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.unload();
        }
    }

    /// Unloads the driver, and holds the verifier's report against "nothing".
    #[track_caller]
    pub fn finish(mut self) -> Events {
        self.unload();
        self.assert_clean();
        self.events.clone()
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        let report = self.sim.report();
        assert!(report.is_clean(), "{report}\ntold: {:#?}", self.events.all());
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    U8(u8),
    U16(u16),
    U32(u32),
    Address(IpAddr),
    /// An application's path.
    App(&'a str),
}

/// One classification, as the stack prepares it. Fields that are not set are EMPTY.
pub struct Classification {
    layer: u16,
    values: Vec<FWPS_INCOMING_VALUE0>,
    pub metadata: FWPS_INCOMING_METADATA_VALUES0,
    pub irql: u8,
    packet: Option<Packet>,
    pointees: Vec<Box<dyn Any>>,
}

impl Classification {
    pub fn new(layer: u16, fields: usize) -> Self {
        Self {
            layer,
            values: vec![FWPS_INCOMING_VALUE0::ZERO; fields],
            metadata: FWPS_INCOMING_METADATA_VALUES0::ZERO,
            irql: DISPATCH_LEVEL,
            packet: None,
            pointees: Vec::new(),
        }
    }

    fn keep<T: 'static>(&mut self, pointee: T) -> *mut T {
        let mut pointee = Box::new(pointee);
        let address = &raw mut *pointee;
        self.pointees.push(pointee);
        address
    }

    pub fn set(&mut self, index: usize, field: Field<'_>) -> &mut Self {
        let (type_, u) = match field {
            Field::U8(it) => (FWP_UINT8, FWP_VALUE0_U { uint8: it }),
            Field::U16(it) => (FWP_UINT16, FWP_VALUE0_U { uint16: it }),
            Field::U32(it) => (FWP_UINT32, FWP_VALUE0_U { uint32: it }),
            // Host order.
            Field::Address(IpAddr::V4(it)) => (FWP_UINT32, FWP_VALUE0_U { uint32: it.to_bits() }),
            Field::Address(IpAddr::V6(it)) => {
                let bytes = self.keep(FWP_BYTE_ARRAY16 { byteArray16: it.octets() });
                (FWP_BYTE_ARRAY16_TYPE, FWP_VALUE0_U { byteArray16: bytes })
            }
            Field::App(path) => {
                let units: Vec<u16> = path.encode_utf16().chain([0]).collect();
                let blob = FWP_BYTE_BLOB {
                    size: u32::try_from(units.len() * 2).unwrap(),
                    data: units.as_ptr().cast_mut().cast(),
                };
                self.pointees.push(Box::new(units));
                (FWP_BYTE_BLOB_TYPE, FWP_VALUE0_U { byteBlob: self.keep(blob) })
            }
        };
        self.values[index] = FWPS_INCOMING_VALUE0 { value: FWP_VALUE0 { type_, u } };
        self
    }

    pub fn clear(&mut self, index: usize) -> &mut Self {
        self.values[index] = FWPS_INCOMING_VALUE0::ZERO;
        self
    }

    /// Only the first `count` values, as an older Windows has them.
    pub fn truncate(&mut self, count: usize) -> &mut Self {
        self.values.truncate(count);
        self
    }

    pub fn packet(&mut self, buffers: &[u32]) -> &mut Self {
        self.packet = Some(Packet::new(buffers));
        self
    }

    pub fn run(&mut self, flow: Option<&FlowRef>) -> Outcome {
        let layer_data = self.packet.as_mut().map_or(std::ptr::null_mut(), Packet::list);
        ntsim::wfp::classify(ClassifyRequest {
            layer: self.layer,
            values: &mut self.values,
            metadata: &mut self.metadata,
            layer_data,
            flow,
            irql: self.irql,
        })
    }
}

/// The members of NET_BUFFER_LIST and NET_BUFFER that a callout may look at, at their places.
#[repr(C, align(16))]
struct NetBufferList {
    next: *mut c_void,
    first: *mut NetBuffer,
    rest: [u64; 44],
}

#[repr(C, align(16))]
#[derive(Clone)]
struct NetBuffer {
    next: *mut NetBuffer,
    current_mdl: *mut c_void,
    current_mdl_offset: u64,
    data_length: u32,
    // The upper half of stDataLength.
    upper: u32,
    rest: [u64; 18],
}

const _: () = assert!(size_of::<NetBufferList>() == 368 && size_of::<NetBuffer>() == 176);
const _: () = assert!(std::mem::offset_of!(NetBufferList, first) == 8);
const _: () = assert!(std::mem::offset_of!(NetBuffer, data_length) == 24);

/// A net buffer list with a buffer of each length.
pub struct Packet {
    list: Box<NetBufferList>,
    buffers: Vec<NetBuffer>,
}

impl Packet {
    fn new(lengths: &[u32]) -> Self {
        let buffers = lengths
            .iter()
            .map(|&length| NetBuffer {
                next: std::ptr::null_mut(),
                current_mdl: std::ptr::null_mut(),
                current_mdl_offset: 0,
                data_length: length,
                upper: 0,
                rest: [0; 18],
            })
            .collect();
        let list = NetBufferList { next: std::ptr::null_mut(), first: std::ptr::null_mut(), rest: [0; 44] };
        Self { list: Box::new(list), buffers }
    }

    fn list(&mut self) -> *mut c_void {
        let mut next = std::ptr::null_mut();
        for buffer in self.buffers.iter_mut().rev() {
            buffer.next = next;
            next = buffer;
        }
        self.list.first = next;
        (&raw mut *self.list).cast()
    }
}

/// The stack's side of one connection.
pub struct Peer {
    pub protocol: u8,
    pub local: IpAddr,
    pub local_port: u16,
    pub remote: IpAddr,
    pub remote_port: u16,
    pub app: Option<String>,
    pub flow: FlowRef,
    pub endpoint: u64,
}

static ENDPOINTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl Peer {
    /// A connection from `local` to `remote`, or the other way round: `ADDRESS PORT` each.
    pub fn new(protocol: u8, local: &str, local_port: u16, remote: &str, remote_port: u16) -> Self {
        Self {
            protocol,
            local: local.parse().unwrap(),
            local_port,
            remote: remote.parse().unwrap(),
            remote_port,
            app: None,
            flow: flow_create(),
            endpoint: ENDPOINTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        }
    }

    fn pair(&self, v4: u16, v6: u16) -> u16 {
        if self.local.is_ipv4() { v4 } else { v6 }
    }

    fn addresses(&self, it: &mut Classification, local: usize, remote: usize) {
        it.set(local, Field::Address(self.local)).set(remote, Field::Address(self.remote));
    }

    fn ports(&self, it: &mut Classification, local: usize, remote: usize) {
        it.set(local, Field::U16(self.local_port)).set(remote, Field::U16(self.remote_port));
    }

    fn endpoint(&self, it: &mut Classification) {
        it.metadata.currentMetadataValues |= FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE;
        it.metadata.transportEndpointHandle = self.endpoint;
    }

    /// ALE_AUTH_CONNECT; a TCP connect has no packet.
    pub fn auth_connect(&self) -> Classification {
        use field::ale_auth_connect as at;
        let layer = self.pair(FWPS_LAYER_ALE_AUTH_CONNECT_V4, FWPS_LAYER_ALE_AUTH_CONNECT_V6);
        let mut it = Classification::new(layer, at::COUNT);
        it.irql = PASSIVE_LEVEL;
        self.addresses(&mut it, at::IP_LOCAL_ADDRESS, at::IP_REMOTE_ADDRESS);
        self.ports(&mut it, at::IP_LOCAL_PORT, at::IP_REMOTE_PORT);
        it.set(at::IP_PROTOCOL, Field::U8(self.protocol)).set(at::FLAGS, Field::U32(0));
        if let Some(app) = &self.app {
            it.set(at::ALE_APP_ID, Field::App(app));
        }
        self.endpoint(&mut it);
        it.metadata.currentMetadataValues |= FWPS_METADATA_FIELD_PACKET_DIRECTION;
        it.metadata.packetDirection = FWP_DIRECTION_OUTBOUND;
        it
    }

    /// ALE_AUTH_RECV_ACCEPT, with a packet of `data` bytes behind a transport header of `header` bytes.
    pub fn auth_accept(&self, header: u32, data: u32) -> Classification {
        use field::ale_auth_recv_accept as at;
        let layer = self.pair(FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4, FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V6);
        let mut it = Classification::new(layer, at::COUNT);
        self.addresses(&mut it, at::IP_LOCAL_ADDRESS, at::IP_REMOTE_ADDRESS);
        self.ports(&mut it, at::IP_LOCAL_PORT, at::IP_REMOTE_PORT);
        it.set(at::IP_PROTOCOL, Field::U8(self.protocol)).set(at::FLAGS, Field::U32(0));
        if let Some(app) = &self.app {
            it.set(at::ALE_APP_ID, Field::App(app));
        }
        self.endpoint(&mut it);
        it.metadata.currentMetadataValues |=
            FWPS_METADATA_FIELD_PACKET_DIRECTION | FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
        it.metadata.packetDirection = FWP_DIRECTION_INBOUND;
        it.metadata.transportHeaderSize = header;
        it.packet(&[data]);
        it
    }

    pub fn connect(&self) -> Outcome {
        self.auth_connect().run(Some(&self.flow))
    }

    pub fn accept(&self, header: u32, data: u32) -> Outcome {
        self.auth_accept(header, data).run(Some(&self.flow))
    }

    /// The connection is authorized again: `FLAGS` says so. Outbound connections.
    pub fn reconnect(&self) -> Outcome {
        let mut it = self.auth_connect();
        it.set(field::ale_auth_connect::FLAGS, Field::U32(FWP_CONDITION_FLAG_IS_REAUTHORIZE)).set(
            field::ale_auth_connect::REAUTHORIZE_REASON,
            Field::U32(FWP_CONDITION_REAUTHORIZE_REASON_POLICY_CHANGE),
        );
        it.run(Some(&self.flow))
    }

    /// ALE_FLOW_ESTABLISHED, where nobody decides.
    pub fn established(&self) {
        assert_eq!(self.establishment().run(Some(&self.flow)).action, FWP_ACTION_PERMIT);
    }

    pub fn establishment(&self) -> Classification {
        use field::ale_flow_established as at;
        let layer = self.pair(FWPS_LAYER_ALE_FLOW_ESTABLISHED_V4, FWPS_LAYER_ALE_FLOW_ESTABLISHED_V6);
        let mut it = Classification::new(layer, at::COUNT);
        self.addresses(&mut it, at::IP_LOCAL_ADDRESS, at::IP_REMOTE_ADDRESS);
        self.ports(&mut it, at::IP_LOCAL_PORT, at::IP_REMOTE_PORT);
        it.set(at::IP_PROTOCOL, Field::U8(self.protocol));
        self.endpoint(&mut it);
        it
    }

    /// ALE_ENDPOINT_CLOSURE, whose metadata has no flow handle.
    pub fn closure(&self) -> Outcome {
        self.endpoint_closure().run(None)
    }

    pub fn endpoint_closure(&self) -> Classification {
        use field::ale_endpoint_closure as at;
        let layer = self.pair(FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V4, FWPS_LAYER_ALE_ENDPOINT_CLOSURE_V6);
        let mut it = Classification::new(layer, at::COUNT);
        self.addresses(&mut it, at::IP_LOCAL_ADDRESS, at::IP_REMOTE_ADDRESS);
        self.ports(&mut it, at::IP_LOCAL_PORT, at::IP_REMOTE_PORT);
        it.set(at::IP_PROTOCOL, Field::U8(self.protocol));
        self.endpoint(&mut it);
        it
    }

    /// INBOUND_TRANSPORT: the data starts behind the transport header.
    pub fn inbound(&self, header: u32, data: u32) -> Outcome {
        use field::inbound_transport as at;
        let layer = self.pair(FWPS_LAYER_INBOUND_TRANSPORT_V4, FWPS_LAYER_INBOUND_TRANSPORT_V6);
        let mut it = Classification::new(layer, at::COUNT);
        self.addresses(&mut it, at::IP_LOCAL_ADDRESS, at::IP_REMOTE_ADDRESS);
        self.ports(&mut it, at::IP_LOCAL_PORT, at::IP_REMOTE_PORT);
        it.set(at::IP_PROTOCOL, Field::U8(self.protocol));
        it.metadata.currentMetadataValues |= FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
        it.metadata.transportHeaderSize = header;
        it.packet(&[data]).run(Some(&self.flow))
    }

    /// OUTBOUND_TRANSPORT: the data starts with the transport header; one list may hold several packets.
    pub fn outbound(&self, packets: &[u32]) -> Outcome {
        self.outbound_packet(packets).run(Some(&self.flow))
    }

    pub fn outbound_packet(&self, packets: &[u32]) -> Classification {
        use field::outbound_transport as at;
        let layer = self.pair(FWPS_LAYER_OUTBOUND_TRANSPORT_V4, FWPS_LAYER_OUTBOUND_TRANSPORT_V6);
        let mut it = Classification::new(layer, at::COUNT);
        self.addresses(&mut it, at::IP_LOCAL_ADDRESS, at::IP_REMOTE_ADDRESS);
        self.ports(&mut it, at::IP_LOCAL_PORT, at::IP_REMOTE_PORT);
        it.set(at::IP_PROTOCOL, Field::U8(self.protocol));
        it.metadata.currentMetadataValues |= FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
        it.metadata.transportHeaderSize = 20;
        it.packet(packets);
        it
    }

    /// The flow is over.
    pub fn end(&self) {
        flow_end(&self.flow);
    }
}

/// A session with the filter engine that is somebody else's, dynamic.
pub struct Engine(HANDLE);

impl Engine {
    pub fn open() -> Self {
        let mut session = FWPM_SESSION0::ZERO;
        session.flags = FWPM_SESSION_FLAG_DYNAMIC;
        let mut engine = std::ptr::null_mut();
        // SAFETY: the structures live for the call; a test thread is at PASSIVE_LEVEL.
        let status = unsafe {
            FwpmEngineOpen0(
                std::ptr::null(),
                RPC_C_AUTHN_WINNT,
                std::ptr::null_mut(),
                &raw const session,
                &raw mut engine,
            )
        };
        assert_eq!(status, 0);
        Self(engine)
    }

    /// A sublayer of that weight.
    pub fn sublayer(&self, key: u32, weight: u16) -> GUID {
        let mut name = wide("another product");
        let mut sublayer = FWPM_SUBLAYER0::ZERO;
        sublayer.subLayerKey.Data1 = key;
        sublayer.displayData.name = name.as_mut_ptr();
        sublayer.weight = weight;
        // SAFETY: an open handle; the structure lives for the call.
        let status = unsafe { FwpmSubLayerAdd0(self.0, &raw const sublayer, std::ptr::null_mut()) };
        assert_eq!(status, 0);
        sublayer.subLayerKey
    }

    /// A filter without conditions.
    pub fn filter(&self, layer: GUID, sublayer: GUID, action: u32, flags: u32) -> u64 {
        let mut filter = FWPM_FILTER0::ZERO;
        filter.flags = flags;
        self.add_filter(filter, layer, sublayer, action)
    }

    /// A callout object for a callout that somebody else registers.
    pub fn callout(&self, key: GUID, layer: GUID) {
        let mut name = wide("another product");
        let mut callout = FWPM_CALLOUT0::ZERO;
        callout.calloutKey = key;
        callout.applicableLayer = layer;
        callout.displayData.name = name.as_mut_ptr();
        // SAFETY: an open handle; the structure lives for the call.
        let status = unsafe {
            FwpmCalloutAdd0(self.0, &raw const callout, std::ptr::null_mut(), std::ptr::null_mut())
        };
        assert_eq!(status, 0);
    }

    /// A filter without conditions that calls a callout.
    pub fn calling_filter(&self, layer: GUID, sublayer: GUID, action: u32, callout: GUID) {
        let mut filter = FWPM_FILTER0::ZERO;
        filter.action.u.calloutKey = callout;
        self.add_filter(filter, layer, sublayer, action);
    }

    fn add_filter(&self, mut filter: FWPM_FILTER0, layer: GUID, sublayer: GUID, action: u32) -> u64 {
        let mut name = wide("another product");
        filter.displayData.name = name.as_mut_ptr();
        filter.layerKey = layer;
        filter.subLayerKey = sublayer;
        filter.action.type_ = action;
        let mut id = 0;
        // SAFETY: an open handle; the structure lives for the call.
        let status = unsafe { FwpmFilterAdd0(self.0, &raw const filter, std::ptr::null_mut(), &raw mut id) };
        assert_eq!(status, 0);
        id
    }

    /// The provider that an object with `key` belongs to, if there is such a provider.
    pub fn has_provider(&self, key: &GUID) -> bool {
        let mut provider = std::ptr::null_mut();
        // SAFETY: an open handle; key and pointer live for the call.
        if unsafe { FwpmProviderGetByKey0(self.0, key, &raw mut provider) } != 0 {
            return false;
        }
        let mut memory: *mut c_void = provider.cast();
        // SAFETY: the engine allocated it.
        unsafe { FwpmFreeMemory0(&raw mut memory) };
        true
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: ours, closed once.
        unsafe { FwpmEngineClose0(self.0) };
    }
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}
