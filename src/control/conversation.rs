//! What the worker knows of a session: who is on the other side, and what is under way with it.
#![forbid(unsafe_code)]

use super::protocol::limit::Bucket;
use super::protocol::noise::{Initiator, Transport};
use super::protocol::upload::Upload;
use crate::kernel::Result;
use crate::kernel::pool::{PoolBox, PoolSlice, tags};
use crate::policies::Outcome;

/// How far a session has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// A connection that weir opens is not there yet.
    Connecting,
    /// The other side begins the handshake.
    AwaitingFirst,
    /// weir has begun the handshake.
    AwaitingSecond(PoolBox<Initiator>),
    /// Both know who the other one is.
    Open(PoolBox<Transport>),
}

/// The worker's part of a session.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) stage: Stage,
    /// Who the other side says it is, by the peer's number.
    pub(super) peer: Option<u8>,
    /// What holds requests to their rate.
    pub(super) requests: Bucket,
    /// The next request is one that may be made.
    pub(super) paid: bool,
    /// The number of the last upload.
    pub(super) uploads: u32,
    pub(super) upload: Option<PoolBox<Uploading>>,
    /// An order of it is being served.
    pub(super) ordered: bool,
    /// What an order has come to, until it can be told.
    pub(super) outcome: Option<Outcome>,
    /// Where the telling of the connections that were open already goes on.
    pub(super) snapshot: Option<u32>,
    /// The other side has ended its side: what has come is answered, and no more.
    pub(super) finished: bool,
    /// The id of the request by which the subscription is to end, if it has one.
    pub(super) unsubscribing: Option<u64>,
}

/// A policy on its way up.
#[derive(Debug)]
pub(super) struct Uploading {
    pub(super) upload: Upload,
    pub(super) image: PoolSlice<u8>,
    pub(super) digest: [u8; 32],
}

impl Conversation {
    pub(super) const fn new(stage: Stage) -> Self {
        Self {
            stage,
            peer: None,
            requests: Bucket::UNUSED,
            paid: false,
            uploads: 0,
            upload: None,
            ordered: false,
            outcome: None,
            snapshot: None,
            finished: false,
            unsubscribing: None,
        }
    }
}

impl Conversation {
    /// Whether an order of it is being served, or what came of it has not been told.
    pub(super) const fn is_ordered(&self) -> bool {
        self.ordered || self.outcome.is_some()
    }
}

impl Uploading {
    /// # Errors
    /// `STATUS_INSUFFICIENT_RESOURCES`.
    pub(super) fn try_new(upload: Upload, image: PoolSlice<u8>, digest: [u8; 32]) -> Result<PoolBox<Self>> {
        PoolBox::try_new(tags::POLICY, Self { upload, image, digest })
    }
}
