//! The drive channel's operations: what there is, what it counts, and what a test has happen.

mod modules;

use crate::caller;
use crate::extension::{self, TOTALS};
use crate::fault::{FAULTS, Fate};
use crate::guid;
use crate::machine;
use crate::nmr;
use crate::registration::{self, Held};
use crate::report;
use crate::request;
use crate::script::Answer;
use crate::socket::{self, Category, Phase, Socket};
use crate::sys::nt::{GUID, STATUS_INSUFFICIENT_RESOURCES};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use wine_support::drive::{self, Outcome, Request};
use wine_support::json::{Value, json};

/// Opens the channel.
pub fn serve() {
    drive::serve(handle);
}

fn handle(op: &str, request: &Request) -> Outcome {
    match op {
        "status" => Ok(status()),
        "sockets" => {
            let mut sockets =
                if drive::flag(request, "closed", false)? { socket::closed() } else { Vec::new() };
            sockets.extend(socket::sockets());
            sockets.sort_by_key(|socket| socket.id);
            Ok(json!({ "sockets": sockets.iter().map(describe).collect::<Vec<_>>() }))
        }
        "irps" => Ok(irps()),
        "violations" => {
            let (count, first) = report::violations();
            Ok(json!({ "count": count, "first": first }))
        }
        "ready" => {
            machine::set_ready(drive::flag(request, "on", true)?);
            Ok(Value::Null)
        }
        "extension" => {
            let answer = answer(request, "answer")?.ok_or("\"answer\" is missing")?;
            extension::set_answer(&npi(request)?, answer, drive::number(request, "inline", 0, 1000)?);
            Ok(Value::Null)
        }
        "storm" => storm(request),
        "storm-end" => {
            let made = caller::storm_end(drive::flag(request, "stop", false)?).ok_or("there is no storm")?;
            Ok(json!({ "callbacks": made }))
        }
        "fault" => fault(request),
        "pause" => {
            caller::pause(drive::flag(request, "on", true)?);
            Ok(Value::Null)
        }
        "kill" => each(request, None, Socket::fail),
        "kill-listener" => each(request, Some(Category::Listen), Socket::fail),
        "drop" => each(request, Some(Category::Connection), Socket::cut),
        "backlog" => {
            let bytes = drive::number(request, "bytes", 0, u64::from(u32::MAX))?;
            let bytes = usize::try_from(bytes).map_err(|error| error.to_string())?;
            each(request, Some(Category::Connection), |socket| {
                socket.set_ideal_send_backlog(bytes);
                true
            })
        }
        "nmr" => {
            let (clients, providers, bindings) = nmr::counts();
            Ok(json!({ "clients": clients, "providers": providers, "bindings": bindings }))
        }
        other => {
            modules::handle(other, request).unwrap_or_else(|| Err(format!("unknown operation {other:?}")))
        }
    }
}

/// Has calls of a function fail, or stall.
fn fault(request: &Request) -> Outcome {
    if drive::flag(request, "clear", false)? {
        FAULTS.clear();
    } else {
        let function = drive::text(request, "api")?;
        if !FUNCTIONS.contains(&function) {
            return Err(format!("{function:?} is none of {}", FUNCTIONS.join(", ")));
        }
        let fate = if drive::flag(request, "stall", false)? {
            Fate::Stall
        } else {
            match drive::optional_text(request, "status")?.map(str::parse).transpose()? {
                None => Fate::Fail(STATUS_INSUFFICIENT_RESOURCES),
                Some(Answer::Refuse(status)) => Fate::Fail(status),
                Some(_) => return Err("\"status\" is no status of a failure".into()),
            }
        };
        let nth = drive::number(request, "nth", 1, u64::MAX)?;
        FAULTS.add(function, nth, drive::number(request, "count", 1, u64::MAX)?, fate);
    }
    Ok(json!({ "pending": FAULTS.left() }))
}

/// What can fail: everything that takes an IRP, but close, and what an application can do without.
const FUNCTIONS: [&str; 14] = [
    "WSK_CACHE_SD",
    "WskSocket",
    "WskSocketConnect",
    "WskControlClient",
    "WskControlSocket",
    "WskBind",
    "WskAccept",
    "WskConnect",
    "WskGetLocalAddress",
    "WskGetRemoteAddress",
    "WskSend",
    "WskReceive",
    "WskDisconnect",
    "WskGetAddressInfo",
];

/// How a registration is to be answered, if the request says it.
fn answer(request: &Request, field: &str) -> Result<Option<Answer>, String> {
    drive::optional_text(request, field)?.map(str::parse).transpose()
}

/// Callbacks as fast as they can be made.
fn storm(request: &Request) -> Outcome {
    let npi = match request.get("npi") {
        None | Some(Value::Null) => None,
        Some(_) => Some(npi(request)?),
    };
    let threads = drive::number(request, "threads", 4, 16)?;
    let callbacks = drive::number(request, "callbacks", 1000, u64::MAX)?;
    let time = Duration::from_millis(drive::number(request, "milliseconds", 5000, 60_000)?);
    if !caller::storm(threads, callbacks, time, npi) {
        return Err("there is a storm already".to_string());
    }
    Ok(Value::Null)
}

/// A kind of socket, by the number that vendors' modules are told.
const fn kind(number: u32) -> &'static str {
    match number {
        0 => "listening",
        1 => "accepted",
        2 => "dialled",
        _ => "?",
    }
}

fn npi(request: &Request) -> Result<GUID, String> {
    let text = drive::text(request, "npi")?;
    guid::parse(text).ok_or_else(|| format!("\"npi\" is no GUID: {text:?}"))
}

/// Does something to the socket that is named, or to all of a category; says to how many.
fn each(request: &Request, of: Option<Category>, act: impl Fn(&Socket) -> bool) -> Outcome {
    let id = match request.get("socket") {
        None | Some(Value::Null) if of.is_some() => None,
        _ => Some(drive::number(request, "socket", 0, u64::MAX)?),
    };
    let chosen: Vec<_> = socket::sockets()
        .into_iter()
        .filter(|socket| id.is_none_or(|id| socket.id == id))
        .filter(|socket| of.is_none_or(|category| socket.category == category))
        .collect();
    if let (Some(id), true) = (id, chosen.is_empty()) {
        return Err(format!("there is no such socket {id}"));
    }
    let count = chosen.iter().filter(|socket| act(socket)).count();
    Ok(json!({ "sockets": count }))
}

fn status() -> Value {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let clients: Vec<_> = registration::clients()
        .iter()
        .map(|client| {
            let Held { captures, calls, sockets, irps } = client.held();
            json!({
                "id": client.id, "captures": captures, "calls": calls, "sockets": sockets, "irps": irps,
                "security_descriptors": client.cached()
            })
        })
        .collect();
    let (violations, _) = report::violations();
    json!({
        "ready": machine::is_ready(),
        "clients": clients,
        "sockets": socket::sockets().len(),
        "irps": request::outstanding().len(),
        "violations": violations,
        "leaks": registration::leaks(),
        "extensions": {
            "granted": read(&TOTALS.granted),
            "refused": read(&TOTALS.refused),
            "callbacks": read(&TOTALS.callbacks),
            "functions": read(&TOTALS.functions),
            "after_close": read(&TOTALS.after_close),
            "functions_after_close": read(&TOTALS.functions_after_close),
        },
    })
}

fn irps() -> Value {
    let list: Vec<_> = request::outstanding()
        .into_iter()
        .map(|(irp, api, socket)| json!({ "irp": format!("{irp:#x}"), "function": api, "socket": socket }))
        .collect();
    json!({ "irps": list })
}

fn describe(socket: &Arc<Socket>) -> Value {
    let state = socket.state();
    let (calls, irps) = state.busy();
    let (receives, sends, connects) = state.connection.pending();
    let extensions: Vec<_> = state
        .registered()
        .iter()
        .map(|registration| {
            json!({
                "npi": guid::text(&registration.npi),
                "asked": registration.asked,
                "granted": registration.granted,
                "status": format!("{:#010x}", registration.status),
                "enabled": registration.enabled,
                "callbacks": registration.callbacks,
                "functions": registration.functions,
            })
        })
        .collect();
    json!({
        "id": socket.id,
        "client": socket.client.id,
        "category": match socket.category {
            Category::Basic => "basic",
            Category::Listen => "listen",
            Category::Connection => "connection",
        },
        "kind": match (socket.category, state.accepted) {
            (Category::Basic, _) => Value::Null,
            (Category::Listen, _) => kind(0).into(),
            (Category::Connection, accepted) => kind(if accepted { 1 } else { 2 }).into(),
        },
        "local": state.local.map(|address| address.to_string()),
        "remote": state.remote.map(|address| address.to_string()),
        "closing": state.phase != Phase::Open,
        "closed": state.phase == Phase::Closed,
        "dead": state.dead,
        "secured": state.secured,
        "ideal_send_backlog": state.connection.ideal_send_backlog(),
        "events": state.enabled,
        "calls": calls,
        "irps": irps,
        "callbacks": state.callbacks.len(),
        "pending": {
            "accepts": state.listening.pending(),
            "receives": receives,
            "sends": sends,
            "connects": connects,
        },
        "accepted": state.listening.accepted,
        "received": socket.received.load(Ordering::Relaxed),
        "sent": socket.sent.load(Ordering::Relaxed),
        "retained": state.connection.retained.len(),
        "extensions": extensions,
    })
}
