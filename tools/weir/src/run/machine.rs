//! The simulated machine: boots it, configures and loads the driver, and takes it down again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ntsim::registry::{Registry, Value};
use ntsim::security::Descriptor;
use ntsim::sys::fwp;
use weir::control::protocol::noise::{Keys, PublicKey};
use weir::policy::Action;
use weir::trace::{self, Event, Keywords, Level};

use super::follow::{Ends, Inbox, RING_RECORDS, Said};
use super::recording::Recording;
use super::report::Decided;
use crate::client;
use crate::keys::Private;

const PARAMETERS: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\weir\Parameters";
/// How long the driver may take to open its port and to place its filters.
const PATIENCE: Duration = Duration::from_secs(10);
/// The layers at which connections are authorized: filters stand at all of them once the driver filters.
const AUTHORIZING: [u16; 4] = [
    fwp::FWPS_LAYER_ALE_AUTH_CONNECT_V4,
    fwp::FWPS_LAYER_ALE_AUTH_CONNECT_V6,
    fwp::FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V4,
    fwp::FWPS_LAYER_ALE_AUTH_RECV_ACCEPT_V6,
];

/// Who the driver is, and who may steer it.
pub struct Steering {
    driver: Private,
    operator: PublicKey,
}

impl Steering {
    /// From the driver's private key and the operator's.
    pub fn new([driver, operator]: [Private; 2]) -> Self {
        Self { driver, operator: *Keys::new(&operator).public() }
    }

    /// One that is gone with the run: nobody is told the keys.
    ///
    /// # Errors
    /// A text for people.
    pub fn of_the_run() -> Result<Self, String> {
        let random = || client::random().map_err(|error| error.to_string());
        Ok(Self::new([random()?, random()?]))
    }

    /// The driver's public key.
    pub fn public(&self) -> PublicKey {
        *Keys::new(&self.driver).public()
    }

    /// As an installed driver has it: the private key in a subkey that nobody but the system and administrators may
    /// read.
    fn set(&self, registry: Registry) -> Result<(), String> {
        let key = format!(r"{PARAMETERS}\Key");
        registry.set(&key, "PrivateKey", Value::Binary(self.driver.to_vec()));
        if !registry.set_security(&key, Descriptor::closed().bytes()) {
            return Err("the simulated registry lost a key".into());
        }
        let operator = format!("operator=operator:{}", self.operator);
        registry.set(PARAMETERS, "ControlPeers", Value::MultiSz(vec![operator]));
        Ok(())
    }
}

/// What the verifier found, a line each.
pub struct Verified {
    pub leaks: Vec<String>,
    pub violations: Vec<String>,
}

/// A running machine with the driver loaded.
pub struct Machine {
    sim: ntsim::Sim,
    driver: ntsim::Driver,
    inbox: Arc<Inbox>,
    control: SocketAddr,
    _sink: trace::sink::Installed,
}

impl Machine {
    /// Boots and loads; returns when the control port is open and the filters stand.
    ///
    /// # Errors
    /// A text for people.
    pub fn boot(
        image: &[u8],
        listen: SocketAddr,
        steering: &Steering,
        recording: Option<Arc<Recording>>,
    ) -> Result<Self, String> {
        let inbox = Arc::new(Inbox::default());
        let heard = Arc::clone(&inbox);
        let level = recording.as_ref().map_or(Level::Information, |it| it.level().max(Level::Information));
        let sink = trace::sink::install(level, Keywords::all(), move |event| {
            if let Some(recording) = &recording {
                recording.hear(event);
            }
            hear(&heard, event);
        });
        let sim = ntsim::boot(ntsim::Config { wsk: ntsim::wsk::Config::tcp(), ..ntsim::Config::default() });
        let registry = sim.registry();
        registry.set(PARAMETERS, "PolicyImage", Value::Binary(image.to_vec()));
        registry.set(PARAMETERS, "ControlListen", Value::Sz(listen.to_string()));
        steering.set(registry)?;
        registry.set(PARAMETERS, "RingRecords", Value::Dword(RING_RECORDS));
        // As many as a capture has: what is live is bounded by the capture, not by the machine.
        registry.set(PARAMETERS, "MaxConnections", Value::Dword(16_777_216));
        let driver = sim.load_driver("weir", weir::DriverEntry).map_err(|status| {
            format!("the driver refuses to start: status {:#010x}", status.cast_unsigned())
        })?;
        let end = Instant::now() + PATIENCE;
        let control = loop {
            let listening = match inbox.control() {
                Ok(listening) => listening,
                Err(message) => {
                    driver.unload();
                    return Err(message);
                }
            };
            if let Some(address) = listening
                && AUTHORIZING.iter().all(|layer| ntsim::wfp::layer_has_filters(*layer))
            {
                break address;
            }
            if Instant::now() > end {
                driver.unload();
                return Err("the driver did not become ready".into());
            }
            inbox.wait();
        };
        Ok(Self { sim, driver, inbox, control, _sink: sink })
    }

    /// Where the control port is open.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// Where the driver's words arrive.
    pub fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// Unloads the driver, and says what it left behind.
    pub fn unload(self) -> Verified {
        self.driver.unload();
        let report = self.sim.report();
        Verified {
            leaks: report.leaks.iter().map(ToString::to_string).collect(),
            violations: report.violations.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Passes on what a run needs of the driver's events. Called on the driver's threads.
fn hear(inbox: &Inbox, event: &Event<'_>) {
    match *event {
        Event::ConnectionVerdict {
            verdict,
            rule,
            protocol,
            local,
            local_port,
            remote,
            remote_port,
            // A connection that is authorized again keeps its first decision in the report.
            reauthorized: false,
            ..
        } => {
            let decided = match verdict {
                Action::Allow => Decided::Allow,
                Action::Block => Decided::Block,
                Action::Audit => Decided::Audit,
            };
            let ends = Ends { protocol, local: (local, local_port), remote: (remote, remote_port) };
            inbox.say(Said::Verdict { ends, decided, rule: (rule != u32::MAX).then_some(rule) });
        }
        Event::FlowClosed {
            protocol,
            local,
            local_port,
            remote,
            remote_port,
            packets_in,
            packets_out,
            bytes_in,
            bytes_out,
            ..
        } => {
            let ends = Ends { protocol, local: (local, local_port), remote: (remote, remote_port) };
            inbox.say(Said::Closed {
                ends,
                packets: [packets_in, packets_out],
                bytes: [bytes_in, bytes_out],
            });
        }
        Event::RingLoss { kind, count, .. } => {
            inbox.say(Said::Lost { kind: kind.to_owned(), records: count });
        }
        Event::RingSummary { delivered, .. } => inbox.delivered_in_all(delivered),
        Event::ControlListening { address, port } => inbox.listening(SocketAddr::new(address, port)),
        Event::ControlListenFailed { address, port, status } => {
            inbox.fault(format!(
                "the control port {} cannot be opened: status {status}",
                SocketAddr::new(address, port)
            ));
        }
        Event::PolicyRefused { reason, .. } => {
            inbox.fault(format!("the driver refuses the policy: {reason}"));
        }
        Event::StartFailed { step, status } => {
            inbox.fault(format!("the driver cannot start: {step}: status {status}"));
        }
        Event::Degraded { part, status } => {
            inbox.fault(format!("the driver starts without {part}: status {status}"));
        }
        _ => {}
    }
}
