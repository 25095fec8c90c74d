//! Unwind data: the extent of each function and the size of its frame.
//!
//! Formats: "x64 exception handling" and "ARM64 exception handling" in Microsoft's documentation of the C++ compiler.

use object::pe;

use super::read::{Arch, Image};

/// A function as the exception directory describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwound {
    pub start: u32,
    pub end: u32,
    /// Bytes that the prologue takes, without the return address.
    pub frame: u32,
    /// A register keeps the stack pointer: what is taken after that may be missing in `frame` (ARM64).
    pub frame_pointer: bool,
    /// Bytes of code that the prologue has (x64).
    pub prologue: u32,
    /// The function that this is a part of (x64, chained unwind data).
    pub part_of: Option<u32>,
    /// The language's exception handler.
    pub handler: Option<u32>,
}

/// The exception directory, by start.
///
/// # Errors
/// Says what is broken.
pub fn read(image: &Image<'_>) -> Result<Vec<Unwound>, String> {
    let Some((rva, size)) = image.directory(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION) else {
        return Ok(Vec::new());
    };
    let table = image
        .bytes(rva, size as usize)
        .ok_or_else(|| format!("the exception directory at 0x{rva:x} of {size} bytes is not in the file"))?;
    let word =
        |row: &[u8], at: usize| row.get(at..at + 4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let each = match image.arch {
        Arch::X64 => 12,
        Arch::Arm64 => 8,
    };
    if !table.len().is_multiple_of(each) {
        return Err(format!("the exception directory's size {size} is no multiple of {each}"));
    }
    let mut functions: Vec<Unwound> = Vec::new();
    for row in table.chunks_exact(each) {
        let (Some(start), Some(second)) = (word(row, 0), word(row, 4)) else { continue };
        let broken = |what: String| format!("unwind data of 0x{start:x}: {what}");
        let function = match image.arch {
            Arch::X64 => x64(image, start, second, word(row, 8).unwrap_or(0)),
            Arch::Arm64 => arm64(image, start, second),
        };
        let function = function.map_err(broken)?;
        if function.end <= start || !image.is_code(start) || !image.is_code(function.end - 1) {
            return Err(broken(format!("0x{start:x}..0x{:x} is not code", function.end)));
        }
        if functions.last().is_some_and(|last| last.end > start) {
            return Err(broken("out of order, or over the one before".to_owned()));
        }
        functions.push(function);
    }
    Ok(functions)
}

fn x64(image: &Image<'_>, start: u32, end: u32, info: u32) -> Result<Unwound, String> {
    const CHAINED: u8 = 4;
    const HANDLERS: u8 = 3;
    let data = image.from(info).ok_or_else(|| format!("0x{info:x} is not in the file"))?;
    let [head, prologue, count, _frame] = *data.first_chunk().ok_or("cut short")?;
    let (version, flags) = (head & 7, head >> 3);
    if version != 1 {
        return Err(format!("version {version}"));
    }
    let codes = data.get(4..4 + usize::from(count) * 2).ok_or("codes cut short")?;
    let slot = |index: usize| {
        let bytes = codes.get(index * 2..index * 2 + 2).ok_or("codes cut short")?;
        Ok::<_, String>(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    };
    let mut frame = 0u32;
    let mut index = 0;
    while index < usize::from(count) {
        let code = slot(index)? >> 8;
        let (operation, operand) = (code & 15, code >> 4);
        let (slots, bytes) = match (operation, operand) {
            // Push of a register
            (0, _) => (1, 8),
            // Large allocation
            (1, 0) => (2, slot(index + 1)? * 8),
            (1, 1) => (3, slot(index + 1)? | slot(index + 2)? << 16),
            // Small allocation
            (2, _) => (1, operand * 8 + 8),
            // The frame register is set
            (3, _) => (1, 0),
            // A register is stored in the frame
            (4 | 8, _) => (2, 0),
            (5 | 9, _) => (3, 0),
            // A frame that the processor pushed
            (10, 0) => (1, 40),
            (10, 1) => (1, 48),
            _ => return Err(format!("code {operation} with operand {operand}")),
        };
        frame = frame.checked_add(bytes).ok_or("a frame of over 4 GiB")?;
        index += slots;
    }
    let behind = 4 + usize::from(count).next_multiple_of(2) * 2;
    let behind = data.get(behind..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
    let (part_of, handler) = match flags {
        0 => (None, None),
        CHAINED => (Some(behind.ok_or("chain cut short")?), None),
        flags if flags & !HANDLERS == 0 => (None, Some(behind.ok_or("handler cut short")?)),
        _ => return Err(format!("flags {flags}")),
    };
    Ok(Unwound { start, end, frame, frame_pointer: false, prologue: u32::from(prologue), part_of, handler })
}

fn arm64(image: &Image<'_>, start: u32, info: u32) -> Result<Unwound, String> {
    let part = |word: u32, low: u32, bits: u32| (word >> low) & ((1 << bits) - 1);
    let made = |length: u32, frame: u32, frame_pointer: bool, handler: Option<u32>| {
        let end = start.checked_add(length).ok_or("a function over the end of memory")?;
        Ok(Unwound { start, end, frame, frame_pointer, prologue: 0, part_of: None, handler })
    };
    match part(info, 0, 2) {
        // Packed: length in words at bit 2, frame size in 16 bytes at bit 23.
        1 | 2 => return made(part(info, 2, 11) * 4, part(info, 23, 9) * 16, part(info, 21, 2) > 1, None),
        3 => return Err("reserved form".to_owned()),
        _ => {}
    }
    let word = |index: u32| {
        let at = index.checked_mul(4).and_then(|offset| info.checked_add(offset));
        at.and_then(|at| image.u32(at)).ok_or_else(|| format!("0x{info:x} is cut short, or not in the file"))
    };
    let head = word(0)?;
    let (length, version) = (part(head, 0, 18) * 4, part(head, 18, 2));
    if version != 0 {
        return Err(format!("version {version}"));
    }
    let (has_handler, one_epilogue) = (part(head, 20, 1) == 1, part(head, 21, 1) == 1);
    let (mut epilogues, mut words, mut index) = (part(head, 22, 5), part(head, 27, 5), 1);
    if epilogues == 0 && words == 0 {
        let more = word(1)?;
        (epilogues, words, index) = (part(more, 0, 16), part(more, 16, 8), 2);
    }
    if !one_epilogue {
        index += epilogues;
    }
    let codes = info.checked_add(index * 4).and_then(|at| image.bytes(at, words as usize * 4));
    let (frame, frame_pointer) = arm64_codes(codes.ok_or("codes cut short")?)?;
    let handler = if has_handler { Some(word(index + words)?) } else { None };
    made(length, frame, frame_pointer, handler)
}

/// Bytes that the prologue of these codes takes, and whether it sets the frame pointer.
fn arm64_codes(codes: &[u8]) -> Result<(u32, bool), String> {
    let mut frame = 0u32;
    let mut frame_pointer = false;
    let mut rest = codes;
    loop {
        let Some((&first, tail)) = rest.split_first() else { return Err("codes without an end".to_owned()) };
        let next = |index: usize| tail.get(index).copied().map(u32::from).ok_or("codes cut short");
        let wide = u32::from(first);
        // Further bytes of the code, and what it takes.
        let (further, bytes) = match first {
            0x00..=0x1F => (0, (wide & 0x1F) * 16),
            0x20..=0x3F => (0, (wide & 0x1F) * 8),
            0x80..=0xBF => (0, ((wide & 0x3F) + 1) * 8),
            0xC0..=0xC7 => (1, ((wide & 7) << 8 | next(0)?) * 16),
            // Pre-indexed stores of a pair
            0xCC..=0xCF | 0xDA | 0xDB => (1, ((next(0)? & 0x3F) + 1) * 8),
            // Pre-indexed stores of one
            0xD4 | 0xD5 | 0xDE => (1, ((next(0)? & 0x1F) + 1) * 8),
            0xE0 => (3, (next(0)? << 16 | next(1)? << 8 | next(2)?) * 16),
            // Stores into the frame, the frame pointer, nothing, a signed return address
            0x40..=0x7F | 0xE1 | 0xE3 | 0xE6 | 0xFC => (0, 0),
            0xC8..=0xCB | 0xD0..=0xD3 | 0xD6..=0xD9 | 0xDC | 0xDD | 0xE2 => (1, 0),
            0xE4 | 0xE5 => return Ok((frame, frame_pointer)),
            // Any register, pre-indexed or not
            0xE7 if next(0)? & 0x20 != 0 => (2, ((next(1)? & 0x3F) + 1) * 16),
            0xE7 => (2, 0),
            _ => return Err(format!("code 0x{first:02x}")),
        };
        frame_pointer |= matches!(first, 0xE1 | 0xE2);
        frame = frame.checked_add(bytes).ok_or("a frame of over 4 GiB")?;
        rest = tail.get(further..).ok_or("codes cut short")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm64_codes_add_up_to_the_frame() {
        // set_fp, save_fplr 32, save_next, save_r19r20_x 48, end
        assert_eq!(arm64_codes(&[0xE2, 0x04, 0x44, 0xE6, 0x26, 0xE4]), Ok((48, true)));
        // alloc_m 0x123 * 16, save_fplr_x 16, end
        assert_eq!(arm64_codes(&[0xC1, 0x23, 0x81, 0xE4]), Ok((0x1230 + 16, false)));
        // alloc_l
        assert_eq!(arm64_codes(&[0xE0, 0x00, 0x10, 0x00, 0xE4]), Ok((0x10000, false)));
        // save_regp_x 5 + 1, end_c
        assert_eq!(arm64_codes(&[0xCC, 0x05, 0xE5]), Ok((48, false)));
    }

    #[test]
    fn arm64_codes_without_an_end_are_refused() {
        assert!(arm64_codes(&[0x02]).is_err());
        assert!(arm64_codes(&[0xE0, 0x00]).is_err());
        assert!(arm64_codes(&[0xFF, 0xE4]).is_err());
    }
}
