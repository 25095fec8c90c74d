//! Rules as plain values, decided by trying one after the other: what the compiler and the look-up are held
//! against. Knows nothing of either.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use weir::policy::{Action, App, Decision, Direction, Family, Tuple};

/// A rule; an empty list is "any".
#[derive(Clone, Debug)]
pub struct Rule {
    pub action: Action,
    pub directions: Vec<Direction>,
    pub protocols: Vec<u8>,
    pub local: Vec<RangeInclusive<IpAddr>>,
    pub remote: Vec<RangeInclusive<IpAddr>>,
    pub local_ports: Vec<RangeInclusive<u16>>,
    pub remote_ports: Vec<RangeInclusive<u16>>,
    pub apps: Vec<String>,
}

/// A connection; `None` is EMPTY.
#[derive(Clone, Debug)]
pub struct Connection {
    pub direction: Direction,
    pub family: Family,
    pub protocol: Option<u8>,
    pub local: Option<IpAddr>,
    pub remote: Option<IpAddr>,
    pub local_port: Option<u16>,
    pub remote_port: Option<u16>,
    pub app: Option<String>,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            action: Action::Allow,
            directions: vec![Direction::In, Direction::Out],
            protocols: Vec::new(),
            local: Vec::new(),
            remote: Vec::new(),
            local_ports: Vec::new(),
            remote_ports: Vec::new(),
            apps: Vec::new(),
        }
    }
}

impl Rule {
    pub fn matches(&self, connection: &Connection) -> bool {
        let ported = matches!(connection.protocol, Some(6 | 17));
        let address = |list: &[RangeInclusive<IpAddr>], address: Option<IpAddr>| {
            list.is_empty() || address.is_some_and(|address| list.iter().any(|range| within(range, address)))
        };
        let port = |list: &[RangeInclusive<u16>], port: Option<u16>| {
            list.is_empty()
                || ported && port.is_some_and(|port| list.iter().any(|range| range.contains(&port)))
        };
        self.directions.contains(&connection.direction)
            && (self.protocols.is_empty()
                || connection.protocol.is_some_and(|protocol| self.protocols.contains(&protocol)))
            && address(&self.local, connection.local)
            && address(&self.remote, connection.remote)
            && port(&self.local_ports, connection.local_port)
            && port(&self.remote_ports, connection.remote_port)
            && (self.apps.is_empty()
                || connection.app.as_ref().is_some_and(|app| {
                    let app: Vec<char> = app.to_lowercase().chars().collect();
                    self.apps
                        .iter()
                        .any(|pattern| glob(&pattern.to_lowercase().chars().collect::<Vec<_>>(), &app))
                }))
    }

    pub fn toml(&self, name: &str) -> String {
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let mut out = format!("[[rule]]\nname = \"{name}\"\naction = \"{}\"\n", word(self.action));
        match self.directions[..] {
            [Direction::In] => out.push_str("direction = \"in\"\n"),
            [Direction::Out] => out.push_str("direction = \"out\"\n"),
            _ => {}
        }
        if !self.protocols.is_empty() {
            let items = self.protocols.iter().map(ToString::to_string).collect();
            writeln!(out, "protocol = {}", list(items)).unwrap();
        }
        for (key, addresses) in [("local", &self.local), ("remote", &self.remote)] {
            if !addresses.is_empty() {
                let items =
                    addresses.iter().map(|range| format!("\"{}-{}\"", range.start(), range.end())).collect();
                writeln!(out, "{key} = {}", list(items)).unwrap();
            }
        }
        for (key, ports) in [("local_port", &self.local_ports), ("remote_port", &self.remote_ports)] {
            if !ports.is_empty() {
                let items =
                    ports.iter().map(|range| format!("\"{}-{}\"", range.start(), range.end())).collect();
                writeln!(out, "{key} = {}", list(items)).unwrap();
            }
        }
        if !self.apps.is_empty() {
            writeln!(out, "app = {}", list(self.apps.iter().map(|app| format!("'{app}'")).collect()))
                .unwrap();
        }
        out
    }
}

fn within(range: &RangeInclusive<IpAddr>, address: IpAddr) -> bool {
    range.start().is_ipv4() == address.is_ipv4() && range.contains(&address)
}

fn glob(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        [first, rest @ ..] => text.first() == Some(first) && glob(rest, &text[1..]),
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Block => "block",
        Action::Audit => "audit",
    }
}

/// The policy's text.
pub fn toml(default: Action, rules: &[Rule]) -> String {
    let mut out = format!("version = 1\ndefault = \"{}\"\n", word(default));
    for (index, rule) in rules.iter().enumerate() {
        out.push_str(&rule.toml(&format!("r{index}")));
    }
    out
}

/// The first rule that matches.
pub fn decide(default: Action, rules: &[Rule], connection: &Connection) -> Decision {
    match rules.iter().position(|rule| rule.matches(connection)) {
        Some(index) => Decision { action: rules[index].action, rule: Some(u32::try_from(index).unwrap()) },
        None => Decision { action: default, rule: None },
    }
}

impl Connection {
    /// Calls `use_it` with the connection as the driver sees it.
    pub fn with_tuple<T>(&self, use_it: impl FnOnce(&Tuple<'_>) -> T) -> T {
        let app = self.app.as_deref().map(weir_cli::policy::app_bytes);
        use_it(&Tuple {
            direction: self.direction,
            family: self.family,
            protocol: self.protocol,
            local: self.local.map(wire),
            remote: self.remote.map(wire),
            local_port: self.local_port,
            remote_port: self.remote_port,
            app: app.as_deref().and_then(App::from_utf16le),
        })
    }
}

pub fn wire(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&address.octets());
            out
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads rules in ClassBench's format, as a remote source and a local destination. With `v6`, each IPv4
/// network becomes the IPv6 network 2001:db8:a.b.c.d::/(64 + length), so that both families are tried on the
/// same sets.
pub fn classbench(text: &str, v6: bool) -> Vec<Rule> {
    let network = |text: &str| -> Vec<RangeInclusive<IpAddr>> {
        let (address, len) = text.split_once('/').unwrap();
        let (first, len) = (u32::from(address.parse::<Ipv4Addr>().unwrap()), len.parse::<u32>().unwrap());
        let mask = u32::MAX.checked_shr(len).unwrap_or(0);
        if len == 0 {
            Vec::new()
        } else {
            vec![lift(first & !mask, v6, 0)..=lift(first | mask, v6, u64::MAX >> 32)]
        }
    };
    let ports = |text: &str| -> Vec<RangeInclusive<u16>> {
        let (first, last) = text.split_once(" : ").unwrap();
        let range = first.trim().parse().unwrap()..=last.trim().parse().unwrap();
        if range == (0..=u16::MAX) { Vec::new() } else { vec![range] }
    };
    let rule = |line: &str| {
        let fields: Vec<&str> = line.trim_start_matches('@').split('\t').collect();
        let (value, mask) = fields[4].split_once('/').unwrap();
        let protocol = u8::from_str_radix(value.trim_start_matches("0x"), 16).unwrap();
        Rule {
            action: if fields[1].len().is_multiple_of(2) { Action::Allow } else { Action::Block },
            protocols: if mask == "0xFF" { vec![protocol] } else { Vec::new() },
            remote: network(fields[0]),
            local: network(fields[1]),
            remote_ports: ports(fields[2]),
            local_ports: ports(fields[3]),
            ..Rule::default()
        }
    };
    text.lines().filter(|line| line.starts_with('@')).map(rule).collect()
}

/// The IPv4 address itself, or an IPv6 address made of it.
pub fn lift(address: u32, v6: bool, rest: u64) -> IpAddr {
    if v6 {
        let high = 0x2001_0db8_u128 << 96 | u128::from(address) << 64;
        Ipv6Addr::from(high | u128::from(rest) << 32 | u128::from(rest)).into()
    } else {
        Ipv4Addr::from(address).into()
    }
}

/// A connection at the border of, in, or near the rule's conditions.
pub fn near(rule: &Rule, numbers: &mut impl FnMut(u64) -> u64, v6: bool) -> Connection {
    let mut address = |list: &[RangeInclusive<IpAddr>]| match (list.first(), numbers(4)) {
        (Some(range), 0) => *range.start(),
        (Some(range), 1) => *range.end(),
        (Some(range), 2) => lift(
            u32::try_from(numbers(1 << 32)).unwrap() & 0xff
                | u32::from_be_bytes(wire(*range.start())[if v6 { 4..8 } else { 0..4 }].try_into().unwrap()),
            v6,
            numbers(1 << 32),
        ),
        _ => lift(u32::try_from(numbers(1 << 32)).unwrap(), v6, numbers(1 << 32)),
    };
    let (local, remote) = (address(&rule.local), address(&rule.remote));
    let mut port = |list: &[RangeInclusive<u16>]| match (list.first(), numbers(3)) {
        (Some(range), 0) => *range.start(),
        (Some(range), 1) => *range.end(),
        _ => u16::try_from(numbers(65536)).unwrap(),
    };
    let (local_port, remote_port) = (port(&rule.local_ports), port(&rule.remote_ports));
    Connection {
        direction: if numbers(2) == 0 { Direction::In } else { Direction::Out },
        family: if v6 { Family::V6 } else { Family::V4 },
        protocol: Some(rule.protocols.first().copied().unwrap_or(6)),
        local: Some(local),
        remote: Some(remote),
        local_port: Some(local_port),
        remote_port: Some(remote_port),
        app: None,
    }
}

/// Numbers below a bound, always the same ones (xorshift64*).
pub fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |bound| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20) % bound
    }
}
