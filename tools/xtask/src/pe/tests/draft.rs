//! Small driver images, made by hand: good ones for both processors, each of whose parts a test can change.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::header;
use super::super::read::{Arch, Image};

/// Where sections are: one page or more each.
const TEXT: u32 = 0x1000;
const BASE: u64 = 0x1_8000_0000;
const EXECUTE: u32 = 0x2000_0000;
const READ: u32 = 0x4000_0000;
pub const WRITE: u32 = 0x8000_0000;
pub const DISCARDABLE: u32 = 0x0200_0000;
const CODE: u32 = 0x20;
const DATA: u32 = 0x40;

/// A piece of a function.
#[derive(Clone)]
pub enum Item {
    /// Instructions for x64 and for ARM64.
    Raw(&'static [u8], &'static [u32]),
    Call(&'static str),
    /// At the end of a function, in place of a return.
    Jump(&'static str),
    /// Calls the n-th import.
    Import(u32),
    /// Calls what rax or x15 holds, through the guard.
    Guarded,
    /// The guard's check alone (ARM64).
    Check,
    /// Takes a function's address.
    Take(&'static str),
    /// Takes the address of the location in [`Draft::location`].
    Location,
}

/// A function.
#[derive(Clone)]
pub struct Code {
    pub symbol: &'static str,
    pub items: Vec<Item>,
    /// Bytes of stack; a leaf without unwind data if zero.
    pub frame: u32,
}

pub fn code(symbol: &'static str, frame: u32, items: &[Item]) -> Code {
    Code { symbol, items: items.to_vec(), frame }
}

/// An image to be.
#[derive(Clone)]
pub struct Draft {
    pub arch: Arch,
    pub characteristics: u16,
    pub subsystem: (u16, u16, u16),
    pub os_version: (u16, u16),
    pub dll_characteristics: u16,
    /// In place of the right one.
    pub checksum: Option<u32>,
    pub section_alignment: u32,
    /// Flags on top, by section.
    pub flags: BTreeMap<&'static str, u32>,
    /// In place of DriverEntry's.
    pub entry: Option<u32>,
    /// Data directories on top: number, address, size.
    pub directories: Vec<(usize, u32, u32)>,
    /// Relocations on top: kind, offset in the read-only data.
    pub relocations: Vec<(u16, u32)>,
    pub exports: Vec<&'static str>,
    pub pdb: &'static str,
    pub repro: bool,
    pub cet: bool,
    /// What the load configuration says of its size.
    pub config_size: u32,
    pub cookie: u64,
    pub guard_flags: u32,
    /// The functions that the guard allows.
    pub call_targets: Vec<&'static str>,
    /// The guard's pointers in writable data.
    pub guard_writable: bool,
    pub file_type: u32,
    pub file_version: &'static str,
    /// Bytes behind everything, and whether the last of them belong to the certificate table.
    pub certificate: Option<(Vec<u8>, bool)>,
    /// Library, names; a name `#n` is an ordinal.
    pub imports: Vec<(&'static str, Vec<&'static str>)>,
    /// Bytes that the directory of the import address table leaves out.
    pub table_short: u32,
    pub functions: Vec<Code>,
    /// A function that a pointer in data points to.
    pub pointer: &'static str,
    /// A `core::panic::Location`.
    pub location: (&'static str, u32, u32),
}

/// The bytes of a draft, and its map.
pub struct Built {
    pub image: Vec<u8>,
    pub map: String,
}

pub const CALLBACK: &str = "_ZN4weir3wfp7callout8classify17h0123456789abcdefE";
pub const HELPER: &str = "_ZN4weir6policy6lookup17h0123456789abcdefE";
pub const START: &str = "_RNvNtCs8icZUrvfcq9_4weir6driver5start";

impl Draft {
    /// A good one.
    pub fn new(arch: Arch) -> Self {
        use Item::{Call, Guarded, Import, Raw};
        Self {
            arch,
            characteristics: 0x2022,
            subsystem: (1, 10, 0),
            os_version: (10, 0),
            dll_characteristics: 0x61E0,
            checksum: None,
            section_alignment: 0x1000,
            flags: BTreeMap::new(),
            entry: None,
            directories: Vec::new(),
            relocations: Vec::new(),
            exports: Vec::new(),
            pdb: "weir.pdb",
            repro: true,
            cet: true,
            config_size: 0x140,
            cookie: 0x0000_2B99_2DDF_A232,
            guard_flags: 0x10500,
            call_targets: vec![CALLBACK, "DriverEntry"],
            guard_writable: false,
            file_type: 3,
            file_version: "0.1.2.0",
            certificate: None,
            imports: vec![
                ("ntoskrnl.exe", vec!["DbgPrint", "KeBugCheckEx"]),
                ("netio.sys", vec!["WskRegister"]),
            ],
            table_short: 0,
            functions: vec![
                code("DriverEntry", 40 + 8, &[Import(0), Call(START)]),
                code(START, 64, &[Import(2), Call(HELPER)]),
                code(CALLBACK, 48, &[Call(HELPER), Guarded]),
                code(HELPER, 0, &[Raw(&[0x31, 0xC0], &[0x2A1F_03E0])]),
                code("weir_guard_check", 0, &[Raw(&[], &[])]),
                code("weir_guard_dispatch", 0, &[Raw(&[0xFF, 0xE0], &[0xD61F_0120])]),
            ],
            pointer: CALLBACK,
            location: ("src/wfp/callout.rs", 12, 34),
        }
    }

    /// The function of a symbol.
    pub fn function(&mut self, symbol: &str) -> &mut Code {
        self.functions.iter_mut().find(|code| code.symbol == symbol).unwrap()
    }

    fn item(&self, item: &Item) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        match (self.arch, item) {
            (Arch::X64, Item::Raw(bytes, _)) => bytes.to_vec(),
            (Arch::Arm64, Item::Raw(_, code)) => words(code),
            (Arch::X64, Item::Call(_)) => vec![0xE8, 0, 0, 0, 0],
            (Arch::X64, Item::Jump(_)) => vec![0xE9, 0, 0, 0, 0],
            (Arch::X64, Item::Import(_) | Item::Guarded | Item::Check) => vec![0xFF, 0x15, 0, 0, 0, 0],
            (Arch::X64, Item::Take(_) | Item::Location) => vec![0x48, 0x8D, 0x05, 0, 0, 0, 0],
            (Arch::Arm64, Item::Call(_)) => words(&[0x9400_0000]),
            (Arch::Arm64, Item::Jump(_)) => words(&[0x1400_0000]),
            // adrp x8; ldr x8, [x8]; blr x8
            (Arch::Arm64, Item::Import(_) | Item::Check) => words(&[0x9000_0008, 0xF940_0108, 0xD63F_0100]),
            // The same for the check, then blr x15
            (Arch::Arm64, Item::Guarded) => words(&[0x9000_0008, 0xF940_0108, 0xD63F_0100, 0xD63F_01E0]),
            // adrp x0; add x0, x0
            (Arch::Arm64, Item::Take(_) | Item::Location) => words(&[0x9000_0000, 0x9100_0000]),
        }
    }

    /// Points an item at a target.
    fn fix(&self, item: &Item, bytes: &mut [u8], site: u32, target: u32) {
        match (self.arch, item) {
            (_, Item::Raw(..)) => {}
            (Arch::X64, _) => {
                let end = bytes.len();
                let distance = target.wrapping_sub(site + u32::try_from(end).unwrap());
                bytes[end - 4..].copy_from_slice(&distance.to_le_bytes());
            }
            (Arch::Arm64, Item::Call(_) | Item::Jump(_)) => {
                let word = u32::from_le_bytes(bytes[..4].try_into().unwrap());
                let word = word | (target.wrapping_sub(site) >> 2) & 0x03FF_FFFF;
                bytes[..4].copy_from_slice(&word.to_le_bytes());
            }
            (Arch::Arm64, _) => {
                let pages = (target >> 12).wrapping_sub(site >> 12);
                let word = u32::from_le_bytes(bytes[..4].try_into().unwrap());
                let word = word | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5;
                bytes[..4].copy_from_slice(&word.to_le_bytes());
                let word = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
                let scale = if matches!(item, Item::Take(_) | Item::Location) { 1 } else { 8 };
                let word = word | ((target & 0xFFF) / scale) << 10;
                bytes[4..8].copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    fn prologue(&self, code: &Code) -> Vec<u8> {
        match (self.arch, code.frame) {
            (_, 0) => Vec::new(),
            (Arch::X64, frame) => [&[0x48, 0x81, 0xEC][..], &frame.to_le_bytes()].concat(),
            (Arch::Arm64, frame) => (0xD100_03FF | frame << 10).to_le_bytes().to_vec(),
        }
    }

    fn epilogue(&self, code: &Code) -> Vec<u8> {
        let gives_back = match (self.arch, code.frame) {
            (_, 0) => Vec::new(),
            (Arch::X64, frame) => [&[0x48, 0x81, 0xC4][..], &frame.to_le_bytes()].concat(),
            (Arch::Arm64, frame) => (0x9100_03FF | frame << 10).to_le_bytes().to_vec(),
        };
        let returns = match (self.arch, code.items.last()) {
            (_, Some(Item::Jump(_))) => Vec::new(),
            (Arch::X64, _) => vec![0xC3],
            (Arch::Arm64, _) => 0xD65F_03C0u32.to_le_bytes().to_vec(),
        };
        [gives_back, returns].concat()
    }

    fn unwind(&self, frame: u32, length: u32) -> Vec<u8> {
        match self.arch {
            Arch::X64 => {
                // One large allocation, after seven bytes
                let size = u16::try_from(frame / 8).unwrap().to_le_bytes();
                vec![1, 7, 2, 0, 7, 1, size[0], size[1]]
            }
            Arch::Arm64 => {
                // One word of codes, one epilogue that begins with code 0: alloc_m, end
                let head = (length / 4) | 1 << 21 | 1 << 27;
                let size = frame / 16;
                let codes = [0xC0 | u8::try_from(size >> 8).unwrap(), (size & 0xFF) as u8, 0xE4, 0xE3];
                [head.to_le_bytes(), codes].concat()
            }
        }
    }

    /// Functions, each at a multiple of 16.
    fn text(&self) -> Text<'_> {
        let filler = match self.arch {
            Arch::X64 => 0xCC,
            Arch::Arm64 => 0,
        };
        let mut text = Text::default();
        for code in &self.functions {
            text.bytes.resize(text.bytes.len().next_multiple_of(16), filler);
            let start = text.end();
            text.starts.insert(code.symbol, start);
            text.bytes.extend(self.prologue(code));
            for item in &code.items {
                if matches!(item, Item::Jump(_)) {
                    text.bytes.extend(self.epilogue(code));
                }
                let bytes = self.item(item);
                text.fixes.push((text.bytes.len(), bytes.len(), item));
                text.bytes.extend(bytes);
            }
            if !matches!(code.items.last(), Some(Item::Jump(_))) {
                text.bytes.extend(self.epilogue(code));
            }
            if code.frame > 0 {
                text.unwinds.push((start, text.end(), self.unwind(code.frame, text.end() - start)));
            }
        }
        text
    }

    fn map(&self, starts: &BTreeMap<&str, u32>, rdata_at: u32) -> String {
        let symbols = self.functions.iter().map(|code| (starts[code.symbol], code.symbol));
        let mut map =
            " weir\n\n  Address         Publics by Value              Rva+Base               Lib:Object\n\n"
                .to_owned();
        for (rva, symbol) in symbols.chain([(rdata_at, "_load_config_used")]) {
            let va = BASE + u64::from(rva);
            let _ = writeln!(map, " 0001:{:08x}       {symbol} {va:016x}     weir.o", rva - TEXT);
        }
        map
    }

    /// Builds the file.
    pub fn build(&self) -> Built {
        let Text { bytes: mut text, starts, unwinds, fixes } = self.text();

        // Read-only data
        let rdata_at = (TEXT + u32::try_from(text.len()).unwrap()).next_multiple_of(0x1000);
        let mut rdata = Blob { at: rdata_at, bytes: Vec::new() };
        let mut relocations: Vec<(u16, u32)> = Vec::new();
        let va = |rva: u32| BASE + u64::from(rva);
        let config = rdata.put(&[0; 0x140]);
        let mut data = Blob { at: 0, bytes: Vec::new() };
        let cookie = data.put(&self.cookie.to_le_bytes());
        let guard = [starts["weir_guard_check"], starts["weir_guard_dispatch"]];
        let guard = guard.map(|target| va(target).to_le_bytes()).concat();
        let guard_blob = if self.guard_writable { &mut data } else { &mut rdata };
        let guard_slots = guard_blob.put(&guard);
        let mut targets: Vec<u32> = self.call_targets.iter().map(|symbol| starts[symbol]).collect();
        targets.sort_unstable();
        let table = rdata.put(&targets.iter().flat_map(|target| target.to_le_bytes()).collect::<Vec<_>>());
        let pointer = rdata.put(&va(starts[self.pointer]).to_le_bytes());
        relocations.push((10, pointer));
        let file = rdata.put(self.location.0.as_bytes());
        let location = rdata.put(&va(file).to_le_bytes());
        relocations.push((10, location));
        rdata.bytes.extend((self.location.0.len() as u64).to_le_bytes());
        rdata.bytes.extend(self.location.1.to_le_bytes());
        rdata.bytes.extend(self.location.2.to_le_bytes());
        let (import_table, slots) = self.put_imports(&mut rdata);
        let export_table = self.put_exports(&mut rdata, &starts);
        let (debug, debug_data) = self.put_debug(&mut rdata);
        let mut pdata = Vec::new();
        for (start, end, codes) in &unwinds {
            let info = rdata.put(codes);
            pdata.extend(start.to_le_bytes());
            if self.arch == Arch::X64 {
                pdata.extend(end.to_le_bytes());
            }
            pdata.extend(info.to_le_bytes());
        }

        // Where the others are
        let after = |at: u32, len: usize| (at + u32::try_from(len.max(1)).unwrap()).next_multiple_of(0x1000);
        let data_at = after(rdata_at, rdata.bytes.len());
        let pdata_at = after(data_at, data.bytes.len());
        let rsrc_at = after(pdata_at, pdata.len());
        let rsrc = self.resources(rsrc_at);
        let reloc_at = after(rsrc_at, rsrc.len());
        let cookie = data_at + cookie;
        let guard_slots = if self.guard_writable { data_at + guard_slots } else { guard_slots };
        relocations.extend([(10, guard_slots), (10, guard_slots + 8)]);

        // The load configuration
        let mut put =
            |offset: usize, bytes: &[u8]| rdata.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &self.config_size.to_le_bytes());
        let pointers = [(0x58, cookie), (0x70, guard_slots), (0x78, guard_slots + 8), (0x80, table)];
        for (offset, target) in pointers {
            put(offset, &va(target).to_le_bytes());
            relocations.push((10, config + u32::try_from(offset).unwrap()));
        }
        put(0x88, &(targets.len() as u64).to_le_bytes());
        put(0x90, &self.guard_flags.to_le_bytes());
        relocations.extend(self.relocations.iter().map(|(kind, offset)| (*kind, rdata_at + offset)));

        // Calls
        for (offset, len, item) in fixes {
            let target = match item {
                Item::Raw(..) => continue,
                Item::Call(symbol) | Item::Jump(symbol) | Item::Take(symbol) => starts[symbol],
                Item::Import(index) => slots[*index as usize],
                Item::Guarded if self.arch == Arch::X64 => guard_slots + 8,
                Item::Guarded | Item::Check => guard_slots,
                Item::Location => location,
            };
            let site = TEXT + u32::try_from(offset).unwrap();
            self.fix(item, &mut text[offset..offset + len], site, target);
        }

        let reloc = relocation_table(relocations);
        let table_size = u32::try_from(slots.len() * 8).unwrap() + 8 * self.terminators();
        let mut directories = BTreeMap::from([
            (1, import_table),
            (2, (rsrc_at, u32::try_from(rsrc.len()).unwrap())),
            (3, (pdata_at, u32::try_from(pdata.len()).unwrap())),
            (5, (reloc_at, u32::try_from(reloc.len()).unwrap())),
            (6, debug),
            (10, (config, 0x140)),
            (12, (slots[0], table_size - self.table_short)),
        ]);
        directories.extend(export_table.map(|table| (0, table)));
        for (id, rva, size) in &self.directories {
            directories.insert(*id, (*rva, *size));
        }
        let sections = [
            (".text", TEXT, text, CODE | EXECUTE | READ),
            (".rdata", rdata_at, rdata.bytes, DATA | READ),
            (".data", data_at, data.bytes, DATA | READ | WRITE),
            (".pdata", pdata_at, pdata, DATA | READ),
            (".rsrc", rsrc_at, rsrc, DATA | READ),
            (".reloc", reloc_at, reloc, DATA | READ | DISCARDABLE),
        ];
        let entry = self.entry.unwrap_or(starts["DriverEntry"]);
        let image = self.assemble(entry, &sections, &directories, debug_data, rdata_at);
        Built { image, map: self.map(&starts, rdata_at) }
    }

    /// Ends of lists in the import address table, but for the last.
    fn terminators(&self) -> u32 {
        u32::try_from(self.imports.len() - 1).unwrap()
    }

    fn put_imports(&self, rdata: &mut Blob) -> ((u32, u32), Vec<u32>) {
        let mut lists = Vec::new();
        for (library, names) in &self.imports {
            let library = rdata.put(format!("{library}\0").as_bytes());
            let mut thunks = Vec::new();
            for name in names {
                thunks.push(match name.strip_prefix('#') {
                    Some(ordinal) => 1 << 63 | ordinal.parse::<u64>().unwrap(),
                    None => u64::from(rdata.put(format!("\0\0{name}\0").as_bytes())),
                });
            }
            thunks.push(0);
            lists.push((library, thunks));
        }
        let bytes = |thunks: &[u64]| thunks.iter().flat_map(|thunk| thunk.to_le_bytes()).collect::<Vec<_>>();
        let lookups: Vec<u32> = lists.iter().map(|(_, thunks)| rdata.put(&bytes(thunks))).collect();
        let mut slots = Vec::new();
        let mut descriptors = Vec::new();
        for ((library, thunks), lookup) in lists.iter().zip(lookups) {
            let table = rdata.put(&bytes(thunks));
            slots.extend((0..thunks.len() - 1).map(|index| table + u32::try_from(index * 8).unwrap()));
            for field in [lookup, 0, 0, *library, table] {
                descriptors.extend(field.to_le_bytes());
            }
        }
        descriptors.extend([0; 20]);
        let at = rdata.put(&descriptors);
        ((at, u32::try_from(descriptors.len()).unwrap()), slots)
    }

    fn put_exports(&self, rdata: &mut Blob, starts: &BTreeMap<&str, u32>) -> Option<(u32, u32)> {
        if self.exports.is_empty() {
            return None;
        }
        let count = u16::try_from(self.exports.len()).unwrap();
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        // The directory is in front of what it names, and its size is that of all.
        let at = rdata.put(&[0; 40]);
        let library = rdata.put(b"weir.sys\0");
        let names: Vec<u32> =
            self.exports.iter().map(|name| rdata.put(format!("{name}\0").as_bytes())).collect();
        let addresses: Vec<u32> =
            self.exports.iter().map(|name| starts.get(name).copied().unwrap_or(starts[HELPER])).collect();
        let (addresses, names) = (rdata.put(&words(&addresses)), rdata.put(&words(&names)));
        let ordinals: Vec<u8> = (0..count).flat_map(u16::to_le_bytes).collect();
        let ordinals = rdata.put(&ordinals);
        let directory = words(&[0, 0, 0, library, 1, count.into(), count.into(), addresses, names, ordinals]);
        let place = (at - rdata.at) as usize;
        rdata.bytes[place..place + 40].copy_from_slice(&directory);
        Some((at, rdata.at + u32::try_from(rdata.bytes.len()).unwrap() - at))
    }

    /// The debug directory, and where in it the data of each entry is.
    fn put_debug(&self, rdata: &mut Blob) -> ((u32, u32), Vec<(u32, u32)>) {
        let mut entries = vec![(2u32, [b"RSDS".as_slice(), &[7; 20], self.pdb.as_bytes(), &[0]].concat())];
        if self.repro {
            entries.push((16, Vec::new()));
        }
        if self.cet {
            entries.push((20, vec![1, 0, 0, 0]));
        }
        let mut directory = Vec::new();
        let mut places = Vec::new();
        for (kind, data) in &entries {
            let at = if data.is_empty() { 0 } else { rdata.put(data) };
            for field in [0, 0x1234_5678, 0, *kind, u32::try_from(data.len()).unwrap(), at, 0] {
                directory.extend(field.to_le_bytes());
            }
            places.push(at);
        }
        let start = rdata.put(&directory);
        let place = |(index, at): (usize, &u32)| (start + u32::try_from(index).unwrap() * 28 + 24, *at);
        let places = places.iter().enumerate().map(place).collect();
        ((start, u32::try_from(directory.len()).unwrap()), places)
    }

    fn resources(&self, at: u32) -> Vec<u8> {
        let version = self.version();
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let mut bytes = Vec::new();
        // Three directories of one entry each: type 16, name 1, language 0x409
        for (id, next) in [(16, 0x8000_0018), (1, 0x8000_0030), (0x409, 0x48)] {
            bytes.extend(words(&[0, 0, 0, 0x0001_0000, id, next]));
        }
        bytes.extend(words(&[at + 0x58, u32::try_from(version.len()).unwrap(), 0, 0]));
        bytes.extend(version);
        bytes
    }

    fn version(&self) -> Vec<u8> {
        let fixed =
            [0xFEEF_04BDu32, 0x10000, 1, 2 << 16, 1, 2 << 16, 0x3F, 0, 0x40004, self.file_type, 6, 0, 0];
        let fixed: Vec<u8> = fixed.iter().flat_map(|word| word.to_le_bytes()).collect();
        let strings = [
            ("CompanyName", "weir"),
            ("FileDescription", "weir"),
            ("FileVersion", self.file_version),
            ("InternalName", "weir.sys"),
            ("OriginalFilename", "weir.sys"),
            ("ProductName", "weir"),
            ("ProductVersion", "0.1.2.0"),
        ];
        let units =
            |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let strings: Vec<_> =
            strings.iter().map(|(key, text)| version_block(key, &units(text), true, &[])).collect();
        let table = version_block("040904b0", &[], true, &strings);
        let strings = version_block("StringFileInfo", &[], true, &[table]);
        let language = version_block("Translation", &[9, 4, 0xB0, 4], false, &[]);
        let languages = version_block("VarFileInfo", &[], true, &[language]);
        version_block("VS_VERSION_INFO", &fixed, false, &[strings, languages])
    }

    fn assemble(
        &self,
        entry: u32,
        sections: &[(&'static str, u32, Vec<u8>, u32)],
        directories: &BTreeMap<usize, (u32, u32)>,
        debug_data: Vec<(u32, u32)>,
        rdata_at: u32,
    ) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(b"MZ");
        file.resize(0x3C, 0);
        file.extend(0x40u32.to_le_bytes());
        file.extend(b"PE\0\0");
        let machine: u16 = match self.arch {
            Arch::X64 => 0x8664,
            Arch::Arm64 => 0xAA64,
        };
        let mut half = |value: u16| file.extend(value.to_le_bytes());
        half(machine);
        half(u16::try_from(sections.len()).unwrap());
        [0x5678, 0x1234, 0, 0, 0, 0, 240].into_iter().for_each(&mut half);
        half(self.characteristics);
        half(0x20B);
        half(14);
        let mut word = |value: u32| file.extend(value.to_le_bytes());
        let size_of_image = sections.last().map_or(0, |(_, at, bytes, _)| {
            (at + u32::try_from(bytes.len()).unwrap()).next_multiple_of(0x1000)
        });
        [0x200, 0x200, 0, entry, TEXT, 0x8000_0000, 1, self.section_alignment, 0x200]
            .into_iter()
            .for_each(&mut word);
        let pair = |(major, minor): (u16, u16)| u32::from(major) | u32::from(minor) << 16;
        word(pair(self.os_version));
        word(pair((10, 0)));
        word(pair((self.subsystem.1, self.subsystem.2)));
        [0, size_of_image, 0x400, 0].into_iter().for_each(&mut word);
        word(u32::from(self.subsystem.0) | u32::from(self.dll_characteristics) << 16);
        [0x10_0000, 0, 0x1000, 0, 0x10_0000, 0, 0x1000, 0, 0, 16].into_iter().for_each(&mut word);
        let security = file.len() + 4 * 8;
        for id in 0..16 {
            let (rva, size) = directories.get(&id).copied().unwrap_or((0, 0));
            file.extend(rva.to_le_bytes());
            file.extend(size.to_le_bytes());
        }
        let mut raw = 0x400usize;
        let mut places = BTreeMap::new();
        for (name, at, bytes, flags) in sections {
            let len = bytes.len().next_multiple_of(0x200);
            places.insert(*at, raw);
            let mut label = name.as_bytes().to_vec();
            label.resize(8, 0);
            file.extend(label);
            let flags = flags | self.flags.get(name).copied().unwrap_or(0);
            let fields = [bytes.len(), *at as usize, len, raw, 0, 0, 0, flags as usize];
            file.extend(fields.iter().flat_map(|field| u32::try_from(*field).unwrap().to_le_bytes()));
            raw += len;
        }
        for (_, at, bytes, _) in sections {
            file.resize(places[at], 0);
            file.extend(bytes);
        }
        file.resize(raw, 0);
        // Debug entries hold places in the file.
        for (field, target) in debug_data {
            let place = |rva: u32| places[&rdata_at] + (rva - rdata_at) as usize;
            let offset = if target == 0 { 0 } else { u32::try_from(place(target)).unwrap() };
            file[place(field)..place(field) + 4].copy_from_slice(&offset.to_le_bytes());
        }
        if let Some((bytes, last)) = &self.certificate {
            let (offset, len) = (u32::try_from(file.len()).unwrap(), u32::try_from(bytes.len()).unwrap());
            file[security..security + 4].copy_from_slice(&offset.to_le_bytes());
            file[security + 4..security + 8].copy_from_slice(&len.to_le_bytes());
            file.extend(bytes);
            if !last {
                file.extend([0; 8]);
            }
        }
        set_checksum(&mut file, self.checksum);
        file
    }
}

/// The code section, whose calls are not pointed at anything yet.
#[derive(Default)]
struct Text<'a> {
    bytes: Vec<u8>,
    starts: BTreeMap<&'static str, u32>,
    /// Start, end, unwind data.
    unwinds: Vec<(u32, u32, Vec<u8>)>,
    /// Place and length of an item.
    fixes: Vec<(usize, usize, &'a Item)>,
}

impl Text<'_> {
    fn end(&self) -> u32 {
        TEXT + u32::try_from(self.bytes.len()).unwrap()
    }
}

/// Bytes at an address.
struct Blob {
    at: u32,
    bytes: Vec<u8>,
}

impl Blob {
    /// Adds bytes, aligned to 8; their address.
    fn put(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.at + u32::try_from(self.bytes.len()).unwrap();
        self.bytes.extend(bytes);
        at
    }
}

/// Writes a checksum, the right one by default.
pub fn set_checksum(file: &mut [u8], checksum: Option<u32>) {
    let Some(offset) = Image::parse(file).ok().map(|image| header::checksum_offset(&image)) else { return };
    let right = checksum.unwrap_or_else(|| header::sum(file, offset));
    file[offset..offset + 4].copy_from_slice(&right.to_le_bytes());
}

fn relocation_table(mut relocations: Vec<(u16, u32)>) -> Vec<u8> {
    relocations.sort_by_key(|(_, site)| *site);
    let mut pages: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
    for (kind, site) in relocations {
        pages.entry(site & !0xFFF).or_default().push(kind << 12 | (site & 0xFFF) as u16);
    }
    let mut table = Vec::new();
    for (page, mut sites) in pages {
        if sites.len() % 2 == 1 {
            sites.push(0);
        }
        table.extend(page.to_le_bytes());
        table.extend(u32::try_from(8 + sites.len() * 2).unwrap().to_le_bytes());
        table.extend(sites.iter().flat_map(|site| site.to_le_bytes()));
    }
    table
}

fn version_block(key: &str, value: &[u8], text: bool, children: &[Vec<u8>]) -> Vec<u8> {
    let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut bytes = vec![0; 6];
    bytes.extend(key.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    pad(&mut bytes);
    bytes.extend(value);
    for child in children {
        pad(&mut bytes);
        bytes.extend(child);
    }
    let value_len = if text { value.len() / 2 } else { value.len() };
    for (at, field) in [(0, bytes.len()), (2, value_len), (4, usize::from(text))] {
        bytes[at..at + 2].copy_from_slice(&u16::try_from(field).unwrap().to_le_bytes());
    }
    bytes
}
