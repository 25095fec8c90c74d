//! The other side of a control connection, over the simulated transport.

use ntsim::wsk::memory;
use std::io;
use weir::control::protocol::frame::{HEADER, header};
use weir::control::protocol::message::{Answer, ErrorCode, Events, Failure, Reply, Request};
use weir::control::protocol::noise::{FIRST, Initiator, Keys, Responder, SECOND, Transport};
use weir::control::protocol::{MAX_FRAME, MAX_MESSAGE, OVERHEAD, seal};

use super::DRIVER;

/// A connection after the handshake.
pub struct Client {
    pub peer: memory::Peer,
    transport: Transport,
    next: u64,
}

/// Sends a frame.
pub fn send_frame(peer: &memory::Peer, message: &[u8]) -> io::Result<()> {
    peer.send(&[&header(message.len()).unwrap()[..], message].concat())
}

/// Receives a frame.
pub fn receive_frame(peer: &memory::Peer) -> io::Result<Vec<u8>> {
    let head = peer.recv_exact(HEADER)?;
    peer.recv_exact(usize::from(u16::from_be_bytes([head[0], head[1]])))
}

/// The first message of the handshake, of whoever has that private key.
pub fn first_message(private: &[u8; 32]) -> (Initiator, [u8; FIRST]) {
    let mut message = [0; FIRST];
    let driver = *Keys::new(&DRIVER).public();
    let ephemeral = [0x40 | private[0]; 32];
    let initiator = Initiator::start(&Keys::new(private), &driver, &ephemeral, &mut message).unwrap();
    (initiator, message)
}

impl Client {
    /// Does the handshake with that private key.
    pub fn connect(peer: memory::Peer, private: &[u8; 32]) -> io::Result<Self> {
        let (initiator, message) = first_message(private);
        send_frame(&peer, &message)?;
        let mut second = receive_frame(&peer)?;
        let transport = initiator.finish(&mut second).map_err(io::Error::other)?;
        Ok(Self { peer, transport, next: 1 })
    }

    /// Is the one who is dialled: the responder, with that private key.
    pub fn answer(peer: memory::Peer, private: &[u8; 32]) -> io::Result<Self> {
        let mut first = receive_frame(&peer)?;
        let responder = Responder::read(&Keys::new(private), &mut first).map_err(io::Error::other)?;
        assert_eq!(responder.peer(), Keys::new(&DRIVER).public());
        let mut message = [0; SECOND];
        let transport = responder.accept(&[0x77; 32], &mut message).map_err(io::Error::other)?;
        send_frame(&peer, &message)?;
        Ok(Self { peer, transport, next: 1 })
    }

    /// The frame of whatever is to be sent as a message.
    pub fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; message.len() + OVERHEAD];
        buffer[HEADER..HEADER + message.len()].copy_from_slice(message);
        let length = seal(&mut self.transport, &mut buffer, message.len()).unwrap();
        assert_eq!(length, buffer.len());
        buffer
    }

    /// A request's frame, encrypted.
    pub fn frame(&mut self, id: Option<u64>, request: &Request<'_>) -> Vec<u8> {
        let mut buffer = vec![0; MAX_FRAME + HEADER];
        let length = request.encode(id, &mut buffer[HEADER..HEADER + MAX_MESSAGE]).unwrap();
        let length = seal(&mut self.transport, &mut buffer, length).unwrap();
        buffer.truncate(length);
        buffer
    }

    /// Sends a request.
    #[track_caller]
    pub fn send(&mut self, id: Option<u64>, request: &Request<'_>) {
        let frame = self.frame(id, request);
        self.peer.send(&frame).unwrap();
    }

    /// Receives a message.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut frame = receive_frame(&self.peer)?;
        Ok(self.transport.open(&mut frame).map_err(io::Error::other)?.to_vec())
    }

    /// Asks, and hands the answer to `look`.
    #[track_caller]
    pub fn ask<R>(
        &mut self,
        request: &Request<'_>,
        look: impl FnOnce(Result<Reply<'_>, Failure<'_>>) -> R,
    ) -> R {
        let id = self.next;
        self.next += 1;
        self.send(Some(id), request);
        loop {
            let message = self.receive().unwrap();
            match Answer::decode(&message).unwrap() {
                (Some(answered), Answer::Reply(reply)) if answered == id => return look(Ok(reply)),
                (Some(answered), Answer::Error(failure)) if answered == id => return look(Err(failure)),
                // Of a subscription.
                (_, Answer::Events(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Asks for what is refused; why it is.
    #[track_caller]
    pub fn refused(&mut self, request: &Request<'_>) -> ErrorCode {
        self.ask(request, |answer| match answer {
            Err(failure) => failure.code,
            Ok(reply) => panic!("{reply:?}"),
        })
    }

    /// Receives events, and hands them to `look`, with the id of their subscription.
    #[track_caller]
    pub fn events<R>(&mut self, look: impl FnOnce(u64, Events<'_>) -> R) -> R {
        let message = self.receive().unwrap();
        match Answer::decode(&message).unwrap() {
            (Some(id), Answer::Events(events)) => look(id, events),
            other => panic!("{other:?}"),
        }
    }
}
