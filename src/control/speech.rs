//! What weir and the other side of a session say to each other: the handshake, then requests and answers, and events.
//!
//! The worker's, at PASSIVE_LEVEL: handshakes and encryption are long work. Nothing here waits for the other side: what
//! has not come is gone on with when it comes, and what cannot be sent when a buffer is back.
#![forbid(unsafe_code)]

use super::conversation::{Conversation, Stage};
use super::hub::Taken;
use super::plane::Host;
use super::protocol::frame::{self, HEADER};
use super::protocol::limit::Rate;
use super::protocol::message::MAX_LIST;
use super::protocol::noise::{FIRST, Initiator, KEY, Responder, SECOND};
use super::protocol::role::Role;
use super::protocol::{MAX_FRAME, MAX_MESSAGE, seal};
use super::requests::{self, Office};
use super::session::{End, Phase, Session};
use super::shared::Shared;
use crate::config::{Running, Settings};
use crate::dispatch::opened_event;
use crate::kernel::irql::Passive;
use crate::kernel::pool::{PoolArc, PoolBox, PoolSlice, tags};
use crate::kernel::time::{self, Interval};
use crate::kernel::{Result, Status, random};
use crate::trace;
use core::sync::atomic::Ordering;
use zeroize::Zeroizing;

/// How many messages a session may send and be sent before it is another one's turn.
const AT_ONCE: usize = 4;
/// How many connections that were open already are told of at once.
const SNAPSHOT_AT_ONCE: usize = 128;
/// A second, in units of 100 ns.
const SECOND_100NS: u64 = Interval::from_millis(1_000).as_100ns();

/// How a session is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Until something comes, or a buffer is back.
    Waiting,
    /// There is more to do, in its turn.
    Busy,
    /// There will be something to do at that time, in units of 100 ns since boot.
    Until(u64),
}

impl Left {
    /// The same, but until then at most.
    fn until(self, at: u64) -> Self {
        match self {
            Self::Waiting => Self::Until(at),
            Self::Until(other) => Self::Until(other.min(at)),
            Self::Busy => Self::Busy,
        }
    }
}

/// Who speaks for weir, with room for one message.
pub(super) struct Speaker<'w> {
    shared: &'w Shared,
    host: &'w Host,
    /// The settings that hold.
    settings: Running,
    rate: Option<Rate>,
    frame: PoolSlice<u8>,
    list: PoolSlice<u8>,
}

impl<'w> Speaker<'w> {
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub(super) fn try_new(shared: &'w Shared, host: &'w Host, settings: Running) -> Result<Self> {
        Ok(Self {
            shared,
            host,
            rate: message_rate(&settings),
            settings,
            frame: PoolSlice::try_zeroed(tags::CONTROL, MAX_FRAME)?,
            list: PoolSlice::try_zeroed(tags::CONTROL, MAX_LIST)?,
        })
    }

    /// The settings that hold.
    pub(super) const fn settings(&self) -> &Running {
        &self.settings
    }

    /// Other settings hold.
    pub(super) fn adopt(&mut self, settings: Running) {
        self.rate = message_rate(&settings);
        self.settings = settings;
    }

    /// Goes on with a session as far as it can be gone on with now.
    ///
    /// # Errors
    /// Why it is to be ended.
    pub(super) fn go_on(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &mut Conversation,
    ) -> core::result::Result<Left, End> {
        if session.phase() != Phase::Open {
            return Ok(Left::Waiting);
        }
        match &conversation.stage {
            Stage::Connecting => return Ok(Left::Waiting),
            Stage::AwaitingFirst => self.respond(passive, session, conversation)?,
            Stage::AwaitingSecond(_) => self.finish(passive, session, conversation)?,
            Stage::Open(_) => {}
        }
        if matches!(conversation.stage, Stage::Open(_)) {
            return self.serve(passive, session, conversation);
        }
        Ok(Left::Waiting)
    }

    /// The other side begins: reads its message, and answers if it is a peer.
    fn respond(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &mut Conversation,
    ) -> core::result::Result<(), End> {
        let Some(length) = Session::next_frame(session, passive, FIRST, &mut self.frame)? else {
            return Ok(());
        };
        let message = self.frame.get_mut(..length).unwrap_or_default();
        let responder = Responder::read(&self.host.keys, message).map_err(|_| End::Stranger)?;
        let peer = self.settings.control_peers.with_key(responder.peer()).ok_or(End::Stranger)?;
        let ephemeral = ephemeral(passive)?;
        let mut buffer =
            session.buffer(passive).map_err(End::Failed)?.ok_or(End::Failed(Status::UNSUCCESSFUL))?;
        let (head, rest) = parts(buffer.bytes_mut()).ok_or(End::Failed(Status::UNSUCCESSFUL))?;
        let Some(place) = rest.first_chunk_mut::<SECOND>() else {
            return Err(End::Failed(Status::UNSUCCESSFUL));
        };
        let transport = responder.accept(&ephemeral, place).map_err(|_| End::Stranger)?;
        *head = frame::header(SECOND).unwrap_or_default();
        let transport = PoolBox::try_new(tags::CONTROL, transport).map_err(End::Failed)?;
        conversation.stage = Stage::Open(transport);
        conversation.peer = Some(peer);
        Session::send(session, passive, buffer, SECOND.saturating_add(HEADER));
        Ok(())
    }

    /// weir begins, with the peer that it has dialled.
    ///
    /// # Errors
    /// Why the session is to be ended.
    pub(super) fn initiate(
        &self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &mut Conversation,
        peer: u8,
    ) -> core::result::Result<(), End> {
        let responder = self.settings.control_peers.numbered(Some(peer)).ok_or(End::Stranger)?;
        let ephemeral = ephemeral(passive)?;
        let mut buffer =
            session.buffer(passive).map_err(End::Failed)?.ok_or(End::Failed(Status::UNSUCCESSFUL))?;
        let (head, rest) = parts(buffer.bytes_mut()).ok_or(End::Failed(Status::UNSUCCESSFUL))?;
        let Some(place) = rest.first_chunk_mut::<FIRST>() else {
            return Err(End::Failed(Status::UNSUCCESSFUL));
        };
        let initiator = Initiator::start(&self.host.keys, &responder.key, &ephemeral, place);
        let initiator = initiator.map_err(|_| End::Stranger)?;
        *head = frame::header(FIRST).unwrap_or_default();
        let initiator = PoolBox::try_new(tags::CONTROL, initiator).map_err(End::Failed)?;
        conversation.stage = Stage::AwaitingSecond(initiator);
        conversation.peer = Some(peer);
        Session::send(session, passive, buffer, FIRST.saturating_add(HEADER));
        Ok(())
    }

    /// The peer that weir has dialled answers: now it is known to be there.
    fn finish(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &mut Conversation,
    ) -> core::result::Result<(), End> {
        let Some(length) = Session::next_frame(session, passive, SECOND, &mut self.frame)? else {
            return Ok(());
        };
        let stage = core::mem::replace(&mut conversation.stage, Stage::Connecting);
        let Stage::AwaitingSecond(initiator) = stage else { return Ok(()) };
        let message = self.frame.get_mut(..length).unwrap_or_default();
        let transport = initiator.into_inner().finish(message).map_err(|_| End::Stranger)?;
        let transport = PoolBox::try_new(tags::CONTROL, transport).map_err(End::Failed)?;
        conversation.stage = Stage::Open(transport);
        self.authenticated(passive, session, conversation)
    }

    /// It is certain who the other side is.
    ///
    /// # Errors
    /// What places are left are for operators.
    fn authenticated(
        &self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &Conversation,
    ) -> core::result::Result<(), End> {
        let (Some(number), Some(peer)) =
            (conversation.peer, self.settings.control_peers.numbered(conversation.peer))
        else {
            return Err(End::Stranger);
        };
        if peer.role != Role::Operator && self.shared.is_nearly_full(passive) {
            return Err(End::Failed(Status::INSUFFICIENT_RESOURCES));
        }
        session.authenticated(number);
        trace::emit(&trace::Event::ControlAuthenticated {
            session: session.number(),
            peer: peer.name.as_str(),
        });
        Session::ask_ideal_backlog(session, passive);
        Ok(())
    }

    /// Sends what there is to be sent.
    fn serve(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &mut Conversation,
    ) -> core::result::Result<Left, End> {
        for _ in 0..AT_ONCE {
            let Some(mut buffer) = session.buffer(passive).map_err(End::Failed)? else {
                return Ok(Left::Waiting);
            };
            let next = match parts(buffer.bytes_mut()) {
                Some((_, into)) => self.next_message(passive, session, conversation, into),
                None => Ok(Next::Nothing(Left::Waiting)),
            };
            let length = match next {
                Ok(Next::Message(length)) => length,
                Ok(Next::Nothing(left)) => {
                    session.put_back(passive, buffer);
                    if conversation.upload.is_none() {
                        session.shrink(passive);
                    }
                    return Ok(left);
                }
                Err(end) => {
                    session.put_back(passive, buffer);
                    return Err(end);
                }
            };
            let Stage::Open(transport) = &mut conversation.stage else { return Ok(Left::Waiting) };
            let sealed = seal(transport, buffer.bytes_mut(), length).map_err(|_| End::Nonsense)?;
            Session::send(session, passive, buffer, sealed);
        }
        Ok(Left::Busy)
    }

    /// Writes the next message: an order's outcome, a request's answer, or events.
    fn next_message(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &mut Conversation,
        into: &mut [u8],
    ) -> core::result::Result<Next, End> {
        if let Some(outcome) = conversation.outcome.take()
            && let Some(length) = requests::outcome(&outcome, into)
        {
            return Ok(Next::Message(length));
        }
        for _ in 0..AT_ONCE {
            let wait = self.pay(conversation);
            let frame = match wait {
                None => Session::next_frame(session, passive, MAX_FRAME, &mut self.frame)?,
                Some(_) => None,
            };
            let Some(length) = frame else {
                let next = self.events(passive, session, conversation, into);
                return Ok(match (next, wait) {
                    (Next::Nothing(left), Some(until)) => Next::Nothing(left.until(until)),
                    (next, _) => next,
                });
            };
            conversation.paid = false;
            let Stage::Open(transport) = &mut conversation.stage else { return Err(End::Nonsense) };
            let sealed = self.frame.get_mut(..length).unwrap_or_default();
            let length = transport.open(sealed).map_err(|_| End::Nonsense)?.len();
            if session.peer().is_none() {
                // A first message could be a recorded one; whoever has sent this one was there.
                self.authenticated(passive, session, conversation)?;
            }
            let message = self.frame.get(..length).unwrap_or_default();
            self.shared.counts.requests.fetch_add(1, Ordering::Relaxed);
            let office = Office { host: self.host, shared: self.shared, settings: &self.settings };
            let answered = office.answer(passive, session, conversation, message, &mut self.list, into);
            if let Some(length) = answered {
                return Ok(Next::Message(length));
            }
        }
        Ok(Next::Nothing(Left::Busy))
    }

    /// Lets the next request be made, unless it is too early for it: when it will not be any more.
    fn pay(&self, conversation: &mut Conversation) -> Option<u64> {
        let rate = self.rate.filter(|_| !conversation.paid)?;
        let now = time::since_boot().as_100ns();
        match conversation.requests.take(rate, now) {
            Ok(()) => {
                conversation.paid = true;
                None
            }
            Err(too_often) => Some(now.saturating_add(too_often.wait)),
        }
    }

    /// Writes the next message of events, after telling of connections that were open already as far as there is room.
    fn events(
        &mut self,
        passive: &mut Passive,
        session: &PoolArc<Session>,
        conversation: &mut Conversation,
        into: &mut [u8],
    ) -> Next {
        let (hub, budget, place) = (&self.shared.hub, &self.shared.budget, session.index());
        let mut left = Left::Busy;
        for _ in 0..SNAPSHOT_AT_ONCE {
            // What holds it up comes again by itself: credit, or a buffer.
            let Some(cursor) = conversation.snapshot.filter(|_| hub.wants_snapshot(passive, place)) else {
                left = Left::Waiting;
                break;
            };
            let Some((connection, next)) = self.host.flows.next_from(passive, cursor) else {
                hub.end_snapshot(passive, place);
                conversation.snapshot = None;
                left = Left::Waiting;
                break;
            };
            if connection.ended().is_none()
                && !hub.tell_snapshot(passive, place, connection.opened(), &opened_event(&connection))
            {
                left = Left::Waiting;
                break;
            }
            conversation.snapshot = Some(next);
        }
        match hub.take(passive, place, budget, into) {
            Taken::Message(length) => Next::Message(length),
            Taken::Nothing => Next::Nothing(left),
            Taken::Later(at) => Next::Nothing(Left::Until(at)),
            Taken::Ended => {
                conversation.snapshot = None;
                let id = conversation.unsubscribing.take();
                let list = &mut self.list;
                let told = hub.finish(passive, place, budget, |subscription| {
                    requests::unsubscribed(id, subscription, list, into)
                });
                session.release_buffers(passive);
                match told.flatten() {
                    Some(length) => Next::Message(length),
                    None => Next::Nothing(Left::Busy),
                }
            }
        }
    }
}

/// How often a session may ask; `None`: as often as it likes.
fn message_rate(settings: &Settings) -> Option<Rate> {
    let burst = settings.control_message_rate;
    SECOND_100NS.checked_div(burst.into()).map(|interval| Rate { burst, interval })
}

/// What was written.
enum Next {
    Message(usize),
    Nothing(Left),
}

/// A frame's length, and room for the largest message: the tag comes behind it.
fn parts(buffer: &mut [u8]) -> Option<(&mut [u8; HEADER], &mut [u8])> {
    let (head, rest) = buffer.split_first_chunk_mut()?;
    let room = rest.len().min(MAX_MESSAGE);
    Some((head, rest.get_mut(..room)?))
}

/// A random private key for one handshake.
fn ephemeral(passive: &Passive) -> core::result::Result<Zeroizing<[u8; KEY]>, End> {
    let mut key = Zeroizing::new([0; KEY]);
    random::fill(passive, &mut *key).map_err(End::Failed)?;
    Ok(key)
}
