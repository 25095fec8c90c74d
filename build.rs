//! Sets the cfg `kernel` where there is a kernel to compile against (elsewhere only the pure modules are built, so that
//! tools can share them), and the cfg `image` where that is the real one; then tells the linker what a driver is.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(kernel)");
    println!("cargo::rustc-check-cfg=cfg(image)");
    let feature = |name: &str| env::var_os(format!("CARGO_FEATURE_{name}")).is_some();
    let windows = env::var_os("CARGO_CFG_WINDOWS").is_some();
    let image = windows && feature("IMAGE") && !feature("SIM");
    if image || feature("SIM") {
        println!("cargo::rustc-cfg=kernel");
    }
    if image {
        println!("cargo::rustc-cfg=image");
        link();
    }
}

/// What a driver is linked with, on top of what the WDK's own rules give (on Windows these come first).
const LINK: &[&str] = &[
    "/DRIVER:WDM",
    "/SUBSYSTEM:NATIVE,10.0",
    "/OSVERSION:10.0",
    "/VERSION:10.0",
    "/ENTRY:DriverEntry",
    "/NODEFAULTLIB",
    "/NXCOMPAT",
    "/DYNAMICBASE",
    // Nothing unsigned is loaded.
    "/INTEGRITYCHECK",
    "/GUARD:CF",
    "/OPT:REF,ICF",
    // The checksum.
    "/RELEASE",
    // Reproducible: no time stamps, no folder of the build.
    "/Brepro",
    "/PDBALTPATH:weir.pdb",
    "/PDBSOURCEPATH:weir",
    "/MANIFEST:NO",
    // Control flow guard's pointers are read-only once the kernel has set them.
    "/MERGE:.00cfg=.rdata",
    "/MAP",
    "/MAPINFO:EXPORTS",
];

fn link() {
    #[cfg(windows)]
    if let Err(error) = wdk_build::configure_wdk_binary_build() {
        panic!("the WDK: {error}");
    }
    // Elsewhere a stand-in of the same shape, which the build command has made.
    #[cfg(not(windows))]
    if let (Ok(kit), Ok(version)) = (env::var("WDKContentRoot"), env::var("Version_Number")) {
        let folder = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
            Ok("aarch64") => "ARM64",
            _ => "x64",
        };
        println!("cargo::rustc-link-search=native={kit}/Lib/{version}/km/{folder}");
    }
    for argument in LINK {
        println!("cargo::rustc-link-arg={argument}");
    }
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "x86_64") {
        // Shadow stacks exist on x64 alone.
        println!("cargo::rustc-link-arg=/CETCOMPAT");
    }
    let resource = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("version.res");
    std::fs::write(&resource, version::resource()).expect("OUT_DIR can be written");
    println!("cargo::rustc-link-arg={}", resource.display());
}

/// The version resource, written as the resource compiler would (page "VERSIONINFO resource", and the structures
/// `RESOURCEHEADER`, `VS_VERSIONINFO`, `StringFileInfo`, `VarFileInfo`).
mod version {
    use std::env;

    const VFT_DRV: u32 = 3;
    const VFT2_DRV_NETWORK: u32 = 6;
    const VOS_NT_WINDOWS32: u32 = 0x0004_0004;
    const VS_FFI_FILEFLAGSMASK: u32 = 0x3F;
    const RT_VERSION: u16 = 16;
    const ENGLISH: u16 = 0x0409;
    const UTF16: u16 = 1200;

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    fn aligned(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn half(length: usize) -> [u8; 2] {
        u16::try_from(length).expect("resources of this size").to_le_bytes()
    }

    /// Length, length of the value, type, key, value, children.
    fn block(key: &str, value: &[u8], value_length: usize, text: bool, children: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [[0, 0], half(value_length), half(usize::from(text))].concat();
        bytes.extend(wide(key));
        bytes = aligned(bytes);
        bytes.extend(value);
        for child in children {
            bytes = aligned(bytes);
            bytes.extend(child);
        }
        let length = half(bytes.len());
        bytes[..2].copy_from_slice(&length);
        bytes
    }

    fn string(key: &str, value: &str) -> Vec<u8> {
        block(key, &wide(value), value.encode_utf16().count() + 1, true, &[])
    }

    fn entry(kind: u16, language: u16, data: &[u8]) -> Vec<u8> {
        // A name that is a number is the number after 0xFFFF.
        let name = u16::from(kind != 0);
        let header: Vec<u8> = [0xFFFF, kind, 0xFFFF, name].into_iter().flat_map(u16::to_le_bytes).collect();
        let sizes = [data.len(), 32].map(|size| u32::try_from(size).expect("resources of this size"));
        let mut bytes: Vec<u8> = sizes.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend(header);
        bytes.extend([0; 4]); // Version of the data.
        bytes.extend([0; 2]); // Memory flags.
        bytes.extend(language.to_le_bytes());
        bytes.extend([0; 8]); // Version, characteristics.
        bytes.extend(data);
        aligned(bytes)
    }

    /// A `.res` file.
    pub fn resource() -> Vec<u8> {
        let package = |field: &str| env::var(format!("CARGO_PKG_{field}")).expect("cargo sets it");
        let number = |field| package(field).parse::<u32>().expect("a number");
        let version =
            [number("VERSION_MAJOR") << 16 | number("VERSION_MINOR"), number("VERSION_PATCH") << 16];
        let [high, low] = version;
        let fixed: Vec<u8> = [
            0xFEEF_04BD,
            0x0001_0000,
            high,
            low,
            high,
            low,
            VS_FFI_FILEFLAGSMASK,
            0,
            VOS_NT_WINDOWS32,
            VFT_DRV,
            VFT2_DRV_NETWORK,
            0,
            0,
        ]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
        let text = format!("{}.0", package("VERSION"));
        let strings = [
            string("CompanyName", "weir"),
            string("FileDescription", &package("DESCRIPTION")),
            string("FileVersion", &text),
            string("InternalName", "weir.sys"),
            string("LegalCopyright", &format!("{} licence", package("LICENSE"))),
            string("OriginalFilename", "weir.sys"),
            string("ProductName", "weir"),
            string("ProductVersion", &text),
        ];
        let table = block("040904b0", &[], 0, true, &strings);
        let translation = [ENGLISH, UTF16].map(u16::to_le_bytes).concat();
        let children = [
            block("StringFileInfo", &[], 0, true, &[table]),
            block("VarFileInfo", &[], 0, true, &[block("Translation", &translation, 4, false, &[])]),
        ];
        let info = block("VS_VERSION_INFO", &fixed, fixed.len(), false, &children);
        [entry(0, 0, &[]), entry(RT_VERSION, ENGLISH, &info)].concat()
    }
}
