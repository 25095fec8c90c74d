//! The drive channel of `fwpkclnt.sys`: traffic, the state of the filtering platform, and faults. What each operation
//! takes and answers is in the README of the stand-ins.

mod classify;
mod identity;
mod load;
mod platform;
mod traffic;

use wine_support::drive::{Outcome, Request};

/// Handles one request.
pub(crate) fn handle(op: &str, request: &Request) -> Outcome {
    match op {
        "connect" => traffic::connect(request, true),
        "accept" => traffic::connect(request, false),
        "transfer" => traffic::transfer(request),
        "close" => traffic::close(request),
        "connections" => Ok(traffic::connections()),
        "load" => load::start(request),
        "load_status" => load::status(request),
        "load_wait" => load::wait(request),
        "classify" => classify::classify(request),
        "bfe" => platform::bfe(request),
        "filters" => platform::filters(),
        "callouts" => platform::callouts(),
        "left" => Ok(platform::left()),
        "unloads" => Ok(platform::unloads()),
        "fault" => platform::fault(request),
        "etw" => platform::etw(request),
        "processors" => platform::processors(request),
        "asynchronous_delete" => platform::asynchronous_delete(request),
        other => Err(alloc::format!("unknown operation {other:?}")),
    }
}
