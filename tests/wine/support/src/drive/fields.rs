//! Fields of requests that stand for addresses, protocols, applications and users.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

use serde_json::Value;

use super::Request;

/// `1.2.3.4:443`, `[2001:db8::1]:443`.
pub fn endpoint(request: &Request, name: &str) -> Result<SocketAddr, String> {
    let text = super::text(request, name)?;
    text.parse()
        .map_err(|_| format!("\"{name}\": {text:?} is no address with a port, as 1.2.3.4:443 or [::1]:443"))
}

/// A number, or "tcp", "udp", "icmp", "icmpv6"; TCP where it is missing.
pub fn protocol(request: &Request) -> Result<u8, String> {
    match request.get("protocol") {
        None | Some(Value::Null) => Ok(6),
        Some(Value::String(name)) => match name.as_str() {
            "tcp" => Ok(6),
            "udp" => Ok(17),
            "icmp" => Ok(1),
            "icmpv6" => Ok(58),
            other => {
                Err(format!("\"protocol\": {other:?} is none of tcp, udp, icmp, icmpv6; or give its number"))
            }
        },
        Some(_) => super::number(request, "protocol", 6, 255).map(|number| u8::try_from(number).unwrap_or(0)),
    }
}

/// Text as UTF-16 with its terminating zero, in lower case: as ALE_APP_ID holds the path of an application.
pub fn application(path: &str) -> Arc<[u16]> {
    path.to_lowercase().encode_utf16().chain([0]).collect()
}

/// A SID in binary form, from its text.
pub fn sid(text: &str) -> Option<Arc<[u8]>> {
    let mut parts = text.strip_prefix("S-")?.split('-');
    let revision: u8 = parts.next()?.parse().ok()?;
    let authority = parts.next()?.parse::<u64>().ok().filter(|authority| *authority < 1 << 48)?;
    let parts: Vec<u32> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let count = u8::try_from(parts.len()).ok().filter(|count| *count <= 15)?;
    let mut bytes = Vec::from([revision, count]);
    bytes.extend_from_slice(authority.to_be_bytes().get(2..)?);
    bytes.extend(parts.iter().flat_map(|part| part.to_le_bytes()));
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(fields: Value) -> Request {
        match fields {
            Value::Object(fields) => fields,
            other => unreachable!("{other} is no object"),
        }
    }

    #[test]
    fn endpoints_are_addresses_with_ports_of_either_family() {
        let fields = request(json!({"a": "1.2.3.4:443", "b": "[2001:db8::1]:53", "c": "1.2.3.4", "d": 7}));
        assert_eq!(endpoint(&fields, "a"), Ok(SocketAddr::from(([1, 2, 3, 4], 443))));
        assert!(endpoint(&fields, "b").is_ok_and(|endpoint| endpoint.is_ipv6() && endpoint.port() == 53));
        for bad in ["c", "d", "missing"] {
            let error = endpoint(&fields, bad).expect_err("no endpoint");
            assert!(error.contains(&format!("\"{bad}\"")), "{error}");
        }
    }

    #[test]
    fn a_protocol_is_a_name_or_a_number_and_tcp_by_default() {
        for (field, wanted) in
            [(json!(null), 6), (json!("tcp"), 6), (json!("udp"), 17), (json!("icmpv6"), 58), (json!(47), 47)]
        {
            assert_eq!(protocol(&request(json!({ "protocol": field }))), Ok(wanted));
        }
        for bad in [json!("gre"), json!(256), json!([])] {
            assert!(protocol(&request(json!({ "protocol": bad }))).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_application_is_in_lower_case_and_ends_with_a_zero() {
        assert_eq!(*application("\\Device\\Ä"), [92, 100, 101, 118, 105, 99, 101, 92, 0xE4, 0]);
    }

    #[test]
    fn a_sid_is_read_from_its_text() {
        let administrators = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
        assert_eq!(sid("S-1-5-32-544").as_deref(), Some(&administrators[..]));
        for bad in ["", "S-1", "X-1-5", "S-1-5-x", "S-256-5", "S-1-281474976710656", "S-1-5-4294967296"] {
            assert_eq!(sid(bad), None, "{bad}");
        }
    }
}
