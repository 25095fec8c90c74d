//! The conformance suite of the extension interfaces: weir against scripted providers, in WSK and at the Network Module
//! Registrar, and its own. Each test says what weir promises; the simulated kernel and the scripted modules say what it
//! breaks.
//!
//! `EXT_SEEDS=FIRST..END` runs other seeds of the schedule than the first ones.
#![cfg(feature = "sim")]

#[path = "../control_support/mod.rs"]
mod control_support;
#[path = "../ext_support/mod.rs"]
mod ext_support;

mod faults;
mod kinds;
mod modules;
mod reactions;
mod schedule;
mod storms;
mod subsystem;

use control_support::client::Client;
use control_support::eventually;
use ext_support::{Attachment, Heard, Interface, Module, World};
use ntsim::sys::nt::NTSTATUS;
use std::sync::Arc;
use weir::control::protocol::message::{Empty, Request};
use weir::trace::events::Provider;

/// A pair of braces and what is asked for: an entry of the settings.
fn entry(interface: Interface, wanted: &str) -> String {
    format!("{}={wanted}", interface.guid())
}

/// The session works.
#[track_caller]
fn ping(client: &mut Client) {
    client.ask(&Request::Ping(Empty {}), |answer| assert!(answer.is_ok(), "{answer:?}"));
}

fn registered(heard: &[Heard], session: u64, interface: Interface, provider: Provider) -> usize {
    let wanted = Heard::Registered { session, interface: interface.guid(), provider };
    heard.iter().filter(|heard| **heard == wanted).count()
}

fn detached(heard: &[Heard], session: u64, interface: Interface, by: Provider) -> usize {
    let is = |heard: &&Heard| {
        matches!(**heard, Heard::Detached { session: of, interface: from, provider, .. }
            if of == session && from == interface.guid() && provider == by)
    };
    heard.iter().filter(is).count()
}

fn refused(heard: &[Heard], session: u64, interface: Interface) -> Option<(bool, NTSTATUS)> {
    heard.iter().find_map(|heard| match *heard {
        Heard::Refused { session: of, interface: from, required, status }
            if of == session && from == interface.guid() =>
        {
            Some((required, status))
        }
        _ => None,
    })
}

fn failed(heard: &[Heard], session: u64, interface: Interface, by: Provider) -> Option<NTSTATUS> {
    heard.iter().find_map(|heard| match *heard {
        Heard::Failed { session: of, interface: from, provider, status, .. }
            if of == session && from == interface.guid() && provider == by =>
        {
            Some(status)
        }
        _ => None,
    })
}

/// The module's hand on a session's socket.
#[track_caller]
fn attachment(module: &Module, session: u64) -> Arc<Attachment> {
    let mut found = None;
    eventually("the module has the socket", || {
        found = module.attachments().into_iter().find(|attachment| attachment.session() == session);
        found.is_some()
    });
    found.unwrap()
}

/// Waits until the session's standing with the interface is told: registered by anyone, or refused.
#[track_caller]
fn wait_settled(world: &World, session: u64, interface: Interface) {
    world.wait("the registration is settled", |heard| {
        let all = [Provider::Wsk, Provider::Nmr, Provider::Builtin];
        refused(heard, session, interface).is_some()
            || all.iter().any(|by| registered(heard, session, interface, *by) != 0)
    });
}
