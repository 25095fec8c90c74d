//! Page: *Filter Arbitration* (win32/fwp/filter-arbitration), unless a test names another.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{Bench, error, inspection, returns, terminating, unknown};
use wfp_engine::{Action, Called, Decision, Error, FilterFlags, Misuse};

#[test]
fn without_a_filter_traffic_passes() {
    let outcome = Bench::new().classify();
    assert!(outcome.permit);
    assert_eq!(outcome.filter, None);
}

#[test]
fn within_a_sublayer_the_heaviest_filter_decides_and_the_rest_are_skipped() {
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    bench.filter(sublayer, 1, Action::Block);
    let permit = bench.filter(sublayer, 2, Action::Permit);
    let outcome = bench.classify();
    assert!(outcome.permit);
    assert_eq!((outcome.filter, outcome.sublayer_weight), (Some(permit), Some(10)));
}

#[test]
fn continue_passes_the_decision_to_the_next_filter_of_the_sublayer() {
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    let audit = bench.callout(2, returns(Decision::Continue, false));
    bench.filter(sublayer, 2, unknown(audit));
    bench.filter(sublayer, 1, Action::Block);
    assert!(!bench.classify().permit);
}

#[test]
fn a_block_of_a_lower_sublayer_overrides_a_soft_permit() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    bench.filter(high, 1, Action::Permit);
    let block = bench.filter(low, 1, Action::Block);
    let outcome = bench.classify();
    assert!(!outcome.permit && !outcome.veto);
    assert_eq!(outcome.filter, Some(block));
}

#[test]
fn a_block_of_a_filter_is_hard_and_a_lower_permit_does_not_override_it() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    bench.filter(high, 1, Action::Block);
    bench.filter(low, 1, Action::Permit);
    assert!(!bench.classify().permit);
}

#[test]
fn a_block_of_a_callout_that_keeps_the_right_is_soft_and_a_lower_permit_overrides_it() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    let block = bench.callout(3, returns(Decision::Block, false));
    bench.filter(high, 1, unknown(block));
    bench.filter(low, 1, Action::Permit);
    assert!(bench.classify().permit);
}

#[test]
fn a_block_of_a_callout_that_clears_the_right_is_hard() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    let block = bench.callout(3, returns(Decision::Block, true));
    bench.filter(high, 1, unknown(block));
    bench.filter(low, 1, Action::Permit);
    assert!(!bench.classify().permit);
}

#[test]
fn a_permit_that_clears_the_right_is_hard_and_a_lower_filter_does_not_block_it() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    bench.filter_with(high, 1, Action::Permit, |spec| {
        spec.flags = FilterFlags { clear_action_right: true, ..FilterFlags::default() };
    });
    bench.filter(low, 1, Action::Block);
    assert!(bench.classify().permit);
}

#[test]
fn a_callout_vetoes_a_hard_permit() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    let permit = bench.callout(3, returns(Decision::Permit, true));
    let veto = bench.callout(4, returns(Decision::Block, true));
    bench.filter(high, 1, unknown(permit));
    let by = bench.filter(low, 1, unknown(veto));
    let outcome = bench.classify();
    assert!(!outcome.permit && outcome.veto);
    assert_eq!(outcome.filter, Some(by));
    assert!(bench.misuses.borrow().is_empty());
}

#[test]
fn a_callout_below_a_hard_permit_finds_the_permit_and_no_right() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    let permit = bench.callout(3, returns(Decision::Permit, true));
    let found = Rc::new(Cell::new(None));
    let seen = Rc::clone(&found);
    let look = bench.callout(4, move |verdict| {
        seen.set(Some((verdict.action, verdict.writable)));
        Called::Yes
    });
    bench.filter(high, 1, unknown(permit));
    bench.filter(low, 1, unknown(look));
    assert!(bench.classify().permit);
    assert_eq!(found.get(), Some((Decision::Permit, false)));
}

#[test]
fn all_sublayers_are_evaluated_even_after_a_block() {
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    let calls = Rc::new(Cell::new(0));
    let count = Rc::clone(&calls);
    let inspect = bench.callout(3, move |_| {
        count.set(count.get() + 1);
        Called::Yes
    });
    bench.filter(high, 1, Action::Block);
    bench.filter(low, 1, inspection(inspect));
    assert!(!bench.classify().permit);
    assert_eq!(calls.get(), 1);
}

#[test]
fn writing_without_the_right_is_ignored_and_reported() {
    // Page: FWPS_CLASSIFY_OUT0.
    let mut bench = Bench::new();
    let (high, low) = (bench.sublayer(1, 20), bench.sublayer(2, 10));
    bench.filter(high, 1, Action::Block);
    let permit = bench.callout(3, returns(Decision::Permit, false));
    bench.filter(low, 1, unknown(permit));
    assert!(!bench.classify().permit);
    assert_eq!(*bench.misuses.borrow(), [Misuse::WroteWithoutRight]);
}

#[test]
fn an_inspection_filter_never_decides() {
    // Page: FWPM_ACTION0.
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    let block = bench.callout(2, returns(Decision::Block, true));
    bench.filter(sublayer, 1, inspection(block));
    assert!(bench.classify().permit);
    assert_eq!(*bench.misuses.borrow(), [Misuse::InspectionDecided]);
}

#[test]
fn a_terminating_filter_must_decide() {
    // Page: FWPM_ACTION0.
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    let undecided = bench.callout(2, returns(Decision::Continue, false));
    bench.filter(sublayer, 2, terminating(undecided));
    bench.filter(sublayer, 1, Action::Block);
    assert!(!bench.classify().permit);
    assert_eq!(*bench.misuses.borrow(), [Misuse::TerminatingDidNotDecide]);
}

#[test]
fn a_block_can_be_silent() {
    // Page: FWPS_CLASSIFY_OUT0, FWPS_CLASSIFY_OUT_FLAG_ABSORB.
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    let absorb = bench.callout(2, |verdict| {
        verdict.action = Decision::Block;
        verdict.writable = false;
        verdict.absorb = true;
        Called::Yes
    });
    bench.filter(sublayer, 1, unknown(absorb));
    let outcome = bench.classify();
    assert!(!outcome.permit && outcome.absorb);
}

#[test]
fn filters_of_an_unregistered_callout_block_unless_they_only_inspect() {
    // Page: FwpsCalloutRegister2.
    for (action, permit) in [(unknown as fn(_) -> _, false), (terminating, false), (inspection, true)] {
        let mut bench = Bench::new();
        let sublayer = bench.sublayer(1, 10);
        let callout = bench.callout_object(2);
        bench.filter(sublayer, 1, action(callout));
        assert_eq!(bench.classify().permit, permit);
    }
}

#[test]
fn filters_of_an_unregistered_callout_permit_where_the_flag_says_so() {
    // Page: FWPM_FILTER0, FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED.
    let flags = FilterFlags { permit_if_callout_unregistered: true, ..FilterFlags::default() };
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    let callout = bench.callout_object(2);
    let filter = bench.filter_with(sublayer, 2, unknown(callout), |spec| spec.flags = flags);
    bench.filter(sublayer, 1, Action::Block);
    let outcome = bench.classify();
    assert!(outcome.permit);
    assert_eq!(outcome.filter, Some(filter), "it is treated as a permit filter");

    let mut spec = wfp_engine::FilterSpec::new(common::CONNECT, inspection(callout));
    spec.flags = flags;
    assert_eq!(error(bench.add(spec)), Error::InvalidFlags, "for inspection it cannot be set");
}

#[test]
fn a_callout_that_registers_and_unregisters_changes_what_its_filters_do() {
    // Pages: FwpsCalloutRegister2, FwpsCalloutUnregisterById0.
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    let callout = bench.callout_object(2);
    bench.filter(sublayer, 1, unknown(callout));
    assert!(!bench.classify().permit);
    bench.register(2, returns(Decision::Permit, false));
    assert!(bench.classify().permit);
    bench.unregister(2);
    assert!(!bench.classify().permit);
}

#[test]
fn a_callout_for_flows_with_context_is_skipped_for_others() {
    // Page: FWPS_CALLOUT2, FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW.
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    let conditional = bench.callout(2, |_| Called::No);
    bench.filter(sublayer, 2, terminating(conditional));
    bench.filter(sublayer, 1, Action::Block);
    assert!(!bench.classify().permit);
    assert!(bench.misuses.borrow().is_empty());
}
