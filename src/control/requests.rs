//! What requests are answered with.
//!
//! A reply is written straight into the buffer that it is sent from. Long lists come in parts. The policy that is looked
//! at stays until the look is over, at PASSIVE_LEVEL, whatever comes into force meanwhile.
#![forbid(unsafe_code)]

use super::conversation::{Conversation, Uploading};
use super::hub::NotTaken;
use super::plane::{Host, fail_action};
use super::protocol::common_version;
use super::protocol::message::{
    Applied, Begin, Begun, Capabilities, Chunk, Commit, Connection, Connections, Control, Controlled,
    Counter, Counters, Credit, Empty, ErrorCode, Explanation, Extended, Extension, ExtensionState,
    Extensions, Failure, From, Generation, Hello, Image, List, ListWriter, MAX_CONTROL, MAX_LIST, Metric,
    NoRoom, Policy, PolicyState, ReadImage, Reply, Request, Rule, Session as Listed, Sessions,
    Setting as Standard, Settings as Standards, SocketKind, Status as Standing, Step, Subscribe, Time, Tuple,
    Unsubscribe, Unsubscribed, Uploaded, Welcome,
};
use super::protocol::subscription::{Refused, Subscription};
use super::protocol::upload::Upload;
use super::session::Session;
use super::shared::Shared;
use crate::config::Settings;
use crate::config::schema::{Origin, Requirement, TABLE};
use crate::dispatch::address;
use crate::ext;
use crate::ext::connection_v1::{CONNECTION_METRIC_ROUND_TRIP, CONNECTION_VENDOR_DATA_MAX};
use crate::kernel::Status;
use crate::kernel::irql::{self, Passive};
use crate::kernel::pool::{PoolArc, PoolSlice, tags};
use crate::kernel::time;
use crate::policies::{Done, Order, Outcome, Refusal, Ticket, What};
use crate::policy::{self, App, Direction, Family};
use crate::ring::{Cause, Kind};
use crate::trace::NtStatus;
use crate::trace::events::Provider;
use crate::wsk::address::octets;

/// The driver's version, as clients are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The most rules that one part of an explanation holds against the connection: each takes a look at all that it names.
const STEPS_AT_ONCE: usize = 16;
/// The most bytes of a policy that goes up: as many as the registry may hold.
const MAX_POLICY: u32 = 64 * 1024 * 1024;
const _: () = assert!(MAX_CONTROL == CONNECTION_VENDOR_DATA_MAX as usize);
/// The longest name of a counter.
const COUNTER_NAME: usize = 64;

/// How a request fails.
type Failed = Failure<'static>;
type Answered<'l> = core::result::Result<Reply<'l>, Failed>;

/// What requests are answered from.
pub(super) struct Office<'o> {
    pub(super) host: &'o Host,
    pub(super) shared: &'o Shared,
    pub(super) settings: &'o Settings,
}

/// A failure without more to say.
const fn failure(code: ErrorCode) -> Failed {
    Failure { code, text: None, status: None, key: None, at: None }
}

const fn failure_with(code: ErrorCode, status: Status) -> Failed {
    Failure { code, text: None, status: Some(NtStatus(status.0)), key: None, at: None }
}

const fn wrong(key: u32, text: &'static str) -> Failed {
    Failure { code: ErrorCode::Malformed, text: Some(text), status: None, key: Some(key), at: None }
}

/// Writes what a request with that id is answered with; nothing if it has none.
pub(super) fn write(id: Option<u64>, answered: &Answered<'_>, into: &mut [u8]) -> Option<usize> {
    let id = id?;
    let written = match answered {
        Ok(reply) => reply.encode(id, into).or_else(|NoRoom| failure(ErrorCode::TooLarge).encode(id, into)),
        Err(failed) => failed.encode(id, into),
    };
    // The buffer has room for an error.
    written.ok()
}

/// What an order to the policies' thread is answered with.
pub(super) fn outcome(outcome: &Outcome, into: &mut [u8]) -> Option<usize> {
    let answered = match outcome.result {
        Ok(Done::Applied { generation, rules, window }) => {
            Ok(Reply::PolicyCommit(Applied { generation, rules, window }))
        }
        Ok(Done::Confirmed { generation }) => Ok(Reply::PolicyConfirm(Generation { generation })),
        Ok(Done::RolledBack { generation }) => Ok(Reply::PolicyRollback(Generation { generation })),
        Err(Refusal { code, text, status }) => {
            let status = status.map(|status| NtStatus(status.0));
            Err(Failure { code, text: Some(text), status, key: None, at: None })
        }
    };
    write(outcome.ticket.request, &answered, into)
}

impl Office<'_> {
    /// Does what is asked, and writes the answer; `None`: there is none, or not yet.
    pub(super) fn answer(
        &self,
        passive: &mut Passive,
        session: &Session,
        conversation: &mut Conversation,
        message: &[u8],
        list: &mut [u8],
        into: &mut [u8],
    ) -> Option<usize> {
        let (id, request) = match Request::decode(message) {
            Ok(decoded) => decoded,
            Err(rejected) => return write(rejected.id, &Err(rejected.failure()), into),
        };
        let Some(role) = self.settings.control_peers.numbered(session.peer()).map(|peer| peer.role) else {
            return write(id, &Err(failure(ErrorCode::NotPermitted)), into);
        };
        if !role.includes(request.role()) {
            return write(id, &Err(failure(ErrorCode::NotPermitted)), into);
        }
        let answered = match &request {
            Request::Hello(hello) => self.hello(passive, session, hello),
            Request::Ping(Empty {}) => Ok(Reply::Ping(Time { now: time::system_time() })),
            Request::Status(Empty {}) => Ok(Reply::Status(self.status(passive))),
            Request::Counters(_) => Ok(Reply::Counters(self.counters(passive, list))),
            Request::Sessions(from) => Ok(Reply::Sessions(self.sessions(passive, *from, list))),
            Request::Extensions(from) => Ok(Reply::Extensions(self.extensions(*from, list))),
            Request::ExtensionMetric(asked) => self.extension_metric(passive, *asked),
            Request::ExtensionControl(control) => self.extension_control(passive, control),
            Request::Connections(from) => Ok(Reply::Connections(self.connections(passive, *from, list))),
            Request::PolicyShow(from) => Ok(Reply::PolicyShow(self.show(passive, *from, list))),
            Request::PolicyRead(read) => self.read(passive, *read, list),
            Request::PolicyBegin(begin) => self.begin_upload(session, conversation, begin),
            Request::PolicyChunk(chunk) => conversation.take_chunk(chunk),
            Request::PolicyCommit(commit) => {
                return self.commit(passive, session, conversation, id, commit, into);
            }
            Request::PolicyConfirm(Generation { generation }) => {
                let what = What::Confirm { generation: *generation };
                return self.order(passive, session, conversation, id, what, into);
            }
            Request::PolicyRollback(Generation { generation }) => {
                let what = What::Rollback { generation: *generation };
                return self.order(passive, session, conversation, id, what, into);
            }
            Request::Explain(tuple) => self.explain(passive, tuple, list),
            Request::Settings(from) => Ok(Reply::Settings(self.settings(passive, *from, list))),
            Request::Subscribe(subscribe) => match id {
                Some(id) => self.subscribe(passive, session, conversation, id, subscribe),
                None => return None,
            },
            Request::Credit(Credit { subscription, credit }) => {
                if self.shared.hub.grant(passive, session.index(), *subscription, *credit) {
                    Ok(Reply::Credit(Empty {}))
                } else {
                    Err(failure(ErrorCode::NotFound))
                }
            }
            Request::Unsubscribe(Unsubscribe { subscription }) => {
                if self.shared.hub.end(passive, session.index(), *subscription) {
                    conversation.unsubscribing = id;
                    return None;
                }
                Err(failure(ErrorCode::NotFound))
            }
        };
        write(id, &answered, into)
    }

    fn hello<'l>(&'l self, passive: &mut Passive, session: &Session, hello: &Hello<'_>) -> Answered<'l> {
        let version = common_version(hello.version).ok_or(failure(ErrorCode::Version))?;
        let peer =
            self.settings.control_peers.numbered(session.peer()).ok_or(failure(ErrorCode::NotPermitted))?;
        let mut capabilities = Capabilities::APPLY | Capabilities::SNAPSHOT;
        capabilities.set(Capabilities::STORE, self.host.desk.stores(passive));
        Ok(Reply::Hello(Welcome {
            version,
            driver: VERSION,
            session: session.number(),
            peer: peer.name.as_str(),
            role: peer.role,
            capabilities: capabilities.bits(),
        }))
    }

    fn status(&self, passive: &mut Passive) -> Standing<'static> {
        let Host { desk, flows, board, .. } = self.host;
        let policy = desk.status(passive);
        Standing {
            driver: VERSION,
            started: board.started(),
            now: time::system_time(),
            filters: board.is_filtering(),
            policy: policy.state,
            generation: policy.generation,
            rules: policy.rules,
            digest: policy.digest,
            rollback_in: policy.rollback_in,
            fail_mode: self.settings.fail_mode,
            connections: flows.population().into(),
            sessions: u32::try_from(self.shared.sessions(passive)).unwrap_or(u32::MAX),
            degraded: board.degraded(),
            processors: irql::active_processors(passive),
        }
    }

    fn counters<'l>(&self, passive: &mut Passive, list: &'l mut [u8]) -> Counters<'l> {
        let mut list = ListWriter::new(list);
        let mut tell = |names: &[&str], value: u64, gauge: bool, unit: Option<&'static str>| {
            let mut place = [0; COUNTER_NAME];
            // All of them have room, as a test sees to.
            let _told = list.push(&Counter {
                name: join(&mut place, names),
                value,
                unit,
                gauge: gauge.then_some(true),
            });
        };
        let Host { flows, rings, .. } = self.host;
        tell(&["connections.tracked"], flows.population().into(), true, Some("connections"));
        tell(&["connections.decided"], flows.numbers(), false, Some("connections"));

        let counters = self.shared.counters();
        let control = [
            ("accepted", counters.accepted),
            ("refused", counters.refused),
            ("dialled", counters.dialled),
            ("authenticated", counters.authenticated),
            ("rejected", counters.rejected),
            ("closed", counters.closed),
        ];
        for (name, value) in control {
            tell(&["control.", name], value, false, Some("connections"));
        }
        tell(&["control.sessions"], self.shared.sessions(passive) as u64, true, Some("connections"));
        tell(&["control.listeners"], counters.listeners, false, None);
        tell(&["control.received"], counters.received, false, Some("bytes"));
        tell(&["control.sent"], counters.sent, false, Some("bytes"));
        tell(&["control.requests"], counters.requests, false, Some("requests"));

        tell(&["ring.delivered"], rings.delivered(), false, Some("records"));
        tell(&["ring.life_cycle_delivered"], rings.life_cycle_delivered(), false, Some("records"));
        for kind in Kind::ALL {
            for cause in Cause::ALL {
                tell(
                    &["ring.lost.", kind.name(), ".", cause.name()],
                    rings.lost(*kind, cause),
                    false,
                    Some("records"),
                );
            }
        }

        let ext::Totals { wsk, nmr, builtin, missing, detached, modules, callbacks, lost, malformed, late } =
            self.shared.sockets.totals();
        for (kind, tally) in [(Provider::Wsk, wsk), (Provider::Nmr, nmr), (Provider::Builtin, builtin)] {
            let ext::Tally { asked, granted, refused, failed } = tally;
            for (name, value) in
                [("asked", asked), ("registered", granted), ("refused", refused), ("failed", failed)]
            {
                tell(&["extensions.", kind.name(), ".", name], value, false, Some("registrations"));
            }
        }
        tell(&["extensions.missing"], missing, false, Some("registrations"));
        tell(&["extensions.detached"], detached, false, Some("registrations"));
        tell(&["extensions.modules"], modules, true, Some("modules"));
        for (name, value) in
            [("callbacks", callbacks), ("lost", lost), ("malformed", malformed), ("late", late)]
        {
            tell(&["extensions.", name], value, false, Some("callbacks"));
        }
        Counters { counters: list.finish(), next: None }
    }

    fn sessions<'l>(&self, passive: &mut Passive, From { from }: From, list: &'l mut [u8]) -> Sessions<'l> {
        let mut list = ListWriter::new(list);
        let mut index = start(from);
        let mut next = None;
        while let Some((session, after)) = self.shared.session_from(passive, index) {
            let peer = self.settings.control_peers.numbered(session.peer());
            let totals = self.shared.hub.totals(passive, session.index());
            let listed = Listed {
                session: session.number(),
                state: session.state(),
                remote: session.remote().ip(),
                remote_port: session.remote().port(),
                dialled: session.is_dialled(),
                since: session.since(),
                peer: peer.map(|peer| peer.name.as_str()),
                role: peer.map(|peer| peer.role),
                received: session.received_bytes(),
                sent: session.sent_bytes(),
                events: totals.map(|(sent, _)| sent),
                lost: totals.map(|(_, lost)| lost),
            };
            if list.push(&listed).is_err() {
                next = u32::try_from(index).ok();
                break;
            }
            index = after;
        }
        Sessions { sessions: list.finish(), next }
    }

    fn settings<'l>(&self, passive: &mut Passive, From { from }: From, list: &'l mut [u8]) -> Standards<'l> {
        let page = self.host.live.page(passive);
        let mut list = ListWriter::new(list);
        let mut next = None;
        for (index, (setting, row)) in TABLE.iter().zip(&page.rows).enumerate().skip(start(from)) {
            let pending = !self.settings.agrees(&page.settings, setting.name);
            let is_default = row.origin == Origin::Default && row.registry.is_none() && row.policy.is_none();
            if is_default && !pending {
                continue;
            }
            let standard = Standard {
                name: setting.name,
                origin: row.origin,
                pending,
                value: self.settings.number(setting.name),
                next: page.settings.number(setting.name).filter(|_| pending),
                refused: row.registry.map(|rejected| rejected.reason.name()),
                refused_policy: row.policy.map(|rejected| rejected.reason.name()),
            };
            if list.push(&standard).is_err() {
                next = u32::try_from(index).ok();
                break;
            }
        }
        Standards { settings: list.finish(), next }
    }

    fn extensions<'l>(&self, From { from }: From, list: &'l mut [u8]) -> Extensions<'l> {
        let mut list = ListWriter::new(list);
        let mut index = start(from);
        let mut next = None;
        while let Some(standing) = self.shared.sockets.standing(index) {
            if let Some(standing) = standing
                && list.push(&extension(&standing)).is_err()
            {
                next = u32::try_from(index).ok();
                break;
            }
            index = index.saturating_add(1);
        }
        Extensions { extensions: list.finish(), next }
    }

    /// The session with that number.
    fn session(&self, passive: &mut Passive, number: u64) -> core::result::Result<PoolArc<Session>, Failed> {
        let mut index = 0;
        while let Some((session, after)) = self.shared.session_from(passive, index) {
            if session.number() == number {
                return Ok(session);
            }
            index = after;
        }
        Err(failure(ErrorCode::NotFound))
    }

    fn extension_metric(&self, passive: &mut Passive, asked: Extended) -> Answered<'static> {
        let session = self.session(passive, asked.session)?;
        let (provider, sample) =
            session.extension_metric(asked.interface).ok_or(failure(ErrorCode::NotFound))?;
        let sample = sample.map_err(|status| refused_by(provider, status))?;
        let known = sample.Flags & CONNECTION_METRIC_ROUND_TRIP != 0;
        Ok(Reply::ExtensionMetric(Metric {
            received: sample.BytesReceived,
            sent: sample.BytesSent,
            round_trip: known.then_some(sample.RoundTripTime),
            provider,
        }))
    }

    fn extension_control(&self, passive: &mut Passive, control: &Control<'_>) -> Answered<'static> {
        let data = control.data.unwrap_or_default();
        if data.len() > MAX_CONTROL {
            return Err(wrong(3, "more than 40 bytes"));
        }
        let session = self.session(passive, control.session)?;
        let (provider, done) = session
            .extension_control(control.interface, control.code, data)
            .ok_or(failure(ErrorCode::NotFound))?;
        done.map_err(|status| refused_by(provider, status))?;
        Ok(Reply::ExtensionControl(Controlled { provider }))
    }

    fn connections<'l>(
        &self,
        passive: &mut Passive,
        From { from }: From,
        list: &'l mut [u8],
    ) -> Connections<'l> {
        let mut list = ListWriter::new(list);
        let mut cursor = from.unwrap_or_default();
        let mut next = None;
        while let Some((connection, after)) = self.host.flows.next_from(passive, cursor) {
            let key = connection.key();
            let decided = connection.decided();
            let (received, sent) = (connection.counters(Direction::In), connection.counters(Direction::Out));
            let listed = Connection {
                connection: connection.number(),
                direction: connection.direction(),
                protocol: key.protocol,
                local: address(key.family, key.local),
                local_port: key.local_port,
                remote: address(key.family, key.remote),
                remote_port: key.remote_port,
                verdict: decided.action,
                rule: decided.rule,
                generation: decided.generation,
                opened: connection.opened(),
                packets_in: received.packets,
                packets_out: sent.packets,
                bytes_in: received.bytes,
                bytes_out: sent.bytes,
            };
            if list.push(&listed).is_err() {
                next = Some(cursor);
                break;
            }
            cursor = after;
        }
        Connections { connections: list.finish(), next }
    }

    fn show<'l>(&self, passive: &mut Passive, From { from }: From, list: &'l mut [u8]) -> Policy<'l> {
        let status = self.host.desk.status(passive);
        let Some(current) = self.host.policies.current(passive) else {
            return Policy {
                state: PolicyState::Absent,
                generation: status.generation,
                digest: None,
                size: 0,
                default_action: None,
                total: 0,
                rules: List::default(),
                next: None,
            };
        };
        let image = current.image();
        let mut list = ListWriter::new(list);
        let mut index = from.unwrap_or_default();
        let mut next = None;
        while let Some(rule) = image.rule(index) {
            let shown = Rule { rule: index, name: rule.name(), action: rule.action(), hits: None };
            if list.push(&shown).is_err() {
                next = Some(index);
                break;
            }
            index = index.saturating_add(1);
        }
        Policy {
            state: status.state,
            generation: current.generation(),
            digest: Some(*current.digest()),
            size: u32::try_from(image.bytes().len()).unwrap_or(u32::MAX),
            default_action: Some(image.default_action()),
            total: image.rule_count(),
            rules: list.finish(),
            next,
        }
    }

    fn read<'l>(&self, passive: &mut Passive, read: ReadImage, list: &'l mut [u8]) -> Answered<'l> {
        let current = self.host.policies.current(passive).ok_or(failure(ErrorCode::NotFound))?;
        if current.generation() != read.generation {
            return Err(failure(ErrorCode::Conflict));
        }
        let image = current.image();
        let bytes = image.bytes();
        let rest = usize::try_from(read.offset).ok().and_then(|offset| bytes.get(offset..));
        let rest = rest.ok_or(wrong(1, "beyond the image's end"))?;
        let mut length = 0_usize;
        for (place, byte) in list.iter_mut().zip(rest) {
            *place = *byte;
            length = length.saturating_add(1);
        }
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Ok(Reply::PolicyRead(Image { size, bytes: list.get(..length).unwrap_or_default() }))
    }

    /// Begins an upload, in the place of the session's last one. One session sends a policy up at a time.
    fn begin_upload(
        &self,
        session: &Session,
        conversation: &mut Conversation,
        begin: &Begin,
    ) -> Answered<'static> {
        conversation.upload = None;
        self.shared.end_upload(session.number());
        conversation.uploads = conversation.uploads.wrapping_add(1);
        let upload = Upload::begin(conversation.uploads, begin, MAX_POLICY).map_err(failure)?;
        let size = usize::try_from(upload.size()).map_err(|_| failure(ErrorCode::Limit))?;
        if !self.shared.begin_upload(session.number()) {
            return Err(failure(ErrorCode::Busy));
        }
        let image = PoolSlice::try_zeroed(tags::POLICY, size);
        let made = image.and_then(|image| Uploading::try_new(upload, image, begin.digest));
        conversation.upload = Some(made.map_err(|status| {
            self.shared.end_upload(session.number());
            failure_with(ErrorCode::Failed, status)
        })?);
        let chunk = u32::try_from(MAX_LIST).unwrap_or(u32::MAX);
        Ok(Reply::PolicyBegin(Begun { upload: conversation.uploads, chunk }))
    }

    fn commit(
        &self,
        passive: &mut Passive,
        session: &Session,
        conversation: &mut Conversation,
        id: Option<u64>,
        commit: &Commit,
        into: &mut [u8],
    ) -> Option<usize> {
        if conversation.is_ordered() {
            return write(id, &Err(failure(ErrorCode::Busy)), into);
        }
        let window = match conversation.check_upload(commit) {
            Ok(window) => window,
            Err(code) => return write(id, &Err(failure(code)), into),
        };
        self.shared.end_upload(session.number());
        let Uploading { image, digest, .. } = conversation.upload.take()?.into_inner();
        let what = What::Apply { image, digest, window, replaces: commit.replaces };
        self.order(passive, session, conversation, id, what, into)
    }

    /// Hands an order to the policies' thread; its outcome is the answer.
    fn order(
        &self,
        passive: &mut Passive,
        session: &Session,
        conversation: &mut Conversation,
        id: Option<u64>,
        what: What,
        into: &mut [u8],
    ) -> Option<usize> {
        // One at a time, and none while the outcome of the one before has not been told.
        if conversation.is_ordered() {
            return write(id, &Err(failure(ErrorCode::Busy)), into);
        }
        let ticket = Ticket { session: session.number(), request: id };
        match self.host.desk.submit(passive, Order { ticket, what }) {
            Ok(()) => {
                conversation.ordered = true;
                None
            }
            Err(_refused) => write(id, &Err(failure(ErrorCode::Busy)), into),
        }
    }

    fn explain<'l>(&self, passive: &mut Passive, tuple: &Tuple<'_>, list: &'l mut [u8]) -> Answered<'l> {
        let family = match (tuple.local, tuple.remote) {
            (Some(local), Some(remote)) if local.is_ipv4() != remote.is_ipv4() => {
                return Err(wrong(4, "of another family than the local address"));
            }
            (Some(one), _) | (_, Some(one)) if one.is_ipv6() => Family::V6,
            _ => Family::V4,
        };
        let path = tuple.application.unwrap_or_default();
        let (units, list) = list
            .split_at_mut_checked(path.encode_utf16().count().saturating_mul(size_of::<u16>()))
            .ok_or(wrong(6, "too long"))?;
        for (place, unit) in units.iter_mut().zip(path.encode_utf16().flat_map(u16::to_le_bytes)) {
            *place = unit;
        }
        let asked = policy::Tuple {
            direction: tuple.direction,
            family,
            protocol: tuple.protocol,
            local: tuple.local.map(octets),
            remote: tuple.remote.map(octets),
            local_port: tuple.local_port,
            remote_port: tuple.remote_port,
            app: App::from_utf16le(units),
        };
        let mut list = ListWriter::new(list);
        let Some(current) = self.host.policies.current(passive) else {
            return Ok(Reply::Explain(Explanation {
                action: fail_action(self.settings),
                rule: None,
                generation: 0,
                steps: List::default(),
                next: None,
            }));
        };
        let image = current.image();
        let decision = image.decide(&asked);
        let mut next = None;
        for (at_once, step) in image.explain_from(&asked, tuple.from.unwrap_or_default()).enumerate() {
            let rule = step.rule.index;
            let told = Step { rule, name: step.rule.name(), failed: step.failed.bits() };
            if at_once == STEPS_AT_ONCE || list.push(&told).is_err() {
                next = Some(rule);
                break;
            }
        }
        Ok(Reply::Explain(Explanation {
            action: decision.action,
            rule: decision.rule,
            generation: current.generation(),
            steps: list.finish(),
            next,
        }))
    }

    fn subscribe(
        &self,
        passive: &mut Passive,
        session: &Session,
        conversation: &mut Conversation,
        id: u64,
        subscribe: &Subscribe<'_>,
    ) -> Answered<'static> {
        match self.shared.hub.subscribe(passive, session.index(), id, subscribe, &self.shared.budget) {
            Ok(()) => {
                conversation.snapshot = (subscribe.snapshot == Some(true)).then_some(0);
                Ok(Reply::Subscribe(Empty {}))
            }
            Err(NotTaken::Refused(Refused::Level)) => Err(wrong(1, "no level")),
            Err(NotTaken::Already | NotTaken::Refused(Refused::TooManyIds)) => Err(failure(ErrorCode::Limit)),
            Err(NotTaken::Memory(status)) => Err(failure_with(ErrorCode::Failed, status)),
        }
    }
}

/// The end of a subscription, as its request is answered.
pub(super) fn unsubscribed(
    id: Option<u64>,
    subscription: &Subscription,
    list: &mut [u8],
    into: &mut [u8],
) -> Option<usize> {
    let mut list = ListWriter::new(list);
    for loss in subscription.losses() {
        // There is room for as many as there are kinds.
        let _told = list.push(&loss);
    }
    let (sent, _) = subscription.totals();
    write(id, &Ok(Reply::Unsubscribe(Unsubscribed { sent, lost: list.finish() })), into)
}

impl Conversation {
    fn take_chunk(&mut self, chunk: &Chunk<'_>) -> Answered<'static> {
        let uploading = self.upload.as_mut().ok_or(failure(ErrorCode::NotFound))?;
        let place = uploading.upload.chunk(chunk).map_err(failure)?;
        let place = uploading.image.get_mut(place).unwrap_or_default();
        for (place, byte) in place.iter_mut().zip(chunk.bytes) {
            *place = *byte;
        }
        Ok(Reply::PolicyChunk(Uploaded { received: uploading.upload.received() }))
    }

    /// The window of the policy that has gone up, if it is all there.
    fn check_upload(&self, commit: &Commit) -> core::result::Result<u32, ErrorCode> {
        self.upload.as_ref().ok_or(ErrorCode::NotFound)?.upload.commit(commit)
    }
}

/// The cursor that a list is gone on with.
fn start(from: Option<u32>) -> usize {
    from.and_then(|from| usize::try_from(from).ok()).unwrap_or_default()
}

fn extension(standing: &ext::Standing) -> Extension {
    let state = match standing.state {
        ext::State::Granted => ExtensionState::Registered,
        ext::State::Refused => ExtensionState::Refused,
        ext::State::Detached => ExtensionState::Detached,
        ext::State::Idle | ext::State::Registering | ext::State::Failed => ExtensionState::Failed,
    };
    let failed = standing.status != Status::SUCCESS;
    Extension {
        session: standing.session,
        interface: standing.interface,
        state,
        required: standing.requirement == Requirement::Required,
        provider: standing.provider,
        status: failed.then_some(NtStatus(standing.status.0)),
        callbacks: standing.callbacks,
        kind: Some(match standing.kind {
            ext::SocketKind::Listening => SocketKind::Listening,
            ext::SocketKind::Accepted => SocketKind::Accepted,
            ext::SocketKind::Dialled => SocketKind::Dialled,
        }),
        module: standing.module,
    }
}

/// What a provider answers instead of success.
fn refused_by(provider: Provider, status: Status) -> Failed {
    let text = match provider {
        Provider::Wsk => "the answer of WSK's provider",
        Provider::Nmr => "the answer of a vendor's module",
        Provider::Builtin => "weir itself provides the interface",
    };
    Failure { text: Some(text), ..failure_with(ErrorCode::Failed, status) }
}

/// The parts of a name side by side, as far as there is room.
fn join<'p>(place: &'p mut [u8], parts: &[&str]) -> &'p str {
    let mut length = 0_usize;
    let bytes = parts.iter().flat_map(|part| part.bytes());
    for (place, byte) in place.iter_mut().zip(bytes) {
        *place = byte;
        length = length.saturating_add(1);
    }
    core::str::from_utf8(place.get(..length).unwrap_or_default()).unwrap_or_default()
}
