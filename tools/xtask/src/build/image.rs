//! One image: cargo, with what an image needs beyond the manifest.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::toolchain::Toolchain;
use super::wdk::{Kit, WDK_BUILD};
use super::{Arch, BuildArgs, Error, Profile, dist, io, link, linker, write};
use crate::step::root;

/// Cargo.lock with the copy of wdk-build in the registry's place: cargo would write as much into the real one.
fn lock() -> Result<PathBuf, Error> {
    let path = root().join("Cargo.lock");
    let text = std::fs::read_to_string(&path).map_err(io(&path))?;
    let mut lines = Vec::new();
    let mut within = false;
    for line in text.lines() {
        within = if line.is_empty() { false } else { within || line == "name = \"wdk-build\"" };
        if !(within && (line.starts_with("source = ") || line.starts_with("checksum = "))) {
            lines.push(line);
        }
    }
    let copy = root().join("target/wdk/lock/Cargo.lock");
    write(&copy, (lines.join("\n") + "\n").as_bytes())?;
    Ok(copy)
}

/// Builds, and leaves `weir.sys`, `weir.pdb` and `weir.map` in the folder of the architecture.
pub fn build(arch: Arch, args: &BuildArgs, toolchain: &Toolchain, kit: &Kit) -> Result<(), Error> {
    let root = root();
    let front = root.join("target/wdk/bin/lld-link");
    link(&front, &std::env::current_exe().map_err(io(&front))?)?;
    link(&root.join(linker::SYSROOT_LINK), &toolchain.sysroot)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Ccontrol-flow-guard=checks".to_owned(),
        // As .cargo/config.toml has them, which these flags stand in for.
        "--cfg=chacha20_backend=\"soft\"".to_owned(),
        "--cfg=curve25519_dalek_backend=\"serial\"".to_owned(),
        "--cfg=poly1305_backend=\"soft\"".to_owned(),
        format!("--remap-path-prefix={}=weir", text(&root)),
        format!("--remap-path-prefix={}=cargo", text(&home)),
        format!("--remap-path-prefix={}=rust", text(&toolchain.sysroot)),
    ];
    let target = root.join("target/image");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let what: &[&str] = if args.lint {
        &["clippy", "--package", "weir", "--lib"]
    } else {
        // The crate type alone, because an rlib beside it would not be optimised as a whole.
        &["rustc", "--package", "weir", "--lib", "--crate-type", "cdylib"]
    };
    command
        .args(what)
        .args(["--target", arch.triple(), "--target-dir"])
        .arg(&target)
        .args(["--config", &format!("patch.crates-io.wdk-build.path={:?}", text(Path::new(WDK_BUILD)))])
        .args(["--locked", "-Z", "lockfile-path", "--config"])
        .arg(format!("resolver.lockfile-path={:?}", text(&lock()?)))
        .current_dir(&root)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(format!("CARGO_TARGET_{}_LINKER", arch.triple().to_uppercase().replace('-', "_")), &front)
        .env(linker::REAL, &toolchain.linker)
        .env(linker::ROOT, &root)
        .env(linker::SYSROOT, &toolchain.sysroot);
    kit.settings(&mut command);
    if args.offline {
        command.arg("--offline");
    }
    if toolchain.build_std {
        command.args(["-Z", "build-std=core,compiler_builtins"]);
    }
    let (profile, folder) = match args.profile {
        Profile::Release => ("release", "release"),
        Profile::Dev => ("dev", "debug"),
    };
    command.args(["--profile", profile, "--config", &format!("profile.{profile}.panic=\"abort\"")]);
    if args.profile == Profile::Release {
        command.args([
            "--config",
            "profile.release.lto=\"fat\"",
            "--config",
            "profile.release.codegen-units=1",
        ]);
    }
    if args.lint {
        command.args(["--", "-D", "warnings"]);
    }
    if !command.status().map_err(|error| Error(format!("cargo: {error}")))?.success() {
        let what = if args.lint { "is not free of warnings" } else { "could not be built" };
        return Err(Error(format!("weir.sys for {} {what}: see above", arch.name())));
    }
    if args.lint {
        return Ok(());
    }
    let built = target.join(arch.triple()).join(folder);
    for (from, name) in [
        (built.join("weir.dll"), "weir.sys"),
        (built.join("weir.pdb"), "weir.pdb"),
        (built.join("deps/weir.map"), "weir.map"),
    ] {
        let content = std::fs::read(&from).map_err(io(&from))?;
        let place = dist(arch).join(name);
        write(&place, &content)?;
        println!("   {} ({} bytes)", place.strip_prefix(&root).unwrap_or(&place).display(), content.len());
    }
    Ok(())
}
