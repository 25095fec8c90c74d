//! The NT kernel: types, status codes and functions, as `wdk_sys` names them.

mod status;
mod types;

pub use status::*;
pub use types::*;
