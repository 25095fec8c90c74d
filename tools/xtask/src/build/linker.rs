//! The linker that rustc is given for an image: lld, under the name by which rustc knows it, `lld-link`.
//!
//! rustc links a library to be loaded by programs; a driver is none. So what makes it one is left out: a driver exports
//! nothing. And so that the image is the same wherever it is built, lld sees paths from the top of the tree, and
//! rustc's own scratch files under names that stay.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What the linker is told by environment: the real one, the top of the tree, the toolchain.
pub const REAL: &str = "WEIR_LINKER";
pub const ROOT: &str = "WEIR_LINKER_ROOT";
pub const SYSROOT: &str = "WEIR_LINKER_SYSROOT";

/// Where the toolchain is seen from the top of the tree: a link that the build makes.
pub const SYSROOT_LINK: &str = "target/wdk/toolchain";

/// Whether this process was started as the linker.
pub fn is_asked_for() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new("lld-link")))
}

/// What makes a library that programs load: its exports, and what they link with.
fn of_a_library(argument: &str) -> bool {
    argument == "/DLL" || argument.starts_with("/DEF:") || argument.starts_with("/IMPLIB:")
}

/// The folder that rustc makes for one run of the linker, if the path lies in one: its name is random.
fn scratch(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
    folder.is_some_and(|folder| folder.len() == 11 && folder.starts_with("rustc"))
}

struct Paths {
    root: String,
    sysroot: String,
}

impl Paths {
    /// An argument as lld gets it.
    fn argument(&self, argument: &str) -> Result<String, String> {
        let (option, path) = match argument.split_once(':') {
            Some((option, path)) if argument.starts_with('/') && !option[1..].contains('/') => {
                (format!("{option}:"), path)
            }
            _ => (String::new(), argument),
        };
        let path = if scratch(Path::new(path)) { kept(Path::new(path))? } else { path.to_owned() };
        let path = path
            .strip_prefix(&self.root)
            .map(str::to_owned)
            .or_else(|| path.strip_prefix(&self.sysroot).map(|rest| format!("{SYSROOT_LINK}/{rest}")))
            .unwrap_or(path);
        Ok(format!("{option}{path}"))
    }
}

/// A copy of one of rustc's scratch files beside them, under a name that stays.
fn kept(path: &Path) -> Result<String, String> {
    let (Some(deps), Some(name)) = (path.ancestors().nth(2), path.file_name()) else {
        return Err(format!("{}: not a path of rustc's", path.display()));
    };
    let folder: PathBuf = deps.join("link");
    let copy = folder.join(name);
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::copy(path, &copy))
        .map_err(|error| format!("{}: {error}", copy.display()))?;
    Ok(copy.to_string_lossy().into_owned())
}

fn link() -> Result<bool, String> {
    let setting = |name| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    let paths = Paths { root: setting(ROOT)? + "/", sysroot: setting(SYSROOT)? + "/" };
    let real = setting(REAL)?;
    let given = std::env::args_os().skip(1).map(OsString::into_string);
    let given: Vec<_> =
        given.collect::<Result<_, _>>().map_err(|text| format!("{}: not UTF-8", text.display()))?;
    let mut arguments = vec!["-flavor".to_owned(), "link".to_owned()];
    // rustc names the flavour where it knows lld by its own name.
    let given = match given.as_slice() {
        [option, _, rest @ ..] if option == "-flavor" => rest,
        all => all,
    };
    for argument in given.iter().filter(|argument| !of_a_library(argument)) {
        arguments.push(paths.argument(argument)?);
    }
    let mut command = Command::new(&real);
    std::os::unix::process::CommandExt::arg0(&mut command, "rust-lld");
    command.args(arguments).current_dir(&paths.root);
    command.status().map(|status| status.success()).map_err(|error| format!("{real}: {error}"))
}

/// Links, as rustc asks.
pub fn run() -> ExitCode {
    match link() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lld-link: {error}");
            ExitCode::FAILURE
        }
    }
}
