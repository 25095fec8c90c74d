//! A Windows session in Wine: from the first process to the last, with the driver's service in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::drive::Channel;
use super::events::Events;
use super::host::Wine;
use super::prefix::{OVERRIDES, Prefix, failed};
use super::process::Running;
use super::registry::{self, Value};
use super::wait;

/// One of Wine's programs takes 0.1 s on an idle machine, and the first one of a session 2 s.
const PROGRAM: Duration = Duration::from_mins(1);

pub const SERVICE: &str = "weir";
/// The SDK's sample of a vendor's driver.
pub const SAMPLE: &str = "weirsample";
const MACHINE: &str = "HKEY_LOCAL_MACHINE";
const SERVICES: &str = r"System\CurrentControlSet\Services";
/// The extension interfaces that weir speaks.
pub const LABEL_V1: &str = "9d2c6a7e-41b5-4c0f-8e39-52a7d61f0b84";
pub const CONNECTION_V1: &str = "5ee5d4f1-9929-4633-8368-7bc7438b4140";
const STAND_INS: &str = r"HKEY_LOCAL_MACHINE\Software\weir\stand-ins";

/// Which netio.sys the driver finds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Netio {
    StandIn,
    Wine,
}

/// The files that a session is made of.
pub struct Files {
    pub image: PathBuf,
    pub fwpkclnt: PathBuf,
    pub netio: PathBuf,
    /// The vendor's driver that is the SDK's sample.
    pub sample: PathBuf,
    /// The drivers that check what the stand-ins promise.
    pub checks: [(&'static str, PathBuf); 2],
    /// The program that guards the driver's key.
    pub keyguard: PathBuf,
}

/// A session under way. Dropping it ends every process of the prefix.
pub struct Session<'a> {
    wine: &'a Wine,
    prefix: &'a Prefix,
    netio: Netio,
    keyguard: PathBuf,
    /// Where everything of the session writes.
    pub logs: PathBuf,
    pub events: Events,
    /// How often the driver was unloaded.
    pub unloads: usize,
}

/// The private key's subkey, below the machine's.
fn private_key() -> String {
    format!(r"{SERVICES}\{SERVICE}\Parameters\Key")
}

/// The name by which Windows programs know a file of this machine.
pub fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display().to_string().replace('/', "\\"))
}

impl<'a> Session<'a> {
    /// Puts the drivers in place, and starts a session that writes to `logs`.
    ///
    /// # Errors
    /// A file cannot be put in place, or Wine does not start.
    pub fn start(
        wine: &'a Wine,
        prefix: &'a Prefix,
        files: &Files,
        netio: Netio,
        logs: PathBuf,
    ) -> Result<Self, String> {
        fs::create_dir_all(&logs).map_err(failed(&logs))?;
        let built_in = wine.built_in.join("netio.sys");
        let netio_file = if netio == Netio::StandIn { &files.netio } else { &built_in };
        let drivers =
            [("weir.sys", &files.image), ("fwpkclnt.sys", &files.fwpkclnt), ("netio.sys", netio_file)];
        for (name, file) in drivers {
            let place = prefix.drivers().join(name);
            if place.symlink_metadata().is_ok() {
                fs::remove_file(&place).map_err(failed(&place))?;
            }
            if file.starts_with(&wine.built_in) {
                symlink(file, &place).map_err(failed(&place))?;
            } else {
                fs::copy(file, &place).map_err(|error| format!("{}: {error}", file.display()))?;
            }
        }
        let events = Events::new(logs.join("etw.jsonl"));
        let keyguard = files.keyguard.clone();
        let session = Self { wine, prefix, netio, keyguard, logs, events, unloads: 0 };
        session.forget_policies()?;
        // Lives on between programs, else drivers would go with the last of them.
        let mut server = session.command(&wine.server);
        let server = Running::start(server.arg("-p"), &session.logs.join("wineserver.log"))?;
        server.finish(PROGRAM)?;
        // Drivers write to the standard error of the session's first program.
        session.program_to("wine.log", &["net", "start"])?;
        Ok(session)
    }

    fn command(&self, program: &Path) -> std::process::Command {
        let mut command = self.prefix.command(self.wine, program);
        let order = if self.netio == Netio::StandIn { "n,b" } else { "b" };
        let overrides = format!("{OVERRIDES};netio.sys={order};fwpkclnt.sys=n");
        command.env("WINEDLLOVERRIDES", overrides).env("WINEDEBUG", "fixme-all,warn+debugstr,+timestamp");
        command
    }

    fn program_to(&self, log: &str, arguments: &[&str]) -> Result<Option<i32>, String> {
        let mut command = self.command(&self.wine.loader);
        Running::start(command.args(arguments), &self.logs.join(log))?.finish(PROGRAM)
    }

    /// Runs one of Wine's programs; what it has printed.
    ///
    /// # Errors
    /// It failed; what it has printed is in the message.
    pub fn program(&self, arguments: &[&str]) -> Result<String, String> {
        let log = "program.log";
        let path = self.logs.join(log);
        let before = fs::metadata(&path).map_or(0, |meta| meta.len());
        let code = self.program_to(log, arguments)?;
        let printed = fs::read(&path).map_err(failed(&path))?;
        let printed = printed.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
        let printed = String::from_utf8_lossy(printed).trim().to_owned();
        if code == Some(0) {
            Ok(printed)
        } else {
            Err(format!("{} ended with {code:?}: {printed}", arguments.join(" ")))
        }
    }

    /// Runs a batch file in a folder of this machine.
    ///
    /// # Errors
    /// It failed; what it has printed is in the message.
    pub fn batch(&self, file: &Path, folder: &Path) -> Result<(), String> {
        let log = self.logs.join("batch.log");
        let _ = fs::remove_file(&log);
        let mut command = self.command(&self.wine.loader);
        command.args(["cmd", "/c", &windows_path(file)]).current_dir(folder);
        let code = Running::start(&mut command, &log)?.finish(PROGRAM)?;
        if code == Some(0) {
            return Ok(());
        }
        let printed = fs::read(&log).map_err(failed(&log))?;
        Err(format!("ended with {code:?}: {}", String::from_utf8_lossy(&printed).trim()))
    }

    /// What Wine's `reg` or `regedit` writes of a key, with all below it.
    ///
    /// # Errors
    /// The program's message.
    pub fn export(&self, program: &str, key: &str) -> Result<Vec<u8>, String> {
        let path = self.logs.join("export.reg");
        let name = windows_path(&path);
        if program == "reg" {
            self.program(&["reg", "export", key, &name, "/y"])?;
        } else {
            self.program(&["regedit", "/E", &name, key])?;
        }
        fs::read(&path).map_err(failed(&path))
    }

    fn import(&self, keys: &[(&str, Vec<(&str, Value)>)]) -> Result<(), String> {
        let path = self.logs.join("import.reg");
        fs::write(&path, registry::file(keys)).map_err(failed(&path))?;
        self.program(&["reg", "import", &windows_path(&path)]).map(drop)
    }

    /// What the stand-ins are told.
    fn stand_ins(&self) -> Vec<(&'static str, Value)> {
        let text = |text: &str| Value::Text(text.to_owned());
        vec![
            ("Folder", Value::Text(self.logs.display().to_string())),
            ("NetioExtensions", Value::Text(format!("{CONNECTION_V1}=grant"))),
            // Milliseconds.
            ("NetioPeriod", text("5")),
            ("NetioSeed", text("1")),
        ]
    }

    /// Tells the stand-ins alone, and nothing to the driver.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn configure_stand_ins(&self) -> Result<(), String> {
        self.import(&[(STAND_INS, self.stand_ins())])
    }

    /// Reads a registry file of the tree's.
    ///
    /// # Errors
    /// Wine's program refuses it.
    pub fn import_file(&self, file: &Path) -> Result<(), String> {
        self.program(&["reg", "import", &windows_path(file)]).map(drop)
    }

    /// A key and those below it, by their names from there on (its own is empty), with their values.
    ///
    /// # Errors
    /// There is none, or Wine's program wrote something that is not understood.
    pub fn keys(&self, key: &str) -> Result<BTreeMap<String, registry::Values>, String> {
        let keys = registry::read(&self.export("reg", key)?)?;
        let below = |name: &str| {
            let (first, rest) = name.split_at_checked(key.len())?;
            first.eq_ignore_ascii_case(key).then(|| rest.trim_start_matches('\\').to_owned())
        };
        Ok(keys.into_iter().filter_map(|(name, values)| Some((below(&name)?, values))).collect())
    }

    /// [`Self::keys`] of the driver's service.
    ///
    /// # Errors
    /// As there.
    pub fn service_keys(&self) -> Result<BTreeMap<String, registry::Values>, String> {
        self.keys(&format!(r"{MACHINE}\{SERVICES}\{SERVICE}"))
    }

    /// Sets values of the driver's parameters, and leaves the others.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn set_number(&self, name: &str, number: u32) -> Result<(), String> {
        self.set(
            &format!(r"{MACHINE}\{SERVICES}\{SERVICE}\Parameters"),
            name,
            "REG_DWORD",
            &number.to_string(),
        )
    }

    /// Sets a value, as somebody does who types it.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn set(&self, key: &str, name: &str, kind: &str, data: &str) -> Result<(), String> {
        self.program(&["reg", "add", key, "/v", name, "/t", kind, "/d", data, "/f"]).map(drop)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn delete_key(&self, key: &str) -> Result<(), String> {
        self.program(&["reg", "delete", key, "/f"]).map(drop)
    }

    /// Removes the driver's service, with all that is below its key.
    ///
    /// # Errors
    /// The service manager's message.
    pub fn delete_service(&self) -> Result<(), String> {
        if self.program(&["sc", "query", SERVICE]).is_ok() {
            self.program(&["sc", "delete", SERVICE])?;
        }
        let key = format!(r"{MACHINE}\{SERVICES}\{SERVICE}");
        if self.program(&["reg", "query", &key]).is_ok() {
            self.program(&["reg", "delete", &key, "/f"])?;
        }
        Ok(())
    }

    /// Sets the driver's parameters, and its private key, with who may do what with that one.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn configure(&self, parameters: &[(&str, Value)], key: Option<(&[u8], &str)>) -> Result<(), String> {
        let parameters_key = format!(r"{MACHINE}\{SERVICES}\{SERVICE}\Parameters");
        let private_key_path = format!(r"{MACHINE}\{}", private_key());
        let mut keys = vec![(&*parameters_key, parameters.to_vec()), (STAND_INS, self.stand_ins())];
        if let Some((private, _)) = key {
            keys.push((&private_key_path, vec![("PrivateKey", Value::Binary(private.to_vec()))]));
        }
        self.import(&keys)?;
        let Some((_, guard)) = key else { return Ok(()) };
        self.guard_key(guard)
    }

    /// Sets who may do what with the private key's subkey, which is there.
    ///
    /// # Errors
    /// It cannot be set.
    pub fn guard_key(&self, guard: &str) -> Result<(), String> {
        self.program(&[&windows_path(&self.keyguard), &private_key(), guard]).map(drop)
    }

    /// Where Windows keeps what the driver writes.
    pub fn data(&self) -> PathBuf {
        self.prefix.drivers().join("DriverData").join(SERVICE)
    }

    /// Removes what the driver has stored.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget_policies(&self) -> Result<(), String> {
        match fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&self.data())(error)),
            _ => Ok(()),
        }
    }

    /// Makes the driver's service.
    ///
    /// # Errors
    /// The service manager's message.
    pub fn create_service(&self) -> Result<(), String> {
        self.create(SERVICE)
    }

    fn create(&self, service: &str) -> Result<(), String> {
        if self.program(&["sc", "query", service]).is_ok() {
            return Ok(());
        }
        let path = format!(r"C:\windows\system32\drivers\{service}.sys");
        let create = ["sc", "create", service, "type=", "kernel", "start=", "demand", "binPath=", &path];
        // Wine's service manager puts drivers of a group into one process: they share what they import from.
        let group = ["group=", "Network"];
        self.program(&[&create[..], &group[..]].concat()).map(drop)
    }

    /// Starts the driver; returns when the service manager says that it runs.
    ///
    /// # Errors
    /// It does not.
    pub fn load(&self) -> Result<(), String> {
        self.load_driver(SERVICE)
    }

    /// Stops the driver; returns when the service manager says that it has stopped.
    ///
    /// # Errors
    /// It has not.
    pub fn unload(&self) -> Result<(), String> {
        self.unload_driver(SERVICE)
    }

    /// Puts another driver in place, and makes its service.
    ///
    /// # Errors
    /// It cannot be copied, or the service manager's message.
    pub fn add_driver(&self, name: &str, file: &Path) -> Result<(), String> {
        let place = self.prefix.drivers().join(format!("{name}.sys"));
        fs::copy(file, &place).map_err(|error| format!("{}: {error}", file.display()))?;
        self.create(name)
    }

    /// [`Self::load`], for any driver.
    ///
    /// # Errors
    /// It does not run.
    pub fn load_driver(&self, name: &str) -> Result<(), String> {
        self.program(&["sc", "start", name])?;
        self.state(name, "RUNNING")
    }

    /// [`Self::unload`], for any driver.
    ///
    /// # Errors
    /// It has not stopped.
    pub fn unload_driver(&self, name: &str) -> Result<(), String> {
        self.program(&["sc", "stop", name])?;
        self.state(name, "STOPPED")
    }

    fn state(&self, service: &str, wanted: &str) -> Result<(), String> {
        wait::until(&format!("{service}'s state {wanted}"), Duration::from_secs(40), || {
            Ok(self.program(&["sc", "query", service])?.contains(wanted).then_some(()))
        })
    }

    /// Loads a driver that checks the stand-ins, and unloads it; how many promises it found kept.
    ///
    /// # Errors
    /// A promise is not kept, or it does not run.
    pub fn check(&self, name: &str, file: &Path) -> Result<usize, String> {
        self.add_driver(name, file)?;
        // One whose checks fail refuses to start: its log tells more than the service manager.
        let started = self.program(&["sc", "start", name]);
        let log = self.logs.join(format!("{name}.log"));
        let text = wait::until(&format!("the end of {name}'s checks"), Duration::from_mins(1), || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            Ok(text.contains("DONE ").then_some(text))
        })?;
        let failed: Vec<_> =
            text.lines().filter_map(|line| line.split_once("FAIL ")).map(|(_, it)| it).collect();
        if !failed.is_empty() {
            return Err(failed.join("; "));
        }
        started?;
        self.unload_driver(name)?;
        let passed = text.lines().filter(|line| line.contains("PASS ")).count();
        if passed == 0 { Err(format!("{}: no promise was checked", log.display())) } else { Ok(passed) }
    }

    /// The drive channel of a stand-in.
    ///
    /// # Errors
    /// It is not there.
    pub fn drive(&self, name: &'static str) -> Result<Channel, String> {
        Channel::open(&self.logs, name)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.prefix.end(self.wine, &self.logs) {
            eprintln!("xtask: ending Wine: {error}");
        }
    }
}
