//! A client in another language, written from PROTOCOL.md alone, gets what the page promises.
//!
//! It is tests/protocol_client/client.py, over Python's `noiseprotocol` and `cbor2`; what it speaks with is the
//! protocol's own code over loopback TCP, with answers made up here. The interpreter is that of `WEIR_TEST_PYTHON`, or
//! `python3`; without these packages the test says so and does nothing.

#[path = "protocol_client/server.rs"]
mod server;

use std::process::{Command, Output};

use server::{Server, peer};
use weir::control::protocol::role::Role;

/// An interpreter with the packages.
fn python() -> Option<String> {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let checked = Command::new(&python).args(["-c", "import cbor2, noise.connection"]).output();
    checked.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn a_client_written_from_the_page_in_another_language_works() {
    let Some(python) = python() else {
        println!("skipped: no Python with the packages noiseprotocol and cbor2 (WEIR_TEST_PYTHON names one)");
        return;
    };
    let peers = [("observer", Role::Observer, 0x30), ("operator", Role::Operator, 0x31)];
    let server = Server::start(peers.map(|(_, role, private)| peer("python", role, private)).to_vec());
    let (port, driver_key) = (server.address.port(), server.key.to_string());
    let run = |private: u8, role: &str| -> Output {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol_client/client.py");
        let private = format!("{private:02x}").repeat(32);
        Command::new(&python)
            .args([script, "127.0.0.1", &port.to_string(), &private, &driver_key, role])
            .output()
            .unwrap()
    };
    for (private, role, expected) in [
        (0x30, "observer", "done observer\n"),
        (0x77, "stranger", "the driver has closed the connection\n"),
        (0x31, "operator", "done operator\n"),
    ] {
        let output = run(private, role);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(server.driver.lock().unwrap().sessions, 2);
}
