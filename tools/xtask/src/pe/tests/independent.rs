//! The same images read by `pefile`, a parser in another language.

use std::path::Path;
use std::process::Command;

use object::LittleEndian as LE;
use object::read::pe::ImageNtHeaders;
use serde_json::{Value, json};

use super::super::imports;
use super::super::read::{Arch, Image};
use super::draft::Draft;
use super::own_images;
use crate::step::root;

const SCRIPT: &str = r##"
import json, pefile, sys
pe = pefile.PE(sys.argv[1])
o = pe.OPTIONAL_HEADER
c = pe.DIRECTORY_ENTRY_LOAD_CONFIG.struct
print(json.dumps({
    "machine": pe.FILE_HEADER.Machine,
    "characteristics": pe.FILE_HEADER.Characteristics,
    "subsystem": [o.Subsystem, o.MajorSubsystemVersion, o.MinorSubsystemVersion],
    "dll_characteristics": o.DllCharacteristics,
    "entry": o.AddressOfEntryPoint,
    "checksum": pe.generate_checksum(),
    "sections": [[s.Name.rstrip(b"\0").decode(), s.VirtualAddress, s.Misc_VirtualSize, s.Characteristics] for s in pe.sections],
    "imports": [[e.dll.decode().lower(), (i.name or b"#%d" % i.ordinal).decode(), i.address - o.ImageBase]
                for e in pe.DIRECTORY_ENTRY_IMPORT for i in e.imports],
    "relocations": sorted(r.rva for b in pe.DIRECTORY_ENTRY_BASERELOC for r in b.entries if r.type != 0),
    "guard": [c.GuardFlags, c.GuardCFFunctionCount, c.SecurityCookie - o.ImageBase],
}))
"##;

/// A python with pefile, in a folder of its own under target.
fn python() -> Result<std::path::PathBuf, String> {
    let folder = root().join("target/pefile");
    let python = folder.join("bin/python");
    let has = |python: &Path| Command::new(python).args(["-c", "import pefile"]).output();
    if has(&python).is_ok_and(|output| output.status.success()) {
        return Ok(python);
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    let made = folder.to_str().is_some_and(|folder| run(Path::new("python3"), &["-m", "venv", folder]))
        && run(&python, &["-m", "pip", "install", "--quiet", "pefile==2024.8.26"]);
    if made { Ok(python) } else { Err("no pefile (python3 -m venv, pip install pefile)".to_owned()) }
}

fn own(data: &[u8]) -> Value {
    let image = Image::parse(data).unwrap();
    let (file, header) = (image.file.nt_headers().file_header(), image.optional());
    let mut sites: Vec<_> = image.relocations().unwrap().into_iter().map(|(site, _)| site).collect();
    sites.sort_unstable();
    let (config, _) = super::super::config::directory(&image).unwrap();
    json!({
        "machine": file.machine.get(LE).0,
        "characteristics": file.characteristics.get(LE).0,
        "subsystem": [
            header.subsystem.get(LE).0,
            header.major_subsystem_version.get(LE),
            header.minor_subsystem_version.get(LE)
        ],
        "dll_characteristics": header.dll_characteristics.get(LE).0,
        "entry": header.address_of_entry_point.get(LE),
        "checksum": super::super::header::sum(data, super::super::header::checksum_offset(&image)),
        "sections": image.sections.iter().map(|section| json!([section.name, section.start, section.size, section.flags.0])).collect::<Vec<_>>(),
        "imports": imports::read(&image).unwrap().iter().map(|import| json!([import.library, import.name, import.slot])).collect::<Vec<_>>(),
        "relocations": sites,
        "guard": [
            u64::from(config.guard_flags.get(LE).0),
            config.guard_cf_function_count.get(LE),
            u64::from(image.rva(config.security_cookie.get(LE)).unwrap())
        ],
    })
}

#[test]
fn another_parser_reads_the_same() {
    let python = match python() {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let drafts = [Arch::X64, Arch::Arm64].map(|arch| Draft::new(arch).build().image);
    let images = own_images().into_iter().map(|(_, built)| built.image).chain(drafts);
    for (index, image) in images.enumerate() {
        let path = root().join(format!("target/pefile/{index}.sys"));
        std::fs::write(&path, &image).unwrap();
        let output = Command::new(&python).args(["-c", SCRIPT]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let other: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(own(&image), other, "{}", path.display());
    }
}
