//! The operator's command line, as a library: what the `weir` binary, the integration tests and the benchmarks share.

pub mod cli;
pub mod client;
pub mod config;
pub mod ctl;
pub mod etl;
pub mod keys;
pub mod names;
pub mod output;
pub mod place;
pub mod policy;
pub mod run;
mod source;
pub mod top;
pub mod trace;
