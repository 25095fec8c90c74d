//! What `weir run --stay` leaves for the commands that steer it: keys in the user's configuration directory, and where
//! the driver is that runs now.
//!
//! | file | what |
//! | --- | --- |
//! | `driver.key` | the private key of the driver in the simulated kernel |
//! | `operator.key` | the private key of its operator: what `weir ctl` and `weir top` use without `--key` |
//! | `running.json` | address and public key of the driver that runs, and the process that it is in |

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::keys::{self, Private};
use serde::{Deserialize, Serialize};

/// The folder: `weir` in `$XDG_CONFIG_HOME`, or where the system has the like.
///
/// # Errors
/// A text for people: there is none.
pub fn folder() -> Result<PathBuf, String> {
    let folder = dirs::config_dir().ok_or("this user has no configuration directory (XDG_CONFIG_HOME)")?;
    Ok(folder.join("weir"))
}

/// The operator's key file.
///
/// # Errors
/// As [`folder`].
pub fn operator_key() -> Result<PathBuf, String> {
    Ok(folder()?.join("operator.key"))
}

/// The driver's key and the operator's, made if they are not there.
///
/// # Errors
/// A text for people.
pub fn keys() -> Result<[Private; 2], String> {
    let folder = folder()?;
    Ok([
        keys::read_or_create(&folder.join("driver.key"))?,
        keys::read_or_create(&folder.join("operator.key"))?,
    ])
}

/// The driver that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Where it listens.
    pub control: SocketAddr,
    /// Its public key.
    pub driver_key: String,
    /// The process that it runs in.
    pub process: u32,
}

fn file() -> Result<PathBuf, String> {
    Ok(folder()?.join("running.json"))
}

/// The driver that was last said to run; `None`: none was.
///
/// # Errors
/// A text for people.
pub fn running() -> Result<Option<Running>, String> {
    let file = file()?;
    match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| at(&file, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&file, &error)),
    }
}

fn at(file: &Path, error: &impl ToString) -> String {
    format!("{}: {}", file.display(), error.to_string())
}

/// Says where the driver is, until it is dropped. Of several, the last one is told of.
#[derive(Debug)]
pub struct Told {
    running: Running,
}

impl Told {
    /// Says so.
    ///
    /// # Errors
    /// A text for people.
    pub fn of(running: Running) -> Result<Self, String> {
        let file = file()?;
        let mut text = serde_json::to_vec(&running).map_err(|error| at(&file, &error))?;
        text.push(b'\n');
        let folder = folder()?;
        std::fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        let mut made = tempfile::NamedTempFile::new_in(&folder).map_err(|error| at(&folder, &error))?;
        made.write_all(&text).map_err(|error| at(&file, &error))?;
        made.persist(&file).map_err(|refused| at(&file, &refused.error))?;
        Ok(Self { running })
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if running().is_ok_and(|running| running.as_ref() == Some(&self.running))
            && let Ok(file) = file()
        {
            // It says what is not so any more; whoever believes it is told that nothing listens there.
            let _gone = std::fs::remove_file(file);
        }
    }
}
