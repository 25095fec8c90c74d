//! The promises, each with its check.

use crate::kernel::{Buffer, wait};
use crate::sys::nt::{
    GUID, NTSTATUS, STATUS_BUFFER_OVERFLOW, STATUS_CANCELLED, STATUS_CONNECTION_ABORTED,
    STATUS_CONNECTION_DISCONNECTED, STATUS_CONNECTION_REFUSED, STATUS_INVALID_DEVICE_STATE,
    STATUS_INVALID_PARAMETER, STATUS_NOINTERFACE, STATUS_NOT_SUPPORTED, STATUS_SUCCESS,
};
use crate::sys::wsk::{
    SIO_WSK_QUERY_IDEAL_SEND_BACKLOG, SIO_WSK_REGISTER_EXTENSION, SO_EXCLUSIVEADDRUSE, SOL_SOCKET,
    WSK_CACHE_SD, WSK_EVENT_ACCEPT, WSK_EVENT_DISABLE, WSK_EVENT_DISCONNECT, WSK_EVENT_RECEIVE,
    WSK_EVENT_SEND_BACKLOG, WSK_EXTENSION_CONTROL_IN, WSK_EXTENSION_CONTROL_OUT, WSK_FLAG_ABORTIVE,
    WSK_FLAG_CONNECTION_SOCKET, WSK_FLAG_DATAGRAM_SOCKET, WSK_FLAG_LISTEN_SOCKET, WSK_FLAG_WAITALL,
    WSK_NO_WAIT, WSK_PROVIDER_NPI, WSK_RELEASE_SD, WSK_TRANSPORT, WSK_TRANSPORT_LIST_QUERY, WskIoctl,
    WskSetOption,
};
use crate::wsk::{
    Answer, Registration, Socket, Watched, control_client, wait_disconnected, wait_received, watched,
};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::{null, null_mut};
use core::time::Duration;
use wine_support::{log, thread};

pub type Check = Result<(), String>;

/// Fails the check unless both are the same.
pub fn same<T: PartialEq + core::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Check {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:x?}, not {wanted:x?}")) }
}

fn some<T>(what: &str, found: Option<T>) -> Result<T, String> {
    found.ok_or_else(|| format!("{what} never came"))
}

fn made<T>(what: &str, found: Result<T, NTSTATUS>) -> Result<T, String> {
    found.map_err(|status| format!("{what}: {status:#010x}"))
}

/// A promise, and what checks it.
type Promise = (&'static str, fn(&WSK_PROVIDER_NPI) -> Check);

const PROMISES: [Promise; 23] = [
    ("transports are told once there is room for them", transports),
    ("a connection is accepted by request, and both ends agree about it", accept_by_request),
    ("a connection socket is bound first, and connected then", bound_first),
    ("a send that the peer does not read waits, and can be cancelled", waiting_send),
    ("bytes arrive as they were sent, whatever the MDLs", bytes),
    ("a cancelled receive is completed as cancelled and takes nothing", cancel),
    ("a cancelled accept leaves the connection to the next one", cancel_accept),
    ("received data is indicated, serially and in order", indications),
    ("what is not accepted waits for a receive, and indications go on then", not_accepted),
    ("retained data stays until it is released", retained),
    ("a graceful end is told after the data, in both directions", graceful),
    ("an abortive disconnect and the close of an open connection end it", aborted),
    ("close cancels what is pending, and completes last", close_cancels),
    ("an accept event's refusal ends the connection", refusal),
    ("a disabled event is not called", disabled),
    ("a refused connect makes no socket", refused_connect),
    ("options want their time, and unknown things are not supported", options),
    ("a security descriptor is cached, passed and released", security),
    ("the ideal send backlog is told when asked for, and when it changes", backlog),
    ("a pending receive is served before the event", receive_first),
    ("a graceful disconnect comes after the sends before it", disconnect_last),
    ("an abortive disconnect ends the sends before it", abort_sends),
    ("a hundred connections at once", hundred),
];

/// Runs every check; whether all passed.
pub fn run() -> bool {
    let other = Registration::new(0x0700);
    let outcome = other.capture(WSK_NO_WAIT).err();
    other.deregister();
    let (mut passed, mut failed) = (0, 0);
    let mut note = |promise: &str, outcome: Check| match outcome {
        Ok(()) => {
            passed += 1;
            log!("PASS {promise}");
        }
        Err(why) => {
            failed += 1;
            log!("FAIL {promise}: {why}");
        }
    };
    let promise = "a version that there is not gets STATUS_NOINTERFACE";
    note(promise, same("capture", &outcome, &Some(STATUS_NOINTERFACE)));
    let registration = Registration::new(0x0100);
    let (status, versions) = registration.characteristics();
    let found = (status, versions.LowestVersion, versions.HighestVersion);
    note("the provider tells its versions", same("versions", &found, &(STATUS_SUCCESS, 0x0100, 0x0100)));
    note("modules attach, detach and clean up in their order", crate::nmr::check());
    match registration.capture(WSK_NO_WAIT) {
        Ok(npi) => {
            for (promise, check) in PROMISES {
                note(promise, check(&npi));
            }
            registration.release();
        }
        Err(status) => note("the provider is captured", Err(format!("{status:#010x}"))),
    }
    if failed == 0 {
        registration.deregister();
    }
    // Otherwise sockets may be left, and deregistration would wait for them for good.
    log!("DONE {passed} passed, {failed} failed");
    failed == 0
}

fn transports(npi: &WSK_PROVIDER_NPI) -> Check {
    // SAFETY: captured.
    let function = unsafe { (*npi.Dispatch).WskControlClient }.ok_or("WskControlClient is NULL")?;
    let mut size = 0;
    let code = WSK_TRANSPORT_LIST_QUERY;
    let returned = &raw mut size;
    // SAFETY: captured; no buffers.
    let status = unsafe { function(npi.Client, code, 0, null_mut(), 0, null_mut(), returned, null_mut()) };
    same("without room", &(status, size), &(STATUS_BUFFER_OVERFLOW, 2 * size_of::<WSK_TRANSPORT>()))?;
    let mut list = alloc::vec![0_u8; size];
    let room = list.as_mut_ptr().cast();
    // SAFETY: captured; there is as much room as is said.
    let status = unsafe { function(npi.Client, code, 0, null_mut(), size, room, returned, null_mut()) };
    same("with room", &status, &STATUS_SUCCESS)
}

/// A listening socket without events, and its port.
fn listener(npi: &WSK_PROVIDER_NPI, watched: Option<&Arc<Watched>>) -> Result<(Socket, u16), String> {
    let listener = made("WskSocket", Socket::new(npi, WSK_FLAG_LISTEN_SOCKET, watched))?;
    same("bind", &listener.listen(0), &STATUS_SUCCESS)?;
    Ok((listener, listener.port()))
}

/// Two connected sockets without events: one that connected, one that was accepted.
fn pair(npi: &WSK_PROVIDER_NPI) -> Result<(Socket, Socket), String> {
    let (listener, port) = listener(npi, None)?;
    let accepted = listener.accept();
    let client = made("connect", Socket::connected(npi, port, None))?;
    let (status, server) = accepted.end();
    same("accept", &status, &STATUS_SUCCESS)?;
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)?;
    Ok((client, Socket(core::ptr::with_exposed_provenance_mut(server))))
}

/// Two connected sockets, the accepted one with events and its listener's context.
fn event_pair(npi: &WSK_PROVIDER_NPI) -> Result<(Socket, Socket, Arc<Watched>), String> {
    let own = watched();
    let (listener, port) = listener(npi, Some(&own))?;
    let events = WSK_EVENT_ACCEPT | WSK_EVENT_RECEIVE | WSK_EVENT_DISCONNECT;
    same("events", &listener.events(events), &STATUS_SUCCESS)?;
    let client = made("connect", Socket::connected(npi, port, None))?;
    let (server, watched) = some("WskAcceptEvent", wait(&own, |told| told.accepted.pop()))?;
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)?;
    Ok((client, server, watched))
}

fn close_both(one: Socket, other: Socket) -> Check {
    same("close", &(one.close(), other.close()), &(STATUS_SUCCESS, STATUS_SUCCESS))
}

fn send(from: Socket, data: &[u8]) -> Check {
    let mut buffer = Buffer::of(data, 1000, 3);
    same("send", &from.send(&mut buffer).end(), &(STATUS_SUCCESS, data.len()))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251).to_le_bytes()[0]).collect()
}

fn accept_by_request(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server) = pair(npi)?;
    let ((here, there), (theirs, ours)) = (client.ports(), server.ports());
    same("ports", &(here, there), &(ours, theirs))?;
    close_both(client, server)
}

fn bound_first(npi: &WSK_PROVIDER_NPI) -> Check {
    let (listener, port) = listener(npi, None)?;
    let told = watched();
    let client = made("WskSocket", Socket::new(npi, WSK_FLAG_CONNECTION_SOCKET, Some(&told)))?;
    same("connect before bind", &client.connect(port), &STATUS_INVALID_DEVICE_STATE)?;
    same("bind", &client.bind(), &STATUS_SUCCESS)?;
    same("bind again", &client.bind(), &STATUS_INVALID_DEVICE_STATE)?;
    let early = client.events(WSK_EVENT_RECEIVE);
    same("events before connect", &early, &STATUS_INVALID_DEVICE_STATE)?;
    let accepted = listener.accept();
    same("connect", &client.connect(port), &STATUS_SUCCESS)?;
    same("events", &client.events(WSK_EVENT_RECEIVE), &STATUS_SUCCESS)?;
    let (status, server) = accepted.end();
    same("accept", &status, &STATUS_SUCCESS)?;
    let server = Socket(core::ptr::with_exposed_provenance_mut(server));
    send(server, b"to the client")?;
    same("data", &wait_received(&told, 13), &Some(b"to the client".to_vec()))?;
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)?;
    close_both(client, server)
}

fn waiting_send(npi: &WSK_PROVIDER_NPI) -> Check {
    // More than two stacks hold.
    const MUCH: usize = 32 << 20;
    let (client, server) = pair(npi)?;
    let mut buffer = Buffer::new(MUCH, 1 << 20, 0);
    let pending = client.send(&mut buffer);
    thread::sleep(Duration::from_millis(50));
    same("while nobody reads", &pending.now(), &None)?;
    pending.cancel();
    same("cancelled", &pending.end().0, &STATUS_CANCELLED)?;
    close_both(client, server)?;
    let (client, server) = pair(npi)?;
    let pending = client.send(&mut buffer);
    let mut received = Buffer::new(MUCH, 3 << 20, 0);
    let all = server.receive(&mut received, WSK_FLAG_WAITALL);
    same("receive", &all.end(), &(STATUS_SUCCESS, MUCH))?;
    same("send", &pending.end(), &(STATUS_SUCCESS, MUCH))?;
    close_both(client, server)
}

fn bytes(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server) = pair(npi)?;
    for (length, part, offset) in [(1, 1, 0), (5000, 700, 699), (300_000, 4096, 17)] {
        let data = pattern(length);
        let mut sent = Buffer::of(&data, part, offset);
        let mut received = Buffer::new(length, part + 13, offset);
        let pending = server.receive(&mut received, WSK_FLAG_WAITALL);
        let sends = client.send(&mut sent);
        same("send", &sends.end(), &(STATUS_SUCCESS, length))?;
        same("receive", &pending.end(), &(STATUS_SUCCESS, length))?;
        if received.read(length) != data {
            return Err(format!("{length} bytes over parts of {part} differ"));
        }
    }
    close_both(client, server)
}

fn cancel(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server) = pair(npi)?;
    let mut first = Buffer::new(10, 10, 0);
    let pending = server.receive(&mut first, 0);
    thread::sleep(Duration::from_millis(20));
    same("before", &pending.now(), &None)?;
    pending.cancel();
    same("cancelled", &pending.end(), &(STATUS_CANCELLED, 0))?;
    send(client, b"hello")?;
    let mut second = Buffer::new(10, 10, 0);
    same("next", &server.receive(&mut second, 0).end(), &(STATUS_SUCCESS, 5))?;
    same("data", &second.read(5), &b"hello".to_vec())?;
    close_both(client, server)
}

fn cancel_accept(npi: &WSK_PROVIDER_NPI) -> Check {
    let (listener, port) = listener(npi, None)?;
    let cancelled = listener.accept();
    cancelled.cancel();
    same("cancelled", &cancelled.end(), &(STATUS_CANCELLED, 0))?;
    let client = made("connect", Socket::connected(npi, port, None))?;
    let (status, server) = listener.accept().end();
    same("accept", &status, &STATUS_SUCCESS)?;
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)?;
    close_both(client, Socket(core::ptr::with_exposed_provenance_mut(server)))
}

fn indications(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server, watched) = event_pair(npi)?;
    let data = pattern(500_000);
    for part in data.chunks(9_999) {
        send(client, part)?;
    }
    let received = some("all of the data", wait_received(&watched, data.len()))?;
    if received != data {
        return Err("the data differs".into());
    }
    same("overlapping indications", &watched.0.lock().overlapped, &false)?;
    close_both(client, server)
}

fn not_accepted(npi: &WSK_PROVIDER_NPI) -> Check {
    for answer in [Answer::Refuse, Answer::Part(2)] {
        let (client, server, watched) = event_pair(npi)?;
        watched.0.lock().answer = answer;
        send(client, b"abcdef")?;
        some("an indication", wait(&watched, |told| (told.indications > 0).then_some(())))?;
        thread::sleep(Duration::from_millis(30));
        let taken = {
            let mut told = watched.0.lock();
            same("indications while blocked", &told.indications, &1)?;
            told.answer = Answer::Take;
            told.received.clone()
        };
        let mut rest = Buffer::new(6 - taken.len(), 6, 0);
        let (status, count) = server.receive(&mut rest, 0).end();
        same("receive", &(status, count), &(STATUS_SUCCESS, 6 - taken.len()))?;
        let mut all = taken;
        all.extend_from_slice(&rest.read(count));
        same("data", &all, &b"abcdef".to_vec())?;
        watched.0.lock().received.clear();
        send(client, b"more")?;
        same("after", &wait_received(&watched, 4), &Some(b"more".to_vec()))?;
        close_both(client, server)?;
    }
    Ok(())
}

fn retained(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server, watched) = event_pair(npi)?;
    watched.0.lock().answer = Answer::Retain;
    send(client, b"kept")?;
    let list = some("an indication", wait(&watched, |told| told.retained.take()))?;
    watched.0.lock().answer = Answer::Take;
    send(client, b"next")?;
    same("what comes after", &wait_received(&watched, 8), &Some(b"keptnext".to_vec()))?;
    // SAFETY: retained, and not released.
    let kept = unsafe { crate::wsk::read(core::ptr::with_exposed_provenance_mut(list)) };
    same("what was retained", &kept, &b"kept".to_vec())?;
    same("release", &server.release(list), &STATUS_SUCCESS)?;
    close_both(client, server)
}

fn graceful(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server, watched) = event_pair(npi)?;
    send(client, b"last words")?;
    same("disconnect", &client.disconnect(0), &(STATUS_SUCCESS, 0))?;
    same("the event's flags", &wait_disconnected(&watched).map(|flags| flags & WSK_FLAG_ABORTIVE), &Some(0))?;
    same("data before the end", &watched.0.lock().received, &b"last words".to_vec())?;
    let mut late = Buffer::of(b"x", 1, 0);
    let after = client.send(&mut late).end().0;
    same("a send after the end", &after, &STATUS_CONNECTION_DISCONNECTED)?;
    send(server, b"answer")?;
    same("the other direction", &server.disconnect(0), &(STATUS_SUCCESS, 0))?;
    let mut answer = Buffer::new(100, 7, 0);
    let (status, count) = client.receive(&mut answer, WSK_FLAG_WAITALL).end();
    same("receive", &(status, count), &(STATUS_SUCCESS, 6))?;
    same("end of the stream", &client.receive(&mut answer, 0).end(), &(STATUS_SUCCESS, 0))?;
    close_both(client, server)
}

/// Wine ends a connection before it resets it, so that the other side may be told of a graceful end.
fn aborted(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server, watched) = event_pair(npi)?;
    same("disconnect", &client.disconnect(WSK_FLAG_ABORTIVE).0, &STATUS_SUCCESS)?;
    some("WskDisconnectEvent", wait_disconnected(&watched))?;
    let mut buffer = Buffer::new(1, 1, 0);
    let received = client.receive(&mut buffer, 0).end().0;
    same("a receive on the aborted side", &received, &STATUS_CONNECTION_ABORTED)?;
    close_both(client, server)?;
    let (client, server, watched) = event_pair(npi)?;
    same("close of an open connection", &client.close(), &STATUS_SUCCESS)?;
    some("WskDisconnectEvent of a close", wait_disconnected(&watched))?;
    same("close", &server.close(), &STATUS_SUCCESS)
}

fn close_cancels(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server) = pair(npi)?;
    let mut buffers: Vec<_> = (0..3).map(|_| Buffer::new(10, 10, 0)).collect();
    let pending: Vec<_> = buffers.iter_mut().map(|buffer| server.receive(buffer, 0)).collect();
    let closing = server.close_later();
    same("close", &closing.outcome(), &Some((STATUS_SUCCESS, 0)))?;
    // Completed before the close was, therefore without a wait.
    for pending in &pending {
        same("receive", &pending.now(), &Some((STATUS_CANCELLED, 0)))?;
    }
    let (listener, _) = listener(npi, None)?;
    let accept = listener.accept();
    same("close of a listener", &listener.close(), &STATUS_SUCCESS)?;
    same("its accept", &accept.now().map(|(status, _)| status), &Some(STATUS_CANCELLED))?;
    same("close", &client.close(), &STATUS_SUCCESS)
}

fn refusal(npi: &WSK_PROVIDER_NPI) -> Check {
    let own = watched();
    own.0.lock().answer = Answer::Refuse;
    let (listener, port) = listener(npi, Some(&own))?;
    same("events", &listener.events(WSK_EVENT_ACCEPT), &STATUS_SUCCESS)?;
    let told = watched();
    let client = made("connect", Socket::connected(npi, port, Some(&told)))?;
    same("events", &client.events(WSK_EVENT_DISCONNECT), &STATUS_SUCCESS)?;
    some("the refusal", wait(&own, |told| (told.refused == 1).then_some(())))?;
    some("the end of the connection", wait_disconnected(&told))?;
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)?;
    same("close", &client.close(), &STATUS_SUCCESS)
}

fn disabled(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server, watched) = event_pair(npi)?;
    same("disable", &server.events(WSK_EVENT_DISABLE | WSK_EVENT_RECEIVE), &STATUS_SUCCESS)?;
    send(client, b"unseen")?;
    thread::sleep(Duration::from_millis(50));
    same("indications", &watched.0.lock().indications, &0)?;
    same("enable", &server.events(WSK_EVENT_RECEIVE), &STATUS_SUCCESS)?;
    same("what arrived before", &wait_received(&watched, 6), &Some(b"unseen".to_vec()))?;
    close_both(client, server)
}

fn refused_connect(npi: &WSK_PROVIDER_NPI) -> Check {
    let (listener, port) = listener(npi, None)?;
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)?;
    let outcome = Socket::connected(npi, port, None).err();
    same("connect", &outcome, &Some(STATUS_CONNECTION_REFUSED))
}

/// An interface that nobody has.
static NOBODYS: GUID = GUID { Data1: 7, Data2: 7, Data3: 7, Data4: [7; 8] };

fn options(npi: &WSK_PROVIDER_NPI) -> Check {
    let listener = made("WskSocket", Socket::new(npi, WSK_FLAG_LISTEN_SOCKET, None))?;
    let exclusive = (WskSetOption, SO_EXCLUSIVEADDRUSE, SOL_SOCKET);
    let mut on = 1_u32;
    let set = |on: &mut u32| listener.control_later(exclusive, Some(on), None::<&mut u32>).0;
    same("before bind", &set(&mut on), &STATUS_SUCCESS)?;
    same("bind", &listener.listen(0), &STATUS_SUCCESS)?;
    same("after bind", &set(&mut on), &STATUS_INVALID_DEVICE_STATE)?;
    let mut input = WSK_EXTENSION_CONTROL_IN {
        NpiId: &raw const NOBODYS,
        ClientContext: null_mut(),
        ClientDispatch: null(),
    };
    let mut output = WSK_EXTENSION_CONTROL_OUT { ProviderContext: null_mut(), ProviderDispatch: null() };
    let register = (WskIoctl, SIO_WSK_REGISTER_EXTENSION, 0);
    let status = listener.control(register, &mut input, Some(&mut output));
    same("an extension that nobody has", &status, &STATUS_NOT_SUPPORTED)?;
    same("close", &listener.close(), &STATUS_SUCCESS)?;
    let datagram = Socket::new(npi, WSK_FLAG_DATAGRAM_SOCKET, None).err();
    same("a datagram socket", &datagram, &Some(STATUS_NOT_SUPPORTED))?;
    let unbound = made("WskSocket", Socket::new(npi, WSK_FLAG_CONNECTION_SOCKET, None))?;
    let mut buffer = Buffer::of(b"x", 1, 0);
    let outcome = unbound.send(&mut buffer).end().0;
    same("a send without a connection", &outcome, &STATUS_INVALID_DEVICE_STATE)?;
    let mut backlog = 0_usize;
    let query = (WskIoctl, SIO_WSK_QUERY_IDEAL_SEND_BACKLOG, 0);
    let asked = unbound.control_later(query, None::<&mut u32>, Some(&mut backlog)).0;
    same("a backlog without a connection", &asked, &STATUS_INVALID_DEVICE_STATE)?;
    same("close", &unbound.close(), &STATUS_SUCCESS)
}

/// A descriptor in the self-relative form: SYSTEM owns it and may do everything, nobody else anything.
#[repr(C, align(8))]
struct Descriptor([u8; 20 + 12 + 28]);

const SYSTEM: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];

fn descriptor() -> Descriptor {
    // Revision, flags SE_SELF_RELATIVE and SE_DACL_PRESENT; the offsets of owner, group, SACL and DACL.
    const HEAD: [u8; 20] = [1, 0, 4, 0x80, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0];
    // Revision, size, one entry: ACCESS_ALLOWED, its size, GENERIC_ALL.
    const LIST: [u8; 16] = [2, 0, 28, 0, 1, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0x10];
    let mut bytes = [0; 60];
    let whole = HEAD.iter().chain(&SYSTEM).chain(&LIST).chain(&SYSTEM);
    bytes.iter_mut().zip(whole).for_each(|(place, byte)| *place = *byte);
    Descriptor(bytes)
}

fn security(npi: &WSK_PROVIDER_NPI) -> Check {
    let mut own = descriptor();
    let mut given = (&raw mut own).cast();
    let mut cached = null_mut();
    let status = control_client(npi, WSK_CACHE_SD, &mut given, Some(&mut cached));
    same("WSK_CACHE_SD", &(status, cached.is_null(), cached == given), &(STATUS_SUCCESS, false, false))?;
    // The client's own may go.
    own.0.fill(0xEE);
    let listener = made("WskSocket", Socket::secured(npi, WSK_FLAG_LISTEN_SOCKET, None, cached))?;
    same("bind", &listener.listen(0), &STATUS_SUCCESS)?;
    let accepted = listener.accept();
    let client = made("connect", Socket::connected(npi, listener.port(), None))?;
    let (status, server) = accepted.end();
    same("accept", &status, &STATUS_SUCCESS)?;
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)?;
    same("WSK_RELEASE_SD", &control_client(npi, WSK_RELEASE_SD, &mut cached, None), &STATUS_SUCCESS)?;
    let mut nothing = null_mut();
    let status = control_client(npi, WSK_CACHE_SD, &mut nothing, Some(&mut cached));
    same("WSK_CACHE_SD of NULL", &status, &STATUS_INVALID_PARAMETER)?;
    close_both(client, Socket(core::ptr::with_exposed_provenance_mut(server)))
}

fn backlog(npi: &WSK_PROVIDER_NPI) -> Check {
    const MUCH: usize = 1 << 20;
    let ask = |socket: Socket| {
        let mut ideal = 0_usize;
        let query = (WskIoctl, SIO_WSK_QUERY_IDEAL_SEND_BACKLOG, 0);
        let asked = socket.control_later(query, None::<&mut u32>, Some(&mut ideal));
        (asked, ideal)
    };
    let (client, server, watched) = event_pair(npi)?;
    same("events", &server.events(WSK_EVENT_SEND_BACKLOG), &STATUS_SUCCESS)?;
    let ((status, size), ideal) = ask(server);
    same("the query", &(status, size, ideal > 0), &(STATUS_SUCCESS, size_of::<usize>(), true))?;
    let mut received = Buffer::new(MUCH, 1 << 16, 0);
    let all = client.receive(&mut received, WSK_FLAG_WAITALL);
    send(server, &pattern(MUCH))?;
    same("receive", &all.end(), &(STATUS_SUCCESS, MUCH))?;
    let told = some("WskSendBacklogEvent", wait(&watched, |told| told.backlogs.last().copied()))?;
    thread::sleep(Duration::from_millis(30));
    let last = watched.0.lock().backlogs.last().copied();
    same(
        "the query, after the event",
        &ask(server),
        &((STATUS_SUCCESS, size_of::<usize>()), last.unwrap_or(told)),
    )?;
    close_both(client, server)
}

fn receive_first(npi: &WSK_PROVIDER_NPI) -> Check {
    let (client, server, watched) = event_pair(npi)?;
    let mut buffer = Buffer::new(4, 4, 0);
    let pending = server.receive(&mut buffer, WSK_FLAG_WAITALL);
    same("before", &pending.now(), &None)?;
    send(client, b"fourand more")?;
    same("receive", &pending.end(), &(STATUS_SUCCESS, 4))?;
    same("its data", &buffer.read(4), &b"four".to_vec())?;
    same("what comes after", &wait_received(&watched, 8), &Some(b"and more".to_vec()))?;
    close_both(client, server)
}

fn disconnect_last(npi: &WSK_PROVIDER_NPI) -> Check {
    // More than two stacks hold, so that it waits.
    const MUCH: usize = 32 << 20;
    let (client, server) = pair(npi)?;
    let mut buffer = Buffer::new(MUCH, 1 << 20, 0);
    let sending = client.send(&mut buffer);
    let ending = client.disconnect_later(0);
    thread::sleep(Duration::from_millis(30));
    same("while nobody reads", &(sending.now(), ending.now()), &(None, None))?;
    let mut received = Buffer::new(MUCH, 3 << 20, 0);
    same("receive", &server.receive(&mut received, WSK_FLAG_WAITALL).end(), &(STATUS_SUCCESS, MUCH))?;
    same("send", &sending.end(), &(STATUS_SUCCESS, MUCH))?;
    same("disconnect", &ending.end().0, &STATUS_SUCCESS)?;
    same("end of the stream", &server.receive(&mut received, 0).end(), &(STATUS_SUCCESS, 0))?;
    close_both(client, server)
}

fn abort_sends(npi: &WSK_PROVIDER_NPI) -> Check {
    const MUCH: usize = 32 << 20;
    let (client, server) = pair(npi)?;
    let mut buffer = Buffer::new(MUCH, 1 << 20, 0);
    let sending = client.send(&mut buffer);
    let ending = client.disconnect_later(0);
    thread::sleep(Duration::from_millis(30));
    same("before", &(sending.now(), ending.now()), &(None, None))?;
    same("an abortive disconnect", &client.disconnect(WSK_FLAG_ABORTIVE).0, &STATUS_SUCCESS)?;
    same("the send", &sending.end().0, &STATUS_CONNECTION_ABORTED)?;
    same("the graceful one", &ending.end().0, &STATUS_CONNECTION_ABORTED)?;
    close_both(client, server)
}

fn hundred(npi: &WSK_PROVIDER_NPI) -> Check {
    let own = watched();
    let (listener, port) = listener(npi, Some(&own))?;
    let events = WSK_EVENT_ACCEPT | WSK_EVENT_RECEIVE | WSK_EVENT_DISCONNECT;
    same("events", &listener.events(events), &STATUS_SUCCESS)?;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(made("connect", Socket::connected(npi, port, None))?);
    }
    let data = pattern(10_000);
    for client in &clients {
        send(*client, &data)?;
    }
    some("all connections", wait(&own, |told| (told.accepted.len() == 100).then_some(())))?;
    let servers = core::mem::take(&mut own.0.lock().accepted);
    for (_, watched) in &servers {
        let received = some("all of the data", wait_received(watched, data.len()))?;
        if received != data {
            return Err("the data differs".into());
        }
    }
    let closing: Vec<_> = clients.iter().map(|client| client.close_later()).collect();
    for (server, watched) in &servers {
        some("WskDisconnectEvent", wait_disconnected(watched))?;
        same("close", &server.close(), &STATUS_SUCCESS)?;
    }
    for closing in closing {
        same("close", &closing.end().0, &STATUS_SUCCESS)?;
    }
    same("close of the listener", &listener.close(), &STATUS_SUCCESS)
}
