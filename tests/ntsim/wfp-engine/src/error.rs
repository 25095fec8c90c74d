//! The errors of management calls, each a status code of the platform (*WFP Error Codes*).

use core::fmt;

use crate::id;
use crate::sys::nt::NTSTATUS;

pub type Result<T> = core::result::Result<T, Error>;

macro_rules! errors {
    ($($(#[$meta:meta])* $name:ident = $status:ident,)*) => {
        /// Why a management call failed.
        #[repr(i32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Error {
            $($(#[$meta])* $name = id::$status,)*
        }

        impl fmt::Display for Error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => stringify!($status),)*
                })
            }
        }
    };
}

errors! {
    CalloutNotFound = STATUS_FWP_CALLOUT_NOT_FOUND,
    /// The layer has no field of that key.
    ConditionNotFound = STATUS_FWP_CONDITION_NOT_FOUND,
    FilterNotFound = STATUS_FWP_FILTER_NOT_FOUND,
    LayerNotFound = STATUS_FWP_LAYER_NOT_FOUND,
    ProviderNotFound = STATUS_FWP_PROVIDER_NOT_FOUND,
    SubLayerNotFound = STATUS_FWP_SUBLAYER_NOT_FOUND,
    /// An object with that key is there already.
    AlreadyExists = STATUS_FWP_ALREADY_EXISTS,
    /// The object is referenced by others, or is being registered or unregistered.
    InUse = STATUS_FWP_IN_USE,
    /// A persistent object cannot be added by a dynamic session.
    DynamicSession = STATUS_FWP_DYNAMIC_SESSION_IN_PROGRESS,
    /// The object belongs to another dynamic session.
    WrongSession = STATUS_FWP_WRONG_SESSION,
    NoTransaction = STATUS_FWP_NO_TXN_IN_PROGRESS,
    TransactionInProgress = STATUS_FWP_TXN_IN_PROGRESS,
    TransactionAborted = STATUS_FWP_TXN_ABORTED,
    /// The engine has stopped since the session was opened: it can only be closed.
    SessionAborted = STATUS_FWP_SESSION_ABORTED,
    /// A change within a read-only transaction.
    IncompatibleTransaction = STATUS_FWP_INCOMPATIBLE_TXN,
    /// The transaction lock is another session's. The host may wait for it and try again.
    Timeout = STATUS_FWP_TIMEOUT,
    /// The callout is not of the filter's layer.
    IncompatibleLayer = STATUS_FWP_INCOMPATIBLE_LAYER,
    /// The object would outlive one that it refers to.
    LifetimeMismatch = STATUS_FWP_LIFETIME_MISMATCH,
    BuiltinObject = STATUS_FWP_BUILTIN_OBJECT,
    TooManyCallouts = STATUS_FWP_TOO_MANY_CALLOUTS,
    NullPointer = STATUS_FWP_NULL_POINTER,
    /// An enumerator is out of range.
    InvalidEnumerator = STATUS_FWP_INVALID_ENUMERATOR,
    InvalidFlags = STATUS_FWP_INVALID_FLAGS,
    InvalidNetMask = STATUS_FWP_INVALID_NET_MASK,
    InvalidRange = STATUS_FWP_INVALID_RANGE,
    NullDisplayName = STATUS_FWP_NULL_DISPLAY_NAME,
    InvalidActionType = STATUS_FWP_INVALID_ACTION_TYPE,
    InvalidWeight = STATUS_FWP_INVALID_WEIGHT,
    /// The match type does not suit the operands.
    MatchTypeMismatch = STATUS_FWP_MATCH_TYPE_MISMATCH,
    /// The value is not of the field's type.
    TypeMismatch = STATUS_FWP_TYPE_MISMATCH,
    OutOfBounds = STATUS_FWP_OUT_OF_BOUNDS,
    TooManySubLayers = STATUS_FWP_TOO_MANY_SUBLAYERS,
    /// The callout refused the filter.
    CalloutNotificationFailed = STATUS_FWP_CALLOUT_NOTIFICATION_FAILED,
}

impl Error {
    pub const fn status(self) -> NTSTATUS {
        self as NTSTATUS
    }
}

impl core::error::Error for Error {}
