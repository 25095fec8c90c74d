//! An address with a port, as text: `192.0.2.7:47474`, `[2001:db8::7]:47474`.
//!
//! What is taken, and as what, is exactly what `core`'s own parser takes; that one's slices are checked by panics that
//! cannot occur, and an image has none.
#![forbid(unsafe_code)]

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Reads all of `text`.
pub(super) fn parse(text: &[u8]) -> Option<SocketAddr> {
    let mut rest = Rest(text);
    let endpoint = if rest.take(b'[') {
        let address = rest.v6()?;
        let scope = if rest.take(b'%') { rest.number(10, u32::MAX, None)? } else { 0 };
        rest.require(b']')?;
        SocketAddr::V6(SocketAddrV6::new(address, rest.port()?, 0, scope))
    } else {
        let address = rest.v4()?;
        SocketAddr::V4(SocketAddrV4::new(address, rest.port()?))
    };
    rest.0.is_empty().then_some(endpoint)
}

/// What has not been read yet.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Reads this byte, if it is next.
    fn take(&mut self, byte: u8) -> bool {
        match self.0 {
            [first, rest @ ..] if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn require(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    /// A number up to `most`, of at least one digit and at most `digits`.
    fn number(&mut self, radix: u32, most: u32, digits: Option<u32>) -> Option<u32> {
        let (mut number, mut count) = (0_u32, 0_u32);
        while let [first, rest @ ..] = self.0 {
            let Some(digit) = digit(*first).filter(|digit| *digit < radix) else { break };
            number = number.checked_mul(radix)?.checked_add(digit).filter(|number| *number <= most)?;
            count = count.saturating_add(1);
            if digits.is_some_and(|digits| count > digits) {
                return None;
            }
            self.0 = rest;
        }
        (count > 0).then_some(number)
    }

    fn port(&mut self) -> Option<u16> {
        self.require(b':')?;
        u16::try_from(self.number(10, u16::MAX.into(), None)?).ok()
    }

    fn v4(&mut self) -> Option<Ipv4Addr> {
        let mut octets = [0; 4];
        for (index, octet) in octets.iter_mut().enumerate() {
            if index > 0 {
                self.require(b'.')?;
            }
            // A zero before other digits might mean octal.
            if matches!(self.0, [b'0', b'0'..=b'9', ..]) {
                return None;
            }
            *octet = u8::try_from(self.number(10, u8::MAX.into(), Some(3))?).ok()?;
        }
        Some(octets.into())
    }

    fn v6(&mut self) -> Option<Ipv6Addr> {
        let mut groups = [0; 8];
        let (count, dotted) = self.groups(&mut groups);
        if count == groups.len() {
            return Some(groups.into());
        }
        if dotted || !(self.take(b':') && self.take(b':')) {
            return None;
        }
        // What the two colons stand for is at least one group.
        let mut tail = [0; 7];
        let room = tail.len().saturating_sub(count);
        let (tail_count, _) = self.groups(tail.get_mut(..room)?);
        let last = groups.iter_mut().rev();
        for (place, group) in last.zip(tail.iter().take(tail_count).rev()) {
            *place = *group;
        }
        Some(groups.into())
    }

    /// As many groups as follow each other, up to the room there is: how many, and whether the last two were written as
    /// an IPv4 address.
    fn groups(&mut self, groups: &mut [u16]) -> (usize, bool) {
        let mut count = 0_usize;
        while count < groups.len() {
            let mut ahead = *self;
            if count > 0 && !ahead.take(b':') {
                break;
            }
            let mut dotted = ahead;
            if let Some([high, low]) = groups.get_mut(count..).and_then(|rest| rest.first_chunk_mut::<2>())
                && let Some(address) = dotted.v4()
            {
                let [a, b, c, d] = address.octets();
                (*high, *low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                *self = dotted;
                return (count.saturating_add(2), true);
            }
            let Some(group) = ahead.number(16, u16::MAX.into(), Some(4)) else { break };
            if let (Some(place), Ok(group)) = (groups.get_mut(count), u16::try_from(group)) {
                *place = group;
            }
            count = count.saturating_add(1);
            *self = ahead;
        }
        (count, false)
    }
}

fn digit(byte: u8) -> Option<u32> {
    let digit = match byte {
        b'0'..=b'9' => byte.wrapping_sub(b'0'),
        b'a'..=b'f' => byte.wrapping_sub(b'a').wrapping_add(10),
        b'A'..=b'F' => byte.wrapping_sub(b'A').wrapping_add(10),
        _ => return None,
    };
    Some(digit.into())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::net::SocketAddr;
    use std::string::String;

    use proptest::prelude::*;

    use super::parse;

    fn agrees(text: &str) {
        assert_eq!(parse(text.as_bytes()), text.parse::<SocketAddr>().ok(), "{text:?}");
    }

    #[test]
    fn an_endpoint_is_what_the_standard_library_takes_it_for() {
        for text in [
            "1.2.3.4:5",
            "0.0.0.0:0",
            "255.255.255.255:65535",
            "256.1.1.1:1",
            "1.2.3.4:65536",
            "01.2.3.4:5",
            "1.2.3.4:0005",
            "1.2.3.4",
            "1.2.3.4:",
            "1.2.3:4",
            "1.2.3.4.5:6",
            " 1.2.3.4:5",
            "1.2.3.4:5 ",
            "",
            "[::]:1",
            "[::1]:2",
            "[1::]:3",
            "[1:2:3:4:5:6:7:8]:9",
            "[1:2:3:4:5:6:7::]:9",
            "[::2:3:4:5:6:7:8]:9",
            "[1:2:3:4:5:6:7:8:9]:1",
            "[1::2::3]:1",
            "[1:2:3:4:5:6:7::8]:1",
            "[1:2:3:4::5:6:7:8]:1",
            "[12345::]:1",
            "[::ffff:1.2.3.4]:5",
            "[1:2:3:4:5:6:1.2.3.4]:5",
            "[1:2:3:4:5:6:7:1.2.3.4]:5",
            "[1.2.3.4::]:5",
            "[::1.2.3.4:1]:5",
            "[64:ff9b::1.2.3.256]:5",
            "[fe80::1%3]:4",
            "[fe80::1%]:4",
            "[fe80::1%4294967296]:4",
            "[fe80::1%eth0]:4",
            "::1:1",
            "[::1]",
            "[::1:1",
            "[:::1]:1",
            "[:1::]:1",
            "[1:]:1",
            "[::G]:1",
            "[DEAD::beef]:1",
        ] {
            agrees(text);
        }
    }

    proptest! {
        #[test]
        fn any_text_of_such_characters_is_taken_alike(text in "[0-9a-f:.%\\[\\]]{0,24}") {
            agrees(&text);
        }

        #[test]
        fn any_endpoint_is_read_as_it_is_printed(address: std::net::IpAddr, port: u16) {
            agrees(&std::format!("{}", SocketAddr::new(address, port)));
        }

        #[test]
        fn an_endpoint_with_one_change_is_taken_alike(
            address: std::net::IpAddr, port: u16, at: prop::sample::Index, new in "[0-9a-f:.%\\[\\]]",
        ) {
            let text = std::format!("{}", SocketAddr::new(address, port));
            let at = at.index(text.len());
            let mut changed: String = text[..at].into();
            changed += &new;
            changed += &text[at + 1..];
            agrees(&changed);
        }
    }
}
