//! Events of a subscription, with credit given as they are taken.

use std::time::{Duration, Instant};

use weir::control::protocol::message::{Credit, Empty, Request, Subscribe, Unsubscribe};

use super::{Client, Error, Message};

/// A connection without a message for long is closed by the driver.
const KEEP: Duration = Duration::from_secs(30);

/// A subscription.
#[derive(Debug)]
pub struct Follower {
    id: u64,
    credit: u32,
    /// Events that were taken, and not given credit for again.
    taken: u32,
    told: Instant,
}

impl Client {
    /// The next message of events; `None`: there was none until then.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn events(&mut self, until: Option<Instant>) -> Result<Option<Message>, Error> {
        loop {
            if let Some(message) = self.events.pop_front() {
                return Ok(Some(message));
            }
            if !self.receive(until)? {
                return Ok(None);
            }
        }
    }
}

impl Follower {
    /// Subscribes. As many events as the request gives credit for may be on their way at once.
    ///
    /// # Errors
    /// The driver says no, or does not answer.
    pub fn start(client: &mut Client, request: Subscribe<'_>) -> Result<Self, Error> {
        let id = client.send(&Request::Subscribe(request))?;
        client.reply(id)?;
        Ok(Self { id, credit: request.credit, taken: 0, told: Instant::now() })
    }

    /// The next message of events; `None`: there was none until then. Gives credit anew, and keeps the connection from
    /// being idle.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn next(&mut self, client: &mut Client, until: Option<Instant>) -> Result<Option<Message>, Error> {
        loop {
            let tick = self.told + KEEP;
            let wait = until.map_or(tick, |until| until.min(tick));
            if let Some(message) = client.events(Some(wait))? {
                let count = u32::try_from(message.events()).unwrap_or(u32::MAX);
                self.taken = self.taken.saturating_add(count);
                if self.taken > self.credit / 2 {
                    let credit = Credit { subscription: self.id, credit: self.taken };
                    client.tell(&Request::Credit(credit))?;
                    (self.taken, self.told) = (0, Instant::now());
                }
                return Ok(Some(message));
            }
            if Instant::now() >= tick {
                client.tell(&Request::Ping(Empty {}))?;
                self.told = Instant::now();
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(None);
            }
        }
    }

    /// Ends the subscription; what the driver says of it in the end.
    ///
    /// # Errors
    /// There was no answer.
    pub fn stop(self, client: &mut Client) -> Result<Message, Error> {
        client.ask(&Request::Unsubscribe(Unsubscribe { subscription: self.id }))
    }
}
