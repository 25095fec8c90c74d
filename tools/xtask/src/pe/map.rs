//! The linker's map (`lld-link /MAP`): which symbol is where.

use std::collections::BTreeMap;

use super::read::Image;

/// Symbols by address.
#[derive(Debug, Default)]
pub struct Map {
    symbols: BTreeMap<u32, Vec<String>>,
}

impl Map {
    /// Reads the symbols of a map that are in a section of the image.
    ///
    /// # Errors
    /// Says why the text is not the image's map.
    pub fn parse(text: &str, image: &Image<'_>) -> Result<Self, String> {
        let mut symbols: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut seen = false;
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let (Some(place), Some(name), Some(address)) = (words.next(), words.next(), words.next()) else {
                seen |= line.trim() == "Static symbols";
                continue;
            };
            if place == "Address" {
                seen = true;
                continue;
            }
            // Section:offset, name, address. Section lines have a length with an H in the middle.
            let place =
                place.split_once(':').filter(|(section, offset)| section.len() == 4 && offset.len() == 8);
            let (Some((section, _)), 16) = (place, address.len()) else { continue };
            if section == "0000" {
                continue;
            }
            let va = u64::from_str_radix(address, 16).ok();
            let rva = va
                .and_then(|va| image.rva(va))
                .ok_or_else(|| format!("line {}: {name} at {address} is not in the image", index + 1))?;
            symbols.entry(rva).or_default().push(name.to_owned());
        }
        if !seen || symbols.is_empty() {
            return Err("not a map of lld-link (/MAP): it lists no symbol".to_owned());
        }
        let entry = image.optional().address_of_entry_point.get(object::LittleEndian);
        if !symbols.contains_key(&entry) {
            return Err(format!("not this image's map: no symbol at the entry point 0x{entry:x}"));
        }
        Ok(Self { symbols })
    }

    /// Symbols in executable sections, by address.
    pub fn code<'a>(&'a self, image: &'a Image<'_>) -> impl Iterator<Item = (u32, &'a [String])> {
        self.symbols
            .iter()
            .filter(|(rva, _)| image.is_code(**rva))
            .map(|(rva, names)| (*rva, names.as_slice()))
    }
}

/// A symbol as people read it: Rust's manglings undone, without hashes.
pub fn demangle(symbol: &str) -> String {
    let demangled = rustc_demangle::try_demangle(symbol);
    demangled.map_or_else(|_| symbol.to_owned(), |name| format!("{name:#}"))
}
