//! The rules of Winsock Kernel that drivers get wrong, one by one: what weir's sockets do where a naive driver fails.
//!
//! The naive driver of each rule is in the test's description. What it does wrong is a breach that the simulated kernel
//! reports; `ntsim`'s own tests commit each of them, so that each is known to be seen. The rest of the rules is elsewhere:
//!
//! | rule | where |
//! | --- | --- |
//! | an IRP is completed whatever the call returns; one that is never touched is told apart | `kernel_irp` |
//! | capture waits with a bound, and never in DriverEntry; another version is found | `wsk`, `control` |
//! | calls are over before the close; extension functions too | `wsk` |
//! | a graceful end that never comes is cut short; one in good order is no reset | `wsk` |
//! | dead listeners are made anew, with back-off | `control` |
//! | weir's own traffic is exempt | `driver` |
#![cfg(feature = "sim")]

mod wsk_support;

use ntsim::fault::Plan;
use ntsim::wsk::{self, Category, Completion, memory};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;
use weir::kernel::Status;
use weir::kernel::irp::Irp;
use weir::wsk::{
    CONNECTION_EVENTS, Closing, DialError, Disconnected, EVENTS, RECEIVE_SIZE, SendBuffer, Step,
};
use wsk_support::{
    Connection, Listening, clean, eventually, every, fast, listening, passive, pattern, plain, run,
};

const SILENT: &str = "192.0.2.1:7";

/// Data lie within MDLs, from an offset on, over chains and lists. The naive driver reads one MDL, from its start, through
/// `MappedSystemVa`, which is NULL as long as nobody has mapped it.
#[test]
fn data_are_read_over_lists_chains_and_offsets() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            let data = pattern(40_000);
            peer.send(&data).unwrap();
            eventually("all has arrived", || connection.log().data.len() == data.len());
            assert_eq!(connection.log().data, data);
            connection.close();
        });
    }
}

/// What was not taken stays with WSK, and a receive request brings it. The naive driver returns STATUS_SUCCESS with fewer
/// bytes and waits for the next event, which never comes.
#[test]
fn what_does_not_fit_waits_and_is_brought_by_requests() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            connection.room.store(70, Ordering::Relaxed);
            let data = pattern(5000);
            peer.send(&data).unwrap();
            eventually("some has arrived", || connection.refused.load(Ordering::Acquire));
            assert!(wsk::settle(Duration::from_secs(5)));
            assert_eq!(connection.log().data, data[..70], "nothing more comes by itself");
            Connection::take_rest(&connection, data.len());
            assert_eq!(connection.log().data, data);
            connection.close();
        });
    }
}

/// Data that are refused altogether stay. The naive driver says STATUS_SUCCESS for what it could not take.
#[test]
fn refused_data_are_not_lost() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            connection.room.store(0, Ordering::Relaxed);
            let data = pattern(300);
            peer.send(&data).unwrap();
            assert!(wsk::settle(Duration::from_secs(5)));
            assert_eq!(connection.log().data, []);
            Connection::take_rest(&connection, data.len());
            assert_eq!(connection.log().data, data);
            connection.close();
        });
    }
}

/// MmGetSystemAddressForMdlSafe can fail. The naive driver reads from address 0, or counts the data as taken.
#[test]
fn data_that_cannot_be_mapped_are_brought_by_a_request() {
    listening(plain(Completion::Inline), |sim, _, listening| {
        let (connection, peer) = listening.pair();
        sim.fault(Plan::Api { name: "MmGetSystemAddressForMdlSafe", nth: 1 });
        let data = pattern(500);
        peer.send(&data).unwrap();
        eventually("the reading failed", || connection.log().unreadable == 1);
        assert_eq!(connection.log().data, []);
        sim.fault(Plan::None);
        assert!(connection.socket.receive(&mut passive(), &connection, RECEIVE_SIZE));
        eventually("it was brought", || connection.log().data.len() == data.len());
        assert_eq!(connection.log().data, data);
        connection.close();
    });
}

/// A reading that fails at a later MDL has taken nothing. The naive driver loses what it read before, or reads it twice.
#[test]
fn a_reading_that_fails_midway_loses_and_repeats_nothing() {
    for seed in 0..6 {
        for nth in 1..8 {
            let config = wsk::Config { seed, ..wsk::Config::default() };
            listening(config, |sim, _, listening| {
                let (connection, peer) = listening.pair();
                sim.fault(Plan::Api { name: "MmGetSystemAddressForMdlSafe", nth });
                let data = pattern(3000);
                peer.send(&data).unwrap();
                Connection::take_rest(&connection, data.len());
                assert_eq!(connection.log().data, data);
                sim.fault(Plan::None);
                connection.close();
            });
        }
    }
}

/// Nothing is retained, so nothing has to be released before the close, and no network adapter waits for its buffers. The
/// naive driver keeps the list (STATUS_PENDING), and closes with it: RETAINED_AT_CLOSE.
#[test]
fn nothing_is_retained() {
    for config in every() {
        let config = wsk::Config { release_asap: 100, ..config };
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            for room in [usize::MAX, 10] {
                connection.room.store(room, Ordering::Relaxed);
                peer.send(&pattern(5000)).unwrap();
                assert!(wsk::settle(Duration::from_secs(5)));
                assert!(wsk::sockets().iter().all(|socket| socket.retained() == 0));
            }
            connection.close();
        });
    }
}

/// A receive request that succeeds with no bytes is the peer's end. The naive driver asks again, for ever.
#[test]
fn a_receive_of_nothing_is_the_end_of_the_stream() {
    for config in every() {
        clean(config, |_, provider| {
            // No events: requests alone.
            let server = memory::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let (connection, dialled) = Connection::dial(provider, server.local()).unwrap();
            assert_eq!(dialled, Ok(()));
            let peer = server.accept().unwrap();
            eventually("it is connected", || connection.log().connected == [Ok(())]);
            assert!(Connection::receive(&connection, RECEIVE_SIZE));
            peer.send(b"last").unwrap();
            peer.end();
            eventually("the end is told", || {
                let told = connection.log().disconnected == [Disconnected::Gracefully];
                if !told {
                    Connection::receive(&connection, RECEIVE_SIZE);
                }
                told
            });
            assert_eq!(connection.log().data, b"last");
            connection.close();
        });
    }
}

/// Data that are sent are not copied: the buffer stays with its request until that is completed, in the order of the calls.
/// The naive driver frees the buffer, or fills it anew, when WskSend has returned: BUFFER_FREED, BUFFER_CHANGED.
#[test]
fn sent_data_stay_with_their_request_and_come_back_in_order() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            peer.stall(true);
            let data = pattern(3000);
            for piece in data.chunks(1000) {
                Connection::send(&connection, piece).unwrap();
            }
            assert!(wsk::settle(Duration::from_secs(5)));
            assert_eq!(connection.log().sent, [], "nobody has taken it yet");
            peer.stall(false);
            assert_eq!(peer.recv_exact(data.len()).unwrap(), data);
            eventually("all is sent", || connection.log().sent == [Ok(1000); 3]);
            let first: Vec<u8> = connection.log().buffers.iter().map(|buffer| buffer.bytes()[0]).collect();
            assert_eq!(first, [data[0], data[1000], data[2000]]);
            connection.close();
        });
    }
}

/// A buffer is sent again once it is back, by its owner's own thread. The naive driver sends it from the completion
/// routine, and recurses: IN_COMPLETION.
#[test]
fn a_buffer_serves_again_and_again() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            let mut buffers: VecDeque<_> = (0..2).map(|_| SendBuffer::try_new(64).unwrap()).collect();
            let data = pattern(4096);
            for (index, piece) in data.chunks(50).enumerate() {
                eventually("a buffer is free", || {
                    buffers.extend(connection.log().buffers.drain(..));
                    !buffers.is_empty()
                });
                let mut buffer = buffers.pop_front().unwrap();
                buffer.bytes_mut()[..piece.len()].copy_from_slice(piece);
                // A length beyond the MDL would stop Windows: it ends where the buffer does.
                let length = if piece.len() == 50 { 50 } else { piece.len() };
                assert!(connection.socket.send(&mut passive(), &connection, buffer, length).is_ok());
                assert_eq!(peer.recv_exact(piece.len()).unwrap(), piece, "{index}");
            }
            eventually("all is back", || buffers.len() + connection.log().buffers.len() == 2);
            connection.close();
        });
    }
}

#[test]
fn sending_from_a_completion_is_noticed() {
    let (sim, _) = run(plain(Completion::Inline), |_, provider| {
        provider.set_static_event_callbacks(EVENTS).unwrap();
        let listening = Listening::open(provider, "127.0.0.1:0").unwrap();
        let (connection, peer) = listening.pair();
        *connection.hasty.lock().unwrap() = Some(connection.clone());
        Connection::send(&connection, b"once").unwrap();
        assert_eq!(peer.recv_exact(8).unwrap(), b"onceonce");
        eventually("both are sent", || connection.log().sent.len() == 2);
        connection.close();
        listening.close();
    });
    let report = sim.report();
    let names: Vec<_> = report.violations.iter().map(|violation| violation.rule.name).collect();
    assert_eq!(names, [wsk::rules::IN_COMPLETION.name], "{report}");
}

/// A length beyond the MDL chain stops Windows: BUFFER_LENGTH.
#[test]
fn no_more_is_sent_than_the_buffer_has() {
    listening(plain(Completion::Inline), |_, _, listening| {
        let (connection, peer) = listening.pair();
        let mut buffer = SendBuffer::try_new(10).unwrap();
        buffer.bytes_mut().copy_from_slice(b"0123456789");
        assert!(connection.socket.send(&mut passive(), &connection, buffer, 4096).is_ok());
        assert_eq!(peer.recv_exact(10).unwrap(), b"0123456789");
        connection.close();
    });
}

/// How much is outstanding is the application's to bound. The naive driver sends without end, or guesses.
#[test]
fn the_ideal_backlog_is_asked_for_and_told_when_it_changes() {
    for config in every() {
        let config = wsk::Config { ideal_send_backlog: 12_345, ..config };
        listening(config, |_, _, listening| {
            let (connection, _peer) = listening.pair();
            assert!(connection.socket.query_ideal_backlog(&mut passive(), &connection));
            eventually("it is known", || connection.log().backlog == [12_345]);
            let sockets = wsk::sockets();
            let socket = sockets.iter().find(|socket| socket.category() == Category::Connection).unwrap();
            socket.set_ideal_send_backlog(99);
            eventually("the change is told", || connection.log().backlog == [12_345, 99]);
            eventually("it can be asked for again", || {
                connection.socket.query_ideal_backlog(&mut passive(), &connection)
            });
            eventually("it is known", || connection.log().backlog.last() == Some(&99));
            connection.close();
        });
    }
}

/// Closing cancels what is pending, and tells each of it before the end. The naive driver frees the socket's context when
/// it issues the close, or waits for its own requests first.
#[test]
fn closing_ends_what_is_pending_and_comes_last() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            peer.stall(true);
            for _ in 0..3 {
                Connection::send(&connection, b"never taken").unwrap();
            }
            connection.socket.receive(&mut passive(), &connection, RECEIVE_SIZE);
            assert!(connection.socket.disconnect(&mut passive(), &connection));
            connection.close();
            let log = connection.log();
            assert_eq!(log.sent, [Err(Status::CANCELLED); 3]);
            assert_eq!((log.disconnect_done, log.closed), (1, 1));
            assert_eq!(log.disconnected, [], "nobody else has ended it");
            drop(log);
            assert!(Connection::send(&connection, b"late").is_err());
            assert!(!connection.socket.receive(&mut passive(), &connection, 1));
            assert!(!connection.socket.query_ideal_backlog(&mut passive(), &connection));
            peer.wait_reset().unwrap();
        });
    }
}

/// Closing waits until calls on other threads have returned, and lets no more in. The naive driver closes beneath them:
/// CALLS_AT_CLOSE, SOCKET_GONE.
#[test]
fn calls_on_other_threads_are_over_before_the_close() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, _peer) = listening.pair();
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while Connection::send(&connection, b"x").is_ok() {
                            connection.socket.query_ideal_backlog(&mut passive(), &connection);
                        }
                    });
                }
                eventually("they are about it", || connection.log().sent.len() > 20);
                connection.socket.close(&mut passive());
            });
            connection.close();
        });
    }
}

/// Closing takes nothing that could be wanting. The naive driver allocates the IRP of WskCloseSocket, or sets its
/// completion routine, when it closes: then the socket stays, and WskDeregister never comes back.
#[test]
fn closing_needs_no_memory() {
    for completion in [Completion::Inline, Completion::Pending] {
        listening(plain(completion), |sim, provider, listening| {
            let (accepted, _peer) = listening.pair();
            let server = memory::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let (dialled, result) = Connection::dial(provider, server.local()).unwrap();
            assert_eq!(result, Ok(()));
            let second = Listening::open(provider, "127.0.0.1:0").unwrap();
            sim.fault(Plan::From(1));
            accepted.close();
            dialled.close();
            second.close();
            assert!(sim.faults_injected().iter().all(|fault| fault.api != "IoSetCompletionRoutineEx"));
            sim.fault(Plan::None);
        });
    }
}

/// A socket that is refused is WSK's to close, and is not touched: SOCKET_GONE. What was prepared for it goes, the armed
/// close among it, whose memory would leak (COMPLETION_LOST) if its routine never ran.
#[test]
fn refused_connections_leave_nothing() {
    for config in every() {
        listening(config, |_, _, listening| {
            listening.owner.refuses.store(true, Ordering::Relaxed);
            let peers: Vec<_> =
                (0..5).map(|_| memory::connect(listening.socket.address()).unwrap()).collect();
            for peer in peers {
                peer.wait_reset().unwrap();
            }
            assert_eq!(listening.owner.offered.load(Ordering::Relaxed), 5);
        });
    }
}

/// Where WSK has no events, connections are accepted by request, and those that nobody wants are ours to close. The naive
/// driver waits for an event, or leaves the socket.
#[test]
fn connections_are_accepted_and_refused_by_request() {
    for completion in [Completion::Inline, Completion::Pending, Completion::OtherThread] {
        let config = wsk::Config { completion, ..wsk::Config::incomplete() };
        // SO_EXCLUSIVEADDRUSE is ignored, with its IRP.
        fast(config, 1, |provider| {
            assert!(provider.set_static_event_callbacks(EVENTS).is_err());
            let listening = Listening::open(provider, "127.0.0.1:47001").unwrap();
            assert!(listening.socket.enable().is_err());
            assert!(listening.socket.secured().is_err() && listening.socket.exclusive().is_err());
            listening.socket.accept(&mut passive(), &listening.owner).unwrap();
            for refuses in [true, false, true] {
                listening.owner.refuses.store(refuses, Ordering::Relaxed);
                let peer = memory::connect(listening.socket.address()).unwrap();
                let mut accepted = None;
                eventually("a request is over", || {
                    accepted = listening.owner.accepted.lock().unwrap().take();
                    accepted.is_some()
                });
                let taken = listening.socket.accepted(&mut passive(), &listening.owner, accepted.unwrap());
                assert_eq!(taken, Ok(()));
                if refuses {
                    peer.wait_reset().unwrap();
                    continue;
                }
                let connection = listening.connection();
                peer.send(b"to it").unwrap();
                eventually("it has it", || {
                    let has = connection.log().data == b"to it";
                    if !has {
                        Connection::receive(&connection, RECEIVE_SIZE);
                    }
                    has
                });
                Connection::send(&connection, b"from it").unwrap();
                assert_eq!(peer.recv_exact(7).unwrap(), b"from it");
                connection.close();
            }
            listening.close();
        });
    }
}

/// A provider may return an error and leave the IRP alone. The naive driver waits for its completion for ever, or frees
/// what the provider may still complete.
#[test]
fn what_a_provider_ignores_is_not_waited_for() {
    let config = wsk::Config {
        unimplemented: &["WskDisconnect", "WskReceive", "WskControlSocket", "WskControlClient"],
        ..plain(Completion::Inline)
    };
    let (sim, left) = run(config, |_, provider| {
        let server = memory::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (connection, dialled) = Connection::dial(provider, server.local()).unwrap();
        assert_eq!(dialled, Ok(()));
        let peer = server.accept().unwrap();
        eventually("it is connected", || connection.log().connected == [Ok(())]);
        assert!(!connection.socket.disconnect(&mut passive(), &connection));
        assert!(!connection.socket.receive(&mut passive(), &connection, 10));
        assert!(!connection.socket.query_ideal_backlog(&mut passive(), &connection));
        assert!(connection.socket.enable().is_err());
        Connection::send(&connection, b"works").unwrap();
        assert_eq!(peer.recv_exact(5).unwrap(), b"works");
        connection.close();
    });
    assert_eq!(left, 3, "given back at the end");
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

/// Requests that are never completed are cancelled, and given up if need be. The naive driver waits for WskSocket without
/// a bound.
#[test]
fn a_socket_that_is_never_made_is_given_up() {
    let config = wsk::Config { stalled: &["WskSocket"], ..plain(Completion::Inline) };
    fast(config, 0, |provider| {
        let (connection, dialled) = Connection::dial(provider, "127.0.0.1:1".parse().unwrap()).unwrap();
        let error = dialled.unwrap_err();
        assert_eq!((error.step, error.status), (Step::Socket, Status::CANCELLED));
        assert_eq!(error.closing, Closing::NothingToClose);
        assert!(connection.socket.is_closed());
        assert_eq!(connection.log().closed, 0);
    });
}

/// Whatever hangs, hangs no more than itself: steps of a socket's making are cancelled in their time, the rest by the
/// close. The naive driver waits for each of them.
#[test]
fn whatever_hangs_ends_with_its_socket() {
    let stalled: [&'static [&'static str]; 7] = [
        &["WskBind"],
        &["WskConnect"],
        &["WskSend"],
        &["WskReceive"],
        &["WskDisconnect"],
        &["WskControlSocket"],
        &["WskGetLocalAddress"],
    ];
    for stalled in stalled {
        let config = wsk::Config { stalled, ..plain(Completion::Pending) };
        fast(config, 0, |provider| {
            let listening = Listening::open(provider, "127.0.0.1:0");
            let fails = ["WskBind", "WskGetLocalAddress"].contains(&stalled[0]);
            assert_eq!(
                listening.as_ref().err().map(|error| error.status),
                fails.then_some(Status::CANCELLED)
            );
            let server = memory::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let (connection, dialled) = Connection::dial(provider, server.local()).unwrap();
            if let Err(error) = dialled {
                assert_eq!(stalled[0], "WskBind");
                assert_eq!(
                    error,
                    DialError { step: Step::Bind, status: Status::CANCELLED, closing: Closing::Issued }
                );
            } else if stalled[0] != "WskConnect" {
                eventually("it is connected", || connection.log().connected == [Ok(())]);
                Connection::send(&connection, b"x").unwrap();
                connection.socket.receive(&mut passive(), &connection, 1);
                connection.socket.query_ideal_backlog(&mut passive(), &connection);
                connection.socket.disconnect(&mut passive(), &connection);
            }
            connection.close();
            if let Ok(listening) = listening {
                listening.close();
            }
        });
    }
}

/// WskConnect wants a bound socket. The naive driver connects at once, and gets STATUS_INVALID_DEVICE_STATE.
#[test]
fn a_dialled_connection_carries_data_both_ways() {
    for config in every() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            clean(config, |_, provider| {
                provider.set_static_event_callbacks(EVENTS).unwrap();
                let server = memory::listen(at.parse().unwrap()).unwrap();
                let (connection, dialled) = Connection::dial(provider, server.local()).unwrap();
                assert_eq!(dialled, Ok(()));
                let peer = server.accept().unwrap();
                eventually("it is connected", || connection.log().connected == [Ok(())]);
                peer.send(b"hello").unwrap();
                eventually("it has arrived", || connection.log().data == b"hello");
                Connection::send(&connection, b"and back").unwrap();
                assert_eq!(peer.recv_exact(8).unwrap(), b"and back");
                let again = connection.socket.dial(&mut passive(), provider, &connection, server.local());
                assert_eq!(again.unwrap_err().status, Status::INVALID_DEVICE_STATE);
                connection.close();
            });
        }
    }
}

/// Events of a dialled socket are switched on when it is connected, where they are not static.
#[test]
fn a_dialled_connections_events_can_be_switched_on() {
    clean(plain(Completion::Pending), |_, provider| {
        let server = memory::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (connection, dialled) = Connection::dial(provider, server.local()).unwrap();
        assert_eq!(dialled, Ok(()));
        let peer = server.accept().unwrap();
        eventually("it is connected", || connection.log().connected == [Ok(())]);
        connection.socket.enable().unwrap();
        assert_eq!(wsk::sockets()[0].enabled_events(), CONNECTION_EVENTS);
        peer.send(b"hello").unwrap();
        eventually("it has arrived", || connection.log().data == b"hello");
        peer.end();
        eventually("so has the end", || connection.log().disconnected == [Disconnected::Gracefully]);
        connection.close();
    });
}

/// A refusal completes the request, perhaps before WskConnect returns. The naive driver looks into the context after the
/// call, which the completion routine has given away.
#[test]
fn a_refused_connect_is_told_once() {
    for config in every() {
        clean(config, |_, provider| {
            let (connection, dialled) = Connection::dial(provider, "127.0.0.1:9".parse().unwrap()).unwrap();
            assert_eq!(dialled, Ok(()));
            eventually("it is told", || connection.log().connected.len() == 1);
            assert!(connection.log().connected[0].is_err());
            connection.close();
            assert_eq!(connection.log().connected.len(), 1);
        });
    }
}

/// The close of a socket whose connect is pending cancels it. The naive driver waits for the connect first, and hangs with
/// it; or frees the remote address with the socket's context: ARGUMENT_FREED.
#[test]
fn closing_while_a_connect_is_pending_does_not_hang() {
    for config in every() {
        clean(config, |_, provider| {
            let remote: SocketAddr = SILENT.parse().unwrap();
            memory::set_silent(remote, true).unwrap();
            let (connection, dialled) = Connection::dial(provider, remote).unwrap();
            assert_eq!(dialled, Ok(()));
            assert_eq!(connection.log().connected, []);
            connection.close();
            assert_eq!(connection.log().connected, [Err(Status::CANCELLED)]);
        });
    }
}

/// Sockets work on through their own tables when the provider is released. The naive driver keeps the capture as long as
/// it has sockets, or calls the provider after it: NO_CAPTURE, DEREGISTER_BLOCKED.
#[test]
fn sockets_outlive_the_capture() {
    use weir::kernel::time::Interval;
    use weir::wsk::{Registration, WSK_VERSION};
    let sim = ntsim::boot(ntsim::Config::default());
    let mut passive = passive();
    let registration = Registration::new(&passive, WSK_VERSION).unwrap();
    let provider = registration.capture(&passive, Interval::from_millis(100)).unwrap();
    provider.set_static_event_callbacks(EVENTS).unwrap();
    let listening = Listening::open(&provider, "127.0.0.1:0").unwrap();
    drop(provider);
    let (connection, peer) = listening.pair();
    peer.send(b"still").unwrap();
    eventually("it has arrived", || connection.log().data == b"still");
    Connection::send(&connection, b"there").unwrap();
    assert_eq!(peer.recv_exact(5).unwrap(), b"there");
    connection.close();
    drop(connection);
    listening.close();
    assert_eq!(registration.deregister(&mut passive), 0);
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

/// A NULL indication says that the socket is no longer functional. The naive driver reads from it.
#[test]
fn null_indications_tell_that_a_socket_is_dead() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, _peer) = listening.pair();
            for socket in wsk::sockets() {
                socket.fail();
            }
            eventually("the connection is told", || connection.log().dead == 1);
            eventually("the listener is told", || listening.owner.dead.load(Ordering::Acquire));
            connection.close();
        });
    }
}

/// What a self-relative descriptor says: owner, group, and whom its list allows what.
fn described(descriptor: &[u8]) -> (String, String, Vec<(String, u32)>) {
    let long = |at: usize| u32::from_le_bytes(descriptor[at..at + 4].try_into().unwrap());
    let sid = |at: usize| {
        let parts = usize::from(descriptor[at + 1]);
        let authority =
            u64::from_be_bytes([&[0; 2], &descriptor[at + 2..at + 8]].concat().try_into().unwrap());
        let parts = (0..parts).map(|part| format!("-{}", long(at + 8 + 4 * part)));
        format!("S-{}-{authority}{}", descriptor[at], parts.collect::<String>())
    };
    let control = u16::from_le_bytes([descriptor[2], descriptor[3]]);
    assert_eq!((descriptor[0], control), (1, 0x9004), "revision 1; self-relative, protected, with a list");
    let list = long(16) as usize;
    let count = u16::from_le_bytes([descriptor[list + 4], descriptor[list + 5]]);
    let mut entries = Vec::new();
    let mut at = list + 8;
    for _ in 0..count {
        assert_eq!(descriptor[at..at + 2], [0, 0], "allowed, not inherited");
        entries.push((sid(at + 8), long(at + 4)));
        at += usize::from(u16::from_le_bytes([descriptor[at + 2], descriptor[at + 3]]));
    }
    assert_eq!(at - list, usize::from(u16::from_le_bytes([descriptor[list + 2], descriptor[list + 3]])));
    assert_eq!(at, descriptor.len());
    (sid(long(4) as usize), sid(long(8) as usize), entries)
}

/// WSK takes security descriptors as cached copies, which stay until the request that applies them is completed. The naive
/// driver passes its own (SECURITY_NOT_CACHED), or releases the copy at once (SECURITY_RELEASED_EARLY), or never (a leak).
#[test]
fn listeners_can_be_shared_by_nobody_but_the_system_and_administrators() {
    for config in every() {
        listening(config, |sim, _, listening| {
            assert_eq!((listening.socket.secured(), listening.socket.exclusive()), (Ok(()), Ok(())));
            let descriptor = wsk::sockets()[0].security().expect("a descriptor was applied");
            let (owner, group, entries) = described(&descriptor);
            assert_eq!((&*owner, &*group), ("S-1-5-32-544", "S-1-5-18"));
            let everything = 0x001F_01FF;
            let entries: Vec<_> = entries.iter().map(|(who, what)| (&**who, *what)).collect();
            assert_eq!(entries, [("S-1-5-18", everything), ("S-1-5-32-544", everything)]);
            let leaks = sim.report().leaks;
            assert!(leaks.iter().all(|leak| leak.kind != "WSK cached security descriptor"), "released");
        });
    }
}

#[test]
fn a_descriptor_that_cannot_be_cached_leaves_the_default_one() {
    clean(plain(Completion::Inline), |sim, provider| {
        sim.fault(Plan::Api { name: "WskControlClient", nth: 1 });
        let listening = Listening::open(provider, "127.0.0.1:0").unwrap();
        assert_eq!(listening.socket.secured(), Err(Status::INSUFFICIENT_RESOURCES));
        assert_eq!(wsk::sockets()[0].security(), None);
        listening.close();
    });
}

/// One socket serves both families if IPV6_V6ONLY is cleared before bind. The naive driver binds first.
#[test]
fn several_listeners_serve_side_by_side() {
    for config in every() {
        clean(config, |_, provider| {
            provider.set_static_event_callbacks(EVENTS).unwrap();
            let both = Listening::open(provider, "[::]:47002").unwrap();
            let one = Listening::open(provider, "127.0.0.1:47003").unwrap();
            let v4 = memory::connect("127.0.0.1:47002".parse().unwrap()).unwrap();
            let first = both.connection();
            let v6 = memory::connect("[::1]:47002".parse().unwrap()).unwrap();
            let second = both.connection();
            let (third, other) = one.pair();
            for (connection, peer) in [(&first, &v4), (&second, &v6), (&third, &other)] {
                peer.send(b"to whom").unwrap();
                eventually("it has arrived", || connection.log().data == b"to whom");
            }
            both.close();
            other.send(b" it belongs").unwrap();
            eventually("the others go on", || third.log().data == b"to whom it belongs");
            for connection in [first, second, third] {
                connection.close();
            }
            one.close();
        });
    }
}

/// A reset ends what is being sent. The naive driver waits for its buffers.
#[test]
fn a_reset_gives_buffers_back() {
    for config in every() {
        listening(config, |_, _, listening| {
            let (connection, peer) = listening.pair();
            peer.stall(true);
            Connection::send(&connection, &pattern(100)).unwrap();
            peer.reset();
            eventually("the buffer is back", || connection.log().sent.len() == 1);
            assert!(connection.log().sent[0].is_err());
            eventually("the reset is told", || {
                connection.log().disconnected.contains(&Disconnected::Abortively)
            });
            connection.close();
        });
    }
}

/// A whole life: listen, accept, talk, dial, end. Whatever step fails is told, and nothing is left.
fn live(sim_calls: &dyn Fn(), provider: &weir::wsk::Provider<'_>) -> weir::kernel::Result {
    sim_calls();
    let events = provider.set_static_event_callbacks(EVENTS);
    let listening = Listening::open(provider, "127.0.0.1:0").map_err(|error| error.status)?;
    let near = Connection::dial(provider, listening.socket.address());
    let outcome = near.and_then(|(near, dialled)| {
        let mut far = None;
        let result = dialled.map_err(|error| error.status).and(events).and_then(|()| {
            eventually("the dial is over", || !near.log().connected.is_empty());
            near.log().connected[0]?;
            assert!(wsk::settle(Duration::from_secs(5)));
            far = listening.owner.connections.lock().unwrap().pop();
            let Some(far) = &far else { return Err(Status::UNSUCCESSFUL) };
            Connection::send(&near, &pattern(100))?;
            if !near.socket.query_ideal_backlog(&mut passive(), &near) {
                return Err(Status::UNSUCCESSFUL);
            }
            assert!(wsk::settle(Duration::from_secs(5)));
            far.socket.receive(&mut passive(), far, RECEIVE_SIZE);
            near.socket.disconnect(&mut passive(), &near);
            assert!(wsk::settle(Duration::from_secs(5)));
            Ok(())
        });
        match dialled {
            Err(error) if error.closing == Closing::NothingToClose => assert!(near.socket.is_closed()),
            Err(_) => eventually("it is closed", || near.log().closed == 1),
            Ok(()) => near.close(),
        }
        if let Some(far) = far {
            far.close();
        }
        result
    });
    for connection in listening.owner.connections.lock().unwrap().drain(..) {
        connection.close();
    }
    listening.close();
    outcome
}

#[test]
fn whatever_fails_once_nothing_is_left_behind() {
    for completion in [Completion::Inline, Completion::Pending] {
        let mut nth = 1;
        loop {
            let mut injected = 0;
            clean(plain(completion), |sim, provider| {
                let outcome = live(&|| sim.fault(Plan::Nth(nth)), provider);
                injected = sim.faults_injected().len();
                sim.fault(Plan::None);
                assert!(injected > 0 || outcome == Ok(()), "{outcome:?}");
            });
            if injected == 0 {
                break;
            }
            nth += 1;
        }
        assert!(nth > 30, "the walk ended at {nth}");
    }
}

#[test]
fn whatever_fails_often_nothing_is_left_behind() {
    for seed in 0..40 {
        let config = wsk::Config { seed, ..wsk::Config::default() };
        clean(config, |sim, provider| {
            let _outcome = live(&|| sim.fault(Plan::Seeded { seed, one_in: 8 }), provider);
            sim.fault(Plan::None);
        });
    }
}

/// An IRP whose routine was set ahead is sent to the driver's own device if nobody wants it: its routine must run, since
/// what IoSetCompletionRoutineEx allocated goes only then. The naive driver frees the IRP: COMPLETION_LOST.
#[test]
fn a_request_that_was_armed_and_is_not_made_leaves_nothing() {
    clean(plain(Completion::Inline), |sim, _| {
        let mut irp = Irp::try_new(1, ()).unwrap();
        irp.arm().unwrap();
        irp.arm().unwrap();
        let held = |sim: &ntsim::Sim| {
            sim.report().leaks.iter().filter(|leak| leak.kind == "completion routine").count()
        };
        assert_eq!(held(sim), 1);
        drop(irp);
        assert_eq!(held(sim), 0);
        let mut irp = Irp::try_new(1, ()).unwrap();
        sim.fault(Plan::Api { name: "IoSetCompletionRoutineEx", nth: 1 });
        assert_eq!(irp.arm(), Err(Status::INSUFFICIENT_RESOURCES));
    });
}

/// A completion routine that cannot be set is a request that is not made. The naive driver ignores what
/// IoSetCompletionRoutineEx returns, and sends an IRP without a routine.
#[test]
fn a_request_that_cannot_be_made_comes_back() {
    use weir::kernel::irp::{Bounds, Called};
    use weir::kernel::time::Interval;
    clean(plain(Completion::Inline), |sim, _| {
        let second = Interval::from_millis(1000);
        let bounds = Bounds { pending: second, settle: second };
        sim.fault(Plan::Api { name: "IoSetCompletionRoutineEx", nth: 1 });
        let irp = Irp::try_new(1, 7).unwrap();
        let called = irp.call(&passive(), bounds, |_, _| unreachable!("it is not made"));
        let Called::NotMade(irp) = called else { panic!("it was made") };
        sim.fault(Plan::Api { name: "IoSetCompletionRoutineEx", nth: 1 });
        let handler = |_: Irp<i32>, _, _: &mut _| unreachable!("it is not made");
        let started = irp.start(&mut passive(), handler, |_| (), |_, ()| unreachable!("it is not made"));
        assert_eq!(*started.unwrap_err().buffers(), 7);
    });
}

#[test]
fn real_tcp_is_dialled_and_served() {
    clean(wsk::Config::tcp(), |_, provider| {
        provider.set_static_event_callbacks(EVENTS).unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let (dialled, result) = Connection::dial(provider, server.local_addr().unwrap()).unwrap();
        assert_eq!(result, Ok(()));
        let (mut peer, _) = server.accept().unwrap();
        eventually("it is connected", || dialled.log().connected == [Ok(())]);
        let listening = Listening::open(provider, "127.0.0.1:0").unwrap();
        let mut other = TcpStream::connect(listening.socket.address()).unwrap();
        let accepted = listening.connection();
        for (connection, peer) in [(&dialled, &mut peer), (&accepted, &mut other)] {
            let data = pattern(200_000);
            let mut back = vec![0; data.len()];
            for piece in data.chunks(16_384) {
                Connection::send(connection, piece).unwrap();
            }
            peer.read_exact(&mut back).unwrap();
            assert_eq!(back, data);
            peer.write_all(&data).unwrap();
            eventually("all has arrived", || connection.log().data.len() == data.len());
            assert_eq!(connection.log().data, data);
            eventually("all is back", || connection.log().buffers.len() == 13);
            connection.close();
        }
        // Nobody listens there any more.
        let gone = server.local_addr().unwrap();
        drop(server);
        let (refused, result) = Connection::dial(provider, gone).unwrap();
        assert_eq!(result, Ok(()));
        eventually("it is refused", || refused.log().connected.len() == 1);
        assert!(refused.log().connected[0].is_err());
        refused.close();
        listening.close();
    });
}
