//! What tells one connection from another.

use crate::policy::{Family, Tuple};

/// An address in network byte order; an IPv4 address fills the first four bytes, the rest is zero.
pub type Address = [u8; 16];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The two ends of a connection, seen from this host. Ports are in host byte order. Of ICMP, type and code stand in
/// their place and are no part of the identity: keys that differ in them alone are equal.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub family: Family,
    pub protocol: u8,
    pub local: Address,
    pub remote: Address,
    pub local_port: u16,
    pub remote_port: u16,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.family == other.family
            && self.protocol == other.protocol
            && self.local == other.local
            && self.remote == other.remote
            && self.ports() == other.ports()
    }
}

impl Eq for Key {}

impl Key {
    /// The key of a connection that is decided on. What is EMPTY counts as zero.
    pub fn of(tuple: &Tuple<'_>) -> Self {
        Self {
            family: tuple.family,
            protocol: tuple.protocol.unwrap_or_default(),
            local: tuple.local.unwrap_or_default(),
            remote: tuple.remote.unwrap_or_default(),
            local_port: tuple.local_port.unwrap_or_default(),
            remote_port: tuple.remote_port.unwrap_or_default(),
        }
    }

    /// The ports, local and remote, of a protocol that has them.
    const fn ports(&self) -> (u16, u16) {
        match self.protocol {
            TCP | UDP => (self.local_port, self.remote_port),
            _ => (0, 0),
        }
    }

    /// A hash under `seed`, which remote hosts do not know: they choose half of the key.
    pub fn hash(&self, seed: u64) -> u64 {
        let (local_port, remote_port) = self.ports();
        let rest = u64::from(local_port) << 32
            | u64::from(remote_port) << 16
            | u64::from(self.protocol) << 8
            | self.family as u64;
        let [local_high, local_low] = halves(self.local);
        let [remote_high, remote_low] = halves(self.remote);
        let hash = mix(seed ^ remote_low, rest ^ 0x9E37_79B9_7F4A_7C15);
        let hash = mix(hash ^ remote_high, seed ^ 0xC2B2_AE3D_27D4_EB4F);
        mix(hash ^ local_low, local_high ^ 0x1656_67B1_9E37_79F9)
    }
}

fn halves(address: Address) -> [u64; 2] {
    let address = u128::from_ne_bytes(address);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    [(address >> 64) as u64, address as u64]
}

/// The 128-bit product folded: every bit of the result depends on every bit of both.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    #[expect(clippy::cast_possible_truncation, reason = "folded to its halves")]
    let folded = (product >> 64) as u64 ^ product as u64;
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(remote: u32, port: u16) -> Key {
        let mut address = Address::default();
        address[..4].copy_from_slice(&remote.to_be_bytes());
        Key {
            family: Family::V4,
            protocol: TCP,
            local: [10; 16],
            remote: address,
            local_port: 443,
            remote_port: port,
        }
    }

    #[test]
    fn ports_are_part_of_the_identity_for_tcp_and_udp_only() {
        for (protocol, counts) in [(TCP, true), (UDP, true), (1, false), (58, false), (132, false)] {
            let one = Key { protocol, ..key(1, 8) };
            let other = Key { protocol, ..key(1, 9) };
            assert_eq!(one != other, counts, "protocol {protocol}");
            assert_eq!(one.hash(3) != other.hash(3), counts, "protocol {protocol}");
        }
    }

    #[test]
    fn neighbouring_connections_spread_over_the_buckets() {
        let mut buckets = [0u32; 256];
        for remote in 0..64 {
            for port in 0..64 {
                let hash = key(0xC0A8_0000 + remote, 50_000 + port).hash(7);
                buckets[usize::try_from(hash & 255).unwrap()] += 1;
            }
        }
        // 4096 keys over 256 buckets: 16 each, with a standard deviation of 4.
        assert!(buckets.iter().all(|&count| (1..48).contains(&count)), "{buckets:?}");
    }

    #[test]
    fn another_seed_scatters_the_same_keys_elsewhere() {
        let same =
            (0..1000u16).filter(|&port| key(1, port).hash(1) & 255 == key(1, port).hash(2) & 255).count();
        assert!(same < 50, "{same}");
    }
}
