//! Winsock Kernel, as the driver declares it.

#[path = "../../../../../src/sys/wsk/abi.rs"]
#[allow(
    dead_code,
    unfulfilled_lint_expectations,
    clippy::struct_field_names,
    reason = "the whole interface under the headers' names, of which not every one is used"
)]
mod abi;

pub use abi::*;
