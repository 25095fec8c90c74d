//! A stand-in for a driver: the protocol's own code over loopback TCP, with answers made up here.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use weir::config::schema::SPOKEN;
use weir::control::protocol::frame::{HEADER, Reader, header};
use weir::control::protocol::message::{
    self, Applied, Begun, Capabilities, Connection, Connections, Control, Controlled, Counter, Counters,
    Empty, ErrorCode, Explanation, Extended, Extension, ExtensionState, Extensions, Failure, Generation,
    Image, ListWriter, MAX_CONTROL, MAX_LIST, Metric, Policy, PolicyState, Reply, Request, Rule, Session,
    SessionState, Sessions, Setting, Settings, SocketKind, Status, Step, Time, Unsubscribed, Uploaded,
    Welcome,
};
use weir::control::protocol::noise::{FIRST, Initiator, Keys, PublicKey, Responder, SECOND, Transport};
use weir::control::protocol::role::{Peer, Role};
use weir::control::protocol::subscription::Subscription;
use weir::control::protocol::upload::Upload;
use weir::control::protocol::{MAX_FRAME, MAX_MESSAGE, common_version, seal};
use weir::policy::{Action, Direction};
use weir::trace::events::{Event, FailMode, Origin, Provider};
use weir::trace::{Guid, NtStatus};

/// The vendor's module.
const MODULE: Guid = Guid { data1: 0xABCD_EF01, data2: 5, data3: 6, data4: [7; 8] };

/// What the driver's clock says.
pub const NOW: u64 = 133_800_000_000_000_000;

/// What all connections see.
#[derive(Debug, Default)]
pub struct Driver {
    pub image: Vec<u8>,
    pub generation: u32,
    /// The generation that awaits its confirmation, and its window in seconds.
    pub provisional: Option<(u32, u32)>,
    /// Connections that got through the handshake.
    pub sessions: u64,
}

/// The driver, as long as this is there.
pub struct Server {
    pub address: SocketAddr,
    pub key: PublicKey,
    pub driver: Arc<Mutex<Driver>>,
}

/// A peer with that private key, 32 times the same byte.
pub fn peer(name: &str, role: Role, private: u8) -> Peer {
    let text = format!("{name}={role}:{}", Keys::new(&[private; 32]).public());
    Peer::parse(text.encode_utf16()).unwrap()
}

impl Server {
    /// Listens; its threads end with the process.
    pub fn start(peers: Vec<Peer>) -> Self {
        let keys = Keys::new(&[0x22; 32]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, key) = (listener.local_addr().unwrap(), *keys.public());
        let driver = Arc::new(Mutex::new(Driver::default()));
        let state = Arc::clone(&driver);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if let Some(served) = Served::accept(stream.unwrap(), &keys, &peers, &state) {
                    thread::spawn(move || served.serve());
                }
            }
        });
        Self { address, key, driver }
    }
}

/// One connection, as the driver has it.
pub struct Served {
    stream: TcpStream,
    reader: Reader,
    /// What was received and belongs to later frames.
    ahead: Vec<u8>,
    transport: Transport,
    peer: Peer,
    driver: Arc<Mutex<Driver>>,
    session: u64,
    /// What goes up.
    image: Vec<u8>,
    upload: Option<Upload>,
    subscription: Option<Subscription>,
}

/// The next frame, through a reader that is given one piece after the other; `None`: there is none any more.
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
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => ahead.extend(&piece[..count]),
        }
    }
}

fn failure(code: ErrorCode) -> Failure<'static> {
    Failure { code, text: None, status: None, key: None, at: None }
}

impl Served {
    /// Takes a connection up to the end of the handshake; `None`: it is not one of the peers.
    pub fn accept(
        mut stream: TcpStream,
        keys: &Keys,
        peers: &[Peer],
        driver: &Arc<Mutex<Driver>>,
    ) -> Option<Self> {
        let (mut reader, mut ahead) = (Reader::new(FIRST), Vec::new());
        let mut first = frame(&mut stream, &mut reader, &mut ahead)?;
        let responder = Responder::read(keys, &mut first).ok()?;
        let peer = *Peer::find(peers, responder.peer())?;
        let mut second = [0; SECOND];
        let transport = responder.accept(&[0x5A; 32], &mut second).unwrap();
        stream.write_all(&[&header(SECOND).unwrap()[..], &second].concat()).unwrap();
        Some(Self::open(stream, reader, ahead, transport, peer, driver))
    }

    /// Dials the peer; `None`: it does not answer.
    pub fn dial(to: SocketAddr, keys: &Keys, peer: &Peer, driver: &Arc<Mutex<Driver>>) -> Option<Self> {
        let mut stream = TcpStream::connect(to).ok()?;
        let mut first = [0; FIRST];
        let initiator = Initiator::start(keys, &peer.key, &[0xA5; 32], &mut first).unwrap();
        stream.write_all(&[&header(FIRST).unwrap()[..], &first].concat()).ok()?;
        let (mut reader, mut ahead) = (Reader::new(SECOND), Vec::new());
        let transport = initiator.finish(&mut frame(&mut stream, &mut reader, &mut ahead)?).ok()?;
        Some(Self::open(stream, reader, ahead, transport, *peer, driver))
    }

    fn open(
        stream: TcpStream,
        mut reader: Reader,
        ahead: Vec<u8>,
        transport: Transport,
        peer: Peer,
        driver: &Arc<Mutex<Driver>>,
    ) -> Self {
        reader.set_limit(MAX_FRAME);
        let mut state = driver.lock().unwrap();
        state.sessions += 1;
        let (session, driver) = (state.sessions, Arc::clone(driver));
        let (image, upload, subscription) = (Vec::new(), None, None);
        Self { stream, reader, ahead, transport, peer, driver, session, image, upload, subscription }
    }

    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut message = frame(&mut self.stream, &mut self.reader, &mut self.ahead)?;
        Some(self.transport.open(&mut message).unwrap().to_vec())
    }

    /// Sends the message that `write` puts into a buffer.
    pub fn send(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
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
    pub fn serve(mut self) {
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
            // Sessions from somewhere on are answered when there are three requests, the last first.
            if let Request::Sessions(message::From { from: Some(_) }) = request {
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
            session: self.session,
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
                        session: self.session,
                        peer: name,
                        role,
                        capabilities: (Capabilities::APPLY | Capabilities::SNAPSHOT).bits(),
                    })
                });
                self.reply(id, welcome);
            }
            Request::Ping(_) => self.reply(id, Ok(Reply::Ping(Time { now: NOW }))),
            Request::Status(_) => self.status(id),
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
                let expected = (Direction::Out, Some(443), Some(r"\device\x\a.exe"));
                let asked = (tuple.direction, tuple.remote_port, tuple.application);
                assert_eq!(asked, expected);
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
            Request::Extensions(_) | Request::ExtensionMetric(_) | Request::ExtensionControl(_) => {
                self.extensions(id, request);
            }
            Request::Settings(_) => {
                let mut rows = ListWriter::new(&mut place);
                let row = |name, pending| Setting {
                    name,
                    origin: if pending { Origin::Policy } else { Origin::Registry },
                    pending,
                    value: Some(1),
                    next: pending.then_some(2),
                    refused: pending.then_some("out-of-range"),
                    refused_policy: None,
                };
                rows.push(&row("VerdictSampling", false)).unwrap();
                rows.push(&row("FailMode", true)).unwrap();
                self.reply(id, Ok(Reply::Settings(Settings { settings: rows.finish(), next: None })));
            }
            Request::Connections(message::From { from }) => {
                let mut rows = ListWriter::new(&mut place);
                // In three parts.
                let (from, last) = (from.unwrap_or(0), 5);
                let end = (from + 2).min(last);
                for number in from..end {
                    rows.push(&connection(number)).unwrap();
                }
                let next = (end < last).then_some(end);
                let connections = rows.finish();
                self.reply(id, Ok(Reply::Connections(Connections { connections, next })));
            }
            Request::Subscribe(_) | Request::Credit(_) | Request::Unsubscribe(_) => self.events(id, request),
            _ => self.policy(id, request),
        }
    }

    fn extensions(&mut self, id: Option<u64>, request: &Request<'_>) {
        let mut place = vec![0; MAX_LIST];
        match *request {
            Request::Extensions(_) => {
                let mut rows = ListWriter::new(&mut place);
                let unknown = Guid { data1: 0x5746_5043, data2: 1, data3: 2, data4: [3; 8] };
                let row = |session, state, status| Extension {
                    session,
                    interface: if session == 0 { unknown } else { SPOKEN[0] },
                    state,
                    required: session == 0,
                    provider: Some(if session == 0 { Provider::Builtin } else { Provider::Nmr }),
                    status,
                    callbacks: session,
                    kind: Some(if session == 0 { SocketKind::Listening } else { SocketKind::Accepted }),
                    module: (session != 0).then_some(MODULE),
                };
                let refused = Some(NtStatus(0xC000_00BB_u32.cast_signed()));
                rows.push(&row(0, ExtensionState::Refused, refused)).unwrap();
                rows.push(&row(self.session, ExtensionState::Registered, None)).unwrap();
                self.reply(id, Ok(Reply::Extensions(Extensions { extensions: rows.finish(), next: None })));
            }
            Request::ExtensionMetric(Extended { session, interface }) => {
                let reply = self.extension(session, interface).map(|provider| {
                    let round_trip = Some(1500);
                    Reply::ExtensionMetric(Metric { received: 1 << 40, sent: 77, round_trip, provider })
                });
                self.reply(id, reply);
            }
            Request::ExtensionControl(Control { session, interface, code, data }) => {
                let reply = self.extension(session, interface).and_then(|provider| match (code, data) {
                    (7, None) | (8, Some([0xAB, 0xCD])) => {
                        Ok(Reply::ExtensionControl(Controlled { provider }))
                    }
                    (_, data) if data.is_some_and(|data| data.len() > MAX_CONTROL) => {
                        Err(Failure { key: Some(3), ..failure(ErrorCode::Malformed) })
                    }
                    _ => {
                        let status = Some(NtStatus(0xC000_0010_u32.cast_signed()));
                        Err(Failure { status, text: Some("by nmr"), ..failure(ErrorCode::Failed) })
                    }
                });
                self.reply(id, reply);
            }
            _ => unreachable!("no request about extensions"),
        }
    }

    /// Who provides an interface for a session: for this one the first that weir knows.
    fn extension(&self, session: u64, interface: Guid) -> Result<Provider, Failure<'static>> {
        let there = session == self.session && interface == SPOKEN[0];
        if there { Ok(Provider::Nmr) } else { Err(failure(ErrorCode::NotFound)) }
    }

    fn status(&mut self, id: Option<u64>) {
        let (generation, provisional, sessions) = {
            let driver = self.driver.lock().unwrap();
            (driver.generation, driver.provisional, driver.sessions)
        };
        let policy = match (provisional, generation) {
            (Some(_), _) => PolicyState::Provisional,
            (None, 0) => PolicyState::Absent,
            (None, _) => PolicyState::Confirmed,
        };
        let status = Status {
            driver: "0.1.0",
            started: NOW,
            now: NOW + 75 * 10_000_000,
            filters: true,
            policy,
            generation,
            rules: 2 * u32::from(generation > 0),
            digest: (generation > 0).then_some([0xD1; 32]),
            rollback_in: provisional.map(|(_, window)| u64::from(window) * 1000),
            fail_mode: FailMode::Open,
            connections: 5,
            sessions: u32::try_from(sessions).unwrap(),
            degraded: 0,
            processors: 8,
        };
        self.reply(id, Ok(Reply::Status(status)));
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
                let mut driver = self.driver.lock().unwrap();
                let window = self.upload.as_ref().unwrap().commit(&commit);
                window.map_err(failure).and_then(|window| {
                    if driver.provisional.is_some() {
                        return Err(failure(ErrorCode::Busy));
                    }
                    if commit.replaces.is_some_and(|replaces| replaces != driver.generation) {
                        return Err(failure(ErrorCode::Conflict));
                    }
                    driver.generation += 1;
                    driver.provisional = Some((driver.generation, window));
                    driver.image.clone_from(&self.image);
                    let generation = driver.generation;
                    Ok(Reply::PolicyCommit(Applied { generation, rules: 2, window }))
                })
            }
            Request::PolicyConfirm(Generation { generation })
            | Request::PolicyRollback(Generation { generation }) => {
                let mut driver = self.driver.lock().unwrap();
                match (driver.provisional.take_if(|(open, _)| *open == generation), request) {
                    (None, _) => Err(failure(ErrorCode::Conflict)),
                    (Some(_), Request::PolicyConfirm(_)) => {
                        Ok(Reply::PolicyConfirm(Generation { generation }))
                    }
                    (Some(_), _) => {
                        driver.generation -= 1;
                        Ok(Reply::PolicyRollback(Generation { generation: driver.generation }))
                    }
                }
            }
            Request::PolicyRead(read) => {
                let image = self.driver.lock().unwrap().image.clone();
                let rest = &image[read.offset as usize..];
                let bytes = &rest[..rest.len().min(MAX_LIST)];
                let size = u32::try_from(image.len()).unwrap();
                self.reply(id, Ok(Reply::PolicyRead(Image { size, bytes })));
                return;
            }
            Request::PolicyShow(_) => {
                let mut place = vec![0; MAX_LIST];
                let mut rows = ListWriter::new(&mut place);
                rows.push(&Rule { rule: 0, name: "dns", action: Action::Allow, hits: Some(7) }).unwrap();
                rows.push(&Rule { rule: 1, name: "web", action: Action::Block, hits: None }).unwrap();
                let policy = Policy {
                    state: PolicyState::Confirmed,
                    generation: 3,
                    digest: None,
                    size: 4096,
                    default_action: Some(Action::Audit),
                    total: 2,
                    rules: rows.finish(),
                    next: None,
                };
                self.reply(id, Ok(Reply::PolicyShow(policy)));
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
                if subscribe.snapshot == Some(true) {
                    self.snapshot();
                } else {
                    self.happen();
                }
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

    /// The connections that are open.
    fn snapshot(&mut self) {
        let mut subscription = self.subscription.take().unwrap();
        for last in [false, true] {
            self.send(|buffer| {
                let mut batch = subscription.begin(buffer, 0).unwrap();
                for number in (0..5).filter(|_| !last) {
                    let open = connection(number);
                    let event = Event::FlowOpened {
                        connection: open.connection,
                        direction: open.direction,
                        protocol: open.protocol,
                        local: open.local,
                        local_port: open.local_port,
                        remote: open.remote,
                        remote_port: open.remote_port,
                    };
                    subscription.offer(event.id(), || batch.push(open.opened, &event));
                }
                batch.finish()
            });
            subscription.end_snapshot();
        }
        self.subscription = Some(subscription);
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
                let mut batch = subscription.begin(buffer, 0).unwrap();
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

/// A connection that is open.
fn connection(number: u32) -> Connection {
    let port = u16::try_from(number).unwrap();
    Connection {
        connection: u64::from(number) + 100,
        direction: Direction::Out,
        protocol: 6,
        local: [192, 0, 2, 1].into(),
        local_port: 50_000 + port,
        remote: [198, 51, 100, 7].into(),
        remote_port: 443,
        verdict: Action::Allow,
        rule: (number > 0).then_some(number),
        generation: 1,
        opened: NOW,
        packets_in: 10,
        packets_out: 20,
        bytes_in: 1 << 20,
        bytes_out: u64::from(number) * 1000,
    }
}
