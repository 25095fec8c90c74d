//! Page: *Object Management*, unless a test names another.

mod common;

use common::{Bench, CONNECT, Told, error, key, returns, unknown};
use wfp_engine::{
    Action, CalloutSpec, Decision, DisplayData, Error, FilterFlags, FilterSpec, Guid, Lifetime, ProviderSpec,
    ServiceState, SubLayerSpec, id,
};

fn provider(n: u32, persistent: bool) -> ProviderSpec {
    ProviderSpec { key: key(n), display: "p".into(), persistent, ..ProviderSpec::default() }
}

fn sublayer(n: u32, provider: Option<Guid>, persistent: bool) -> SubLayerSpec {
    SubLayerSpec { key: key(n), display: "s".into(), provider, persistent, ..SubLayerSpec::default() }
}

fn persistent() -> FilterFlags {
    FilterFlags { persistent: true, ..FilterFlags::default() }
}

#[test]
fn a_key_is_used_once_for_each_kind() {
    let mut bench = Bench::new();
    let (session, record) = (bench.session, &mut bench.record);
    bench.engine.add_provider(session, provider(1, false), record).expect("a new provider");
    bench.engine.add_sublayer(session, sublayer(1, None, false), record).expect("another kind");
    let again = bench.engine.add_provider(session, provider(1, false), record);
    assert_eq!(error(again), Error::AlreadyExists);
    let again = bench.engine.add_sublayer(session, sublayer(1, None, false), record);
    assert_eq!(error(again), Error::AlreadyExists);
}

#[test]
fn a_zero_key_is_filled_in() {
    let mut bench = Bench::new();
    let first = bench.add(FilterSpec::new(CONNECT, Action::Permit)).expect("a good filter");
    let second = bench.add(FilterSpec::new(CONNECT, Action::Permit)).expect("a good filter");
    let keys =
        [first, second].map(|id| bench.engine.filter(bench.session, id).expect("it is there").spec.key);
    assert!(!keys[0].is_zero() && keys[0] != keys[1]);
    assert_eq!(bench.engine.filter_id(bench.session, &keys[1]), Ok(second));
}

#[test]
fn an_object_without_a_name_is_refused() {
    // Page: WFP Error Codes, FWP_E_NULL_DISPLAY_NAME.
    let mut bench = Bench::new();
    let mut spec = FilterSpec::new(CONNECT, Action::Permit);
    spec.display = DisplayData::default();
    assert_eq!(error(bench.add(spec)), Error::NullDisplayName);
}

#[test]
fn an_object_stays_while_another_names_it() {
    let mut bench = Bench::new();
    let (session, record) = (bench.session, &mut bench.record);
    let engine = &mut bench.engine;
    engine.add_provider(session, provider(1, false), record).expect("a new provider");
    engine.add_sublayer(session, sublayer(2, Some(key(1)), false), record).expect("a new sublayer");
    let callout = CalloutSpec { key: key(3), display: "c".into(), layer: CONNECT, ..CalloutSpec::default() };
    engine.add_callout(session, callout, record).expect("a new callout");
    let mut spec = FilterSpec::new(CONNECT, unknown(key(3)));
    spec.sublayer = key(2);
    let filter = engine.add_filter(session, spec, record).expect("a good filter");

    assert_eq!(error(engine.delete_callout(session, &key(3), record)), Error::InUse);
    assert_eq!(error(engine.delete_sublayer(session, &key(2), record)), Error::InUse);
    assert_eq!(error(engine.delete_provider(session, &key(1), record)), Error::InUse);
    engine.delete_filter(session, filter, record).expect("nothing names a filter");
    engine.delete_callout(session, &key(3), record).expect("nothing names it");
    engine.delete_sublayer(session, &key(2), record).expect("nothing names it");
    engine.delete_provider(session, &key(1), record).expect("nothing names it");
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut bench = Bench::new();
    let (session, record) = (bench.session, &mut bench.record);
    let engine = &mut bench.engine;
    assert_eq!(error(engine.delete_provider(session, &key(1), record)), Error::ProviderNotFound);
    assert_eq!(error(engine.delete_sublayer(session, &key(1), record)), Error::SubLayerNotFound);
    assert_eq!(error(engine.delete_callout(session, &key(1), record)), Error::CalloutNotFound);
    assert_eq!(error(engine.delete_filter(session, 1, record)), Error::FilterNotFound);
    assert_eq!(error(engine.layer(&key(1)).map(|l| l.id)), Error::LayerNotFound);
    let at = |layer, sublayer, provider, action| {
        let mut spec = FilterSpec::new(layer, action);
        spec.sublayer = sublayer;
        spec.provider = provider;
        spec
    };
    for (spec, expected) in [
        (at(key(1), Guid::ZERO, None, Action::Permit), Error::LayerNotFound),
        (at(CONNECT, key(1), None, Action::Permit), Error::SubLayerNotFound),
        (at(CONNECT, Guid::ZERO, Some(key(1)), Action::Permit), Error::ProviderNotFound),
        (at(CONNECT, Guid::ZERO, None, unknown(key(1))), Error::CalloutNotFound),
    ] {
        assert_eq!(error(engine.add_filter(session, spec, record)), expected);
    }
}

#[test]
fn a_filter_names_only_callouts_of_its_layer() {
    // Page: FWPM_ACTION0, "the GUID for a valid callout in the layer".
    let mut bench = Bench::new();
    let callout = bench.callout_object(1);
    let spec = FilterSpec::new(id::FWPM_LAYER_ALE_AUTH_CONNECT_V6, unknown(callout));
    assert_eq!(error(bench.add(spec)), Error::IncompatibleLayer);
}

#[test]
fn built_in_sublayers_cannot_be_deleted() {
    let mut bench = Bench::new();
    let universal = id::FWPM_SUBLAYER_UNIVERSAL;
    let result = bench.engine.delete_sublayer(bench.session, &universal, &mut bench.record);
    assert_eq!(error(result), Error::BuiltinObject);
}

#[test]
fn an_object_refers_to_none_that_lives_shorter() {
    let mut bench = Bench::new();
    let dynamic = bench.dynamic();
    let other = bench.dynamic();
    let (session, record) = (bench.session, &mut bench.record);
    let engine = &mut bench.engine;
    engine.add_provider(dynamic, provider(1, false), record).expect("a dynamic provider");
    engine.add_provider(session, provider(2, false), record).expect("a static provider");
    engine.add_provider(session, provider(3, true), record).expect("a persistent provider");
    let mut add = |session, n, provider, persistent| {
        engine.add_sublayer(session, sublayer(n, Some(key(provider)), persistent), record).map(|_| ())
    };
    assert_eq!(add(session, 11, 1, false), Err(Error::LifetimeMismatch), "static to dynamic");
    assert_eq!(add(session, 11, 1, true), Err(Error::LifetimeMismatch), "persistent to dynamic");
    assert_eq!(add(session, 11, 2, true), Err(Error::LifetimeMismatch), "persistent to static");
    assert_eq!(add(other, 11, 1, false), Err(Error::LifetimeMismatch), "dynamic to another session's");
    assert_eq!(add(dynamic, 11, 1, false), Ok(()), "dynamic to its own session's");
    assert_eq!(add(dynamic, 12, 2, false), Ok(()), "dynamic to static");
    assert_eq!(add(session, 13, 3, true), Ok(()), "persistent to persistent");
}

#[test]
fn a_persistent_object_refers_to_none_of_another_provider() {
    let mut bench = Bench::new();
    let (session, record) = (bench.session, &mut bench.record);
    let engine = &mut bench.engine;
    engine.add_provider(session, provider(1, true), record).expect("a provider");
    engine.add_provider(session, provider(2, true), record).expect("a provider");
    engine.add_sublayer(session, sublayer(3, Some(key(1)), true), record).expect("a sublayer");
    let mut spec = FilterSpec::new(CONNECT, Action::Block);
    spec.flags = persistent();
    spec.sublayer = key(3);
    spec.provider = Some(key(2));
    assert_eq!(error(engine.add_filter(session, spec.clone(), record)), Error::LifetimeMismatch);
    spec.provider = Some(key(1));
    engine.add_filter(session, spec, record).expect("its own provider's");
}

#[test]
fn dynamic_objects_go_with_their_session() {
    let mut bench = Bench::new();
    let dynamic = bench.dynamic();
    let record = &mut bench.record;
    let engine = &mut bench.engine;
    engine.add_sublayer(dynamic, sublayer(1, None, false), record).expect("a sublayer");
    let mut spec = FilterSpec::new(CONNECT, Action::Block);
    spec.sublayer = key(1);
    engine.add_filter(dynamic, spec, record).expect("a filter");
    assert_eq!(engine.objects(Lifetime::Dynamic(dynamic)).len(), 2);
    assert!(!bench.classify().permit);
    assert!(bench.engine.close(dynamic, &mut bench.record));
    assert!(bench.classify().permit);
    assert_eq!(bench.engine.filters().count(), 0);
    assert_eq!(error(bench.engine.sublayer(bench.session, &key(1))), Error::SubLayerNotFound);
    assert!(!bench.engine.close(dynamic, &mut bench.record), "it is closed once");
}

#[test]
fn a_dynamic_object_is_deleted_by_its_own_session_only() {
    let mut bench = Bench::new();
    let dynamic = bench.dynamic();
    let id = bench
        .engine
        .add_filter(dynamic, FilterSpec::new(CONNECT, Action::Block), &mut bench.record)
        .expect("a filter");
    let by_other = bench.engine.delete_filter(bench.session, id, &mut bench.record);
    assert_eq!(error(by_other), Error::WrongSession);
    bench.engine.delete_filter(dynamic, id, &mut bench.record).expect("its own");
}

#[test]
fn a_dynamic_session_adds_nothing_persistent() {
    let mut bench = Bench::new();
    let dynamic = bench.dynamic();
    let mut spec = FilterSpec::new(CONNECT, Action::Block);
    spec.flags = persistent();
    let result = bench.engine.add_filter(dynamic, spec, &mut bench.record);
    assert_eq!(error(result), Error::DynamicSession);
}

#[test]
fn persistent_filters_survive_a_stop_and_others_do_not() {
    // Page: FWPM_FILTER0, FWPM_FILTER_FLAG_PERSISTENT.
    let mut bench = Bench::new();
    let sublayer = bench.sublayer(1, 10);
    bench.filter(sublayer, 1, Action::Block);
    let mut spec = FilterSpec::new(CONNECT, Action::Permit);
    spec.flags = persistent();
    let kept = bench.add(spec).expect("a persistent filter");
    assert!(!bench.classify().permit);
    bench.engine.set_state(ServiceState::Stopped, &mut bench.record);
    assert_eq!(bench.engine.filters().map(|f| f.id).collect::<Vec<_>>(), [kept]);
    assert_eq!(bench.classify().filter, Some(kept));
}

#[test]
fn a_stop_ends_the_sessions_but_their_handles_are_still_to_be_closed() {
    // Page: WFP Error Codes, FWP_E_SESSION_ABORTED.
    let mut bench = Bench::new();
    bench.engine.set_state(ServiceState::Stopped, &mut bench.record);
    assert!(bench.engine.open(false).is_none(), "page FwpmEngineOpen0: it must be running");
    bench.engine.set_state(ServiceState::Running, &mut bench.record);
    let stale = bench.add(FilterSpec::new(CONNECT, Action::Permit));
    assert_eq!(error(stale), Error::SessionAborted);
    assert!(bench.engine.close(bench.session, &mut bench.record));
    assert!(bench.engine.open(false).is_some());
}

#[test]
fn boot_time_filters_hold_from_the_start_until_the_engine_runs() {
    // Page: WFP Operation.
    let mut bench = Bench::new();
    let add = |bench: &mut Bench, flags, action| {
        let mut spec = FilterSpec::new(CONNECT, action);
        spec.flags = flags;
        bench.add(spec).expect("a good filter")
    };
    let boot_time = FilterFlags { boot_time: true, ..FilterFlags::default() };
    let boot = add(&mut bench, boot_time, Action::Block);
    let run = add(&mut bench, persistent(), Action::Block);
    assert_eq!(bench.classify().filter, Some(run), "it does not hold while the engine runs");
    bench.engine.reboot(&mut bench.record);
    assert_eq!(bench.classify().filter, Some(boot));
    bench.record.told.clear();
    bench.engine.set_state(ServiceState::Running, &mut bench.record);
    assert_eq!(bench.classify().filter, Some(run));
    assert_eq!(bench.record.told, [Told::Published], "the hand-over is one step");
}

#[test]
fn a_filter_is_not_persistent_and_boot_time_at_once() {
    // Page: FWPM_FILTER0.
    let mut bench = Bench::new();
    let mut spec = FilterSpec::new(CONNECT, Action::Block);
    spec.flags = FilterFlags { persistent: true, boot_time: true, ..FilterFlags::default() };
    assert_eq!(error(bench.add(spec)), Error::InvalidFlags);
}

#[test]
fn a_callout_has_one_identifier_whichever_side_comes_first() {
    // Page: FwpmCalloutAdd0.
    let mut bench = Bench::new();
    bench.register(1, returns(Decision::Permit, false));
    let id = bench.engine.callout_id(key(1));
    bench.callout_object(1);
    assert_eq!(bench.engine.callout(bench.session, &key(1)).map(|found| (found.1, found.2)), Ok((id, true)));
    assert_eq!(bench.engine.callout_key(id), Ok(key(1)));
    assert!(bench.engine.snapshot().has_callout(id, id::FWPS_LAYER_ALE_AUTH_CONNECT_V4));
    assert!(!bench.engine.snapshot().has_callout(id, id::FWPS_LAYER_ALE_AUTH_CONNECT_V6));
}

#[test]
fn a_callout_is_registered_once_and_unregistered_by_one_thread() {
    // Pages: FwpsCalloutRegister2, FwpsCalloutUnregisterById0.
    let mut bench = Bench::new();
    bench.register(1, returns(Decision::Permit, false));
    let again =
        bench.engine.register(key(1), std::rc::Rc::new(returns(Decision::Permit, false)), &mut bench.record);
    assert_eq!(error(again), Error::AlreadyExists);
    bench.engine.begin_unregister(&key(1)).map(|_| ()).expect("it is registered");
    assert_eq!(bench.engine.begin_unregister(&key(1)).map(|_| ()), Err(Error::InUse));
    bench.engine.end_unregister(&key(1), true, &mut bench.record);
    bench.unregister(1);
    assert_eq!(bench.engine.begin_unregister(&key(1)).map(|_| ()), Err(Error::CalloutNotFound));
}

#[test]
fn a_callout_is_told_of_filters_and_may_set_their_context() {
    // Pages: Processing Notify Callouts, notifyFn.
    let mut bench = Bench::new();
    bench.callout(1, returns(Decision::Permit, false));
    bench.record.told.clear();
    bench.record.context = Some(77);
    let sublayer = id::FWPM_SUBLAYER_UNIVERSAL;
    let filter = bench.filter(sublayer, 1, unknown(key(1)));
    assert_eq!(bench.engine.filter(bench.session, filter).map(|f| f.context), Ok(77));
    bench.engine.delete_filter(bench.session, filter, &mut bench.record).expect("it is there");
    let told = [
        Told::Added(filter),
        Told::Published,
        Told::Committed(filter),
        Told::Published,
        Told::Deleted(filter),
    ];
    assert_eq!(bench.record.told, told, "of a deletion once the filter is out of force");
}

#[test]
fn a_callout_is_not_told_of_filters_that_were_there_before_it() {
    // Page: Processing Notify Callouts.
    let mut bench = Bench::new();
    bench.callout_object(1);
    let filter = bench.filter(id::FWPM_SUBLAYER_UNIVERSAL, 1, unknown(key(1)));
    bench.register(1, returns(Decision::Permit, false));
    assert!(!bench.record.told.contains(&Told::Added(filter)));
    bench.engine.delete_filter(bench.session, filter, &mut bench.record).expect("it is there");
    assert!(bench.record.told.contains(&Told::Deleted(filter)), "but of its deletion");
}

#[test]
fn a_callout_that_refuses_a_filter_fails_its_addition() {
    // Page: FwpmFilterAdd0, FWP_E_CALLOUT_NOTIFICATION_FAILED.
    let mut bench = Bench::new();
    bench.callout(1, returns(Decision::Permit, false));
    bench.record.refuse = true;
    let result = bench.add(FilterSpec::new(CONNECT, unknown(key(1))));
    assert_eq!(error(result), Error::CalloutNotificationFailed);
    assert_eq!(bench.engine.filters().count(), 0);
}
