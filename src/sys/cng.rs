//! The kernel's cryptography (`bcrypt.h`, cng.sys): its generator of random numbers alone. Raw; the safe side is
//! `crate::kernel::random`.

#[cfg(feature = "sim")]
pub use ntsim::sys::cng::*;

#[cfg(image)]
pub use self::image::*;

#[cfg(image)]
mod image {
    use core::ffi::c_void;

    pub const BCRYPT_USE_SYSTEM_PREFERRED_RNG: u32 = 2;

    #[link(name = "cng.sys", kind = "raw-dylib", modifiers = "+verbatim")]
    unsafe extern "system" {
        /// Page "BCryptGenRandom". IRQL: PASSIVE_LEVEL without an algorithm's handle.
        pub fn BCryptGenRandom(algorithm: *mut c_void, buffer: *mut u8, length: u32, flags: u32) -> i32;
    }
}

const _: () = assert!(BCRYPT_USE_SYSTEM_PREFERRED_RNG == 2);
