//! A vendor's module at the Network Module Registrar, scripted. It keeps its side of the contract unless a script says
//! otherwise, and reports as violations of the verifier's what weir does against its own.

use super::tables::{Function, Interface};
use super::{at, lock};
use ntsim::sys::nmr::{
    MIT_GUID, NPI_MODULEID, NPI_MODULEID_u, NPI_PROVIDER_CHARACTERISTICS, NPI_REGISTRATION_INSTANCE, NPIID,
    NmrDeregisterProvider, NmrProviderDetachClientComplete, NmrRegisterProvider,
    NmrWaitForProviderDeregisterComplete,
};
use ntsim::sys::nt::{
    DISPATCH_LEVEL, GUID, HANDLE, KIRQL, NTSTATUS, PASSIVE_LEVEL, PVOID, STATUS_INVALID_PARAMETER,
    STATUS_PENDING, STATUS_SUCCESS,
};
use ntsim::verify::violation;
use ntsim::{irql, nmr};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::{null, null_mut, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use weir::ext::module::{
    EXTENSION_CONNECTION, EXTENSION_MODULE_CLIENT_DISPATCH, EXTENSION_MODULE_PROVIDER_DISPATCH,
    EXTENSION_MODULE_V1,
};

ntsim::rules! {
    CONCURRENT = ("two calls into a module at once", "src/ext/module.rs: IRQL of both");
    TABLE = ("weir's table is not what the interface says", "src/ext/module.rs: Size, Version");
    CONNECTION = ("the description of the socket is not sound", "src/ext/module.rs: EXTENSION_CONNECTION");
    DETACHED = ("DetachConnection for what is not attached", "src/ext/module.rs: DetachConnection");
    FUNCTION = ("a provider's function for what is not attached", "src/ext/module.rs: DetachConnection");
    AFTER_LEAVING = ("a new binding of a module that has left", "NmrDeregisterProvider");
}

/// What a module answers to AttachConnection.
#[derive(Clone)]
pub enum Answer {
    Grant,
    /// Grants, after calling back.
    GrantAndCall(Inline),
    /// Calls back, and returns that status.
    CallAndFail(Inline, NTSTATUS),
    /// Grants, with a table that weir cannot use: the n-th of [`Interface::wrong_tables`].
    GrantWrongly(usize),
    /// Grants, with NULL for the table.
    NullTable,
    /// That status, with outputs that must not be used.
    Status(NTSTATUS),
}

/// What a script does with an attachment at hand.
#[derive(Clone)]
pub struct Inline(Arc<dyn Fn(&Attachment) + Send + Sync>);

impl Inline {
    pub fn new(body: impl Fn(&Attachment) + Send + Sync + 'static) -> Self {
        Self(Arc::new(body))
    }
}

/// What a module answers to DetachConnection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// STATUS_SUCCESS, or STATUS_PENDING while a callback is in progress.
    Proper,
    /// STATUS_PENDING; complete so much later, on another thread, at that IRQL.
    Later(Duration, KIRQL),
    /// STATUS_PENDING; complete before the call returns.
    Early,
    /// STATUS_PENDING, and never completes.
    Never,
    /// A status that there is none of.
    Status(NTSTATUS),
}

/// The form of the table that the module gives the registrar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Proper,
    Short,
    Old,
    NoAttach,
    NoDetach,
    /// A violation of its own, which the registrar reports.
    Null,
    /// Larger than weir knows it.
    Larger,
    /// The module declines.
    Declines(NTSTATUS),
}

type AttachScript = Arc<dyn Fn(&EXTENSION_CONNECTION) -> Answer + Send + Sync>;
type DetachScript = Arc<dyn Fn(&Attachment) -> Release + Send + Sync>;

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub bindings: u64,
    pub unbound: u64,
    /// AttachConnection.
    pub offered: u64,
    pub granted: u64,
    /// DetachConnection.
    pub detached: u64,
    /// Attachments that ended with the binding.
    pub ended_with_binding: u64,
    pub completed: u64,
    pub functions: u64,
    /// Callbacks made by the rules.
    pub callbacks: u64,
}

struct State {
    counts: Counts,
    binding: usize,
    client: Option<(usize, usize)>,
    /// The registrar has asked to detach: no more calls.
    leaving: bool,
    /// Callbacks and completions in progress.
    inside: u32,
    /// ProviderDetachClient is pending.
    pended: bool,
    attachments: Vec<Arc<Attachment>>,
    functions: Vec<(u64, Function)>,
    sockets: Vec<EXTENSION_CONNECTION>,
}

struct Shared {
    interface: Interface,
    npi: NPIID,
    id: NPI_MODULEID,
    form: Form,
    attach: Mutex<AttachScript>,
    detach: Mutex<DetachScript>,
    state: Mutex<State>,
    in_call: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The block that the registrar hands around is this module's own.
    characteristics: Mutex<Option<Box<NPI_PROVIDER_CHARACTERISTICS>>>,
}

// SAFETY: the characteristics' pointers are to the block itself, which does not change.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A module. Leaves when dropped.
pub struct Module {
    shared: Arc<Shared>,
    handle: Mutex<usize>,
    leaving: AtomicBool,
}

/// Modules by the context that the registrar hands around, so that a wrong one is noticed and not followed.
static MODULES: Mutex<Option<HashMap<usize, Weak<Shared>>>> = Mutex::new(None);
/// Attachments by the context that weir has, the same.
static ATTACHMENTS: Mutex<Option<HashMap<usize, Arc<Attachment>>>> = Mutex::new(None);
static NEXT: AtomicU32 = AtomicU32::new(1);
/// Beyond the states of `connection_v1`, as which they come out.
static NEXT_ATTACHMENT: AtomicU64 = AtomicU64::new(1000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// AttachConnection runs.
    Attaching,
    Attached,
    /// DetachConnection came, or the binding's end.
    Over,
}

struct AttachmentState {
    phase: Phase,
    inside: u32,
    /// DetachConnection is pending until nobody is inside.
    complete: bool,
}

/// One of weir's sockets, as a module has it.
pub struct Attachment {
    /// A number that no other one has.
    pub id: u64,
    pub connection: EXTENSION_CONNECTION,
    pub interface: Interface,
    module: Weak<Shared>,
    client_context: usize,
    client_dispatch: usize,
    state: Mutex<AttachmentState>,
}

impl Module {
    /// A module of the interface that grants everything; registered.
    pub fn register(interface: Interface) -> Self {
        Self::register_as(interface, interface.npi(), Form::Proper)
    }

    /// A module of an NPIID that speaks the interface.
    pub fn register_as(interface: Interface, npi: GUID, form: Form) -> Self {
        Self::prepare(interface, npi, form).registered()
    }

    /// A module that answers so, from the first socket on.
    pub fn answering(
        interface: Interface,
        script: impl Fn(&EXTENSION_CONNECTION) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let module = Self::prepare(interface, interface.npi(), Form::Proper);
        module.answer(script);
        module.registered()
    }

    fn prepare(interface: Interface, npi: GUID, form: Form) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = NPI_MODULEID {
            Length: u16::try_from(size_of::<NPI_MODULEID>()).unwrap(),
            Type: MIT_GUID,
            u: NPI_MODULEID_u { Guid: GUID { Data1: number, Data2: 0x4D6F, Data3: 0x64, Data4: [9; 8] } },
        };
        let shared = Arc::new(Shared {
            interface,
            npi,
            id,
            form,
            attach: Mutex::new(Arc::new(|_| Answer::Grant)),
            detach: Mutex::new(Arc::new(|_| Release::Proper)),
            state: Mutex::new(State {
                counts: Counts::default(),
                binding: 0,
                client: None,
                leaving: false,
                inside: 0,
                pended: false,
                attachments: Vec::new(),
                functions: Vec::new(),
                sockets: Vec::new(),
            }),
            in_call: AtomicBool::new(false),
            threads: Mutex::default(),
            characteristics: Mutex::default(),
        });
        let instance = NPI_REGISTRATION_INSTANCE {
            Version: 0,
            Size: u16::try_from(size_of::<NPI_REGISTRATION_INSTANCE>()).unwrap(),
            NpiId: &raw const shared.npi,
            ModuleId: &raw const shared.id,
            Number: number,
            NpiSpecificCharacteristics: null(),
        };
        let characteristics = Box::new(NPI_PROVIDER_CHARACTERISTICS {
            Version: 0,
            Length: u16::try_from(size_of::<NPI_PROVIDER_CHARACTERISTICS>()).unwrap(),
            ProviderAttachClient: Some(attach_client),
            ProviderDetachClient: Some(detach_client),
            ProviderCleanupBindingContext: Some(clean_up),
            ProviderRegistrationInstance: instance,
        });
        *lock(&shared.characteristics) = Some(characteristics);
        Self { shared, handle: Mutex::new(0), leaving: AtomicBool::new(false) }
    }

    fn registered(self) -> Self {
        let context = Arc::as_ptr(&self.shared).cast_mut().cast::<c_void>();
        lock(&MODULES)
            .get_or_insert_default()
            .insert(context.expose_provenance(), Arc::downgrade(&self.shared));
        let characteristics: *const _ = &raw const **lock(&self.shared.characteristics).as_ref().unwrap();
        let mut handle = null_mut();
        // SAFETY: the module's characteristics and context, which stay until it has left.
        let status = ntsim::fault::exempt(|| unsafe {
            NmrRegisterProvider(characteristics, context, &raw mut handle)
        });
        assert_eq!(status, STATUS_SUCCESS);
        *lock(&self.handle) = handle.expose_provenance();
        self
    }

    /// Answers AttachConnection so, from now on.
    pub fn answer(&self, script: impl Fn(&EXTENSION_CONNECTION) -> Answer + Send + Sync + 'static) {
        *lock(&self.shared.attach) = Arc::new(script);
    }

    /// Answers DetachConnection so, from now on.
    pub fn release(&self, script: impl Fn(&Attachment) -> Release + Send + Sync + 'static) {
        *lock(&self.shared.detach) = Arc::new(script);
    }

    pub fn interface(&self) -> Interface {
        self.shared.interface
    }

    pub fn id(&self) -> weir::trace::Guid {
        // SAFETY: set as a GUID.
        weir::trace::Guid::from(unsafe { self.shared.id.u.Guid })
    }

    pub fn counts(&self) -> Counts {
        lock(&self.shared.state).counts
    }

    /// The sockets that were offered, in their order.
    pub fn sockets(&self) -> Vec<EXTENSION_CONNECTION> {
        lock(&self.shared.state).sockets.clone()
    }

    /// What weir called, of which attachment.
    pub fn functions(&self) -> Vec<(u64, Function)> {
        lock(&self.shared.state).functions.clone()
    }

    /// The attachments that are there.
    pub fn attachments(&self) -> Vec<Arc<Attachment>> {
        let attachments = lock(&self.shared.state).attachments.clone();
        attachments.into_iter().filter(|attachment| attachment.is_attached()).collect()
    }

    /// All attachments that there were.
    pub fn all_attachments(&self) -> Vec<Arc<Attachment>> {
        lock(&self.shared.state).attachments.clone()
    }

    /// Leaves: deregisters, and waits until that is complete. Once; again does nothing.
    pub fn leave(&self) {
        self.begin_leaving(PASSIVE_LEVEL);
        self.finish_leaving();
    }

    /// Deregisters at that IRQL, without waiting. Once; again does nothing.
    pub fn begin_leaving(&self, level: KIRQL) {
        let handle = *lock(&self.handle);
        if handle != 0 && !self.leaving.swap(true, Ordering::Relaxed) {
            // SAFETY: the module's own handle.
            at(level, || unsafe { NmrDeregisterProvider(with_exposed_provenance_mut(handle)) });
        }
    }

    pub fn finish_leaving(&self) {
        let handle = std::mem::take(&mut *lock(&self.handle));
        if handle == 0 {
            return;
        }
        // SAFETY: the module's own handle.
        unsafe { NmrWaitForProviderDeregisterComplete(with_exposed_provenance_mut(handle)) };
        let context = Arc::as_ptr(&self.shared).addr();
        lock(&MODULES).get_or_insert_default().remove(&context);
        let threads = std::mem::take(&mut *lock(&self.shared.threads));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.leave();
        let attachments = std::mem::take(&mut lock(&self.shared.state).attachments);
        let mut all = lock(&ATTACHMENTS);
        for attachment in attachments {
            all.get_or_insert_default().remove(&Arc::as_ptr(&attachment).addr());
        }
    }
}

impl Shared {
    fn of(context: PVOID, api: &'static str) -> Option<Arc<Self>> {
        let found = lock(&MODULES).get_or_insert_default().get(&context.addr()).and_then(Weak::upgrade);
        if found.is_none() {
            violation(&AFTER_LEAVING, api, format!("context {context:p}"));
        }
        found
    }

    fn binding(&self) -> HANDLE {
        with_exposed_provenance_mut(lock(&self.state).binding)
    }

    /// A call of weir's into the module.
    fn called<T>(&self, api: &'static str, body: impl FnOnce() -> T) -> T {
        irql::require_at_most(api, PASSIVE_LEVEL);
        if self.in_call.swap(true, Ordering::AcqRel) {
            violation(&CONCURRENT, api, "");
        }
        let result = nmr::client_call(self.binding(), api, body);
        self.in_call.store(false, Ordering::Release);
        result
    }

    /// Enters a call into weir, unless the registrar has asked to detach.
    fn begin(&self) -> bool {
        let mut state = lock(&self.state);
        if state.leaving {
            return false;
        }
        state.inside += 1;
        true
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        state.inside -= 1;
        let done = state.pended && state.inside == 0;
        state.pended &= !done;
        let binding = state.binding;
        drop(state);
        if done {
            // SAFETY: the binding whose detach is pending.
            unsafe { NmrProviderDetachClientComplete(with_exposed_provenance_mut(binding)) };
        }
    }

    fn attached(
        self: &Arc<Self>,
        connection: *const EXTENSION_CONNECTION,
        client_context: PVOID,
        client_dispatch: *const c_void,
        out: (*mut PVOID, *mut *const c_void),
    ) -> NTSTATUS {
        const API: &str = "AttachConnection";
        const POISON: usize = 0xDEAD_BEEF_0000;
        if connection.is_null() || client_context.is_null() || client_dispatch.is_null() {
            violation(&CONNECTION, API, "something is NULL");
            return STATUS_INVALID_PARAMETER;
        }
        // SAFETY: not NULL; weir's, for the call.
        let connection = unsafe { *connection };
        check_connection(&connection);
        // SAFETY: every table begins with its size and version.
        let [size, version] = unsafe { *client_dispatch.cast::<[u16; 2]>() };
        if size != self.interface.client_size() || version != 1 {
            violation(&TABLE, API, format!("size {size}, version {version} of {:?}", self.interface));
        }
        let attachment = Arc::new(Attachment {
            id: NEXT_ATTACHMENT.fetch_add(1, Ordering::Relaxed),
            connection,
            interface: self.interface,
            module: Arc::downgrade(self),
            client_context: client_context.expose_provenance(),
            client_dispatch: client_dispatch.expose_provenance(),
            state: Mutex::new(AttachmentState { phase: Phase::Attaching, inside: 0, complete: false }),
        });
        let context = Arc::as_ptr(&attachment).cast_mut().cast::<c_void>();
        {
            let mut state = lock(&self.state);
            state.counts.offered += 1;
            state.sockets.push(connection);
            if state.leaving {
                // The registrar asked this side first: nothing is granted any more.
                return STATUS_INVALID_PARAMETER;
            }
        }
        let script = lock(&self.attach).clone();
        let poison = (std::ptr::without_provenance_mut(POISON), std::ptr::without_provenance(POISON));
        let (status, outputs) = match script(&connection) {
            Answer::Grant => (STATUS_SUCCESS, (context, self.interface.table())),
            Answer::GrantAndCall(Inline(body)) => {
                body(&attachment);
                (STATUS_SUCCESS, (context, self.interface.table()))
            }
            Answer::GrantWrongly(which) => (STATUS_SUCCESS, (context, self.interface.wrong_tables()[which])),
            Answer::NullTable => (STATUS_SUCCESS, (context, null())),
            Answer::CallAndFail(Inline(body), status) => {
                body(&attachment);
                (status, poison)
            }
            Answer::Status(status) => (status, poison),
        };
        // SAFETY: weir's, for the call.
        unsafe { *out.0 = outputs.0 };
        // SAFETY: the same.
        unsafe { *out.1 = outputs.1 };
        if status != STATUS_SUCCESS {
            lock(&attachment.state).phase = Phase::Over;
            return status;
        }
        let mut state = lock(&self.state);
        state.counts.granted += 1;
        {
            let mut own = lock(&attachment.state);
            if state.leaving {
                own.phase = Phase::Over;
                state.counts.ended_with_binding += 1;
            } else {
                own.phase = Phase::Attached;
            }
        }
        state.attachments.push(Arc::clone(&attachment));
        lock(&ATTACHMENTS).get_or_insert_default().insert(context.expose_provenance(), attachment);
        status
    }

    fn detached(self: &Arc<Self>, attachment: &Arc<Attachment>) -> NTSTATUS {
        {
            let mut state = lock(&self.state);
            let mut own = lock(&attachment.state);
            if own.phase != Phase::Attached {
                if !state.leaving {
                    violation(&DETACHED, "DetachConnection", format!("{attachment:?}: {:?}", own.phase));
                }
                // Asked first by the registrar, the module has let go already; weir does not know that yet.
                return STATUS_SUCCESS;
            }
            own.phase = Phase::Over;
            state.counts.detached += 1;
        }
        let script = lock(&self.detach).clone();
        match script(attachment) {
            Release::Proper => {
                let mut own = lock(&attachment.state);
                own.complete = own.inside != 0;
                if own.complete { STATUS_PENDING } else { STATUS_SUCCESS }
            }
            Release::Later(delay, level) => {
                let attachment = Arc::clone(attachment);
                let thread = std::thread::spawn(move || {
                    std::thread::sleep(delay);
                    attachment.complete(level);
                });
                lock(&self.threads).push(thread);
                STATUS_PENDING
            }
            Release::Early => {
                attachment.complete(PASSIVE_LEVEL);
                STATUS_PENDING
            }
            Release::Never => STATUS_PENDING,
            Release::Status(status) => status,
        }
    }
}

fn check_connection(connection: &EXTENSION_CONNECTION) {
    let &EXTENSION_CONNECTION { Size, Version, Kind, Session, Family, .. } = connection;
    let sound = usize::from(Size) == size_of::<EXTENSION_CONNECTION>()
        && Version == EXTENSION_MODULE_V1
        && Kind <= 2
        && (Session == 0) == (Kind == 0)
        && [0, 2, 23].contains(&Family)
        && (Family == 0) == (connection.LocalPort == 0 && connection.RemotePort == 0)
        && connection.Reserved == 0
        && connection.Reserved2 == 0;
    if !sound {
        violation(&CONNECTION, "AttachConnection", format!("{connection:?}"));
    }
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "attachment {} of session {}", self.id, self.connection.Session)
    }
}

impl Attachment {
    fn of(context: PVOID) -> Option<Arc<Self>> {
        lock(&ATTACHMENTS).get_or_insert_default().get(&context.addr()).cloned()
    }

    pub fn is_attached(&self) -> bool {
        lock(&self.state).phase == Phase::Attached
    }

    pub fn session(&self) -> u64 {
        self.connection.Session
    }

    /// Calls weir as the contract allows, from within AttachConnection too: `body` gets its context and table. `None`,
    /// without a call, once it is over.
    pub fn call<T>(&self, level: KIRQL, body: impl FnOnce(*mut c_void, *const c_void) -> T) -> Option<T> {
        let module = self.module.upgrade()?;
        if !module.begin() {
            return None;
        }
        let admitted = {
            let mut own = lock(&self.state);
            let admitted = own.phase != Phase::Over;
            own.inside += u32::from(admitted);
            admitted
        };
        if !admitted {
            module.end();
            return None;
        }
        lock(&module.state).counts.callbacks += 1;
        let binding = module.binding();
        // SAFETY: the caller's business; here only what weir gave is handed on.
        let result = at(level, || {
            irql::same_irql("callback", || {
                nmr::provider_call(binding, "callback", || body(self.context(), self.dispatch()))
            })
        });
        let complete = {
            let mut own = lock(&self.state);
            own.inside -= 1;
            let complete = own.complete && own.inside == 0;
            own.complete &= !complete;
            complete
        };
        if complete {
            self.complete_now(&module, level);
        }
        module.end();
        Some(result)
    }

    /// [`Interface::tell`] by the rules. Whether it was called.
    pub fn tell(&self, level: KIRQL, value: u64) -> bool {
        // SAFETY: weir's table and context, while the socket is attached.
        self.call(level, |context, dispatch| unsafe { self.interface.tell(context, dispatch, value) })
            .is_some()
    }

    /// [`Interface::tell`], whatever the contract says.
    ///
    /// # Safety
    /// weir's control plane has not stopped.
    pub unsafe fn tell_regardless(&self, level: KIRQL, value: u64) {
        // SAFETY: the block behind the context is there (contract), and the table is a constant.
        at(level, || unsafe { self.interface.tell(self.context(), self.dispatch(), value) });
    }

    fn context(&self) -> *mut c_void {
        with_exposed_provenance_mut(self.client_context)
    }

    fn dispatch(&self) -> *const c_void {
        with_exposed_provenance(self.client_dispatch)
    }

    /// DetachComplete, unless the registrar has ended the binding meanwhile.
    fn complete(&self, level: KIRQL) {
        let Some(module) = self.module.upgrade() else { return };
        if !module.begin() {
            return;
        }
        self.complete_now(&module, level);
        module.end();
    }

    fn complete_now(&self, module: &Shared, level: KIRQL) {
        let client = {
            let mut state = lock(&module.state);
            state.counts.completed += 1;
            state.client
        };
        let Some((_, table)) = client else { return };
        // SAFETY: weir's table of this binding, which is there while the module has not detached.
        let table = unsafe { *with_exposed_provenance::<EXTENSION_MODULE_CLIENT_DISPATCH>(table) };
        // SAFETY: the context of an attachment whose detach is pending.
        at(level, || unsafe { (table.DetachComplete)(self.context()) });
    }
}

/// A function of a module's table that weir called, on the attachment's side.
pub fn function(context: PVOID, function: Function, body: impl FnOnce(&Attachment) -> NTSTATUS) -> NTSTATUS {
    const API: &str = "provider's function";
    irql::require_at_most(API, DISPATCH_LEVEL);
    let Some(attachment) = Attachment::of(context) else {
        violation(&FUNCTION, API, format!("{function:?}, context {context:p}"));
        return STATUS_INVALID_PARAMETER;
    };
    let Some(module) = attachment.module.upgrade() else { return STATUS_INVALID_PARAMETER };
    let leaving = {
        let mut state = lock(&module.state);
        state.counts.functions += 1;
        state.functions.push((attachment.id, function));
        state.leaving
    };
    let require = |how: &str| {
        let phase = lock(&attachment.state).phase;
        if phase != Phase::Attached && !leaving && !lock(&module.state).leaving {
            violation(&FUNCTION, API, format!("{function:?} {how}, {attachment:?}: {phase:?}"));
        }
    };
    require("called");
    let status = nmr::client_call(module.binding(), API, || body(&attachment));
    require("still in progress");
    status
}

unsafe extern "system" fn attach_connection(
    binding_context: PVOID,
    connection: *const EXTENSION_CONNECTION,
    client_context: PVOID,
    client_dispatch: *const c_void,
    provider_context: *mut PVOID,
    provider_dispatch: *mut *const c_void,
) -> NTSTATUS {
    let Some(module) = Shared::of(binding_context, "AttachConnection") else {
        return STATUS_INVALID_PARAMETER;
    };
    module.called("AttachConnection", || {
        module.attached(connection, client_context, client_dispatch, (provider_context, provider_dispatch))
    })
}

unsafe extern "system" fn detach_connection(context: PVOID) -> NTSTATUS {
    let found = Attachment::of(context).and_then(|found| Some((found.module.upgrade()?, found)));
    let Some((module, attachment)) = found else {
        violation(&DETACHED, "DetachConnection", format!("context {context:p}"));
        return STATUS_SUCCESS;
    };
    module.called("DetachConnection", || module.detached(&attachment))
}

const TABLE_SIZE: u16 = 24;

static PROPER: EXTENSION_MODULE_PROVIDER_DISPATCH = EXTENSION_MODULE_PROVIDER_DISPATCH {
    Size: TABLE_SIZE,
    Version: EXTENSION_MODULE_V1,
    Reserved: 0,
    AttachConnection: Some(attach_connection),
    DetachConnection: Some(detach_connection),
};
static SHORT: EXTENSION_MODULE_PROVIDER_DISPATCH = EXTENSION_MODULE_PROVIDER_DISPATCH { Size: 16, ..PROPER };
static OLD: EXTENSION_MODULE_PROVIDER_DISPATCH = EXTENSION_MODULE_PROVIDER_DISPATCH { Version: 0, ..PROPER };
static NO_ATTACH: EXTENSION_MODULE_PROVIDER_DISPATCH =
    EXTENSION_MODULE_PROVIDER_DISPATCH { AttachConnection: None, ..PROPER };
static NO_DETACH: EXTENSION_MODULE_PROVIDER_DISPATCH =
    EXTENSION_MODULE_PROVIDER_DISPATCH { DetachConnection: None, ..PROPER };
#[repr(C)]
struct Larger {
    known: EXTENSION_MODULE_PROVIDER_DISPATCH,
    beyond: [u64; 4],
}
static LARGER: Larger = Larger {
    known: EXTENSION_MODULE_PROVIDER_DISPATCH { Size: TABLE_SIZE + 32, Version: 2, ..PROPER },
    beyond: [0x5A5A_5A5A_5A5A_5A5A; 4],
};

unsafe extern "system" fn attach_client(
    binding: HANDLE,
    context: PVOID,
    _client: *const NPI_REGISTRATION_INSTANCE,
    client_context: PVOID,
    client_dispatch: *const c_void,
    binding_context: *mut PVOID,
    dispatch: *mut *const c_void,
) -> NTSTATUS {
    const API: &str = "ProviderAttachClient";
    irql::require_at_most(API, PASSIVE_LEVEL);
    let Some(module) = Shared::of(context, API) else { return STATUS_INVALID_PARAMETER };
    if client_dispatch.is_null() {
        violation(&TABLE, API, "NULL");
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: not NULL; every table begins with its size and version.
    let [size, version] = unsafe { *client_dispatch.cast::<[u16; 2]>() };
    if usize::from(size) != size_of::<EXTENSION_MODULE_CLIENT_DISPATCH>() || version != EXTENSION_MODULE_V1 {
        violation(&TABLE, API, format!("size {size}, version {version}"));
    }
    let table: *const c_void = match module.form {
        Form::Declines(status) => return status,
        Form::Proper => (&raw const PROPER).cast(),
        Form::Short => (&raw const SHORT).cast(),
        Form::Old => (&raw const OLD).cast(),
        Form::NoAttach => (&raw const NO_ATTACH).cast(),
        Form::NoDetach => (&raw const NO_DETACH).cast(),
        Form::Larger => (&raw const LARGER).cast(),
        Form::Null => null(),
    };
    let mut state = lock(&module.state);
    state.counts.bindings += 1;
    state.binding = binding.expose_provenance();
    state.client = Some((client_context.expose_provenance(), client_dispatch.expose_provenance()));
    state.leaving = false;
    // SAFETY: the registrar's outputs.
    unsafe { *binding_context = context };
    // SAFETY: the same.
    unsafe { *dispatch = table };
    STATUS_SUCCESS
}

unsafe extern "system" fn detach_client(context: PVOID) -> NTSTATUS {
    let Some(module) = Shared::of(context, "ProviderDetachClient") else { return STATUS_SUCCESS };
    let mut state = lock(&module.state);
    state.leaving = true;
    let mut ended = 0;
    for attachment in &state.attachments {
        let mut own = lock(&attachment.state);
        if own.phase == Phase::Attached {
            own.phase = Phase::Over;
            ended += 1;
        }
    }
    state.counts.ended_with_binding += ended;
    state.pended = state.inside != 0;
    if state.pended { STATUS_PENDING } else { STATUS_SUCCESS }
}

unsafe extern "system" fn clean_up(context: PVOID) {
    let Some(module) = Shared::of(context, "ProviderCleanupBindingContext") else { return };
    let mut state = lock(&module.state);
    state.counts.unbound += 1;
    state.client = None;
}
