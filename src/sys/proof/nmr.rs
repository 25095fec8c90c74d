//! What the headers say of the definitions in `sys/nmr/abi.rs`, held by the compiler.
//! Most structures are held by the table at the end of `abi.rs`; here is what that table lacks.
#![allow(clippy::wildcard_imports, reason = "a row for every name")]

use super::held;
use crate::sys::nmr::*;

held! { constants {
    MIT_GUID = 1,
    MIT_IF_LUID = 2,
} }

held! { layouts {
    LUID: size 8, align 4 {
        LowPart: 0, HighPart: 4,
    }
} }
