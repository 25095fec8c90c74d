//! A stand-in for netio.sys: Winsock Kernel and the Network Module Registrar, for a driver that is loaded into Wine.
//!
//! WSK behaves as its documentation describes it, over non-blocking Winsock sockets:
//!
//! | part | what it is |
//! | --- | --- |
//! | `registration`, `provider`, `security` | WskRegister to WskDeregister; the provider's functions; descriptors for them |
//! | `socket`, `dispatch`, `control` | the socket object and its close; options, ioctls, event switches |
//! | `listen`, `connection` | listening and connection-oriented sockets |
//! | `extension` | SIO_WSK_REGISTER_EXTENSION, with a scripted provider |
//! | `nmr` | clients and providers of network programming interfaces, with scripted provider modules |
//! | `script`, `tables`, `caller` | what scripted providers answer and call back, by which tables, on which threads |
//! | `request` | IRPs, and their cancellation |
//! | `reactor`, `work` | who waits for Winsock, and who calls back |
//! | `drive` | the drive channel |
//!
//! Locks: a socket's state may be held while those of the reactor, the queues and the scripts are taken, never the other
//! way round, and none is held while the client is called or an IRP is completed.
//!
//! What is pure, and the registrar, compile and are tested on any host; the rest exists on Windows targets only.

#![cfg_attr(windows, no_std)]
#![cfg_attr(not(windows), allow(dead_code, reason = "what uses it exists on Windows targets only"))]

extern crate alloc;

mod address;
mod chain;
mod config;
mod fault;
mod guid;
mod indication;
mod irql;
mod nmr;
mod random;
mod report;
mod script;
mod sync;
mod sys;
mod tables;
mod threads;

#[cfg(windows)]
mod caller;
#[cfg(windows)]
mod connection;
#[cfg(windows)]
mod control;
#[cfg(windows)]
mod dispatch;
#[cfg(windows)]
mod drive;
#[cfg(windows)]
mod entry;
#[cfg(windows)]
mod extension;
#[cfg(windows)]
mod listen;
#[cfg(windows)]
mod machine;
#[cfg(windows)]
mod provider;
#[cfg(windows)]
mod reactor;
#[cfg(windows)]
mod registration;
#[cfg(windows)]
mod request;
#[cfg(windows)]
mod security;
#[cfg(windows)]
mod socket;
#[cfg(windows)]
mod winsock;
#[cfg(windows)]
mod work;
