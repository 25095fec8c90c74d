//! A Wine prefix of the run's own: made once, used again while it is whole.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::host::Wine;
use super::process::Running;
use super::report::Report;

/// Making a prefix takes 7 to 15 s on an idle machine.
const MAKING: Duration = Duration::from_mins(4);

/// What Wine does without: no browser, no .NET, no menus, no debugger, and no buses of USB and joysticks, whose drivers fail at
/// a session's start at times.
pub const OVERRIDES: &str =
    "mscoree=;mshtml=;winemenubuilder.exe=;winedbg.exe=;winebus.sys=;wineusb.sys=;winehid.sys=";

/// What is in a prefix beside Wine's own: services of drivers, which have a group.
const FORM: &str = "services have a group";

/// A prefix that no other run uses.
pub struct Prefix {
    pub root: PathBuf,
    /// What the mark says.
    made_by: String,
    _lock: File,
}

/// An error of the system's, with the file that it is about.
pub fn failed(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

impl Prefix {
    /// The prefix in `folder`, made unless it is there and whole.
    ///
    /// # Errors
    /// It cannot be made, or another run has it.
    pub fn prepare(wine: &Wine, folder: &Path, report: &Report) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(failed(folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!("another run is under way: it holds {}", path.display()));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        let made_by = format!("{}; {FORM}", wine.version);
        let prefix = Self { root: folder.join("prefix"), made_by, _lock: lock };
        if fs::read_to_string(prefix.mark()).is_ok_and(|found| found == prefix.made_by) {
            report.say(&format!("   the prefix is there: {}", prefix.root.display()));
            // What a run that was killed has left.
            prefix.end(wine, folder)?;
            return Ok(prefix);
        }
        if prefix.root.exists() {
            prefix.end(wine, folder)?;
            fs::remove_dir_all(&prefix.root).map_err(failed(&prefix.root))?;
        }
        report.say(&format!("   making a prefix: {} ({})", prefix.root.display(), wine.version));
        let mut boot = prefix.command(wine, &wine.loader);
        boot.args(["wineboot", "--init"]).env("WINEDEBUG", "-all");
        let code = Running::start(&mut boot, &folder.join("wineboot.log"))?.finish(MAKING)?;
        if code != Some(0) {
            return Err(format!(
                "wineboot --init ended with {code:?}: see {}/wineboot.log",
                folder.display()
            ));
        }
        prefix.end(wine, folder)?;
        let links = link(&prefix.root.join("drive_c/windows/system32"), &wine.built_in)?;
        report.say(&format!("   {links} copies of Wine's own files are links now"));
        prefix.is_whole()?;
        Ok(prefix)
    }

    /// The file that is written last: what has it is whole, was made by this Wine, and for such runs as this one.
    fn mark(&self) -> PathBuf {
        self.root.join("made-by")
    }

    /// What is in it is as other sessions want it.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub fn is_whole(&self) -> Result<(), String> {
        fs::write(self.mark(), &self.made_by).map_err(failed(&self.mark()))
    }

    /// Until [`Self::is_whole`], it is not as other sessions want it: the next run makes a new one.
    ///
    /// # Errors
    /// The mark cannot be removed.
    pub fn is_changed(&self) -> Result<(), String> {
        fs::remove_file(self.mark()).map_err(failed(&self.mark()))
    }

    /// A command that works on this prefix.
    pub fn command(&self, wine: &Wine, program: &Path) -> Command {
        let mut command = wine.command(program);
        command
            .env("WINEPREFIX", &self.root)
            .env("WINEARCH", "win64")
            .env("WINELOADER", &wine.loader)
            .env("WINESERVER", &wine.server)
            .env("WINEDLLOVERRIDES", OVERRIDES)
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY");
        command
    }

    /// Ends every process of this prefix, and waits until the last is gone.
    ///
    /// # Errors
    /// They do not end.
    pub fn end(&self, wine: &Wine, folder: &Path) -> Result<(), String> {
        for argument in ["-k", "-w"] {
            let mut command = self.command(wine, &wine.server);
            // Not interruptible: it is what an interruption does.
            let running = Running::start(command.arg(argument), &folder.join("wineserver.log"))?;
            running.finish_uninterrupted(Duration::from_secs(30))?;
        }
        Ok(())
    }

    /// Where Windows has its drivers.
    pub fn drivers(&self) -> PathBuf {
        self.root.join("drive_c/windows/system32/drivers")
    }
}

/// Replaces each file that is the same as one of Wine's by a link to that: 70 MB instead of 700.
fn link(folder: &Path, built_in: &Path) -> Result<usize, String> {
    let mut links = 0;
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed(&path))?;
        if kind.is_dir() {
            links += link(&path, built_in)?;
        } else if kind.is_file() {
            let original = built_in.join(entry.file_name());
            if fs::read(&original).is_ok_and(|bytes| fs::read(&path).is_ok_and(|copy| copy == bytes)) {
                fs::remove_file(&path).map_err(failed(&path))?;
                symlink(&original, &path).map_err(failed(&path))?;
                links += 1;
            }
        }
    }
    Ok(links)
}
