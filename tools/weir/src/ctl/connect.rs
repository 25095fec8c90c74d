//! How a command comes to its driver: what is given on the command line, or what `weir run --stay` has left.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use weir::control::protocol::noise::{Keys, PublicKey};

use crate::client::{Client, Error, PORT, Welcome};
use crate::output::Failure;
use crate::{keys, place};

/// Where the driver is, and who asks.
#[derive(clap::Args, Clone, Debug)]
pub struct ConnectArgs {
    /// Where the driver listens; without it, where the last `weir run --stay` does
    #[arg(long, value_name = "HOST[:PORT]", env = "WEIR_HOST", global = true, help_heading = "Connection")]
    host: Option<String>,
    /// Wait here for a driver that dials out, instead of calling one
    #[arg(long, value_name = "ADDR:PORT", global = true, help_heading = "Connection")]
    listen: Option<SocketAddr>,
    /// File with the own private key; without it, that of `weir run --stay`
    #[arg(long, value_name = "FILE", env = "WEIR_KEY", global = true, help_heading = "Connection")]
    key: Option<PathBuf>,
    /// The driver's public key, in hexadecimal or in a file; without it, that of `weir run --stay`
    #[arg(long, value_name = "KEY", env = "WEIR_DRIVER_KEY", global = true, help_heading = "Connection")]
    driver_key: Option<String>,
    /// How long to wait for the connection, and for each answer
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = clap::value_parser!(u16).range(1..),
        global = true,
        help_heading = "Connection"
    )]
    timeout: u16,
}

/// How to come to the driver, as often as it takes.
#[derive(Debug)]
pub struct Way {
    keys: Keys,
    driver: PublicKey,
    to: To,
    patience: Duration,
}

#[derive(Debug)]
enum To {
    Call { host: String, left_by_run: bool },
    Await(TcpListener),
}

impl ConnectArgs {
    /// Gathers what it takes.
    ///
    /// # Errors
    /// Something is missing or wrong.
    pub fn way(&self) -> Result<Way, Failure> {
        if self.host.is_some() && self.listen.is_some() {
            return Err(Failure::Usage(
                "--host (or WEIR_HOST) and --listen: the driver listens, or it dials".into(),
            ));
        }
        let left = if self.driver_key.is_none() || self.host.is_none() { place::running()? } else { None };
        let file = self.key.clone().map_or_else(place::operator_key, Ok)?;
        if self.key.is_none() && !file.exists() {
            return Err(Failure::Usage(format!(
                "no key: --key names the file with it (`weir keys new` makes one), or `weir run --stay` makes {}",
                file.display()
            )));
        }
        let keys = Keys::new(&*keys::read(&file)?);
        let elsewhere = self.listen.is_some()
            || matches!((&self.host, &left), (Some(host), Some(left)) if *host != left.control.to_string());
        let driver = match (&self.driver_key, &left) {
            (Some(key), _) => keys::public(key)?,
            (None, Some(left)) if !elsewhere => keys::public(&left.driver_key)?,
            (None, _) => {
                return Err(Failure::Usage(
                    "which driver: --driver-key gives its public key, and --host where it listens; without them, \
                     the driver of `weir run --stay` is meant, and none runs"
                        .into(),
                ));
            }
        };
        let to = match (self.listen, &self.host, left) {
            (Some(address), ..) => {
                To::Await(TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?)
            }
            (None, Some(host), _) => To::Call { host: host.clone(), left_by_run: false },
            (None, None, Some(left)) => To::Call { host: left.control.to_string(), left_by_run: true },
            (None, None, None) => To::Call { host: format!("127.0.0.1:{PORT}"), left_by_run: false },
        };
        Ok(Way { keys, driver, to, patience: Duration::from_secs(self.timeout.into()) })
    }
}

impl Way {
    /// Connects and says hello. Waits as long as it takes for a driver that dials; others that come meanwhile are sent
    /// away, and told of on standard error.
    ///
    /// # Errors
    /// There is no connection.
    pub fn open(&self) -> Result<(Client, Welcome), Failure> {
        let mut client = match &self.to {
            To::Call { host, left_by_run } => {
                let called = Client::connect(host, &self.keys, &self.driver, self.patience);
                called.map_err(|error| match error {
                    Error::Connect { .. } if *left_by_run => {
                        format!(
                            "{error} (it is where `weir run --stay` was last; --host names another driver)"
                        )
                    }
                    error => error.to_string(),
                })?
            }
            To::Await(listener) => self.wait_for(listener)?,
        };
        let welcome = client.hello()?;
        Ok((client, welcome))
    }

    /// Where the driver is, for people.
    pub fn name(&self) -> String {
        match &self.to {
            To::Call { host, .. } => host.clone(),
            To::Await(listener) => {
                listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
            }
        }
    }

    fn wait_for(&self, listener: &TcpListener) -> Result<Client, Failure> {
        eprintln!("weir: waiting at {} for the driver to dial", self.name());
        loop {
            let (stream, _) = listener.accept().map_err(|error| format!("{}: {error}", self.name()))?;
            match Client::accept(stream, &self.keys, &self.driver, self.patience) {
                Ok(client) => return Ok(client),
                Err(error) => eprintln!("weir: {error}"),
            }
        }
    }
}
