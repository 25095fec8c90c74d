//! Peers that do not keep to the protocol: frames cut at every byte, garbage, connections that say nothing, too many of
//! them. Whatever they do, nothing of them is left, and nobody else is held up.

use std::time::{Duration, Instant};

use weir::control::protocol::noise::FIRST;

use super::super::client::{First, HELLO, Raw, frame};
use super::super::peer::{Cast, Peer};
use super::super::report::Report;
use super::super::session::Session;
use super::super::wait;
use super::control::{STATUS, connected, hang_up, items, sessions};
use super::{Parameters, ensure, load, unload};

const BYTES_OF_GARBAGE: usize = 4096;

/// Ends a connection: in good order, or by a reset.
fn end(client: Raw, orderly: bool) -> Result<(), String> {
    if orderly { client.finish() } else { client.reset() }
}

/// Waits until the driver has no session but this peer's.
fn alone(peer: &mut Peer) -> Result<(), String> {
    wait::until("the end of all other sessions", Duration::from_secs(10), || {
        let listed = peer.list(sessions)?;
        Ok((items(&listed, "sessions")?.len() == 1).then_some(()))
    })
}

/// Connections that end after each byte of the handshake, and of the first message after it.
fn cut(cast: &Cast, port: u16, peer: &mut Peer, report: &mut Report) -> Result<(), String> {
    let first = First::new(cast, &cast.operator)?;
    for length in 0..first.frame.len() {
        let mut client = Raw::connect(port)?;
        client.send(&first.frame[..length])?;
        end(client, length % 2 == 0).map_err(|error| format!("cut after {length} bytes: {error}"))?;
    }
    let handshake = first.frame.len();
    let mut lengths = 0;
    loop {
        let mut client = Raw::connect(port)?;
        let mut transport = client.shake_hands(First::new(cast, &cast.operator)?)?;
        let hello = frame(&mut transport, &HELLO)?;
        if lengths >= hello.len() {
            break;
        }
        client.send(&hello[..lengths])?;
        end(client, lengths % 2 == 0)
            .map_err(|error| format!("cut after {lengths} bytes of hello: {error}"))?;
        lengths += 1;
    }
    alone(peer)?;
    report.held(&format!(
        "connections cut after each of the {handshake} bytes of the handshake and of the {lengths} of a message: every \
         one is ended, and nobody is told anything"
    ));
    Ok(())
}

/// Bytes that are no frames, frames that are no messages, and messages that nobody has encrypted.
fn garbage(
    session: &mut Session,
    cast: &Cast,
    port: u16,
    peer: &mut Peer,
    report: &mut Report,
) -> Result<(), String> {
    const ROUNDS: u64 = 60;
    session.events.mark()?;
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = |length: usize| (0..length).map(|_| random.u8(..)).collect::<Vec<_>>();
    let mut length = fastrand::Rng::with_seed(2);
    for round in 0..ROUNDS {
        let mut client = Raw::connect(port)?;
        let mut sent = bytes(length.usize(1..BYTES_OF_GARBAGE));
        match round % 4 {
            // A length that no frame has, or that this one must not have.
            0 => sent.splice(..0, [0, 0]).for_each(drop),
            1 => sent.splice(..0, [0x40, 0x01]).for_each(drop),
            // The right length, and nothing that anybody has encrypted.
            2 => {
                sent.truncate(FIRST);
                sent.resize(FIRST, 0xA5);
                sent.splice(..0, [0, 96]).for_each(drop);
            }
            // After the handshake.
            _ => {
                let mut transport = client.shake_hands(First::new(cast, &cast.observer)?)?;
                let mut hello = frame(&mut transport, &HELLO)?;
                if let Some(last) = hello.last_mut() {
                    *last ^= 1;
                }
                sent = hello;
            }
        }
        // The driver may have closed it before all was sent.
        let _closed_already = client.send(&sent);
        client.ended().map_err(|error| format!("round {round}: {error}"))?;
    }
    let rejected = session.events.several("the rejections", 1, |event| event.is("ControlRejected"))?;
    ensure(rejected.iter().all(|event| !event.succeeded()), || format!("{rejected:?}"))?;
    alone(peer)?;
    report.held(&format!(
        "{ROUNDS} connections with garbage before and after the handshake are ended, and told of"
    ));
    Ok(())
}

/// One byte at a time is slow, and right all the same.
fn slowly(cast: &Cast, port: u16) -> Result<(), String> {
    let mut client = Raw::connect(port)?;
    let first = First::new(cast, &cast.operator)?;
    let last = first.frame.len() - 1;
    let (most, rest) = first.split(last);
    for byte in most {
        client.send(&[byte])?;
        std::thread::sleep(Duration::from_millis(1));
    }
    client.shake_hands(rest).map(drop)
}

/// Many connections that say nothing, and one peer meanwhile.
fn half_open(
    session: &mut Session,
    cast: &Cast,
    parameters: &Parameters,
    report: &mut Report,
) -> Result<(), String> {
    const CONNECTIONS: usize = 500;
    let port = parameters.port;
    session.events.mark()?;
    let mut peer = connected(session, cast, &cast.operator, port)?;
    let mut clients = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..CONNECTIONS {
        match Raw::connect(port) {
            Ok(client) => clients.push(client),
            // A refusal resets it, perhaps before the connect is over.
            Err(error) if error.contains("reset") => {}
            Err(error) => return Err(format!("connection {number}: {error}")),
        }
        if number % 50 == 0 {
            let begin = Instant::now();
            peer.ask(&STATUS)?;
            slowest = slowest.max(begin.elapsed());
        }
    }
    session.events.several("the refusals", 1, |event| event.is("ControlRefused"))?;
    ensure(slowest < Duration::from_secs(2), || format!("a request took {slowest:?} meanwhile"))?;
    let known = peer.number(&STATUS, "sessions")?;
    ensure(known <= u64::from(super::MAX_UNAUTHENTICATED) + 1, || format!("{known} sessions"))?;
    alone(&mut peer)?;
    drop(clients);
    let other = connected(session, cast, &cast.observer, port)?;
    hang_up(other);
    report.held(&format!(
        "{CONNECTIONS} connections that say nothing: {} at a time are kept, for as long as a handshake may take; a peer \
         is served meanwhile, in {:.0} ms at most, and others come in again",
        super::MAX_UNAUTHENTICATED,
        slowest.as_secs_f64() * 1000.0
    ));
    report.fact("slowest_request_ms", (slowest.as_secs_f64() * 1000.0).round());
    hang_up(peer);
    Ok(())
}

/// One source that connects too often.
fn limited(
    session: &mut Session,
    cast: &Cast,
    parameters: &Parameters,
    report: &mut Report,
) -> Result<(), String> {
    const BURST: u32 = 5;
    unload(session)?;
    let limited = Parameters { connect_burst: BURST, connect_rate: 1, ..parameters.clone() };
    load(session, &limited, 0, report)?;
    session.events.mark()?;
    for _ in 0..BURST {
        hang_up(Peer::connect(cast, &cast.operator, limited.port)?);
    }
    let late = Peer::connect(cast, &cast.operator, limited.port);
    ensure(late.is_err(), || "a source may connect as often as it likes".to_owned())?;
    session.events.one("ControlRefused", |_| true)?;
    report.held(&format!(
        "a source that connects more than {BURST} times at once is refused, before any handshake"
    ));
    unload(session)?;
    load(session, parameters, 0, report)
}

pub fn run(
    session: &mut Session,
    parameters: &Parameters,
    cast: &Cast,
    report: &mut Report,
) -> Result<(), String> {
    let port = parameters.port;
    session.events.mark()?;
    let mut peer = connected(session, cast, &cast.operator, port)?;
    cut(cast, port, &mut peer, report)?;
    garbage(session, cast, port, &mut peer, report)?;
    slowly(cast, port)?;
    report.held("a handshake that comes byte by byte is one");
    hang_up(peer);
    half_open(session, cast, parameters, report)?;
    limited(session, cast, parameters, report)
}
