//! The Network Module Registrar, as a driver calls it: types of `netioddk.h`, and the exports of `netio.sys`. Raw; the
//! safe side is in `crate::ext`.

#[cfg(image)]
mod abi;
#[cfg(image)]
mod image;
#[cfg(image)]
pub use {abi::*, image::*};

#[cfg(feature = "sim")]
pub use ntsim::sys::nmr::*;
