//! Programs that a run starts: each in a process group of its own, bounded in time, and ended with the run.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::wait;

/// A program under way. Dropping it ends its process group.
pub struct Running {
    child: Child,
    what: String,
}

impl Running {
    /// Starts `command` with no input and with its output in a file. (Not in a pipe: the processes that Wine starts
    /// inherit it, and hold it open for as long as they live.)
    ///
    /// # Errors
    /// What could not be started.
    pub fn start(command: &mut Command, output: &Path) -> Result<Self, String> {
        let what = format!("{command:?}");
        let file = |error: std::io::Error| format!("{}: {error}", output.display());
        let out = File::options().create(true).append(true).open(output).map_err(file)?;
        let error = out.try_clone().map_err(file)?;
        let command = command.stdin(Stdio::null()).stdout(out).stderr(error).process_group(0);
        let child = command.spawn().map_err(|error| format!("cannot run {what}: {error}"))?;
        Ok(Self { child, what })
    }

    /// Waits for its end; the exit code, or none if a signal ended it.
    ///
    /// # Errors
    /// It took longer, or the run was interrupted; it is ended then.
    pub fn finish(mut self, limit: Duration) -> Result<Option<i32>, String> {
        let what = format!("the end of {}", self.what);
        let status = wait::until(&what, limit, || self.child.try_wait().map_err(|error| error.to_string()))?;
        Ok(status.code())
    }

    /// [`Self::finish`], for what an interrupted run cleans up with.
    ///
    /// # Errors
    /// It took longer; it is ended then.
    pub fn finish_uninterrupted(mut self, limit: Duration) -> Result<Option<i32>, String> {
        let what = format!("the end of {}", self.what);
        let status = wait::until_uninterrupted(&what, limit, || {
            self.child.try_wait().map_err(|error| error.to_string())
        })?;
        Ok(status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
