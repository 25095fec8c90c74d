/*
 * What sample.c uses of a kernel, on threads of the host: enough to run it under sanitizers. Milliseconds pass ten times
 * as fast.
 */
#ifndef HOST_NTDDK_H
#define HOST_NTDDK_H
#define _NTDEF_

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NTAPI
#define VOID void
typedef void *PVOID;
typedef void *HANDLE;
typedef HANDLE *PHANDLE;
typedef int32_t NTSTATUS;
typedef uint8_t UINT8;
typedef uint16_t UINT16;
typedef uint32_t UINT32;
typedef uint64_t UINT64;
typedef uint16_t USHORT;
typedef uint32_t ULONG;
typedef uint8_t BOOLEAN;
typedef size_t SIZE_T;
typedef uint8_t KIRQL;

#define TRUE 1
#define FALSE 0

typedef struct _GUID {
    uint32_t Data1;
    uint16_t Data2;
    uint16_t Data3;
    uint8_t Data4[8];
} GUID;

typedef struct _LUID {
    uint32_t LowPart;
    int32_t HighPart;
} LUID;

typedef union _LARGE_INTEGER {
    int64_t QuadPart;
} LARGE_INTEGER;

#define STATUS_SUCCESS ((NTSTATUS)0)
#define STATUS_TIMEOUT ((NTSTATUS)0x102)
#define STATUS_PENDING ((NTSTATUS)0x103)
#define STATUS_INVALID_PARAMETER ((NTSTATUS)0xC000000D)
#define STATUS_DELETE_PENDING ((NTSTATUS)0xC0000056)
#define STATUS_REVISION_MISMATCH ((NTSTATUS)0xC0000059)
#define STATUS_INSUFFICIENT_RESOURCES ((NTSTATUS)0xC000009A)
#define STATUS_NOINTERFACE ((NTSTATUS)0xC00002B9)
#define NT_SUCCESS(Status) ((Status) >= 0)

#define C_ASSERT(Condition) _Static_assert(Condition, #Condition)
#define NT_ASSERT(Condition) ((void)(Condition))
#define UNREFERENCED_PARAMETER(Parameter) ((void)(Parameter))
#define RTL_NUMBER_OF(Array) (sizeof(Array) / sizeof((Array)[0]))
#define CONTAINING_RECORD(Address, Type, Field) ((Type *)((char *)(Address) - offsetof(Type, Field)))
#define RtlCopyMemory memcpy
#define RtlZeroMemory(Memory, Size) memset(Memory, 0, Size)

typedef struct _LIST_ENTRY {
    struct _LIST_ENTRY *Flink;
    struct _LIST_ENTRY *Blink;
} LIST_ENTRY, *PLIST_ENTRY;

static inline void InitializeListHead(PLIST_ENTRY Head)
{
    Head->Flink = Head->Blink = Head;
}

static inline BOOLEAN IsListEmpty(const LIST_ENTRY *Head)
{
    return Head->Flink == Head;
}

static inline BOOLEAN RemoveEntryList(PLIST_ENTRY Entry)
{
    Entry->Blink->Flink = Entry->Flink;
    Entry->Flink->Blink = Entry->Blink;
    return Entry->Flink == Entry->Blink;
}

static inline PLIST_ENTRY RemoveHeadList(PLIST_ENTRY Head)
{
    PLIST_ENTRY Entry = Head->Flink;

    RemoveEntryList(Entry);
    return Entry;
}

static inline void InsertTailList(PLIST_ENTRY Head, PLIST_ENTRY Entry)
{
    Entry->Flink = Head;
    Entry->Blink = Head->Blink;
    Head->Blink->Flink = Entry;
    Head->Blink = Entry;
}

typedef pthread_mutex_t KSPIN_LOCK;

void KeInitializeSpinLock(KSPIN_LOCK *Lock);
void KeAcquireSpinLock(KSPIN_LOCK *Lock, KIRQL *OldIrql);
void KeReleaseSpinLock(KSPIN_LOCK *Lock, KIRQL OldIrql);

enum { NonPagedPoolNx = 512 };

void *ExAllocatePoolWithTag(int Type, SIZE_T Size, ULONG Tag);
void ExFreePoolWithTag(void *Memory, ULONG Tag);

enum { NotificationEvent };
enum { Executive };
enum { KernelMode };
enum { IO_NO_INCREMENT };

/* An event, or a thread: both are what can be waited for. */
typedef struct _KEVENT {
    pthread_mutex_t Mutex;
    pthread_cond_t Condition;
    BOOLEAN Signalled;
    BOOLEAN IsThread;
    pthread_t Thread;
} KEVENT;

void KeInitializeEvent(KEVENT *Event, int Type, BOOLEAN State);
int32_t KeSetEvent(KEVENT *Event, int Increment, BOOLEAN Wait);
NTSTATUS KeWaitForSingleObject(
    PVOID Object, int Reason, int Mode, BOOLEAN Alertable, const LARGE_INTEGER *Timeout);

typedef int OBJECT_ATTRIBUTES;
#define OBJ_KERNEL_HANDLE 0x200
#define InitializeObjectAttributes(Attributes, Name, Flags, Root, Descriptor) ((void)(*(Attributes) = (Flags)))
#define THREAD_ALL_ACCESS 0x1FFFFF
#define SYNCHRONIZE 0x100000

typedef VOID NTAPI KSTART_ROUTINE(PVOID Context);

NTSTATUS PsCreateSystemThread(
    PHANDLE Thread, ULONG Access, OBJECT_ATTRIBUTES *Attributes, HANDLE Process, PVOID Client,
    KSTART_ROUTINE *Routine, PVOID Context);
NTSTATUS PsTerminateSystemThread(NTSTATUS Status);
NTSTATUS ObReferenceObjectByHandle(
    HANDLE Handle, ULONG Access, PVOID Type, int Mode, PVOID *Object, PVOID Information);
void ObDereferenceObject(PVOID Object);
NTSTATUS ZwClose(HANDLE Handle);
NTSTATUS ZwWaitForSingleObject(HANDLE Handle, BOOLEAN Alertable, const LARGE_INTEGER *Timeout);

typedef struct _UNICODE_STRING *PUNICODE_STRING;
typedef struct _DRIVER_OBJECT *PDRIVER_OBJECT;
typedef VOID NTAPI DRIVER_UNLOAD(PDRIVER_OBJECT DriverObject);
typedef NTSTATUS NTAPI DRIVER_INITIALIZE(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath);

struct _DRIVER_OBJECT {
    DRIVER_UNLOAD *DriverUnload;
};

#endif
