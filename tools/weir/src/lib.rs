//! The operator's command line, as a library: what the `weir` binary, the integration tests and the benchmarks share.

pub mod policy;
pub mod run;
