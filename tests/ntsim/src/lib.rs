//! The simulated kernel: everything that weir's `sys` names, on any OS, with a verifier.

pub mod sys;
pub mod tcpip;
pub mod wfp;
pub mod wsk;
