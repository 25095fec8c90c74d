//! The sample of a vendor's driver (tools/sdk/sample): compiled by the clang whose library reads the headers for weir.sys,
//! linked as weir.sys is.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::toolchain::Toolchain;
use super::wdk::Kit;
use super::{Arch, Error, dist, io, write};
use crate::step::root;

/// The image's name, without its extension.
const NAME: &str = "weirsample";

/// Compiled, in this order: where it lies, the object's name, and what tells debuggers of it.
const SOURCES: [(&str, &str, &[&str]); 2] = [
    ("tools/sdk/sample/sample.c", "sample.obj", &["-g", "-gcodeview"]),
    ("tools/xtask/src/build/support.S", "support.obj", &[]),
];

/// As the driver is compiled everywhere: warnings are errors, stack cookies and control flow guard are on.
const COMPILE: &[&str] = &[
    "-c",
    "-O2",
    "-std=c11",
    "-ffreestanding",
    "-Wall",
    "-Wextra",
    "-Werror",
    // By which an exception finds its way, and a debugger.
    "-funwind-tables",
    "-fstack-protector-strong",
    "-Xclang",
    "-cfguard",
    // No path of this machine's, so that the image is the same wherever it is built.
    "-ffile-compilation-dir=.",
    // mingw-w64's headers miss vector types where clang claims no GCC, and have no ARM64 part: x64's serves (see `wdk`).
    "-fgnuc-version=4.2.1",
    "-D_WIN64",
    "-D_AMD64_",
    "-DAMD64",
];

/// What x64's part of the headers takes to be read for ARM64: none of its intrinsics, which are assembly of x64. That they are
/// not declared then is let pass; that all functions are declared is seen when it is compiled for x64.
const ARM64: &[&str] = &[
    "-U_ARM64_",
    "-U_M_ARM64",
    "-D_M_AMD64=100",
    "-D__INTRIN_H_",
    "-Wno-error=implicit-function-declaration",
    "-Wno-implicit-function-declaration",
];

/// As weir.sys is linked (build.rs).
const LINK: &[&str] = &[
    "/NOLOGO",
    "/DRIVER:WDM",
    "/SUBSYSTEM:NATIVE,10.0",
    "/OSVERSION:10.0",
    "/VERSION:10.0",
    "/ENTRY:DriverEntry",
    "/NODEFAULTLIB",
    "/NXCOMPAT",
    "/DYNAMICBASE",
    "/INTEGRITYCHECK",
    "/GUARD:CF",
    "/OPT:REF,ICF",
    "/RELEASE",
    "/Brepro",
    "/DEBUG",
    "/MAP",
    "/PDBSOURCEPATH:weir",
    "/MANIFEST:NO",
    "/MERGE:.00cfg=.rdata",
    "ntoskrnl.lib",
    "netio.lib",
];

/// A path as the compiler and the linker see it from the top of the tree.
fn from_top(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap_or(path).to_owned()
}

fn run(command: &mut Command, what: &str) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.current_dir(root()).status();
    if status.map_err(|error| Error(format!("{program}: {error}")))?.success() {
        return Ok(());
    }
    Err(Error(format!("{what} failed: see above")))
}

/// Builds, and leaves `weirsample.sys`, `weirsample.pdb` and `weirsample.map` in the folder of the architecture.
pub fn build(arch: Arch, toolchain: &Toolchain, kit: &Kit, offline: bool) -> Result<(), Error> {
    let folder = root().join("target/wdk/sample").join(arch.name());
    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
    let clang = kit.compiler(offline)?;
    let mut objects = Vec::new();
    for (source, name, symbols) in SOURCES {
        let object = from_top(&folder.join(name));
        let mut command = Command::new(&clang);
        command.arg(format!("--target={}", arch.triple())).args(COMPILE);
        if arch == Arch::Arm64 {
            command.args(ARM64);
        }
        for include in kit.includes() {
            command.arg("-isystem").arg(from_top(&include));
        }
        command.args(["-I", "tools/sdk/include", source, "-o"]).arg(&object).args(symbols);
        run(&mut command, &format!("compiling {source} for {}", arch.name()))?;
        objects.push(object);
    }
    let image = folder.join(NAME).with_extension("sys");
    let mut command = Command::new(&toolchain.linker);
    command.args(["-flavor", "link"]).args(LINK).args(objects);
    command.arg(format!("/PDBALTPATH:{NAME}.pdb"));
    command.arg(format!("/LIBPATH:{}", from_top(&kit.library_folder(arch)).display()));
    command.arg(format!("/OUT:{}", from_top(&image).display()));
    if arch == Arch::X64 {
        command.arg("/CETCOMPAT");
    }
    run(&mut command, &format!("linking {NAME}.sys for {}", arch.name()))?;
    for extension in ["sys", "pdb", "map"] {
        let from = image.with_extension(extension);
        let content = std::fs::read(&from).map_err(io(&from))?;
        let place = dist(arch).join(NAME).with_extension(extension);
        write(&place, &content)?;
        println!("   {} ({} bytes)", from_top(&place).display(), content.len());
    }
    Ok(())
}
