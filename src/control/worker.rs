//! The worker thread: the one owner of the control sockets.
//!
//! It waits for a wake-up or the next deadline, never for a peer. What it does wait for is bounded: WSK's readiness,
//! in slices, so that a stop is never held up for long, and the steps of a listener's making.

use super::Parameters;
use super::listener::Listener;
use super::session::{End, Session};
use super::shared::Shared;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status, irp};
use crate::sys::wsk::NPI_WSK_INTERFACE_ID;
use crate::trace;
use crate::wsk::{CaptureError, Closing, EVENTS, ListenSocket, Provider, Registration};
use core::net::SocketAddr;
use core::sync::atomic::Ordering;

/// What the thread is started with.
pub(super) struct Context {
    pub(super) shared: PoolArc<Shared>,
    pub(super) registration: Registration,
    pub(super) parameters: Parameters,
}

/// How long one wait for WSK's readiness is.
const CAPTURE_SLICE: Interval = Interval::from_millis(250);
/// How long to wait before a listener is tried again, at first; doubled each time.
const BACK_OFF_FIRST: Interval = Interval::from_millis(250);
/// How long at most.
const BACK_OFF_LAST: Interval = Interval::from_millis(30_000);

pub(super) fn run(passive: &mut Passive, context: PoolBox<Context>) {
    let Context { shared, mut registration, parameters } = context.into_inner();
    loop {
        match registration.capture(passive, CAPTURE_SLICE) {
            Ok(provider) => {
                Worker::new(&shared, &provider, &parameters).run(passive);
                break;
            }
            Err(CaptureError::NotReady(_)) if !shared.is_stopping() => {}
            Err(CaptureError::NotReady(_)) => break,
            Err(CaptureError::OtherVersion) => {
                let Some(again) = other_version(passive, &registration) else {
                    trace::emit(&trace::Event::Degraded { part: "control", status: Status::NOT_SUPPORTED.into() });
                    break;
                };
                registration = again;
            }
        }
    }
    shared.settled.set();
    // Returns when WSK is done with weir: every socket closed, every request completed.
    drop(registration);
}
