//! What is wrong with a registration file, and what the driver would make of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Serialize;
use weir::config::schema::{self, POLICY_IMAGE, REG_BINARY, Refused, Setting, Settings, TABLE};
use weir::control::protocol::noise::KEY;
use weir::policy::Image;

use super::form;
use super::mask;
use super::path::{PRIVATE_KEY, Path, ROOT, SHORT_ROOT, Set, Store, where_it_reads};
use super::reason::{best, clean, nearest, refused};
use super::reg::{self, Data, Encoding, Item, Malformed, Value};
use crate::output::plural;
use crate::source::{Severity, Source};

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The bytes of the text that it is about.
    #[serde(skip)]
    pub span: Range<usize>,
    /// The value that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As the driver's event SettingRefused would say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What is wrong.
    pub message: String,
    /// What would be right, or what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Where a setting's value comes from, as the driver tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Default,
    Registry,
    Policy,
}

impl Origin {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Registry => "registry",
            Self::Policy => "policy",
        }
    }
}

/// A setting as the driver would have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    pub name: &'static str,
    /// For people; lists have an entry each.
    pub value: Vec<String>,
    pub origin: Origin,
    /// Where it stands in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

/// What was found in a file.
#[derive(Debug)]
pub struct Checked {
    /// The file's text, without what is not to be shown.
    pub text: String,
    /// In the order of the text.
    pub findings: Vec<Finding>,
    /// Every setting, on a machine on which nothing else is set.
    pub effective: Vec<Effective>,
    /// Keys in the file that weir reads, as the file has them.
    pub keys: Vec<String>,
    /// Those that it does not.
    pub others: Vec<Other>,
}

/// A key that was not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Other {
    pub key: String,
    pub line: usize,
}

impl Checked {
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Checks a file.
pub fn check(bytes: &[u8]) -> Checked {
    let (text, encoding) = match reg::decode(bytes) {
        Ok(decoded) => decoded,
        Err(unreadable) => {
            let source = Source::new("");
            let mut check = Check::new(&source);
            let help = "save it as Registry Editor does: UTF-16, least significant byte first, with a mark";
            check.fault(&(0..0), unreadable.message()).help(help);
            return check.finish(String::new(), None);
        }
    };
    let read = reg::read(&text);
    let items = read.as_deref().unwrap_or_default();
    let masked = mask::masked(&text, items);
    let source = Source::new(&masked);
    let mut check = Check::new(&source);
    if let Err((span, what)) = &read {
        check.fault(span, what.message()).help(what.help());
    }
    check.encoding(&text, encoding);
    for item in items {
        check.item(item);
    }
    let set = read.is_ok().then(|| check.choose());
    check.finish(masked.clone(), set)
}

/// A value that the driver would take.
#[derive(Debug)]
struct Taken {
    registry_type: u32,
    bytes: Vec<u8>,
    at: Range<usize>,
}

type Slots = BTreeMap<(Set, Store, &'static str), Taken>;

/// The key that values belong to.
#[derive(Clone, Copy, Debug)]
enum Current {
    /// There is none, or it is not understood.
    None,
    /// One that weir does not read.
    Other,
    Read(Set, Store),
}

struct Check<'s> {
    source: &'s Source<'s>,
    findings: Vec<Finding>,
    current: Current,
    taken: Slots,
    /// Every value of a key that weir reads, by its name in lower case, and where it was last.
    seen: BTreeMap<(Set, Store, String), usize>,
    keys: Vec<String>,
    others: Vec<Other>,
    other_names: BTreeSet<String>,
}

/// The finding made last, to be completed.
struct Made<'f>(&'f mut Finding);

impl Made<'_> {
    fn help(self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    fn of(self, name: &str) -> Self {
        self.0.name = Some(name.to_owned());
        self
    }

    fn reason(self, reason: Refused) -> Self {
        self.0.reason = Some(reason.name());
        self
    }
}

impl<'s> Check<'s> {
    fn new(source: &'s Source<'s>) -> Self {
        Self {
            source,
            findings: Vec::new(),
            current: Current::None,
            taken: Slots::new(),
            seen: BTreeMap::new(),
            keys: Vec::new(),
            others: Vec::new(),
            other_names: BTreeSet::new(),
        }
    }

    fn find(&mut self, severity: Severity, span: &Range<usize>, message: impl Into<String>) -> Made<'_> {
        let (line, column) = self.source.position(span.start);
        let (span, message) = (span.clone(), message.into());
        self.findings.push(Finding {
            severity,
            line,
            column,
            span,
            name: None,
            reason: None,
            message,
            help: None,
        });
        // It was pushed just now.
        let last = self.findings.len() - 1;
        Made(&mut self.findings[last])
    }

    fn fault(&mut self, span: &Range<usize>, message: impl Into<String>) -> Made<'_> {
        self.find(Severity::Fault, span, message)
    }

    fn warn(&mut self, span: &Range<usize>, message: impl Into<String>) -> Made<'_> {
        self.find(Severity::Warning, span, message)
    }

    fn note(&mut self, span: &Range<usize>, message: impl Into<String>) -> Made<'_> {
        self.find(Severity::Note, span, message)
    }

    fn encoding(&mut self, text: &str, encoding: Encoding) {
        let help = "save it as Registry Editor does: UTF-16, least significant byte first, with a mark";
        let message = match encoding {
            Encoding::Utf16 | Encoding::Ascii => return,
            Encoding::Utf8Marked => {
                let message = "UTF-8 with a mark, which Registry Editor takes for no registration file";
                self.fault(&(0..0), message).help(help);
                return;
            }
            Encoding::Utf8 => {
                "a character outside ASCII, in UTF-8: Registry Editor reads the file in the machine's code page"
            }
            Encoding::CodePage => {
                "a character outside ASCII, read here as of code page 1252: Registry Editor reads it in the machine's"
            }
        };
        let at = text.find(|character: char| !character.is_ascii()).unwrap_or(0);
        let length = text[at..].chars().next().map_or(0, char::len_utf8);
        self.warn(&(at..at + length), message).help(help);
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Malformed { span, what } => {
                self.fault(span, what.message()).help(what.help());
                if matches!(what, Malformed::KeyOpen | Malformed::KeyBlank) {
                    self.current = Current::None;
                }
            }
            Item::Key { name, span } => self.key(name, span),
            Item::RemovedKey { name, span } => self.removed_key(name, span),
            Item::Value(value) => match self.current {
                Current::None => {
                    self.fault(&value.name_span, "a value below no key")
                        .help("Registry Editor passes over it: a line `[KEY]` comes first");
                }
                Current::Other => {}
                Current::Read(set, store) => self.value(set, store, value),
            },
        }
    }

    fn key(&mut self, name: &str, span: &Range<usize>) {
        let path = Path::new(name);
        let store = path.store();
        self.current = store.map_or(Current::Other, |(set, store)| Current::Read(set, store));
        if path.root.eq_ignore_ascii_case(SHORT_ROOT) {
            self.fault(span, "Registry Editor takes no abbreviation of a root key")
                .help(format!("write `{ROOT}`"));
        }
        if store.is_some() {
            self.keys.push(name.to_owned());
            return;
        }
        if path.is_near() {
            self.warn(span, "weir does not read this key").help(where_it_reads());
            return;
        }
        if self.other_names.insert(name.to_ascii_lowercase()) {
            let line = self.source.position(span.start).0;
            self.others.push(Other { key: name.to_owned(), line });
        }
    }

    fn removed_key(&mut self, name: &str, span: &Range<usize>) {
        self.current = Current::None;
        let path = Path::new(name);
        if path.root.eq_ignore_ascii_case(SHORT_ROOT) {
            self.fault(span, "Registry Editor takes no abbreviation of a root key")
                .help(format!("write `{ROOT}`"));
        }
        let Some((set, _)) = path.in_set() else { return };
        let gone: Vec<_> = [Store::Parameters, Store::Policies, Store::Key]
            .into_iter()
            .filter(|store| path.removes(*store))
            .collect();
        if !gone.is_empty() {
            self.keys.push(name.to_owned());
        }
        self.taken.retain(|(of, store, _), _| *of != set || !gone.contains(store));
        self.seen.retain(|(of, store, _), _| *of != set || !gone.contains(store));
        if path.is_service_or_above() && gone.contains(&Store::Parameters) {
            self.warn(span, "this removes weir's service")
                .help(r"its settings are below `…\Services\weir\Parameters`");
        } else if gone.contains(&Store::Key) {
            self.warn(span, "this removes the driver's private key, and who may read it").help(
                "remove values one by one (`\"NAME\"=-`): a key made anew inherits that users may read it, and the driver \
                 then refuses the private key",
            );
        }
    }

    fn value(&mut self, set: Set, store: Store, value: &Value) {
        let name = &value.name;
        let earlier = self.seen.insert((set, store, name.to_ascii_lowercase()), value.name_span.start);
        if let Some(earlier) = earlier {
            let line = self.source.position(earlier).0;
            self.warn(&value.name_span, format!("`{}` stands here again", clean(name)))
                .of(name)
                .help(format!("it is on line {line} as well, and what comes last holds"));
        }
        if let Some(lost) = &value.lost_backslash {
            self.warn(lost, "a backslash that is lost")
                .of(name)
                .help(r"in quotation marks, a backslash is written as `\\`");
        }
        let is_private = name.eq_ignore_ascii_case(PRIVATE_KEY) && matches!(value.data, Data::Set(..));
        match store {
            Store::Key if is_private => self.private_key(value),
            Store::Key => {
                if matches!(value.data, Data::Set(..)) {
                    self.warn(&value.name_span, format!("weir does not read `{}` in this key", clean(name)))
                        .of(name)
                        .help(format!("the key holds `{PRIVATE_KEY}`, and nothing else"));
                }
            }
            Store::Policies if is_private => {
                self.fault(&value.name_span, "the driver's private key is never taken from the policies' key")
                    .of(name)
                    .help(r"it stands in `…\Services\weir\Parameters\Key`, which none but the system and administrators can read; what stood here is known to others: make a new one");
            }
            Store::Parameters if is_private => {
                self.fault(&value.name_span, "the driver's private key is not taken from here")
                    .of(name)
                    .help(r"it stands in the subkey `Key`, which none but the system and administrators can read; what stood here is known to others: make a new one");
            }
            Store::Parameters | Store::Policies => match schema::find(name) {
                Some(setting) => self.setting(set, store, setting, value),
                None => self.unknown(value),
            },
        }
    }

    fn unknown(&mut self, value: &Value) {
        let name = &value.name;
        let made = match (&value.data, name.is_empty()) {
            (_, true) => self.warn(&value.name_span, "weir does not read a key's default value"),
            (Data::Removed, _) => {
                self.warn(&value.name_span, format!("there is no setting `{}` to remove", clean(name)))
            }
            (Data::Set(..), _) => {
                self.fault(&value.name_span, format!("there is no setting `{}`", clean(name)))
            }
        };
        let made = made.of(name).reason(Refused::UnknownName);
        made.help(match nearest(name) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`weir config explain` lists them all".to_owned(),
        });
    }

    fn private_key(&mut self, value: &Value) {
        let Data::Set(registry_type, bytes) = &value.data else { return };
        let right = format!("{KEY} bytes from a generator for keys, as REG_BINARY (`hex:…`)");
        let wrong = if *registry_type != REG_BINARY {
            Some(format!("the private key is a {}", form::type_name(*registry_type)))
        } else if bytes.len() != KEY {
            Some(format!("the private key has {}", plural(bytes.len(), "byte")))
        } else if bytes.iter().all(|byte| *byte == 0) {
            Some("the private key is nothing but zeros".to_owned())
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.fault(&value.name_span, wrong).of(PRIVATE_KEY).help(right);
        }
        self.warn(&value.name_span, "the driver's private key stands in this file").of(PRIVATE_KEY).help(
            "whoever can read the file can pass as this driver: keep it from others, and remove it when it has been \
             imported",
        );
    }

    fn setting(&mut self, set: Set, store: Store, setting: &'static Setting, value: &Value) {
        let slot = (set, store, setting.name);
        let Data::Set(registry_type, bytes) = &value.data else {
            self.taken.remove(&slot);
            return;
        };
        let (registry_type, at) = (*registry_type, value.data_span.clone());
        match schema::parse(setting.name, registry_type, bytes) {
            Err(reason) => {
                let (message, help) = refused(setting, registry_type, bytes, reason);
                self.fault(&at, message).of(setting.name).reason(reason).help(help);
                return;
            }
            Ok(schema::Value::Binary(image)) => {
                if let Err(invalid) = Image::validate(image) {
                    let (what, offset) = (invalid.what, invalid.offset);
                    self.fault(&at, format!("an image that no driver takes: {what:?} at byte {offset}"))
                        .of(setting.name)
                        .help("as `weir policy check --output` writes it");
                    return;
                }
            }
            Ok(_) => {}
        }
        let mut settings = Settings::DEFAULT;
        let is_set = settings.set(setting.name, registry_type, bytes).is_ok();
        // In the policies' key it says more: nothing else holds.
        if store == Store::Parameters && is_set && settings == Settings::DEFAULT {
            self.note(&value.name_span, format!("`{}` is set to its default", setting.name)).of(setting.name);
        }
        self.taken.insert(slot, Taken { registry_type, bytes: bytes.clone(), at });
    }

    /// What the driver would choose of it.
    fn choose(&mut self) -> Set {
        let sets: BTreeSet<Set> = self.seen.keys().map(|(set, ..)| *set).collect();
        let set = sets.first().copied().unwrap_or(0);
        if sets.len() > 1 {
            self.warn(&(0..0), "values of several control sets")
                .help("the driver reads that which is the current one: write `CurrentControlSet`");
        }
        if self.keys.is_empty() && self.findings.iter().all(|finding| finding.severity == Severity::Note) {
            self.warn(&(0..0), "nothing in this file is read by weir").help(where_it_reads());
        }
        let mut settings = Settings::DEFAULT;
        for setting in TABLE {
            let [policy, registry] =
                [Store::Policies, Store::Parameters].map(|store| self.taken.get(&(set, store, setting.name)));
            if let (Some(policy), Some(registry)) = (policy, registry) {
                let (line, at) = (self.source.position(policy.at.start).0, registry.at.clone());
                self.note(&at, format!("`{}` does not hold", setting.name))
                    .of(setting.name)
                    .help(format!("the policies' key has it as well, on line {line}, and comes first"));
            }
            let holds = [Store::Policies, Store::Parameters]
                .iter()
                .find_map(|store| self.taken.get(&(set, *store, setting.name)));
            if let Some(taken) = holds {
                // The image is none of the settings.
                let _is_setting = settings.set(setting.name, taken.registry_type, &taken.bytes);
            }
        }
        if let Some(stranger) = settings.stranger() {
            let peers = settings.control_peers.as_slice();
            let near = best(stranger.peer.as_str(), peers.iter().map(|peer| peer.name.as_str()));
            let help = match near {
                Some(near) => format!("did you mean `{near}`? With one that is none nobody is dialled"),
                None => "who is dialled stands in ControlPeers; with one that does not nobody is dialled"
                    .to_owned(),
            };
            let message = format!("`{}` is not the name of a peer", stranger.peer);
            let at = self.holds(set, "ControlDial").map_or(0..0, |(taken, _)| taken.at.clone());
            self.fault(&at, message).of("ControlDial").reason(Refused::UnknownPeer).help(help);
            for store in [Store::Policies, Store::Parameters] {
                self.taken.remove(&(set, store, "ControlDial"));
            }
        }
        set
    }

    /// What holds of a setting, if the file has it.
    fn holds(&self, set: Set, name: &'static str) -> Option<(&Taken, Origin)> {
        [(Store::Policies, Origin::Policy), (Store::Parameters, Origin::Registry)]
            .into_iter()
            .find_map(|(store, origin)| self.taken.get(&(set, store, name)).map(|taken| (taken, origin)))
    }

    fn effective(&self, set: Set, setting: &'static Setting) -> Effective {
        let name = setting.name;
        let shown = |registry_type, bytes: &[u8]| {
            schema::parse(name, registry_type, bytes)
                .map_or_else(|_| Vec::new(), |value| form::shown(setting, &value))
        };
        let Some((taken, origin)) = self.holds(set, name) else {
            let default = form::default_value(setting);
            let value = default.map_or_else(Vec::new, |(kind, bytes)| shown(kind, &bytes));
            return Effective { name, value, origin: Origin::Default, line: None };
        };
        let value = if name == POLICY_IMAGE.name {
            let rules = Image::validate(&taken.bytes).map_or(0, |image| image.rule_count());
            vec![format!("{}, {}", plural(taken.bytes.len(), "byte"), plural(rules as usize, "rule"))]
        } else {
            shown(taken.registry_type, &taken.bytes)
        };
        Effective { name, value, origin, line: Some(self.source.position(taken.at.start).0) }
    }

    fn finish(mut self, text: String, set: Option<Set>) -> Checked {
        self.findings.sort_by_key(|finding| (finding.line, finding.column, finding.severity));
        let effective = match set {
            Some(set) => TABLE.iter().map(|setting| self.effective(set, setting)).collect(),
            None => Vec::new(),
        };
        Checked { text, findings: self.findings, effective, keys: self.keys, others: self.others }
    }
}
