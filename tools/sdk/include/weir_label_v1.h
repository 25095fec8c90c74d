/*
 * weir_label_v1.h: the extension interface label_v1: a provider gives a connection a label, as a number and a text. The
 * rules of weir_extension.h hold.
 */
#ifndef WEIR_LABEL_V1_H
#define WEIR_LABEL_V1_H

#include "weir_extension.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The NPIID, as an initialiser: {9D2C6A7E-41B5-4C0F-8E39-52A7D61F0B84} */
#define NPI_LABEL_V1_INIT \
    { 0x9D2C6A7E, 0x41B5, 0x4C0F, { 0x8E, 0x39, 0x52, 0xA7, 0xD6, 0x1F, 0x0B, 0x84 } }

/* Version in the tables of this header. */
#define LABEL_V1 1

/* The event: a bit of EXTENSION_CONNECTION.EventMask. */
#define LABEL_EVENT_LABEL 0x1

/* The most bytes of a label's text. */
#define LABEL_TEXT_MAX 40

/*
 * The connection has this label now. weir's callback: IRQL <= DISPATCH_LEVEL.
 * ClientContext: the one that AttachConnection was given for the socket; Label: a number of the vendor's; Text: Length
 * bytes of UTF-8, without a final zero, which last for the call, or NULL with Length 0; Length: 0 to LABEL_TEXT_MAX. A
 * longer text is counted as malformed.
 */
typedef void NTAPI LABEL_LABEL_FN(PVOID ClientContext, UINT64 Label, const void *Text, UINT32 Length);

/* weir's table: what AttachConnection gets as ClientDispatch. No function is NULL. */
typedef struct _LABEL_V1_CLIENT_DISPATCH {
    UINT16 Size;
    UINT16 Version; /* LABEL_V1 or newer */
    UINT32 Reserved;
    LABEL_LABEL_FN *Label;
} LABEL_V1_CLIENT_DISPATCH;

EXTENSION_ASSERT_SIZE(LABEL_V1_CLIENT_DISPATCH, 16);
EXTENSION_ASSERT_FIELD(LABEL_V1_CLIENT_DISPATCH, Size, 0);
EXTENSION_ASSERT_FIELD(LABEL_V1_CLIENT_DISPATCH, Version, 2);
EXTENSION_ASSERT_FIELD(LABEL_V1_CLIENT_DISPATCH, Reserved, 4);
EXTENSION_ASSERT_FIELD(LABEL_V1_CLIENT_DISPATCH, Label, 8);

/*
 * Tells the label again, from within the call or later. The provider's function: IRQL <= DISPATCH_LEVEL, several at once,
 * from AttachConnection's STATUS_SUCCESS until DetachConnection is called or the binding is detached. It does not block.
 * ProviderContext: the one that AttachConnection has returned.
 * STATUS_SUCCESS, exactly; another status: it cannot.
 */
typedef NTSTATUS NTAPI LABEL_REFRESH_FN(PVOID ProviderContext);

/* The provider's table: what AttachConnection stores in *ProviderDispatch. */
typedef struct _LABEL_V1_PROVIDER_DISPATCH {
    UINT16 Size;
    UINT16 Version; /* LABEL_V1 */
    UINT32 Reserved;
    LABEL_REFRESH_FN *Refresh; /* NULL: missing */
} LABEL_V1_PROVIDER_DISPATCH;

EXTENSION_ASSERT_SIZE(LABEL_V1_PROVIDER_DISPATCH, 16);
EXTENSION_ASSERT_FIELD(LABEL_V1_PROVIDER_DISPATCH, Size, 0);
EXTENSION_ASSERT_FIELD(LABEL_V1_PROVIDER_DISPATCH, Version, 2);
EXTENSION_ASSERT_FIELD(LABEL_V1_PROVIDER_DISPATCH, Reserved, 4);
EXTENSION_ASSERT_FIELD(LABEL_V1_PROVIDER_DISPATCH, Refresh, 8);

#ifdef __cplusplus
}
#endif

#endif
