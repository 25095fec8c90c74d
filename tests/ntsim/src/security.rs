//! Security descriptors, as objects of this machine have them: made in the self-relative form ([MS-DTYP] 2.4.6) that
//! ZwQuerySecurityObject returns.

/// A security identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sid(pub u8, pub &'static [u32]);

impl Sid {
    pub const SYSTEM: Self = Self(5, &[18]);
    pub const ADMINISTRATORS: Self = Self(5, &[32, 544]);
    pub const USERS: Self = Self(5, &[32, 545]);
    pub const EVERYONE: Self = Self(1, &[0]);
    pub const CREATOR_OWNER: Self = Self(3, &[0]);
    pub const AUTHENTICATED_USERS: Self = Self(5, &[11]);

    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![1, u8::try_from(self.1.len()).unwrap_or(u8::MAX), 0, 0, 0, 0, 0, self.0];
        bytes.extend(self.1.iter().flat_map(|part| part.to_le_bytes()));
        bytes
    }
}

/// KEY_ALL_ACCESS.
pub const FULL: u32 = 0xF_003F;
/// KEY_READ.
pub const READ: u32 = 0x2_0019;
/// INHERIT_ONLY_ACE with OBJECT_INHERIT_ACE and CONTAINER_INHERIT_ACE.
pub const INHERIT_ONLY: u8 = 8 | 2 | 1;

/// An entry of a list.
#[derive(Clone, Debug)]
pub struct Ace {
    pub kind: u8,
    pub flags: u8,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Ace {
    /// ACCESS_ALLOWED_ACE.
    pub fn allow(mask: u32, sid: Sid) -> Self {
        Self { kind: 0, flags: 0, body: [mask.to_le_bytes().to_vec(), sid.bytes()].concat() }
    }

    /// With other flags.
    #[must_use]
    pub fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// ACCESS_DENIED_ACE.
    pub fn deny(mask: u32, sid: Sid) -> Self {
        Self { kind: 1, ..Self::allow(mask, sid) }
    }

    /// ACCESS_ALLOWED_OBJECT_ACE, with as many GUIDs as the flags say.
    pub fn allow_object(present: u32, mask: u32, sid: Sid) -> Self {
        let guids = vec![0xAB; 16 * (present & 3).count_ones() as usize];
        let body = [&mask.to_le_bytes()[..], &present.to_le_bytes(), &guids, &sid.bytes()].concat();
        Self { kind: 5, flags: 0, body }
    }

    /// ACCESS_ALLOWED_CALLBACK_ACE, with a condition behind the identifier.
    pub fn allow_callback(mask: u32, sid: Sid) -> Self {
        let mut ace = Self { kind: 9, ..Self::allow(mask, sid) };
        ace.body.extend(b"artx....");
        ace
    }

    fn bytes(&self) -> Vec<u8> {
        let size = u16::try_from(4 + self.body.len()).unwrap_or(u16::MAX).to_le_bytes();
        [&[self.kind, self.flags, size[0], size[1]], &self.body[..]].concat()
    }
}

/// A descriptor.
#[derive(Clone, Debug)]
pub struct Descriptor {
    pub owner: Sid,
    /// `None`: no list at all, not even an empty one.
    pub list: Option<Vec<Ace>>,
}

impl Descriptor {
    /// What a key below `Services` inherits: users may read it.
    pub fn of_a_service() -> Self {
        Self {
            owner: Sid::ADMINISTRATORS,
            list: Some(vec![
                Ace::allow(READ, Sid::USERS),
                Ace::allow(FULL, Sid::ADMINISTRATORS),
                Ace::allow(FULL, Sid::SYSTEM),
                Ace::allow(FULL, Sid::CREATOR_OWNER).flags(INHERIT_ONLY),
            ]),
        }
    }

    /// Closed to all but the system and its administrators.
    pub fn closed() -> Self {
        Self {
            owner: Sid::SYSTEM,
            list: Some(vec![Ace::allow(FULL, Sid::SYSTEM), Ace::allow(FULL, Sid::ADMINISTRATORS)]),
        }
    }

    /// The self-relative form.
    pub fn bytes(&self) -> Vec<u8> {
        let present = if self.list.is_some() { 0x4_u16 } else { 0 };
        let owner = self.owner.bytes();
        let list_at = if self.list.is_some() { 20 + owner.len() } else { 0 };
        let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = [&[1, 0][..], &(0x8000 | present).to_le_bytes()].concat();
        bytes.extend([word(20), word(0), word(0), word(list_at)].concat());
        bytes.extend(owner);
        if let Some(list) = &self.list {
            let entries = list.iter().map(Ace::bytes).collect::<Vec<_>>().concat();
            // Entries of objects are of the later revision.
            let revision = if list.iter().any(|ace| matches!(ace.kind, 5 | 6 | 11 | 12)) { 4 } else { 2 };
            bytes.extend([revision, 0]);
            bytes.extend(u16::try_from(8 + entries.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(u16::try_from(list.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend([0, 0]);
            bytes.extend(entries);
        }
        bytes
    }
}
