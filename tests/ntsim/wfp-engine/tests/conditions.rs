//! Pages: *FWP_MATCH_TYPE*, *FWPM_FILTER_CONDITION0*, *FWPM_FILTER0*, unless a test names another.

mod common;

use common::{Bench, CONNECT, error};
use wfp_engine::id::{self, field::ale_auth_connect as at};
use wfp_engine::{Action, Condition, ConditionValue, Error, FilterSpec, Guid, MatchType, Value};

fn is(field: Guid, match_type: MatchType, value: Value) -> Condition {
    Condition { field, match_type, value: ConditionValue::Single(value) }
}

/// Whether a blocking filter with these conditions matches these values.
fn matches(conditions: &[Condition], values: &[(usize, Value)]) -> bool {
    let mut bench = Bench::new();
    let mut spec = FilterSpec::new(CONNECT, Action::Block);
    spec.conditions = conditions.to_vec();
    bench.add(spec).expect("good conditions");
    !bench.classify_with(values).permit
}

fn refused(layer: Guid, condition: Condition) -> Error {
    let mut spec = FilterSpec::new(layer, Action::Block);
    spec.conditions = vec![condition];
    error(Bench::new().add(spec))
}

const PORT: Guid = id::FWPM_CONDITION_IP_REMOTE_PORT;
const ADDRESS: Guid = id::FWPM_CONDITION_IP_REMOTE_ADDRESS;
const PROTOCOL: Guid = id::FWPM_CONDITION_IP_PROTOCOL;
const FLAGS: Guid = id::FWPM_CONDITION_FLAGS;
const APP: Guid = id::FWPM_CONDITION_ALE_APP_ID;

fn port(port: u16) -> [(usize, Value); 1] {
    [(at::IP_REMOTE_PORT, Value::Uint16(port))]
}

#[test]
fn order_is_tested_in_each_direction() {
    let cases = [
        (MatchType::Equal, [false, true, false]),
        (MatchType::NotEqual, [true, false, true]),
        (MatchType::Greater, [false, false, true]),
        (MatchType::GreaterOrEqual, [false, true, true]),
        (MatchType::Less, [true, false, false]),
        (MatchType::LessOrEqual, [true, true, false]),
    ];
    for (match_type, expected) in cases {
        let condition = is(PORT, match_type, Value::Uint16(80));
        let found = [79, 80, 81].map(|p| matches(std::slice::from_ref(&condition), &port(p)));
        assert_eq!(found, expected, "{match_type:?}");
    }
}

#[test]
fn both_ends_belong_to_a_range() {
    let range = ConditionValue::Range(Value::Uint16(1000), Value::Uint16(2000));
    let condition = Condition { field: PORT, match_type: MatchType::Range, value: range };
    let found = [999, 1000, 2000, 2001].map(|p| matches(std::slice::from_ref(&condition), &port(p)));
    assert_eq!(found, [false, true, true, false]);
}

#[test]
fn flags_are_tested_for_all_any_and_none() {
    let cases = [
        (MatchType::FlagsAllSet, [false, false, true]),
        (MatchType::FlagsAnySet, [false, true, true]),
        (MatchType::FlagsNoneSet, [true, false, false]),
    ];
    for (match_type, expected) in cases {
        let condition = is(FLAGS, match_type, Value::Uint32(0b101));
        let found = [0b010, 0b011, 0b111]
            .map(|flags| matches(std::slice::from_ref(&condition), &[(at::FLAGS, Value::Uint32(flags))]));
        assert_eq!(found, expected, "{match_type:?}");
    }
}

#[test]
fn an_ipv4_address_is_compared_with_a_mask() {
    let value = ConditionValue::V4AddrMask { addr: 0x0A01_02FF, mask: 0xFFFF_FF00 };
    for (match_type, inside) in [(MatchType::Equal, true), (MatchType::NotEqual, false)] {
        let condition = Condition { field: ADDRESS, match_type, value: value.clone() };
        let at = |address| [(at::IP_REMOTE_ADDRESS, Value::Uint32(address))];
        assert_eq!(matches(std::slice::from_ref(&condition), &at(0x0A01_0203)), inside);
        assert_eq!(matches(&[condition], &at(0x0A01_0303)), !inside);
    }
}

#[test]
fn an_ipv6_address_is_compared_with_a_prefix() {
    let bytes = |first: u16, last: u8| {
        let mut address = [0; 16];
        address[..2].copy_from_slice(&first.to_be_bytes());
        address[15] = last;
        address
    };
    for (prefix, address, inside) in [
        (16, bytes(0x2001, 9), true),
        (16, bytes(0x2002, 0), false),
        (128, bytes(0x2001, 0), true),
        (128, bytes(0x2001, 1), false),
        (0, bytes(0xFFFF, 7), true),
    ] {
        let mut bench = Bench::new();
        let mut spec = FilterSpec::new(id::FWPM_LAYER_ALE_AUTH_CONNECT_V6, Action::Block);
        let value = ConditionValue::V6AddrMask { addr: bytes(0x2001, 0), prefix };
        spec.conditions = vec![Condition { field: ADDRESS, match_type: MatchType::Equal, value }];
        bench.add(spec).expect("a good condition");
        let outcome = bench.classify_at(
            id::FWPS_LAYER_ALE_AUTH_CONNECT_V6,
            &[(at::IP_REMOTE_ADDRESS, Value::ByteArray16(address))],
        );
        assert_eq!(!outcome.permit, inside, "{address:?}/{prefix}");
    }
}

#[test]
fn prefix_means_that_the_value_ends_so() {
    let blob = |text: &str| {
        Value::ByteBlob(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Box<[u8]>>())
    };
    let app = [(at::ALE_APP_ID, blob("\\device\\harddiskvolume1\\curl.exe"))];
    assert!(matches(&[is(APP, MatchType::Prefix, blob("curl.exe"))], &app));
    assert!(!matches(&[is(APP, MatchType::Prefix, blob("\\device"))], &app));
    assert!(matches(&[is(APP, MatchType::NotPrefix, blob("wget.exe"))], &app));
    assert!(!matches(&[is(APP, MatchType::NotPrefix, blob("curl.exe"))], &app));
}

#[test]
fn an_application_is_equal_byte_for_byte() {
    let blob = |bytes: &[u8]| Value::ByteBlob(bytes.into());
    let app = [(at::ALE_APP_ID, blob(b"a\0"))];
    assert!(matches(&[is(APP, MatchType::Equal, blob(b"a\0"))], &app));
    assert!(!matches(&[is(APP, MatchType::Equal, blob(b"A\0"))], &app));
}

#[test]
fn a_user_is_matched_by_access_check() {
    let field = id::FWPM_CONDITION_ALE_USER_ID;
    let condition = is(field, MatchType::Equal, Value::SecurityDescriptor((*b"alice").into()));
    let user = |name: &[u8]| [(at::ALE_USER_ID, Value::TokenAccessInformation(name.into()))];
    assert!(matches(std::slice::from_ref(&condition), &user(b"alice")));
    assert!(!matches(&[condition], &user(b"bob")));
}

#[test]
fn conditions_of_one_field_are_alternatives_and_of_different_fields_requirements() {
    let conditions = [
        is(PORT, MatchType::Equal, Value::Uint16(80)),
        is(PROTOCOL, MatchType::Equal, Value::Uint8(6)),
        is(PORT, MatchType::Equal, Value::Uint16(443)),
    ];
    let packet = |protocol, port| {
        [(at::IP_PROTOCOL, Value::Uint8(protocol)), (at::IP_REMOTE_PORT, Value::Uint16(port))]
    };
    assert!(matches(&conditions, &packet(6, 80)));
    assert!(matches(&conditions, &packet(6, 443)));
    assert!(!matches(&conditions, &packet(6, 22)));
    assert!(!matches(&conditions, &packet(17, 443)));
}

#[test]
fn a_filter_without_conditions_matches_everything() {
    assert!(matches(&[], &[]));
}

#[test]
fn a_field_without_a_value_meets_no_condition() {
    // Page: FwpmFilterAdd0, on fields that come back as FWP_EMPTY.
    for match_type in [MatchType::Equal, MatchType::NotEqual, MatchType::Less] {
        assert!(!matches(&[is(PORT, match_type, Value::Uint16(80))], &[]), "{match_type:?}");
    }
    let mask = ConditionValue::V4AddrMask { addr: 0, mask: 0 };
    assert!(!matches(&[Condition { field: ADDRESS, match_type: MatchType::Equal, value: mask }], &[]));
}

#[test]
fn types_are_not_converted() {
    assert!(!matches(
        &[is(PORT, MatchType::Equal, Value::Uint16(80))],
        &[(at::IP_REMOTE_PORT, Value::Uint32(80))]
    ));
    let wide = is(PORT, MatchType::Equal, Value::Uint32(80));
    assert_eq!(refused(CONNECT, wide), Error::TypeMismatch);
    let empty = is(PORT, MatchType::Equal, Value::Empty);
    assert_eq!(refused(CONNECT, empty), Error::TypeMismatch);
}

#[test]
fn match_types_are_refused_for_types_that_do_not_support_them() {
    let sid = || Value::Sid([1, 0, 0, 0, 0, 0, 0, 5].into());
    let package = id::FWPM_CONDITION_ALE_PACKAGE_ID;
    let app = || Value::ByteBlob([0, 0].into());
    for condition in [
        is(package, MatchType::Greater, sid()),
        is(package, MatchType::NotEqual, sid()),
        is(APP, MatchType::FlagsAllSet, app()),
        is(APP, MatchType::EqualCaseInsensitive, app()),
        is(PORT, MatchType::Prefix, Value::Uint16(80)),
        is(PORT, MatchType::Range, Value::Uint16(80)),
    ] {
        assert_eq!(refused(CONNECT, condition.clone()), Error::MatchTypeMismatch, "{condition:?}");
    }
}

#[test]
fn malformed_operands_are_refused() {
    // Page: WFP Error Codes.
    let mask = |mask| ConditionValue::V4AddrMask { addr: 0, mask };
    let of = |field, match_type, value| Condition { field, match_type, value };
    let range = |low, high| ConditionValue::Range(Value::Uint16(low), Value::Uint16(high));
    let v6 = id::FWPM_LAYER_ALE_AUTH_CONNECT_V6;
    let prefix = |prefix| ConditionValue::V6AddrMask { addr: [0; 16], prefix };
    for (layer, condition, expected) in [
        (CONNECT, of(ADDRESS, MatchType::Equal, mask(0xFF00_FF00)), Error::InvalidNetMask),
        (CONNECT, of(ADDRESS, MatchType::Less, mask(0xFF00_0000)), Error::MatchTypeMismatch),
        (CONNECT, of(FLAGS, MatchType::Equal, mask(0xFF00_0000)), Error::TypeMismatch),
        (CONNECT, of(ADDRESS, MatchType::Equal, prefix(64)), Error::TypeMismatch),
        (v6, of(ADDRESS, MatchType::Equal, prefix(129)), Error::OutOfBounds),
        (CONNECT, of(PORT, MatchType::Range, range(2, 1)), Error::InvalidRange),
        (CONNECT, of(PORT, MatchType::Equal, range(1, 2)), Error::MatchTypeMismatch),
        (CONNECT, of(PROTOCOL, MatchType::Range, range(1, 2)), Error::TypeMismatch),
        (CONNECT, is(common::key(9), MatchType::Equal, Value::Uint8(0)), Error::ConditionNotFound),
    ] {
        assert_eq!(refused(layer, condition.clone()), expected, "{condition:?}");
    }
}

#[test]
fn of_icmp_the_type_and_the_code_are_the_ports() {
    // Page: Filtering Condition Identifiers.
    let layer = wfp_engine::layers()
        .into_iter()
        .find(|layer| layer.id == id::FWPS_LAYER_INBOUND_ICMP_ERROR_V4)
        .expect("the layer");
    let keys: Vec<Guid> = layer.fields.iter().map(|field| field.key).collect();
    assert_eq!(keys[id::field::inbound_icmp_error::ICMP_TYPE], id::FWPM_CONDITION_IP_LOCAL_PORT);
    assert_eq!(keys[id::field::inbound_icmp_error::ICMP_CODE], id::FWPM_CONDITION_IP_REMOTE_PORT);
}

#[test]
fn enumerators_out_of_range_are_refused() {
    // Page: WFP Error Codes, FWP_E_INVALID_ENUMERATOR.
    assert_eq!(error(MatchType::try_from(13)), Error::InvalidEnumerator);
    assert_eq!(MatchType::try_from(12), Ok(MatchType::NotPrefix));
    assert_eq!(error(wfp_engine::DataType::try_from(19)), Error::InvalidEnumerator);
}
