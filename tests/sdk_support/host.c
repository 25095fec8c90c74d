/*
 * Runs the sample of a vendor's driver on the host: plays its kernel, the Network Module Registrar and weir, and looks
 * whether it keeps the rules of weir_extension.h. Ends with 0, or with a message and 1. Meant for sanitizers, which see
 * what is used after it is gone.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include <ntifs.h>

#include "../../tools/sdk/sample/nmr.h"
#include "weir_connection_v1.h"
#include "weir_label_v1.h"

DRIVER_INITIALIZE DriverEntry;

static void Check(int Condition, const char *What, int Line)
{
    if (!Condition) {
        fprintf(stderr, "host.c:%d: %s\n", Line, What);
        exit(1);
    }
}
#define CHECK(Condition) Check(Condition, #Condition, __LINE__)

static void Sleep(long Microseconds)
{
    struct timespec Time = { 0, Microseconds * 1000 };

    nanosleep(&Time, NULL);
}

/* ---- The kernel ---- */

static atomic_int Allocations;
/* 0: none fails. Else the one after so many more does. */
static atomic_int FailAfter;

static int Fails(void)
{
    return atomic_load(&FailAfter) != 0 && atomic_fetch_sub(&FailAfter, 1) == 1;
}

/* The locks that a thread holds: no call to weir or the registrar may be made with one. */
static _Thread_local int LocksHeld;

void KeInitializeSpinLock(KSPIN_LOCK *Lock)
{
    pthread_mutex_init(Lock, NULL);
}

void KeAcquireSpinLock(KSPIN_LOCK *Lock, KIRQL *OldIrql)
{
    CHECK(LocksHeld == 0);
    pthread_mutex_lock(Lock);
    LocksHeld = 1;
    *OldIrql = 0;
}

void KeReleaseSpinLock(KSPIN_LOCK *Lock, KIRQL OldIrql)
{
    CHECK(OldIrql == 0);
    LocksHeld = 0;
    pthread_mutex_unlock(Lock);
}

void *ExAllocatePoolWithTag(int Type, SIZE_T Size, ULONG Tag)
{
    (void)Type;
    (void)Tag;
    if (Fails()) {
        return NULL;
    }
    atomic_fetch_add(&Allocations, 1);
    /* Not zero, as the pool is not. */
    return memset(malloc(Size), 0xA5, Size);
}

void ExFreePoolWithTag(void *Memory, ULONG Tag)
{
    (void)Tag;
    atomic_fetch_sub(&Allocations, 1);
    free(Memory);
}

void KeInitializeEvent(KEVENT *Event, int Type, BOOLEAN State)
{
    (void)Type;
    memset(Event, 0, sizeof(*Event));
    pthread_mutex_init(&Event->Mutex, NULL);
    pthread_cond_init(&Event->Condition, NULL);
    Event->Signalled = State;
}

int32_t KeSetEvent(KEVENT *Event, int Increment, BOOLEAN Wait)
{
    (void)Increment;
    CHECK(!Wait);
    pthread_mutex_lock(&Event->Mutex);
    Event->Signalled = TRUE;
    pthread_cond_broadcast(&Event->Condition);
    pthread_mutex_unlock(&Event->Mutex);
    return 0;
}

NTSTATUS KeWaitForSingleObject(
    PVOID Object, int Reason, int Mode, BOOLEAN Alertable, const LARGE_INTEGER *Timeout)
{
    KEVENT *Event = Object;
    struct timespec Until;
    int Status = 0;

    (void)Reason;
    (void)Mode;
    CHECK(LocksHeld == 0 && !Alertable);
    if (Event->IsThread) {
        CHECK(Timeout == NULL);
        CHECK(pthread_join(Event->Thread, NULL) == 0);
        return STATUS_SUCCESS;
    }
    CHECK(Timeout->QuadPart < 0);
    clock_gettime(CLOCK_REALTIME, &Until);
    Until.tv_nsec += -Timeout->QuadPart * 10; /* of 100 ns each, ten times as fast */
    Until.tv_sec += Until.tv_nsec / 1000000000;
    Until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&Event->Mutex);
    while (!Event->Signalled && Status != ETIMEDOUT) {
        Status = pthread_cond_timedwait(&Event->Condition, &Event->Mutex, &Until);
    }
    Status = Event->Signalled ? STATUS_SUCCESS : STATUS_TIMEOUT;
    pthread_mutex_unlock(&Event->Mutex);
    return Status;
}

typedef struct _START {
    KSTART_ROUTINE *Routine;
    PVOID Context;
} START;

static void *Started(void *Argument)
{
    START Start = *(START *)Argument;

    free(Argument);
    Start.Routine(Start.Context);
    CHECK(!"a system thread ends by PsTerminateSystemThread");
    return NULL;
}

NTSTATUS PsCreateSystemThread(
    PHANDLE Thread, ULONG Access, OBJECT_ATTRIBUTES *Attributes, HANDLE Process, PVOID Client,
    KSTART_ROUTINE *Routine, PVOID Context)
{
    KEVENT *Made;
    START *Start;

    (void)Access;
    (void)Process;
    (void)Client;
    CHECK((*Attributes & OBJ_KERNEL_HANDLE) != 0);
    if (Fails()) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    Made = calloc(1, sizeof(*Made));
    Start = malloc(sizeof(*Start));
    Start->Routine = Routine;
    Start->Context = Context;
    Made->IsThread = TRUE;
    CHECK(pthread_create(&Made->Thread, NULL, Started, Start) == 0);
    atomic_fetch_add(&Allocations, 2); /* handle and object */
    *Thread = Made;
    return STATUS_SUCCESS;
}

NTSTATUS PsTerminateSystemThread(NTSTATUS Status)
{
    CHECK(Status == STATUS_SUCCESS);
    pthread_exit(NULL);
}

NTSTATUS ObReferenceObjectByHandle(
    HANDLE Handle, ULONG Access, PVOID Type, int Mode, PVOID *Object, PVOID Information)
{
    (void)Access;
    (void)Type;
    (void)Mode;
    (void)Information;
    if (Fails()) {
        ((KEVENT *)Handle)->Signalled = TRUE; /* goes with its handle */
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    *Object = Handle;
    return STATUS_SUCCESS;
}

void ObDereferenceObject(PVOID Object)
{
    atomic_fetch_sub(&Allocations, 1);
    free(Object);
}

NTSTATUS ZwClose(HANDLE Handle)
{
    KEVENT *Thread = Handle;

    atomic_fetch_sub(&Allocations, 1);
    if (Thread->Signalled) {
        ObDereferenceObject(Thread);
    }
    return STATUS_SUCCESS;
}

NTSTATUS ZwWaitForSingleObject(HANDLE Handle, BOOLEAN Alertable, const LARGE_INTEGER *Timeout)
{
    return KeWaitForSingleObject(Handle, Executive, KernelMode, Alertable, Timeout);
}

/* ---- weir's side of a socket ---- */

typedef struct _SOCKET {
    atomic_int Inside;
    atomic_int Calls[4]; /* state, metric, vendor, label */
    atomic_int Backlogs;
    atomic_int Above;
    atomic_int Completed; /* DetachComplete calls */
    atomic_int Over;      /* detached, and no callback in progress: none may come */
    atomic_int Hold;      /* callbacks wait */
    atomic_int *Silent;   /* its binding is detached, with no call in progress: none may come */
    PVOID Provider;
    const void *Dispatch;
} SOCKET;

static atomic_int Stress;

static void Enter(SOCKET *Socket)
{
    CHECK(LocksHeld == 0);
    CHECK(!atomic_load(&Socket->Over) && !atomic_load(Socket->Silent));
    atomic_fetch_add(&Socket->Inside, 1);
    while (atomic_load(&Socket->Hold)) {
        Sleep(100);
    }
    if (atomic_load(&Stress)) {
        Sleep(50);
    }
}

static void Leave(SOCKET *Socket)
{
    CHECK(!atomic_load(&Socket->Over) && !atomic_load(Socket->Silent));
    atomic_fetch_sub(&Socket->Inside, 1);
}

static void NTAPI State(PVOID ClientContext, UINT32 State, UINT32 Reason)
{
    SOCKET *Socket = ClientContext;

    Enter(Socket);
    CHECK(State == CONNECTION_STATE_ESTABLISHED && Reason == CONNECTION_REASON_NONE);
    /* It comes first. */
    CHECK(atomic_load(&Socket->Calls[1]) == 0 && atomic_load(&Socket->Calls[2]) == 0);
    atomic_fetch_add(&Socket->Calls[0], 1);
    Leave(Socket);
}

static void NTAPI Backlog(PVOID ClientContext, UINT32 Direction, UINT32 Above, UINT64 Bytes, UINT64 Mark)
{
    SOCKET *Socket = ClientContext;

    Enter(Socket);
    CHECK(Direction == CONNECTION_DIRECTION_SEND && Above <= 1);
    CHECK(Above ? Bytes >= Mark : Bytes <= Mark);
    atomic_fetch_add(&Socket->Backlogs, 1);
    atomic_store(&Socket->Above, (int)Above);
    Leave(Socket);
}

static void NTAPI Metric(PVOID ClientContext, const CONNECTION_METRIC_V1 *Metric)
{
    SOCKET *Socket = ClientContext;

    Enter(Socket);
    CHECK(Metric->Size == sizeof(*Metric) && Metric->Version == CONNECTION_V1 && Metric->BytesReceived != 0);
    atomic_fetch_add(&Socket->Calls[1], 1);
    Leave(Socket);
}

static void NTAPI Vendor(PVOID ClientContext, UINT32 Type, const void *Data, UINT32 Length)
{
    SOCKET *Socket = ClientContext;

    Enter(Socket);
    CHECK(Type == 1 && Length == 16 && Data != NULL);
    atomic_fetch_add(&Socket->Calls[2], 1);
    Leave(Socket);
}

static void NTAPI Label(PVOID ClientContext, UINT64 Number, const void *Text, UINT32 Length)
{
    SOCKET *Socket = ClientContext;
    char Expected[LABEL_TEXT_MAX + 1];

    Enter(Socket);
    snprintf(Expected, sizeof(Expected), "session %llu", (unsigned long long)Number);
    CHECK(Length == strlen(Expected) && memcmp(Text, Expected, Length) == 0);
    atomic_fetch_add(&Socket->Calls[3], 1);
    Leave(Socket);
}

static void NTAPI DetachComplete(PVOID ClientContext)
{
    SOCKET *Socket = ClientContext;

    CHECK(LocksHeld == 0);
    CHECK(atomic_load(&Socket->Inside) == 0 && !atomic_load(&Socket->Over) && !atomic_load(Socket->Silent));
    atomic_store(&Socket->Over, 1);
    atomic_fetch_add(&Socket->Completed, 1);
}

static const CONNECTION_V1_CLIENT_DISPATCH ConnectionClient = {
    sizeof(ConnectionClient), CONNECTION_V1, 0, State, Backlog, Metric, Vendor
};
static const LABEL_V1_CLIENT_DISPATCH LabelClient = { sizeof(LabelClient), LABEL_V1, 0, Label };
static const EXTENSION_MODULE_CLIENT_DISPATCH ModuleClient = {
    sizeof(ModuleClient), EXTENSION_MODULE_V1, 0, DetachComplete
};

/* ---- The registrar: one client, weir, for each of the two interfaces ---- */

typedef struct _REGISTRATION {
    const NPI_PROVIDER_CHARACTERISTICS *Provider;
    PVOID Context;
    atomic_int Bound;
    atomic_int Silent; /* the provider has detached */
    atomic_int Left; /* sides that have not detached yet; at 0 it is cleaned up after */
    PVOID Binding;
    const EXTENSION_MODULE_PROVIDER_DISPATCH *Module;
    pthread_mutex_t Gate; /* weir's calls */
} REGISTRATION;

static REGISTRATION Registrations[2];
static const GUID Interfaces[2] = { NPI_CONNECTION_V1_INIT, NPI_LABEL_V1_INIT };

static int Bind(REGISTRATION *Registration)
{
    const NPI_REGISTRATION_INSTANCE Client = { 0, sizeof(Client), NULL, NULL, 0, NULL };
    const void *Dispatch = NULL;

    atomic_store(&Registration->Silent, 0);
    if (Registration->Provider->ProviderAttachClient(
            Registration, Registration->Context, &Client, Registration, &ModuleClient, &Registration->Binding,
            &Dispatch) != STATUS_SUCCESS) {
        return 0;
    }
    Registration->Module = Dispatch;
    CHECK(EXTENSION_HAS(Registration->Module, EXTENSION_MODULE_PROVIDER_DISPATCH, DetachConnection));
    atomic_store(&Registration->Left, 2);
    atomic_store(&Registration->Bound, 1);
    return 1;
}

static void Detached(REGISTRATION *Registration)
{
    if (atomic_fetch_sub(&Registration->Left, 1) == 1) {
        Registration->Provider->ProviderCleanupBindingContext(Registration->Binding);
        atomic_store(&Registration->Bound, 0);
    }
}

NTSTATUS NTAPI NmrRegisterProvider(
    PNPI_PROVIDER_CHARACTERISTICS ProviderCharacteristics, PVOID ProviderContext, PHANDLE NmrProviderHandle)
{
    const NPI_REGISTRATION_INSTANCE *Instance = &ProviderCharacteristics->ProviderRegistrationInstance;
    int Index = memcmp(Instance->NpiId, &Interfaces[0], sizeof(GUID)) == 0 ? 0 : 1;
    REGISTRATION *Registration = &Registrations[Index];

    if (Fails()) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    CHECK(ProviderCharacteristics->Version == 0 && ProviderCharacteristics->Length == 72);
    CHECK(Instance->Version == 0 && Instance->Size == 40 && Instance->NpiSpecificCharacteristics == NULL);
    CHECK(memcmp(Instance->NpiId, &Interfaces[Index], sizeof(GUID)) == 0);
    CHECK(Instance->ModuleId->Length == 24 && Instance->ModuleId->Type == MIT_GUID);
    memset(Registration, 0, sizeof(*Registration));
    pthread_mutex_init(&Registration->Gate, NULL);
    Registration->Provider = ProviderCharacteristics;
    Registration->Context = ProviderContext;
    *NmrProviderHandle = Registration;
    atomic_fetch_add(&Allocations, 1);
    Bind(Registration);
    return STATUS_SUCCESS;
}

/* What either deregistration begins. The provider's side is asked first. */
static void BeginDetach(REGISTRATION *Registration)
{
    if (!atomic_load(&Registration->Bound)) {
        return;
    }
    if (Registration->Provider->ProviderDetachClient(Registration->Binding) == STATUS_SUCCESS) {
        atomic_store(&Registration->Silent, 1);
        Detached(Registration);
    }
}

/* weir's side detaches when none of its calls is in progress, and makes no more. */
static void ClientDetaches(REGISTRATION *Registration)
{
    pthread_mutex_lock(&Registration->Gate);
    Registration->Module = NULL;
    pthread_mutex_unlock(&Registration->Gate);
    Detached(Registration);
}

NTSTATUS NTAPI NmrDeregisterProvider(HANDLE NmrProviderHandle)
{
    REGISTRATION *Registration = NmrProviderHandle;
    int Bound = atomic_load(&Registration->Bound);

    CHECK(LocksHeld == 0);
    BeginDetach(Registration);
    if (Bound) {
        ClientDetaches(Registration);
    }
    return STATUS_PENDING;
}

NTSTATUS NTAPI NmrWaitForProviderDeregisterComplete(HANDLE NmrProviderHandle)
{
    REGISTRATION *Registration = NmrProviderHandle;

    while (atomic_load(&Registration->Bound)) {
        Sleep(100);
    }
    atomic_fetch_sub(&Allocations, 1);
    return STATUS_SUCCESS;
}

static atomic_int DetachesCompleted;

VOID NTAPI NmrProviderDetachClientComplete(HANDLE NmrBindingHandle)
{
    CHECK(LocksHeld == 0);
    atomic_fetch_add(&DetachesCompleted, 1);
    atomic_store(&((REGISTRATION *)NmrBindingHandle)->Silent, 1);
    Detached(NmrBindingHandle);
}

/* ---- What weir does ---- */

static SOCKET *Attach(int Interface, UINT32 Kind, UINT64 Session)
{
    REGISTRATION *Registration = &Registrations[Interface];
    const void *Table = Interface == 0 ? (const void *)&ConnectionClient : (const void *)&LabelClient;
    EXTENSION_CONNECTION Connection = { .Size = sizeof(Connection), .Version = 1, .Kind = Kind, .Session = Session,
                                        .EventMask = 0xF };
    SOCKET *Socket = calloc(1, sizeof(*Socket));
    NTSTATUS Status;

    Socket->Silent = &Registration->Silent;
    if (Registration->Module == NULL) {
        free(Socket);
        return NULL;
    }
    Status = Registration->Module->AttachConnection(
        Registration->Binding, &Connection, Socket, Table, &Socket->Provider, &Socket->Dispatch);
    if (Status != STATUS_SUCCESS) {
        CHECK(atomic_load(&Socket->Inside) == 0);
        free(Socket);
        return NULL;
    }
    CHECK(Socket->Dispatch != NULL);
    return Socket;
}

static NTSTATUS Detach(int Interface, SOCKET *Socket)
{
    NTSTATUS Status = Registrations[Interface].Module->DetachConnection(Socket->Provider);

    CHECK(Status == STATUS_SUCCESS || Status == STATUS_PENDING);
    if (Status == STATUS_SUCCESS) {
        CHECK(atomic_load(&Socket->Inside) == 0 && atomic_load(&Socket->Completed) == 0);
        atomic_store(&Socket->Over, 1);
    }
    return Status;
}

static const CONNECTION_V1_PROVIDER_DISPATCH *Functions(const SOCKET *Socket)
{
    return Socket->Dispatch;
}

static void Await(atomic_int *Count, int Least)
{
    int Rounds;

    for (Rounds = 0; Rounds < 100000 && atomic_load(Count) < Least; Rounds++) {
        Sleep(100);
    }
    CHECK(atomic_load(Count) >= Least);
}

static struct _DRIVER_OBJECT Driver;

static void Load(void)
{
    CHECK(DriverEntry(&Driver, NULL) == STATUS_SUCCESS);
    CHECK(Driver.DriverUnload != NULL);
}

static void Unload(void)
{
    Driver.DriverUnload(&Driver);
    CHECK(atomic_load(&Allocations) == 0);
}

static void ItTells(void)
{
    UINT32 Period = 10;
    struct {
        UINT32 Direction;
        UINT32 Reserved;
        UINT64 Bytes;
    } Queue = { CONNECTION_DIRECTION_SEND, 0, 4096 };
    CONNECTION_METRIC_V1 Sample = { sizeof(Sample), CONNECTION_V1, 0, 0, 0, 0, 0 };
    SOCKET *Connection;
    SOCKET *Labelled;
    SOCKET *Listening;

    Load();
    Connection = Attach(0, EXTENSION_CONNECTION_ACCEPTED, 7);
    Labelled = Attach(1, EXTENSION_CONNECTION_DIALLED, 18446744073709551615u);
    Listening = Attach(0, EXTENSION_CONNECTION_LISTENING, 0);
    CHECK(Connection != NULL && Labelled != NULL && Listening != NULL);
    CHECK(atomic_load(&Connection->Calls[0]) == 1 && atomic_load(&Labelled->Calls[3]) == 1);
    CHECK(((const LABEL_V1_PROVIDER_DISPATCH *)Labelled->Dispatch)->Refresh(Labelled->Provider) == STATUS_SUCCESS);
    CHECK(atomic_load(&Labelled->Calls[3]) == 2);

    CHECK(Functions(Connection)->Control(Connection->Provider, 1, &Period, 4) == STATUS_SUCCESS);
    CHECK(Functions(Connection)->Control(Connection->Provider, 1, &Period, 3) == STATUS_INVALID_PARAMETER);
    CHECK(Functions(Connection)->Control(Connection->Provider, 9, &Period, 4) == STATUS_INVALID_PARAMETER);
    Period = 9;
    CHECK(Functions(Connection)->Control(Connection->Provider, 1, &Period, 4) == STATUS_INVALID_PARAMETER);
    Await(&Connection->Calls[1], 3);
    Await(&Connection->Calls[2], 3);

    CHECK(Functions(Connection)->QueryMetric(Connection->Provider, &Sample) == STATUS_SUCCESS);
    CHECK(Sample.BytesReceived != 0 && Sample.Flags == CONNECTION_METRIC_ROUND_TRIP);
    Sample.Size = 24;
    CHECK(Functions(Connection)->QueryMetric(Connection->Provider, &Sample) == STATUS_INVALID_PARAMETER);

    CHECK(Functions(Connection)->SetMarks(Connection->Provider, 2, 0, 0) == STATUS_INVALID_PARAMETER);
    CHECK(Functions(Connection)->SetMarks(Connection->Provider, 1, 2, 1) == STATUS_INVALID_PARAMETER);
    CHECK(Functions(Connection)->SetMarks(Connection->Provider, 1, 1024, 2048) == STATUS_SUCCESS);
    CHECK(Functions(Connection)->Control(Connection->Provider, 2, &Queue, 16) == STATUS_SUCCESS);
    CHECK(atomic_load(&Connection->Backlogs) == 1 && atomic_load(&Connection->Above) == 1);
    Queue.Bytes = 1500; /* between the marks: nothing */
    CHECK(Functions(Connection)->Control(Connection->Provider, 2, &Queue, 16) == STATUS_SUCCESS);
    CHECK(atomic_load(&Connection->Backlogs) == 1);
    Queue.Bytes = 1024;
    CHECK(Functions(Connection)->Control(Connection->Provider, 2, &Queue, 16) == STATUS_SUCCESS);
    CHECK(atomic_load(&Connection->Backlogs) == 2 && atomic_load(&Connection->Above) == 0);

    CHECK(atomic_load(&Listening->Calls[0]) == 0 && atomic_load(&Listening->Calls[1]) == 0);
    Unload();
    free(Connection);
    free(Labelled);
    free(Listening);
}

/* A callback is in progress when the socket is let go of. */
static void ADetachWaits(void)
{
    SOCKET *Socket;

    Load();
    Socket = Attach(0, EXTENSION_CONNECTION_ACCEPTED, 1);
    atomic_store(&Socket->Hold, 1);
    Await(&Socket->Inside, 1);
    CHECK(Detach(0, Socket) == STATUS_PENDING);
    Sleep(20000);
    CHECK(atomic_load(&Socket->Completed) == 0);
    atomic_store(&Socket->Hold, 0);
    Await(&Socket->Completed, 1);
    Unload();
    CHECK(atomic_load(&Socket->Completed) == 1);
    free(Socket);
}

static void *Unloads(void *Argument)
{
    (void)Argument;
    Driver.DriverUnload(&Driver);
    return NULL;
}

/* A callback is in progress when the driver is unloaded; with a detach that waits for it, too, or not. */
static void AnUnloadWaits(int LetGo)
{
    SOCKET *Socket;
    pthread_t Thread;

    Load();
    atomic_store(&DetachesCompleted, 0);
    Socket = Attach(0, EXTENSION_CONNECTION_ACCEPTED, 1);
    atomic_store(&Socket->Hold, 1);
    Await(&Socket->Inside, 1);
    if (LetGo) {
        CHECK(Detach(0, Socket) == STATUS_PENDING);
    }
    CHECK(pthread_create(&Thread, NULL, Unloads, NULL) == 0);
    Sleep(20000);
    CHECK(atomic_load(&Registrations[0].Bound) == 1 && atomic_load(&DetachesCompleted) == 0);
    atomic_store(&Socket->Hold, 0);
    CHECK(pthread_join(Thread, NULL) == 0);
    CHECK(atomic_load(&DetachesCompleted) == 1);
    /* The registrar's completion stands for weir's. */
    CHECK(atomic_load(&Socket->Completed) == 0);
    CHECK(atomic_load(&Allocations) == 0);
    free(Socket);
}

/* weir goes and comes back while the driver stays. */
static void WeirLeaves(void)
{
    SOCKET *Socket;
    int Round;

    Load();
    for (Round = 0; Round < 3; Round++) {
        Socket = Attach(0, EXTENSION_CONNECTION_ACCEPTED, 1);
        CHECK(Socket != NULL);
        BeginDetach(&Registrations[0]);
        Sleep(30000); /* some periods */
        ClientDetaches(&Registrations[0]);
        while (atomic_load(&Registrations[0].Bound)) {
            Sleep(100);
        }
        free(Socket);
        CHECK(Bind(&Registrations[0]));
    }
    Unload();
}

/* weir's worker while the driver is unloaded: sockets come and go, functions are called. */
static void *Works(void *Argument)
{
    enum { SOCKETS = 32 };
    SOCKET *Sockets[2][SOCKETS] = { { NULL } };
    SOCKET *Gone[4096];
    unsigned Count = 0;
    unsigned Seed = *(unsigned *)Argument;
    UINT32 Period = 10;
    int Open = 1;

    while (Open && Count < RTL_NUMBER_OF(Gone) - 2 * SOCKETS) {
        int Interface = (int)(rand_r(&Seed) % 2);
        int Index = (int)(rand_r(&Seed) % SOCKETS);
        SOCKET **Socket = &Sockets[Interface][Index];
        REGISTRATION *Registration = &Registrations[Interface];

        pthread_mutex_lock(&Registration->Gate);
        Open = Registration->Module != NULL;
        if (!Open) {
        } else if (*Socket == NULL) {
            *Socket = Attach(Interface, EXTENSION_CONNECTION_ACCEPTED, Seed);
        } else if (Interface == 0 && rand_r(&Seed) % 2 == 0) {
            Functions(*Socket)->Control((*Socket)->Provider, 1, &Period, sizeof(Period));
        } else {
            Detach(Interface, *Socket);
            Gone[Count++] = *Socket;
            *Socket = NULL;
        }
        pthread_mutex_unlock(&Registration->Gate);
        if (rand_r(&Seed) % 8 == 0) {
            Sleep(100);
        }
    }
    /* Their memory is weir's until the bindings are over. */
    while (atomic_load(&Registrations[0].Bound) || atomic_load(&Registrations[1].Bound)) {
        Sleep(100);
    }
    while (Count != 0) {
        free(Gone[--Count]);
    }
    for (Count = 0; Count < SOCKETS; Count++) {
        free(Sockets[0][Count]);
        free(Sockets[1][Count]);
    }
    return NULL;
}

static void Storm(void)
{
    unsigned Seed;

    atomic_store(&Stress, 1);
    for (Seed = 1; Seed <= 30; Seed++) {
        unsigned Given = Seed;
        pthread_t Thread;

        Load();
        CHECK(pthread_create(&Thread, NULL, Works, &Given) == 0);
        Sleep((long)(Seed * 700));
        Unload();
        CHECK(pthread_join(Thread, NULL) == 0);
    }
    atomic_store(&Stress, 0);
}

/* Whatever fails, the driver does not load, or loads and says no, and nothing is left. */
static void WhateverFails(void)
{
    int At;

    for (At = 1; At < 10; At++) {
        NTSTATUS Status;

        Driver.DriverUnload = NULL;
        atomic_store(&FailAfter, At);
        Status = DriverEntry(&Driver, NULL);
        if (NT_SUCCESS(Status)) {
            SOCKET *Socket = Attach(0, EXTENSION_CONNECTION_ACCEPTED, 1);

            Unload();
            free(Socket);
        }
        CHECK(atomic_load(&Allocations) == 0);
    }
    atomic_store(&FailAfter, 0);
}

int main(void)
{
    ItTells();
    ADetachWaits();
    AnUnloadWaits(0);
    AnUnloadWaits(1);
    WeirLeaves();
    WhateverFails();
    Storm();
    puts("the sample keeps the rules");
    return 0;
}
