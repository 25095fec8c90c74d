//! How the module behaves where the documentation leaves a choice, and what it offers: from the settings.

use crate::guid;
use crate::script::Answer;
use crate::sys::nt::GUID;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

/// The common beginning of the settings' names.
pub const PREFIX: &str = "Netio";

/// When a request whose outcome is known completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// Within the call, which returns the outcome.
    Inline,
    /// On another thread, after STATUS_PENDING.
    Pending,
    /// Each request as the seed decides.
    #[default]
    Seeded,
}

/// The IRQL of callbacks, and of completions outside their call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    Passive,
    Dispatch,
    /// Each as the seed decides.
    #[default]
    Seeded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub seed: u64,
    pub completion: Completion,
    pub level: Level,
    /// Whether the provider is there from the start.
    pub ready: bool,
    /// How each interface's registration is answered; all others are refused with STATUS_NOT_SUPPORTED.
    pub extensions: BTreeMap<[u8; 16], Answer>,
    /// Milliseconds between the callbacks of a scripted provider on each of its sockets.
    pub period: u64,
    /// Milliseconds that WskDeregister waits before what holds it up is reported.
    pub patience: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            completion: Completion::default(),
            level: Level::default(),
            ready: true,
            extensions: BTreeMap::new(),
            period: 20,
            patience: 5000,
        }
    }
}

/// A GUID as a key that can be ordered.
pub fn key(guid: &GUID) -> [u8; 16] {
    let GUID { Data1, Data2, Data3, Data4 } = *guid;
    let mut key = [0; 16];
    key[..4].copy_from_slice(&Data1.to_be_bytes());
    key[4..6].copy_from_slice(&Data2.to_be_bytes());
    key[6..8].copy_from_slice(&Data3.to_be_bytes());
    key[8..].copy_from_slice(&Data4);
    key
}

impl Config {
    /// Reads the settings; `setting` gives the value of one that is there.
    ///
    /// # Errors
    /// Which one is wrong, and why.
    pub fn read(setting: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get = |name: &str| {
            let name = format!("{PREFIX}{name}");
            let value = setting(&name);
            (name, value)
        };
        let number = |name: &str, default: u64| match get(name) {
            (_, None) => Ok(default),
            (name, Some(text)) => {
                text.trim().parse().map_err(|_| format!("{name}: {text:?} is not a whole number"))
            }
        };
        let default = Self::default();
        let completion = match get("Completion") {
            (_, None) => default.completion,
            (name, Some(text)) => match text.as_str() {
                "inline" => Completion::Inline,
                "pending" => Completion::Pending,
                "seeded" => Completion::Seeded,
                _ => return Err(format!("{name}: {text:?} is none of inline, pending, seeded")),
            },
        };
        let level = match get("Irql") {
            (_, None) => default.level,
            (name, Some(text)) => match text.as_str() {
                "passive" => Level::Passive,
                "dispatch" => Level::Dispatch,
                "seeded" => Level::Seeded,
                _ => return Err(format!("{name}: {text:?} is none of passive, dispatch, seeded")),
            },
        };
        let ready = match get("Ready") {
            (_, None) => default.ready,
            (name, Some(text)) => match text.as_str() {
                "1" => true,
                "0" => false,
                _ => return Err(format!("{name}: {text:?} is neither 0 nor 1")),
            },
        };
        let mut extensions = BTreeMap::new();
        if let (name, Some(text)) = get("Extensions") {
            for part in text.split(',').filter(|part| !part.trim().is_empty()) {
                let (guid, answer) = extension(part).map_err(|why| format!("{name}: {part:?}: {why}"))?;
                extensions.insert(key(&guid), answer);
            }
        }
        Ok(Self {
            seed: number("Seed", default.seed)?,
            completion,
            level,
            ready,
            extensions,
            period: number("Period", default.period)?.max(1),
            patience: number("Patience", default.patience)?,
        })
    }
}

/// Reads `GUID=answer`.
fn extension(text: &str) -> Result<(GUID, Answer), String> {
    let (guid, answer) = text.split_once('=').ok_or("it is not GUID=ANSWER")?;
    let guid = guid::parse(guid).ok_or_else(|| format!("{guid:?} is no GUID"))?;
    Ok((guid, answer.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Lie;
    use crate::sys::nt::STATUS_INSUFFICIENT_RESOURCES;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        Config::read(|name| {
            let found = pairs.iter().find(|(key, _)| name.strip_prefix(PREFIX) == Some(*key));
            found.map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn without_settings_no_extension_is_granted_and_the_seed_decides() {
        let config = read(&[]).unwrap();
        assert_eq!(config, Config::default());
        assert!(config.extensions.is_empty() && config.ready);
        assert_eq!(config.completion, Completion::Seeded);
    }

    #[test]
    fn extensions_are_granted_or_refused_one_by_one() {
        let text = "5ee5d4f1-9929-4633-8368-7bc7438b4140=grant, \
                    {00000000-0000-0000-0000-000000000001}=0xC000009A,\
                    00000000-0000-0000-0000-000000000002=null";
        let config = read(&[("Extensions", text), ("Seed", "7"), ("Completion", "inline")]).unwrap();
        let answer = |text: &str| config.extensions.get(&key(&guid::parse(text).unwrap())).copied();
        assert_eq!(answer("5ee5d4f1-9929-4633-8368-7bc7438b4140"), Some(Answer::Grant(None)));
        let refused = Some(Answer::Refuse(STATUS_INSUFFICIENT_RESOURCES));
        assert_eq!(answer("00000000-0000-0000-0000-000000000001"), refused);
        assert_eq!(answer("00000000-0000-0000-0000-000000000002"), Some(Answer::Lie(Lie::Null)));
        assert_eq!(answer("00000000-0000-0000-0000-000000000003"), None);
        assert_eq!((config.seed, config.completion), (7, Completion::Inline));
    }

    #[test]
    fn a_bad_value_is_told_with_its_name() {
        for (name, value, why) in [
            ("Completion", "later", "none of inline"),
            ("Irql", "3", "none of passive"),
            ("Ready", "yes", "neither 0 nor 1"),
            ("Seed", "-1", "whole number"),
            ("Extensions", "grant", "not GUID=ANSWER"),
            ("Extensions", "x=grant", "no GUID"),
            ("Extensions", "00000000-0000-0000-0000-000000000003=maybe", "none of grant"),
            ("Extensions", "00000000-0000-0000-0000-000000000003=0", "grants nothing"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(why), "{error}");
        }
    }
}
