//! What the headers say of the definitions in `fwp`, `wsk` and `nmr`, held by the compiler for every architecture that
//! the crate is built for. (The NT kernel's are held in `nt`.)
//!
//! A row repeats the headers in their own spelling (a GUID as it is printed, a status as its code), so that a slip in a
//! definition and one in its row do not agree by chance. A test (`tests/abi.rs`) sees that no definition lacks a row,
//! and holds the rows against a reference where one is at hand.

mod fwp;
mod nmr;
mod wsk;

use crate::sys::nt::GUID;

/// Whether a GUID is the one that is printed so, without braces.
const fn is(guid: &GUID, printed: &str) -> bool {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let printed = printed.as_bytes();
    let mut digits = 0u128;
    let (mut at, mut group, mut end) = (0, 0, GROUPS[0]);
    while at < printed.len() {
        if at == end {
            group += 1;
            if printed[at] != b'-' || group == GROUPS.len() {
                return false;
            }
            end += 1 + GROUPS[group];
        } else {
            let digit = match printed[at] {
                digit @ b'0'..=b'9' => digit - b'0',
                digit @ b'a'..=b'f' => digit - b'a' + 10,
                _ => return false,
            };
            digits = digits << 4 | digit as u128;
        }
        at += 1;
    }
    let tail = u64::from_be_bytes(guid.Data4);
    let head = (guid.Data1 as u64) << 32 | (guid.Data2 as u64) << 16 | guid.Data3 as u64;
    at == end && group + 1 == GROUPS.len() && digits == (head as u128) << 64 | tail as u128
}

/// `constants`: name and value. `statuses`: name and code. `guids`: name and digits. `layouts`: a structure or union,
/// its size, its alignment, and the offset of members. `fields`: a layer's fields and their indexes.
macro_rules! held {
    (constants { $($name:ident = $value:literal,)* }) => {
        $(const _: () = assert!($name == $value, stringify!($name));)*
    };
    (statuses { $($name:ident = $code:literal,)* }) => {
        $(const _: () = assert!($name.cast_unsigned() == $code, stringify!($name));)*
    };
    (guids { $($name:ident = $printed:literal,)* }) => {
        $(const _: () = assert!(crate::sys::proof::is(&$name, $printed), stringify!($name));)*
    };
    (layouts { $($name:ident: size $size:literal, align $align:literal { $($field:ident: $offset:literal,)* })* }) => {
        $(
            const _: () = assert!(size_of::<$name>() == $size, stringify!($name));
            const _: () = assert!(align_of::<$name>() == $align, stringify!($name));
            $(const _: () = assert!(
                core::mem::offset_of!($name, $field) == $offset,
                concat!(stringify!($name), ".", stringify!($field))
            );)*
        )*
    };
    (fields { $($layer:ident { $($field:ident = $index:literal,)* })* }) => {
        $($(const _: () = assert!(
            field::$layer::$field == $index,
            concat!(stringify!($layer), " ", stringify!($field))
        );)*)*
    };
}

use held;
