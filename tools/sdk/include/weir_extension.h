/*
 * weir_extension.h: how a vendor's driver provides an extension interface to weir. C99 and C++11.
 *
 * An extension interface gives a vendor's driver (the provider) a hook on each of weir's control sockets: the provider
 * calls weir's callbacks (client dispatch), weir calls the provider's functions (provider dispatch). An interface is
 * known by its NPIID; each has a header of its own (weir_connection_v1.h, weir_label_v1.h).
 *
 * The vendor's driver registers at the Network Module Registrar (NmrRegisterProvider) as a provider module of that
 * NPIID, without NPI-specific characteristics. The registrar binds modules, not sockets: so what the two modules exchange
 * when they attach to each other is, for every interface, the pair of tables of this header, and by AttachConnection
 * the module then gets each socket with the interface's own tables.
 *
 *     ProviderAttachClient   (NMR)     ClientDispatch is an EXTENSION_MODULE_CLIENT_DISPATCH,
 *                                      *ProviderDispatch an EXTENSION_MODULE_PROVIDER_DISPATCH
 *       AttachConnection     (weir)    once for each socket; grants it or not
 *         callbacks, functions         while the socket is attached
 *       DetachConnection     (weir)    the socket goes
 *     ProviderDetachClient   (NMR)     one of the drivers goes: all sockets of the binding are over
 *     ProviderCleanupBindingContext    frees what belongs to the binding
 *
 * Rules, for all interfaces:
 *
 * - Every table and structure begins with its Size (bytes) and Version. Either side may have a newer, longer one: a
 *   reader uses what lies within Size only (EXTENSION_HAS), and takes any Version from the one it knows upwards. A table
 *   never shrinks and its fields never change their place. Fields named Reserved are written as 0 and not read.
 * - Tables and contexts are resident (non-paged) memory. A client table and context may be used until the socket is
 *   detached; the provider's must be valid until then.
 * - Callbacks: IRQL <= DISPATCH_LEVEL, on any processor, by several threads at once, even before AttachConnection has
 *   returned and from within the provider's own functions. They copy what they need, never block and never call
 *   back. Hold no lock during one that a function of your dispatch table takes.
 * - Functions of the provider's dispatch tables: at the IRQL that each one tells; several at once unless it says
 *   otherwise.
 * - Once DetachConnection has been called, no callback may be made for the socket. One that is made nevertheless is
 *   counted as late and hits nothing. Calls that were in progress are waited for: see DetachConnection.
 * - Once the registrar has called ProviderDetachClient, the provider calls nothing of weir's any more, DetachComplete
 *   included, and weir calls no DetachConnection for what is attached then. ProviderDetachClient returns STATUS_PENDING
 *   while calls to weir are in progress; after the last one has returned, NmrProviderDetachClientComplete is called.
 * - Numbers are in host byte order, addresses in network byte order.
 */
#ifndef WEIR_EXTENSION_H
#define WEIR_EXTENSION_H

#include <stddef.h>

/*
 * Types. In a driver <ntddk.h> (or <wdm.h>, <ntifs.h>) comes first and brings them. Without a Windows header, so that
 * the tables can be used in tests on any machine, they are made here.
 */
#ifndef _NTDEF_
#include <stdint.h>
typedef void *PVOID;
typedef int32_t NTSTATUS;
typedef uint8_t UINT8;
typedef uint16_t UINT16;
typedef uint32_t UINT32;
typedef uint64_t UINT64;
typedef struct _GUID {
    uint32_t Data1;
    uint16_t Data2;
    uint16_t Data3;
    uint8_t Data4[8];
} GUID;
#define NTAPI
#endif

/* A condition that the compiler checks. */
#if defined(__cplusplus)
#define EXTENSION_ASSERT(Condition) static_assert(Condition, #Condition)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define EXTENSION_ASSERT(Condition) _Static_assert(Condition, #Condition)
#else
#define EXTENSION_ASSERT(Condition) extern char ExtensionAssert[(Condition) ? 1 : -1]
#endif

/* Size and place of a structure's field. */
#define EXTENSION_ASSERT_SIZE(Type, Bytes) EXTENSION_ASSERT(sizeof(Type) == (Bytes))
#define EXTENSION_ASSERT_FIELD(Type, Field, Bytes) EXTENSION_ASSERT(offsetof(Type, Field) == (Bytes))

/* Whether a field lies within what the writer of a table or structure has given. */
#define EXTENSION_HAS(Pointer, Type, Field) \
    ((Pointer)->Size >= offsetof(Type, Field) + sizeof((Pointer)->Field))

/* The ABI is that of 64-bit Windows. */
EXTENSION_ASSERT(sizeof(PVOID) == 8);
EXTENSION_ASSERT(sizeof(GUID) == 16);

#ifdef __cplusplus
extern "C" {
#endif

/* Version in the tables and structures of this header. */
#define EXTENSION_MODULE_V1 1

/*
 * EXTENSION_CONNECTION.Kind. Where an operator requires the interface, a socket that does not get it is closed: so a
 * listening socket should be granted even if there is nothing to tell of it, lest nobody can connect.
 */
#define EXTENSION_CONNECTION_LISTENING 0 /* accepts sessions; has no peer */
#define EXTENSION_CONNECTION_ACCEPTED 1  /* a peer has connected to weir */
#define EXTENSION_CONNECTION_DIALLED 2   /* weir has connected to a peer */

/* EXTENSION_CONNECTION.Family: AF_INET and AF_INET6 of Windows, whatever the host's are. */
#define EXTENSION_FAMILY_UNKNOWN 0
#define EXTENSION_FAMILY_INET 2
#define EXTENSION_FAMILY_INET6 23

/* What a module is told of a socket. It lasts for the call of AttachConnection only: copy what you need. */
typedef struct _EXTENSION_CONNECTION {
    UINT16 Size;
    UINT16 Version;
    UINT32 Kind;
    UINT64 Session;   /* the session's number, unique since weir's start; 0 for a listening socket */
    UINT32 EventMask; /* the events that are wanted, in the interface's bits; others are dropped */
    UINT16 Family;    /* EXTENSION_FAMILY_UNKNOWN: the addresses and ports are not known */
    UINT16 LocalPort;  /* host byte order; 0, as the address: not known, as for dialled sockets */
    UINT16 RemotePort; /* host byte order; 0 for a listening socket */
    UINT16 Reserved;
    UINT32 Reserved2;
    UINT8 LocalAddress[16];  /* network byte order; an IPv4 address fills the first four bytes */
    UINT8 RemoteAddress[16]; /* as LocalAddress */
} EXTENSION_CONNECTION;

EXTENSION_ASSERT_SIZE(EXTENSION_CONNECTION, 64);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, Size, 0);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, Version, 2);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, Kind, 4);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, Session, 8);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, EventMask, 16);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, Family, 20);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, LocalPort, 22);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, RemotePort, 24);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, Reserved, 26);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, Reserved2, 28);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, LocalAddress, 32);
EXTENSION_ASSERT_FIELD(EXTENSION_CONNECTION, RemoteAddress, 48);

/*
 * Takes a socket on. IRQL: PASSIVE_LEVEL; one call of AttachConnection or DetachConnection at a time.
 *
 * ProviderBindingContext: what ProviderAttachClient has returned for the binding.
 * Connection: the socket. It lasts for the call.
 * ClientContext, ClientDispatch: weir's context and the interface's client table (for example a
 *   CONNECTION_V1_CLIENT_DISPATCH), usable from now on until the socket is detached.
 * ProviderContext, ProviderDispatch: receive the provider's context for the socket, which may be anything, and the
 *   interface's provider table (for example a CONNECTION_V1_PROVIDER_DISPATCH), not NULL. Both must be valid until the
 *   socket is detached. They are read after exactly STATUS_SUCCESS only.
 *
 * STATUS_SUCCESS: the socket is attached; no other value that NT_SUCCESS takes for a success says so.
 * STATUS_NOT_SUPPORTED: the provider does not want this socket: a normal answer.
 * Any other status: it failed. Both are counted; weir goes on to other providers. No callback may be made afterwards.
 */
typedef NTSTATUS NTAPI EXTENSION_ATTACH_CONNECTION_FN(
    PVOID ProviderBindingContext,
    const EXTENSION_CONNECTION *Connection,
    PVOID ClientContext,
    const void *ClientDispatch,
    PVOID *ProviderContext,
    const void **ProviderDispatch);

/*
 * Lets go of a socket. IRQL: PASSIVE_LEVEL; one call of AttachConnection or DetachConnection at a time. No function of
 * the socket's provider table is in progress, and none is called any more.
 *
 * ProviderContext: what AttachConnection has returned for the socket. Not used by weir afterwards.
 *
 * STATUS_SUCCESS: no callback for this socket is in progress.
 * STATUS_PENDING: callbacks are in progress. When the last one has returned, call DetachComplete once: it may be called
 *   before this function has returned. Not if ProviderDetachClient has been called by then: what completes the
 *   binding's end (NmrProviderDetachClientComplete) then stands for this one, too.
 * No other status may be returned; weir takes it for STATUS_SUCCESS.
 */
typedef NTSTATUS NTAPI EXTENSION_DETACH_CONNECTION_FN(PVOID ProviderContext);

/* The module's table: what ProviderAttachClient stores in *ProviderDispatch. Both functions must be there. */
typedef struct _EXTENSION_MODULE_PROVIDER_DISPATCH {
    UINT16 Size;
    UINT16 Version; /* EXTENSION_MODULE_V1 */
    UINT32 Reserved;
    EXTENSION_ATTACH_CONNECTION_FN *AttachConnection;
    EXTENSION_DETACH_CONNECTION_FN *DetachConnection;
} EXTENSION_MODULE_PROVIDER_DISPATCH;

EXTENSION_ASSERT_SIZE(EXTENSION_MODULE_PROVIDER_DISPATCH, 24);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_PROVIDER_DISPATCH, Size, 0);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_PROVIDER_DISPATCH, Version, 2);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_PROVIDER_DISPATCH, Reserved, 4);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_PROVIDER_DISPATCH, AttachConnection, 8);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_PROVIDER_DISPATCH, DetachConnection, 16);

/*
 * Tells weir that the callbacks which were in progress when DetachConnection returned STATUS_PENDING have returned.
 * IRQL <= DISPATCH_LEVEL. Once for each STATUS_PENDING.
 *
 * ClientContext: the one that AttachConnection was given for the socket. It is dead when this call returns.
 */
typedef void NTAPI EXTENSION_DETACH_COMPLETE_FN(PVOID ClientContext);

/* weir's table: what ProviderAttachClient gets as ClientDispatch. */
typedef struct _EXTENSION_MODULE_CLIENT_DISPATCH {
    UINT16 Size;
    UINT16 Version; /* EXTENSION_MODULE_V1 */
    UINT32 Reserved;
    EXTENSION_DETACH_COMPLETE_FN *DetachComplete;
} EXTENSION_MODULE_CLIENT_DISPATCH;

EXTENSION_ASSERT_SIZE(EXTENSION_MODULE_CLIENT_DISPATCH, 16);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_CLIENT_DISPATCH, Size, 0);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_CLIENT_DISPATCH, Version, 2);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_CLIENT_DISPATCH, Reserved, 4);
EXTENSION_ASSERT_FIELD(EXTENSION_MODULE_CLIENT_DISPATCH, DetachComplete, 8);

#ifdef __cplusplus
}
#endif

#endif
