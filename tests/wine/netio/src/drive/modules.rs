//! The drive channel's operations on provider modules of the registrar.

use super::{answer, npi};
use crate::guid;
use crate::nmr::connections::{self, Seen};
use crate::nmr::scripted::{self, Behaviour, Counts};
use crate::script::Answer;
use crate::sys::nt::{GUID, STATUS_SUCCESS};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use wine_support::drive::{self, Outcome, Request};
use wine_support::json::{Value, json};
use wine_support::thread;

/// The most of what a script counts.
const MOST: u64 = 1000;
/// The longest that a script waits, in milliseconds.
const LONGEST: u64 = 60_000;

/// Handles the operation, if it is one of these.
pub fn handle(op: &str, request: &Request) -> Option<Outcome> {
    Some(match op {
        "nmr-add" => add(request),
        "nmr-set" => set(request),
        "nmr-complete" => complete(request),
        "nmr-counts" => with(request, scripted::counts).map(|counts| told(&counts)),
        "nmr-connections" => with(request, scripted::connections).map(|seen| {
            let seen: Vec<_> = seen.iter().map(describe).collect();
            json!({ "connections": seen })
        }),
        "nmr-remove" => remove(request),
        _ => return None,
    })
}

fn name(request: &Request) -> Result<&str, String> {
    drive::optional_text(request, "name").map(Option::unwrap_or_default)
}

fn with<T>(request: &Request, ask: impl FnOnce(&GUID, &str) -> Option<T>) -> Result<T, String> {
    let (npi, name) = (npi(request)?, name(request)?);
    ask(&npi, name).ok_or_else(|| no_provider(&npi, name))
}

fn no_provider(npi: &GUID, name: &str) -> String {
    format!("there is no provider {name:?} of {}", guid::text(npi))
}

/// What the request says that a module is to do, and else as before.
fn behaviour(request: &Request, before: Behaviour) -> Result<Behaviour, String> {
    let attach = match answer(request, "attach")? {
        None => before.attach,
        Some(Answer::Grant(None)) => STATUS_SUCCESS,
        Some(Answer::Refuse(status)) => status,
        Some(_) => return Err("\"attach\" is neither grant nor a status".to_string()),
    };
    let table = match drive::optional_text(request, "table")? {
        None => before.table,
        Some(name) => {
            connections::dispatch(name).ok_or_else(|| format!("\"table\": there is no table {name:?}"))?
        }
    };
    let detach_after = match request.get("detach_after") {
        None => before.detach_after,
        Some(Value::Null) => None,
        Some(_) => Some(drive::number(request, "detach_after", 0, LONGEST)?),
    };
    Ok(Behaviour {
        attach,
        answer: answer(request, "answer")?.unwrap_or(before.answer),
        inline: drive::number(request, "inline", before.inline, MOST)?,
        detach_after,
        late: drive::number(request, "late", before.late, MOST)?,
        table,
    })
}

fn add(request: &Request) -> Outcome {
    let (npi, name) = (npi(request)?, name(request)?);
    let behaviour = behaviour(request, Behaviour::default())?;
    let added = scripted::add(npi, name, drive::flag(request, "pends", false)?, behaviour);
    let id = added.ok_or_else(|| format!("there is a provider {name:?} of {} already", guid::text(&npi)))?;
    Ok(json!({ "module": guid::text(&id) }))
}

fn set(request: &Request) -> Outcome {
    let before = with(request, scripted::behaviour)?;
    let behaviour = behaviour(request, before)?;
    let set = with(request, |npi, name| Some(scripted::set_behaviour(npi, name, behaviour)))?;
    if set { Ok(Value::Null) } else { Err(no_provider(&npi(request)?, name(request)?)) }
}

fn complete(request: &Request) -> Outcome {
    let completed = with(request, scripted::complete)?;
    Ok(json!({ "completed": completed }))
}

fn remove(request: &Request) -> Outcome {
    let after = drive::number(request, "after", 0, LONGEST)?;
    let leaving = with(request, scripted::remove)?;
    thread::sleep(Duration::from_millis(after));
    let completed = leaving.complete();
    let mut answer = told(&leaving.finish());
    // Those that it held up; `completed` of connections is the other.
    answer["detaches_completed"] = completed.into();
    Ok(answer)
}

fn told(counts: &Counts) -> Value {
    let Counts {
        attached,
        detached,
        cleaned,
        asked,
        granted,
        refused,
        lied,
        released,
        pended,
        completed,
        ended,
        callbacks,
        late,
        functions,
    } = counts;
    json!({
        "attached": attached, "detached": detached, "cleaned": cleaned, "asked": asked, "granted": granted,
        "refused": refused, "lied": lied, "released": released, "pended": pended, "completed": completed,
        "ended": ended, "callbacks": callbacks, "late": late, "functions": functions,
    })
}

fn describe(seen: &Seen) -> Value {
    let about = &seen.about;
    let address = |bytes: [u8; 16], port: u16| -> Option<String> {
        let [a, b, c, d, ..] = bytes;
        match about.Family {
            2 => Some(format!("{}:{port}", Ipv4Addr::new(a, b, c, d))),
            23 => Some(format!("[{}]:{port}", Ipv6Addr::from(bytes))),
            _ => None,
        }
    };
    json!({
        "kind": super::kind(about.Kind),
        "session": about.Session,
        "events": about.EventMask,
        "local": address(about.LocalAddress, about.LocalPort),
        "remote": address(about.RemoteAddress, about.RemotePort),
        "detached": seen.detached,
        "callbacks": seen.callbacks,
        "functions": seen.functions,
    })
}
