//! The rules of the WSK documentation that the verifier enforces, each with its page.

use crate::rules;

rules! {
    NOT_REGISTERED = ("not a registration", "WSK_REGISTRATION");
    REGISTRATION_MOVED = ("WSK_REGISTRATION was moved", "Registering a Winsock Kernel Application");
    REGISTERED_TWICE = ("registration object in use", "WskRegister");
    RELEASE_WITHOUT_CAPTURE = ("more releases than captures", "WskReleaseProviderNPI");
    DEREGISTER_BLOCKED = ("WskDeregister does not come back", "Unregistering a Winsock Kernel Application");
    NO_CAPTURE = ("provider called without a captured NPI", "Unregistering a Winsock Kernel Application");
    NOT_A_CLIENT = ("not a client object", "WSK_PROVIDER_NPI");
    STATIC_AFTER_SOCKET = ("static callbacks set after a socket", "WSK_SET_STATIC_EVENT_CALLBACKS");
    STATIC_FIXED = ("static callbacks cannot be changed", "WSK_SET_STATIC_EVENT_CALLBACKS");
    SECURITY_NOT_CACHED = ("security descriptor is not a cached one", "WSK_CACHE_SD");
    SECURITY_INVALID = ("not a self-relative security descriptor", "WSK_CACHE_SD");
    SECURITY_RELEASED_EARLY = ("security descriptor released while in use", "SO_WSK_SECURITY");

    NULL_IRP = ("an IRP is required", "Using IRPs with Winsock Kernel Functions");
    IRP_FORBIDDEN = ("this operation takes no IRP", "");
    IN_COMPLETION = ("WSK called from a completion routine", "Using IRPs with Winsock Kernel Functions");

    SOCKET_GONE = ("called on a socket that was closed", "Closing a Socket");
    SOCKET_CLOSING = ("called after WskCloseSocket", "Closing a Socket");
    CLOSED_TWICE = ("WskCloseSocket called twice", "Closing a Socket");
    CALLS_AT_CLOSE = ("closed with calls in progress", "Closing a Socket");
    EXTENSION_AT_CLOSE = ("closed with an extension function in progress", "Closing a Socket");
    EXTENSION_AFTER_CLOSE = ("extension function called after WskCloseSocket", "Closing a Socket");
    RETAINED_AT_CLOSE = ("closed with indications retained", "PFN_WSK_RELEASE_DATA_INDICATION_LIST");
    NOT_RETAINED = ("released what was not retained", "PFN_WSK_RELEASE_DATA_INDICATION_LIST");
    RELEASED_AND_RETURNED = ("released an indication and did not return STATUS_PENDING", "PFN_WSK_RECEIVE_EVENT");

    BASIC_CONTEXT = ("a basic socket has no context and no dispatch", "PFN_WSK_SOCKET");
    NULL_CALLBACK = ("an event is enabled whose callback is NULL", "Enabling and Disabling Event Callback Functions");
    NULL_ADDRESS = ("the address is NULL", "");
    ACCEPTED_MORE = ("accepted more than was indicated", "PFN_WSK_RECEIVE_EVENT");
    CALLBACK_STATUS = ("undocumented status from a callback", "");
    CALLBACK_WAITS = ("a WSK callback waits", "Winsock Kernel Events");
    ABORTIVE_BUFFER = ("an abortive disconnect takes no buffer", "PFN_WSK_DISCONNECT");
    RECEIVE_FLAGS = ("WSK_FLAG_WAITALL and WSK_FLAG_DRAIN exclude each other", "PFN_WSK_RECEIVE");
    DRAIN_LENGTH = ("a draining receive has a length of zero", "PFN_WSK_RECEIVE");
    BUFFER_OFFSET = ("the offset is not within the first MDL", "WSK_BUF");
    BUFFER_LENGTH = ("the length exceeds the MDL chain", "WSK_BUF");
    BUFFER_MDL = ("the MDL is neither locked nor non-paged", "WSK_BUF");
    BUFFER_NULL = ("the buffer is NULL", "WSK_BUF");
    BUFFER_FREED = ("a buffer or its MDL freed before its request was completed", "PFN_WSK_SEND");
    BUFFER_CHANGED = ("data that is being sent was changed before its request was completed", "PFN_WSK_SEND");
    ARGUMENT_FREED = ("an address or a buffer freed before its request was completed", "Using IRPs with Winsock Kernel Functions");
    RESERVED_FUNCTION = ("a function behind WskRelease, where older tables end", "WSK_PROVIDER_CONNECTION_DISPATCH");
    NULL_OUTPUT = ("the output buffer is NULL or too small", "");
}
