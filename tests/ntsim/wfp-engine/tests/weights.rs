//! Page: *Filter Weight Assignment*.

mod common;

use common::{Bench, CONNECT, error};
use wfp_engine::id::{self, field::ale_auth_connect as at};
use wfp_engine::{Action, Condition, ConditionValue, Error, FilterSpec, MatchType, Value, Weight};

fn filter(weight: Weight, ports: &[u16], action: Action) -> FilterSpec {
    let mut spec = FilterSpec::new(CONNECT, action);
    spec.weight = weight;
    spec.conditions = ports
        .iter()
        .map(|port| Condition {
            field: id::FWPM_CONDITION_IP_REMOTE_PORT,
            match_type: MatchType::Equal,
            value: ConditionValue::Single(Value::Uint16(*port)),
        })
        .collect();
    spec
}

fn weight_of(weight: Weight) -> u64 {
    let mut bench = Bench::new();
    let id = bench.add(filter(weight, &[80], Action::Block)).expect("a good filter");
    bench.engine.filter(bench.session, id).expect("it was added").weight
}

#[test]
fn a_64_bit_weight_is_taken_as_it_is() {
    assert_eq!(weight_of(Weight::Exact(u64::MAX)), u64::MAX);
    assert_eq!(weight_of(Weight::Exact(0)), 0);
}

#[test]
fn an_automatic_weight_is_below_two_to_the_sixtieth() {
    assert!(weight_of(Weight::Auto) < 1 << 60);
}

#[test]
fn an_8_bit_weight_is_a_range_of_which_the_rest_is_automatic() {
    let automatic = weight_of(Weight::Auto);
    assert_eq!(weight_of(Weight::Range(15)), 15 << 60 | automatic);
    assert_eq!(weight_of(Weight::Range(0)), automatic);
}

#[test]
fn a_range_above_fifteen_is_refused() {
    assert_eq!(error(Bench::new().add(filter(Weight::Range(16), &[], Action::Block))), Error::InvalidWeight);
}

#[test]
fn a_filter_of_a_higher_range_comes_first_whatever_its_conditions() {
    let mut bench = Bench::new();
    bench.add(filter(Weight::Range(1), &[80], Action::Block)).expect("a good filter");
    bench.add(filter(Weight::Range(2), &[], Action::Permit)).expect("a good filter");
    assert!(bench.classify_with(&[(at::IP_REMOTE_PORT, Value::Uint16(80))]).permit);
}

#[test]
fn of_automatic_weights_the_filter_with_conditions_comes_first() {
    // Page: FWPM_FILTER0, "BFE will automatically assign a weight based on the filter conditions".
    let mut bench = Bench::new();
    bench.add(filter(Weight::Auto, &[], Action::Block)).expect("a good filter");
    bench.add(filter(Weight::Auto, &[80], Action::Permit)).expect("a good filter");
    assert!(bench.classify_with(&[(at::IP_REMOTE_PORT, Value::Uint16(80))]).permit);
    assert!(!bench.classify_with(&[(at::IP_REMOTE_PORT, Value::Uint16(81))]).permit);
}
