//! What is added to the engine (*Object Model*, *Object Management*).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::{Condition, Guid, SessionId};

/// How long an object lives (*Object Management*, Object Lifetimes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted or its session ends.
    Dynamic(SessionId),
    /// Until it is deleted or the engine stops.
    Static,
    /// Until it is deleted.
    Persistent,
    /// A filter that holds from the start of TCP/IP until the engine runs.
    BootTime,
    BuiltIn,
}

impl Lifetime {
    /// "A dynamic object cannot refer to a dynamic object from a different session. A static object cannot refer to
    /// a dynamic object. A persistent object cannot refer to a dynamic object, a static object, or a persistent
    /// object owned by a different provider" (*Object Management*, Object Associations). A boot-time filter is as
    /// persistent; an object without a provider is nobody's.
    pub(crate) fn may_refer_to(
        self,
        target: Self,
        provider: Option<Guid>,
        target_provider: Option<Guid>,
    ) -> bool {
        match target {
            Self::BuiltIn => true,
            Self::Dynamic(_) => self == target,
            Self::Static => matches!(self, Self::Static | Self::Dynamic(_)),
            Self::Persistent | Self::BootTime => match (self, provider, target_provider) {
                (Self::Persistent | Self::BootTime, Some(own), Some(other)) => own == other,
                _ => true,
            },
        }
    }
}

/// `FWPM_DISPLAY_DATA0`. The name must be there (*WFP Error Codes*, FWP_E_NULL_DISPLAY_NAME).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisplayData {
    pub name: Option<Box<[u16]>>,
    pub description: Option<Box<[u16]>>,
}

impl From<&str> for DisplayData {
    fn from(name: &str) -> Self {
        Self { name: Some(name.encode_utf16().collect()), description: None }
    }
}

/// `FWPM_PROVIDER0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderSpec {
    /// Zero: the engine makes one. So it is with each key.
    pub key: Guid,
    pub display: DisplayData,
    pub persistent: bool,
    pub data: Box<[u8]>,
    pub service_name: Option<Box<[u16]>>,
}

/// `FWPM_SUBLAYER0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubLayerSpec {
    pub key: Guid,
    pub display: DisplayData,
    pub persistent: bool,
    pub provider: Option<Guid>,
    pub data: Box<[u8]>,
    pub weight: u16,
}

/// `FWPM_CALLOUT0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalloutSpec {
    pub key: Guid,
    pub display: DisplayData,
    pub persistent: bool,
    pub provider: Option<Guid>,
    pub data: Box<[u8]>,
    pub layer: Guid,
}

/// The weight of a filter as it is added (*Filter Weight Assignment*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// `FWP_EMPTY`: from the conditions.
    Auto,
    /// `FWP_UINT8`: a range of 0..=15, automatic within it.
    Range(u8),
    /// `FWP_UINT64`: as it is.
    Exact(u64),
}

/// Which callouts a filter calls (*FWPM_ACTION0*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CalloutKind {
    /// "Always returns block or permit."
    Terminating,
    /// "Never returns block or permit."
    Inspection,
    /// "May return block or permit."
    Unknown,
}

/// `FWPM_ACTION0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Block,
    Permit,
    Callout(CalloutKind, Guid),
}

/// `FWPM_FILTER_FLAG_*`, those that can be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "flags")]
pub struct FilterFlags {
    pub persistent: bool,
    pub boot_time: bool,
    pub clear_action_right: bool,
    pub permit_if_callout_unregistered: bool,
}

/// `FWPM_FILTER0`.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterSpec {
    pub key: Guid,
    pub display: DisplayData,
    pub flags: FilterFlags,
    pub provider: Option<Guid>,
    pub data: Box<[u8]>,
    pub layer: Guid,
    /// Zero: the default sublayer of the layer.
    pub sublayer: Guid,
    pub weight: Weight,
    pub conditions: Vec<Condition>,
    pub action: Action,
    /// `rawContext`.
    pub context: u64,
}

impl FilterSpec {
    /// A filter for everything at `layer`, with an automatic weight, in the default sublayer.
    pub fn new(layer: Guid, action: Action) -> Self {
        Self {
            key: Guid::ZERO,
            display: "filter".into(),
            flags: FilterFlags::default(),
            provider: None,
            data: Box::default(),
            layer,
            sublayer: Guid::ZERO,
            weight: Weight::Auto,
            conditions: Vec::new(),
            action,
            context: 0,
        }
    }
}
