//! A document's commands, run one block after the other.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::step::root;

/// The slowest command builds the operator's command line.
const LIMIT: Duration = Duration::from_mins(20);
/// What runs in the background has to say by then where it listens.
const READY: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Builds the operator's command line; the folder that it is in then.
///
/// # Errors
/// It cannot be built.
pub fn build_weir() -> Result<PathBuf, String> {
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--locked",
        "--release",
        "-p",
        "weir-cli",
        "--message-format=json-render-diagnostics",
    ]);
    let output = cargo.current_dir(root()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cargo: {error}"))?;
    let program = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)));
    let folder = program.as_deref().and_then(Path::parent).map(Path::to_owned);
    folder.filter(|_| output.status.success()).ok_or_else(|| "weir-cli was not built".to_owned())
}

/// Where a document's commands are run. Dropping it ends what runs in the background.
pub struct Script {
    folder: PathBuf,
    /// Where the commands' own settings are, and what they print goes.
    home: PathBuf,
    path: String,
    /// What the commands before have exported.
    exports: String,
    running: Vec<Child>,
    /// Commands that have to end by themselves, with where they print.
    following: Vec<(Child, String, PathBuf)>,
}

impl Script {
    /// For commands that are run in `folder`, with the `weir` of another one.
    ///
    /// # Errors
    /// A folder for the commands' own settings cannot be made.
    pub fn new(weir: &Path, folder: PathBuf) -> Result<Self, String> {
        let home = root().join("target/docs/home");
        if home.exists() {
            fs::remove_dir_all(&home).map_err(failed(&home))?;
        }
        fs::create_dir_all(&home).map_err(failed(&home))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", weir.display());
        Ok(Self { folder, home, path, exports: String::new(), running: Vec::new(), following: Vec::new() })
    }

    /// Runs a block of commands.
    ///
    /// # Errors
    /// One of them failed; what was printed.
    pub fn run(&mut self, commands: &str) -> Result<(), String> {
        let (code, printed) = self.finish(commands)?;
        if code != Some(0) {
            return Err(format!("ended with {code:?}:\n{printed}"));
        }
        for line in commands.lines().filter(|line| line.starts_with("export ")) {
            self.exports += line;
            self.exports += "\n";
        }
        Ok(())
    }

    /// Starts a command that goes on, and waits until it listens.
    ///
    /// # Errors
    /// It has ended, or says nothing.
    pub fn background(&mut self, command: &str) -> Result<(), String> {
        let log = self.home.join("background.log");
        let running = self.home.join("config/weir/running.json");
        let mut child = self.start(command, &log)?;
        let start = Instant::now();
        while !running.exists() {
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || start.elapsed() > READY {
                end(child);
                let printed = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("does not run ({ended:?}):\n{printed}"));
            }
            std::thread::sleep(PAUSE);
        }
        self.running.push(child);
        Ok(())
    }

    /// Starts a command that ends by what is done after it.
    ///
    /// # Errors
    /// It does not start.
    pub fn follows(&mut self, command: &str) -> Result<(), String> {
        let log = self.home.join(format!("follows-{}.log", self.following.len()));
        let child = self.start(command, &log)?;
        self.following.push((child, command.trim().to_owned(), log));
        Ok(())
    }

    /// Waits for the commands that follow what is done.
    ///
    /// # Errors
    /// One has failed, or does not end; what it has printed.
    pub fn finished(&mut self) -> Result<(), String> {
        let start = Instant::now();
        for (mut child, command, log) in self.following.drain(..) {
            let status = loop {
                match child.try_wait().map_err(|error| error.to_string())? {
                    None if start.elapsed() > READY => {
                        end(child);
                        break None;
                    }
                    None => std::thread::sleep(PAUSE),
                    ended => break ended,
                }
            };
            if !status.is_some_and(|status| status.success()) {
                let printed = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("`{command}` ended with {status:?}:\n{printed}"));
            }
        }
        Ok(())
    }

    /// Runs a session: commands, and what they print.
    ///
    /// # Errors
    /// A command ended otherwise, or printed something else.
    pub fn console(&self, session: &str, refused: bool) -> Result<(), String> {
        let wanted = i32::from(refused);
        for (command, expected) in commands(session)? {
            let (code, printed) = self.finish(command)?;
            if code != Some(wanted) {
                return Err(format!("`{command}` ended with {code:?}, not {wanted}:\n{printed}"));
            }
            let lines: Vec<_> = printed.lines().map(str::trim_end).collect();
            if !matches(&expected, &lines) {
                return Err(format!("`{command}` printed:\n{printed}"));
            }
        }
        Ok(())
    }

    /// Writes a file that the commands are about.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(failed(&path))
    }

    fn start(&self, commands: &str, output: &Path) -> Result<Child, String> {
        let out = File::create(output).map_err(failed(output))?;
        let error = out.try_clone().map_err(failed(output))?;
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &format!("{}{commands}", self.exports)]);
        bash.current_dir(&self.folder).env("PATH", &self.path).env("HOME", &self.home);
        bash.env("XDG_CONFIG_HOME", self.home.join("config")).env_remove("DISPLAY");
        // A home of its own is not for cargo, which has what it needs in the user's.
        for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(variable).is_none()
                && let Some(home) = std::env::home_dir()
            {
                bash.env(variable, home.join(folder));
            }
        }
        bash.stdin(Stdio::null()).stdout(out).stderr(error).process_group(0);
        bash.spawn().map_err(|error| format!("bash: {error}"))
    }

    /// Runs commands to their end; the exit code, and what was printed.
    fn finish(&self, commands: &str) -> Result<(Option<i32>, String), String> {
        let output = self.home.join("printed.log");
        let mut child = self.start(commands, &output)?;
        let start = Instant::now();
        let status = loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if start.elapsed() > LIMIT => {
                    end(child);
                    return Err(format!("takes more than {} minutes", LIMIT.as_secs() / 60));
                }
                None => std::thread::sleep(PAUSE),
            }
        };
        let mut printed = String::new();
        let mut file = File::open(&output).map_err(failed(&output))?;
        file.read_to_string(&mut printed).map_err(failed(&output))?;
        Ok((status.code(), printed))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let following = self.following.drain(..).map(|(child, ..)| child);
        following.chain(self.running.drain(..)).for_each(end);
    }
}

/// Ends a command, with all that it has started.
fn end(mut child: Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process_group(group, Signal::TERM);
    }
    let _ = child.wait();
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// The commands of a session, each with the lines that it prints.
fn commands(session: &str) -> Result<Vec<(&str, Vec<&str>)>, String> {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in session.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command, Vec::new()));
        } else {
            let (_, printed) = commands.last_mut().ok_or_else(|| format!("nothing prints {line:?}"))?;
            printed.push(line.trim_end());
        }
    }
    if commands.is_empty() { Err("a session without a command".to_owned()) } else { Ok(commands) }
}

/// Whether lines are as expected: a line `…` is any number of lines, and within a line it is any text.
fn matches(expected: &[&str], lines: &[&str]) -> bool {
    match (expected, lines) {
        ([], lines) => lines.is_empty(),
        (["…", rest @ ..], lines) => (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..])),
        ([first, rest @ ..], [line, others @ ..]) => is_like(first, line) && matches(rest, others),
        ([_, ..], []) => false,
    }
}

fn is_like(expected: &str, line: &str) -> bool {
    let Some((start, rest)) = expected.split_once('…') else { return expected == line };
    let Some(mut line) = line.strip_prefix(start) else { return false };
    let mut parts: Vec<_> = rest.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = line.find(part) else { return false };
        line = &line[at + part.len()..];
    }
    line.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_expected_but_where_anything_goes() {
        assert!(matches(&["a", "…", "b … c"], &["a", "x", "y", "b 1 2 c"]));
        assert!(matches(&["…"], &[]));
        assert!(matches(&["1…2…3"], &["1.2.2.3"]));
        assert!(!matches(&["a"], &["a", "b"]));
        assert!(!matches(&["a", "b"], &["a"]));
        assert!(!matches(&["a … c"], &["a b d"]));
        assert!(!matches(&["ab…bc"], &["abc"]));
    }

    #[test]
    fn a_session_is_commands_with_what_they_print() {
        assert_eq!(commands("$ a\nb\nc\n$ d\n"), Ok(vec![("a", vec!["b", "c"]), ("d", vec![])]));
        assert!(commands("a\n").is_err());
        assert!(commands("").is_err());
    }
}
