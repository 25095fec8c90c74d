//! What stands in for the WDK: folders of its shape under `target/wdk`, with headers from mingw-w64, import libraries
//! made of the exports that the project knows (`tests/abi/exports`), and a copy of wdk-build that runs on this host.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::toolchain::Toolchain;
use super::{Arch, Error, io, link, write};
use crate::install;
use crate::step::root;

/// The version that the folders carry. Nothing depends on it.
const VERSION: &str = "10.0.26100.0";
/// Declarations that mingw-w64's headers lack.
const SUPPLEMENT: &str = "tools/xtask/src/build/supplement.h";
const HEADERS: &str = "/usr/share/mingw-w64/include";

/// The stand-in, with what bindgen needs to read its headers.
pub struct Kit {
    pub folder: PathBuf,
    /// The folder of libclang.
    pub libclang: PathBuf,
    /// The folder of clang's own headers.
    resources: PathBuf,
}

/// Makes the stand-in, but for its libraries.
pub fn prepare(offline: bool) -> Result<Kit, Error> {
    let headers = Path::new(HEADERS);
    let mut wanted = Vec::new();
    if !headers.join("ddk/ntifs.h").exists() {
        wanted.push("mingw-w64-common");
    }
    if clang().is_none() {
        wanted.push("libclang-dev");
    }
    if !wanted.is_empty() {
        install::packages(&wanted, !offline)?;
    }
    let (libclang, resources) = clang().ok_or_else(|| {
        Error(
            "no libclang with its own headers under /usr/lib/llvm-*, though libclang-dev is installed".into(),
        )
    })?;
    let folder = root().join("target/wdk");
    let include = folder.join("Include").join(VERSION);
    let km = include.join("km");
    // The C runtime's headers, which mingw-w64 has among the shared ones.
    std::fs::create_dir_all(km.join("crt")).map_err(io(&km))?;
    let ddk = headers.join("ddk");
    for header in ddk.read_dir().map_err(io(&ddk))? {
        let header = header.map_err(io(&ddk))?;
        link(&km.join(header.file_name()), &header.path())?;
    }
    link(&include.join("shared"), headers)?;
    port_wdk_build(&folder, offline)?;
    Ok(Kit { folder, libclang, resources })
}

/// The newest libclang whose own headers are there too: its folder, and theirs.
fn clang() -> Option<(PathBuf, PathBuf)> {
    let mut found: Vec<_> = Path::new("/usr/lib")
        .read_dir()
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            let library = entry.path().join("lib");
            let there = |name: &std::ffi::OsStr| {
                let name = name.to_string_lossy();
                name.starts_with("libclang.so") || name.starts_with("libclang-")
            };
            library.read_dir().ok()?.flatten().find(|file| there(&file.file_name()))?;
            let resources = library.join("clang").read_dir().ok()?.flatten().map(|entry| entry.path());
            let resources = resources.filter(|path| path.join("include/stddef.h").exists()).max()?;
            Some((version, library, resources))
        })
        .collect();
    found.sort_unstable();
    found.pop().map(|(_, library, resources)| (library, resources))
}

/// A path as one word for bindgen, which splits its arguments as a shell does.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

impl Kit {
    /// Sets what wdk-build and bindgen look for.
    pub fn settings(&self, command: &mut Command) {
        command
            .env("WDKContentRoot", &self.folder)
            .env("Version_Number", VERSION)
            .env("LIBCLANG_PATH", &self.libclang)
            // Clang in Microsoft's dialect claims no GCC, and mingw's headers then miss vector types. For ARM64 too
            // the headers are read as for x64, which lays out all that is used alike: mingw's have no ARM64 part.
            .env(
                "BINDGEN_EXTRA_CLANG_ARGS",
                format!(
                    "-fgnuc-version=4.2.1 -resource-dir {} -include {} --target=x86_64-pc-windows-msvc -U_ARM64_ -UARM64 \
                     -D_WIN64 -D_AMD64_ -DAMD64",
                    quoted(&self.resources),
                    quoted(&root().join(SUPPLEMENT))
                ),
            );
    }

    /// The folder of an architecture's import libraries.
    pub fn library_folder(&self, arch: Arch) -> PathBuf {
        self.folder.join("Lib").join(VERSION).join("km").join(arch.folder())
    }

    /// The folders of headers, the driver's first.
    pub fn includes(&self) -> [PathBuf; 2] {
        let include = self.folder.join("Include").join(VERSION);
        [include.join("km"), include.join("shared")]
    }

    /// The compiler that belongs to libclang.
    pub fn compiler(&self, offline: bool) -> Result<PathBuf, Error> {
        let llvm = self.libclang.parent().unwrap_or(&self.libclang);
        let clang = llvm.join("bin/clang");
        if !clang.exists() {
            let name = llvm.file_name().unwrap_or_default().to_string_lossy();
            install::packages(&[&name.replace("llvm", "clang")], !offline)?;
        }
        Ok(clang)
    }

    /// Makes the import libraries that wdk-sys and the sample name.
    pub fn libraries(&self, arch: Arch, toolchain: &Toolchain) -> Result<(), Error> {
        self.import_library(arch, toolchain, "ntoskrnl.exe")?;
        self.import_library(arch, toolchain, "netio.sys")?;
        // Nothing of these is used.
        for name in ["hal", "wmilib", "BufferOverflowFastFailK", "arm64rt"] {
            write(&self.library_folder(arch).join(name).with_extension("lib"), b"!<arch>\n")?;
        }
        Ok(())
    }

    /// Makes the import library of one image of Windows'.
    fn import_library(&self, arch: Arch, toolchain: &Toolchain, image: &str) -> Result<(), Error> {
        let exports = root().join("tests/abi/exports").join(format!("{image}.txt"));
        let exports = std::fs::read_to_string(&exports).map_err(io(&exports))?;
        let definition = self.library_folder(arch).join(image).with_extension("def");
        let mut text = format!("LIBRARY \"{image}\"\nEXPORTS\n");
        for line in exports.lines().filter(|line| !line.starts_with('#')) {
            // What came after the oldest Windows that weir runs on is not imported.
            if !line.contains(';') && !line.trim().is_empty() {
                text.push_str(line.trim());
                text.push('\n');
            }
        }
        let library = definition.with_extension("lib");
        if !library.exists() || std::fs::read_to_string(&definition).ok().as_ref() != Some(&text) {
            write(&definition, text.as_bytes())?;
            let machine = format!("/machine:{}", arch.name());
            let made = Command::new(&toolchain.linker)
                .args(["-flavor", "link", "/lib", "/nologo", &machine])
                .arg(format!("/def:{}", definition.display()))
                .arg(format!("/out:{}", library.display()))
                .status();
            if !made.is_ok_and(|status| status.success()) {
                return Err(Error(format!("{} could not be made", library.display())));
            }
        }
        Ok(())
    }
}

/// The folder of the copy of wdk-build, from the top of the tree.
pub const WDK_BUILD: &str = "target/wdk/wdk-build";

/// What keeps wdk-build from Linux: file, text, and what stands in its place. Each text stands there.
const PORT: &[(&str, &str, &str)] = &[
    ("Cargo.toml", "[dependencies.windows]", "[target.'cfg(windows)'.dependencies.windows]"),
    ("Cargo.toml", "[dev-dependencies.windows]", "[target.'cfg(windows)'.dev-dependencies.windows]"),
    ("src/utils.rs", "ffi::{CStr, OsStr}", "ffi::OsStr"),
    ("src/utils.rs", "CStr::from_bytes", "std::ffi::CStr::from_bytes"),
    ("src/utils.rs", "\nuse windows::{", "\n#[cfg(windows)]\nuse windows::{"),
    (
        "src/utils.rs",
        "fn read_registry_key_string_value(",
        "#[cfg(windows)]\nfn read_registry_key_string_value(",
    ),
    ("src/utils.rs", "#[cfg(not(target_os = \"windows\"))]", "#[cfg(any())]"),
    ("src/utils.rs", "#[cfg(target_os = \"windows\")]", "#[cfg(all())]"),
    ("src/cargo_make.rs", "std::os::windows::fs::symlink_file", "std::os::unix::fs::symlink"),
];

/// A registry without keys.
const NO_REGISTRY: &str = r"
#[cfg(not(windows))]
use no_registry::{HKEY_LOCAL_MACHINE, read_registry_key_string_value, s};
#[cfg(not(windows))]
mod no_registry {
    pub const HKEY_LOCAL_MACHINE: () = ();
    macro_rules! s {
        ($text:literal) => {
            $text
        };
    }
    pub(super) use s;
    pub fn read_registry_key_string_value(_root: (), _key: &str, _value: &str) -> Option<String> {
        None
    }
}
";

/// Copies wdk-build from cargo's registry and makes it compile here.
fn port_wdk_build(folder: &Path, offline: bool) -> Result<(), Error> {
    let source = source_of("wdk-build", offline)?;
    let copy = folder.join("wdk-build");
    let mut files = Vec::new();
    list(&source, Path::new(""), &mut files)?;
    for file in files {
        let path = source.join(&file);
        let mut content = std::fs::read(&path).map_err(io(&path))?;
        let mut edits = PORT.iter().filter(|(name, ..)| Path::new(name) == file).peekable();
        if edits.peek().is_some() {
            let mut text = String::from_utf8_lossy(&content).into_owned();
            for (_, old, new) in edits {
                if !text.contains(old) {
                    let path = path.display();
                    return Err(Error(format!("{path}: this version has no {old:?}; see PORT in xtask")));
                }
                text = text.replace(old, new);
            }
            if file == Path::new("src/utils.rs") {
                text.push_str(NO_REGISTRY);
            }
            content = text.into_bytes();
        }
        write(&copy.join(file), &content)?;
    }
    Ok(())
}

/// The files below a folder, but for those that cargo keeps for itself.
fn list(top: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let folder = top.join(below);
    for entry in folder.read_dir().map_err(io(&folder))? {
        let entry = entry.map_err(io(&folder))?;
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            list(top, &path, files)?;
        } else if !entry.file_name().to_string_lossy().starts_with(".cargo") {
            files.push(path);
        }
    }
    Ok(())
}

/// Where cargo keeps the sources of a dependency, in the version that Cargo.lock names.
fn source_of(package: &str, offline: bool) -> Result<PathBuf, Error> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).arg("--locked").current_dir(root());
        if offline {
            command.arg("--offline");
        }
        command
    };
    let output =
        cargo(&["metadata", "--format-version", "1"]).stderr(std::process::Stdio::inherit()).output();
    let output = output.map_err(|error| Error(format!("cargo metadata: {error}")))?;
    if !output.status.success() {
        let hint = if offline { "; without --offline it fetches what is missing" } else { "" };
        return Err(Error(format!("cargo metadata failed{hint}")));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| Error(format!("cargo metadata: {error}")))?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|found| found["name"] == package)
        .and_then(|found| Path::new(found["manifest_path"].as_str()?).parent())
        .map(Path::to_owned)
        .ok_or_else(|| Error(format!("{package} is not among the dependencies")))
}
