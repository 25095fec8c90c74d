//! What an operator and an observer can ask for over a control connection, and what becomes of it.
#![cfg(feature = "sim")]

mod control_support;
mod ext_support;

use control_support::client::Client;
use control_support::{OBSERVER, Plane, eventually, parameters};
use ext_support::tables::Function;
use ext_support::{Interface, Module, World};
use ntsim::sys::nt::{STATUS_ACCESS_DENIED, STATUS_INVALID_DEVICE_STATE, STATUS_NOT_SUPPORTED};
use ntsim::wsk::{self, Completion, extension};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weir::config::Settings;
use weir::config::schema::SPOKEN;
use weir::control::protocol::MAX_MESSAGE;
use weir::control::protocol::message::{
    Answer, Begin, Chunk, Commit, Control, Credit, Empty, ErrorCode, Extended, Extension, ExtensionState,
    From, Generation, Hello, ListWriter, MAX_CONTROL, Metric, PolicyState, ReadImage, Reply, Request,
    SocketKind, Status, Subscribe, Tuple, Unsubscribe,
};
use weir::control::protocol::noise::Digest;
use weir::control::protocol::role::Role;
use weir::ext::connection_v1::NPI_CONNECTION_V1;
use weir::flow::{Decided, Inserted, Key};
use weir::policy::{Action, Direction, Family};
use weir::trace::events::Provider;
use weir::trace::{self, Event, Guid, NtStatus};

const FROM: From = From { from: None };
const FAULT: Event<'_> = Event::Fault { operation: "a fault", status: NtStatus(-5) };
/// Its id.
const FAULT_ID: u16 = 9;

fn plane() -> Plane {
    Plane::start(wsk::Config::default(), &parameters())
}

fn compile(text: &str) -> Vec<u8> {
    weir_cli::policy::compile(text).expect("the policy compiles").image
}

fn blocking(port: u16) -> Vec<u8> {
    compile(&format!(
        "version = 1\ndefault = \"allow\"\n[[rule]]\nname = \"no-{port}\"\naction = \"block\"\nprotocol = \"tcp\"\nremote_port = {port}\n"
    ))
}

fn digest(image: &[u8]) -> [u8; 32] {
    let mut digest = Digest::default();
    digest.update(image);
    digest.finish()
}

#[track_caller]
fn status<R>(client: &mut Client, look: impl FnOnce(Status<'_>) -> R) -> R {
    client.ask(&Request::Status(Empty {}), |answer| match answer {
        Ok(Reply::Status(status)) => look(status),
        other => panic!("{other:?}"),
    })
}

/// Sends a policy up; the number of the upload.
#[track_caller]
fn upload(client: &mut Client, image: &[u8], announced: [u8; 32]) -> u32 {
    let begin = Begin { size: u32::try_from(image.len()).unwrap(), digest: announced };
    let (number, most) = client.ask(&Request::PolicyBegin(begin), |answer| match answer {
        Ok(Reply::PolicyBegin(answer)) => (answer.upload, answer.chunk as usize),
        other => panic!("{other:?}"),
    });
    let mut offset = 0;
    for bytes in image.chunks(most) {
        let chunk = Chunk { upload: number, offset, bytes };
        offset += u32::try_from(bytes.len()).unwrap();
        client.ask(&Request::PolicyChunk(chunk), |answer| match answer {
            Ok(Reply::PolicyChunk(uploaded)) => assert_eq!(uploaded.received, offset),
            other => panic!("{other:?}"),
        });
    }
    number
}

/// Sends a policy up and lets it decide; its generation.
#[track_caller]
fn apply(client: &mut Client, image: &[u8], window: Option<u32>) -> u32 {
    let number = upload(client, image, digest(image));
    client.ask(&Request::PolicyCommit(Commit { upload: number, window, replaces: None }), |answer| {
        match answer {
            Ok(Reply::PolicyCommit(applied)) => applied.generation,
            other => panic!("{other:?}"),
        }
    })
}

fn subscribe(credit: u32) -> Subscribe<'static> {
    Subscribe { credit, level: Some(5), keywords: None, ids: None, snapshot: None }
}

#[test]
fn both_sides_say_who_they_are() {
    let plane = plane();
    for (private, name, role) in
        [(control_support::OPERATOR, "root", Role::Operator), (OBSERVER, "eye", Role::Observer)]
    {
        let mut client = Client::connect(plane.connect(), &private).unwrap();
        client.ask(&Request::Hello(Hello { version: 7, client: Some("a test") }), |answer| {
            let Ok(Reply::Hello(welcome)) = answer else { panic!("{answer:?}") };
            assert_eq!((welcome.version, welcome.peer, welcome.role), (1, name, role));
            assert_eq!(welcome.driver, env!("CARGO_PKG_VERSION"));
            // Applying and snapshots; nothing is stored here.
            assert_eq!(welcome.capabilities, 0b101);
        });
        assert_eq!(client.refused(&Request::Hello(Hello { version: 0, client: None })), ErrorCode::Version);
    }
    plane.end();
}

#[test]
fn an_observer_looks_and_changes_nothing() {
    let plane = plane();
    let mut eye = Client::connect(plane.connect(), &OBSERVER).unwrap();
    let image = blocking(23);
    let begin = Request::PolicyBegin(Begin { size: 5, digest: digest(&image) });
    let chunk = Request::PolicyChunk(Chunk { upload: 1, offset: 0, bytes: &[1] });
    let commit = Request::PolicyCommit(Commit { upload: 1, window: None, replaces: None });
    let generation = Generation { generation: 1 };
    let (confirm, rollback) = (Request::PolicyConfirm(generation), Request::PolicyRollback(generation));
    let (session, interface) = (own_session(&mut eye), SPOKEN[0]);
    let control = Request::ExtensionControl(Control { session, interface, code: 0, data: None });
    for request in [begin, chunk, commit, confirm, rollback, control] {
        assert_eq!(eye.refused(&request), ErrorCode::NotPermitted, "{request:?}");
    }
    status(&mut eye, |status| assert_eq!(status.policy, PolicyState::Absent));
    eye.ask(&Request::PolicyShow(FROM), |answer| assert!(matches!(answer, Ok(Reply::PolicyShow(_)))));
    plane.end();
}

#[test]
fn what_is_unknown_or_malformed_is_answered_and_the_connection_goes_on() {
    let plane = plane();
    let mut client = plane.client();
    // {0: 99, 1: 5, 2: {}}, and what is no message at all.
    for (message, code) in [
        (&[0xA3, 0x00, 0x18, 99, 0x01, 0x05, 0x02, 0xA0][..], ErrorCode::UnknownRequest),
        (&[0xA3, 0x00, 0x0D, 0x01, 0x05, 0x02, 0xA0], ErrorCode::Malformed),
    ] {
        let frame = client.seal(message);
        client.peer.send(&frame).unwrap();
        let answer = client.receive().unwrap();
        let Ok((Some(5), Answer::Error(failure))) = Answer::decode(&answer) else { panic!("{answer:x?}") };
        assert_eq!(failure.code, code);
    }
    // Without an id there is nobody to answer.
    for message in [&[0xFF][..], &[0xA2, 0x00, 0x18, 99, 0x02, 0xA0]] {
        let frame = client.seal(message);
        client.peer.send(&frame).unwrap();
    }
    status(&mut client, |_| ());
    plane.end();
}

#[test]
fn counters_and_sessions_tell_what_is() {
    let plane = plane();
    let mut client = plane.client();
    let mut other = Client::connect(plane.connect(), &OBSERVER).unwrap();
    status(&mut other, |_| ());
    let unknown = plane.connect();
    eventually("it is accepted", || plane.control().counters().accepted == 3);
    client.ask(&Request::Counters(FROM), |answer| {
        let Ok(Reply::Counters(counters)) = answer else { panic!("{answer:?}") };
        let counters: BTreeMap<_, _> =
            counters.counters.iter().map(|counter| (counter.name.to_owned(), counter.value)).collect();
        assert_eq!(counters["control.accepted"], 3);
        assert_eq!(counters["control.authenticated"], 2);
        assert_eq!(counters["control.sessions"], 3);
        assert_eq!(counters["connections.tracked"], 0);
        assert_eq!(counters["ring.lost.verdict.full"], 0);
        assert!(counters.len() > 30, "{counters:?}");
    });
    client.ask(&Request::Sessions(FROM), |answer| {
        let Ok(Reply::Sessions(sessions)) = answer else { panic!("{answer:?}") };
        let mut sessions: Vec<_> = sessions.sessions.iter().collect();
        sessions.sort_by_key(|session| session.session);
        let peers: Vec<_> = sessions.iter().map(|session| session.peer).collect();
        assert_eq!(peers, [Some("root"), Some("eye"), None]);
        assert!(
            sessions.iter().all(|session| !session.dialled && session.remote == IpAddr::from([127, 0, 0, 1]))
        );
        assert!(sessions[0].received > 96 && sessions[0].sent > 48);
    });
    drop(unknown);
    plane.end();
}

/// A vendor's provider at WSK: takes samples, and the code 7 with the byte 7.
mod vendor {
    use ntsim::sys::nt::{
        NTSTATUS, PVOID, STATUS_ACCESS_DENIED, STATUS_INVALID_DEVICE_STATE, STATUS_SUCCESS,
    };
    use std::ffi::c_void;
    use std::sync::atomic::{AtomicBool, Ordering};
    use weir::ext::connection_v1::{
        CONNECTION_METRIC_ROUND_TRIP, CONNECTION_METRIC_V1, CONNECTION_V1, CONNECTION_V1_PROVIDER_DISPATCH,
    };

    /// It cannot take a sample now.
    pub static TIRED: AtomicBool = AtomicBool::new(false);

    pub static PROVIDER: CONNECTION_V1_PROVIDER_DISPATCH = CONNECTION_V1_PROVIDER_DISPATCH {
        Size: 32,
        Version: CONNECTION_V1,
        Reserved: 0,
        QueryMetric: Some(query_metric),
        SetMarks: None,
        Control: Some(control),
    };

    unsafe extern "system" fn query_metric(_context: PVOID, metric: *mut CONNECTION_METRIC_V1) -> NTSTATUS {
        if TIRED.load(Ordering::Relaxed) {
            return STATUS_INVALID_DEVICE_STATE;
        }
        // SAFETY: a structure of weir's that lives for the call.
        let metric = unsafe { &mut *metric };
        metric.Flags = CONNECTION_METRIC_ROUND_TRIP;
        (metric.BytesReceived, metric.BytesSent, metric.RoundTripTime) = (u64::MAX, 2, 1500);
        STATUS_SUCCESS
    }

    unsafe extern "system" fn control(
        _context: PVOID,
        code: u32,
        input: *const c_void,
        length: u32,
    ) -> NTSTATUS {
        // SAFETY: `length` bytes that live for the call.
        let input = unsafe { std::slice::from_raw_parts(input.cast::<u8>(), length as usize) };
        if (code, input) == (7, &[7]) { STATUS_SUCCESS } else { STATUS_ACCESS_DENIED }
    }
}

/// What `request` is answered with: the reply, or the error and its status.
#[track_caller]
fn outcome<R>(
    client: &mut Client,
    request: &Request<'_>,
    read: impl FnOnce(Reply<'_>) -> Option<R>,
) -> Result<R, (ErrorCode, Option<NtStatus>)> {
    client.ask(request, |answer| match answer {
        Ok(reply) => Ok(read(reply).expect("the reply to the request")),
        Err(failure) => Err((failure.code, failure.status)),
    })
}

fn metric(
    client: &mut Client,
    session: u64,
    interface: Guid,
) -> Result<Metric, (ErrorCode, Option<NtStatus>)> {
    let request = Request::ExtensionMetric(Extended { session, interface });
    outcome(
        client,
        &request,
        |reply| if let Reply::ExtensionMetric(metric) = reply { Some(metric) } else { None },
    )
}

fn control(client: &mut Client, control: Control<'_>) -> Result<Provider, (ErrorCode, Option<NtStatus>)> {
    outcome(client, &Request::ExtensionControl(control), |reply| {
        if let Reply::ExtensionControl(done) = reply { Some(done.provider) } else { None }
    })
}

/// The extension interfaces of a session, and its kind of socket.
fn listed(client: &mut Client, wanted: u64) -> Vec<Extension> {
    client.ask(&Request::Extensions(FROM), |answer| match answer {
        Ok(Reply::Extensions(all)) => all.extensions.iter().filter(|row| row.session == wanted).collect(),
        other => panic!("{other:?}"),
    })
}

fn own_session(client: &mut Client) -> u64 {
    client.ask(&Request::Hello(Hello { version: 1, client: None }), |answer| match answer {
        Ok(Reply::Hello(welcome)) => welcome.session,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_vendor_that_provides_an_interface_answers_what_it_is_asked() {
    let sim = control_support::boot(wsk::Config::default());
    let offer = extension::Offer::new(&vendor::PROVIDER);
    extension::script(NPI_CONNECTION_V1, extension::Script::Supported(offer));
    let plane = Plane::start_on(sim, &parameters());
    let mut client = plane.client();
    let session = own_session(&mut client);
    let [connection_v1, label_v1] = SPOKEN;

    let [row] = listed(&mut client, session)[..] else { panic!("one interface") };
    assert_eq!((row.kind, row.module), (Some(SocketKind::Accepted), None));
    assert_eq!((row.state, row.provider), (ExtensionState::Registered, Some(Provider::Wsk)));
    let [row] = listed(&mut client, 0)[..] else { panic!("one interface of the listener") };
    assert_eq!(row.kind, Some(SocketKind::Listening));

    let sample = Metric { received: u64::MAX, sent: 2, round_trip: Some(1500), provider: Provider::Wsk };
    assert_eq!(metric(&mut client, session, connection_v1), Ok(sample));
    vendor::TIRED.store(true, Ordering::Relaxed);
    let status = Some(NtStatus(STATUS_INVALID_DEVICE_STATE));
    assert_eq!(metric(&mut client, session, connection_v1), Err((ErrorCode::Failed, status)));
    for (session, interface) in [(session, label_v1), (session + 1, connection_v1), (0, connection_v1)] {
        assert_eq!(metric(&mut client, session, interface), Err((ErrorCode::NotFound, None)));
    }

    let ask = |code, data| Control { session, interface: connection_v1, code, data };
    assert_eq!(control(&mut client, ask(7, Some(&[7]))), Ok(Provider::Wsk));
    let denied = Err((ErrorCode::Failed, Some(NtStatus(STATUS_ACCESS_DENIED))));
    assert_eq!(control(&mut client, ask(7, None)), denied);
    assert_eq!(control(&mut client, ask(7, Some(&[0; MAX_CONTROL]))), denied);
    let most = [0; MAX_CONTROL + 1];
    assert_eq!(control(&mut client, ask(7, Some(&most))), Err((ErrorCode::Malformed, None)));
    for (session, interface) in [(session, label_v1), (session + 1, connection_v1), (0, connection_v1)] {
        let asked = Control { session, interface, code: 7, data: Some(&[7]) };
        assert_eq!(control(&mut client, asked), Err((ErrorCode::NotFound, None)));
    }

    // Another connection may ask for this one, an observer for the sample alone.
    let mut eye = Client::connect(plane.connect(), &OBSERVER).unwrap();
    vendor::TIRED.store(false, Ordering::Relaxed);
    assert_eq!(metric(&mut eye, session, connection_v1), Ok(sample));
    assert_eq!(control(&mut eye, ask(7, Some(&[7]))), Err((ErrorCode::NotPermitted, None)));
    plane.end();
}

#[test]
fn vendors_modules_are_listed_each_and_one_of_them_answers() {
    let offered = ["optional;providers=nmr".to_owned(), "off".into()];
    let entries: Vec<_> = SPOKEN.iter().zip(offered).map(|(it, how)| format!("{it}={how}")).collect();
    let world = World::start(&entries, || {
        vec![Module::register(Interface::Connection), Module::register(Interface::Connection)]
    });
    let mut client = world.plane().client();
    let (session, interface) = (own_session(&mut client), SPOKEN[0]);
    let rows = listed(&mut client, session);
    let mut modules: Vec<_> = rows.iter().map(|row| row.module).collect();
    modules.sort();
    let mut expected: Vec<_> = world.modules.iter().map(|module| Some(module.id())).collect();
    expected.sort();
    assert_eq!(modules, expected);
    assert!(rows.iter().all(|row| row.provider == Some(Provider::Nmr)), "{rows:?}");
    let sample = Metric { received: 1111, sent: 2222, round_trip: Some(333), provider: Provider::Nmr };
    assert_eq!(metric(&mut client, session, interface), Ok(sample));
    let asked = Control { session, interface, code: 9, data: Some(&[1, 2, 3]) };
    assert_eq!(control(&mut client, asked), Ok(Provider::Nmr));
    // One of them alone has it.
    let called = |function| {
        let functions = world.modules.iter().flat_map(Module::functions);
        functions.filter(|(_, called)| *called == function).count()
    };
    assert_eq!((called(Function::QueryMetric), called(Function::Control { code: 9, length: 3 })), (1, 1));
    world.end();
}

#[test]
fn weir_itself_samples_where_nobody_else_does_and_takes_no_codes() {
    let mut settings = parameters();
    control_support::interfaces(&mut settings, &[]);
    let plane = Plane::start(wsk::Config::default(), &settings);
    let mut client = plane.client();
    let (session, interface) = (own_session(&mut client), SPOKEN[0]);
    let before = metric(&mut client, session, interface).unwrap();
    assert!(before.received > 96 && before.sent > 48, "{before:?}");
    assert_eq!((before.provider, before.round_trip), (Provider::Builtin, None));
    let after = metric(&mut client, session, interface).unwrap();
    assert!(after.received > before.received && after.sent > before.sent, "{before:?} {after:?}");
    let asked = Control { session, interface, code: 1, data: None };
    let unsupported = Some(NtStatus(STATUS_NOT_SUPPORTED));
    assert_eq!(control(&mut client, asked), Err((ErrorCode::Failed, unsupported)));

    // Nobody has the label.
    let mut rows = listed(&mut client, session);
    rows.sort_by_key(|row| row.interface != SPOKEN[0]);
    let stand: Vec<_> = rows.iter().map(|row| (row.interface, row.state, row.provider)).collect();
    let expected = [
        (SPOKEN[0], ExtensionState::Registered, Some(Provider::Builtin)),
        (SPOKEN[1], ExtensionState::Refused, None),
    ];
    assert_eq!(stand, expected);
    client.ask(&Request::Counters(FROM), |answer| {
        let Ok(Reply::Counters(counters)) = answer else { panic!("{answer:?}") };
        let counters: BTreeMap<_, _> =
            counters.counters.iter().map(|counter| (counter.name.to_owned(), counter.value)).collect();
        // The listening socket, and this connection.
        assert_eq!(counters["extensions.builtin.registered"], 2, "{counters:?}");
        assert_eq!(counters["extensions.wsk.refused"], 4, "{counters:?}");
        assert_eq!(counters["extensions.missing"], 2, "{counters:?}");
        assert_eq!(counters["extensions.modules"], 0, "{counters:?}");
    });
    plane.end();
}

#[test]
fn a_policy_goes_up_decides_is_shown_explained_and_read() {
    let plane = plane();
    let mut client = plane.client();
    let rule = |number| {
        let port = number + 1;
        format!(
            "[[rule]]\nname = \"a rule with the number {number}\"\naction = \"block\"\nremote_port = {port}\n"
        )
    };
    let rules = (0..1200).map(rule).collect::<Vec<_>>().concat();
    let image = compile(&format!("version = 1\ndefault = \"allow\"\n{rules}"));
    assert!(image.len() > 2 * 16_384);
    let generation = apply(&mut client, &image, None);
    status(&mut client, |status| {
        assert_eq!((status.policy, status.generation), (PolicyState::Provisional, generation));
        assert_eq!((status.rules, status.digest), (1200, Some(digest(&image))));
        assert!(status.rollback_in.is_some_and(|left| (50_000..=60_000).contains(&left)), "{status:?}");
    });

    let (mut from, mut shown) = (None, Vec::new());
    loop {
        from = client.ask(&Request::PolicyShow(From { from }), |answer| {
            let Ok(Reply::PolicyShow(policy)) = answer else { panic!("{answer:?}") };
            assert_eq!((policy.total, policy.generation), (1200, generation));
            assert_eq!(policy.default_action, Some(Action::Allow));
            shown.extend(policy.rules.iter().map(|rule| (rule.rule, rule.name.to_owned(), rule.action)));
            policy.next
        });
        if from.is_none() {
            break;
        }
    }
    let expected: Vec<_> =
        (0..1200).map(|rule| (rule, format!("a rule with the number {rule}"), Action::Block)).collect();
    assert_eq!(shown, expected);

    let tuple = Tuple {
        direction: Direction::Out,
        protocol: Some(6),
        local: None,
        local_port: None,
        remote: Some(IpAddr::from([192, 0, 2, 1])),
        remote_port: Some(1001),
        application: Some(r"\device\harddiskvolume2\windows\system32\svchost.exe"),
        from: None,
    };
    let (mut from, mut tried) = (None, Vec::new());
    loop {
        from = client.ask(&Request::Explain(Tuple { from, ..tuple }), |answer| {
            let Ok(Reply::Explain(explanation)) = answer else { panic!("{answer:?}") };
            assert_eq!((explanation.action, explanation.rule), (Action::Block, Some(1000)));
            tried.extend(explanation.steps.iter().map(|step| (step.rule, step.failed)));
            explanation.next
        });
        if from.is_none() {
            break;
        }
    }
    // Every rule before it fails for its remote port alone.
    let expected: Vec<_> = (0..1000).map(|rule| (rule, 8)).chain([(1000, 0)]).collect();
    assert_eq!(tried, expected);

    let mut read = Vec::new();
    loop {
        let offset = u32::try_from(read.len()).unwrap();
        let more = client.ask(&Request::PolicyRead(ReadImage { generation, offset }), |answer| {
            let Ok(Reply::PolicyRead(part)) = answer else { panic!("{answer:?}") };
            assert_eq!(part.size as usize, image.len());
            read.extend_from_slice(part.bytes);
            !part.bytes.is_empty()
        });
        if !more {
            break;
        }
    }
    assert_eq!(read, image);
    let other = ReadImage { generation: generation + 1, offset: 0 };
    assert_eq!(client.refused(&Request::PolicyRead(other)), ErrorCode::Conflict);
    plane.end();
}

#[test]
fn large_and_small_requests_in_turn_lose_nothing() {
    for seed in 0..6 {
        for completion in [Completion::Inline, Completion::Pending, Completion::OtherThread] {
            let plane =
                Plane::start(wsk::Config { seed, completion, ..wsk::Config::default() }, &parameters());
            let mut client = plane.client();
            let bytes = [7; 16_000];
            let size = u32::try_from(20 * bytes.len()).unwrap();
            for _ in 0..4 {
                let begin = Request::PolicyBegin(Begin { size, digest: [0; 32] });
                let upload = client.ask(&begin, |answer| match answer {
                    Ok(Reply::PolicyBegin(answer)) => answer.upload,
                    other => panic!("{other:?}"),
                });
                let mut frames = Vec::new();
                for number in 0..20 {
                    let offset = u32::try_from(number * bytes.len()).unwrap();
                    let chunk = Request::PolicyChunk(Chunk { upload, offset, bytes: &bytes });
                    frames.extend(client.frame(Some(1_000), &chunk));
                    for _ in 0..number {
                        frames.extend(client.frame(Some(2_000), &Request::Ping(Empty {})));
                    }
                }
                client.peer.send(&frames).unwrap();
                for _ in 0..20 + 190 {
                    let message = client.receive().unwrap();
                    assert!(
                        matches!(Answer::decode(&message), Ok((Some(_), Answer::Reply(_)))),
                        "{message:?}"
                    );
                }
                // Another one, so that the upload is forgotten and the inbox small again.
                let begin = Request::PolicyBegin(Begin { size: 0, digest: [0; 32] });
                assert_eq!(client.refused(&begin), ErrorCode::Malformed);
                client.ask(&Request::Ping(Empty {}), |answer| assert!(answer.is_ok()));
            }
            plane.end();
        }
    }
}

#[test]
fn a_policy_is_confirmed_by_another_operators_connection_or_rolled_back() {
    let plane = plane();
    let mut client = plane.client();
    let first = apply(&mut client, &blocking(23), None);
    assert_eq!(
        client.refused(&Request::PolicyConfirm(Generation { generation: first + 1 })),
        ErrorCode::Conflict
    );
    drop(client);
    let mut client = plane.client();
    client.ask(&Request::PolicyConfirm(Generation { generation: first }), |answer| {
        assert!(matches!(answer, Ok(Reply::PolicyConfirm(Generation { generation })) if generation == first));
    });
    status(&mut client, |status| assert_eq!(status.policy, PolicyState::Confirmed));

    let second = apply(&mut client, &blocking(25), Some(3600));
    // Another one while it is provisional is not taken.
    let image = blocking(26);
    let upload = upload(&mut client, &image, digest(&image));
    let commit = Commit { upload, window: None, replaces: None };
    assert_eq!(client.refused(&Request::PolicyCommit(commit)), ErrorCode::Busy);
    client.ask(&Request::PolicyRollback(Generation { generation: second }), |answer| {
        assert!(
            matches!(answer, Ok(Reply::PolicyRollback(Generation { generation })) if generation == first)
        );
    });
    status(&mut client, |status| {
        assert_eq!((status.policy, status.generation), (PolicyState::Confirmed, first));
    });
    plane.end();
}

#[test]
fn a_policy_that_nobody_confirms_goes_when_its_window_is_over_whoever_is_there() {
    let plane = plane();
    let mut client = plane.client();
    apply(&mut client, &blocking(23), Some(1));
    client.peer.reset();
    drop(client);
    eventually("it is gone", || {
        std::thread::sleep(Duration::from_millis(50));
        status(&mut plane.client(), |status| status.policy == PolicyState::Absent)
    });
    plane.end();
}

#[test]
fn a_policy_that_is_not_what_was_announced_or_no_policy_changes_nothing() {
    let plane = plane();
    let mut client = plane.client();
    let image = blocking(23);
    let number = upload(&mut client, &image, [7; 32]);
    let commit = |upload| Request::PolicyCommit(Commit { upload, window: None, replaces: None });
    assert_eq!(client.refused(&commit(number)), ErrorCode::Digest);
    assert_eq!(client.refused(&commit(number + 1)), ErrorCode::NotFound);
    let number = upload(&mut client, b"no policy", digest(b"no policy"));
    assert_eq!(client.refused(&commit(number)), ErrorCode::PolicyRefused);
    assert_eq!(client.refused(&commit(number)), ErrorCode::NotFound);
    let zero = Begin { size: 0, digest: [0; 32] };
    assert_eq!(client.refused(&Request::PolicyBegin(zero)), ErrorCode::Malformed);
    let huge = Begin { size: u32::MAX, digest: [0; 32] };
    assert_eq!(client.refused(&Request::PolicyBegin(huge)), ErrorCode::Limit);
    let generation = Generation { generation: 1 };
    assert_eq!(client.refused(&Request::PolicyConfirm(generation)), ErrorCode::Conflict);
    status(&mut client, |status| assert_eq!((status.policy, status.generation), (PolicyState::Absent, 0)));
    plane.end();
}

#[test]
fn events_are_sent_as_far_as_there_is_credit_and_losses_are_told_exactly() {
    let plane = plane();
    let mut client = plane.client();
    client.send(Some(77), &Request::Subscribe(subscribe(3)));
    let answer = client.receive().unwrap();
    assert!(matches!(Answer::decode(&answer), Ok((Some(77), Answer::Reply(Reply::Subscribe(Empty {}))))));
    for _ in 0..10 {
        trace::emit(&FAULT);
    }
    let (mut sent, mut lost) = (0, 0);
    let mut take = |client: &mut Client| {
        client.events(|id, events| {
            assert_eq!((id, events.first), (77, sent));
            for event in events.events.iter() {
                assert_eq!((event.id, event.values().count()), (FAULT_ID, 2));
                sent += 1;
            }
            for loss in events.lost.unwrap_or_default().iter() {
                assert_eq!(loss.event, FAULT_ID);
                lost += loss.count;
            }
            sent + lost
        })
    };
    while take(&mut client) < 10 {}
    client.send(None, &Request::Credit(Credit { subscription: 77, credit: 100 }));
    status(&mut client, |_| ());
    trace::emit(&FAULT);
    while take(&mut client) < 11 {}
    assert_eq!((sent, lost), (4, 7));
    client.ask(&Request::Unsubscribe(Unsubscribe { subscription: 77 }), |answer| {
        let Ok(Reply::Unsubscribe(ended)) = answer else { panic!("{answer:?}") };
        assert_eq!((ended.sent, ended.lost.len()), (4, 0));
    });
    assert_eq!(client.refused(&Request::Unsubscribe(Unsubscribe { subscription: 77 })), ErrorCode::NotFound);
    plane.end();
}

#[test]
fn a_subscription_gets_what_it_asked_for_and_there_is_one_at_a_time() {
    let plane = plane();
    let mut client = plane.client();
    let mut bytes = [0; 16];
    let mut ids = ListWriter::new(&mut bytes);
    ids.push(&FAULT_ID).unwrap();
    let wanted = Subscribe { ids: Some(ids.finish()), ..subscribe(1000) };
    client.ask(&Request::Subscribe(wanted), |answer| assert!(answer.is_ok(), "{answer:?}"));
    assert_eq!(client.refused(&Request::Subscribe(subscribe(1))), ErrorCode::Limit);
    let wrong = Subscribe { level: Some(9), ..subscribe(1) };
    assert_eq!(plane.client().refused(&Request::Subscribe(wrong)), ErrorCode::Malformed);
    trace::emit(&Event::FiltersGone {});
    trace::emit(&FAULT);
    let ids = client.events(|_, events| events.events.iter().map(|event| event.id).collect::<Vec<_>>());
    assert_eq!(ids, [FAULT_ID]);
    plane.end();
}

/// Connections in the table.
fn connections(plane: &Plane, count: u16) {
    for port in 0..count {
        let key = Key {
            family: Family::V4,
            protocol: 6,
            local: [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            remote: [198, 51, 100, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            local_port: port,
            remote_port: 443,
        };
        let decided = Decided { action: Action::Audit, rule: Some(3), generation: 2 };
        let mut passive = control_support::passive();
        let flows = &plane.parts().flows;
        let raised = passive.raise();
        let made =
            flows.insert(flows.next_number(), key, Direction::Out, port.into(), decided, &raised.token());
        let Ok(Inserted::New(connection)) = made else { panic!("no connection") };
        connection.count(Direction::Out, 2, 1000 + u64::from(port));
    }
}

#[test]
fn connections_are_listed_whole() {
    let plane = plane();
    connections(&plane, 900);
    let mut client = plane.client();
    let (mut from, mut listed) = (None, BTreeMap::new());
    loop {
        from = client.ask(&Request::Connections(From { from }), |answer| {
            let Ok(Reply::Connections(part)) = answer else { panic!("{answer:?}") };
            for connection in part.connections.iter() {
                assert_eq!(
                    (connection.verdict, connection.rule, connection.generation),
                    (Action::Audit, Some(3), 2)
                );
                assert_eq!(connection.remote, IpAddr::from([198, 51, 100, 7]));
                listed.insert(connection.local_port, (connection.packets_out, connection.bytes_out));
            }
            part.next
        });
        if from.is_none() {
            break;
        }
    }
    assert!(listed.into_iter().eq((0..900).map(|port| (port, (2, 1000 + u64::from(port))))));
    plane.end();
}

#[test]
fn a_snapshot_waits_for_credit_and_loses_nothing() {
    let plane = plane();
    connections(&plane, 500);
    let mut client = plane.client();
    let wanted = Subscribe { keywords: Some(0x10), snapshot: Some(true), ..subscribe(1) };
    client.send(Some(5), &Request::Subscribe(wanted));
    client.receive().unwrap();
    let (mut ports, mut over) = (Vec::new(), false);
    while !over {
        client.events(|_, events| {
            assert!(events.lost.is_none());
            ports.extend(events.events.iter().map(|event| {
                assert_eq!(event.id, 41);
                format!("{:?}", event.values().nth(4))
            }));
            over = events.snapshot_end == Some(true);
        });
        client.send(None, &Request::Credit(Credit { subscription: 5, credit: 60 }));
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 500);
    plane.end();
}

#[test]
fn a_snapshot_ends_where_nothing_of_it_is_wanted() {
    let plane = plane();
    connections(&plane, 500);
    let mut client = plane.client();
    let mut bytes = [0; 16];
    let mut ids = ListWriter::new(&mut bytes);
    // FlowClosed, and no FlowOpened.
    ids.push(&42_u16).unwrap();
    let wanted = Subscribe { ids: Some(ids.finish()), snapshot: Some(true), ..subscribe(10) };
    client.send(Some(5), &Request::Subscribe(wanted));
    client.receive().unwrap();
    client.events(|_, events| {
        assert_eq!((events.events.len(), events.snapshot_end), (0, Some(true)));
    });
    plane.end();
}

#[test]
fn observers_leave_places_for_operators() {
    let settings = Settings { control_max_sessions: 16, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let mut eyes = Vec::new();
    loop {
        let mut eye = Client::connect(plane.connect(), &OBSERVER).unwrap();
        eye.send(Some(1), &Request::Ping(Empty {}));
        if eye.receive().is_err() {
            break;
        }
        eyes.push(eye);
    }
    assert_eq!(eyes.len(), 14);
    eventually("the last one is gone", || plane.control().counters().closed == 1);
    let mut operators = [plane.client(), plane.client()];
    for operator in &mut operators {
        status(operator, |status| assert_eq!(status.sessions, 16));
    }
    plane.end();
}

#[test]
fn one_connection_sends_a_policy_up_at_a_time() {
    let plane = plane();
    let (mut first, mut second) = (plane.client(), plane.client());
    let image = blocking(23);
    let begin =
        Request::PolicyBegin(Begin { size: u32::try_from(image.len()).unwrap(), digest: digest(&image) });
    first.ask(&begin, |answer| assert!(answer.is_ok()));
    first.ask(&begin, |answer| assert!(answer.is_ok()));
    assert_eq!(second.refused(&begin), ErrorCode::Busy);
    apply(&mut first, &image, None);
    second.ask(&begin, |answer| assert!(answer.is_ok()));
    assert_eq!(first.refused(&begin), ErrorCode::Busy);
    second.peer.reset();
    eventually("it is gone", || plane.control().counters().closed == 1);
    first.ask(&begin, |answer| assert!(answer.is_ok()));
    plane.end();
}

#[test]
fn an_order_is_answered_to_a_client_that_sends_nothing_more() {
    let plane = plane();
    let mut client = plane.client();
    let generation = apply(&mut client, &blocking(23), None);
    client.send(Some(50), &Request::PolicyConfirm(Generation { generation }));
    client.peer.end();
    let answer = client.receive().unwrap();
    let Ok((Some(50), Answer::Reply(Reply::PolicyConfirm(confirmed)))) = Answer::decode(&answer) else {
        panic!("{answer:?}")
    };
    assert_eq!(confirmed.generation, generation);
    assert!(client.peer.recv_to_end().unwrap().is_empty());
    plane.end();
}

#[test]
fn a_subscriber_that_reads_nothing_loses_its_own_events_and_costs_nobody_else_any() {
    let settings = Settings { control_max_sessions: 8, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let mut stuck: Vec<_> = (0..3).map(|_| plane.client()).collect();
    for client in &mut stuck {
        client.ask(&Request::Subscribe(subscribe(u32::MAX)), |answer| assert!(answer.is_ok()));
        client.peer.stall(true);
    }
    let mut reader = plane.client();
    reader.ask(&Request::Subscribe(subscribe(u32::MAX)), |answer| assert!(answer.is_ok()));
    let wanted = 30_000;
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..wanted {
                // No further ahead than a log has room for from the beginning.
                while number > got.load(Ordering::Relaxed) + 100 {
                    std::thread::yield_now();
                }
                trace::emit(&FAULT);
            }
        });
        while got.load(Ordering::Relaxed) < wanted {
            let events = reader.events(|_, events| {
                assert!(events.lost.is_none(), "{:?}", events.lost);
                events.events.len()
            });
            got.fetch_add(events, Ordering::Relaxed);
        }
    });
    // They have room for some, and hear how many they have missed.
    for client in &mut stuck {
        client.peer.stall(false);
        let (mut sent, mut lost) = (0, 0);
        while sent + lost < wanted as u64 {
            client.events(|_, events| {
                assert_eq!(events.first, sent);
                sent += events.events.len() as u64;
                lost += events.lost.unwrap_or_default().iter().map(|loss| loss.count).sum::<u64>();
            });
        }
        assert!(lost > 0 && sent > 100, "{sent} {lost}");
    }
    plane.end();
}

/// Emits events until it is dropped.
struct Emitter {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Emitter {
    fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                while !over.load(Ordering::Relaxed) {
                    trace::emit(&FAULT);
                    std::thread::yield_now();
                }
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Emitter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn a_subscriber_that_reads_slowly_gets_full_messages() {
    let plane = plane();
    let mut client = plane.client();
    client.ask(&Request::Subscribe(subscribe(u32::MAX)), |answer| assert!(answer.is_ok()));
    let emitter = Emitter::start();
    let (mut sent, mut longest) = (0, 0);
    let start = Instant::now();
    while longest < MAX_MESSAGE - 64 && start.elapsed() < Duration::from_secs(20) {
        // Now and then it takes nothing for a while.
        client.peer.stall(true);
        std::thread::sleep(Duration::from_millis(20));
        client.peer.stall(false);
        for _ in 0..200 {
            let message = client.receive().unwrap();
            longest = longest.max(message.len());
            let Ok((Some(_), Answer::Events(events))) = Answer::decode(&message) else { panic!("no events") };
            assert_eq!(events.first, sent);
            sent += events.events.len() as u64;
        }
    }
    drop(emitter);
    assert!(longest >= MAX_MESSAGE - 64, "{longest}");
    plane.end();
}

#[test]
fn subscribers_that_come_and_go_while_events_are_told_leave_nothing_behind() {
    let settings = Settings { control_max_sessions: 64, control_connect_burst: 100, ..parameters() };
    let plane = Plane::start(wsk::Config::default(), &settings);
    let emitter = Emitter::start();
    for round in 0..60 {
        let mut client = plane.client();
        client.ask(&Request::Subscribe(subscribe(10_000)), |answer| assert!(answer.is_ok()));
        client.events(|_, events| assert!(!events.events.is_empty()));
        match round % 3 {
            0 => client.peer.end(),
            1 => client.peer.reset(),
            _ => {
                let mut ended = false;
                client.send(Some(9), &Request::Unsubscribe(Unsubscribe { subscription: 1 }));
                while !ended {
                    let message = client.receive().unwrap();
                    ended = matches!(
                        Answer::decode(&message),
                        Ok((Some(9), Answer::Reply(Reply::Unsubscribe(_))))
                    );
                }
            }
        }
    }
    drop(emitter);
    plane.end();
}

#[test]
fn a_hundred_sessions_that_follow_events_need_less_than_four_mebibytes() {
    let settings = Settings {
        control_max_sessions: 100,
        control_connect_burst: 200,
        control_max_unauthenticated: 100,
        ..parameters()
    };
    let plane = Plane::start(wsk::Config::default(), &settings);
    plane.address();
    let before = plane.sim.pool_usage().bytes;
    let mut clients: Vec<_> = (0..100).map(|_| plane.client()).collect();
    for client in &mut clients {
        client.ask(&Request::Subscribe(subscribe(u32::MAX)), |answer| assert!(answer.is_ok()));
    }
    // As much as they can ever have: they take nothing, and much happens.
    for client in &clients {
        client.peer.stall(true);
    }
    for _ in 0..20_000 {
        trace::emit(&FAULT);
    }
    let used = plane.sim.pool_usage().bytes - before;
    println!("{used} bytes, {} each", used / 100);
    assert!(used < 4 << 20, "{used}");
    drop(clients);
    plane.end();
}
