//! What sessions of Event Tracing are told to ask weir for: a profile of the Windows Performance Recorder, and the settings of an
//! autologger.

use std::fmt::Write as _;

use weir::trace::events::{Keywords, Level};
use weir::trace::{PROVIDER_ID, PROVIDER_NAME};

/// The provider without braces, as the page "EventProvider" of the recorder's schema has it.
fn provider() -> String {
    PROVIDER_ID.to_string().trim_matches(['{', '}']).to_owned()
}

/// A profile, by the pages "WPRControlProfiles Schema", which has the order of elements, "EventProvider", and "Logging Mode", by
/// which a profile has a version for files and one for memory. A driver's events need NonPagedMemory.
pub fn profile() -> String {
    let mut page = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\" standalone=\"yes\"?>\n\
         <!-- Records what weir tells ({PROVIDER_NAME}): wpr -start weir.wprp!Weir.Light -filemode -->\n\
         <WindowsPerformanceRecorder Version=\"1.0\" Author=\"weir project\">\n  <Profiles>\n\
         \x20   <EventCollector Id=\"Weir.Collector\" Name=\"weir\">\n\
         \x20     <BufferSize Value=\"64\"/>\n      <Buffers Value=\"64\"/>\n    </EventCollector>\n"
    );
    let details = [("Light", Level::Information), ("Verbose", Level::Verbose)];
    for (detail, level) in details {
        write!(
            page,
            "    <EventProvider Id=\"Weir.Provider.{detail}\" Name=\"{}\" NonPagedMemory=\"true\" Level=\"{}\">\n\
             \x20     <Keywords>\n        <Keyword Value=\"{:#x}\"/>\n      </Keywords>\n    </EventProvider>\n",
            provider(),
            level as u8,
            Keywords::all().bits(),
        )
        .unwrap();
    }
    for (detail, level) in details {
        let level = format!("{level:?}").to_lowercase();
        for mode in ["File", "Memory"] {
            write!(
                page,
                "    <Profile Id=\"Weir.{detail}.{mode}\" Name=\"Weir\" DetailLevel=\"{detail}\" LoggingMode=\"{mode}\" \
                 Description=\"weir, a network callout driver: events up to {level}\">\n\
                 \x20     <Collectors>\n        <EventCollectorId Value=\"Weir.Collector\">\n          <EventProviders>\n\
                 \x20           <EventProviderId Value=\"Weir.Provider.{detail}\"/>\n\
                 \x20         </EventProviders>\n        </EventCollectorId>\n      </Collectors>\n    </Profile>\n"
            )
            .unwrap();
        }
    }
    page + "  </Profiles>\n</WindowsPerformanceRecorder>\n"
}

/// The session of its own that the autologger makes.
const SESSION: &str = "{5f0a0d4c-2f6e-4d0f-9a53-6f1b0c9e7a11}";
const AUTOLOGGER: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Control\WMI\Autologger\Weir";

/// An autologger, by the page "Configuring and Starting an AutoLogger Session": names, types and units of the values are its.
/// The file is circular (EVENT_TRACE_FILE_MODE_CIRCULAR of "Logging Mode Constants"), so that it goes on after the start.
pub fn autologger() -> String {
    let session = [
        ("Start", 1),
        // Kilobytes, files, seconds, the mode, megabytes.
        ("BufferSize", 64),
        ("FileMax", 4),
        ("FlushTimer", 1),
        ("LogFileMode", 2),
        ("MaxFileSize", 64),
    ];
    let mut page =
        format!("Windows Registry Editor Version 5.00\n\n[{AUTOLOGGER}]\n\"Guid\"=\"{SESSION}\"\n");
    for (name, value) in session {
        writeln!(page, "\"{name}\"=dword:{value:08x}").unwrap();
    }
    let keywords: Vec<_> = Keywords::all().bits().to_le_bytes().map(|byte| format!("{byte:02x}")).into();
    write!(
        page,
        "\n[{AUTOLOGGER}\\{PROVIDER_ID}]\n\"Enabled\"=dword:00000001\n\"EnableLevel\"=dword:{:08x}\n\
         \"MatchAnyKeyword\"=hex(b):{}\n\n",
        Level::Information as u32,
        keywords.join(","),
    )
    .unwrap();
    page.replace('\n', "\r\n")
}

/// Start and end of each element, with its attributes, in the order of the file; it must be well formed.
fn elements(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    let mut rest =
        text.strip_prefix("<?xml version=\"1.0\" encoding=\"utf-8\" standalone=\"yes\"?>\n").unwrap();
    while let Some((between, tag)) = rest.split_once('<') {
        assert!(between.trim().is_empty(), "{between}");
        if let Some(comment) = tag.strip_prefix("!--") {
            let (comment, after) = comment.split_once("-->").unwrap();
            assert!(!comment.contains("--"));
            rest = after;
            continue;
        }
        let (tag, after) = tag.split_once('>').unwrap();
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name.to_owned()));
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut values: Vec<(String, String)> = Vec::new();
        while let Some((attribute, value)) = attributes.trim_start().split_once("=\"") {
            let (value, after) = value.split_once('"').unwrap();
            assert!(!value.contains(['&', '<']) && values.iter().all(|(name, _)| name != attribute));
            values.push((attribute.to_owned(), value.to_owned()));
            attributes = after;
        }
        assert!(attributes.trim().is_empty(), "{tag}");
        all.push((name.to_owned(), values));
        if !empty {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty());
    all
}

#[test]
fn the_profile_is_one_of_the_recorders_schema_and_asks_for_every_event() {
    let text = profile();
    let all = elements(&text);
    let of =
        |name: &str| all.iter().filter(|(it, _)| it == name).map(|(_, values)| values).collect::<Vec<_>>();
    let value = |values: &[(String, String)], name: &str| {
        values.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone()).unwrap()
    };
    // The schema's order below Profiles: collectors, providers, profiles.
    let order = ["WindowsPerformanceRecorder", "Profiles", "EventCollector", "EventProvider", "Profile"];
    let places: Vec<_> =
        order.iter().map(|name| all.iter().position(|(it, _)| it == name).unwrap()).collect();
    assert!(places.is_sorted());
    let last_provider = all.iter().rposition(|(name, _)| name == "EventProvider").unwrap();
    assert!(last_provider < places[4]);
    let identities: Vec<_> =
        ["EventCollector", "EventProvider", "Profile"].iter().flat_map(|name| of(name)).collect();
    let mut identities: Vec<_> = identities.into_iter().map(|values| value(values, "Id")).collect();
    assert!(identities.iter().all(|id| !id.contains([':', ' '])));
    for (reference, target) in [("EventCollectorId", "EventCollector"), ("EventProviderId", "EventProvider")]
    {
        let targets: Vec<_> = of(target).into_iter().map(|values| value(values, "Id")).collect();
        assert!(of(reference).into_iter().all(|values| targets.contains(&value(values, "Value"))));
    }
    identities.sort();
    let count = identities.len();
    identities.dedup();
    assert_eq!(identities.len(), count);
    for values in of("EventProvider") {
        assert_eq!(format!("{{{}}}", value(values, "Name")), PROVIDER_ID.to_string());
        assert_eq!(value(values, "NonPagedMemory"), "true");
    }
    assert!(of("Keyword").into_iter().all(|values| {
        u64::from_str_radix(&value(values, "Value")[2..], 16) == Ok(Keywords::all().bits())
    }));
    // A name has each level of detail for a file and for memory, and says so in its id.
    let profiles: Vec<_> = of("Profile");
    assert_eq!(profiles.len(), 4);
    for values in profiles {
        let [name, detail, mode] = ["Name", "DetailLevel", "LoggingMode"].map(|name| value(values, name));
        assert_eq!(value(values, "Id"), format!("{name}.{detail}.{mode}"));
    }
}

#[test]
fn the_autologger_asks_for_every_event_by_values_of_the_documented_types() {
    let text = autologger();
    assert!(text.is_ascii() && text.lines().count() == text.matches("\r\n").count());
    let mut keys = text.split("\r\n[").skip(1).map(|key| key.split_once("]\r\n").unwrap());
    let (session, values) = keys.next().unwrap();
    assert_eq!(session, AUTOLOGGER);
    assert!(values.contains("\"Guid\"=\"{") && values.contains("\"Start\"=dword:00000001\r\n"));
    let (provider, values) = keys.next().unwrap();
    assert_eq!(provider, format!(r"{AUTOLOGGER}\{PROVIDER_ID}"));
    let (_, keywords) = values.split_once("\"MatchAnyKeyword\"=hex(b):").unwrap();
    let bytes: Vec<_> =
        keywords.trim().split(',').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    assert_eq!(u64::from_le_bytes(bytes.try_into().unwrap()), Keywords::all().bits());
    assert!(values.starts_with("\"Enabled\"=dword:00000001\r\n\"EnableLevel\"=dword:00000004\r\n"));
    assert!(keys.next().is_none());
}
