//! Event trace logs: what is written is what a reader of another author reads, and what is read back.

mod common;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use common::{file, raw, session, weir};
use serde_json::{Map, Value, json};
use weir::trace::events::{Event, Keywords, Kind, Level, Value as Field};
use weir::trace::recorded::{Recorded, TRAITS};
use weir_cli::client::json::hex;
use weir_cli::etl::read::{About, Body, Reader, Statistics};
use weir_cli::etl::{self, Descriptor, Session, Writer, tracelogging};
use weir_cli::run::recording::descriptor;

const START: u64 = 134_000_000_000_000_000;
const ID: &str = "{68eeea74-36e9-51b6-d59b-eb0198be0aff}";

fn begin(buffer: usize) -> Writer<Cursor<Vec<u8>>> {
    let session = Session { name: "Sitzung ä", file: "a.etl", buffer, processors: 3, start: START };
    Writer::new(Cursor::new(Vec::new()), &session).unwrap()
}

/// Adds an event, the n-th of a file.
fn write<W: std::io::Write + std::io::Seek>(writer: &mut Writer<W>, n: u64, event: &Event<'_>) {
    let Recorded { metadata, fields } = Recorded::of(event);
    let (descriptor, provider) = descriptor(event);
    let event = etl::Event {
        time: START + n * 10_000,
        processor: u16::try_from(n % 3).unwrap(),
        process: 4,
        thread: 8 + u32::try_from(n % 5).unwrap(),
        provider,
        descriptor,
        traits: TRAITS,
        metadata,
        fields: &fields,
    };
    writer.write(&event).unwrap();
}

/// The longest enumeration, or the longest list of samples.
fn rounds() -> usize {
    let kinds = Event::TABLE.iter().flat_map(|meta| meta.fields).map(|field| field.kind);
    let named = kinds.map(|kind| if let Kind::Named(names) = kind { names.len() } else { 0 });
    named.max().unwrap().max(8)
}

/// Every event of the table, with all samples of its fields.
fn all() -> Vec<Event<'static>> {
    (0..rounds()).flat_map(Event::samples).collect()
}

/// What a reader is to see of an event.
fn expected(event: &Event<'_>) -> Value {
    let mut fields = Map::new();
    event.fields(|name, value| {
        let value = match value {
            Field::Bool(it) => it.into(),
            Field::Unsigned(it) => it.into(),
            Field::NtStatus(it) => it.to_string().into(),
            Field::Guid(it) => it.to_string().into(),
            Field::Address(it) => it.to_canonical().to_string().into(),
            Field::Bytes(it) => hex(it).into(),
            Field::Wide(it) => String::from_utf16(it).unwrap().into(),
            Field::Text(it) | Field::Named(_, it) => it.into(),
        };
        fields.insert(name.to_owned(), value);
    });
    json!({
        "id": event.id(), "name": event.name(), "level": event.level() as u8,
        "keywords": event.keywords().bits(), "guid": ID, "fields": fields,
    })
}

/// What a reader has seen: events in the order of time, and why it went no further.
#[derive(PartialEq, Debug)]
struct Seen {
    /// Events lost, as the file says.
    lost: Option<u64>,
    events: Vec<Value>,
    refused: Option<String>,
}

/// What is compared of an event.
fn compared(event: &Value) -> Value {
    let members = ["id", "name", "level", "keywords", "guid", "fields"];
    members.iter().map(|name| ((*name).to_owned(), event[name].clone())).collect::<Map<_, _>>().into()
}

/// etl-parser, if there is a Python that has it.
fn etl_parser(files: &[&Path]) -> Option<Vec<Seen>> {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let checked = Command::new(&python).args(["-c", "import etl.etl"]).output();
    if !checked.is_ok_and(|output| output.status.success()) {
        println!("skipped: no Python with the package etl-parser (WEIR_TEST_PYTHON names one)");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/etl_parser.py");
    let output = Command::new(&python).arg(script).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all: Vec<Seen> = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line.get("file").is_some() {
            all.push(Seen { lost: None, events: Vec::new(), refused: None });
        } else if let Some(lost) = line.get("lost") {
            all.last_mut().unwrap().lost = lost.as_u64();
        } else if let Some(why) = line.get("refused") {
            all.last_mut().unwrap().refused = Some(why.to_string());
        } else {
            all.last_mut().unwrap().events.push(line);
        }
    }
    for seen in &mut all {
        seen.events.sort_by_key(|event| event["time"].as_u64().unwrap());
        seen.events = seen.events.iter().map(compared).collect();
    }
    assert_eq!(all.len(), files.len());
    Some(all)
}

/// weir's own reader.
fn own(bytes: &[u8]) -> (About, Seen, Statistics) {
    let mut reader = Reader::open(Cursor::new(bytes)).unwrap();
    let mut places = Vec::new();
    let statistics = reader.scan(|place, _| places.push(place));
    places.sort_by_key(|place| place.time);
    let events = places.iter().map(|place| {
        reader
            .read(place, |record| {
                let Body::Event { provider, descriptor, traits, schema, fields, activity } = &record.body else {
                    panic!("{record:?}")
                };
                assert_eq!((record.time, *activity), (place.time, [0; 16]));
                assert_eq!(tracelogging::provider_name(traits.unwrap()).unwrap(), "Weir.Driver");
                let decoded = tracelogging::decode(schema.unwrap(), fields).unwrap();
                json!({
                    "id": descriptor.id, "name": decoded.name, "level": descriptor.level,
                    "keywords": descriptor.keywords, "guid": tracelogging::guid(*provider), "fields": decoded.fields,
                })
            })
            .unwrap()
    });
    let events = events.collect();
    let refused = statistics.damage.as_ref().map(ToString::to_string);
    let lost = Some(reader.about().events_lost.into());
    (reader.about().clone(), Seen { lost, events, refused }, statistics)
}

#[test]
fn every_event_of_the_table_is_read_back_whatever_its_fields_hold() {
    let mut writer = begin(Session::BUFFER);
    let events = all();
    for (n, event) in (0..).zip(&events) {
        write(&mut writer, n, event);
    }
    let end = START + 7_000_000_000;
    let bytes = writer.finish(end).unwrap().into_inner();
    let (about, seen, statistics) = own(&bytes);
    let expected: Vec<_> = events.iter().map(expected).collect();
    assert_eq!(seen.refused, None);
    assert_eq!(seen.events.len(), expected.len());
    for (seen, expected) in seen.events.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
    assert_eq!((&*about.session, &*about.file, about.processors), ("Sitzung ä", "a.etl", 3));
    assert_eq!((about.start, about.end), (START, Some(end)));
    assert_eq!((about.events_lost, about.buffers_lost), (0, 0));
    assert_eq!(u64::from(about.buffers_written), statistics.buffers + 1);
    assert_eq!(bytes.len() as u64, (statistics.buffers + 1) * Session::BUFFER as u64);
    assert_eq!((statistics.events, statistics.others), (expected.len() as u64, 0));
    assert_eq!((statistics.missing_buffers, statistics.after_lost_events), (0, 0));
}

/// Where some bytes are in others, all of them.
fn find(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    (0..bytes.len() - part.len()).filter(|at| bytes[*at..].starts_with(part)).collect()
}

#[test]
fn etl_parser_reads_every_event_of_the_table_as_it_was_meant_and_no_changed_file() {
    let mut writer = begin(Session::BUFFER);
    let events = all();
    for (n, event) in (0..).zip(&events) {
        write(&mut writer, n, event);
    }
    let whole = writer.finish(START).unwrap().into_inner();
    let expected: Vec<_> = events.iter().map(expected).collect();

    // A short file, to change: with a text, a number, a status, an address and bytes.
    let remote: IpAddr = "198.51.100.7".parse().unwrap();
    let some = [
        Event::DriverStarting { version: "0.1.0" },
        Event::ControlAccepted { session: 77, remote, remote_port: 4711 },
        Event::DriverStopped {},
    ];
    let mut writer = begin(1024);
    for (n, event) in (0..).zip(&some) {
        write(&mut writer, n, event);
    }
    let short = writer.finish(START).unwrap().into_inner();
    let expected_short: Vec<_> = some.iter().map(self::expected).collect();
    let change = |what: &[u8], at: usize| {
        let mut changed = short.clone();
        let places = find(&short, what);
        assert_eq!(places.len(), 1, "{what:?}");
        changed[places[0] + at] ^= 1;
        changed
    };
    // The first event's record begins behind a buffer's header.
    let mut size = short.clone();
    size[1024 + 72] += 8;
    let (descriptor, _) = descriptor(&some[1]);
    let changed = [
        ("a text", change(b"0.1.0", 0)),
        ("an address", change(&[198, 51, 100, 7], 3)),
        ("a number", change(&4711_u16.to_le_bytes(), 0)),
        ("an event's name", change(b"ControlAccepted", 14)),
        ("a field's name", change(b"remote_port", 0)),
        ("a field's type", change(b"remote_port\0\x06", 12)),
        ("a level", change(&descriptor.to_bytes(), 4)),
        ("an id", change(&descriptor.to_bytes(), 0)),
        ("a keyword", change(&descriptor.to_bytes(), 8)),
        ("a record's size", size),
        ("the last event cut off", short[..short.len() - 1].to_vec()),
    ];
    let files = [&whole, &short].into_iter().chain(changed.iter().map(|(_, bytes)| bytes));
    let files: Vec<_> = files.map(|bytes| file(".etl", bytes)).collect();
    let Some(mut seen) = etl_parser(&files.iter().map(|file| &**file).collect::<Vec<_>>()) else { return };
    let changed_seen = seen.split_off(2);
    assert_eq!(seen[0].refused, None);
    assert_eq!(seen[0].events.len(), expected.len());
    for (seen, expected) in seen[0].events.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen[1], Seen { lost: Some(0), events: expected_short.clone(), refused: None });
    for ((what, _), seen) in changed.iter().zip(changed_seen) {
        assert!(seen.refused.is_some() || seen.events != expected_short, "{what} is not noticed");
    }
}

#[test]
fn a_run_writes_what_etl_parser_reads_too() {
    let packets = [session(50_000, 443), session(50_001, 80)].concat();
    let (capture, folder) = (file(".pcap", &raw(&packets)), tempfile::tempdir().unwrap());
    let path = folder.path().join("run.etl");
    let output =
        weir().args(["run", "--quiet", "--capture"]).arg(&capture).arg("--etl").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (about, seen, statistics) = own(&std::fs::read(&path).unwrap());
    assert_eq!((&*about.session, &*about.file), ("weir run", "run.etl"));
    assert!(about.end.is_some_and(|end| end >= about.start));
    assert_eq!(statistics.damage, None);
    let mut names = BTreeMap::<&str, usize>::new();
    for event in &seen.events {
        *names.entry(event["name"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(seen.events.first().unwrap()["name"], "DriverStarting");
    assert_eq!(seen.events.last().unwrap()["name"], "DriverStopped");
    for (name, count) in [("ConnectionVerdict", 2), ("FlowOpened", 2), ("FlowClosed", 2), ("PolicyLoaded", 1)]
    {
        assert_eq!(names.get(name), Some(&count), "{names:?}");
    }
    // Verbose ones, too.
    assert!(names["StartStep"] > 5, "{names:?}");
    let Some(theirs) = etl_parser(&[&path]) else { return };
    assert_eq!(theirs[0], seen);
}

#[test]
fn a_run_records_what_it_is_asked_to_and_spares_what_it_reads() {
    let capture = file(".pcap", &raw(&session(50_000, 443)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.etl");
    std::fs::write(&path, "an older file, longer than a trace".repeat(9000)).unwrap();
    let run = |arguments: &[&str]| {
        let run =
            weir().args(["run", "--quiet", "--capture"]).arg(&capture).args(arguments).output().unwrap();
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    let etl = path.to_str().unwrap();
    let (code, error) = run(&["--etl", etl, "--etl-level", "warning"]);
    assert_eq!((code, &*error), (Some(0), ""));
    let (_, seen, statistics) = own(&std::fs::read(&path).unwrap());
    assert_eq!((seen.events, statistics.damage), (Vec::new(), None), "nothing went wrong");
    assert_eq!(run(&["--etl", etl, "--etl-keywords", "flow,policy"]).0, Some(0));
    let (_, seen, _) = own(&std::fs::read(&path).unwrap());
    let wanted = (Keywords::FLOW | Keywords::POLICY).bits();
    assert!(seen.events.iter().all(|event| event["keywords"].as_u64().unwrap() & wanted != 0));
    assert!(seen.events.iter().any(|event| event["name"] == "FlowClosed"));

    let before = std::fs::read(&capture).unwrap();
    let (code, error) = run(&["--etl", capture.to_str().unwrap()]);
    assert!(code == Some(1) && error.contains("the run reads it"), "{error}");
    assert_eq!(std::fs::read(&capture).unwrap(), before);
    let (code, error) = run(&["--etl", folder.path().to_str().unwrap()]);
    assert!(code == Some(1) && error.contains(folder.path().to_str().unwrap()), "{error}");
    assert_eq!(run(&["--etl-level", "warning"]).0, Some(2), "without a file");
    if Path::new("/dev/full").exists() {
        let (code, error) = run(&["--etl", "/dev/full"]);
        assert!(code == Some(1) && error.contains("/dev/full: No space left"), "{error}");
    }
}

#[test]
fn what_no_buffer_can_hold_is_lost_and_counted() {
    let mut writer = begin(1024);
    let long = "x".repeat(1024);
    write(&mut writer, 0, &Event::DriverStarting { version: &long });
    write(&mut writer, 3, &Event::DriverStarting { version: "kept" });
    write(&mut writer, 6, &Event::DriverStarting { version: &long });
    assert_eq!(writer.lost(), 2);
    let bytes = writer.finish(START).unwrap().into_inner();
    let (about, seen, statistics) = own(&bytes);
    assert_eq!((seen.events.len(), about.events_lost, statistics.after_lost_events), (1, 2, 1));
    if let Some(theirs) = etl_parser(&[&*file(".etl", &bytes)]) {
        assert_eq!(theirs[0], seen);
    }
    // And of more than a record can say.
    let mut writer = begin(1 << 20);
    write(&mut writer, 0, &Event::DriverStarting { version: &"x".repeat(65_500) });
    assert_eq!(writer.lost(), 1);
}

#[test]
fn a_file_under_way_is_one_that_can_be_read() {
    let mut writer = begin(2048);
    let events = Event::samples(1);
    for (n, event) in (0..).zip(&events) {
        write(&mut writer, n, event);
        writer.flush().unwrap();
    }
    // It was not finished.
    let mut bytes = Vec::new();
    let mut under_way = begin(2048);
    for (n, event) in (0..).zip(&events) {
        write(&mut under_way, n, event);
        if n == 40 {
            under_way.flush().unwrap();
            bytes.clone_from(under_way.output().get_ref());
        }
    }
    let (about, seen, statistics) = own(&bytes);
    assert_eq!((about.end, statistics.damage), (None, None));
    assert_eq!(seen.events, events[..41].iter().map(expected).collect::<Vec<_>>());
    // Flushed again and again, it is the same as flushed once.
    let often = writer.finish(START).unwrap().into_inner();
    assert_eq!(often, under_way.finish(START).unwrap().into_inner());
}

#[test]
fn sizes_and_names_that_no_session_has_are_refused() {
    let session = Session { name: "s", file: "f", buffer: 1024, processors: 1, start: 0 };
    let refused = |session: &Session<'_>| Writer::new(Cursor::new(Vec::new()), session).is_err();
    assert!(!refused(&session));
    for buffer in [0, 1000, 1023, 1025, (16 << 20) + 1024] {
        assert!(refused(&Session { buffer, ..session }), "{buffer}");
    }
    assert!(refused(&Session { name: &"n".repeat(1000), ..session }));
}

/// A file with events of weir, of another provider, of one that does not describe itself, and of one that does so wrongly.
fn mixed() -> Vec<u8> {
    let mut writer = begin(4096);
    write(&mut writer, 0, &Event::DriverStarting { version: "1.2.3" });
    write(
        &mut writer,
        2,
        &Event::ControlListenFailed {
            address: "127.0.0.1".parse().unwrap(),
            port: 47474,
            status: weir::trace::NtStatus(0xC000_0022_u32.cast_signed()),
        },
    );
    let descriptor = Descriptor { id: 9, level: 2, keywords: 0x8000, ..Descriptor::default() };
    let other = etl::Event {
        // Before the one above, and on another processor.
        time: START + 10_000,
        processor: 7,
        process: 1,
        thread: 2,
        provider: [1; 16],
        descriptor,
        traits: b"\x08\0Other\0",
        metadata: b"\x0C\0\0Hello\0n\0\x04",
        fields: &[5],
    };
    writer.write(&other).unwrap();
    writer
        .write(&etl::Event {
            time: START + 30_000,
            traits: b"",
            metadata: b"",
            fields: &[0xAB, 0xCD],
            ..other
        })
        .unwrap();
    writer.write(&etl::Event { time: START + 40_000, fields: &[], ..other }).unwrap();
    writer.finish(START + 50_000).unwrap().into_inner()
}

/// `weir trace decode`.
fn decode(bytes: &[u8], arguments: &[&str]) -> (Option<i32>, String, String) {
    let path = file(".etl", bytes);
    let output = weir().args(["trace", "decode"]).arg(&path).args(arguments).output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out, error.replace(path.to_str().unwrap(), "FILE"))
}

#[test]
fn people_are_shown_a_line_for_each_event_in_the_order_of_time() {
    let (code, out, error) = decode(&mixed(), &[]);
    assert_eq!((code, &*error), (Some(0), ""));
    let other = "{01010101-0101-0101-0101-010101010101}";
    assert_eq!(
        out,
        format!(
            "2025-08-18 14:13:20.000000 DriverStarting version=1.2.3\n\
             2025-08-18 14:13:20.001000 Other/Hello n=5\n\
             2025-08-18 14:13:20.002000 ControlListenFailed address=127.0.0.1 port=47474 status=0xC0000022\n\
             2025-08-18 14:13:20.003000 {other}/event 9 version=0 level=2 keywords=0x8000 opcode=0 task=0 data=abcd \
             (it does not describe itself)\n\
             2025-08-18 14:13:20.004000 Other/event 9 version=0 level=2 keywords=0x8000 opcode=0 task=0 data= (the \
             event's fields end too early)\n\
             session \"Sitzung ä\" from 2025-08-18 14:13:20 to 2025-08-18 14:13:20\n\
             5 shown of 5 events; buffers: 3\n\
             lost: nothing\n"
        )
    );
}

#[test]
fn programs_are_given_an_object_a_line() {
    let (code, out, _) = decode(&mixed(), &["--json"]);
    assert_eq!(code, Some(0));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    let listen = json!({
        "event": "ControlListenFailed", "id": 51, "time": "2025-08-18T14:13:20.002Z", "provider": "Weir.Driver",
        "guid": ID, "level": "error", "keywords": "0x20", "processor": 2, "process": 4, "thread": 10,
        "fields": { "address": "127.0.0.1", "port": 47474, "status": "0xC0000022" },
    });
    assert_eq!(lines[2], listen);
    assert_eq!(
        (&lines[3]["data"], &lines[3]["undecoded"]),
        (&"abcd".into(), &"it does not describe itself".into())
    );
    assert_eq!((&lines[3].get("provider"), &lines[3].get("fields")), (&None, &None));
    let statistics = &lines[5]["statistics"];
    assert_eq!(
        (&statistics["shown"], &statistics["events"], &statistics["buffers"]),
        (&5.into(), &5.into(), &3.into())
    );
    assert_eq!((&statistics["session"], &statistics["damage"]), (&"Sitzung ä".into(), &Value::Null));
}

#[test]
fn what_is_shown_can_be_chosen() {
    let bytes = mixed();
    let ids = |arguments: &[&str]| {
        let (code, out, error) = decode(&bytes, &[&["--json"], arguments].concat());
        assert_eq!(code, Some(0), "{error}");
        let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line["id"].as_u64()).collect::<Vec<_>>()
    };
    let cases: [(&[&str], &[u64]); 14] = [
        (&[], &[1, 9, 51, 9, 9]),
        (&["--provider", "weir.driver"], &[1, 51]),
        (&["--provider", ID], &[1, 51]),
        (&["--provider", "01010101-0101-0101-0101-010101010101"], &[9, 9, 9]),
        (&["--provider", "Other,Weir.Driver"], &[1, 9, 51, 9]),
        (&["--provider", "Nobody"], &[]),
        (&["--level", "error"], &[9, 51, 9, 9]),
        (&["--keywords", "lifecycle"], &[1]),
        (&["--keywords", "0x8020"], &[9, 51, 9, 9]),
        (&["--event", "hello,51"], &[9, 51]),
        (&["--since", "2025-08-18T14:13:20.002Z"], &[51, 9, 9]),
        (&["--until", "2025-08-18T16:13:20.002+02:00"], &[1, 9]),
        (&["--since", "2025-08-18 14:13:20.001", "--until", "2025-08-18 14:13:20.002"], &[9]),
        (&["--level", "error", "--provider", "Weir.Driver", "--event", "DriverStarting"], &[]),
    ];
    for (arguments, expected) in cases {
        assert_eq!(ids(arguments), expected, "{arguments:?}");
    }
    for wrong in [["--level", "loud"], ["--keywords", "water"], ["--since", "yesterday"]] {
        assert_eq!(decode(&bytes, &wrong).0, Some(2), "{wrong:?}");
    }
}

/// Changes a byte.
fn with(bytes: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[at] = byte;
    changed
}

#[test]
fn what_cannot_be_read_is_told_with_its_place_behind_what_stood_before() {
    let bytes = mixed();
    // The second buffer is the first of events; it has one.
    let (second, third) = (4096, 2 * 4096);
    let cases = [
        (Vec::new(), "weir: FILE: at offset 0: the file is empty", 0),
        (
            b"MZ".to_vec(),
            "weir: FILE: at offset 2: the file ends within the header of the buffer at offset 0",
            0,
        ),
        (vec![0; 4096], "weir: FILE: at offset 0: no buffer has a size of 0 bytes", 0),
        (
            with(&bytes, 74, 9),
            "weir: FILE: at offset 72: this is no event trace log: its first record does not describe one",
            0,
        ),
        (with(&bytes, 72 + 32 + 0x110, 9), "this is no event trace log: there is no clock of the kind 9", 0),
        (
            with(&bytes, 77, 0),
            "weir: FILE: at offset 72: this is no event trace log: its first record is too short",
            0,
        ),
        (with(&bytes, second + 52, 0x60), "weir: FILE: at offset 4096: the buffer is compressed", 0),
        (with(&bytes, third + 52, 0x60), "weir: FILE: at offset 8192: the buffer is compressed", 1),
        (with(&bytes, third, 1), "weir: FILE: at offset 12289: no buffer has a size of ", 2),
        (with(&bytes, third + 3, 1), "weir: FILE: at offset 8192: no buffer has a size of 16781312 bytes", 1),
        (
            with(&bytes, third + 49, 0x11),
            "weir: FILE: at offset 8240: a buffer of 4096 bytes cannot have records up to byte",
            1,
        ),
        (with(&bytes, third + 72 + 3, 0x11), "weir: FILE: at offset 8264: no record begins with 0x1113", 1),
        (
            with(&bytes, third + 72, 1),
            "weir: FILE: at offset 8264: a record of the kind event has 1 bytes",
            1,
        ),
        (with(&bytes, third + 73, 0xFF), "weir: FILE: at offset 8264: a record of the kind event has 65", 1),
        (with(&bytes, third + 72 + 80 + 7, 9), "weir: FILE: at offset 8264: an item of 23", 1),
        (
            bytes[..third + 10].to_vec(),
            "weir: FILE: at offset 8202: the file ends within the header of the buffer at offset 8192",
            1,
        ),
        (
            bytes[..third + 100].to_vec(),
            "weir: FILE: at offset 8292: the file ends within the buffer at offset 8192, which has 4096 bytes",
            1,
        ),
        (
            bytes[..bytes.len() - 1].to_vec(),
            "weir: FILE: at offset 16383: the file ends within the buffer at offset 12288",
            5,
        ),
    ];
    for (number, (bytes, told, shown)) in cases.into_iter().enumerate() {
        let (code, out, error) = decode(&bytes, &["--json"]);
        assert!(code == Some(1) && error.contains(told), "{number}: {error}");
        assert_eq!(error.lines().count(), 1, "{number}: {error}");
        let events = out.lines().filter(|line| line.contains("\"event\"")).count();
        assert_eq!(events, shown, "{number}: {out}");
        if shown > 0 {
            let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
            let offset = last["statistics"]["damage"]["offset"].as_u64().unwrap();
            assert!(error.contains(&format!("at offset {offset}: ")), "{number}: {last}");
        }
    }
    let (code, _, error) = decode(&bytes, &["--no-such-option"]);
    assert!(code == Some(2), "{error}");
    let output = weir().args(["trace", "decode", "/nonexistent.etl"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("weir: /nonexistent.etl: "));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn levels_have_their_numbers() {
    assert_eq!(weir_cli::names::of_level(Level::Warning as u8), "warning");
    assert_eq!(weir_cli::names::of_level(0), "0");
}
