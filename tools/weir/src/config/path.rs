//! Keys in registration files, and what they are to weir.

use super::form;
use super::reason::best;

/// A key that weir reads, of one control set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    Parameters,
    /// What comes before them.
    Policies,
    /// The driver's private key.
    Key,
}

/// A key, from the root.
#[derive(Debug, PartialEq, Eq)]
pub struct Path<'a> {
    pub root: &'a str,
    parts: Vec<&'a str>,
}

/// A control set's number; 0: the current one.
pub type Set = u16;

const PARAMETERS: [&str; 3] = ["Services", "weir", "Parameters"];
const PRIVATE: [&str; 4] = ["Services", "weir", "Parameters", "Key"];
const POLICIES: [&str; 2] = ["Policies", "weir"];
/// The value that holds the driver's private key.
pub const PRIVATE_KEY: &str = "PrivateKey";
pub const ROOT: &str = "HKEY_LOCAL_MACHINE";
/// What people call it, and Registry Editor does not.
pub const SHORT_ROOT: &str = "HKLM";

impl<'a> Path<'a> {
    pub fn new(name: &'a str) -> Self {
        let mut parts = name.split('\\');
        let root = parts.next().unwrap_or_default();
        Self { root, parts: parts.filter(|part| !part.is_empty()).collect() }
    }

    fn is_machine(&self) -> bool {
        [ROOT, SHORT_ROOT].iter().any(|root| root.eq_ignore_ascii_case(self.root))
    }

    /// The control set, and what is below it.
    pub fn in_set(&self) -> Option<(Set, &[&'a str])> {
        let [system, set, below @ ..] = &self.parts[..] else { return None };
        let set = set.to_ascii_lowercase();
        let number = match set.strip_prefix("controlset") {
            None if set == "currentcontrolset" => 0,
            Some(digits) if digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().ok()?
            }
            _ => return None,
        };
        (self.is_machine() && system.eq_ignore_ascii_case("SYSTEM")).then_some((number, below))
    }

    /// What it is to weir.
    pub fn store(&self) -> Option<(Set, Store)> {
        let (set, below) = self.in_set()?;
        let is = |path: &[&str]| same(below, path);
        let store = if is(&PARAMETERS) {
            Store::Parameters
        } else if is(&PRIVATE) {
            Store::Key
        } else if is(&POLICIES) {
            Store::Policies
        } else {
            return None;
        };
        Some((set, store))
    }

    /// What goes with this key when it is removed.
    pub fn removes(&self, store: Store) -> bool {
        let path: &[&str] = match store {
            Store::Parameters => &PARAMETERS,
            Store::Policies => &POLICIES,
            Store::Key => &PRIVATE,
        };
        self.in_set().is_some_and(|(_, below)| {
            path.get(..below.len()).is_some_and(|beginning| !below.is_empty() && same(below, beginning))
        })
    }

    /// Whether more than settings are below it.
    pub fn is_service_or_above(&self) -> bool {
        self.in_set().is_some_and(|(_, below)| below.len() < PARAMETERS.len())
    }

    /// Whether settings were meant to be in it, most likely.
    pub fn is_near(&self) -> bool {
        let ends_in = |path: &[&str]| {
            let from = self.parts.len().checked_sub(path.len());
            from.is_some_and(|from| same(&self.parts[from..], path))
        };
        let is_misspelt = || {
            let Some((_, [service @ .., last])) = self.in_set() else { return false };
            same(service, &PARAMETERS[..2]) && best(last, [PARAMETERS[2]].into_iter()).is_some()
        };
        ends_in(&PARAMETERS) || ends_in(&POLICIES) || is_misspelt()
    }
}

fn same(parts: &[&str], path: &[&str]) -> bool {
    parts.len() == path.len() && parts.iter().zip(path).all(|(part, name)| part.eq_ignore_ascii_case(name))
}

/// Where settings stand.
pub fn where_it_reads() -> String {
    let policies = POLICIES.join(r"\");
    format!(
        r"it reads `{ROOT}\{}`, and before that `…\SYSTEM\CurrentControlSet\{policies}`",
        form::PARAMETERS
    )
}
