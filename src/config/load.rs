//! Reads the settings from the registry. PASSIVE_LEVEL.
//!
//! They stand in two keys: the service's own, and that of policies for managed fleets, which comes first. Nothing that
//! stands there, or does not, can fail the driver's start, or take away a value that holds: what is refused is told by an
//! event, and what held before holds on.

use zeroize::Zeroizing;

use super::schema::{
    self, Kind, Origin, POLICY_IMAGE, REG_MULTI_SZ, Refused, Setting, Settings, TABLE, find, parse,
};
use crate::control::protocol::noise::{KEY, Keys};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::registry::{Found, Key, Secret, Value};
use crate::kernel::security::Flaw;
use crate::kernel::string::Utf16;
use crate::kernel::{Result, Status};
use crate::trace::events::RefusedKey;
use crate::trace::{self, Event};

/// What the registry holds for weir.
#[derive(Debug)]
pub struct Loaded {
    /// What has been read, to be read again.
    pub book: Book,
    /// The driver's keys. Without them there is no control socket, which an event has told.
    pub identity: Option<PoolBox<Keys>>,
    /// The bytes of `PolicyImage`; believed in nothing but their size.
    pub policy_image: Option<Value>,
}

/// The subkey of the service's key that holds the settings.
const PARAMETERS: &str = "Parameters";
/// The key that holds settings which come before those: for managed fleets. It stands in the hive that is there when
/// drivers of the system start.
pub const POLICIES: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Policies\weir";
/// The subkey of the settings that holds the driver's private key, alone, for a list of its own of who may see it.
const KEY_KEY: &str = "Key";
/// The value in it: REG_BINARY, [`KEY`] bytes.
const PRIVATE_KEY: &str = "PrivateKey";
/// How many values of a key are looked at for names that weir does not know.
const MAX_VALUES: u32 = 256;
/// How many unknown names are remembered, of both keys.
const MAX_UNKNOWN: usize = 64;

/// A value that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejected {
    pub reason: Refused,
    registry_type: u32,
    size: u32,
    /// Of its bytes, so that another one is told anew.
    digest: u64,
}

/// How a setting stands in the registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Where its value comes from.
    pub origin: Origin,
    /// What is refused, in the service's own key.
    pub registry: Option<Rejected>,
    /// What is refused, in that of policies.
    pub policy: Option<Rejected>,
}

/// All settings: what the driver would have after a start now.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub settings: Settings,
    /// What the service's own key gives, or gave last: what holds where a policy does no longer.
    own: Settings,
    /// In the table's order.
    pub rows: [Row; TABLE.len()],
}

/// A page that does not change any more.
pub type Shared = PoolArc<PoolBox<Page>>;

/// What holds where nothing has been read.
static BLANK: Page = Page {
    settings: Settings::DEFAULT,
    own: Settings::DEFAULT,
    rows: [Row { origin: Origin::Default, registry: None, policy: None }; TABLE.len()],
};

impl Page {
    /// These settings, wherever they come from.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub fn of(settings: &Settings) -> Result<Shared> {
        let mut page = PoolBox::try_copy(tags::CONFIGURATION, &BLANK)?;
        page.settings = *settings;
        share(page)
    }
}

/// Reads everything below the service's key, whose absolute path DriverEntry is given, and below that of policies.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES` where not even the defaults can be held.
pub fn load(passive: &Passive, service: &[u16]) -> Result<Loaded> {
    let mut book = Book::try_new(service)?;
    let mut read = book.read(passive)?;
    trace::emit(&Event::SettingsRead { taken: read.taken, refused: read.refused });
    let policy_image = read.image.take();
    book.keep(read);
    Ok(Loaded { book, identity: identity(passive, service), policy_image })
}

/// What the guard against boot loops asks for, before anything else is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guarding {
    pub starts: u32,
    pub settle_seconds: u32,
}

/// Reads the guard's settings alone. What cannot be taken leaves the default, and is told when all are read.
pub fn guarding(passive: &Passive, service: &[u16]) -> Guarding {
    let keys = [open_policies(passive).ok(), open(passive, service).ok()];
    let number = |name: &str, default| {
        let read = |key: &Key<'_>| {
            let setting = find(name)?;
            let units = Name::from_text(setting.name).ok()?;
            let found = key.value(&units, setting.kind.maximum_size()).ok()?;
            let Found::Value(value) = found else { return None };
            match parse(name, value.kind(), value.bytes()) {
                Ok(schema::Value::Number(number)) => Some(number),
                _ => None,
            }
        };
        keys.iter().flatten().find_map(read).unwrap_or(default)
    };
    Guarding {
        starts: number("GuardStarts", BLANK.settings.guard_starts),
        settle_seconds: number("GuardSettleSeconds", BLANK.settings.guard_settle_seconds),
    }
}

/// What the registry has for a policy.
#[derive(Debug)]
pub enum RegistryPolicy {
    Absent,
    /// A value that is refused.
    Refused,
    Image(Value),
}

/// Reads the registry's policy anew: what a start would find now.
///
/// # Errors
/// What the registry answers, but for what is not there; `STATUS_INSUFFICIENT_RESOURCES`.
pub fn policy_image(passive: &Passive, service: &[u16]) -> Result<RegistryPolicy> {
    let mut refused = false;
    for source in [open_policies(passive), open(passive, service)] {
        let key = match source {
            Err(Status::OBJECT_NAME_NOT_FOUND) => continue,
            opened => opened?,
        };
        let name = Name::from_text(POLICY_IMAGE.name)?;
        match key.value(&name, POLICY_IMAGE.kind.maximum_size())? {
            Found::Absent => {}
            Found::Value(value) if parse(POLICY_IMAGE.name, value.kind(), value.bytes()).is_ok() => {
                return Ok(RegistryPolicy::Image(value));
            }
            Found::Value(_) | Found::TooLong { .. } => refused = true,
        }
    }
    Ok(if refused { RegistryPolicy::Refused } else { RegistryPolicy::Absent })
}

fn open<'p>(passive: &'p Passive, service: &[u16]) -> Result<Key<'p>> {
    let service = Key::open(passive, service)?;
    let name = Utf16::<{ PARAMETERS.len() }>::from_text(PARAMETERS)?;
    service.open_subkey(passive, &name)
}

fn open_policies(passive: &Passive) -> Result<Key<'_>> {
    Key::open(passive, &Utf16::<{ POLICIES.len() }>::from_text(POLICIES)?)
}

/// The driver's keys, if the private one is there, and nobody else can know it. It is never taken from the policies.
fn identity(passive: &Passive, service: &[u16]) -> Option<PoolBox<Keys>> {
    let keys = match open(passive, service) {
        Ok(parameters) => keys(passive, &parameters),
        Err(Status::OBJECT_NAME_NOT_FOUND) => Ok(None),
        Err(status) => Err((RefusedKey::Unreadable, status)),
    };
    match keys {
        Ok(Some(keys)) => Some(keys),
        Ok(None) => {
            trace::emit(&Event::ControlKeyAbsent {});
            None
        }
        Err((reason, status)) => {
            trace::emit(&Event::ControlKeyRefused { reason, status: status.into() });
            None
        }
    }
}

fn keys(
    passive: &Passive,
    parameters: &Key<'_>,
) -> core::result::Result<Option<PoolBox<Keys>>, (RefusedKey, Status)> {
    let refused = |reason| (reason, Status::SUCCESS);
    let unreadable = |status| (RefusedKey::Unreadable, status);
    let name = Name::from_text(KEY_KEY).map_err(unreadable)?;
    let key = match parameters.open_subkey(passive, &name) {
        Ok(key) => key,
        Err(Status::OBJECT_NAME_NOT_FOUND) => return Ok(None),
        Err(status) => return Err(unreadable(status)),
    };
    let mut private = Zeroizing::new([0; KEY]);
    let name = Name::from_text(PRIVATE_KEY).map_err(unreadable)?;
    match key.secret(&name, &mut private).map_err(unreadable)? {
        Secret::Absent => return Ok(None),
        Secret::WrongType => return Err(refused(RefusedKey::WrongType)),
        Secret::WrongSize => return Err(refused(RefusedKey::WrongSize)),
        Secret::Read => {}
    }
    // A key that others can see is no key, whatever it is.
    key.is_closed(passive).map_err(unreadable)?.map_err(|flaw| {
        refused(match flaw {
            Flaw::Descriptor => RefusedKey::Descriptor,
            Flaw::Owner => RefusedKey::Owner,
            Flaw::NoList => RefusedKey::NoList,
            Flaw::Admits => RefusedKey::Admits,
        })
    })?;
    if private.iter().all(|byte| *byte == 0) {
        return Err(refused(RefusedKey::Zero));
    }
    PoolBox::try_new(tags::CONFIGURATION, Keys::new(&private)).map(Some).map_err(unreadable)
}

/// Names that weir does not know and that have been told, as digests.
#[derive(Clone, Copy, Debug)]
struct Unknown {
    names: [u64; MAX_UNKNOWN],
    count: usize,
}

impl Unknown {
    const NONE: Self = Self { names: [0; MAX_UNKNOWN], count: 0 };

    fn has(&self, name: u64) -> bool {
        self.names.iter().take(self.count).any(|known| *known == name)
    }

    /// False: there are too many.
    fn add(&mut self, name: u64) -> bool {
        let Some(place) = self.names.get_mut(self.count) else { return false };
        *place = name;
        self.count = self.count.saturating_add(1);
        true
    }
}

/// The settings as they were read last, and what has been told of them.
#[derive(Debug)]
pub struct Book {
    /// The path of the service's registry key.
    service: PoolSlice<u16>,
    page: Shared,
    unknown: PoolBox<Unknown>,
    /// The digest of `PolicyImage`, where one can be taken.
    image: Option<u64>,
    /// It was refused, and who follows it may have gone on since.
    image_refused: bool,
    /// That a key could not be opened has been told.
    unreadable: bool,
}

/// What stands in the registry now.
#[derive(Debug)]
pub struct Read {
    pub page: Shared,
    /// The bytes of `PolicyImage`, if they can be taken.
    pub image: Option<Value>,
    /// They are others than were kept, or there again after others that were refused.
    pub is_other_image: bool,
    /// How many values were taken, and refused.
    pub taken: u32,
    pub refused: u32,
    digest: Option<u64>,
    image_refused: bool,
}

/// A key that settings stand in.
enum Source<'p> {
    Absent,
    /// It cannot be opened: whatever stands in it is not known.
    Unreadable,
    Key(Key<'p>),
}

impl Source<'_> {
    /// The setting's value in there.
    fn look(&self, setting: &Setting) -> Looked {
        let key = match self {
            Self::Absent => return Looked::Absent,
            Self::Unreadable => return Looked::Unknown,
            Self::Key(key) => key,
        };
        let rejected = |reason, registry_type, size: usize, bytes: &[u8]| {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            Looked::Refused(Rejected { reason, registry_type, size, digest: digest(bytes) })
        };
        let found =
            Name::from_text(setting.name).and_then(|name| key.value(&name, setting.kind.maximum_size()));
        match found {
            Ok(Found::Value(value)) => match parse(setting.name, value.kind(), value.bytes()) {
                Ok(_) => Looked::Value(value),
                Err(reason) => rejected(reason, value.kind(), value.bytes().len(), value.bytes()),
            },
            Ok(Found::Absent) => Looked::Absent,
            Ok(Found::TooLong { kind, size }) if setting.kind.registry_types().contains(&kind) => {
                rejected(Refused::TooLong, kind, size, &[])
            }
            Ok(Found::TooLong { kind, size }) => rejected(Refused::WrongType, kind, size, &[]),
            Err(_) => rejected(Refused::Unreadable, 0, 0, &[]),
        }
    }
}

/// What a key says of a setting.
enum Looked {
    Absent,
    Unknown,
    /// One that can be taken.
    Value(Value),
    Refused(Rejected),
}

/// What a setting comes to be.
enum Choice {
    /// What it was.
    Kept,
    Default,
    /// What the service's own key gives, or gave last.
    Own,
    Taken(Value),
}

impl Book {
    fn try_new(service: &[u16]) -> Result<Self> {
        let unit = |index: usize| service.get(index).copied().unwrap_or_default();
        Ok(Self {
            service: PoolSlice::try_from_fn(tags::CONFIGURATION, service.len(), unit)?,
            page: Page::of(&BLANK.settings)?,
            unknown: PoolBox::try_copy(tags::CONFIGURATION, &Unknown::NONE)?,
            image: None,
            image_refused: false,
            unreadable: false,
        })
    }

    /// What was kept last.
    pub const fn page(&self) -> &Shared {
        &self.page
    }

    /// The path of the service's registry key.
    pub fn service(&self) -> &[u16] {
        &self.service
    }

    /// Keeps what was read: the next time, what holds now is what holds then.
    pub fn keep(&mut self, read: Read) {
        self.image = read.digest;
        self.image_refused = read.image_refused;
        self.page = read.page;
    }

    /// Reads both keys, and tells of what is refused or not known, each once.
    ///
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`; nothing has been told.
    pub fn read(&mut self, passive: &Passive) -> Result<Read> {
        let before = self.page.clone();
        let mut page = PoolBox::try_copy(tags::CONFIGURATION, &**before)?;
        let mut unreadable = None;
        let mut source = |opened| match opened {
            Ok(key) => Source::Key(key),
            // Without the key there is nothing to read: the defaults are what an administrator gets who sets nothing.
            Err(Status::OBJECT_NAME_NOT_FOUND) => Source::Absent,
            Err(status) => {
                unreadable = Some(status);
                Source::Unreadable
            }
        };
        let policies = source(open_policies(passive));
        let registry = source(open(passive, &self.service));
        if let Some(status) = unreadable.filter(|_| !self.unreadable) {
            trace::emit(&Event::Degraded { part: "settings", status: status.into() });
        }
        self.unreadable = unreadable.is_some();

        let mut taken = 0_u32;
        let (mut image, mut image_digest, mut image_refused) = (None, self.image, self.image_refused);
        let Page { settings, own, rows } = &mut *page;
        for ((setting, row), told) in TABLE.iter().zip(rows.iter_mut()).zip(&before.rows) {
            let is_image = setting.name == POLICY_IMAGE.name;
            match choose(setting, row, own, &policies, &registry) {
                Choice::Kept => {
                    image_refused |= is_image && (row.policy.is_some() || row.registry.is_some());
                }
                Choice::Own => settings.adopt(own, setting.name),
                Choice::Default if is_image => (image_digest, image_refused) = (None, false),
                Choice::Default => settings.adopt(&BLANK.settings, setting.name),
                Choice::Taken(value) if is_image => {
                    taken = taken.saturating_add(1);
                    (image_digest, image_refused) = (Some(digest(value.bytes())), false);
                    image = Some(value);
                }
                Choice::Taken(value) => {
                    taken = taken.saturating_add(1);
                    // It can be taken, as was seen.
                    _ = settings.set(setting.name, value.kind(), value.bytes());
                }
            }
            tell(setting, row, told);
        }
        hold_dials(&mut page, &before, &registry, &mut taken);
        let refused =
            |row: &Row| u32::from(row.policy.is_some()).saturating_add(row.registry.is_some().into());
        let refused = page.rows.iter().map(refused).fold(0, u32::saturating_add);
        self.name_unknown(&policies, Origin::Policy);
        self.name_unknown(&registry, Origin::Registry);
        let is_other_image = image_digest != self.image || self.image_refused && !image_refused;
        let page = share(page)?;
        Ok(Read { page, image, is_other_image, taken, refused, digest: image_digest, image_refused })
    }

    /// Names the values that no setting reads: mostly a name misspelt. Each once, as far as they can be remembered.
    fn name_unknown(&mut self, source: &Source<'_>, origin: Origin) {
        let Source::Key(key) = source else { return };
        for index in 0..MAX_VALUES {
            // A value that cannot be named is not worth another event: every known one has been read by its name.
            let Ok(Some(name)) = key.value_name(index) else { return };
            if TABLE.iter().any(|setting| is(&name, setting.name)) {
                continue;
            }
            let place = [u16::from(origin as u8)];
            let digest = hash(place.iter().chain(name.iter()).flat_map(|unit| unit.to_le_bytes()));
            if !self.unknown.has(digest) && self.unknown.add(digest) {
                trace::emit(&Event::SettingUnknown { name: &name, origin });
            }
        }
    }
}

fn share(page: PoolBox<Page>) -> Result<Shared> {
    PoolArc::try_new(tags::CONFIGURATION, page)
}

/// What a setting comes to be, of what stands in both keys; notes what is refused. What comes before is not told when
/// the one that comes first can be taken, but remembered: it holds as soon as that one does no longer.
fn choose(
    setting: &Setting,
    row: &mut Row,
    own: &mut Settings,
    policies: &Source<'_>,
    registry: &Source<'_>,
) -> Choice {
    let held = row.policy.take();
    let kept = match policies.look(setting) {
        Looked::Value(value) => {
            (row.origin, row.registry) = (Origin::Policy, None);
            Some(Choice::Taken(value))
        }
        Looked::Refused(rejected) => {
            row.policy = Some(rejected);
            // What a key gave holds on when it gives something that cannot be taken.
            (row.origin == Origin::Policy).then_some(Choice::Kept)
        }
        Looked::Unknown => {
            row.policy = held;
            (row.origin == Origin::Policy).then_some(Choice::Kept)
        }
        Looked::Absent => None,
    };
    let Some(kept) = kept else { return choose_own(setting, row, own, registry) };
    // An image is not remembered here.
    if setting.name != POLICY_IMAGE.name {
        remember(setting, own, &registry.look(setting));
    }
    kept
}

/// What a setting comes to be, of what stands in the service's own key.
fn choose_own(setting: &Setting, row: &mut Row, own: &mut Settings, registry: &Source<'_>) -> Choice {
    let looked = registry.look(setting);
    let is_image = setting.name == POLICY_IMAGE.name;
    if !is_image {
        remember(setting, own, &looked);
    }
    match looked {
        Looked::Value(value) => {
            (row.origin, row.registry) = (Origin::Registry, None);
            return Choice::Taken(value);
        }
        Looked::Absent => {
            (row.origin, row.registry) = (Origin::Default, None);
            return Choice::Default;
        }
        Looked::Refused(rejected) => row.registry = Some(rejected),
        Looked::Unknown => {}
    }
    // A value that is withdrawn is not one that holds, whatever stands below it. Only what decides does, until it is
    // known what is to instead.
    if row.origin != Origin::Policy || is_image {
        return Choice::Kept;
    }
    row.origin = origin_of(setting, own);
    Choice::Own
}

/// Remembers what the service's own key gives.
fn remember(setting: &Setting, own: &mut Settings, looked: &Looked) {
    match looked {
        // It can be taken, as was seen.
        Looked::Value(value) => _ = own.set(setting.name, value.kind(), value.bytes()),
        Looked::Absent => own.adopt(&BLANK.settings, setting.name),
        Looked::Refused(_) | Looked::Unknown => {}
    }
}

/// Where a value that is remembered comes from, as far as it tells.
fn origin_of(setting: &Setting, own: &Settings) -> Origin {
    if own.agrees(&BLANK.settings, setting.name) { Origin::Default } else { Origin::Registry }
}

/// Tells of what is refused and was not before.
fn tell(setting: &Setting, row: &Row, told: &Row) {
    for (origin, rejected, before) in
        [(Origin::Policy, row.policy, told.policy), (Origin::Registry, row.registry, told.registry)]
    {
        if let Some(rejected) = rejected
            && before != Some(rejected)
        {
            let Rejected { reason, registry_type, size, .. } = rejected;
            trace::emit(&Event::SettingRefused { name: setting.name, reason, registry_type, size, origin });
        }
    }
}

/// Holds those to connect to against the peers. Who is none is told, and refuses the value as any other is refused: one
/// of the policies leaves those before, if the policies gave them, or those of the service's own key; one of that key
/// leaves those that it gave before. If these are no peers either, nobody is connected to. Counts how many are `taken`.
fn hold_dials(page: &mut Page, before: &Page, registry: &Source<'_>, taken: &mut u32) {
    const NAME: &str = "ControlDial";
    let rejected = Rejected { reason: Refused::UnknownPeer, registry_type: REG_MULTI_SZ, size: 0, digest: 0 };
    let Page { settings, own, rows } = page;
    if settings.stranger().is_none() {
        return;
    }
    let places = TABLE.iter().zip(rows).zip(&before.rows);
    for ((setting, row), before_row) in places.filter(|((setting, _), _)| setting.name == NAME) {
        // What else is refused has been told.
        let told = Row {
            policy: row.policy.or(before_row.policy),
            registry: row.registry.or(before_row.registry),
            ..*before_row
        };
        if row.origin == Origin::Policy {
            if row.policy.is_none() {
                row.policy = Some(rejected);
                *taken = taken.saturating_sub(1);
            }
            settings.adopt(&before.settings, NAME);
            if before_row.origin != Origin::Policy || settings.stranger().is_some() {
                if let Choice::Taken(_) = choose_own(setting, row, own, registry) {
                    *taken = taken.saturating_add(1);
                }
                settings.adopt(own, NAME);
            }
        }
        if settings.stranger().is_some() {
            if row.origin == Origin::Registry && row.registry.is_none() {
                row.registry = Some(rejected);
                *taken = taken.saturating_sub(1);
            }
            own.adopt(&before.own, NAME);
            settings.adopt(own, NAME);
            if settings.stranger().is_some() {
                own.adopt(&BLANK.settings, NAME);
                settings.adopt(&BLANK.settings, NAME);
            }
            row.origin = origin_of(setting, own);
        }
        tell(setting, row, &told);
    }
}

/// Room for the longest name in the table.
type Name = Utf16<32>;

/// Whether a registry name is this one; case does not matter.
fn is(units: &[u16], name: &str) -> bool {
    units.len() == name.len()
        && units.iter().zip(name.bytes()).all(|(&unit, expected)| {
            u8::try_from(unit).is_ok_and(|byte| byte.eq_ignore_ascii_case(&expected))
        })
}

/// A number by which different bytes are mostly told apart; nothing is believed for it.
fn digest(bytes: &[u8]) -> u64 {
    hash(bytes.iter().copied())
}

/// FNV-1a.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

const _: () = {
    let mut rest = TABLE;
    while let [setting, others @ ..] = rest {
        assert!(setting.name.len() <= 32);
        assert!(!matches!(setting.kind, Kind::Binary { maximum: 0 }));
        rest = others;
    }
};
