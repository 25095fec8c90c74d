//! Who may connect: peers, as the registry names them.
//!
//! A peer is one text, `NAME=ROLE:KEY`, for example
//! `fleet=operator:31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62`. Whoever is not listed learns
//! nothing; what a role may ask for stands beside each request ([`super::message::REQUESTS`]).
#![forbid(unsafe_code)]

use core::fmt;

use super::noise::PublicKey;

named! {
    /// What a peer may ask for.
    Role {
        /// Looks, and changes nothing.
        Observer = 0 "observer",
        /// Changes the policy as well.
        Operator = 1 "operator",
    }

    /// Why a peer was refused.
    Refused {
        /// It is not of the form `NAME=ROLE:KEY`.
        Form = 0 "form",
        /// The name is empty, longer than 32 characters, or has others than letters, digits, `.`, `-`, `_` and `@`.
        Name = 1 "name",
        /// The role is neither `observer` nor `operator`.
        Role = 2 "role",
        /// The key is not 64 hexadecimal digits.
        Key = 3 "key",
        /// An earlier peer has the name.
        SameName = 4 "same-name",
        /// An earlier peer has the key.
        SameKey = 5 "same-key",
        /// There are too many.
        TooMany = 6 "too-many",
    }
}

impl Role {
    /// Whether it may ask for what takes that role.
    pub fn includes(self, needed: Self) -> bool {
        self >= needed
    }
}

impl Refused {
    /// What is wrong, as a sentence.
    pub fn reason(self) -> &'static str {
        let value = Self::VALUES.iter().find(|value| value.0 == self as u8);
        value.map(|value| value.2).unwrap_or_default()
    }
}

/// The most characters of a name.
pub const MAX_NAME: usize = 32;
/// The most characters of a peer's text.
pub const MAX_TEXT: usize = MAX_NAME + "=operator:".len() + 2 * super::noise::KEY;
/// The most peers.
pub const MAX_PEERS: usize = 64;

/// A peer's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl Name {
    /// Nobody's.
    pub const EMPTY: Self = Self { bytes: [0; MAX_NAME], length: 0 };

    /// Reads a name, in UTF-16.
    pub fn parse(units: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut name = Self::EMPTY;
        for unit in units {
            name.push(u8::try_from(unit).ok().filter(|byte| Self::takes(*byte))?)?;
        }
        (name.length > 0).then_some(name)
    }

    /// Whether a name may have this character.
    const fn takes(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'@')
    }

    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Whether both are one name: case does not matter.
    pub fn is(&self, other: &Self) -> bool {
        self.as_str().eq_ignore_ascii_case(other.as_str())
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(usize::from(self.length))? = byte;
        self.length = self.length.checked_add(1)?;
        Some(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// One that may connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub name: Name,
    pub role: Role,
    pub key: PublicKey,
}

const _: () = assert!(size_of::<Peer>() == 66);

impl Peer {
    /// What fills the room of a list in which nobody stands.
    pub const NOBODY: Self =
        Self { name: Name::EMPTY, role: Role::Observer, key: PublicKey([0; super::noise::KEY]) };

    /// Reads one peer's text, in UTF-16, without a terminator. The role's and the key's case does not matter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(units: impl IntoIterator<Item = u16>) -> Result<Self, Refused> {
        let mut units = units.into_iter();
        let mut name = Name::EMPTY;
        loop {
            let unit = units.next().ok_or(Refused::Form)?;
            let byte = u8::try_from(unit).map_err(|_| Refused::Name)?;
            match byte {
                b'=' => break,
                byte if Name::takes(byte) => name.push(byte).ok_or(Refused::Name)?,
                _ => return Err(Refused::Name),
            }
        }
        if name.length == 0 {
            return Err(Refused::Name);
        }
        let mut word = Name::EMPTY;
        loop {
            let byte = u8::try_from(units.next().ok_or(Refused::Form)?).map_err(|_| Refused::Role)?;
            if byte == b':' {
                break;
            }
            word.push(byte.to_ascii_lowercase()).ok_or(Refused::Role)?;
        }
        let role = match word.as_str() {
            "observer" => Role::Observer,
            "operator" => Role::Operator,
            _ => return Err(Refused::Role),
        };
        let key = PublicKey::parse(units).ok_or(Refused::Key)?;
        Ok(Self { name, role, key })
    }

    /// Whether the peer may stand in a list beside those that are there: names and keys are each one peer's.
    ///
    /// # Errors
    /// Which of them is another's, or that there are too many.
    pub fn fits(&self, peers: &[Self]) -> Result<(), Refused> {
        if peers.len() >= MAX_PEERS {
            return Err(Refused::TooMany);
        }
        if peers.iter().any(|peer| peer.name.is(&self.name)) {
            return Err(Refused::SameName);
        }
        if peers.iter().any(|peer| peer.key == self.key) { Err(Refused::SameKey) } else { Ok(()) }
    }

    /// The peer with that key.
    pub fn find<'p>(peers: &'p [Self], key: &PublicKey) -> Option<&'p Self> {
        peers.iter().find(|peer| peer.key == *key)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name, self.role, self.key)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::format;
    use std::string::ToString as _;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62";

    fn parse(text: &str) -> Result<Peer, Refused> {
        Peer::parse(text.encode_utf16())
    }

    #[test]
    fn a_peer_is_read_as_it_is_printed() {
        for role in ["observer", "operator"] {
            let text = format!("fleet-7.lab_A@x={role}:{KEY}");
            let peer = parse(&text).unwrap();
            assert_eq!((peer.name.as_str(), peer.role.name()), ("fleet-7.lab_A@x", role));
            assert_eq!(peer.key.to_string(), KEY);
            assert_eq!(peer.to_string(), text);
        }
        let longest = format!("{}=Operator:{}", "n".repeat(MAX_NAME), KEY.to_uppercase());
        assert_eq!(longest.len(), MAX_TEXT);
        assert_eq!(parse(&longest).unwrap().role, Role::Operator);
    }

    #[test]
    fn what_is_no_peer_is_refused_with_the_reason() {
        for (text, reason) in [
            (String::new(), Refused::Form),
            ("fleet".into(), Refused::Form),
            ("fleet=operator".into(), Refused::Form),
            (format!("=operator:{KEY}"), Refused::Name),
            (format!("{}=operator:{KEY}", "n".repeat(MAX_NAME + 1)), Refused::Name),
            (format!("a b=operator:{KEY}"), Refused::Name),
            (format!("ä=operator:{KEY}"), Refused::Name),
            (format!("Ł=operator:{KEY}"), Refused::Name),
            (format!("fleet=root:{KEY}"), Refused::Role),
            (format!("fleet=:{KEY}"), Refused::Role),
            (format!("fleet=operator{}:{KEY}", "r".repeat(64)), Refused::Role),
            ("fleet=operator:".into(), Refused::Key),
            (format!("fleet=operator:{}", &KEY[1..]), Refused::Key),
            (format!("fleet=operator:{KEY}0"), Refused::Key),
            (format!("fleet=operator:{} ", &KEY[1..]), Refused::Key),
            (format!("fleet=operator:{}\0", &KEY[1..]), Refused::Key),
        ] {
            assert_eq!(parse(&text), Err(reason), "{text:?}");
            assert!(reason.reason().ends_with('.'));
        }
    }

    #[test]
    fn names_and_keys_are_each_one_peers() {
        let other = KEY.replace('3', "4");
        let peers = [parse(&format!("a=observer:{KEY}")).unwrap()];
        assert_eq!(parse(&format!("A=operator:{other}")).unwrap().fits(&peers), Err(Refused::SameName));
        assert_eq!(parse(&format!("b=operator:{KEY}")).unwrap().fits(&peers), Err(Refused::SameKey));
        let second = parse(&format!("b=operator:{other}")).unwrap();
        assert_eq!(second.fits(&peers), Ok(()));
        assert_eq!(second.fits(&[peers[0]; MAX_PEERS]), Err(Refused::TooMany));
        assert_eq!(Peer::find(&[peers[0], second], &second.key), Some(&second));
        assert_eq!(Peer::find(&peers, &second.key), None);
    }

    #[test]
    fn an_operator_may_do_what_an_observer_may_and_not_the_other_way() {
        assert!(Role::Operator.includes(Role::Observer) && Role::Operator.includes(Role::Operator));
        assert!(Role::Observer.includes(Role::Observer) && !Role::Observer.includes(Role::Operator));
    }

    use std::string::String;

    proptest! {
        #[test]
        fn any_text_is_a_peer_or_refused(units: Vec<u16>, text in "[a-z=:A-F0-9]{0,100}") {
            let _either = Peer::parse(units);
            if let Ok(peer) = parse(&text) {
                prop_assert_eq!(parse(&peer.to_string()).unwrap(), peer);
            }
        }
    }
}
