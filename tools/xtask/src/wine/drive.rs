//! The drive channel of a stand-in: one JSON object a line in each direction (tests/wine/README.md).

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::wait;

/// How long a stand-in may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);

pub struct Channel {
    name: &'static str,
    reader: BufReader<TcpStream>,
}

impl Channel {
    /// Waits until the stand-in has told its port, and connects to it.
    ///
    /// # Errors
    /// It does not tell, or does not answer.
    pub fn open(folder: &Path, name: &'static str) -> Result<Self, String> {
        let file = folder.join(format!("{name}.port"));
        let what = format!("the drive channel of {name} ({})", file.display());
        let failed = |error: std::io::Error| format!("the drive channel of {name}: {error}");
        let stream = wait::until(&what, Duration::from_secs(15), || {
            // A line that has its end is whole. A port that nobody listens on is that of a process before.
            let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
            let Some(port) = text.strip_suffix('\n').and_then(|port| port.parse().ok()) else {
                return Ok(None);
            };
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok())
        })?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        stream.set_write_timeout(Some(ANSWER)).map_err(failed)?;
        Ok(Self { name, reader: BufReader::new(stream) })
    }

    /// Asks, and gives the answer if it is a good one.
    ///
    /// # Errors
    /// The stand-in's refusal, or no answer.
    #[expect(clippy::needless_pass_by_value, reason = "requests are made for the call")]
    pub fn ask(&mut self, request: Value) -> Result<Value, String> {
        wait::check()?;
        let failed = |error: &dyn std::fmt::Display| format!("{}: {request}: {error}", self.name);
        let line = format!("{request}\n");
        self.reader.get_mut().write_all(line.as_bytes()).map_err(|error| failed(&error))?;
        let mut answer = String::new();
        let count = self.reader.read_line(&mut answer).map_err(|error| failed(&error))?;
        if count == 0 {
            return Err(failed(&"the stand-in has closed the channel"));
        }
        let answer: Value = serde_json::from_str(&answer).map_err(|error| failed(&error))?;
        if answer["ok"] == true { Ok(answer) } else { Err(failed(&answer["error"])) }
    }
}
