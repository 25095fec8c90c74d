//! The client of the control protocol: what it does with what a driver, or something else, answers.

#[path = "../../../tests/protocol_client/server.rs"]
mod server;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use server::{Served, Server, peer};
use weir::control::protocol::message::{
    Answer, Counter, Counters, Empty, ErrorCode, Failure, From, ListWriter, Reply, Request, Subscribe, Time,
};
use weir::control::protocol::noise::{Keys, PublicKey};
use weir::control::protocol::role::Role;
use weir_cli::client::{Client, Error, Follower};
use weir_cli::record;

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn server() -> Server {
    Server::start(vec![peer("eye", Role::Observer, 0x30), peer("hand", Role::Operator, 0x31)])
}

fn connect(server: &Server, private: u8) -> Client {
    let keys = Keys::new(&[private; 32]);
    Client::connect(&server.address.to_string(), &keys, &server.key, PATIENCE).unwrap()
}

/// The error of a client that calls what `answer` makes of the connection.
fn error_of(patience: Duration, answer: impl FnOnce(TcpStream) + Send + 'static) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answering = thread::spawn(move || answer(listener.accept().unwrap().0));
    let keys = Keys::new(&[0x30; 32]);
    let called = Client::connect(&address, &keys, &PublicKey([9; 32]), patience);
    answering.join().unwrap();
    called.unwrap_err()
}

/// A client, and the driver that `answer` plays to it.
fn played(answer: impl FnOnce(Served) + Send + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let keys = Keys::new(&[0x22; 32]);
    let public = *keys.public();
    thread::spawn(move || {
        let peers = [peer("eye", Role::Observer, 0x30)];
        let (stream, _) = listener.accept().unwrap();
        answer(Served::accept(stream, &keys, &peers, &Arc::default()).unwrap());
    });
    Client::connect(&address, &Keys::new(&[0x30; 32]), &public, SHORT).unwrap()
}

#[test]
fn replies_may_come_in_any_order() {
    let server = server();
    let mut client = connect(&server, 0x30);
    // Three from somewhere on are answered backwards.
    let ids = [10, 11, 12].map(|from| client.send(&Request::Sessions(From { from: Some(from) })).unwrap());
    let ping = client.send(&Request::Ping(Empty {})).unwrap();
    assert_eq!(record!(client.reply(ping).unwrap(), Ping).unwrap(), Time { now: server::NOW });
    for id in ids {
        let reply = client.reply(id).unwrap();
        let sessions = record!(reply, Sessions).unwrap().sessions;
        assert_eq!(sessions.iter().next().unwrap().peer, Some("eye"));
    }
}

#[test]
fn long_lists_are_gathered_from_all_their_parts() {
    let mut client = connect(&server(), 0x30);
    let pages = client.pages(|from| Request::Counters(From { from })).unwrap();
    assert!(pages.len() > 1);
    let counters: Vec<_> = pages
        .iter()
        .flat_map(|page| record!(page, Counters).unwrap().counters.iter())
        .map(|counter| (counter.name.to_owned(), counter.value))
        .collect();
    let expected: Vec<_> = (0..2000_u64).map(|number| (format!("part.{number}"), number * number)).collect();
    assert_eq!(counters, expected);
    let whole = weir_cli::client::json::pages(&pages);
    assert_eq!(whole["counters"].as_array().unwrap().len(), 2000);
    assert_eq!(whole["counters"][3]["value"], 9);
    assert_eq!(whole.get("next"), None);
}

#[test]
fn a_list_that_goes_round_in_a_circle_is_given_up() {
    let mut client = played(|mut driver| {
        while let Some(message) = driver.receive() {
            let (id, _) = Request::decode(&message).unwrap();
            let mut place = [0; 64];
            let mut rows = ListWriter::new(&mut place);
            rows.push(&Counter { name: "a", value: 1, unit: None, gauge: None }).unwrap();
            let part = Counters { counters: rows.finish(), next: Some(7) };
            driver.send(|buffer| Reply::Counters(part).encode(id.unwrap(), buffer).unwrap());
        }
    });
    let error = client.pages(|from| Request::Counters(From { from })).unwrap_err();
    assert!(matches!(error, Error::Endless { asked: "counters" }), "{error}");
}

#[test]
fn a_policy_goes_up_in_chunks_and_comes_down_the_same() {
    let server = server();
    let mut client = connect(&server, 0x31);
    let image: Vec<_> = (0..400_000_u32).map(|number| (number * 7 % 251).to_le_bytes()[0]).collect();
    let applied = client.apply(&image, Some(5), Some(0)).unwrap();
    assert_eq!((applied.generation, applied.window), (1, 5));
    assert_eq!(server.driver.lock().unwrap().image, image);
    // The driver's errors go to the request that they are about, and the connection goes on.
    for (replaces, code) in [(None, ErrorCode::Busy), (Some(9), ErrorCode::Busy)] {
        let Error::Refused(refusal) = client.apply(&image, None, replaces).unwrap_err() else { panic!() };
        assert_eq!((refusal.request, refusal.code), ("policy commit", code));
    }
}

#[test]
fn what_the_role_does_not_allow_is_told_with_the_role_that_it_takes() {
    let mut client = connect(&server(), 0x30);
    let error = client.apply(&[1, 2, 3], None, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`policy begin` takes the role operator, which the driver does not give this key"
    );
    assert_eq!(client.hello().unwrap().role, Role::Observer, "the connection goes on");
}

#[test]
fn events_and_losses_add_up_while_credit_is_given_anew() {
    let mut client = connect(&server(), 0x30);
    let mut place = [0; 8];
    let mut ids = ListWriter::new(&mut place);
    ids.push(&40_u16).unwrap();
    let ids = Some(ids.finish());
    let request = Subscribe { credit: 10, level: None, keywords: None, ids, snapshot: None };
    let mut follower = Follower::start(&mut client, request).unwrap();
    let (mut arrived, mut lost, mut messages) = (0_u64, 0_u64, 0);
    // 25 for the subscription, and 25 for each time that credit is given.
    while arrived + lost < 200 {
        let message = follower.next(&mut client, Some(Instant::now() + PATIENCE)).unwrap().unwrap();
        let Answer::Events(events) = message.answer().unwrap() else { panic!() };
        assert_eq!(events.first, arrived);
        arrived += events.events.len() as u64;
        lost += events.lost.unwrap_or_default().iter().map(|loss| loss.count).sum::<u64>();
        messages += 1;
        assert!(messages < 1000);
    }
    assert!(lost >= 15 && arrived >= 20, "{arrived} arrived, {lost} lost");
    let ended = follower.stop(&mut client).unwrap();
    assert!(record!(ended, Unsubscribe).unwrap().sent >= arrived);
    // Requests go on beside it.
    client.ask(&Request::Status(Empty {})).unwrap();
}

#[test]
fn a_driver_that_dials_is_asked_like_one_that_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let own = Keys::new(&[0x31; 32]);
    let dial = |private: u8| {
        thread::spawn(move || {
            let (keys, controller) = (Keys::new(&[private; 32]), peer("center", Role::Operator, 0x31));
            if let Some(served) = Served::dial(address, &keys, &controller, &Arc::new(Mutex::default())) {
                served.serve();
            }
        })
    };
    let driver = *Keys::new(&[0x22; 32]).public();
    // Another driver is told from the one that is waited for.
    let stranger = dial(0x23);
    let error = Client::accept(listener.accept().unwrap().0, &own, &driver, PATIENCE).unwrap_err();
    assert!(matches!(error, Error::OtherDriver { key, .. } if key == *Keys::new(&[0x23; 32]).public()));
    stranger.join().unwrap();

    let serving = dial(0x22);
    let mut client = Client::accept(listener.accept().unwrap().0, &own, &driver, PATIENCE).unwrap();
    let welcome = client.hello().unwrap();
    assert_eq!((welcome.peer.as_str(), welcome.role), ("center", Role::Operator));
    drop(client);
    serving.join().unwrap();
}

#[test]
fn each_way_of_not_being_connected_says_what_it_may_be() {
    let server = server();
    let wrong = |private: u8, driver: PublicKey| {
        let keys = Keys::new(&[private; 32]);
        Client::connect(&server.address.to_string(), &keys, &driver, PATIENCE).unwrap_err()
    };
    // No peer, and another driver's key: the driver tells nothing, so neither does this.
    for error in [wrong(0x77, server.key), wrong(0x30, *Keys::new(&[5; 32]).public())] {
        assert!(matches!(error, Error::NotTaken { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("another key") && text.contains("among its peers"), "{text}");
    }

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let keys = Keys::new(&[0x30; 32]);
    let error = Client::connect(&free.to_string(), &keys, &server.key, PATIENCE).unwrap_err();
    assert!(error.to_string().starts_with(&format!("nothing listens at {free}")), "{error}");

    let error = Client::connect("no-such-host.invalid", &keys, &server.key, PATIENCE).unwrap_err();
    assert!(matches!(&error, Error::Resolve { host, .. } if host == "no-such-host.invalid"), "{error}");

    let error = error_of(PATIENCE, |mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap());
    assert!(error.to_string().contains("does not speak weir's control protocol"), "{error}");

    let error = error_of(PATIENCE, |mut stream| {
        stream.write_all(&[&[0, 48][..], &[7; 48]].concat()).unwrap();
        let _rest = stream.read(&mut [0; 200]);
    });
    assert!(matches!(error, Error::Handshake { .. }), "{error}");

    let begun = Instant::now();
    let error = error_of(SHORT, |stream| {
        thread::sleep(3 * SHORT);
        drop(stream);
    });
    assert!(error.to_string().contains("no answer to the handshake within 0.3 s"), "{error}");
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn an_answer_that_does_not_come_or_is_none_is_told_as_such() {
    let mut silent = played(|mut driver| while driver.receive().is_some() {});
    let error = silent.ask(&Request::Status(Empty {})).unwrap_err();
    assert!(matches!(error, Error::Late { what: "reply", .. }), "{error}");

    let mut closing = played(|mut driver| drop(driver.receive()));
    assert!(matches!(closing.ask(&Request::Status(Empty {})), Err(Error::Closed)));

    let mut other = played(|mut driver| {
        let message = driver.receive().unwrap();
        let (id, _) = Request::decode(&message).unwrap();
        driver.send(|buffer| Reply::Ping(Time { now: 1 }).encode(id.unwrap(), buffer).unwrap());
        driver.receive();
    });
    let error = other.ask(&Request::Status(Empty {})).unwrap_err();
    assert!(matches!(error, Error::Unexpected { number: 130 }), "{error}");

    let mut garbage = played(|mut driver| {
        driver.receive();
        driver.send(|buffer| {
            buffer[..3].copy_from_slice(&[0xA1, 0x00, 0xFF]);
            3
        });
        driver.receive();
    });
    assert!(matches!(garbage.ask(&Request::Status(Empty {})), Err(Error::Malformed(_))));
}

#[test]
fn an_older_driver_is_told_from_one_that_refuses() {
    let mut client = played(|mut driver| {
        for code in [ErrorCode::UnknownRequest, ErrorCode::Version, ErrorCode::Limit] {
            let message = driver.receive().unwrap();
            let (id, _) = Request::decode(&message).unwrap();
            let text = (code == ErrorCode::Limit).then_some("too many");
            let failure = Failure { code, text, status: None, key: Some(3), at: None };
            driver.send(|buffer| failure.encode(id.unwrap(), buffer).unwrap());
        }
        driver.receive();
    });
    let mut said = || client.ask(&Request::Connections(From { from: None })).unwrap_err().to_string();
    assert!(said().contains("does not know the request `connections`: it is older"));
    assert!(said().contains("no version of the protocol"));
    assert_eq!(said(), "the driver refuses `connections`: limit: too many, at key 3");
}

#[test]
fn messages_of_later_versions_are_passed_over() {
    let mut client = played(|mut driver| {
        let message = driver.receive().unwrap();
        let (id, _) = Request::decode(&message).unwrap();
        // {0: 300, 1: 1, 2: {}}
        let later = [0xA3, 0x00, 0x19, 0x01, 0x2C, 0x01, 0x01, 0x02, 0xA0];
        driver.send(|buffer| {
            buffer[..later.len()].copy_from_slice(&later);
            later.len()
        });
        driver.send(|buffer| Reply::Ping(Time { now: 1 }).encode(id.unwrap(), buffer).unwrap());
        driver.receive();
    });
    client.ask(&Request::Ping(Empty {})).unwrap();
}
