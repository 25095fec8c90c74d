//! Fields of requests that stand for addresses, protocols, applications and users.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

use wine_support::drive::{self, Request};
use wine_support::json::Value;

use crate::tcpip::{Identity, Interface};

/// `1.2.3.4:443`, `[2001:db8::1]:443`.
pub(super) fn endpoint(request: &Request, name: &str) -> Result<SocketAddr, String> {
    let text = drive::text(request, name)?;
    text.parse()
        .map_err(|_| format!("\"{name}\": {text:?} is no address with a port, as 1.2.3.4:443 or [::1]:443"))
}

/// A number, or "tcp", "udp", "icmp", "icmpv6"; TCP where it is missing.
pub(super) fn protocol(request: &Request) -> Result<u8, String> {
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
        Some(_) => drive::number(request, "protocol", 6, 255).map(|number| u8::try_from(number).unwrap_or(0)),
    }
}

/// Text as UTF-16 with its terminating zero, in lower case: as ALE_APP_ID holds the path of an application.
pub(super) fn application(path: &str) -> Arc<[u16]> {
    path.to_lowercase().encode_utf16().chain([0]).collect()
}

/// A SID in binary form, from its text.
fn sid(text: &str) -> Option<Arc<[u8]>> {
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

/// The fields "app", "user" and "interface".
pub(super) fn identity(request: &Request) -> Result<Identity, String> {
    let application = drive::optional_text(request, "app")?.map(application);
    let user = match drive::optional_text(request, "user")? {
        Some(text) => {
            Some(sid(text).ok_or_else(|| format!("\"user\": {text:?} is no SID, as S-1-5-21-1-2-3-1001"))?)
        }
        None => None,
    };
    let interface = match request.get("interface") {
        None | Some(Value::Null) => None,
        Some(Value::Object(fields)) => Some(Interface {
            index: u32::try_from(drive::number(fields, "index", 1, u32::MAX.into())?).unwrap_or(0),
            luid: drive::number(fields, "luid", 0, u64::MAX)?,
            kind: u32::try_from(drive::number(fields, "type", 6, u32::MAX.into())?).unwrap_or(0),
        }),
        Some(_) => return Err("\"interface\" must be an object with index, luid and type".into()),
    };
    Ok(Identity { application, user, interface })
}
