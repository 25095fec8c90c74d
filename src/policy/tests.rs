//! The format by hand, without the compiler: an image of a header alone.

use super::format::{MAGIC, VERSION, header};
use super::{Action, App, Decision, Direction, Family, Image, Invalid, Tuple, What, checksum};

const TUPLE: Tuple<'static> = Tuple {
    direction: Direction::Out,
    family: Family::V4,
    protocol: Some(6),
    local: None,
    remote: None,
    local_port: None,
    remote_port: None,
    app: None,
};

fn empty(default: Action) -> [u8; header::LEN] {
    let mut image = [0; header::LEN];
    image[..8].copy_from_slice(&MAGIC);
    image[header::VERSION..][..2].copy_from_slice(&VERSION.to_le_bytes());
    image[header::HEADER_LEN..][..2].copy_from_slice(&128_u16.to_le_bytes());
    image[header::LENGTH..][..4].copy_from_slice(&128_u32.to_le_bytes());
    image[header::DEFAULT] = default as u8;
    seal(&mut image);
    image
}

fn seal(image: &mut [u8]) {
    let sum = checksum(image);
    image[header::CHECKSUM..][..4].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_policy_without_rules_decides_by_its_default() {
    for action in [Action::Allow, Action::Block, Action::Audit] {
        let image = empty(action);
        let image = Image::validate(&image).expect("valid");
        assert_eq!(image.decide(&TUPLE), Decision { action, rule: None });
        assert_eq!(image.explain(&TUPLE).count(), 0);
    }
}

#[test]
fn the_checksum_is_crc32c() {
    // The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
    let mut image = [0; 25];
    image[header::CHECKED..].copy_from_slice(b"123456789");
    assert_eq!(checksum(&image), 0xe306_9283);
}

#[test]
fn each_header_field_is_checked() {
    let refused = |at: usize, value: u8, sealed: bool| {
        let mut image = empty(Action::Allow);
        image[at] = value;
        if sealed {
            seal(&mut image);
        }
        Image::validate(&image).expect_err("refused")
    };
    assert_eq!(refused(0, 0, true), Invalid { what: What::Magic, offset: 0 });
    assert_eq!(refused(header::VERSION, 2, true).status(), 0xC000_0059_u32.cast_signed());
    assert_eq!(refused(header::GENERATION, 1, false).status(), 0xC000_003F_u32.cast_signed());
    assert_eq!(refused(header::LENGTH, 127, true).what, What::Length);
    assert_eq!(refused(header::DEFAULT, 3, true).what, What::Header);
    assert_eq!(refused(header::RULES + 4, 1, true).what, What::Header);
    assert_eq!(refused(header::APPS, 1, true).what, What::Apps);
    assert_eq!(refused(header::PARTITIONS, 1, true).what, What::Partition);
    assert_eq!(refused(header::LEN - 1, 1, true).what, What::Header);
}

#[test]
fn a_path_ends_before_its_nul() {
    let path = |bytes| App::from_utf16le(bytes).map(|app| app.units().collect::<std::vec::Vec<_>>());
    assert_eq!(path(b"a\0b\0\0\0"), Some(std::vec![97, 98]));
    assert_eq!(path(b"a\0b\0\0\0\0"), Some(std::vec![97, 98]));
    assert_eq!(path(b"\0\0"), None);
    assert_eq!(path(b""), None);
}
