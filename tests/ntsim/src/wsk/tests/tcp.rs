//! The back end on real TCP.

use super::client::{Client, Irp, Sock, wait_until};
use super::{assert_clean, boot};
use crate::sys::nt::{
    STATUS_CANCELLED, STATUS_CONNECTION_REFUSED, STATUS_CONNECTION_RESET, STATUS_PENDING, STATUS_SUCCESS,
};
use crate::sys::wsk::*;
use crate::wsk::{Config, sockets};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ptr::{null, null_mut};
use std::thread;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 13 % 251).unwrap()).collect()
}

#[test]
fn a_listener_on_port_zero_tells_its_port_and_serves_real_connections() {
    for seed in 0..6 {
        let sim = boot(Config { seed, ..Config::tcp() });
        let client = Client::new();
        let listener = client.listener("127.0.0.1:0", null_mut(), null());
        let address = listener.local();
        assert_ne!(address.port(), 0);
        let data = pattern(1 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&data).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                assert_eq!(back, data);
            });
            let socket = listener.accept();
            let received = socket.receive_to_end();
            assert_eq!(received, data);
            for part in received.chunks(100_000) {
                assert_eq!(socket.send(part).information, part.len());
            }
            assert_eq!(socket.disconnect(0).status, STATUS_SUCCESS);
            socket.close();
        });
        listener.close();
        drop(client);
        assert_clean(&sim);
    }
}

#[test]
fn closing_without_a_disconnect_resets_a_real_peer() {
    let sim = boot(Config::tcp());
    let client = Client::new();
    let listener = client.listener("127.0.0.1:0", null_mut(), null());
    let mut stream = TcpStream::connect(listener.local()).unwrap();
    let socket = listener.accept();
    socket.close();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    listener.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn a_real_reset_fails_a_pending_receive() {
    let sim = boot(Config::tcp());
    let client = Client::new();
    let listener = client.listener("127.0.0.1:0", null_mut(), null());
    let stream = TcpStream::connect(listener.local()).unwrap();
    let socket = listener.accept();
    let memory = super::client::Memory::new(&[16]);
    let irp = Irp::new();
    assert_eq!(socket.receive_irp(&mut memory.whole(), 0, irp.irp), STATUS_PENDING);
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(irp.wait().0, STATUS_CONNECTION_RESET);
    socket.close();
    listener.close();
    drop((irp, memory, client));
    assert_clean(&sim);
}

#[test]
fn a_socket_connects_to_a_real_listener_or_is_refused() {
    let sim = boot(Config::tcp());
    let client = Client::new();
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = host.local_addr().unwrap();
    let socket = client.connection(address, null_mut(), null());
    let (mut stream, from) = host.accept().unwrap();
    assert_eq!(socket.local(), from);
    assert_eq!(socket.send(b"hello").status, STATUS_SUCCESS);
    let mut data = [0; 5];
    stream.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"hello");
    socket.close();
    drop(host);
    let refused = client.socket(AF_INET, WSK_FLAG_CONNECTION_SOCKET, null_mut(), null());
    assert_eq!(refused.bind("127.0.0.1:0".parse().unwrap()).status, STATUS_SUCCESS);
    assert_eq!(refused.connect(address).status, STATUS_CONNECTION_REFUSED);
    refused.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn many_real_connections_come_and_go() {
    let sim = boot(Config::tcp());
    let client = Client::new();
    let listener = client.listener("127.0.0.1:0", null_mut(), null());
    let address = listener.local();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for _ in 0..25 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(b"ping").unwrap();
                    let mut data = [0; 4];
                    stream.read_exact(&mut data).unwrap();
                }
            });
        }
        for _ in 0..100 {
            let socket = listener.accept();
            assert_eq!(socket.receive(4, WSK_FLAG_WAITALL).1, b"ping");
            assert_eq!(socket.send(b"pong").status, STATUS_SUCCESS);
            socket.close();
        }
    });
    assert_eq!(sockets().len(), 1);
    listener.close();
    drop(client);
    assert_clean(&sim);
}

#[test]
fn the_machine_shuts_down_with_sockets_open() {
    let sim = boot(Config::tcp());
    let client = Client::new();
    let listener = client.listener("127.0.0.1:0", null_mut(), null());
    let stream = TcpStream::connect(listener.local()).unwrap();
    let socket: Sock = listener.accept();
    let irp = Irp::new();
    assert_eq!(listener.accept_irp(null_mut(), null(), irp.irp), STATUS_PENDING);
    unsafe { crate::sys::nt::IoCancelIrp(irp.irp) };
    assert_eq!(irp.wait().0, STATUS_CANCELLED);
    drop(irp);
    let _ = socket;
    wait_until("the sockets", || sockets().len() == 2);
    drop(sim);
    client.leave();
    drop(stream);
}
