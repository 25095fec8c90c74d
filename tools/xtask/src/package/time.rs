//! The time that a package is of.

use std::fmt;
use std::time::{Duration, SystemTime};

/// A second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970, in UTC.
    pub seconds: u64,
    /// Somebody has said so: it is the same each time.
    pub fixed: bool,
}

impl Moment {
    /// What was asked for, or else SOURCE_DATE_EPOCH (reproducible-builds.org), or else now.
    ///
    /// # Errors
    /// The variable, or the clock, is no time.
    pub fn choose(asked: Option<u64>) -> Result<Self, String> {
        if let Some(seconds) = asked {
            return Ok(Self::fixed(seconds));
        }
        if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
            let seconds = text.parse();
            return seconds.map(Self::fixed).map_err(|_| format!("SOURCE_DATE_EPOCH: {text:?} is no number"));
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(|_| "the clock says a time before 1970")?;
        Ok(Self { seconds: now.as_secs(), fixed: false })
    }

    pub const fn fixed(seconds: u64) -> Self {
        Self { seconds, fixed: true }
    }
}

/// As RFC 3339 has it.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match der::DateTime::from_unix_duration(Duration::from_secs(self.seconds)) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{} seconds since 1970", self.seconds),
        }
    }
}
