//! Page: *Object Management*, Transactions, unless a test names another.

mod common;

use common::{Bench, CONNECT, Told, error, key, returns, unknown};
use wfp_engine::{Action, Decision, Error, FilterSpec};

fn block() -> FilterSpec {
    FilterSpec::new(CONNECT, Action::Block)
}

#[test]
fn a_transaction_takes_effect_as_a_whole() {
    let mut bench = Bench::new();
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    bench.add(block()).expect("a good filter");
    bench.add(block()).expect("a good filter");
    assert!(bench.classify().permit, "not before the commit");
    assert_eq!(bench.record.told, []);
    bench.engine.commit(bench.session, &mut bench.record).expect("it is in progress");
    assert!(!bench.classify().permit);
    assert_eq!(bench.record.told, [Told::Published]);
}

#[test]
fn a_session_sees_what_its_own_transaction_did_and_others_do_not() {
    let mut bench = Bench::new();
    let other = bench.engine.open(false).expect("the engine runs");
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    let id = bench.add(block()).expect("a good filter");
    assert!(bench.engine.filter(bench.session, id).is_ok());
    assert_eq!(error(bench.engine.filter(other, id)), Error::FilterNotFound);
}

#[test]
fn an_aborted_transaction_leaves_nothing() {
    let mut bench = Bench::new();
    let kept = bench.add(block()).expect("a good filter");
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    bench.engine.delete_filter(bench.session, kept, &mut bench.record).expect("it is there");
    bench.add(block()).expect("a good filter");
    bench.engine.abort(bench.session, &mut bench.record).expect("it is in progress");
    assert_eq!(bench.engine.filters().map(|f| f.id).collect::<Vec<_>>(), [kept]);
    assert_eq!(bench.classify().filter, Some(kept));
}

#[test]
fn a_failed_call_does_not_end_the_transaction() {
    let mut bench = Bench::new();
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    bench.add(block()).expect("a good filter");
    let mut bad = block();
    bad.sublayer = key(99);
    assert_eq!(error(bench.add(bad)), Error::SubLayerNotFound);
    bench.engine.commit(bench.session, &mut bench.record).expect("it is in progress");
    assert_eq!(bench.engine.filters().count(), 1);
}

#[test]
fn a_session_has_one_transaction_at_a_time() {
    // Page: FwpmTransactionBegin0.
    let mut bench = Bench::new();
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    assert_eq!(error(bench.engine.begin(bench.session, true)), Error::TransactionInProgress);
}

#[test]
fn without_a_transaction_there_is_nothing_to_end() {
    // Page: WFP Error Codes, FWP_E_NO_TXN_IN_PROGRESS.
    let mut bench = Bench::new();
    assert_eq!(error(bench.engine.commit(bench.session, &mut bench.record)), Error::NoTransaction);
    assert_eq!(error(bench.engine.abort(bench.session, &mut bench.record)), Error::NoTransaction);
}

#[test]
fn nothing_changes_in_a_read_only_transaction() {
    // Page: FwpmFilterAdd0, FWP_E_INCOMPATIBLE_TXN.
    let mut bench = Bench::new();
    let id = bench.add(block()).expect("a good filter");
    bench.engine.begin(bench.session, true).expect("no other is in progress");
    assert_eq!(error(bench.add(block())), Error::IncompatibleTransaction);
    let delete = bench.engine.delete_filter(bench.session, id, &mut bench.record);
    assert_eq!(error(delete), Error::IncompatibleTransaction);
    assert!(bench.engine.filter(bench.session, id).is_ok());
}

#[test]
fn writers_exclude_each_other_and_readers() {
    let mut bench = Bench::new();
    let other = bench.engine.open(false).expect("the engine runs");
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    assert_eq!(error(bench.engine.begin(other, false)), Error::Timeout);
    assert_eq!(error(bench.engine.begin(other, true)), Error::Timeout);
    let implicit = bench.engine.add_filter(other, block(), &mut bench.record);
    assert_eq!(error(implicit), Error::Timeout, "a call outside a transaction is one of its own");
    bench.engine.commit(bench.session, &mut bench.record).expect("it is in progress");
    bench.engine.begin(other, true).expect("the lock is free");
    bench.engine.begin(bench.session, true).expect("readers share it");
}

#[test]
fn closing_a_session_aborts_its_transaction() {
    let mut bench = Bench::new();
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    bench.add(block()).expect("a good filter");
    bench.engine.close(bench.session, &mut bench.record);
    assert_eq!(bench.engine.filters().count(), 0);
    assert!(bench.classify().permit);
}

#[test]
fn callouts_are_told_of_a_commit_and_of_a_roll_back() {
    // Pages: FWPS_CALLOUT2 (FWP_CALLOUT_FLAG_ENABLE_COMMIT_ADD_NOTIFY), Processing Notify Callouts.
    let mut bench = Bench::new();
    bench.callout(1, returns(Decision::Permit, false));
    let filter = || FilterSpec::new(CONNECT, unknown(key(1)));
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    bench.record.told.clear();
    let first = bench.add(filter()).expect("a good filter");
    bench.engine.abort(bench.session, &mut bench.record).expect("it is in progress");
    assert_eq!(bench.record.told, [Told::Added(first), Told::Deleted(first)]);

    bench.record.told.clear();
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    let second = bench.add(filter()).expect("a good filter");
    bench.engine.commit(bench.session, &mut bench.record).expect("it is in progress");
    assert_eq!(bench.record.told, [Told::Added(second), Told::Published, Told::Committed(second)]);
}

#[test]
fn the_registration_of_callouts_is_not_rolled_back() {
    let mut bench = Bench::new();
    bench.engine.begin(bench.session, false).expect("no other is in progress");
    bench.register(1, returns(Decision::Permit, false));
    bench.engine.abort(bench.session, &mut bench.record).expect("it is in progress");
    assert_eq!(bench.engine.registered().count(), 1);
}
