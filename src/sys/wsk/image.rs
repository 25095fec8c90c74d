//! What the image imports from `netio.sys` for WSK: prototypes of `wsk.h`. What each asks for is on the documentation's
//! page of its name.

#![allow(non_snake_case)]

use super::{WSK_CLIENT_NPI, WSK_PROVIDER_CHARACTERISTICS, WSK_PROVIDER_NPI, WSK_REGISTRATION};
use crate::sys::nt::NTSTATUS;

#[link(name = "netio.sys", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    pub fn WskCaptureProviderNPI(
        WskRegistration: *mut WSK_REGISTRATION,
        WaitTimeout: u32,
        WskProviderNpi: *mut WSK_PROVIDER_NPI,
    ) -> NTSTATUS;
    pub fn WskDeregister(WskRegistration: *mut WSK_REGISTRATION);
    pub fn WskQueryProviderCharacteristics(
        WskRegistration: *mut WSK_REGISTRATION,
        WskProviderCharacteristics: *mut WSK_PROVIDER_CHARACTERISTICS,
    ) -> NTSTATUS;
    pub fn WskRegister(WskClientNpi: *mut WSK_CLIENT_NPI, WskRegistration: *mut WSK_REGISTRATION)
    -> NTSTATUS;
    pub fn WskReleaseProviderNPI(WskRegistration: *mut WSK_REGISTRATION);
}
