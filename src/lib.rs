//! weir: a network callout driver for Windows.
#![no_std]

#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod config;
pub mod policy;
pub mod ring;
pub mod trace;

#[cfg(kernel)]
pub mod control;
#[cfg(kernel)]
pub mod ext;
#[cfg(kernel)]
pub mod flow;
#[cfg(kernel)]
pub mod kernel;
#[cfg(kernel)]
pub mod sys;
#[cfg(kernel)]
pub mod wfp;
#[cfg(kernel)]
pub mod wsk;
