//! The state of the platform and of the kernel, and what a test does to them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use wfp_engine::{Action, LayerInfo, Lifetime};
use wine_support::drive::{self, Outcome, Request};
use wine_support::json::{Value, json};

use crate::kernel::{etw as tracing, pool, processor};
use crate::sys::fwp::{
    FWPM_SERVICE_RUNNING, FWPM_SERVICE_START_PENDING, FWPM_SERVICE_STATE, FWPM_SERVICE_STOP_PENDING,
    FWPM_SERVICE_STOPPED,
};
use crate::wfp::state::manage;
use crate::wfp::{self, Config};
use crate::{fault as faults, irql, modules, verify};

const STATES: [(&str, FWPM_SERVICE_STATE); 4] = [
    ("stopped", FWPM_SERVICE_STOPPED),
    ("start_pending", FWPM_SERVICE_START_PENDING),
    ("stop_pending", FWPM_SERVICE_STOP_PENDING),
    ("running", FWPM_SERVICE_RUNNING),
];

pub(super) fn bfe(request: &Request) -> Outcome {
    if let Some(name) = drive::optional_text(request, "state")? {
        let known = STATES.iter().find(|(known, _)| *known == name).map(|(_, state)| *state);
        let state = known.ok_or_else(|| {
            format!("\"state\": {name:?} is none of stopped, start_pending, stop_pending, running")
        })?;
        wfp::bfe_set_state(state);
    }
    let now = wfp::bfe_state();
    let name = STATES.iter().find(|(_, state)| *state == now).map(|(name, _)| *name);
    Ok(json!({ "state": name, "generation": wfp::policy_generation() }))
}

fn wide(text: Option<&[u16]>) -> Value {
    text.map_or(Value::Null, |text| String::from_utf16_lossy(text).into())
}

const fn lifetime(lifetime: Lifetime) -> &'static str {
    match lifetime {
        Lifetime::BuiltIn => "built-in",
        Lifetime::Dynamic(_) => "dynamic",
        Lifetime::Static => "static",
        Lifetime::Persistent => "persistent",
        Lifetime::BootTime => "boot-time",
    }
}

const BUSY: &str = "the platform is in a callback on this thread";

pub(super) fn filters() -> Outcome {
    let bfe = manage("the drive channel").ok_or(BUSY)?;
    let layers: Arc<[LayerInfo]> = Arc::clone(bfe.engine.layers());
    let name = |key| layers.iter().find(|layer| layer.key == key).map_or("?", |layer| layer.name);
    let filters: Vec<Value> = bfe
        .engine
        .filters()
        .map(|filter| {
            let spec = &filter.spec;
            let (action, callout) = match spec.action {
                Action::Block => ("block", None),
                Action::Permit => ("permit", None),
                Action::Callout(_, key) => ("callout", Some(key.to_string())),
            };
            json!({
                "id": filter.id,
                "key": spec.key.to_string(),
                "name": wide(spec.display.name.as_deref()),
                "layer": name(spec.layer),
                "sublayer": spec.sublayer.to_string(),
                "sublayer_weight": filter.sublayer_weight,
                "weight": filter.weight,
                "lifetime": lifetime(filter.lifetime),
                "conditions": spec.conditions.len(),
                "action": action,
                "callout": callout,
            })
        })
        .collect();
    Ok(json!({ "filters": filters }))
}

pub(super) fn callouts() -> Outcome {
    let bfe = manage("the drive channel").ok_or(BUSY)?;
    let callouts: Vec<Value> = bfe
        .engine
        .registered()
        .map(|(key, callout)| {
            json!({
                "id": callout.id,
                "key": key.to_string(),
                "flags": callout.flags,
                "flow_contexts": callout.contexts.load(Ordering::SeqCst),
            })
        })
        .collect();
    Ok(json!({ "callouts": callouts }))
}

pub(super) fn left() -> Value {
    let left: Vec<Value> = modules::left().iter().map(modules::describe).collect();
    let (count, violations) = verify::violations();
    let pool: Vec<Value> = pool::by_tag()
        .into_iter()
        .map(|(tag, blocks, bytes)| json!({ "tag": tag, "blocks": blocks, "bytes": bytes }))
        .collect();
    json!({ "left": left, "pool": pool, "violation_count": count, "violations": violations })
}

pub(super) fn unloads() -> Value {
    json!({ "unloads": modules::unloads() })
}

pub(super) fn fault(request: &Request) -> Outcome {
    if drive::flag(request, "clear", false)? {
        faults::clear();
    }
    if let Some(api) = drive::optional_text(request, "api")? {
        let nth = drive::number(request, "nth", 1, u64::MAX)?;
        let count = drive::number(request, "count", 1, u64::MAX)?;
        faults::plan(api, nth, count);
    }
    Ok(json!({ "pending": faults::pending() }))
}

pub(super) fn etw(request: &Request) -> Outcome {
    if request.get("enabled").is_some() {
        let enabled = drive::flag(request, "enabled", true)?;
        let level = drive::number(request, "level", 5, 255)?;
        let level = enabled.then(|| u8::try_from(level).unwrap_or(u8::MAX));
        let keywords = drive::number(request, "keywords", u64::MAX, u64::MAX)?;
        tracing::want(tracing::Wanted { level, keywords });
    }
    let (providers, events) = tracing::state();
    Ok(json!({ "providers": providers, "events": events }))
}

pub(super) fn processors(request: &Request) -> Outcome {
    if drive::flag(request, "add", false)? && processor::add().is_none() {
        return Err("no processor was added: the maximum is reached, or a driver refused".into());
    }
    Ok(json!({ "active": irql::active_processors(), "maximum": irql::maximum_processors() }))
}

pub(super) fn asynchronous_delete(request: &Request) -> Outcome {
    let on = drive::flag(request, "on", true)?;
    wfp::configure(Config { bfe: wfp::bfe_state(), asynchronous_delete: on });
    Ok(Value::Null)
}
