//! What a stand-in is told from outside.
//!
//! Wine gives the environment of its first process to programs, not to drivers: their process has the environment of a
//! service. So each setting is looked for in the registry, under [`KEY`].

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::null_mut;

use windows_sys::Win32::Foundation::{ERROR_MORE_DATA, ERROR_SUCCESS};
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RegGetValueW};

/// The registry key of the settings, under HKEY_LOCAL_MACHINE.
pub const KEY: &str = r"Software\weir\stand-ins";

/// The folder, as a Linux path, in which each stand-in leaves its log, its port and its records. Without it, a stand-in
/// writes to standard error alone, and nobody learns the port of its drive channel.
pub const FOLDER: &str = "Folder";

/// A string in UTF-16 with its terminating zero.
pub fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// The value of a setting, a REG_SZ; `None` if it is not there or empty.
pub fn setting(name: &str) -> Option<String> {
    let (key, name) = (wide(KEY), wide(name));
    let mut value = vec![0u16; 260];
    loop {
        let mut size = u32::try_from(value.len() * 2).unwrap_or(u32::MAX);
        let (place, size_place) = (value.as_mut_ptr(), &raw mut size);
        let (key, name) = (key.as_ptr(), name.as_ptr());
        // SAFETY: both names end with a zero, and the place has the size that is said.
        let error = unsafe {
            RegGetValueW(HKEY_LOCAL_MACHINE, key, name, RRF_RT_REG_SZ, null_mut(), place.cast(), size_place)
        };
        let units = size as usize / 2;
        match error {
            ERROR_SUCCESS => {
                let text = value.get(..units).unwrap_or(&[]);
                let text = text.split(|unit| *unit == 0).next().unwrap_or(&[]);
                return (!text.is_empty()).then(|| String::from_utf16_lossy(text));
            }
            ERROR_MORE_DATA if units > value.len() => value.resize(units, 0),
            _ => return None,
        }
    }
}

/// A Linux path as a Windows program in Wine names it: the drive Z: is the root.
pub fn windows_path(path: &str) -> String {
    if !path.starts_with('/') {
        return path.into();
    }
    let mut windows = String::from("Z:");
    windows.extend(path.chars().map(|c| if c == '/' { '\\' } else { c }));
    windows
}

/// The Windows path of a file in [`FOLDER`].
pub fn file(name: &str) -> Option<String> {
    let mut path = windows_path(&setting(FOLDER)?);
    path.push('\\');
    path.push_str(name);
    Some(path)
}
