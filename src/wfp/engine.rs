//! The session with the base filtering engine: weir's provider, sublayer, callout objects and filters.
//!
//! All of it belongs to one dynamic session, so that it vanishes with the session's handle, whatever happens to the
//! driver, and is added in one transaction, so that either all filters hold or none.
//!
//! PASSIVE_LEVEL throughout; one thread owns a session ([`super::keeper`]).
//!
//! Documentation: `nf-fwpmk-fwpmengineopen0`, "Object Management", "Filter Weight Assignment", "Callout Driver
//! Operations".

use super::layer::{self, LAYERS, Layer, Role, wide};
use super::retry;
use crate::kernel::irql::Passive;
use crate::kernel::pool::PoolSlice;
use crate::kernel::{Result, Status};
use crate::policy::{Direction, Family};
use crate::sys::fwp::{
    self, FWP_BYTE_ARRAY16, FWP_BYTE_ARRAY16_TYPE, FWP_BYTE_BLOB, FWP_BYTE_BLOB_TYPE, FWP_CONDITION_VALUE0,
    FWP_CONDITION_VALUE0_U, FWP_MATCH_EQUAL, FWP_UINT8, FWP_UINT16, FWP_UINT32, FWP_VALUE0, FWP_VALUE0_U,
    FWPM_ACTION0, FWPM_ACTION0_U, FWPM_CALLOUT0, FWPM_DISPLAY_DATA0, FWPM_FILTER_CONDITION0, FWPM_FILTER0,
    FWPM_PROVIDER0, FWPM_SESSION0, FWPM_SUBLAYER0,
};
use crate::sys::nt::{GUID, HANDLE};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How long a transaction waits for another session's, in milliseconds.
const TRANSACTION_WAIT: u32 = 5_000;

/// How often closing a session is tried: an engine that is about to stop may not answer.
const CLOSE_ATTEMPTS: u32 = 8;

/// The weight of the sublayer: in the middle, with room for others on both sides.
const SUBLAYER_WEIGHT: u16 = 0x8000;

/// Ranges of filter weights ("Filter Weight Assignment"): of the filters that call weir, and of those that are asked
/// before them.
const WEIGHT_CALLOUT: u8 = 4;
const WEIGHT_EXEMPTION: u8 = 12;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The application identifier of what the kernel itself does: `System`, UTF-16 with its terminating NUL.
static SYSTEM: [u16; 7] = layer::widen("System");

const NAME: &[u16] = wide!("weir");
const CONTROL_NAME: &[u16] = wide!("weir control");

/// TCP connections of weir's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Others open them, to this local port.
    Accepted(u16),
    /// weir opens them, to this address.
    Dialled(SocketAddr),
}

/// What the filters depend on.
#[derive(Debug)]
pub struct Plan {
    /// weir's own connections, which are exempt from the policy.
    pub own: PoolSlice<Own>,
    /// Whether what weir cannot decide on passes: a filter whose callout is not registered then permits.
    pub fail_open: bool,
}

/// An open session. It must be [closed](Session::close); one that is dropped instead leaks, with its filters.
#[derive(Debug)]
#[must_use = "a session must be closed"]
pub struct Session {
    engine: HANDLE,
}

// SAFETY: a handle, good on any thread; one thread owns it.
unsafe impl Send for Session {}

impl Session {
    /// Opens a dynamic session. The engine must be running.
    ///
    /// # Errors
    /// What FwpmEngineOpen0 returns.
    pub fn open(_passive: &Passive) -> Result<Self> {
        let session = FWPM_SESSION0 {
            displayData: display(NAME),
            flags: fwp::FWPM_SESSION_FLAG_DYNAMIC,
            txnWaitTimeoutInMSec: TRANSACTION_WAIT,
            ..FWPM_SESSION0::ZERO
        };
        let mut engine = core::ptr::null_mut();
        // SAFETY: PASSIVE_LEVEL says the token; the structures live for the call.
        let status = unsafe {
            fwp::FwpmEngineOpen0(
                core::ptr::null(),
                fwp::RPC_C_AUTHN_WINNT,
                core::ptr::null_mut(),
                &raw const session,
                &raw mut engine,
            )
        };
        Status(status).exact()?;
        Ok(Self { engine })
    }

    /// Closes the session, and so deletes what it added. An engine that has stopped has forgotten it already.
    pub fn close(self, passive: &Passive) {
        let _closed = retry(passive, "filtering session", Some(CLOSE_ATTEMPTS), || {
            // SAFETY: an open handle, ours; PASSIVE_LEVEL says the token.
            Status(unsafe { fwp::FwpmEngineClose0(self.engine) }).exact()
        });
    }

    /// Whether the engine still knows the session and its sublayer.
    pub fn holds(&self, _passive: &Passive) -> bool {
        let mut sublayer = core::ptr::null_mut();
        // SAFETY: an open handle; the key and the pointer live for the call; PASSIVE_LEVEL says the token.
        let status =
            unsafe { fwp::FwpmSubLayerGetByKey0(self.engine, &raw const layer::SUBLAYER, &raw mut sublayer) };
        if Status(status).exact().is_err() {
            return false;
        }
        let mut memory = sublayer.cast();
        // SAFETY: the engine allocated it for us.
        unsafe { fwp::FwpmFreeMemory0(&raw mut memory) };
        true
    }

    /// Adds everything in one transaction.
    ///
    /// # Errors
    /// The first that any step returns; nothing has been added then.
    pub fn add(&self, passive: &Passive, plan: &Plan) -> Result {
        // SAFETY: an open handle; PASSIVE_LEVEL says the token.
        Status(unsafe { fwp::FwpmTransactionBegin0(self.engine, 0) }).exact()?;
        let tx = Tx { session: self, _passive: passive };
        match tx.add(plan) {
            Ok(()) => {
                // SAFETY: an open handle with a transaction; PASSIVE_LEVEL says the token.
                Status(unsafe { fwp::FwpmTransactionCommit0(self.engine) }).exact()
            }
            Err(status) => {
                // A transaction that cannot be aborted ends with the session, which the caller closes.
                // SAFETY: as above.
                let _ended = Status(unsafe { fwp::FwpmTransactionAbort0(self.engine) });
                Err(status)
            }
        }
    }
}

/// A session with a transaction open.
struct Tx<'a> {
    session: &'a Session,
    _passive: &'a Passive,
}

impl Tx<'_> {
    fn add(&self, plan: &Plan) -> Result {
        self.provider()?;
        self.sublayer()?;
        for layer in &LAYERS {
            self.callout(layer)?;
            self.filter(layer, plan)?;
        }
        for own in &*plan.own {
            let (direction, family) = match own {
                Own::Accepted(_) => (Direction::In, None),
                Own::Dialled(SocketAddr::V4(_)) => (Direction::Out, Some(Family::V4)),
                Own::Dialled(SocketAddr::V6(_)) => (Direction::Out, Some(Family::V6)),
            };
            let concerns = |layer: &&Layer| {
                layer.role == Role::Authorize(direction) && family.is_none_or(|family| layer.family == family)
            };
            for layer in LAYERS.iter().filter(concerns) {
                self.exempt(layer, own)?;
            }
        }
        Ok(())
    }

    fn provider(&self) -> Result {
        let provider = FWPM_PROVIDER0 {
            providerKey: layer::PROVIDER,
            displayData: display(NAME),
            ..FWPM_PROVIDER0::ZERO
        };
        // SAFETY: an open handle; the structure lives for the call; PASSIVE_LEVEL says the token.
        Status(unsafe {
            fwp::FwpmProviderAdd0(self.session.engine, &raw const provider, core::ptr::null_mut())
        })
        .exact()
    }

    fn sublayer(&self) -> Result {
        let sublayer = FWPM_SUBLAYER0 {
            subLayerKey: layer::SUBLAYER,
            displayData: display(NAME),
            providerKey: provider_key(),
            weight: SUBLAYER_WEIGHT,
            ..FWPM_SUBLAYER0::ZERO
        };
        // SAFETY: an open handle; the structure lives for the call; PASSIVE_LEVEL says the token.
        Status(unsafe {
            fwp::FwpmSubLayerAdd0(self.session.engine, &raw const sublayer, core::ptr::null_mut())
        })
        .exact()
    }

    fn callout(&self, layer: &Layer) -> Result {
        let callout = FWPM_CALLOUT0 {
            calloutKey: layer.callout,
            displayData: display(layer.name),
            providerKey: provider_key(),
            applicableLayer: layer.key,
            ..FWPM_CALLOUT0::ZERO
        };
        // SAFETY: an open handle; the structure lives for the call, the identifier is not asked for;
        // PASSIVE_LEVEL says the token.
        Status(unsafe {
            fwp::FwpmCalloutAdd0(
                self.session.engine,
                &raw const callout,
                core::ptr::null_mut(),
                core::ptr::null_mut(),
            )
        })
        .exact()
    }

    /// The filter without conditions that calls weir at `layer`.
    fn filter(&self, layer: &Layer, plan: &Plan) -> Result {
        let flags = match layer.role {
            Role::Authorize(_) if plan.fail_open => fwp::FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED,
            _ => fwp::FWPM_FILTER_FLAG_NONE,
        };
        let action =
            FWPM_ACTION0 { type_: layer.filter_action(), u: FWPM_ACTION0_U { calloutKey: layer.callout } };
        self.add_filter(&FWPM_FILTER0 {
            displayData: display(layer.name),
            flags,
            layerKey: layer.key,
            weight: weight(WEIGHT_CALLOUT),
            action,
            ..FWPM_FILTER0::ZERO
        })
    }

    /// The filter that permits weir's own connections before weir is asked: the kernel's own (the application is
    /// `System`), TCP, to that local port, or that remote address and port.
    fn exempt(&self, layer: &Layer, own: &Own) -> Result {
        let mut system = FWP_BYTE_BLOB {
            size: u32::try_from(size_of_val(&SYSTEM)).map_err(|_| Status::INVALID_PARAMETER)?,
            data: SYSTEM.as_ptr().cast_mut().cast(),
        };
        let mut octets = FWP_BYTE_ARRAY16 { byteArray16: [0; 16] };
        let (port, number, remote) = match own {
            Own::Accepted(port) => {
                (fwp::FWPM_CONDITION_IP_LOCAL_PORT, *port, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
            }
            Own::Dialled(remote) => (fwp::FWPM_CONDITION_IP_REMOTE_PORT, remote.port(), remote.ip()),
        };
        let (kind, value) = match remote {
            // In host byte order, as FWP_UINT32 addresses are.
            IpAddr::V4(v4) => (FWP_UINT32, FWP_CONDITION_VALUE0_U { uint32: v4.to_bits() }),
            IpAddr::V6(v6) => {
                octets.byteArray16 = v6.octets();
                (FWP_BYTE_ARRAY16_TYPE, FWP_CONDITION_VALUE0_U { byteArray16: &raw mut octets })
            }
        };
        let address = equal(fwp::FWPM_CONDITION_IP_REMOTE_ADDRESS, kind, value);
        let mut conditions = [
            equal(
                fwp::FWPM_CONDITION_ALE_APP_ID,
                FWP_BYTE_BLOB_TYPE,
                FWP_CONDITION_VALUE0_U { byteBlob: &raw mut system },
            ),
            equal(fwp::FWPM_CONDITION_IP_PROTOCOL, FWP_UINT8, FWP_CONDITION_VALUE0_U { uint8: TCP }),
            equal(port, FWP_UINT16, FWP_CONDITION_VALUE0_U { uint16: number }),
            address,
        ];
        let count = if matches!(own, Own::Accepted(_)) {
            conditions.len().saturating_sub(1)
        } else {
            conditions.len()
        };
        self.add_filter(&FWPM_FILTER0 {
            displayData: display(CONTROL_NAME),
            layerKey: layer.key,
            weight: weight(WEIGHT_EXEMPTION),
            numFilterConditions: u32::try_from(count).map_err(|_| Status::INVALID_PARAMETER)?,
            filterCondition: conditions.as_mut_ptr(),
            action: FWPM_ACTION0 { type_: fwp::FWP_ACTION_PERMIT, ..FWPM_ACTION0::ZERO },
            ..FWPM_FILTER0::ZERO
        })
    }

    fn add_filter(&self, filter: &FWPM_FILTER0) -> Result {
        let filter = FWPM_FILTER0 { providerKey: provider_key(), subLayerKey: layer::SUBLAYER, ..*filter };
        // SAFETY: an open handle; the structure and what it points at live for the call; the identifier is not
        // asked for; PASSIVE_LEVEL says the token.
        Status(unsafe {
            fwp::FwpmFilterAdd0(
                self.session.engine,
                &raw const filter,
                core::ptr::null_mut(),
                core::ptr::null_mut(),
            )
        })
        .exact()
    }
}

/// Display data with a name and no description. The engine copies it and writes nothing.
const fn display(name: &'static [u16]) -> FWPM_DISPLAY_DATA0 {
    FWPM_DISPLAY_DATA0 { name: name.as_ptr().cast_mut(), description: core::ptr::null_mut() }
}

/// The provider's key as the structures take it. The engine copies it and writes nothing.
fn provider_key() -> *mut GUID {
    (&raw const layer::PROVIDER).cast_mut()
}

/// A weight in a range, whose place in the range the engine chooses.
const fn weight(range: u8) -> FWP_VALUE0 {
    FWP_VALUE0 { type_: FWP_UINT8, u: FWP_VALUE0_U { uint8: range } }
}

const fn equal(
    field: GUID,
    type_: fwp::FWP_DATA_TYPE,
    value: FWP_CONDITION_VALUE0_U,
) -> FWPM_FILTER_CONDITION0 {
    FWPM_FILTER_CONDITION0 {
        fieldKey: field,
        matchType: FWP_MATCH_EQUAL,
        conditionValue: FWP_CONDITION_VALUE0 { type_, u: value },
    }
}
