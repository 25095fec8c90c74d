//! The fields of requests that say whose a connection is.

use alloc::format;
use alloc::string::String;

use wine_support::drive::{self, Request, fields};
use wine_support::json::Value;

use crate::tcpip::{Identity, Interface};

/// The fields "app", "user" and "interface".
pub(super) fn identity(request: &Request) -> Result<Identity, String> {
    let application = drive::optional_text(request, "app")?.map(fields::application);
    let user = match drive::optional_text(request, "user")? {
        Some(text) => Some(
            fields::sid(text)
                .ok_or_else(|| format!("\"user\": {text:?} is no SID, as S-1-5-21-1-2-3-1001"))?,
        ),
        None => None,
    };
    let interface = match request.get("interface") {
        None | Some(Value::Null) => None,
        Some(Value::Object(given)) => Some(Interface {
            index: u32::try_from(drive::number(given, "index", 1, u32::MAX.into())?).unwrap_or(0),
            luid: drive::number(given, "luid", 0, u64::MAX)?,
            kind: u32::try_from(drive::number(given, "type", 6, u32::MAX.into())?).unwrap_or(0),
        }),
        Some(_) => return Err("\"interface\" must be an object with index, luid and type".into()),
    };
    Ok(Identity { application, user, interface })
}
