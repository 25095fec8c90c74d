//! `weir keys`, and keys in files: 64 hexadecimal digits on one line, in a file that only its owner may read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use weir::control::protocol::noise::{KEY, Keys, PublicKey};
use zeroize::{Zeroize, Zeroizing};

use crate::client;
use crate::output;

/// Makes keys for the control protocol, and shows what belongs to them
///
/// A key file has a private key: 64 hexadecimal digits on one line. Whoever can read it can do what its owner may.
///
/// Exit code: 0 done; 1 it could not be made or read; 2 usage.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    New(NewArgs),
    Show(ShowArgs),
    Registry(RegistryArgs),
}

/// Makes a new key, and prints its public one
///
/// A file that is there already is not overwritten.
#[derive(clap::Args, Debug)]
pub struct NewArgs {
    /// Where the private key goes
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the public key of a key file
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    /// The file with the private key
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes a registry file that gives a driver the key of a key file
///
/// Windows' `reg import` reads it. It has the private key in it, so it is for its owner's eyes alone, and to be removed once it
/// is imported. A file that is there already is not overwritten.
#[derive(clap::Args, Debug)]
pub struct RegistryArgs {
    /// The file with the private key
    file: PathBuf,
    /// Where the registry file goes
    output: PathBuf,
}

/// A private key, which is overwritten when it is dropped.
pub type Private = Zeroizing<[u8; KEY]>;

/// Runs a command.
pub fn run(command: &Command) -> ExitCode {
    let shown = match command {
        Command::New(NewArgs { file, json }) => create(file).and_then(|key| show(file, &key, *json)),
        Command::Show(ShowArgs { file, json }) => read(file).and_then(|key| show(file, &key, *json)),
        Command::Registry(RegistryArgs { file, output }) => {
            read(file).and_then(|key| write(output, &registry(&key)))
        }
    };
    output::done(shown)
}

fn show(file: &Path, private: &Private, json: bool) -> Result<(), String> {
    let keys = Keys::new(private);
    let public = keys.public();
    output::print(|out| {
        if json {
            return writeln!(out, "{}", json!({ "file": file, "public": public.to_string() }));
        }
        writeln!(out, "{public}")
    })
}

/// Makes a key file.
///
/// # Errors
/// A text for people: it is there already, or cannot be made.
pub fn create(file: &Path) -> Result<Private, String> {
    let private = client::random().map_err(|error| error.to_string())?;
    write(file, &Zeroizing::new(client::json::hex(&*private) + "\n"))?;
    Ok(private)
}

/// The registry file that gives a driver this key. Its subkey is there, closed to others, since the driver was installed.
fn registry(private: &Private) -> Zeroizing<String> {
    let digits = Zeroizing::new(client::json::hex(&**private));
    let pairs: Vec<_> = digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair)).collect();
    let bytes = Zeroizing::new(pairs.join(","));
    Zeroizing::new(format!(
        "Windows Registry Editor Version 5.00\r\n\r\n\
         [HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\weir\\Parameters\\Key]\r\n\
         \"PrivateKey\"=hex:{}\r\n",
        *bytes
    ))
}

/// Writes a file for its owner's eyes alone.
fn write(file: &Path, text: &str) -> Result<(), String> {
    let fail = |error: io::Error| format!("{}: {error}", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Whole or not at all, and never over another: the name is given to it in the end. Only the owner may read it.
    let mut made = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    made.write_all(text.as_bytes()).map_err(fail)?;
    made.as_file().sync_all().map_err(fail)?;
    made.persist_noclobber(file).map_err(|refused| match refused.error.kind() {
        io::ErrorKind::AlreadyExists => format!("{}: there is a file already", file.display()),
        _ => fail(refused.error),
    })?;
    Ok(())
}

/// Reads a key file.
///
/// # Errors
/// A text for people.
pub fn read(file: &Path) -> Result<Private, String> {
    let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let text = Zeroizing::new(text);
    warn_if_others_may_read(file);
    let mut private = parse(&text).ok_or_else(|| {
        format!("{}: not a key: a key file has 64 hexadecimal digits on one line", file.display())
    })?;
    let key = Zeroizing::new(private.0);
    private.0.zeroize();
    Ok(key)
}

/// Reads a key file, or makes it, and the folders to it.
///
/// # Errors
/// A text for people.
pub fn read_or_create(file: &Path) -> Result<Private, String> {
    if !file.exists() {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        match create(file) {
            // Somebody else may have made it meanwhile.
            Err(_) if file.exists() => {}
            made => return made,
        }
    }
    read(file)
}

/// A public key: 64 hexadecimal digits, or a file that has them.
///
/// # Errors
/// A text for people.
pub fn public(text: &str) -> Result<PublicKey, String> {
    if let Some(key) = parse(text.as_bytes()) {
        return Ok(key);
    }
    let bytes = std::fs::read(text).map_err(|error| {
        format!("{text}: neither 64 hexadecimal digits nor a file that has them: {error}")
    })?;
    parse(&bytes).ok_or_else(|| format!("{text}: not a public key: 64 hexadecimal digits on one line"))
}

/// 64 hexadecimal digits, with a line's end or without. Both kinds of keys have the same form.
fn parse(text: &[u8]) -> Option<PublicKey> {
    PublicKey::parse(text.trim_ascii().iter().map(|byte| u16::from(*byte)))
}

/// Says so, but goes on: on some file systems everybody may read everything.
#[cfg(unix)]
fn warn_if_others_may_read(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        eprintln!("weir: {}: others than its owner may read this key (chmod 600)", file.display());
    }
}

#[cfg(not(unix))]
fn warn_if_others_may_read(_: &Path) {}
