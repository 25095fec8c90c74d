//! Values for every type that a field can have, for those that check what becomes of events.

#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "no sample list is empty")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::string::String;
use std::sync::LazyLock;
use std::vec::Vec;

use super::{Guid, NtStatus, PROVIDER_ID};
use crate::policy::{Action, Direction};

/// A type of fields with its samples, which come round again after the last one.
pub trait Sample {
    fn sample(number: usize) -> Self;
}

/// One of several values.
pub fn of<T: Copy>(values: &[T], number: usize) -> T {
    values[number % values.len()]
}

macro_rules! samples {
    ($($type:ty: $values:expr;)+) => {$(
        impl Sample for $type {
            fn sample(number: usize) -> Self {
                of($values, number)
            }
        }
    )+};
}

static LONG: LazyLock<String> = LazyLock::new(|| "Läng'\u{e9} \u{1F30A}\t".repeat(900));
static LONG_WIDE: LazyLock<Vec<u16>> = LazyLock::new(|| LONG.encode_utf16().collect());
static ALL_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=u8::MAX).cycle().take(700).collect());

impl Sample for &str {
    fn sample(number: usize) -> Self {
        of(&["", "weir", "a b=\"c\"\\", "\u{0}\n", "水", &LONG], number)
    }
}

impl Sample for &[u16] {
    fn sample(number: usize) -> Self {
        // The third is a pair of surrogates.
        of(&[&[], &[0x77, 0x65], &[0xD83C, 0xDF0A], &[0, 0xFFFD], &LONG_WIDE], number)
    }
}

impl Sample for &[u8] {
    fn sample(number: usize) -> Self {
        // The last is as long as an address.
        of(&[&[], &[0], &ALL_BYTES, &[0xFF; 40], &[0x7F; 16]], number)
    }
}

samples! {
    bool: &[false, true];
    u8: &[0, 1, 0x7F, 0x80, u8::MAX];
    u16: &[0, 1, 443, 0x7FFF, 0x8000, u16::MAX];
    u32: &[0, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX];
    u64: &[0, 1, 1 << 53, u64::MAX >> 1, 1 << 63, u64::MAX];
    NtStatus: &[NtStatus(0), NtStatus(0x103), NtStatus(0xC000_009A_u32.cast_signed()), NtStatus(i32::MIN), NtStatus(-1)];
    Guid: &[Guid { data1: 0, data2: 0, data3: 0, data4: [0; 8] }, PROVIDER_ID, Guid {
        data1: u32::MAX, data2: u16::MAX, data3: u16::MAX, data4: [u8::MAX; 8]
    }];
    IpAddr: &[
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1)),
        IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    Action: &[Action::Allow, Action::Block, Action::Audit];
    Direction: &[Direction::In, Direction::Out];
}
