//! The rules of the WSK documentation, each provoked.

#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::wildcard_imports,
    clippy::struct_field_names,
    clippy::unnecessary_box_returns,
    reason = "the tests call as a driver does: what a call's caller must see to is what its test is about"
)]

mod client;
mod connections;
mod extensions;
mod layout;
mod listeners;
mod registration;
mod tcp;

use super::{CallbackIrql, Completion, Config};
use crate::boot::Sim;
use crate::verify::Rule;
use std::time::Duration;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A machine whose WSK is as `config` says.
pub(super) fn boot(wsk: Config) -> Sim {
    crate::boot(crate::Config { wsk, hang_after: Duration::from_millis(200), ..crate::Config::default() })
}

/// A configuration without chance.
pub(super) fn plain(completion: Completion) -> Config {
    Config {
        completion,
        callback_irql: CallbackIrql::Dispatch,
        split: false,
        races: 0,
        release_asap: 0,
        ..Config::default()
    }
}

/// The configurations that a well-behaved client must work with, all of them.
pub(super) fn every() -> Vec<Config> {
    let mut all: Vec<_> = [Completion::Inline, Completion::Pending, Completion::OtherThread]
        .into_iter()
        .flat_map(|completion| {
            [CallbackIrql::Passive, CallbackIrql::Dispatch]
                .map(|callback_irql| Config { callback_irql, ..plain(completion) })
        })
        .collect();
    all.extend((0..12_usize).map(|seed| Config {
        seed: seed as u64,
        threads: 1 + seed % 3,
        ..Config::default()
    }));
    all
}

pub(super) fn assert_clean(sim: &Sim) {
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

/// Takes exactly one violation of `rule`, and nothing else.
pub(super) fn assert_only(sim: &Sim, rule: &'static Rule) {
    let report = sim.report();
    let names: Vec<_> = report.violations.iter().map(|violation| violation.rule.name).collect();
    assert_eq!(names, [rule.name], "{report}");
}
