//! The environment of the process: that of the first Wine process of the session.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use windows_sys::Win32::System::Environment::GetEnvironmentVariableW;

/// The folder, as a Linux path, in which each stand-in leaves its log, its port and its records. Without it, a stand-in
/// writes to standard error alone and has no drive channel.
pub const FOLDER: &str = "WEIR_WINE_DIR";

/// A string in UTF-16 with its terminating zero.
pub fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// The value of a variable; `None` if it is not set or empty.
pub fn var(name: &str) -> Option<String> {
    let name = wide(name);
    let mut value = vec![0u16; 260];
    loop {
        let room = u32::try_from(value.len()).unwrap_or(u32::MAX);
        // SAFETY: the name ends with a zero, and there is room for that many units.
        let length = unsafe { GetEnvironmentVariableW(name.as_ptr(), value.as_mut_ptr(), room) } as usize;
        if length < value.len() {
            value.truncate(length);
            return (length != 0).then(|| String::from_utf16_lossy(&value));
        }
        value.resize(length + 1, 0);
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
    let mut path = windows_path(&var(FOLDER)?);
    path.push('\\');
    path.push_str(name);
    Some(path)
}
