//! What requests and replies hold.
#![forbid(unsafe_code)]

use core::net::IpAddr;

use super::events::EventList;
use super::wire::{self, Field, Item, Key, List, Malformed, NoRoom, Shape, Type, Writer, choices, records};
use crate::control::protocol::role::Role;
use crate::policy::{Action, Direction};
use crate::trace::events::{FailMode, Origin, Provider};
use crate::trace::{Guid, NtStatus};

named! {
    /// Why a request was not answered with what it asked for.
    ErrorCode {
        /// There is no such request, or not in this version.
        UnknownRequest = 0 "unknown-request",
        /// The request is not as it must be: `key` and `at` say where, the text says what.
        Malformed = 1 "malformed",
        /// The request takes another role.
        NotPermitted = 2 "not-permitted",
        /// The versions have nothing in common.
        Version = 3 "version",
        /// It cannot be done while something else goes on: another policy goes up, or awaits its confirmation.
        Busy = 4 "busy",
        /// What the request names is not there, or not any more.
        NotFound = 5 "not-found",
        /// The policy has changed since: the generation is another one.
        Conflict = 6 "conflict",
        /// The policy is no good; the text says why.
        PolicyRefused = 7 "policy-refused",
        /// The policy that went up is not the one that was announced.
        Digest = 8 "digest",
        /// More of them than there may be, or too often.
        Limit = 9 "limit",
        /// The reply would not fit into a message.
        TooLarge = 10 "too-large",
        /// It was tried and failed; `status` says why.
        Failed = 11 "failed",
    }

    /// Where the policy that decides comes from.
    PolicyState {
        /// There is none: the fail mode decides.
        Absent = 0 "absent",
        /// It is the stored one, or that of the registry.
        Confirmed = 1 "confirmed",
        /// It was applied, and is rolled back unless it is confirmed in time.
        Provisional = 2 "provisional",
    }

    /// How a session stands.
    SessionState {
        /// It is not known yet who it is.
        Handshake = 0 "handshake",
        /// It is open.
        Open = 1 "open",
        /// It is being closed.
        Ending = 2 "ending",
    }

    /// What a socket of weir's is for.
    SocketKind {
        /// It listens for control connections.
        Listening = 0 "listening",
        /// The other side has opened it.
        Accepted = 1 "accepted",
        /// The driver has opened it.
        Dialled = 2 "dialled",
    }

    /// How an extension interface stands on a connection.
    ExtensionState {
        /// It is registered, and calls back.
        Registered = 0 "registered",
        /// Nobody provides it.
        Refused = 1 "refused",
        /// Its provider could not.
        Failed = 2 "failed",
        /// It has ended.
        Detached = 3 "detached",
    }
}

choices! {
    ErrorCode, ErrorCode::from_number, ErrorCode::VALUES;
    PolicyState, PolicyState::from_number, PolicyState::VALUES;
    SessionState, SessionState::from_number, SessionState::VALUES;
    SocketKind, SocketKind::from_number, SocketKind::VALUES;
    ExtensionState, ExtensionState::from_number, ExtensionState::VALUES;
}

bitflags::bitflags! {
    /// What a driver can do beyond what every driver of its version can.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Capabilities: u64 {
        /// Policies can be applied, confirmed and rolled back.
        const APPLY = 0x1;
        /// A confirmed policy survives a restart.
        const STORE = 0x2;
        /// Connections that are open already can be asked for with a subscription.
        const SNAPSHOT = 0x4;
        /// Rules count what they decide.
        const HITS = 0x8;
    }
}

records! {
    /// What has no keys.
    Empty {}

    /// Who the client is, and what it speaks.
    Hello<'a> {
        /// The highest version of the protocol that the client speaks. The driver answers with one that both do.
        0 version: u32,
        /// The client's name and version, for the log.
        1 client: Option<&'a str>,
    }
    /// Who the driver is, and as whom it takes the client.
    Welcome<'a> {
        /// The version of the protocol that holds from now on.
        0 version: u32,
        /// The driver's version, as major.minor.patch.
        1 driver: &'a str,
        /// The session's number, unique since the driver's start.
        2 session: u64,
        /// The client's name among the peers.
        3 peer: &'a str,
        /// What the client may ask for.
        4 role: Role,
        /// What this driver can do: a bit each.
        5 capabilities: u64,
    }

    /// How late it is.
    Time {
        /// Now.
        0 now: u64 ["100 ns since 1601, UTC"],
    }

    /// How the driver stands.
    Status<'a> {
        /// The driver's version, as major.minor.patch.
        0 driver: &'a str,
        /// When it was started.
        1 started: u64 ["100 ns since 1601, UTC"],
        /// Now.
        2 now: u64 ["100 ns since 1601, UTC"],
        /// weir's filters are in force: it decides on every new connection.
        3 filters: bool,
        /// Where the policy comes from.
        4 policy: PolicyState,
        /// Counts the policies since the driver's start, from 1; 0: there was none.
        5 generation: u32,
        /// How many rules it has.
        6 rules: u32,
        /// BLAKE2s-256 of the policy's image.
        7 digest: Option<[u8; 32]>,
        /// How long until it is rolled back. Present while it is provisional.
        8 rollback_in: Option<u64> ["milliseconds"],
        /// What happens to connections while there is no policy.
        9 fail_mode: FailMode,
        /// How many connections are tracked now.
        10 connections: u64,
        /// How many control connections there are, of any state.
        11 sessions: u32,
        /// How many parts of the driver are missing; each was told by a Degraded event.
        12 degraded: u32,
        /// How many processors there are.
        13 processors: u32,
    }

    /// Where a long list is to be gone on with.
    From {
        /// What the reply before had under `next`; absent: from the beginning.
        0 from: Option<u32>,
    }
    /// A number that only grows, or a gauge.
    Counter<'a> {
        /// Its name: parts with dots between them.
        0 name: &'a str,
        /// Its value.
        1 value: u64,
        /// What it counts, if that is not told by its name.
        2 unit: Option<&'a str>,
        /// Whether it may shrink.
        3 gauge: Option<bool>,
    }
    /// The driver's counters, or some of them.
    Counters<'a> {
        /// The counters.
        0 counters: List<'a, Counter<'a>>,
        /// Where to go on; absent: these were the last.
        1 next: Option<u32>,
    }

    /// A control connection.
    Session<'a> {
        /// The session's number, unique since the driver's start.
        0 session: u64,
        /// How it stands.
        1 state: SessionState,
        /// The other side's address.
        2 remote: IpAddr,
        /// The other side's port.
        3 remote_port: u16,
        /// The driver has opened it.
        4 dialled: bool,
        /// When it was opened.
        5 since: u64 ["100 ns since 1601, UTC"],
        /// The other side's name among the peers, once it is known.
        6 peer: Option<&'a str>,
        /// What it may ask for.
        7 role: Option<Role>,
        /// Bytes received.
        8 received: u64 ["bytes"],
        /// Bytes sent.
        9 sent: u64 ["bytes"],
        /// Events sent to its subscription.
        10 events: Option<u64> ["events"],
        /// Events that its subscription has lost.
        11 lost: Option<u64> ["events"],
    }
    /// The control connections, or some of them.
    Sessions<'a> {
        /// The connections.
        0 sessions: List<'a, Session<'a>>,
        /// Where to go on; absent: these were the last.
        1 next: Option<u32>,
    }

    /// A setting that is not at its default, of which something is refused, or that waits for the next start.
    Setting<'a> {
        /// Its name in the registry.
        0 name: &'a str,
        /// Where its value comes from.
        1 origin: Origin,
        /// Its value takes effect at the driver's next start; until then, the one that it had holds.
        2 pending: bool,
        /// What holds, as the number that stands for it in the registry, if one does.
        3 value: Option<u32>,
        /// What holds after the next start, if one does and it is another one.
        4 next: Option<u32>,
        /// Why what stands in the service's own key is refused.
        5 refused: Option<&'a str>,
        /// Why what stands in the key of policies is refused.
        6 refused_policy: Option<&'a str>,
    }
    /// The settings that are not at their defaults, or some of them.
    Settings<'a> {
        /// The settings.
        0 settings: List<'a, Setting<'a>>,
        /// Where to go on; absent: these were the last.
        1 next: Option<u32>,
    }

    /// An extension interface of a control connection.
    Extension {
        /// The session's number; 0 for a listening socket.
        0 session: u64,
        /// The interface's NPIID, in the order in which it is printed.
        1 interface: Guid,
        /// How it stands.
        2 state: ExtensionState,
        /// A connection that cannot have it is closed.
        3 required: bool,
        /// Who provides it, or was asked last.
        4 provider: Option<Provider>,
        /// Why it failed or was refused.
        5 status: Option<NtStatus>,
        /// How many callbacks it has made.
        6 callbacks: u64,
        /// What the socket is for.
        7 kind: Option<SocketKind>,
        /// The vendor's module that provides it, in the order in which it is printed.
        8 module: Option<Guid>,
    }
    /// The extension interfaces of all control connections, or some of them.
    Extensions<'a> {
        /// The interfaces.
        0 extensions: List<'a, Extension>,
        /// Where to go on; absent: these were the last.
        1 next: Option<u32>,
    }

    /// An extension interface of a control connection, to ask who provides it.
    Extended {
        /// The session's number.
        0 session: u64,
        /// The interface's NPIID, in the order in which it is printed.
        1 interface: Guid,
    }
    /// A sample of a control connection's counters, as who provides the interface takes it.
    Metric {
        /// Bytes received.
        0 received: u64 ["bytes"],
        /// Bytes sent.
        1 sent: u64 ["bytes"],
        /// How long a segment takes to the other side and back; absent: it is not known.
        2 round_trip: Option<u32> ["microseconds"],
        /// Who has taken it.
        3 provider: Provider,
    }
    /// A control code of a vendor's own.
    Control<'a> {
        /// The session's number.
        0 session: u64,
        /// The interface's NPIID, in the order in which it is printed.
        1 interface: Guid,
        /// What it means is the vendor's business.
        2 code: u32,
        /// What goes with it, 40 bytes at most; absent: nothing.
        3 data: Option<&'a [u8]>,
    }
    /// Who has taken a control code.
    Controlled {
        /// Who has taken it.
        0 provider: Provider,
    }

    /// A connection that is tracked.
    Connection {
        /// The connection's number, unique since the driver's start.
        0 connection: u64,
        /// Which side opened it.
        1 direction: Direction,
        /// The IP protocol's number.
        2 protocol: u8,
        /// This machine's address.
        3 local: IpAddr,
        /// This machine's port; for ICMP the message's type.
        4 local_port: u16,
        /// The other side's address.
        5 remote: IpAddr,
        /// The other side's port; for ICMP the message's code.
        6 remote_port: u16,
        /// What was decided.
        7 verdict: Action,
        /// The rule that decided; absent: the policy's default, or the fail mode.
        8 rule: Option<u32>,
        /// The policy that decided; 0: the fail mode.
        9 generation: u32,
        /// When it was decided on.
        10 opened: u64 ["100 ns since 1601, UTC"],
        /// Packets received.
        11 packets_in: u64 ["packets"],
        /// Packets sent.
        12 packets_out: u64 ["packets"],
        /// Transport headers and data received.
        13 bytes_in: u64 ["bytes"],
        /// Transport headers and data sent.
        14 bytes_out: u64 ["bytes"],
    }
    /// The connections that are tracked, or some of them.
    Connections<'a> {
        /// The connections.
        0 connections: List<'a, Connection>,
        /// Where to go on; absent: these were the last.
        1 next: Option<u32>,
    }

    /// A rule of the policy that decides.
    Rule<'a> {
        /// Its place in the policy, from 0.
        0 rule: u32,
        /// Its name.
        1 name: &'a str,
        /// What it does.
        2 action: Action,
        /// How many connections it has decided.
        3 hits: Option<u64> ["connections"],
    }
    /// The policy that decides, and its rules or some of them.
    Policy<'a> {
        /// Where it comes from.
        0 state: PolicyState,
        /// Counts the policies since the driver's start, from 1; 0: there is none.
        1 generation: u32,
        /// BLAKE2s-256 of the policy's image.
        2 digest: Option<[u8; 32]>,
        /// The image's size.
        3 size: u32 ["bytes"],
        /// What is done with a connection that no rule matches.
        4 default_action: Option<Action>,
        /// How many rules there are.
        5 total: u32,
        /// The rules.
        6 rules: List<'a, Rule<'a>>,
        /// Where to go on; absent: these were the last.
        7 next: Option<u32>,
    }
    /// Which part of the policy's image.
    ReadImage {
        /// The generation that it must be of.
        0 generation: u32,
        /// From which byte on.
        1 offset: u32 ["bytes"],
    }
    /// A part of the policy's image.
    Image<'a> {
        /// The image's size.
        0 size: u32 ["bytes"],
        /// The bytes, as many as fit. None: the offset is the image's end.
        1 bytes: &'a [u8],
    }

    /// A policy that is to go up.
    Begin {
        /// The image's size.
        0 size: u32 ["bytes"],
        /// BLAKE2s-256 of the image.
        1 digest: [u8; 32],
    }
    /// A policy that may go up now.
    Begun {
        /// Its number, for the requests that follow. It is forgotten when the connection ends, or another begins.
        0 upload: u32,
        /// The most bytes that a chunk may have.
        1 chunk: u32 ["bytes"],
    }
    /// A part of a policy.
    Chunk<'a> {
        /// The number that its beginning was answered with.
        0 upload: u32,
        /// Where it belongs: the end of the chunk before.
        1 offset: u32 ["bytes"],
        /// The bytes; at least one.
        2 bytes: &'a [u8],
    }
    /// How much has gone up.
    Uploaded {
        /// So many bytes are there.
        0 received: u32 ["bytes"],
    }
    /// All of a policy has gone up.
    Commit {
        /// The number that its beginning was answered with.
        0 upload: u32,
        /// How long it decides unless it is confirmed, 1 to 3600; absent: 60.
        1 window: Option<u32> ["seconds"],
        /// The generation that it is to take the place of; another one is a conflict. Absent: any.
        2 replaces: Option<u32>,
    }
    /// A policy that decides now.
    Applied {
        /// The policy's generation.
        0 generation: u32,
        /// How many rules it has.
        1 rules: u32,
        /// How long it decides unless it is confirmed.
        2 window: u32 ["seconds"],
    }
    /// A policy, by its generation.
    Generation {
        /// The policy's generation.
        0 generation: u32,
    }

    /// A connection, to ask what the policy says of it. What is absent is not known: no rule that names it matches.
    Tuple<'a> {
        /// Which side opens it.
        0 direction: Direction,
        /// The IP protocol's number.
        1 protocol: Option<u8>,
        /// This machine's address.
        2 local: Option<IpAddr>,
        /// This machine's port.
        3 local_port: Option<u16>,
        /// The other side's address, of the same family.
        4 remote: Option<IpAddr>,
        /// The other side's port.
        5 remote_port: Option<u16>,
        /// The application's NT path, as `\device\harddiskvolume2\windows\system32\svchost.exe`.
        6 application: Option<&'a str>,
        /// Where a long list of steps is to be gone on with.
        7 from: Option<u32>,
    }
    /// A rule that was held against the connection.
    Step<'a> {
        /// The rule, by its place in the policy, from 0.
        0 rule: u32,
        /// Its name.
        1 name: &'a str,
        /// What does not match; nothing: the rule decides. A bit each: 1 local, 2 remote, 4 local port, 8 remote port,
        /// 16 protocol, 32 application, 64 direction.
        2 failed: u8,
    }
    /// What the policy says of a connection, and why.
    Explanation<'a> {
        /// What is done.
        0 action: Action,
        /// The rule that says so; absent: the policy's default, or the fail mode.
        1 rule: Option<u32>,
        /// The policy's generation; 0: the fail mode.
        2 generation: u32,
        /// The rules that were tried, in their order.
        3 steps: List<'a, Step<'a>>,
        /// Where to go on; absent: these were the last.
        4 next: Option<u32>,
    }

    /// Which events are to be sent.
    Subscribe<'a> {
        /// How many may be sent before further credit.
        0 credit: u32 ["events"],
        /// Events up to this level: 1 critical, 2 error, 3 warning, 4 information, 5 verbose; absent: 4.
        1 level: Option<u8>,
        /// Events with one of these keywords; absent: any.
        2 keywords: Option<u64>,
        /// Events with one of these ids, 32 at most; absent: any.
        3 ids: Option<List<'a, u16>>,
        /// Begin with a FlowOpened event for each connection that is open already.
        4 snapshot: Option<bool>,
    }
    /// More may be sent.
    Credit {
        /// The id of the request that has subscribed.
        0 subscription: u64,
        /// How many events more.
        1 credit: u32 ["events"],
    }
    /// Which subscription is to end.
    Unsubscribe {
        /// The id of the request that has subscribed.
        0 subscription: u64,
    }
    /// Events of one kind that could not be sent.
    Loss {
        /// The events' id.
        0 event: u16,
        /// How many.
        1 count: u64 ["events"],
    }
    /// How a subscription ended.
    Unsubscribed<'a> {
        /// How many events were sent in all.
        0 sent: u64 ["events"],
        /// What was lost since the last message that told.
        1 lost: List<'a, Loss>,
    }
    /// Events of a subscription; the message has the id of the request that has subscribed.
    Events<'a> {
        /// How many events were sent before these.
        0 first: u64 ["events"],
        /// What was lost since the message before; absent: nothing.
        1 lost: Option<List<'a, Loss>>,
        /// All connections that were open already have been told by the messages before this one.
        2 snapshot_end: Option<bool>,
        /// The events, in their order.
        3 events: EventList<'a>,
    }

    /// Why a request was not answered with what it asked for.
    Failure<'a> {
        /// Why.
        0 code: ErrorCode,
        /// More of it, for people.
        1 text: Option<&'a str>,
        /// The same as a status.
        2 status: Option<NtStatus>,
        /// The key that is wrong.
        3 key: Option<u32>,
        /// The byte of the message that is wrong, from 0.
        4 at: Option<u64>,
    }
}
