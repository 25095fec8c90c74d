//! Reads the settings from the registry. PASSIVE_LEVEL.
//!
//! Nothing that stands there, or does not, can fail the driver's start: what is refused leaves the default, and is told
//! by an event.

use zeroize::Zeroizing;

use super::schema::{self, POLICY_IMAGE, REG_MULTI_SZ, Refused, Setting, Settings, TABLE, find, parse};
use crate::control::protocol::noise::{KEY, Keys};
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolBox, tags};
use crate::kernel::registry::{Found, Key, Secret, Value};
use crate::kernel::security::Flaw;
use crate::kernel::string::Utf16;
use crate::kernel::{Result, Status};
use crate::trace::events::RefusedKey;
use crate::trace::{self, Event};

/// What the registry holds for weir.
#[derive(Debug)]
pub struct Loaded {
    pub settings: PoolBox<Settings>,
    /// The driver's keys. Without them there is no control socket, which an event has told.
    pub identity: Option<PoolBox<Keys>>,
    /// The bytes of `PolicyImage`; believed in nothing but their size.
    pub policy_image: Option<Value>,
}

/// Too large to be on the stack.
static DEFAULT: Settings = Settings::DEFAULT;

/// The subkey of the service's key that holds the settings.
const PARAMETERS: &str = "Parameters";
/// The subkey of the settings that holds the driver's private key, alone, for a list of its own of who may see it.
const KEY_KEY: &str = "Key";
/// The value in it: REG_BINARY, [`KEY`] bytes.
const PRIVATE_KEY: &str = "PrivateKey";
/// How many values are looked at for names that weir does not know.
const MAX_VALUES: u32 = 256;

/// Reads everything below the service's key, whose absolute path DriverEntry is given.
///
/// # Errors
/// `STATUS_INSUFFICIENT_RESOURCES` where not even the defaults can be held.
pub fn load(passive: &Passive, service: &[u16]) -> Result<Loaded> {
    let settings = PoolBox::try_copy(tags::CONFIGURATION, &DEFAULT)?;
    let mut loaded = Loaded { settings, identity: None, policy_image: None };
    match open(passive, service) {
        Ok(key) => {
            read(&key, &mut loaded);
            loaded.identity = identity(passive, &key);
        }
        // Without the key there is nothing to read: the defaults are what an administrator gets who sets nothing.
        Err(Status::OBJECT_NAME_NOT_FOUND) => {
            trace::emit(&Event::SettingsRead { taken: 0, refused: 0 });
            trace::emit(&Event::ControlKeyAbsent {});
        }
        Err(status) => {
            trace::emit(&Event::Degraded { part: "settings", status: status.into() });
            let reason = RefusedKey::Unreadable;
            trace::emit(&Event::ControlKeyRefused { reason, status: status.into() });
        }
    }
    Ok(loaded)
}

/// What the guard against boot loops asks for, before anything else is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guarding {
    pub starts: u32,
    pub settle_seconds: u32,
}

/// Reads the guard's settings alone. What cannot be taken leaves the default, and is told when all are read.
pub fn guarding(passive: &Passive, service: &[u16]) -> Guarding {
    let key = open(passive, service).ok();
    let number = |name: &str, default| {
        let read = || {
            let setting = find(name)?;
            let units = Name::from_text(setting.name).ok()?;
            let found = key.as_ref()?.value(&units, setting.kind.maximum_size()).ok()?;
            let Found::Value(value) = found else { return None };
            match parse(name, value.kind(), value.bytes()) {
                Ok(schema::Value::Number(number)) => Some(number),
                _ => None,
            }
        };
        read().unwrap_or(default)
    };
    Guarding {
        starts: number("GuardStarts", DEFAULT.guard_starts),
        settle_seconds: number("GuardSettleSeconds", DEFAULT.guard_settle_seconds),
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
    let key = match open(passive, service) {
        Err(Status::OBJECT_NAME_NOT_FOUND) => return Ok(RegistryPolicy::Absent),
        opened => opened?,
    };
    let name = Name::from_text(POLICY_IMAGE.name)?;
    Ok(match key.value(&name, POLICY_IMAGE.kind.maximum_size())? {
        Found::Absent => RegistryPolicy::Absent,
        Found::Value(value) if parse(POLICY_IMAGE.name, value.kind(), value.bytes()).is_ok() => {
            RegistryPolicy::Image(value)
        }
        Found::Value(_) | Found::TooLong { .. } => RegistryPolicy::Refused,
    })
}

fn open<'p>(passive: &'p Passive, service: &[u16]) -> Result<Key<'p>> {
    let service = Key::open(passive, service)?;
    let name = Utf16::<{ PARAMETERS.len() }>::from_text(PARAMETERS)?;
    service.open_subkey(passive, &name)
}

/// The driver's keys, if the private one is there, and nobody else can know it.
fn identity(passive: &Passive, parameters: &Key<'_>) -> Option<PoolBox<Keys>> {
    match keys(passive, parameters) {
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

fn read(key: &Key<'_>, loaded: &mut Loaded) {
    let (mut taken, mut refused) = (0_u32, 0_u32);
    for setting in TABLE {
        match take(key, setting, loaded) {
            Ok(true) => taken = taken.saturating_add(1),
            Ok(false) => {}
            Err(Told) => refused = refused.saturating_add(1),
        }
    }
    if !dials_are_peers(&mut loaded.settings) {
        (taken, refused) = (taken.saturating_sub(1), refused.saturating_add(1));
    }
    name_unknown(key);
    trace::emit(&Event::SettingsRead { taken, refused });
}

/// Whether those to connect to are peers; if not, which is told, nobody is connected to.
fn dials_are_peers(settings: &mut Settings) -> bool {
    let known = settings.stranger().is_none();
    if !known {
        settings.control_dial.clear();
        let (name, reason) = ("ControlDial", Refused::UnknownPeer);
        trace::emit(&Event::SettingRefused { name, reason, registry_type: REG_MULTI_SZ, size: 0 });
    }
    known
}

/// A value was refused, and an event has told so.
struct Told;

/// Takes one value; `false` where there is none.
fn take(key: &Key<'_>, setting: &Setting, loaded: &mut Loaded) -> core::result::Result<bool, Told> {
    let refuse = |reason, registry_type, size: usize| {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        trace::emit(&Event::SettingRefused { name: setting.name, reason, registry_type, size });
        Err(Told)
    };
    let found = Name::from_text(setting.name).and_then(|name| key.value(&name, setting.kind.maximum_size()));
    let value = match found {
        Ok(Found::Value(value)) => value,
        Ok(Found::Absent) => return Ok(false),
        Ok(Found::TooLong { kind, size }) if setting.kind.registry_types().contains(&kind) => {
            return refuse(Refused::TooLong, kind, size);
        }
        Ok(Found::TooLong { kind, size }) => return refuse(Refused::WrongType, kind, size),
        Err(_) => return refuse(Refused::Unreadable, 0, 0),
    };
    let is_policy = setting.name == POLICY_IMAGE.name;
    let taken = if is_policy {
        parse(setting.name, value.kind(), value.bytes()).map(drop)
    } else {
        loaded.settings.set(setting.name, value.kind(), value.bytes())
    };
    if let Err(reason) = taken {
        return refuse(reason, value.kind(), value.bytes().len());
    }
    if is_policy {
        loaded.policy_image = Some(value);
    }
    Ok(true)
}

/// Room for the longest name in the table.
type Name = Utf16<32>;

/// Names the values that no setting reads: mostly a name misspelt.
fn name_unknown(key: &Key<'_>) {
    for index in 0..MAX_VALUES {
        // A value that cannot be named is not worth another event: every known one has been read by its name.
        let Ok(Some(name)) = key.value_name(index) else { return };
        if !TABLE.iter().any(|setting| is(&name, setting.name)) {
            trace::emit(&Event::SettingUnknown { name: &name });
        }
    }
}

/// Whether a registry name is this one; case does not matter.
fn is(units: &[u16], name: &str) -> bool {
    units.len() == name.len()
        && units.iter().zip(name.bytes()).all(|(&unit, expected)| {
            u8::try_from(unit).is_ok_and(|byte| byte.eq_ignore_ascii_case(&expected))
        })
}

const _: () = {
    let mut rest = TABLE;
    while let [setting, others @ ..] = rest {
        assert!(setting.name.len() <= 32);
        rest = others;
    }
};
