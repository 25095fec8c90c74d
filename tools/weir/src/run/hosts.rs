//! The side file that says whose connections are: a capture knows no process, user or interface.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use ntsim::tcpip::{Endpoints, Identity, Interface};
use serde::Deserialize;

/// What the file says. Each attribute of a connection comes from the first entry that matches and gives it.
#[derive(Debug, Default)]
pub struct Hosts {
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    endpoint: Vec<toml::Spanned<Endpoint>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    local: Option<Network>,
    remote: Option<Network>,
    local_port: Option<Ports>,
    remote_port: Option<Ports>,
    protocol: Option<Protocol>,
    app: Option<App>,
    user: Option<Sid>,
    interface: Option<InterfaceEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InterfaceEntry {
    index: u32,
    #[serde(default)]
    luid: u64,
    /// 6 is ethernetCsmacd.
    #[serde(default = "ethernet", rename = "type")]
    kind: u32,
}

fn ethernet() -> u32 {
    6
}

#[derive(Debug)]
struct Entry {
    local: Option<IpNet>,
    remote: Option<IpNet>,
    local_port: Option<(u16, u16)>,
    remote_port: Option<(u16, u16)>,
    protocol: Option<u8>,
    identity: Identity,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Network(IpNet);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        network(&text).map(Self)
    }
}

/// An address or CIDR.
pub fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    text.parse().map_err(|_| format!("{text:?} is neither an address nor a network such as 192.0.2.0/24"))
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a port from 0 to 65535, or a range such as \"8000-8099\"")]
enum Ports {
    One(u16),
    Range(PortRange),
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct PortRange(u16, u16);

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((&text, &text));
        match (low.trim().parse(), high.trim().parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok(Self(low, high)),
            _ => Err(format!("{text:?} is no port range such as \"8000-8099\"")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a protocol name (tcp, udp, icmp, icmpv6) or a number from 0 to 255")]
enum Protocol {
    Number(u8),
    Name(ProtocolName),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProtocolName {
    Icmp,
    Tcp,
    Udp,
    Icmpv6,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct App(Arc<[u16]>);

impl TryFrom<String> for App {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err(
                r"an application is an NT path such as '\device\harddiskvolume3\windows\explorer.exe'".into(),
            );
        }
        // The engine's application ids are in lower case, with the terminating zero counted.
        Ok(Self(text.to_lowercase().encode_utf16().chain([0]).collect()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Sid(Arc<[u8]>);

impl TryFrom<String> for Sid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        sid(&text).map(Self).ok_or_else(|| format!("{text:?} is no SID such as S-1-5-21-1-2-3-1001"))
    }
}

/// A SID from its string form (MS-DTYP, section 2.4.2.1): at most 15 subauthorities, authority below 2^48.
fn sid(text: &str) -> Option<Arc<[u8]>> {
    let mut parts = text.split('-');
    let (prefix, revision) = (parts.next()?, parts.next()?);
    if !prefix.eq_ignore_ascii_case("s") || revision != "1" {
        return None;
    }
    let authority = parts.next()?;
    let authority = match authority.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => authority.parse().ok()?,
    };
    let subauthorities: Vec<u32> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    if authority >= 1 << 48 || !(1..=15).contains(&subauthorities.len()) {
        return None;
    }
    let mut sid = vec![1, u8::try_from(subauthorities.len()).ok()?];
    sid.extend_from_slice(&authority.to_be_bytes()[2..]);
    for subauthority in subauthorities {
        sid.extend_from_slice(&subauthority.to_le_bytes());
    }
    Some(sid.into())
}

impl Hosts {
    /// Reads the file.
    ///
    /// # Errors
    /// A text for people: what is wrong, with line and column.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut entries = Vec::new();
        for endpoint in file.endpoint {
            let start = endpoint.span().start;
            let endpoint = endpoint.into_inner();
            let identity = Identity {
                application: endpoint.app.map(|app| app.0),
                user: endpoint.user.map(|sid| sid.0),
                interface: endpoint.interface.map(|entry| Interface {
                    index: entry.index,
                    luid: entry.luid,
                    kind: entry.kind,
                }),
            };
            if identity.application.is_none() && identity.user.is_none() && identity.interface.is_none() {
                let line = text[..start].lines().count().max(1);
                return Err(format!(
                    "line {line}: an endpoint gives at least one of app, user and interface"
                ));
            }
            let ports = |ports: Option<Ports>| {
                ports.map(|ports| match ports {
                    Ports::One(port) => (port, port),
                    Ports::Range(PortRange(low, high)) => (low, high),
                })
            };
            entries.push(Entry {
                local: endpoint.local.map(|network| network.0),
                remote: endpoint.remote.map(|network| network.0),
                local_port: ports(endpoint.local_port),
                remote_port: ports(endpoint.remote_port),
                protocol: endpoint.protocol.map(|protocol| match protocol {
                    Protocol::Number(number) => number,
                    Protocol::Name(ProtocolName::Icmp) => 1,
                    Protocol::Name(ProtocolName::Tcp) => 6,
                    Protocol::Name(ProtocolName::Udp) => 17,
                    Protocol::Name(ProtocolName::Icmpv6) => 58,
                }),
                identity,
            });
        }
        Ok(Self { entries })
    }

    /// Whose a connection is.
    pub fn identity(&self, endpoints: &Endpoints) -> Identity {
        let mut identity = Identity::default();
        for entry in self.entries.iter().filter(|entry| entry.matches(endpoints)) {
            identity.application = identity.application.or_else(|| entry.identity.application.clone());
            identity.user = identity.user.or_else(|| entry.identity.user.clone());
            identity.interface = identity.interface.or(entry.identity.interface);
        }
        identity
    }
}

impl Entry {
    fn matches(&self, endpoints: &Endpoints) -> bool {
        let network =
            |network: Option<IpNet>, address| network.is_none_or(|network| network.contains(&address));
        let port = |range: Option<(u16, u16)>, port| {
            range.is_none_or(|(low, high)| endpoints.has_ports() && (low..=high).contains(&port))
        };
        network(self.local, endpoints.local)
            && network(self.remote, endpoints.remote)
            && port(self.local_port, endpoints.local_port)
            && port(self.remote_port, endpoints.remote_port)
            && self.protocol.is_none_or(|protocol| protocol == endpoints.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(local_port: u16, remote: &str, remote_port: u16) -> Endpoints {
        Endpoints {
            protocol: 6,
            local: "10.0.0.1".parse().unwrap(),
            remote: remote.parse().unwrap(),
            local_port,
            remote_port,
            icmp: (0, 0),
        }
    }

    #[test]
    fn each_attribute_comes_from_the_first_entry_that_gives_it() {
        let hosts = Hosts::parse(
            r#"
            [[endpoint]]
            remote_port = 443
            protocol = "tcp"
            app = '\Device\HarddiskVolume3\Browser.exe'
            [[endpoint]]
            local = "10.0.0.0/8"
            app = '\device\other.exe'
            user = "S-1-5-21-1-2-3-1001"
            interface = { index = 5 }
            "#,
        )
        .unwrap();
        let identity = hosts.identity(&tcp(50_000, "192.0.2.1", 443));
        let path = identity.application.unwrap();
        assert_eq!(String::from_utf16_lossy(&path), "\\device\\harddiskvolume3\\browser.exe\0");
        assert_eq!(identity.user.unwrap().len(), 8 + 5 * 4);
        assert_eq!(identity.interface.unwrap().kind, 6);
        let identity = hosts.identity(&tcp(50_000, "192.0.2.1", 80));
        assert!(
            identity.application.unwrap().starts_with(&"\\device\\other".encode_utf16().collect::<Vec<_>>())
        );
    }

    #[test]
    fn faults_are_named_with_their_place() {
        for (text, expected) in [
            ("[[endpoint]]\nlocal = \"10.0.0.300\"\napp = 'x'", "line 2"),
            ("[[endpoint]]\nlocal_port = \"9-3\"\napp = 'x'", "line 2"),
            ("[[endpoint]]\nuser = \"S-2-5\"", "S-2-5"),
            ("[[endpoint]]\n\n[[endpoint]]\nlocal = \"::1\"", "at least one of"),
            ("[[endpoints]]\napp = 'x'", "unknown field"),
        ] {
            let error = Hosts::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
