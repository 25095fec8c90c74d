//! From TOML to the model, with every fault on the way.

use super::finding::Finding;
use super::fold;
use super::model::{Addresses, IN, Number, OUT, Pattern, Policy, Protocols, Ranges, Rule, normalise};
use crate::source::{Severity, Source};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use weir::policy::Action;
use weir::policy::format::{MAX_NAME, MAX_PATTERN_UNITS, MAX_RULES, STAR};

/// The protocols that have a name here.
pub(super) const PROTOCOLS: [(&str, u8); 18] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

const TOP_KEYS: [&str; 4] = ["version", "default", "generation", "rule"];
const RULE_KEYS: [&str; 10] = [
    "name",
    "action",
    "direction",
    "protocol",
    "local",
    "remote",
    "local_port",
    "remote_port",
    "app",
    "description",
];

const ACTIONS: &str = "allowed: \"allow\", \"block\", \"audit\"";
const DIRECTIONS: &str = "allowed: \"in\", \"out\", \"both\"";
const PORTS: &str = "allowed: a number from 0 to 65535, a range such as \"1000-2000\", or a list of these";
const ADDRESSES: &str = "allowed: an address such as \"192.0.2.1\" or \"2001:db8::1\", a network such \
     as \"10.0.0.0/8\", a range such as \"10.0.0.1-10.0.0.9\", or a list of these";
const APPS: &str = "allowed: an NT path such as \
     '\\device\\harddiskvolume*\\windows\\system32\\svchost.exe', a path with a drive letter (which \
     stands for any volume), a file name such as \"curl.exe\", \"System\", or a list of these; `*` \
     stands for any characters";

type Value<'i> = Spanned<DeValue<'i>>;

/// Parses a policy. What could be understood comes with the faults, so that more can be said about it.
pub(super) fn parse(source: &Source<'_>) -> (Policy, Vec<Finding>) {
    let (table, errors) = DeTable::parse_recoverable(source.text);
    let mut parser = Parser { source, findings: Vec::new(), rule: None, names: HashMap::new() };
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        parser.fault(span, format!("not valid TOML: {}", error.message()), None);
    }
    let broken = parser.findings.len();
    let policy = parser.policy(&table);
    if broken > 0 {
        // What a broken line seems to lack or say is not the author's fault.
        let lines: Vec<usize> = parser.findings[..broken].iter().map(|finding| finding.line).collect();
        let mut place = 0;
        parser.findings.retain(|finding| {
            place += 1;
            place <= broken || !(lines.contains(&finding.line) || finding.message.starts_with(MISSING))
        });
    }
    parser.findings.sort_by_key(|finding| (finding.line, finding.column));
    (policy, parser.findings)
}

/// How the message about a missing key begins.
const MISSING: &str = "missing key";

struct Parser<'s, 't> {
    source: &'s Source<'t>,
    findings: Vec<Finding>,
    /// Name of the rule being parsed.
    rule: Option<String>,
    /// The names so far, and the lines that they stand on.
    names: HashMap<String, usize>,
}

impl Parser<'_, '_> {
    fn report(&mut self, severity: Severity, span: Range<usize>, message: String, help: Option<&str>) {
        let mut finding = self.source.finding(severity, span, message);
        finding.rule.clone_from(&self.rule);
        finding.help = help.map(str::to_owned);
        self.findings.push(finding);
    }

    fn fault(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<&str>) {
        self.report(Severity::Fault, span, message.into(), help);
    }

    fn warn(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<&str>) {
        self.report(Severity::Warning, span, message.into(), help);
    }

    /// A value of the wrong type.
    fn mistyped(&mut self, key: &str, value: &Value<'_>, help: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fault(value.span(), format!("`{key}` cannot be {found}"), Some(help));
    }

    fn unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let near = known
                .iter()
                .filter(|known| strsim::damerau_levenshtein(known, name) <= 2)
                .min_by_key(|known| strsim::damerau_levenshtein(known, name));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("keys of {place}: {}", known.join(", ")),
            };
            self.fault(key.span(), format!("unknown key `{name}`"), Some(&help));
        }
    }

    fn policy(&mut self, table: &Spanned<DeTable<'_>>) -> Policy {
        let start = 0..0;
        let table = table.get_ref();
        self.unknown_keys(table, &TOP_KEYS, "a policy");

        let help = "write `version = 1`";
        match table.get("version") {
            None => self.fault(start.clone(), format!("{MISSING} `version`"), Some(help)),
            Some(value) => match integer(value) {
                Some(1) => {}
                Some(other) => self.fault(value.span(), format!("unknown version {other}"), Some(help)),
                None => self.mistyped("version", value, help),
            },
        }
        let default = if let Some(value) = table.get("default") {
            self.action("default", value)
        } else {
            let help = "say what happens to connections that no rule matches: `default = \"allow\"`, \
                 \"block\" or \"audit\"";
            self.fault(start, format!("{MISSING} `default`"), Some(help));
            None
        };
        let mut generation = 0;
        if let Some(value) = table.get("generation") {
            let help = "allowed: a number from 0 to 4294967295";
            match integer(value).map(u32::try_from) {
                Some(Ok(number)) => generation = number,
                Some(Err(_)) => self.fault(value.span(), "`generation` is out of range", Some(help)),
                None => self.mistyped("generation", value, help),
            }
        }
        let mut rules = Vec::new();
        if let Some(value) = table.get("rule") {
            let help = "write each rule as a table that begins with the line `[[rule]]`";
            match value.get_ref() {
                DeValue::Array(items) => {
                    for item in items {
                        match item.get_ref() {
                            DeValue::Table(table) => rules.extend(self.rule(table, item.span())),
                            _ => self.mistyped("rule", item, help),
                        }
                        self.rule = None;
                    }
                    if items.len() > MAX_RULES as usize {
                        let message = format!("{} rules; at most {MAX_RULES} are possible", items.len());
                        self.fault(value.span().start..value.span().start, message, None);
                    }
                }
                _ => self.mistyped("rule", value, help),
            }
        }
        Policy { default: default.unwrap_or(Action::Allow), generation, rules }
    }

    /// A rule, if everything in it could be understood; the faults are reported in any case.
    fn rule(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Option<Rule> {
        let before = self.faults();
        let head = span.start..span.end.min(span.start + "[[rule]]".len());
        let mut name = (String::new(), head.clone());
        match table.get("name") {
            Some(value) => {
                if let Some(text) = self.name(value) {
                    self.rule = Some(text.clone());
                    let line = self.source.position(value.span().start).0;
                    if let Some(first) = self.names.insert(text.clone(), line) {
                        let message = format!("the name `{text}` is taken by the rule on line {first}");
                        let help = "names tell rules apart in events and tables: choose another";
                        self.fault(value.span(), message, Some(help));
                    }
                    name = (text, value.span());
                }
            }
            None => self.fault(
                head.clone(),
                format!("{MISSING} `name`"),
                Some("every rule has a name of its own"),
            ),
        }
        self.unknown_keys(table, &RULE_KEYS, "a rule");
        if let Some(value) = table.get("description")
            && value.get_ref().as_str().is_none()
        {
            self.mistyped("description", value, "allowed: any text");
        }
        let action = if let Some(value) = table.get("action") {
            self.action("action", value)
        } else {
            self.fault(head, format!("{MISSING} `action`"), Some(ACTIONS));
            None
        };
        let directions = match table.get("direction") {
            None => IN | OUT,
            Some(value) => match value.get_ref().as_str() {
                Some("in") => IN,
                Some("out") => OUT,
                Some("both") => IN | OUT,
                Some(other) => {
                    self.fault(value.span(), format!("unknown direction \"{other}\""), Some(DIRECTIONS));
                    0
                }
                None => {
                    self.mistyped("direction", value, DIRECTIONS);
                    0
                }
            },
        };
        let rule = Rule {
            name: name.0,
            span: name.1,
            action: action.unwrap_or(Action::Allow),
            directions,
            protocols: table.get("protocol").map(|value| self.protocols(value)),
            local: table.get("local").map(|value| self.addresses("local", value)),
            remote: table.get("remote").map(|value| self.addresses("remote", value)),
            local_ports: table.get("local_port").map(|value| self.ports("local_port", value)),
            remote_ports: table.get("remote_port").map(|value| self.ports("remote_port", value)),
            apps: table.get("app").map(|value| self.apps(value)),
        };
        (self.faults() == before).then_some(rule)
    }

    fn faults(&self) -> usize {
        self.findings.iter().rev().filter(|finding| finding.severity == Severity::Fault).count()
    }

    fn name(&mut self, value: &Value<'_>) -> Option<String> {
        let help = format!("allowed: 1 to {MAX_NAME} bytes of text without control characters");
        let Some(name) = value.get_ref().as_str() else {
            self.mistyped("name", value, &help);
            return None;
        };
        if name.is_empty()
            || name.len() > MAX_NAME
            || name.chars().any(char::is_control)
            || name.trim() != name
        {
            self.fault(value.span(), "unusable name", Some(&format!("{help}, and no blanks at either end")));
            return None;
        }
        if name == "default" {
            let help = "tables and events show as `default` what no rule has decided";
            self.fault(value.span(), "the name `default` is taken", Some(help));
            return None;
        }
        Some(name.to_owned())
    }

    fn action(&mut self, key: &str, value: &Value<'_>) -> Option<Action> {
        match value.get_ref().as_str() {
            Some("allow") => Some(Action::Allow),
            Some("block") => Some(Action::Block),
            Some("audit") => Some(Action::Audit),
            Some(other) => {
                self.fault(value.span(), format!("unknown action \"{other}\""), Some(ACTIONS));
                None
            }
            None => {
                self.mistyped(key, value, ACTIONS);
                None
            }
        }
    }

    /// Calls `each` with the value, or with each item of it if it is a list.
    fn items<'v, 'i>(
        &mut self,
        key: &str,
        value: &'v Value<'i>,
        help: &str,
        mut each: impl FnMut(&mut Self, &'v Value<'i>),
    ) {
        match value.get_ref() {
            DeValue::Array(items) if items.is_empty() => {
                self.fault(
                    value.span(),
                    format!("`{key}` is an empty list, which nothing matches"),
                    Some("leave the key out to match anything"),
                );
            }
            DeValue::Array(items) => {
                for item in items {
                    match item.get_ref() {
                        DeValue::Array(_) => self.mistyped(key, item, help),
                        _ => each(self, item),
                    }
                }
            }
            _ => each(self, value),
        }
    }

    fn protocols(&mut self, value: &Value<'_>) -> Protocols {
        let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        let help = format!("allowed: a number from 0 to 255, a list, or one of {}", names.join(", "));
        let mut set = Protocols::default();
        self.items("protocol", value, &help, |parser, item| match item.get_ref() {
            DeValue::Integer(_) => match integer(item).map(u8::try_from) {
                Some(Ok(number)) => set.insert(number),
                _ => parser.fault(item.span(), "no such protocol number", Some(&help)),
            },
            DeValue::String(name) => {
                match PROTOCOLS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)) {
                    Some((_, number)) => set.insert(*number),
                    None => parser.fault(item.span(), format!("unknown protocol \"{name}\""), Some(&help)),
                }
            }
            _ => parser.mistyped("protocol", item, &help),
        });
        set
    }

    fn ports(&mut self, key: &str, value: &Value<'_>) -> Ranges<u16> {
        let mut ranges = Vec::new();
        self.items(key, value, PORTS, |parser, item| match item.get_ref() {
            DeValue::Integer(_) => match integer(item).map(u16::try_from) {
                Some(Ok(port)) => ranges.push((port, port)),
                _ => parser.fault(item.span(), "no such port", Some(PORTS)),
            },
            DeValue::String(text) => {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                match (decimal(first.trim()), decimal(last.trim())) {
                    (Some(first), Some(last)) if first <= last => ranges.push((first, last)),
                    (Some(first), Some(last)) => {
                        let help = format!("the lower port comes first: \"{last}-{first}\"");
                        parser.fault(item.span(), "an empty range", Some(&help));
                    }
                    _ => parser.fault(
                        item.span(),
                        format!("\"{text}\" is no port and no range of ports"),
                        Some(PORTS),
                    ),
                }
            }
            _ => parser.mistyped(key, item, PORTS),
        });
        normalise(ranges)
    }

    fn addresses(&mut self, key: &str, value: &Value<'_>) -> Addresses {
        let mut out = Addresses::default();
        self.items(key, value, ADDRESSES, |parser, item| match item.get_ref() {
            DeValue::String(text) => match address_range(text) {
                Ok(AddressRange::V4(first, last)) => out.v4.push((first, last)),
                Ok(AddressRange::V6(first, last)) => {
                    if first >> 32 == 0xffff && last >> 32 == 0xffff {
                        let help = "write the IPv4 address itself";
                        parser.warn(
                            item.span(),
                            "an IPv4-mapped address matches nothing: Windows \
                             decides such connections as IPv4",
                            Some(help),
                        );
                    }
                    out.v6.push((first, last));
                }
                Err((message, help)) => parser.fault(item.span(), message, Some(&help)),
            },
            _ => parser.mistyped(key, item, ADDRESSES),
        });
        Addresses { v4: normalise(out.v4), v6: normalise(out.v6) }
    }

    fn apps(&mut self, value: &Value<'_>) -> Vec<Pattern> {
        let mut out = Vec::new();
        self.items("app", value, APPS, |parser, item| match item.get_ref() {
            DeValue::String(text) => match app(text) {
                Ok(pattern) => {
                    if !out.contains(&pattern) {
                        out.push(pattern);
                    }
                }
                Err(message) => parser.fault(item.span(), message, Some(APPS)),
            },
            _ => parser.mistyped("app", item, APPS),
        });
        out
    }
}

fn integer(value: &Value<'_>) -> Option<i64> {
    let number = value.get_ref().as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A port in plain decimal digits.
fn decimal(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

enum AddressRange {
    V4(u32, u32),
    V6(u128, u128),
}

/// An address, a network or a range; or what is wrong and what to do about it.
fn address_range(text: &str) -> Result<AddressRange, (String, String)> {
    let unknown = |part: &str| (format!("\"{part}\" is no IP address"), ADDRESSES.to_owned());
    let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| unknown(part.trim()));
    if let Some((address, len)) = text.split_once('/') {
        let address = parse(address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let Some(len) = decimal(len.trim()).filter(|len| *len <= bits) else {
            return Err((format!("\"{len}\" is no prefix length"), format!("allowed: 0 to {bits}")));
        };
        let outside = |network: IpAddr| {
            let message = format!("{address}/{len} has bits set outside its {len}-bit prefix");
            (
                message,
                format!("write \"{network}/{len}\" for the network, or \"{address}\" for the one address"),
            )
        };
        return match address {
            IpAddr::V4(address) => {
                let (first, mask) = (u32::from(address), u32::MAX.checked_shr(len.into()).unwrap_or(0));
                if first & mask == 0 {
                    Ok(AddressRange::V4(first, first | mask))
                } else {
                    Err(outside(Ipv4Addr::from(first & !mask).into()))
                }
            }
            IpAddr::V6(address) => {
                let (first, mask) = (u128::from(address), u128::MAX.checked_shr(len.into()).unwrap_or(0));
                if first & mask == 0 {
                    Ok(AddressRange::V6(first, first | mask))
                } else {
                    Err(outside(Ipv6Addr::from(first & !mask).into()))
                }
            }
        };
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = match (parse(first)?, parse(last)?) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            ordered(u32::from(first), u32::from(last)).map(|(f, l)| AddressRange::V4(f, l))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            ordered(u128::from(first), u128::from(last)).map(|(f, l)| AddressRange::V6(f, l))
        }
        _ => return Err(("a range from one family to the other".to_owned(), ADDRESSES.to_owned())),
    };
    range.ok_or_else(|| ("an empty range".to_owned(), "the lower address comes first".to_owned()))
}

fn ordered<T: Number>(first: T, last: T) -> Option<(T, T)> {
    (first <= last).then_some((first, last))
}

/// The pattern for an `app`.
fn app(text: &str) -> Result<Pattern, String> {
    let drive = |text: &str| {
        let mut characters = text.chars();
        characters.next().is_some_and(|letter| letter.is_ascii_alphabetic())
            && characters.as_str().starts_with(":\\")
    };
    if text.is_empty() {
        return Err("an empty path matches nothing".to_owned());
    }
    if text.contains('/') {
        return Err("Windows paths are written with `\\`".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err(
            "a path with control characters (in \"…\" TOML reads `\\` as an escape: use '…')".to_owned()
        );
    }
    let on_volume = drive(text);
    let path = if text.eq_ignore_ascii_case("system") || text.starts_with(['\\', '*']) {
        text.to_owned()
    } else if on_volume {
        text[2..].to_owned()
    } else if text.contains('\\') {
        return Err(format!("\"{text}\" is neither an NT path nor a path with a drive letter"));
    } else {
        format!("*\\{text}")
    };
    let mut units = fold::units(&path);
    units.dedup_by(|next, last| *next == STAR && *last == STAR);
    if units.len() > MAX_PATTERN_UNITS {
        return Err(format!(
            "a path of {} characters; at most {MAX_PATTERN_UNITS} are possible",
            units.len()
        ));
    }
    Ok(Pattern { units, on_volume })
}
