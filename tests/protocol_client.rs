//! A client in another language, written from PROTOCOL.md alone, gets what the page promises.
//!
//! It is tests/protocol_client/client.py, over Python's `noiseprotocol` and `cbor2`; what it speaks with is the
//! protocol's own code over loopback TCP, with answers made up here. The interpreter is that of `WEIR_TEST_PYTHON`, or
//! `python3`; without these packages the test says so and does nothing.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

use weir::control::protocol::frame::{HEADER, Reader, header};
use weir::control::protocol::message::{
    Applied, Begun, Counter, Counters, Empty, ErrorCode, Explanation, Failure, Generation, Image, ListWriter,
    MAX_LIST, PolicyState, Reply, Request, Session, SessionState, Sessions, Status, Step, Time, Unsubscribed,
    Uploaded, Welcome,
};
use weir::control::protocol::noise::{FIRST, Keys, Responder, SECOND, Transport};
use weir::control::protocol::role::{Peer, Role};
use weir::control::protocol::subscription::Subscription;
use weir::control::protocol::upload::Upload;
use weir::control::protocol::{MAX_FRAME, MAX_MESSAGE, common_version, seal};
use weir::policy::{Action, Direction};
use weir::trace::NtStatus;
use weir::trace::events::{Event, FailMode};

const NOW: u64 = 133_800_000_000_000_000;

/// One connection, as the driver has it.
struct Served {
    stream: TcpStream,
    reader: Reader,
    /// What was received and belongs to later frames.
    ahead: Vec<u8>,
    transport: Transport,
    peer: Peer,
    image: Vec<u8>,
    upload: Option<Upload>,
    generation: u32,
    subscription: Option<Subscription>,
}

/// The next frame, through a reader that is given one piece after the other; `None` at the stream's end.
fn frame(stream: &mut TcpStream, reader: &mut Reader, ahead: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let progress = reader.read(&mut buffer, ahead).unwrap();
        ahead.drain(..progress.taken);
        if let Some(length) = progress.frame {
            buffer.truncate(length);
            return Some(buffer);
        }
        // An odd size, so that frames are cut anywhere.
        let mut piece = [0; 1021];
        match stream.read(&mut piece).unwrap() {
            0 => return None,
            count => ahead.extend(&piece[..count]),
        }
    }
}

/// Takes a connection up to the end of the handshake; `None`: it is not one of the peers.
fn accept(mut stream: TcpStream, keys: &Keys, peers: &[Peer]) -> Option<Served> {
    let (mut reader, mut ahead) = (Reader::new(FIRST), Vec::new());
    let mut first = frame(&mut stream, &mut reader, &mut ahead)?;
    let responder = Responder::read(keys, &mut first).ok()?;
    let peer = *Peer::find(peers, responder.peer())?;
    let mut second = [0; SECOND];
    let transport = responder.accept(&[0x5A; 32], &mut second).unwrap();
    stream.write_all(&[&header(SECOND).unwrap()[..], &second].concat()).unwrap();
    reader.set_limit(MAX_FRAME);
    let (image, upload) = (Vec::new(), None);
    Some(Served { stream, reader, ahead, transport, peer, upload, image, generation: 0, subscription: None })
}

fn failure(code: ErrorCode) -> Failure<'static> {
    Failure { code, text: None, status: None, key: None, at: None }
}

impl Served {
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut message = frame(&mut self.stream, &mut self.reader, &mut self.ahead)?;
        Some(self.transport.open(&mut message).unwrap().to_vec())
    }

    /// Sends the message that `write` puts into a buffer.
    fn send(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut buffer = vec![0; HEADER + MAX_FRAME];
        let length = write(&mut buffer[HEADER..][..MAX_MESSAGE]);
        let size = seal(&mut self.transport, &mut buffer, length).unwrap();
        self.stream.write_all(&buffer[..size]).unwrap();
    }

    fn reply(&mut self, id: Option<u64>, reply: Result<Reply<'_>, Failure<'_>>) {
        let Some(id) = id else { return };
        self.send(|buffer| match reply {
            Ok(reply) => reply.encode(id, buffer).unwrap(),
            Err(failure) => failure.encode(id, buffer).unwrap(),
        });
    }

    /// Until the client goes.
    fn serve(mut self) {
        let mut backwards = Vec::new();
        while let Some(message) = self.receive() {
            let (id, request) = match Request::decode(&message) {
                Ok(decoded) => decoded,
                Err(rejected) => {
                    self.reply(rejected.id, Err(rejected.failure()));
                    continue;
                }
            };
            if !self.peer.role.includes(request.role()) {
                self.reply(id, Err(failure(ErrorCode::NotPermitted)));
                continue;
            }
            // Sessions are answered when there are three requests, the last first.
            if let Request::Sessions(_) = request {
                backwards.push(id);
                if backwards.len() == 3 {
                    for id in backwards.drain(..).rev() {
                        self.sessions(id);
                    }
                }
                continue;
            }
            self.handle(id, &request);
        }
    }

    fn sessions(&mut self, id: Option<u64>) {
        let mut place = vec![0; MAX_LIST];
        let mut rows = ListWriter::new(&mut place);
        let peer = self.peer;
        let address = self.stream.peer_addr().unwrap();
        let row = Session {
            session: 1,
            state: SessionState::Open,
            remote: address.ip(),
            remote_port: address.port(),
            dialled: false,
            since: NOW,
            peer: Some(peer.name.as_str()),
            role: Some(peer.role),
            received: 1,
            sent: 2,
            events: None,
            lost: None,
        };
        rows.push(&row).unwrap();
        self.reply(id, Ok(Reply::Sessions(Sessions { sessions: rows.finish(), next: None })));
    }

    fn handle(&mut self, id: Option<u64>, request: &Request<'_>) {
        let mut place = vec![0; MAX_LIST];
        match *request {
            Request::Hello(hello) => {
                let peer = self.peer;
                let version = common_version(hello.version).ok_or_else(|| failure(ErrorCode::Version));
                let welcome = version.map(|version| {
                    let (name, role) = (peer.name.as_str(), peer.role);
                    Reply::Hello(Welcome {
                        version,
                        driver: "0.1.0",
                        session: 1,
                        peer: name,
                        role,
                        capabilities: 0,
                    })
                });
                self.reply(id, welcome);
            }
            Request::Ping(_) => self.reply(id, Ok(Reply::Ping(Time { now: NOW }))),
            Request::Status(_) => {
                let status = Status {
                    driver: "0.1.0",
                    started: NOW,
                    now: NOW,
                    filters: true,
                    policy: PolicyState::Absent,
                    generation: 0,
                    rules: 0,
                    digest: None,
                    rollback_in: None,
                    fail_mode: FailMode::Open,
                    connections: 0,
                    sessions: 1,
                    degraded: 0,
                    processors: 8,
                };
                self.reply(id, Ok(Reply::Status(status)));
            }
            Request::Counters(from) => {
                let mut rows = ListWriter::new(&mut place);
                let mut next = None;
                for number in from.from.unwrap_or(0)..2000 {
                    let (name, value) = (format!("part.{number}"), u64::from(number).pow(2));
                    let row = Counter { name: &name, value, unit: Some("things"), gauge: None };
                    if rows.push(&row).is_err() {
                        next = Some(number);
                        break;
                    }
                }
                self.reply(id, Ok(Reply::Counters(Counters { counters: rows.finish(), next })));
            }
            Request::Explain(tuple) => {
                assert_eq!((tuple.direction, tuple.remote_port), (Direction::Out, Some(443)));
                assert_eq!(tuple.application, Some(r"\device\x\a.exe"));
                let mut steps = ListWriter::new(&mut place);
                for step in
                    [Step { rule: 0, name: "dns", failed: 8 | 16 }, Step { rule: 1, name: "web", failed: 0 }]
                {
                    steps.push(&step).unwrap();
                }
                let steps = steps.finish();
                let (action, rule) = (Action::Block, Some(1));
                self.reply(
                    id,
                    Ok(Reply::Explain(Explanation { action, rule, generation: 0, steps, next: None })),
                );
            }
            Request::Subscribe(_) | Request::Credit(_) | Request::Unsubscribe(_) => self.events(id, request),
            _ => self.policy(id, request),
        }
    }

    fn policy(&mut self, id: Option<u64>, request: &Request<'_>) {
        let reply = match *request {
            Request::PolicyBegin(begin) => {
                let upload = Upload::begin(6, &begin, 1 << 20).unwrap();
                self.image = vec![0; begin.size as usize];
                self.upload = Some(upload);
                Ok(Reply::PolicyBegin(Begun { upload: 6, chunk: u32::try_from(MAX_LIST).unwrap() }))
            }
            Request::PolicyChunk(chunk) => {
                let upload = self.upload.as_mut().unwrap();
                let place = upload.chunk(&chunk);
                place.map_err(failure).map(|place| {
                    self.image[place].copy_from_slice(chunk.bytes);
                    Reply::PolicyChunk(Uploaded { received: upload.received() })
                })
            }
            Request::PolicyCommit(commit) => {
                let window = self.upload.as_ref().unwrap().commit(&commit);
                window.map_err(failure).map(|window| {
                    self.generation += 1;
                    Reply::PolicyCommit(Applied { generation: self.generation, rules: 2, window })
                })
            }
            Request::PolicyConfirm(Generation { generation }) if generation == self.generation => {
                Ok(Reply::PolicyConfirm(Generation { generation }))
            }
            Request::PolicyConfirm(_) => Err(failure(ErrorCode::Conflict)),
            Request::PolicyRead(read) => {
                let image = self.image.clone();
                let rest = &image[read.offset as usize..];
                let bytes = &rest[..rest.len().min(MAX_LIST)];
                let size = u32::try_from(image.len()).unwrap();
                self.reply(id, Ok(Reply::PolicyRead(Image { size, bytes })));
                return;
            }
            ref other => panic!("{other:?} was not to be asked for"),
        };
        self.reply(id, reply);
    }

    fn events(&mut self, id: Option<u64>, request: &Request<'_>) {
        match *request {
            Request::Subscribe(subscribe) => {
                self.subscription = Some(Subscription::new(id.unwrap(), &subscribe).unwrap());
                self.reply(id, Ok(Reply::Subscribe(Empty {})));
                self.happen();
            }
            Request::Credit(credit) => {
                let subscription = self.subscription.as_mut().unwrap();
                assert_eq!(credit.subscription, subscription.id());
                subscription.grant(credit.credit);
                self.happen();
            }
            Request::Unsubscribe(_) => {
                let subscription = self.subscription.take().unwrap();
                let mut place = [0; 512];
                let mut lost = ListWriter::new(&mut place);
                subscription.losses().for_each(|loss| lost.push(&loss).unwrap());
                let (sent, _) = subscription.totals();
                self.reply(id, Ok(Reply::Unsubscribe(Unsubscribed { sent, lost: lost.finish() })));
            }
            _ => unreachable!("no request about events"),
        }
    }

    /// 25 events of each of two kinds, and one that is not wanted, in two messages.
    fn happen(&mut self) {
        let verdict = Event::ConnectionVerdict {
            connection: 5,
            verdict: Action::Block,
            rule: 3,
            generation: 2,
            direction: Direction::Out,
            protocol: 17,
            local: [10, 0, 0, 1].into(),
            local_port: 53,
            remote: "::1".parse().unwrap(),
            remote_port: 5353,
            reauthorized: false,
        };
        let fault = Event::Fault { operation: "opération", status: NtStatus(0xC000_009A_u32.cast_signed()) };
        for count in [20, 5] {
            let mut subscription = self.subscription.take().unwrap();
            self.send(|buffer| {
                let mut batch = subscription.begin(buffer).unwrap();
                for _ in 0..count {
                    for event in [&verdict, &fault, &Event::DriverStopped {}] {
                        subscription.offer(event.id(), || batch.push(NOW, event));
                    }
                }
                batch.finish()
            });
            self.subscription = Some(subscription);
        }
    }
}

/// An interpreter with the packages.
fn python() -> Option<String> {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let checked = Command::new(&python).args(["-c", "import cbor2, noise.connection"]).output();
    checked.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn a_client_written_from_the_page_in_another_language_works() {
    let Some(python) = python() else {
        println!("skipped: no Python with the packages noiseprotocol and cbor2 (WEIR_TEST_PYTHON names one)");
        return;
    };
    let keys = Keys::new(&[0x22; 32]);
    let client = |role: Role| Keys::new(&[0x30 | role as u8; 32]);
    let peer = |role: Role| {
        let text = format!("python={role}:{}", client(role).public());
        Peer::parse(text.encode_utf16()).unwrap()
    };
    let peers = [peer(Role::Observer), peer(Role::Operator)];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let driver_key = keys.public().to_string();
    let driver = thread::spawn(move || {
        for _ in 0..3 {
            let (stream, _) = listener.accept().unwrap();
            if let Some(served) = accept(stream, &keys, &peers) {
                served.serve();
            }
        }
    });
    let run = |private: u8, role: &str| -> Output {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol_client/client.py");
        let private = format!("{private:02x}").repeat(32);
        Command::new(&python)
            .args([script, "127.0.0.1", &port.to_string(), &private, &driver_key, role])
            .output()
            .unwrap()
    };
    for (private, role, expected) in [
        (0x30, "observer", "done observer\n"),
        (0x77, "stranger", "the driver has closed the connection\n"),
        (0x31, "operator", "done operator\n"),
    ] {
        let output = run(private, role);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
    driver.join().unwrap();
}
