//! Drivers as the loader maps them: their imports of what Wine's kernel lacks are pointed at [`crate::kernel`], and what
//! they leave behind is written down when they are unloaded.

use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{CStr, c_void};
use core::mem::zeroed;
use core::ptr::null_mut;

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_IMAGE, MEMORY_BASIC_INFORMATION, PAGE_READWRITE, VirtualProtect, VirtualQuery,
};
use wine_support::json::{Value, json};
use wine_support::log;
use wine_support::sync::Mutex;

use crate::sys::nt::{LIST_ENTRY, NTSTATUS, UNICODE_STRING};
use crate::verify::Leak;
use crate::{kernel, wfp};

/// LDR_DLL_NOTIFICATION_DATA: the same for a module that is loaded and one that is unloaded.
#[repr(C)]
struct Notification {
    flags: u32,
    full_name: *const UNICODE_STRING,
    base_name: *const UNICODE_STRING,
    base: *mut u8,
    size: u32,
}

/// The head of LDR_DATA_TABLE_ENTRY.
#[repr(C)]
struct LoaderEntry {
    links: [LIST_ENTRY; 3],
    base: *mut u8,
    entry: *mut c_void,
    size: u32,
    full_name: UNICODE_STRING,
    base_name: UNICODE_STRING,
}

#[link(name = "ntdll.dll", kind = "raw-dylib", modifiers = "+verbatim")]
unsafe extern "system" {
    fn LdrAddRefDll(flags: u32, module: *mut c_void) -> NTSTATUS;
    fn LdrUnloadDll(module: *mut c_void) -> NTSTATUS;
    fn LdrRegisterDllNotification(
        flags: u32,
        callback: unsafe extern "system" fn(reason: u32, data: *const Notification, context: *mut c_void),
        context: *mut c_void,
        cookie: *mut *mut c_void,
    ) -> NTSTATUS;
    fn LdrEnumerateLoadedModules(
        flags: u32,
        callback: unsafe extern "system" fn(entry: *mut LoaderEntry, context: *mut c_void, stop: *mut u8),
        context: *mut c_void,
    ) -> NTSTATUS;
}

/// `LDR_ADDREF_DLL_PIN`.
const PIN: u32 = 1;
/// `LDR_DLL_NOTIFICATION_REASON_*`.
const LOADED: u32 = 1;
const UNLOADED: u32 = 2;

/// A driver that is mapped.
struct Driver {
    base: usize,
    size: usize,
    name: String,
}

/// The drivers whose imports were looked through.
static DRIVERS: Mutex<Vec<Driver>> = Mutex::new(Vec::new());
/// What each driver left when it was unloaded.
static UNLOADS: Mutex<Vec<Value>> = Mutex::new(Vec::new());

/// Watches the loader from here on. `own` is this image, which stays loaded: its threads outlive the driver that
/// imported from it.
pub(crate) fn start(own: *mut c_void) {
    // SAFETY: the loader gave the module.
    unsafe { LdrAddRefDll(PIN, own) };
    let mut cookie = null_mut();
    // SAFETY: the callback is of this image, which stays.
    let status = unsafe { LdrRegisterDllNotification(0, notify, null_mut(), &raw mut cookie) };
    if status != 0 {
        log!("CRASH: LdrRegisterDllNotification: {status:#x}");
    }
    // What was mapped before: the driver that imports from this image, and others that it imports from.
    // SAFETY: the callback gets this image's base as its context, and only compares it.
    unsafe { LdrEnumerateLoadedModules(0, enumerated, own) };
}

unsafe extern "system" fn enumerated(entry: *mut LoaderEntry, own: *mut c_void, _stop: *mut u8) {
    // SAFETY: the loader's own entry.
    let entry = unsafe { &*entry };
    if entry.base.addr() != own.addr() {
        // SAFETY: the module is mapped.
        unsafe { loaded(&entry.base_name, entry.base, entry.size) };
    }
}

unsafe extern "system" fn notify(reason: u32, data: *const Notification, _context: *mut c_void) {
    // SAFETY: the loader's own.
    let data = unsafe { &*data };
    match reason {
        LOADED => {
            // SAFETY: the loader's own.
            let name = unsafe { &*data.base_name };
            // SAFETY: the module is mapped.
            unsafe { loaded(name, data.base, data.size) };
        }
        UNLOADED => unloaded(data.base),
        _ => {}
    }
}

/// # Safety
/// The name is the loader's and the module is mapped.
unsafe fn loaded(name: &UNICODE_STRING, base: *mut u8, size: u32) {
    // SAFETY: a counted string has that many bytes.
    let name = unsafe { core::slice::from_raw_parts(name.Buffer, usize::from(name.Length) / 2) };
    let name = String::from_utf16_lossy(name).to_lowercase();
    let mut drivers = DRIVERS.lock();
    let known = drivers.iter().any(|driver| driver.base == base.addr());
    if !is_driver(&name) || name == "fwpkclnt.sys" || known {
        return;
    }
    drivers.push(Driver { base: base.expose_provenance(), size: size as usize, name: name.clone() });
    drop(drivers);
    // SAFETY: the module is mapped.
    unsafe { patch(&name, base) };
}

/// Whether a file is a driver, by its name in lower case.
fn is_driver(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| extension == "sys")
}

/// What drivers import from, and goes after them.
const LIBRARIES: [&str; 2] = ["netio.sys", "cng.sys"];

fn unloaded(base: *mut u8) {
    let (name, alone) = {
        let mut drivers = DRIVERS.lock();
        let Some(index) = drivers.iter().position(|driver| driver.base == base.addr()) else {
            return;
        };
        let name = drivers.swap_remove(index).name;
        (name, drivers.iter().all(|driver| LIBRARIES.contains(&&*driver.name)))
    };
    let left = left();
    log!("{name} is unloaded; left behind: {}", left.len());
    // What is there may be another driver's as long as there is one.
    for leak in left.iter().filter(|_| alone) {
        log!("LEAK: {} {:#x}: {}", leak.kind, leak.id, leak.made_by);
    }
    let left: Vec<Value> = left.iter().map(describe).collect();
    UNLOADS.lock().push(json!({ "driver": name, "left": left }));
}

/// Where an address is: in which driver, and how far from its start, as the driver's map file counts.
pub(crate) fn place(address: usize) -> String {
    let drivers = DRIVERS.lock();
    let driver = drivers.iter().find(|driver| (driver.base..driver.base + driver.size).contains(&address));
    driver.map_or_else(
        || alloc::format!("{address:#x}"),
        |driver| alloc::format!("{}+{:#x}", driver.name, address - driver.base),
    )
}

/// A driver's image, which stays mapped meanwhile.
pub(crate) struct Held(usize);

/// Keeps the driver mapped that has code at an address.
pub(crate) fn hold(code: usize) -> Option<Held> {
    let base = {
        let drivers = DRIVERS.lock();
        drivers.iter().find(|driver| (driver.base..driver.base + driver.size).contains(&code))?.base
    };
    // SAFETY: the driver is mapped: it is in a call.
    unsafe { LdrAddRefDll(0, core::ptr::with_exposed_provenance_mut(base)) };
    Some(Held(base))
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: undoes `hold`.
        unsafe { LdrUnloadDll(core::ptr::with_exposed_provenance_mut(self.0)) };
    }
}

/// Addresses in drivers that stand on a stack, from its top: those that were called from, and some that were not.
pub(crate) fn return_addresses(top: usize) -> Vec<usize> {
    const WORDS: usize = 256;
    const MOST: usize = 16;
    let start = core::ptr::with_exposed_provenance::<usize>(top & !(size_of::<usize>() - 1));
    // SAFETY: MEMORY_BASIC_INFORMATION is made of integers and pointers.
    let mut information: MEMORY_BASIC_INFORMATION = unsafe { zeroed() };
    let place = &raw mut information;
    // SAFETY: the place has that size; the address is not read.
    let known = unsafe { VirtualQuery(start.cast(), place, size_of::<MEMORY_BASIC_INFORMATION>()) };
    let end = information.BaseAddress.addr() + information.RegionSize;
    if known == 0 || information.State != MEM_COMMIT {
        return Vec::new();
    }
    let count = WORDS.min((end - start.addr()) / size_of::<usize>());
    // SAFETY: so many words are on the stack, whose thread is in this call.
    let words = unsafe { core::slice::from_raw_parts(start, count) };
    let drivers = DRIVERS.lock();
    let inside =
        |word: usize| drivers.iter().any(|driver| (driver.base..driver.base + driver.size).contains(&word));
    words.iter().copied().filter(|word| inside(*word)).take(MOST).collect()
}

/// A leak, for an answer.
pub(crate) fn describe(leak: &Leak) -> Value {
    json!({ "kind": leak.kind, "id": leak.id, "from": leak.made_by })
}

/// What drivers hold now.
pub(crate) fn left() -> Vec<Leak> {
    let mut leaks = Vec::new();
    wfp::report(&mut leaks);
    kernel::report(&mut leaks);
    leaks
}

/// What each driver left when it was unloaded, the first first.
pub(crate) fn unloads() -> Vec<Value> {
    UNLOADS.lock().clone()
}

/// A field of a mapped image.
///
/// # Safety
/// The image has one of that type there.
unsafe fn at<T: Copy>(base: *const u8, offset: usize) -> T {
    // SAFETY: by the contract.
    let place = unsafe { base.add(offset) };
    // SAFETY: by the contract; fields of headers need not be aligned.
    unsafe { place.cast::<T>().read_unaligned() }
}

/// A name in a mapped image.
///
/// # Safety
/// There is text there that ends with a zero.
unsafe fn name_at<'a>(base: *const u8, offset: u32) -> &'a str {
    // SAFETY: by the contract.
    let text = unsafe { base.add(offset as usize) };
    // SAFETY: by the contract.
    unsafe { CStr::from_ptr(text.cast()) }.to_str().unwrap_or("?")
}

// PE format: offsets of what is read here.
const NEW_HEADER: usize = 0x3C;
const IMPORT_DIRECTORY: usize = 0x90;
const DESCRIPTOR_SIZE: usize = 20;
const DESCRIPTOR_NAME: usize = 12;
const DESCRIPTOR_ADDRESSES: usize = 16;
const BY_ORDINAL: u64 = 1 << 63;
/// A name follows its hint.
const HINT: u32 = 2;

/// Points the imports of a driver from the kernel at the functions that are here.
///
/// # Safety
/// A PE image for x64 is mapped there, its imports resolved.
unsafe fn patch(driver: &str, base: *mut u8) {
    // SAFETY: by the contract.
    let header = unsafe { at::<u32>(base, NEW_HEADER) } as usize;
    // SAFETY: by the contract.
    let imports = unsafe { at::<u32>(base, header + IMPORT_DIRECTORY) } as usize;
    if imports == 0 {
        return;
    }
    let mut replaced = 0;
    for descriptor in (imports..).step_by(DESCRIPTOR_SIZE) {
        // SAFETY: the directory ends with an empty descriptor.
        let library = unsafe { at::<u32>(base, descriptor + DESCRIPTOR_NAME) };
        if library == 0 {
            break;
        }
        // SAFETY: a descriptor names its library.
        let library = unsafe { name_at(base, library) };
        // SAFETY: a descriptor has both tables.
        let names = unsafe { at::<u32>(base, descriptor) } as usize;
        // SAFETY: as above.
        let addresses = unsafe { at::<u32>(base, descriptor + DESCRIPTOR_ADDRESSES) } as usize;
        for offset in (0..).step_by(size_of::<u64>()) {
            // SAFETY: the table ends with a zero.
            let entry = unsafe { at::<u64>(base, names + offset) };
            if entry == 0 {
                break;
            }
            let Some(hint) = u32::try_from(entry).ok().filter(|_| entry & BY_ORDINAL == 0) else {
                continue;
            };
            // SAFETY: an import by name leads to a hint and the name.
            let name = unsafe { name_at(base, hint + HINT) };
            #[expect(clippy::cast_ptr_alignment, reason = "the format aligns the table")]
            // SAFETY: each name has its address.
            let slot = unsafe { base.add(addresses + offset) }.cast::<*const ()>();
            // SAFETY: as above.
            replaced += usize::from(unsafe { resolve(driver, library, name, slot) });
        }
    }
    log!("{driver} is loaded at {base:p}: {replaced} of its kernel imports lead here");
}

/// Points one import at the function that is here; tells of one that nobody has.
///
/// # Safety
/// The slot is of an import address table and was resolved.
unsafe fn resolve(driver: &str, library: &str, name: &str, slot: *mut *const ()) -> bool {
    if let Some(address) = kernel::replacement(library, name) {
        let mut before = 0;
        // SAFETY: the slot is mapped.
        unsafe { VirtualProtect(slot.cast(), size_of::<usize>(), PAGE_READWRITE, &raw mut before) };
        // SAFETY: it can be written now, and nobody calls through it yet.
        unsafe { slot.write(address) };
        let mut writable = 0;
        // SAFETY: the slot is mapped.
        unsafe { VirtualProtect(slot.cast(), size_of::<usize>(), before, &raw mut writable) };
        return true;
    }
    // SAFETY: by the contract.
    let address = unsafe { slot.read() };
    // SAFETY: the loader has resolved it to code.
    if unsafe { is_stub(address) } {
        log!("GAP: {driver} imports {name} from {library}, which nobody has: a call of it ends the process");
    }
    false
}

/// Whether code is what Wine puts in the place of a function that it does not have: a page of its own outside all
/// images for a name that it does not export, and for one that its specification calls a stub, a call with two names
/// (`sub rsp, 28h; lea rcx, dll; lea rdx, name; call`).
///
/// # Safety
/// It is the address of code.
pub(crate) unsafe fn is_stub(code: *const ()) -> bool {
    // SAFETY: MEMORY_BASIC_INFORMATION is made of integers and pointers.
    let mut information: MEMORY_BASIC_INFORMATION = unsafe { zeroed() };
    let place = &raw mut information;
    // SAFETY: the place has that size; the address is not read.
    let known = unsafe { VirtualQuery(code.cast(), place, size_of::<MEMORY_BASIC_INFORMATION>()) };
    if known != 0 && information.Type != MEM_IMAGE {
        return true;
    }
    // SAFETY: code of a function is longer than a stub's, or ends on the same page.
    let bytes = unsafe { core::slice::from_raw_parts(code.cast::<u8>(), 19) };
    bytes.starts_with(&[0x48, 0x83, 0xEC, 0x28, 0x48, 0x8D, 0x0D])
        && bytes.get(11..14) == Some(&[0x48, 0x8D, 0x15])
        && bytes.get(18) == Some(&0xE8)
}
