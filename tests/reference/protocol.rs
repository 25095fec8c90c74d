//! The tables and the bytes in the control protocol's page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use minicbor::Decoder;
use minicbor::data::Type as Major;
use weir::control::protocol::message::{
    Answer, Batch, Capabilities, EVENTS, Empty, ErrorCode, Failure, Hello, Loss, RECORDS, REPLY, REQUESTS,
    Reply, Request, Shape, Status, Subscribe, Type, Welcome,
};
use weir::control::protocol::message::{ERROR, MAX_CONTROL, MAX_LIST, PolicyState};
use weir::control::protocol::noise::{FIRST, Initiator, Keys, REKEY_INTERVAL, Responder, SECOND, Transport};
use weir::control::protocol::role::{MAX_NAME, MAX_PEERS, Role};
use weir::control::protocol::subscription::MAX_IDS;
use weir::control::protocol::upload::{MAX_WINDOW, WINDOW};
use weir::control::protocol::{MAX_FRAME, MAX_MESSAGE, OVERHEAD, VERSION, frame, seal};
use weir::trace::events::{Event, FailMode, Keywords, Kind};

/// The page with what stands between its markers made anew.
pub fn page(page: &str) -> String {
    let parts: [(&str, String); 7] = [
        ("requests", requests()),
        ("records", records()),
        ("enumerations", enumerations()),
        ("capabilities", capabilities()),
        ("events", events()),
        ("limits", limits()),
        ("examples", examples()),
    ];
    let mut page = page.to_owned();
    for (name, made) in parts {
        let (start, end) = (format!("<!-- {name} -->\n"), "<!-- end -->");
        let (before, rest) = page.split_once(&start).unwrap_or_else(|| panic!("the page has no {start}"));
        let (_, after) = rest.split_once(end).unwrap();
        page = format!("{before}{start}{made}{end}{after}");
    }
    page
}

/// One line, with what would end a table's cell escaped.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn kind(kind: Type) -> String {
    match kind {
        Type::Bool => "bool".into(),
        Type::Unsigned(bits) => format!("uint, {bits} bits"),
        Type::Text => "text".into(),
        Type::Bytes => "bytes".into(),
        Type::Exactly(length) => format!("bytes, {length}"),
        Type::Address => "address".into(),
        Type::Named(name, _) | Type::Record(name) => name.into(),
        Type::List(item) => format!("list of {}", self::kind(*item)),
        Type::Events => "list of events".into(),
    }
}

fn requests() -> String {
    let mut text = String::from(
        "| number | name | role | request | reply | meaning |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for meta in REQUESTS {
        let (number, name, role) = (meta.number, meta.name, meta.role);
        let (request, reply, doc) = (meta.request.name, meta.reply.name, line(meta.doc));
        writeln!(text, "| {number} | {name} | {role} | {request} | {reply} | {doc} |").unwrap();
    }
    text
}

fn records() -> String {
    let mut text = String::new();
    for Shape { name, doc, keys } in RECORDS {
        writeln!(text, "**{name}**: {}", line(doc)).unwrap();
        if !keys.is_empty() {
            text += "\n| key | name | type | meaning |\n| --- | --- | --- | --- |\n";
        }
        for key in *keys {
            let optional = if key.optional { "*optional*; " } else { "" };
            let unit = if key.unit.is_empty() { String::new() } else { format!(" In {}.", key.unit) };
            let unit = unit.replace("In 100 ns since 1601, UTC", "A time");
            let (kind, doc) = (kind(key.kind), line(key.doc));
            writeln!(text, "| {} | {} | {optional}{kind} | {doc}{unit} |", key.key, key.name).unwrap();
        }
        text += "\n";
    }
    text.trim_end().to_owned() + "\n"
}

fn enumerations() -> String {
    let mut found = BTreeMap::new();
    for key in RECORDS.iter().flat_map(|shape| shape.keys) {
        if let Type::Named(name, values) = key.kind {
            found.insert(name, values);
        }
    }
    let mut text = String::from("| enumeration | value | name | meaning |\n| --- | --- | --- | --- |\n");
    for (name, values) in found {
        for (number, value, doc) in values {
            writeln!(text, "| {name} | {number} | {value} | {} |", line(doc)).unwrap();
        }
    }
    text
}

fn capabilities() -> String {
    let doc = |name| match name {
        "APPLY" => "Policies can be applied, confirmed and rolled back.",
        "STORE" => "A confirmed policy survives a restart.",
        "SNAPSHOT" => "A subscription can begin with the connections that are open already.",
        "HITS" => "Rules count what they decide.",
        other => panic!("{other} has no description"),
    };
    let mut text = String::from("| bit | meaning |\n| --- | --- |\n");
    for (name, value) in Capabilities::all().iter_names() {
        writeln!(text, "| {} | {} |", value.bits(), doc(name)).unwrap();
    }
    text
}

fn events() -> String {
    let keywords =
        |keywords: Keywords| keywords.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
    let mut text = String::from("| keyword | bit |\n| --- | --- |\n");
    for (name, value) in Keywords::all().iter_names() {
        writeln!(text, "| {name} | {} |", value.bits()).unwrap();
    }
    text += "\n| id | name | level | keywords | fields |\n| --- | --- | --- | --- | --- |\n";
    for meta in Event::TABLE {
        let field = |field: &weir::trace::events::FieldMeta| {
            let kind = match field.kind {
                Kind::Bool => "bool".into(),
                Kind::U8 => "uint, 8 bits".into(),
                Kind::U16 => "uint, 16 bits".into(),
                Kind::U32 | Kind::NtStatus => "uint, 32 bits".into(),
                Kind::U64 => "uint, 64 bits".into(),
                Kind::Guid => "bytes, 16".into(),
                Kind::Address => "address".into(),
                Kind::Bytes => "bytes".into(),
                Kind::Text | Kind::Wide => "text".into(),
                Kind::Named(values) => {
                    let values: Vec<_> =
                        values.iter().map(|(number, name)| format!("{number} {name}")).collect();
                    values.join(", ")
                }
            };
            let unit = if field.unit.is_empty() { String::new() } else { format!("; {}", field.unit) };
            format!("{} ({kind}{unit})", field.name)
        };
        let fields: Vec<_> = meta.fields.iter().map(field).collect();
        let (level, keywords, fields) = (meta.level as u8, keywords(meta.keywords), fields.join(", "));
        writeln!(text, "| {} | {} | {level} | {keywords} | {fields} |", meta.id, meta.name).unwrap();
    }
    text
}

fn limits() -> String {
    let mut text = String::from("| what | number |\n| --- | --- |\n");
    for (what, number) in [
        ("version", u64::from(VERSION)),
        ("bytes of the handshake's first message", FIRST as u64),
        ("bytes of its second message", SECOND as u64),
        ("most bytes of a frame after its length", MAX_FRAME as u64),
        ("most bytes of a message", MAX_MESSAGE as u64),
        ("most bytes of a chunk of a policy", MAX_LIST as u64),
        ("most bytes that go with a control code", MAX_CONTROL as u64),
        ("longest window, in seconds", MAX_WINDOW.into()),
        ("window if a commit names none, in seconds", WINDOW.into()),
        ("messages in one direction with one key", REKEY_INTERVAL),
        ("what a reply's number has besides its request's", REPLY.into()),
        ("the number of an error", ERROR.into()),
        ("the number of events", EVENTS.into()),
        ("most ids in a subscription", MAX_IDS as u64),
        ("most characters of a peer's name", MAX_NAME as u64),
        ("most peers", MAX_PEERS as u64),
    ] {
        writeln!(text, "| {what} | {number} |").unwrap();
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// CBOR's diagnostic notation (RFC 8949, section 8).
fn diagnostic(reader: &mut Decoder<'_>) -> String {
    match reader.datatype().unwrap() {
        Major::Map => {
            let count = reader.map().unwrap().unwrap();
            let items: Vec<_> =
                (0..count).map(|_| format!("{}: {}", diagnostic(reader), diagnostic(reader))).collect();
            format!("{{{}}}", items.join(", "))
        }
        Major::Array => {
            let count = reader.array().unwrap().unwrap();
            let items: Vec<_> = (0..count).map(|_| diagnostic(reader)).collect();
            format!("[{}]", items.join(", "))
        }
        Major::Bytes => format!("h'{}'", hex(reader.bytes().unwrap())),
        Major::String => format!("{:?}", reader.str().unwrap()),
        Major::Bool => reader.bool().unwrap().to_string(),
        _ => reader.u64().unwrap().to_string(),
    }
}

/// The bytes from `first` on.
fn counted(first: u8) -> [u8; 32] {
    std::array::from_fn(|index| first + u8::try_from(index).unwrap())
}

struct Examples {
    text: String,
    client: Transport,
    driver: Transport,
}

impl Examples {
    fn value(&mut self, name: &str, bytes: &[u8]) {
        writeln!(self.text, "{name}:\n```\n{}\n```", hex(bytes)).unwrap();
    }

    fn framed(&mut self, name: &str, message: &[u8]) {
        let length = frame::header(message.len()).unwrap();
        self.value(name, &[&length, message].concat());
    }

    /// A message, in the clear and as the frame that it is sent in.
    fn message(&mut self, name: &str, from_client: bool, message: &[u8]) {
        let shown = diagnostic(&mut Decoder::new(message));
        let mut buffer = vec![0; message.len() + OVERHEAD];
        buffer[frame::HEADER..][..message.len()].copy_from_slice(message);
        let from = if from_client { &mut self.client } else { &mut self.driver };
        let size = seal(from, &mut buffer, message.len()).unwrap();
        let sent = hex(&buffer[..size]);
        writeln!(self.text, "{name}:\n```\n{}\n{shown}\n\n{sent}\n```", hex(message)).unwrap();
    }

    fn request(&mut self, name: &str, id: Option<u64>, request: Request<'_>) {
        let mut buffer = vec![0; MAX_MESSAGE];
        let length = request.encode(id, &mut buffer).unwrap();
        assert_eq!(Request::decode(&buffer[..length]), Ok((id, request)));
        self.message(name, true, &buffer[..length]);
    }

    fn answer(&mut self, name: &str, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut buffer = vec![0; MAX_MESSAGE];
        let length = write(&mut buffer);
        assert!(Answer::decode(&buffer[..length]).is_ok());
        self.message(name, false, &buffer[..length]);
    }
}

fn examples() -> String {
    let (client, driver) = (Keys::new(&counted(0)), Keys::new(&counted(0x20)));
    let (mut first, mut second) = ([0; FIRST], [0; SECOND]);
    let initiator = Initiator::start(&client, driver.public(), &counted(0x40), &mut first).unwrap();
    let sent = first;
    let responder = Responder::read(&driver, &mut first).unwrap();
    let transport = responder.accept(&counted(0x60), &mut second).unwrap();
    let answered = second;
    let client_transport = initiator.finish(&mut second).unwrap();
    let mut examples = Examples { text: String::new(), client: client_transport, driver: transport };
    examples.value("The client's private key", &counted(0));
    examples.value("The client's public key", &client.public().0);
    examples.value("The driver's private key", &counted(0x20));
    examples.value("The driver's public key", &driver.public().0);
    examples.value("The client's random bytes: its ephemeral private key", &counted(0x40));
    examples.value("The driver's random bytes: its ephemeral private key", &counted(0x60));
    examples.framed("The client's first frame", &sent);
    examples.framed("The driver's first frame", &answered);

    let hello = Hello { version: VERSION, client: Some("example 1.0") };
    examples.request("`hello`: the message, the same for people, the frame", Some(1), Request::Hello(hello));
    examples.answer("Its reply", |buffer| {
        let capabilities = Capabilities::all().bits();
        let (version, driver, peer) = (VERSION, "0.1.0", "fleet");
        let welcome = Welcome { version, driver, session: 7, peer, role: Role::Operator, capabilities };
        Reply::Hello(welcome).encode(1, buffer).unwrap()
    });
    examples.request("`status`", Some(2), Request::Status(Empty {}));
    examples.answer("Its reply", |buffer| {
        let status = Status {
            driver: "0.1.0",
            started: 133_800_000_000_000_000,
            now: 133_800_000_600_000_000,
            filters: true,
            policy: PolicyState::Provisional,
            generation: 2,
            rules: 12,
            digest: Some(counted(0x80)),
            rollback_in: Some(41_500),
            fail_mode: FailMode::Open,
            connections: 310,
            sessions: 1,
            degraded: 0,
            processors: 8,
        };
        Reply::Status(status).encode(2, buffer).unwrap()
    });
    let subscribe =
        Subscribe { credit: 100, level: Some(4), keywords: Some(0x10), ids: None, snapshot: None };
    examples.request("`subscribe` to the events of connections", Some(3), Request::Subscribe(subscribe));
    examples.answer("Its reply", |buffer| Reply::Subscribe(Empty {}).encode(3, buffer).unwrap());
    examples.answer("Events: one, after two of the same kind were lost", |buffer| {
        let lost = [Loss { event: 41, count: 2 }];
        let mut batch = Batch::begin(buffer, 3, 0, lost.into_iter(), false).unwrap();
        let opened = Event::FlowOpened {
            connection: 311,
            direction: weir::policy::Direction::Out,
            protocol: 6,
            local: [192, 0, 2, 7].into(),
            local_port: 50000,
            remote: [198, 51, 100, 1].into(),
            remote_port: 443,
        };
        batch.push(133_800_000_700_000_000, &opened).unwrap();
        batch.finish()
    });
    let credit = weir::control::protocol::message::Credit { subscription: 3, credit: 100 };
    examples.request("`credit`, without an id", None, Request::Credit(credit));
    examples.answer("The error for a request 99 with the id 4", |buffer| {
        let code = ErrorCode::UnknownRequest;
        Failure { code, text: None, status: None, key: None, at: None }.encode(4, buffer).unwrap()
    });
    examples.text
}
