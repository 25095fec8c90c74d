/*
 * weir_connection_v1.h: the extension interface connection_v1: what a provider tells of a connection, and what it can be
 * asked. The rules of weir_extension.h hold.
 *
 * An event is told if its bit is in the socket's EXTENSION_CONNECTION.EventMask; others may be told, and are dropped.
 */
#ifndef WEIR_CONNECTION_V1_H
#define WEIR_CONNECTION_V1_H

#include "weir_extension.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The NPIID, as an initialiser: {5EE5D4F1-9929-4633-8368-7BC7438B4140} */
#define NPI_CONNECTION_V1_INIT \
    { 0x5EE5D4F1, 0x9929, 0x4633, { 0x83, 0x68, 0x7B, 0xC7, 0x43, 0x8B, 0x41, 0x40 } }

/* Version in the tables and structures of this header. */
#define CONNECTION_V1 1

/* Events: bits of EXTENSION_CONNECTION.EventMask. */
#define CONNECTION_EVENT_STATE 0x1
#define CONNECTION_EVENT_BACKLOG 0x2
#define CONNECTION_EVENT_METRIC 0x4
#define CONNECTION_EVENT_VENDOR 0x8

/* States. */
#define CONNECTION_STATE_ESTABLISHED 1
#define CONNECTION_STATE_CLOSED 2

/* Why a connection closed. */
#define CONNECTION_REASON_NONE 0
#define CONNECTION_REASON_PEER_FINISHED 1
#define CONNECTION_REASON_PEER_RESET 2
#define CONNECTION_REASON_LOCAL 3
#define CONNECTION_REASON_TIMED_OUT 4
#define CONNECTION_REASON_PROVIDER_LEAVES 5

/* Directions of a backlog. */
#define CONNECTION_DIRECTION_RECEIVE 0
#define CONNECTION_DIRECTION_SEND 1

/* CONNECTION_METRIC_V1.Flags: RoundTripTime is known. */
#define CONNECTION_METRIC_ROUND_TRIP 0x1

/* The most bytes of a vendor event, and of a control's input. */
#define CONNECTION_VENDOR_DATA_MAX 40

/* A sample of a connection's counters. */
typedef struct _CONNECTION_METRIC_V1 {
    UINT16 Size;
    UINT16 Version; /* CONNECTION_V1 */
    UINT32 Flags;   /* CONNECTION_METRIC_... */
    UINT64 BytesReceived; /* since the connection was established */
    UINT64 BytesSent;     /* since the connection was established */
    UINT32 RoundTripTime; /* microseconds, if Flags say that it is known */
    UINT32 Reserved;
} CONNECTION_METRIC_V1;

EXTENSION_ASSERT_SIZE(CONNECTION_METRIC_V1, 32);
EXTENSION_ASSERT_FIELD(CONNECTION_METRIC_V1, Size, 0);
EXTENSION_ASSERT_FIELD(CONNECTION_METRIC_V1, Version, 2);
EXTENSION_ASSERT_FIELD(CONNECTION_METRIC_V1, Flags, 4);
EXTENSION_ASSERT_FIELD(CONNECTION_METRIC_V1, BytesReceived, 8);
EXTENSION_ASSERT_FIELD(CONNECTION_METRIC_V1, BytesSent, 16);
EXTENSION_ASSERT_FIELD(CONNECTION_METRIC_V1, RoundTripTime, 24);
EXTENSION_ASSERT_FIELD(CONNECTION_METRIC_V1, Reserved, 28);

/*
 * weir's callbacks. IRQL <= DISPATCH_LEVEL. ClientContext is the one that AttachConnection was given for the socket. They
 * return nothing: a call with arguments against the rules is counted as malformed, one after the socket's end as late,
 * one for which there is no room as lost.
 */

/*
 * The connection's state has changed.
 * State: CONNECTION_STATE_...; Reason: CONNECTION_REASON_..., NONE unless closed.
 */
typedef void NTAPI CONNECTION_STATE_FN(PVOID ClientContext, UINT32 State, UINT32 Reason);

/*
 * A backlog has crossed a mark (SetMarks): upwards the high one, downwards the low one.
 * Direction: CONNECTION_DIRECTION_...; Above: 1 upwards, 0 downwards; Bytes: the backlog now; Mark: the mark.
 * What arrives for the send direction holds weir back: while it is above, a session has one buffer under way at most.
 */
typedef void NTAPI CONNECTION_BACKLOG_FN(
    PVOID ClientContext, UINT32 Direction, UINT32 Above, UINT64 Bytes, UINT64 Mark);

/* A sample, every so often. Metric: its Size and Version are set; it lasts for the call. */
typedef void NTAPI CONNECTION_METRIC_FN(PVOID ClientContext, const CONNECTION_METRIC_V1 *Metric);

/*
 * Something of the vendor's own. weir hands it on as it is.
 * Type: the vendor's; Data: Length bytes, which last for the call, or NULL with Length 0; Length: 0 to
 * CONNECTION_VENDOR_DATA_MAX.
 */
typedef void NTAPI CONNECTION_VENDOR_FN(PVOID ClientContext, UINT32 Type, const void *Data, UINT32 Length);

/* weir's table: what AttachConnection gets as ClientDispatch. No function is NULL. */
typedef struct _CONNECTION_V1_CLIENT_DISPATCH {
    UINT16 Size;
    UINT16 Version; /* CONNECTION_V1 or newer */
    UINT32 Reserved;
    CONNECTION_STATE_FN *State;
    CONNECTION_BACKLOG_FN *Backlog;
    CONNECTION_METRIC_FN *Metric;
    CONNECTION_VENDOR_FN *Vendor;
} CONNECTION_V1_CLIENT_DISPATCH;

EXTENSION_ASSERT_SIZE(CONNECTION_V1_CLIENT_DISPATCH, 40);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_CLIENT_DISPATCH, Size, 0);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_CLIENT_DISPATCH, Version, 2);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_CLIENT_DISPATCH, Reserved, 4);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_CLIENT_DISPATCH, State, 8);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_CLIENT_DISPATCH, Backlog, 16);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_CLIENT_DISPATCH, Metric, 24);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_CLIENT_DISPATCH, Vendor, 32);

/*
 * The provider's functions. IRQL <= DISPATCH_LEVEL, several at once, from AttachConnection's STATUS_SUCCESS until
 * DetachConnection is called or the binding is detached. ProviderContext is the one that AttachConnection has returned.
 * Exactly STATUS_SUCCESS is a success. They do not block.
 */

/*
 * Fills in a sample. Metric: the caller has set Size and Version; the provider writes within Size only, and sets Flags.
 * STATUS_SUCCESS; STATUS_INVALID_PARAMETER: Size is too small; another status: there is no sample now.
 */
typedef NTSTATUS NTAPI CONNECTION_QUERY_METRIC_FN(PVOID ProviderContext, CONNECTION_METRIC_V1 *Metric);

/*
 * Sets the marks of a direction, in bytes, whose crossing Backlog tells: upwards High, downwards Low. 0 and 0: none. The
 * new ones take the place of the old ones.
 * STATUS_SUCCESS; STATUS_INVALID_PARAMETER: no such direction, or Low above High.
 */
typedef NTSTATUS NTAPI CONNECTION_SET_MARKS_FN(PVOID ProviderContext, UINT32 Direction, UINT64 Low, UINT64 High);

/*
 * A control of the vendor's own, from an operator. Code: the vendor's; Input: Length bytes, which last for the call;
 * Length: 0 to CONNECTION_VENDOR_DATA_MAX. The operator sees the status.
 * STATUS_SUCCESS; STATUS_INVALID_PARAMETER: no such code, or not an input for it.
 */
typedef NTSTATUS NTAPI CONNECTION_CONTROL_FN(
    PVOID ProviderContext, UINT32 Code, const void *Input, UINT32 Length);

/* The provider's table: what AttachConnection stores in *ProviderDispatch. A function that is missing is NULL. */
typedef struct _CONNECTION_V1_PROVIDER_DISPATCH {
    UINT16 Size;
    UINT16 Version; /* CONNECTION_V1 */
    UINT32 Reserved;
    CONNECTION_QUERY_METRIC_FN *QueryMetric;
    CONNECTION_SET_MARKS_FN *SetMarks;
    CONNECTION_CONTROL_FN *Control;
} CONNECTION_V1_PROVIDER_DISPATCH;

EXTENSION_ASSERT_SIZE(CONNECTION_V1_PROVIDER_DISPATCH, 32);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_PROVIDER_DISPATCH, Size, 0);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_PROVIDER_DISPATCH, Version, 2);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_PROVIDER_DISPATCH, Reserved, 4);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_PROVIDER_DISPATCH, QueryMetric, 8);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_PROVIDER_DISPATCH, SetMarks, 16);
EXTENSION_ASSERT_FIELD(CONNECTION_V1_PROVIDER_DISPATCH, Control, 24);

#ifdef __cplusplus
}
#endif

#endif
