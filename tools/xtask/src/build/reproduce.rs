//! Whether the image is the same wherever it is built: a copy of the tree, elsewhere, by its own command.

use std::path::Path;
use std::process::Command;

use super::{Arch, BuildArgs, Error, Profile, dist, io};
use crate::step::root;

/// What is compared.
const FILES: [&str; 4] = ["weir.sys", "weir.pdb", "weir.map", "weirsample.sys"];

/// Copies what belongs to the tree: what git knows, and what it would be told of.
fn copy(to: &Path) -> Result<(), Error> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .map_err(|error| Error(format!("git: {error}")))?;
    if !listed.status.success() {
        return Err(Error(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim())));
    }
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (from, place) = (root().join(name), to.join(name));
        // Gone from the tree, and not yet told to git.
        if !from.exists() {
            continue;
        }
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
        }
        std::fs::copy(&from, &place).map_err(io(&place))?;
    }
    Ok(())
}

/// Builds once more in another folder and compares with what has been built here.
pub fn check(archs: &[Arch], args: &BuildArgs) -> Result<(), Error> {
    // A path of another length, and outside of the workspace's own.
    let elsewhere = root().join("target/reproduce/the same tree in another place");
    println!("\n== the same in {}", elsewhere.display());
    if elsewhere.exists() {
        std::fs::remove_dir_all(&elsewhere).map_err(io(&elsewhere))?;
    }
    copy(&elsewhere)?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["xtask", "build"]).current_dir(&elsewhere).env_remove("CARGO_TARGET_DIR");
    for arch in archs {
        command.args(["--arch", arch.name()]);
    }
    if args.profile == Profile::Dev {
        command.args(["--profile", "dev"]);
    }
    for (wanted, option) in [(args.offline, "--offline"), (args.build_std, "--build-std")] {
        if wanted {
            command.arg(option);
        }
    }
    if !command.status().map_err(|error| Error(format!("cargo: {error}")))?.success() {
        return Err(Error(format!("the copy in {} could not be built: see above", elsewhere.display())));
    }
    let mut different = Vec::new();
    for arch in archs {
        for file in FILES {
            let here = dist(*arch).join(file);
            let there = elsewhere.join("target/dist").join(arch.name()).join(file);
            let content = |path: &Path| std::fs::read(path).map_err(io(path));
            if content(&here)? != content(&there)? {
                different.push(format!("{} and {} differ", here.display(), there.display()));
            }
        }
    }
    if !different.is_empty() {
        return Err(Error(different.join("; ")));
    }
    println!("   {} are the same, byte for byte", FILES.join(", "));
    std::fs::remove_dir_all(&elsewhere).map_err(io(&elsewhere))
}
