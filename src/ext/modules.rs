//! Vendors' modules: weir as a client of the Network Module Registrar (NMR), for each interface once.
//!
//! Contract, from "Network Module Attachment", "Network Module Detachment", and the pages of the functions:
//! - ClientAttachProvider runs at PASSIVE_LEVEL, attaches by NmrClientAttachProvider and returns what that returned.
//! - After ClientDetachProvider no function of the provider's is called. STATUS_PENDING if one is in progress;
//!   NmrClientDetachProviderComplete when it has returned. Both, and the cleanup, at <= DISPATCH_LEVEL.
//! - The provider calls nothing of weir's any more when its side has detached. When ClientCleanupBindingContext comes,
//!   both have.
//! - NmrDeregisterClient starts the detaching of all, NmrWaitForClientDeregisterComplete waits for its end.
//!
//! A module's place is used again for another module; a [`Key`] names the module by place and generation. Its functions
//! are called inside its [`Door`] only.

use super::door::Door;
use super::interface::has_all_of;
use super::module::{
    EXTENSION_CONNECTION, EXTENSION_MODULE_CLIENT_DISPATCH, EXTENSION_MODULE_PROVIDER_DISPATCH,
    EXTENSION_MODULE_V1,
};
use super::plan::Row;
use super::sockets::{Sockets, detach_complete};
use crate::kernel::irql::Passive;
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status};
use crate::sys::nmr::{
    MIT_GUID, NPI_CLIENT_CHARACTERISTICS, NPI_MODULEID, NPI_MODULEID_u, NPI_REGISTRATION_INSTANCE,
    NmrClientAttachProvider, NmrClientDetachProviderComplete, NmrDeregisterClient, NmrRegisterClient,
    NmrWaitForClientDeregisterComplete,
};
use crate::sys::nt::{GUID, HANDLE, NTSTATUS, PVOID, STATUS_NOINTERFACE, STATUS_PENDING, STATUS_SUCCESS};
use crate::trace::{self, Guid};
use crate::wsk::ExtensionProvider;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{NonNull, null, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The most modules for an interface at a time.
pub(super) const MODULES: usize = 4;

/// weir, as a module: {3B8A04C9-7A0E-4B0B-9C2C-5D8E5A0F64D1}.
static MODULE_ID: NPI_MODULEID = NPI_MODULEID {
    Length: 24,
    Type: MIT_GUID,
    u: NPI_MODULEID_u {
        Guid: GUID {
            Data1: 0x3B8A_04C9,
            Data2: 0x7A0E,
            Data3: 0x4B0B,
            Data4: [0x9C, 0x2C, 0x5D, 0x8E, 0x5A, 0x0F, 0x64, 0xD1],
        },
    },
};

static CLIENT_DISPATCH: EXTENSION_MODULE_CLIENT_DISPATCH = EXTENSION_MODULE_CLIENT_DISPATCH {
    Size: 16,
    Version: EXTENSION_MODULE_V1,
    Reserved: 0,
    DetachComplete: detach_complete,
};

const _: () = assert!(size_of::<NPI_MODULEID>() == 24);
const _: () = assert!(size_of::<NPI_CLIENT_CHARACTERISTICS>() == 72);
const _: () = assert!(size_of::<NPI_REGISTRATION_INSTANCE>() == 40);
const _: () = assert!(size_of::<EXTENSION_MODULE_CLIENT_DISPATCH>() == 16);

/// A module that is, or was, attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    place: u8,
    generation: u32,
}

impl Key {
    pub(super) const NOBODY: Self = Self { place: u8::MAX, generation: 0 };

    pub(super) const fn to_u64(self) -> u64 {
        (self.place as u64) << 32 | self.generation as u64
    }

    #[allow(clippy::cast_possible_truncation, reason = "the halves of the word")]
    pub(super) const fn from_u64(word: u64) -> Self {
        Self { place: (word >> 32) as u8, generation: word as u32 }
    }
}

/// A place for a module.
pub(super) struct Module {
    door: Door,
    binding: AtomicPtr<c_void>,
    /// The provider's binding context.
    context: AtomicPtr<c_void>,
    dispatch: AtomicPtr<EXTENSION_MODULE_PROVIDER_DISPATCH>,
    /// The module's identifier, in halves.
    id: [AtomicU64; 2],
    client: AtomicPtr<Client>,
}

/// Being inside a module's door: its functions, those for its connections included, may be called.
pub(super) struct Inside<'m> {
    module: &'m Module,
}

impl Module {
    fn new() -> Self {
        Self {
            door: Door::new(),
            binding: AtomicPtr::new(null_mut()),
            context: AtomicPtr::new(null_mut()),
            dispatch: AtomicPtr::new(null_mut()),
            id: [const { AtomicU64::new(0) }; 2],
            client: AtomicPtr::new(null_mut()),
        }
    }

    /// Passes the module's door.
    fn enter(&self, generation: u32) -> Option<Inside<'_>> {
        // Made only when it is inside: dropping it leaves.
        self.door.enter(generation).then(|| Inside { module: self })
    }

    fn set_id(&self, id: Guid) {
        let numbers = u64::from(id.data1) << 32 | u64::from(id.data2) << 16 | u64::from(id.data3);
        for (place, half) in self.id.iter().zip([numbers, u64::from_be_bytes(id.data4)]) {
            place.store(half, Ordering::Relaxed);
        }
    }

    fn id(&self) -> Guid {
        let [numbers, bytes] = self.id.each_ref().map(|half| half.load(Ordering::Relaxed));
        #[allow(clippy::cast_possible_truncation, reason = "as they were put together")]
        let (data1, data2, data3) = ((numbers >> 32) as u32, (numbers >> 16) as u16, numbers as u16);
        Guid { data1, data2, data3, data4: bytes.to_be_bytes() }
    }

    fn client(&self) -> Option<&Client> {
        // SAFETY: stored when the block was made, in which this lies.
        unsafe { self.client.load(Ordering::Relaxed).as_ref() }
    }
}

impl Inside<'_> {
    fn table(&self) -> Option<&EXTENSION_MODULE_PROVIDER_DISPATCH> {
        let table = self.module.dispatch.load(Ordering::Relaxed);
        // SAFETY: looked over when the module came; it stays until weir has detached, which being inside holds up.
        unsafe { table.as_ref() }
    }

    /// Offers a socket.
    ///
    /// # Safety
    /// `client_dispatch` is the interface's table, and it and `client_context` stay until the module has let go.
    ///
    /// # Errors
    /// What the module answers other than exactly STATUS_SUCCESS.
    pub(super) unsafe fn attach(
        &self,
        _passive: &Passive,
        connection: &EXTENSION_CONNECTION,
        client_context: PVOID,
        client_dispatch: *const c_void,
    ) -> Result<ExtensionProvider> {
        let function = self.table().and_then(|table| table.AttachConnection).ok_or(Status::NOT_SUPPORTED)?;
        let mut provider = ExtensionProvider { context: null_mut(), dispatch: null() };
        // SAFETY: inside the door, at PASSIVE_LEVEL; the caller's promise.
        let status = unsafe {
            function(
                self.module.context.load(Ordering::Relaxed),
                connection,
                client_context,
                client_dispatch,
                &raw mut provider.context,
                &raw mut provider.dispatch,
            )
        };
        Status(status).exact()?;
        Ok(provider)
    }

    /// Has the module let go of a socket. STATUS_PENDING: `DetachComplete` follows.
    ///
    /// # Safety
    /// `provider_context` came from [`Inside::attach`] of this module, and this is called once for it.
    pub(super) unsafe fn detach(&self, _passive: &Passive, provider_context: PVOID) -> Status {
        let function = self.table().and_then(|table| table.DetachConnection);
        let Some(function) = function else { return Status::NOT_SUPPORTED };
        // SAFETY: inside the door, at PASSIVE_LEVEL; the caller's promise.
        Status(unsafe { function(provider_context) })
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.module.door.leave() {
            // SAFETY: the registrar's handle, whose detach was answered with STATUS_PENDING, or is about to be; completed
            // once, by the last one inside.
            unsafe { NmrClientDetachProviderComplete(self.module.binding.load(Ordering::Relaxed)) };
        }
    }
}

/// weir as a client of one interface.
pub(super) struct Client {
    modules: [Module; MODULES],
    /// Written before the registration, and read by the registrar until it is deregistered.
    characteristics: UnsafeCell<MaybeUninit<NPI_CLIENT_CHARACTERISTICS>>,
    /// NULL: not registered.
    handle: AtomicPtr<c_void>,
    home: AtomicPtr<Sockets>,
    interface: Guid,
}

// SAFETY: the characteristics are written by the one who registers, before anybody else reads them; their pointers are to
// statics and to the plan, which lasts as long. The rest is atomic or constant.
unsafe impl Sync for Client {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl Send for Client {}

impl Client {
    pub(super) fn new(row: &Row) -> Self {
        Self {
            modules: core::array::from_fn(|_| Module::new()),
            characteristics: UnsafeCell::new(MaybeUninit::uninit()),
            handle: AtomicPtr::new(null_mut()),
            home: AtomicPtr::new(null_mut()),
            interface: row.interface(),
        }
    }

    /// Tells it, and its modules, where they are. They do not move from here on.
    pub(super) fn settle(&self, home: *const Sockets) {
        self.home.store(home.cast_mut(), Ordering::Relaxed);
        for module in &self.modules {
            module.client.store(core::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        }
    }

    fn home(&self) -> Option<&Sockets> {
        // SAFETY: the block that this lies in.
        unsafe { self.home.load(Ordering::Relaxed).as_ref() }
    }

    /// Something has come or gone.
    fn changed(&self) {
        if let Some(home) = self.home() {
            home.modules_changed();
        }
    }

    /// The modules that are attached.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        (0_u8..).zip(&self.modules).filter_map(|(place, module)| {
            let generation = module.door.generation();
            module.door.is_open(generation).then_some(Key { place, generation })
        })
    }

    fn module(&self, key: Key) -> Option<&Module> {
        self.modules.get(usize::from(key.place))
    }

    /// Passes a module's door; `None`: it is leaving, or has left.
    pub(super) fn enter(&self, key: Key) -> Option<Inside<'_>> {
        self.module(key)?.enter(key.generation)
    }

    /// Whether a module's functions may be called.
    pub(super) fn is_open(&self, key: Key) -> bool {
        self.module(key).is_some_and(|module| module.door.is_open(key.generation))
    }

    /// Whether a module may still call: it has not been cleaned up after.
    pub(super) fn is_bound(&self, key: Key) -> bool {
        self.module(key).is_some_and(|module| module.door.is_bound(key.generation))
    }

    /// A module's identifier.
    pub(super) fn id(&self, key: Key) -> Option<Guid> {
        self.module(key).filter(|module| module.door.is_bound(key.generation)).map(Module::id)
    }

    /// Registers weir with the registrar. Modules come from now on, from within this call too.
    ///
    /// # Errors
    /// What NmrRegisterClient returns.
    pub(super) fn register(&self, _passive: &Passive, row: &Row) -> Result {
        let characteristics = NPI_CLIENT_CHARACTERISTICS {
            Version: 0,
            Length: 72,
            ClientAttachProvider: Some(attach_provider),
            ClientDetachProvider: Some(detach_provider),
            ClientCleanupBindingContext: Some(clean_up),
            ClientRegistrationInstance: NPI_REGISTRATION_INSTANCE {
                Version: 0,
                Size: 40,
                NpiId: row.npi(),
                ModuleId: &raw const MODULE_ID,
                Number: 0,
                NpiSpecificCharacteristics: null(),
            },
        };
        let place = self.characteristics.get().cast::<NPI_CLIENT_CHARACTERISTICS>();
        // SAFETY: not registered: nobody reads it.
        unsafe { place.write(characteristics) };
        let mut handle: HANDLE = null_mut();
        let context = core::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: PASSIVE_LEVEL; characteristics and context stay where they are until this is deregistered.
        Status(unsafe { NmrRegisterClient(place, context, &raw mut handle) }).exact()?;
        self.handle.store(handle, Ordering::Relaxed);
        Ok(())
    }

    /// Begins to detach from every module.
    pub(super) fn deregister(&self) {
        let handle = self.handle.load(Ordering::Relaxed);
        if handle.is_null() {
            return;
        }
        // SAFETY: registered.
        let status = Status(unsafe { NmrDeregisterClient(handle) });
        if status != Status::PENDING {
            // There is nothing to wait for.
            self.handle.store(null_mut(), Ordering::Relaxed);
            let operation = "NmrDeregisterClient";
            trace::emit(&trace::Event::Fault { operation, status: status.into() });
        }
    }

    /// Waits until weir has detached from every module, and the modules from it.
    pub(super) fn wait(&self, passive: &Passive) {
        let handle = self.handle.swap(null_mut(), Ordering::Relaxed);
        if handle.is_null() {
            return;
        }
        // The registrar's wait has no bound, and there is no way back: weir's callbacks must not go while a module may
        // call them. So it is told who holds weir up.
        let deadline = time::since_boot().as_100ns().saturating_add(PATIENCE.as_100ns());
        let left = || self.modules.iter().any(|module| module.door.is_taken());
        while left() && time::since_boot().as_100ns() < deadline {
            time::delay(passive, PAUSE);
        }
        for module in &self.modules {
            if module.door.is_taken() {
                let operation = "a vendor's module does not detach";
                trace::emit(&trace::Event::Fault { operation, status: Status::PENDING.into() });
            }
        }
        // SAFETY: deregistered; PASSIVE_LEVEL.
        let _waited = unsafe { NmrWaitForClientDeregisterComplete(handle) };
    }
}

/// How long modules have to detach before it is told that they do not, and how long it takes from look to look.
const PATIENCE: Interval = Interval::from_millis(10_000);
const PAUSE: Interval = Interval::from_millis(1);

/// NPI_CLIENT_ATTACH_PROVIDER_FN. PASSIVE_LEVEL.
#[allow(non_snake_case, reason = "the documentation's names")]
unsafe extern "system" fn attach_provider(
    NmrBindingHandle: HANDLE,
    ClientContext: PVOID,
    ProviderRegistrationInstance: *const NPI_REGISTRATION_INSTANCE,
) -> NTSTATUS {
    // SAFETY: the context of the registration.
    let Some(client) = (unsafe { ClientContext.cast::<Client>().as_ref() }) else {
        return STATUS_NOINTERFACE;
    };
    let interface = client.interface;
    // SAFETY: the registrar's structure, valid for the call.
    let id = unsafe { module_id(ProviderRegistrationInstance) };
    let Some(module) = client.modules.iter().find(|module| module.door.take()) else {
        trace::emit(&trace::Event::ExtensionProviderAttached { interface, module: id, usable: false });
        return STATUS_NOINTERFACE;
    };
    // Whatever happens meanwhile, the module is not let go before this is done with it.
    let inside = Inside { module };
    module.set_id(id);
    module.binding.store(NmrBindingHandle, Ordering::Relaxed);
    let (mut context, mut dispatch) = (null_mut(), null());
    let binding_context = core::ptr::from_ref(module).cast_mut().cast::<c_void>();
    // SAFETY: within ClientAttachProvider, once; context and table stay until the cleanup.
    let status = unsafe {
        NmrClientAttachProvider(
            NmrBindingHandle,
            binding_context,
            (&raw const CLIENT_DISPATCH).cast(),
            &raw mut context,
            &raw mut dispatch,
        )
    };
    if status != STATUS_SUCCESS {
        // It is not bound, so nobody waits for it.
        core::mem::forget(inside);
        module.door.vacate();
        return status;
    }
    let dispatch = dispatch.cast_mut().cast::<EXTENSION_MODULE_PROVIDER_DISPATCH>();
    // SAFETY: STATUS_SUCCESS: the provider's table, which stays until weir has detached.
    let usable = unsafe { is_usable(dispatch) };
    trace::emit(&trace::Event::ExtensionProviderAttached { interface, module: id, usable });
    if usable {
        module.context.store(context, Ordering::Relaxed);
        module.dispatch.store(dispatch, Ordering::Relaxed);
        module.door.open();
        if let Some(home) = client.home() {
            home.module_came();
        }
    }
    drop(inside);
    status
}

/// The identifier in a module's registration; zero if it has one of another kind.
///
/// # Safety
/// `instance` is NULL, or a registration that is valid for the call.
unsafe fn module_id(instance: *const NPI_REGISTRATION_INSTANCE) -> Guid {
    const NONE: Guid = Guid { data1: 0, data2: 0, data3: 0, data4: [0; 8] };
    // SAFETY: the caller's promise.
    let Some(instance) = (unsafe { instance.as_ref() }) else { return NONE };
    // SAFETY: part of the registration, and as valid.
    let Some(id) = (unsafe { instance.ModuleId.as_ref() }) else { return NONE };
    if id.Type != MIT_GUID {
        return NONE;
    }
    // SAFETY: the type says which.
    Guid::from(unsafe { id.u.Guid })
}

/// Whether a module's table has what weir calls.
///
/// # Safety
/// `table` is NULL, or points to a table that begins with its size and version.
unsafe fn is_usable(table: *const EXTENSION_MODULE_PROVIDER_DISPATCH) -> bool {
    let Some(place) = NonNull::new(table.cast_mut()) else { return false };
    // SAFETY: a table begins with its size and version (contract).
    if !unsafe { has_all_of::<EXTENSION_MODULE_PROVIDER_DISPATCH>(place.cast(), EXTENSION_MODULE_V1) } {
        return false;
    }
    // SAFETY: aligned, and large enough, as it says.
    let table = unsafe { place.as_ref() };
    table.AttachConnection.is_some() && table.DetachConnection.is_some()
}

/// NPI_CLIENT_DETACH_PROVIDER_FN. IRQL <= DISPATCH_LEVEL.
#[allow(non_snake_case, reason = "the documentation's names")]
unsafe extern "system" fn detach_provider(ClientBindingContext: PVOID) -> NTSTATUS {
    // SAFETY: the binding's context: a place in the block.
    let Some(module) = (unsafe { ClientBindingContext.cast::<Module>().as_ref() }) else {
        return STATUS_SUCCESS;
    };
    let Some(client) = module.client() else { return STATUS_SUCCESS };
    module.door.shut();
    let (interface, module_id) = (client.interface, module.id());
    trace::emit(&trace::Event::ExtensionProviderDetached { interface, module: module_id });
    client.changed();
    if module.door.leave() { STATUS_SUCCESS } else { STATUS_PENDING }
}

/// NPI_CLIENT_CLEANUP_BINDING_CONTEXT_FN. IRQL <= DISPATCH_LEVEL.
#[allow(non_snake_case, reason = "the documentation's names")]
unsafe extern "system" fn clean_up(ClientBindingContext: PVOID) {
    // SAFETY: the binding's context: a place in the block.
    let Some(module) = (unsafe { ClientBindingContext.cast::<Module>().as_ref() }) else { return };
    let client = module.client();
    module.door.vacate();
    if let Some(client) = client {
        client.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_let_in_does_not_leave() {
        let module = Module::new();
        assert!(module.enter(0).is_none());
        assert!(module.door.take());
        let generation = module.door.generation();
        assert_eq!(generation, 1);
        assert!(module.enter(generation).is_none());
        module.door.open();
        let inside = module.enter(generation);
        assert!(inside.is_some());
        module.door.shut();
        assert!(module.enter(generation).is_none());
        std::mem::forget(inside);
        assert!(!module.door.leave(), "who shut it");
        assert!(!module.door.leave(), "who has taken the place");
        assert!(module.door.leave(), "who had entered");
    }

    #[test]
    fn a_key_survives_the_way_through_a_word() {
        for key in [Key::NOBODY, Key { place: 3, generation: u32::MAX }] {
            assert_eq!(Key::from_u64(key.to_u64()), key);
        }
    }

    #[test]
    fn a_table_is_looked_over() {
        unsafe extern "system" fn detach(_: PVOID) -> NTSTATUS {
            STATUS_SUCCESS
        }
        let good = EXTENSION_MODULE_PROVIDER_DISPATCH {
            Size: 24,
            Version: 1,
            Reserved: 0,
            AttachConnection: None,
            DetachConnection: Some(detach),
        };
        // SAFETY: tables, or NULL.
        let usable = |table: *const EXTENSION_MODULE_PROVIDER_DISPATCH| unsafe { is_usable(table) };
        assert!(!usable(null()));
        assert!(!usable(&raw const good), "it attaches nothing");
        let short = EXTENSION_MODULE_PROVIDER_DISPATCH { Size: 16, ..good };
        assert!(!usable(&raw const short));
        let old = EXTENSION_MODULE_PROVIDER_DISPATCH { Version: 0, ..good };
        assert!(!usable(&raw const old));
    }
}
