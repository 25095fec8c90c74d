//! The page of events, made from their table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use weir::trace::events::{Event, FieldMeta, Keywords, Kind, Level, Meta};
use weir::trace::{PROVIDER_ID, PROVIDER_NAME};

const LEVELS: [(Level, &str); 5] = [
    (Level::Critical, "the driver as a whole does not work"),
    (Level::Error, "something does not work until somebody acts"),
    (Level::Warning, "something was refused, lost or given up, and the driver goes on"),
    (Level::Information, "what happens"),
    (Level::Verbose, "each step, and each callback of an extension"),
];

const KEYWORDS: [(Keywords, &str); 9] = [
    (Keywords::LIFECYCLE, "start and stop, step by step; whether filters are in force"),
    (Keywords::CONFIGURATION, "settings and the driver's key"),
    (Keywords::POLICY, "policies: loaded, refused, provisional, confirmed, rolled back, stored"),
    (Keywords::VERDICT, "what was decided on connections; those that are allowed as `VerdictSampling` says"),
    (Keywords::FLOW, "connections opened, and closed with what they carried"),
    (Keywords::CONTROL, "control sockets and sessions, and who was refused"),
    (Keywords::EXTENSION, "extension interfaces: registered, refused, detached, and their callbacks"),
    (Keywords::RING, "the dispatch ring, and what it has lost"),
    (Keywords::FAULT, "what failed while the driver goes on"),
];

/// How a field stands in a trace: the in type of TraceLogging, and how it is shown.
fn carried(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Bool => ("boolean", "UINT8, shown as BOOLEAN"),
        Kind::U8 => ("8 bits", "UINT8"),
        Kind::U16 => ("16 bits", "UINT16"),
        Kind::U32 => ("32 bits", "UINT32"),
        Kind::U64 => ("64 bits", "UINT64"),
        Kind::NtStatus => ("status", "HEXINT32, shown as NTSTATUS"),
        Kind::Guid => ("GUID", "GUID"),
        Kind::Address => (
            "address",
            "BINARY of 16 bytes, shown as IPV6; an IPv4 address a.b.c.d is ::ffff:a.b.c.d (RFC 4291)",
        ),
        Kind::Bytes => ("bytes", "BINARY"),
        Kind::Text => ("text", "COUNTEDANSISTRING, shown as UTF8"),
        Kind::Wide => ("UTF-16", "COUNTEDSTRING"),
        Kind::Named(_) => ("name", "COUNTEDANSISTRING, shown as UTF8: the name, not its number"),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn names(keywords: Keywords) -> String {
    let names: Vec<_> = keywords.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    names.join(", ")
}

fn field(page: &mut String, field: &FieldMeta) {
    let (name, _) = carried(field.kind);
    let unit = if field.unit.is_empty() { String::new() } else { format!(", {}", field.unit) };
    let mut doc = one_line(field.doc);
    if let Kind::Named(values) = field.kind {
        let values: Vec<_> = values.iter().map(|(_, name)| format!("`{name}`")).collect();
        write!(doc, " One of {}.", values.join(", ")).unwrap();
    }
    writeln!(page, "| `{}` | {name}{unit} | {doc} |", field.name).unwrap();
}

fn event(page: &mut String, meta: &Meta) {
    let level = format!("{:?}", meta.level).to_lowercase();
    let (id, name, keywords) = (meta.id, meta.name, names(meta.keywords));
    write!(page, "\n### {id} {name}\n\n{} *{level}; {keywords}*\n", one_line(meta.doc)).unwrap();
    if meta.fields.is_empty() {
        return;
    }
    page.push_str("\n| field | type | meaning |\n| --- | --- | --- |\n");
    for it in meta.fields {
        field(page, it);
    }
}

pub fn page() -> String {
    let mut page = format!(
        "# Events\n\n\
         What weir tells through Event Tracing for Windows. The provider is `{PROVIDER_NAME}`, `{PROVIDER_ID}`. Its events \
         describe themselves (TraceLogging): whoever reads a trace needs no manifest. Ids, names, fields, levels and \
         keywords stay what they are from version to version; fields are only added, at the end of an event. What a \
         session asks for is looked at before an event is made: one that nobody listens to costs a test of two flags.\n\n\
         ## Levels\n\nA session that asks for a level has those above it, too.\n\n\
         | number | level | what |\n| --- | --- | --- |\n"
    );
    for (level, what) in LEVELS {
        writeln!(page, "| {} | {} | {what} |", level as u8, format!("{level:?}").to_lowercase()).unwrap();
    }
    page.push_str("\n## Keywords\n\n| mask | keyword | what |\n| --- | --- | --- |\n");
    for (keyword, what) in KEYWORDS {
        writeln!(page, "| `{:#x}` | {} | {what} |", keyword.bits(), names(keyword)).unwrap();
    }
    writeln!(page, "\nAll of them: `{:#x}`.", Keywords::all().bits()).unwrap();
    page.push_str("\n## Types\n\n| type | in a trace |\n| --- | --- |\n");
    let kinds = Event::TABLE.iter().flat_map(|meta| meta.fields).map(|field| carried(field.kind));
    for (name, carried) in kinds.collect::<BTreeMap<_, _>>() {
        writeln!(page, "| {name} | {carried} |").unwrap();
    }
    page.push_str(
        "\nNumbers are little-endian. A text or bytes have at most 65535 bytes; what is longer is cut there.\n\n\
         ## All events\n\n| id | event | level | keyword |\n| --- | --- | --- | --- |\n",
    );
    for meta in Event::TABLE {
        let (id, name, level) = (meta.id, meta.name, format!("{:?}", meta.level).to_lowercase());
        let anchor = format!("{id}-{}", name.to_lowercase());
        writeln!(page, "| {id} | [{name}](#{anchor}) | {level} | {} |", names(meta.keywords)).unwrap();
    }
    page.push('\n');
    page.push_str("## Each event\n");
    for meta in Event::TABLE {
        event(&mut page, meta);
    }
    page
}

#[test]
fn every_level_and_keyword_is_on_the_page() {
    let keywords = KEYWORDS.iter().fold(Keywords::empty(), |all, (keyword, _)| all | *keyword);
    assert_eq!(keywords, Keywords::all());
    assert!(LEVELS.iter().zip(1..).all(|((level, _), number)| *level as u8 == number));
}
