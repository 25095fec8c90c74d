/*
 * sample.c: a driver that provides connection_v1 and label_v1 to weir. Made to be copied.
 *
 * It hooks nothing real: for each of weir's sessions it tells, every 100 ms, a metric sample of numbers that it makes up
 * and a vendor event of 16 bytes, and once a label. Where a product has something to tell, its own comes in place of
 * what is between the marks "made up".
 *
 * Objects:
 *   MODULE       one for each interface: a registration at the Network Module Registrar (NMR). Static.
 *   BINDING      one for each client of a module, that is weir. From ProviderAttachClient to
 *                ProviderCleanupBindingContext.
 *   CONNECTION   one for each of weir's sockets. From AttachConnection to DetachConnection, or to its binding's end.
 *
 * One spin lock guards all lists, flags and counts. It is never held during a call to weir. What keeps objects alive
 * during such a call, and tells when the last one has returned, are counts: BeginCall, EndCall.
 */
#include <ntifs.h> /* for ZwWaitForSingleObject; the rest is in <ntddk.h> */

#include "nmr.h"
#include "weir_connection_v1.h"
#include "weir_label_v1.h"

#define SAMPLE_TAG 'pmSW'
#define SAMPLE_PERIOD_DEFAULT 100 /* milliseconds */
#define SAMPLE_PERIOD_MIN 10
#define SAMPLE_PERIOD_MAX 60000

/* Controls (weir ctl extension control): code, and input in little-endian order. */
#define SAMPLE_CONTROL_PERIOD 1  /* UINT32: the period, in milliseconds, for all connections */
#define SAMPLE_CONTROL_BACKLOG 2 /* UINT32 direction, UINT32 0, UINT64 bytes: takes this for the backlog */

/* The sample's vendor event: session and tick, each a UINT64. */
#define SAMPLE_VENDOR_TICK 1

typedef struct _CONNECTION CONNECTION;

/* An interface that is provided: what differs between the two. */
typedef struct _MODULE {
    const NPIID *Interface;
    const void *Dispatch;            /* the interface's provider table */
    UINT16 ClientSize;               /* the least that weir's table must have */
    void (*Attached)(CONNECTION *);  /* tells what is to be told first; a call to weir is begun */
    void (*Tick)(CONNECTION *);      /* tells what is told every period; NULL: nothing. A call to weir is begun */
    HANDLE Registration;
} MODULE;

typedef struct _BINDING {
    const MODULE *Module;
    HANDLE Handle;
    const EXTENSION_MODULE_CLIENT_DISPATCH *Client;
    ULONG Calls;       /* calls to weir that are in progress */
    BOOLEAN Detached;  /* ProviderDetachClient has been called: no new calls to weir */
    BOOLEAN Completes; /* it returned STATUS_PENDING: NmrProviderDetachClientComplete follows */
} BINDING;

/* A direction's backlog and its marks. */
typedef struct _BACKLOG {
    UINT64 Low;
    UINT64 High;
    UINT64 Bytes;
    BOOLEAN Above;
} BACKLOG;

struct _CONNECTION {
    LIST_ENTRY Entry; /* in Sample.Connections */
    BINDING *Binding;
    PVOID Client;         /* weir's context */
    const void *Dispatch; /* weir's table of the interface */
    UINT64 Session;
    UINT32 EventMask; /* what weir wants to be told */
    ULONG Calls;       /* callbacks for this connection that are in progress */
    BOOLEAN Detached;  /* DetachConnection has been called: no new callbacks */
    BOOLEAN Completes; /* it returned STATUS_PENDING: DetachComplete follows */
    ULONG Round;       /* the round that it was last served in */
    UINT64 Ticks;
    BACKLOG Backlog[2]; /* by direction */
};

static struct {
    KSPIN_LOCK Lock;
    LIST_ENTRY Connections; /* the least recently served first */
    ULONG Round;
    ULONG Period;
    KEVENT Stop;
    PVOID Thread;
} Sample;

static KIRQL Acquire(void)
{
    KIRQL OldIrql;

    KeAcquireSpinLock(&Sample.Lock, &OldIrql);
    return OldIrql;
}

static void Release(KIRQL OldIrql)
{
    KeReleaseSpinLock(&Sample.Lock, OldIrql);
}

static void *Allocate(SIZE_T Size)
{
    void *Memory;

#ifdef _MSC_VER
#pragma warning(suppress : 4996) /* ExAllocatePool2 is there from Windows 10 2004 on */
#endif
    Memory = ExAllocatePoolWithTag(NonPagedPoolNx, Size, SAMPLE_TAG);
    if (Memory != NULL) {
        RtlZeroMemory(Memory, Size);
    }
    return Memory;
}

static void Free(void *Memory)
{
    ExFreePoolWithTag(Memory, SAMPLE_TAG);
}

/* ---- Calls to weir: allowed, counted, and what follows the last one ---- */

/* Begins a call to weir for a connection. FALSE: none may be made. The lock is held. */
static BOOLEAN BeginCallLocked(CONNECTION *Connection)
{
    if (Connection->Detached || Connection->Binding->Detached) {
        return FALSE;
    }
    Connection->Calls++;
    Connection->Binding->Calls++;
    return TRUE;
}

static BOOLEAN BeginCall(CONNECTION *Connection)
{
    KIRQL OldIrql = Acquire();
    BOOLEAN Begun = BeginCallLocked(Connection);

    Release(OldIrql);
    return Begun;
}

/* Ends a call to weir on a binding. After the last one of a binding that is being detached the NMR is told. */
static void EndBindingCall(BINDING *Binding)
{
    HANDLE Handle = NULL;
    KIRQL OldIrql = Acquire();

    Binding->Calls--;
    if (Binding->Calls == 0 && Binding->Completes) {
        Handle = Binding->Handle;
    }
    Release(OldIrql);
    if (Handle != NULL) {
        /* The binding may be gone when this returns. */
        NmrProviderDetachClientComplete(Handle);
    }
}

/* Ends a call to weir for a connection. After the last one of a connection that is being detached weir is told. */
static void EndCall(CONNECTION *Connection)
{
    BINDING *Binding = Connection->Binding;
    BOOLEAN Last;
    BOOLEAN Tell = FALSE;
    KIRQL OldIrql = Acquire();

    Connection->Calls--;
    Last = Connection->Calls == 0 && Connection->Completes;
    if (Last) {
        /* No call may be begun once the binding is detached, this one neither. */
        Tell = !Binding->Detached;
    }
    Release(OldIrql);
    /* The binding's call has not ended yet: weir's table is still there. */
    if (Tell) {
        Binding->Client->DetachComplete(Connection->Client);
    }
    if (Last) {
        Free(Connection);
    }
    EndBindingCall(Binding);
}

/* ---- connection_v1 ---- */

static UINT64 MadeUpBytes(const CONNECTION *Connection)
{
    return Connection->Ticks * 1000; /* made up */
}

static void FillMetric(const CONNECTION *Connection, CONNECTION_METRIC_V1 *Metric)
{
    Metric->Flags = CONNECTION_METRIC_ROUND_TRIP;
    Metric->BytesReceived = MadeUpBytes(Connection);
    Metric->BytesSent = MadeUpBytes(Connection) / 2;
    Metric->RoundTripTime = 1500; /* made up */
    Metric->Reserved = 0;
}

static void ConnectionAttached(CONNECTION *Connection)
{
    const CONNECTION_V1_CLIENT_DISPATCH *Client = Connection->Dispatch;

    if ((Connection->EventMask & CONNECTION_EVENT_STATE) != 0) {
        Client->State(Connection->Client, CONNECTION_STATE_ESTABLISHED, CONNECTION_REASON_NONE);
    }
}

static void ConnectionTick(CONNECTION *Connection)
{
    const CONNECTION_V1_CLIENT_DISPATCH *Client = Connection->Dispatch;

    if ((Connection->EventMask & CONNECTION_EVENT_METRIC) != 0) {
        CONNECTION_METRIC_V1 Metric = { sizeof(Metric), CONNECTION_V1, 0, 0, 0, 0, 0 };

        FillMetric(Connection, &Metric);
        Client->Metric(Connection->Client, &Metric);
    }
    if ((Connection->EventMask & CONNECTION_EVENT_VENDOR) != 0) {
        UINT64 Data[2];

        C_ASSERT(sizeof(Data) <= CONNECTION_VENDOR_DATA_MAX);
        Data[0] = Connection->Session;
        Data[1] = Connection->Ticks;
        Client->Vendor(Connection->Client, SAMPLE_VENDOR_TICK, Data, sizeof(Data));
    }
}

static CONNECTION_QUERY_METRIC_FN QueryMetric;
static NTSTATUS NTAPI QueryMetric(PVOID ProviderContext, CONNECTION_METRIC_V1 *Metric)
{
    KIRQL OldIrql;

    /* Nothing is written beyond what the caller has. */
    if (!EXTENSION_HAS(Metric, CONNECTION_METRIC_V1, Reserved)) {
        return STATUS_INVALID_PARAMETER;
    }
    OldIrql = Acquire();
    FillMetric(ProviderContext, Metric);
    Release(OldIrql);
    return STATUS_SUCCESS;
}

/*
 * Tells weir if the backlog has crossed a mark. The lock is not held during the call: two crossings at once may be told
 * in either order. A product that can have that serialises them.
 */
static void TellBacklog(CONNECTION *Connection, UINT32 Direction)
{
    const CONNECTION_V1_CLIENT_DISPATCH *Client = Connection->Dispatch;
    BACKLOG *Backlog = &Connection->Backlog[Direction];
    BOOLEAN Crossed = FALSE;
    BACKLOG Now;
    KIRQL OldIrql = Acquire();

    if (Backlog->High == 0) {
        Backlog->Above = FALSE; /* no marks: nothing to tell */
    } else if (!Backlog->Above && Backlog->Bytes >= Backlog->High) {
        Backlog->Above = TRUE;
        Crossed = TRUE;
    } else if (Backlog->Above && Backlog->Bytes <= Backlog->Low) {
        Backlog->Above = FALSE;
        Crossed = TRUE;
    }
    Crossed = Crossed && (Connection->EventMask & CONNECTION_EVENT_BACKLOG) != 0 && BeginCallLocked(Connection);
    Now = *Backlog;
    Release(OldIrql);
    if (Crossed) {
        Client->Backlog(Connection->Client, Direction, Now.Above, Now.Bytes, Now.Above ? Now.High : Now.Low);
        EndCall(Connection);
    }
}

static CONNECTION_SET_MARKS_FN SetMarks;
static NTSTATUS NTAPI SetMarks(PVOID ProviderContext, UINT32 Direction, UINT64 Low, UINT64 High)
{
    CONNECTION *Connection = ProviderContext;
    KIRQL OldIrql;

    if (Direction > CONNECTION_DIRECTION_SEND || Low > High) {
        return STATUS_INVALID_PARAMETER;
    }
    OldIrql = Acquire();
    Connection->Backlog[Direction].Low = Low;
    Connection->Backlog[Direction].High = High;
    Release(OldIrql);
    TellBacklog(Connection, Direction);
    return STATUS_SUCCESS;
}

static CONNECTION_CONTROL_FN Control;
static NTSTATUS NTAPI Control(PVOID ProviderContext, UINT32 Code, const void *Input, UINT32 Length)
{
    CONNECTION *Connection = ProviderContext;
    KIRQL OldIrql;

    switch (Code) {
    case SAMPLE_CONTROL_PERIOD: {
        UINT32 Period;

        if (Length != sizeof(Period)) {
            return STATUS_INVALID_PARAMETER;
        }
        RtlCopyMemory(&Period, Input, sizeof(Period)); /* it need not be aligned */
        if (Period < SAMPLE_PERIOD_MIN || Period > SAMPLE_PERIOD_MAX) {
            return STATUS_INVALID_PARAMETER;
        }
        OldIrql = Acquire();
        Sample.Period = Period;
        Release(OldIrql);
        return STATUS_SUCCESS;
    }
    case SAMPLE_CONTROL_BACKLOG: {
        struct {
            UINT32 Direction;
            UINT32 Reserved;
            UINT64 Bytes;
        } Given;

        if (Length != sizeof(Given)) {
            return STATUS_INVALID_PARAMETER;
        }
        RtlCopyMemory(&Given, Input, sizeof(Given));
        if (Given.Direction > CONNECTION_DIRECTION_SEND || Given.Reserved != 0) {
            return STATUS_INVALID_PARAMETER;
        }
        OldIrql = Acquire();
        Connection->Backlog[Given.Direction].Bytes = Given.Bytes;
        Release(OldIrql);
        TellBacklog(Connection, Given.Direction);
        return STATUS_SUCCESS;
    }
    default:
        return STATUS_INVALID_PARAMETER;
    }
}

static const CONNECTION_V1_PROVIDER_DISPATCH ConnectionDispatch = {
    sizeof(CONNECTION_V1_PROVIDER_DISPATCH), CONNECTION_V1, 0, QueryMetric, SetMarks, Control
};

/* ---- label_v1 ---- */

/* "session N", in at most 40 bytes. Returns the length. */
static UINT32 LabelText(UINT64 Session, char Text[LABEL_TEXT_MAX])
{
    static const char Head[] = "session ";
    char Digits[20];
    UINT32 Count = 0;
    UINT32 Length = sizeof(Head) - 1;

    C_ASSERT(sizeof(Head) - 1 + sizeof(Digits) <= LABEL_TEXT_MAX);
    RtlCopyMemory(Text, Head, Length);
    do {
        Digits[Count++] = (char)('0' + Session % 10);
        Session /= 10;
    } while (Session != 0);
    while (Count != 0) {
        Text[Length++] = Digits[--Count];
    }
    return Length;
}

static void LabelAttached(CONNECTION *Connection)
{
    const LABEL_V1_CLIENT_DISPATCH *Client = Connection->Dispatch;

    if ((Connection->EventMask & LABEL_EVENT_LABEL) != 0) {
        char Text[LABEL_TEXT_MAX];
        UINT32 Length = LabelText(Connection->Session, Text);

        Client->Label(Connection->Client, Connection->Session, Text, Length);
    }
}

static LABEL_REFRESH_FN Refresh;
static NTSTATUS NTAPI Refresh(PVOID ProviderContext)
{
    CONNECTION *Connection = ProviderContext;

    if (!BeginCall(Connection)) {
        return STATUS_DELETE_PENDING;
    }
    LabelAttached(Connection);
    EndCall(Connection);
    return STATUS_SUCCESS;
}

static const LABEL_V1_PROVIDER_DISPATCH LabelDispatch = {
    sizeof(LABEL_V1_PROVIDER_DISPATCH), LABEL_V1, 0, Refresh
};

/* ---- Sockets come and go ---- */

static EXTENSION_ATTACH_CONNECTION_FN AttachConnection;
static NTSTATUS NTAPI AttachConnection(
    PVOID ProviderBindingContext,
    const EXTENSION_CONNECTION *Socket,
    PVOID ClientContext,
    const void *ClientDispatch,
    PVOID *ProviderContext,
    const void **ProviderDispatch)
{
    BINDING *Binding = ProviderBindingContext;
    const UINT16 *Head = ClientDispatch; /* Size and Version */
    CONNECTION *Connection;
    BOOLEAN Begun;
    KIRQL OldIrql;

    if (!EXTENSION_HAS(Socket, EXTENSION_CONNECTION, EventMask) || Head[0] < Binding->Module->ClientSize || Head[1] < 1) {
        return STATUS_REVISION_MISMATCH;
    }
    Connection = Allocate(sizeof(*Connection));
    if (Connection == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    Connection->Binding = Binding;
    Connection->Client = ClientContext;
    Connection->Dispatch = ClientDispatch;
    Connection->Session = Socket->Session;
    /* There is nothing to tell of a socket that only accepts others. It is granted nevertheless: where the interface is
       required, a listening socket that does not get it is closed. */
    Connection->EventMask = Socket->Kind == EXTENSION_CONNECTION_LISTENING ? 0 : Socket->EventMask;

    OldIrql = Acquire();
    Begun = BeginCallLocked(Connection);
    Release(OldIrql);
    if (!Begun) {
        /* ProviderDetachClient came in between. */
        Free(Connection);
        return STATUS_DELETE_PENDING;
    }
    *ProviderContext = Connection;
    *ProviderDispatch = Binding->Module->Dispatch;
    /* First what comes first; then the thread may see the connection. */
    Binding->Module->Attached(Connection);
    OldIrql = Acquire();
    InsertTailList(&Sample.Connections, &Connection->Entry);
    Release(OldIrql);
    EndCall(Connection);
    return STATUS_SUCCESS;
}

static EXTENSION_DETACH_CONNECTION_FN DetachConnection;
static NTSTATUS NTAPI DetachConnection(PVOID ProviderContext)
{
    CONNECTION *Connection = ProviderContext;
    BOOLEAN Pending;
    KIRQL OldIrql = Acquire();

    RemoveEntryList(&Connection->Entry);
    Connection->Detached = TRUE;
    Pending = Connection->Calls != 0;
    Connection->Completes = Pending;
    Release(OldIrql);
    if (Pending) {
        /* EndCall may have freed the connection by now. */
        return STATUS_PENDING;
    }
    Free(Connection);
    return STATUS_SUCCESS;
}

static const EXTENSION_MODULE_PROVIDER_DISPATCH ModuleDispatch = {
    sizeof(EXTENSION_MODULE_PROVIDER_DISPATCH), EXTENSION_MODULE_V1, 0, AttachConnection, DetachConnection
};

/* ---- weir comes and goes ---- */

static NPI_PROVIDER_ATTACH_CLIENT_FN ProviderAttachClient;
static NTSTATUS NTAPI ProviderAttachClient(
    HANDLE NmrBindingHandle,
    PVOID ProviderContext,
    PNPI_REGISTRATION_INSTANCE ClientRegistrationInstance,
    PVOID ClientBindingContext,
    const VOID *ClientDispatch,
    PVOID *ProviderBindingContext,
    const VOID **ProviderDispatch)
{
    const EXTENSION_MODULE_CLIENT_DISPATCH *Client = ClientDispatch;
    BINDING *Binding;

    UNREFERENCED_PARAMETER(ClientRegistrationInstance);
    UNREFERENCED_PARAMETER(ClientBindingContext); /* no function of weir's module table takes it */

    if (Client == NULL || !EXTENSION_HAS(Client, EXTENSION_MODULE_CLIENT_DISPATCH, DetachComplete) ||
        Client->Version < EXTENSION_MODULE_V1) {
        return STATUS_NOINTERFACE;
    }
    Binding = Allocate(sizeof(*Binding));
    if (Binding == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    Binding->Module = ProviderContext;
    Binding->Handle = NmrBindingHandle;
    Binding->Client = Client;
    *ProviderBindingContext = Binding;
    *ProviderDispatch = &ModuleDispatch;
    return STATUS_SUCCESS;
}

/* IRQL <= DISPATCH_LEVEL. Nothing is freed: weir's own calls to us may still be in progress. */
static NPI_PROVIDER_DETACH_CLIENT_FN ProviderDetachClient;
static NTSTATUS NTAPI ProviderDetachClient(PVOID ProviderBindingContext)
{
    BINDING *Binding = ProviderBindingContext;
    BOOLEAN Pending;
    KIRQL OldIrql = Acquire();

    Binding->Detached = TRUE;
    Pending = Binding->Calls != 0;
    Binding->Completes = Pending;
    Release(OldIrql);
    return Pending ? STATUS_PENDING : STATUS_SUCCESS;
}

/* IRQL <= DISPATCH_LEVEL. Both sides have detached: no call is in progress in either direction. */
static NPI_PROVIDER_CLEANUP_BINDING_CONTEXT_FN ProviderCleanupBindingContext;
static VOID NTAPI ProviderCleanupBindingContext(PVOID ProviderBindingContext)
{
    BINDING *Binding = ProviderBindingContext;
    LIST_ENTRY Left;
    PLIST_ENTRY Entry;
    PLIST_ENTRY Next;
    KIRQL OldIrql;

    InitializeListHead(&Left);
    OldIrql = Acquire();
    for (Entry = Sample.Connections.Flink; Entry != &Sample.Connections; Entry = Next) {
        CONNECTION *Connection = CONTAINING_RECORD(Entry, CONNECTION, Entry);

        Next = Entry->Flink;
        if (Connection->Binding == Binding) {
            RemoveEntryList(Entry);
            InsertTailList(&Left, Entry);
        }
    }
    Release(OldIrql);
    while (!IsListEmpty(&Left)) {
        Entry = RemoveHeadList(&Left);
        Free(CONTAINING_RECORD(Entry, CONNECTION, Entry));
    }
    Free(Binding);
}

/* ---- The thread ---- */

/* Begins a call for the next connection of this round; NULL: the round is over. */
static CONNECTION *NextOfRound(void)
{
    CONNECTION *Found = NULL;
    KIRQL OldIrql = Acquire();

    while (Found == NULL && !IsListEmpty(&Sample.Connections)) {
        CONNECTION *Connection = CONTAINING_RECORD(Sample.Connections.Flink, CONNECTION, Entry);

        if (Connection->Round == Sample.Round) {
            break;
        }
        Connection->Round = Sample.Round;
        RemoveEntryList(&Connection->Entry);
        InsertTailList(&Sample.Connections, &Connection->Entry);
        if (Connection->Binding->Module->Tick != NULL && BeginCallLocked(Connection)) {
            Connection->Ticks++;
            Found = Connection;
        }
    }
    Release(OldIrql);
    return Found;
}

static KSTART_ROUTINE Thread;
static VOID NTAPI Thread(PVOID Context)
{
    UNREFERENCED_PARAMETER(Context);

    for (;;) {
        LARGE_INTEGER Timeout;
        CONNECTION *Connection;
        KIRQL OldIrql = Acquire();

        Timeout.QuadPart = -10000LL * Sample.Period; /* from now, in units of 100 ns */
        Sample.Round++;
        Release(OldIrql);
        if (KeWaitForSingleObject(&Sample.Stop, Executive, KernelMode, FALSE, &Timeout) != STATUS_TIMEOUT) {
            break;
        }
        while ((Connection = NextOfRound()) != NULL) {
            Connection->Binding->Module->Tick(Connection);
            EndCall(Connection);
        }
    }
    PsTerminateSystemThread(STATUS_SUCCESS);
}

static NTSTATUS StartThread(void)
{
    OBJECT_ATTRIBUTES Attributes;
    HANDLE Handle;
    NTSTATUS Status;

    InitializeObjectAttributes(&Attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
    Status = PsCreateSystemThread(&Handle, THREAD_ALL_ACCESS, &Attributes, NULL, NULL, Thread, NULL);
    if (!NT_SUCCESS(Status)) {
        return Status;
    }
    /* What is waited for at unload is the thread's object: an event that it sets last would let it run on in freed code. */
    Status = ObReferenceObjectByHandle(Handle, SYNCHRONIZE, NULL, KernelMode, &Sample.Thread, NULL);
    if (!NT_SUCCESS(Status)) {
        /* The driver does not start: the thread must not be left in it. */
        KeSetEvent(&Sample.Stop, IO_NO_INCREMENT, FALSE);
        ZwWaitForSingleObject(Handle, FALSE, NULL);
    }
    ZwClose(Handle);
    return Status;
}

static void StopThread(void)
{
    KeSetEvent(&Sample.Stop, IO_NO_INCREMENT, FALSE);
    KeWaitForSingleObject(Sample.Thread, Executive, KernelMode, FALSE, NULL);
    ObDereferenceObject(Sample.Thread);
}

/* ---- Start and end ---- */

static const NPIID ConnectionInterface = NPI_CONNECTION_V1_INIT;
static const NPIID LabelInterface = NPI_LABEL_V1_INIT;

/* Who we are: {C94AD0C5-E2AB-4E5C-8C3F-0D6E3F9B7E21}. Make one of your own. weir shows it as the module. */
static const NPI_MODULEID ModuleId = {
    sizeof(NPI_MODULEID),
    MIT_GUID,
    { { 0xC94AD0C5, 0xE2AB, 0x4E5C, { 0x8C, 0x3F, 0x0D, 0x6E, 0x3F, 0x9B, 0x7E, 0x21 } } }
};

static MODULE Modules[] = {
    { &ConnectionInterface,
      &ConnectionDispatch,
      sizeof(CONNECTION_V1_CLIENT_DISPATCH),
      ConnectionAttached,
      ConnectionTick,
      NULL },
    { &LabelInterface, &LabelDispatch, sizeof(LABEL_V1_CLIENT_DISPATCH), LabelAttached, NULL, NULL },
};

/* What the NMR is given must stay as it is while the module is registered. */
static NPI_PROVIDER_CHARACTERISTICS Characteristics[RTL_NUMBER_OF(Modules)];

static NTSTATUS RegisterModule(ULONG Index)
{
    MODULE *Module = &Modules[Index];
    NPI_PROVIDER_CHARACTERISTICS *Provider = &Characteristics[Index];
    NPI_REGISTRATION_INSTANCE *Instance = &Provider->ProviderRegistrationInstance;

    Provider->Length = sizeof(*Provider);
    Provider->ProviderAttachClient = ProviderAttachClient;
    Provider->ProviderDetachClient = ProviderDetachClient;
    Provider->ProviderCleanupBindingContext = ProviderCleanupBindingContext;
    Instance->Size = sizeof(*Instance);
    Instance->NpiId = Module->Interface;
    Instance->ModuleId = &ModuleId;
    /* weir may attach, and be given sockets, before this returns. */
    return NmrRegisterProvider(Provider, Module, &Module->Registration);
}

/* Ends the registrations of all modules that have one. When this returns, no call is in progress in either direction. */
static void DeregisterModules(void)
{
    ULONG Index;

    for (Index = 0; Index < RTL_NUMBER_OF(Modules); Index++) {
        MODULE *Module = &Modules[Index];

        if (Module->Registration != NULL && NmrDeregisterProvider(Module->Registration) == STATUS_PENDING) {
            NmrWaitForProviderDeregisterComplete(Module->Registration);
        }
        Module->Registration = NULL;
    }
}

static DRIVER_UNLOAD Unload;
static VOID NTAPI Unload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);

    /* The thread runs until then: it ends the calls that the deregistration waits for. */
    DeregisterModules();
    StopThread();
}

DRIVER_INITIALIZE DriverEntry;
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    NTSTATUS Status;
    ULONG Index;

    UNREFERENCED_PARAMETER(RegistryPath);

    KeInitializeSpinLock(&Sample.Lock);
    InitializeListHead(&Sample.Connections);
    KeInitializeEvent(&Sample.Stop, NotificationEvent, FALSE);
    Sample.Period = SAMPLE_PERIOD_DEFAULT;

    Status = StartThread();
    if (!NT_SUCCESS(Status)) {
        return Status;
    }
    for (Index = 0; Index < RTL_NUMBER_OF(Modules); Index++) {
        Status = RegisterModule(Index);
        if (!NT_SUCCESS(Status)) {
            Modules[Index].Registration = NULL;
            DeregisterModules();
            StopThread();
            return Status;
        }
    }
    DriverObject->DriverUnload = Unload;
    return STATUS_SUCCESS;
}
