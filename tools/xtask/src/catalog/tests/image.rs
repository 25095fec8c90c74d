//! A small image, made by hand.

const OPTIONAL_HEADER: usize = 0x40 + 24;
/// Where the checksum is.
#[allow(dead_code, reason = "not every test that has this file asks")]
pub const CHECKSUM: usize = OPTIONAL_HEADER + 64;
/// Where the directory's entry for the signature is.
pub const SECURITY: usize = OPTIONAL_HEADER + 112 + 4 * 8;
/// Where the section's header is.
pub const SECTION_HEADER: usize = OPTIONAL_HEADER + 240;
const HEADERS: usize = 0x200;
const SECTION: usize = 0x2000;

/// A PE32+ image: headers, one section with the same byte throughout, and what is to follow as its signature.
pub fn image(content: u8, signature: &[u8]) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut file = vec![0; HEADERS];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &number(0x40));
    // x64, one section; an optional header of 240 bytes; an executable.
    put(0x40, b"PE\0\0\x64\x86\x01\0");
    put(0x40 + 20, &[240, 0, 0x22, 0]);
    put(OPTIONAL_HEADER, &[0x0b, 0x02]);
    put(OPTIONAL_HEADER + 32, &number(0x1000));
    put(OPTIONAL_HEADER + 36, &number(0x200));
    put(OPTIONAL_HEADER + 56, &number(0x1000 + SECTION));
    put(OPTIONAL_HEADER + 60, &number(HEADERS));
    put(CHECKSUM, &[0xef, 0xbe, 0xad, 0xde]);
    put(OPTIONAL_HEADER + 108, &number(16));
    if !signature.is_empty() {
        put(SECURITY, &number(HEADERS + SECTION));
        put(SECURITY + 4, &number(signature.len()));
    }
    put(SECTION_HEADER, b".text");
    put(SECTION_HEADER + 8, &number(SECTION));
    put(SECTION_HEADER + 12, &number(0x1000));
    put(SECTION_HEADER + 16, &number(SECTION));
    put(SECTION_HEADER + 20, &number(HEADERS));
    file.extend(vec![content; SECTION]);
    file.extend(signature);
    file
}
