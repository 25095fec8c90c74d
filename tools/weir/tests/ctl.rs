//! `weir ctl`, `weir top` and `weir keys`: each command against the driver of `weir run --stay`, in a process of its own,
//! and what they say where something is wrong.

mod common;
#[path = "../../../tests/protocol_client/server.rs"]
mod server;

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use server::{Served, Server, peer};
use weir::control::protocol::noise::Keys;
use weir::control::protocol::role::Role;

const OFFICE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/office.toml");
const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/default.toml");
/// Telnet, which the office's policy blocks and the default one audits.
const TELNET: [&str; 6] = ["--direction", "out", "--protocol", "tcp", "--remote", "203.0.113.23:23"];

/// `weir run --stay`, with a configuration directory of its own.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = common::weir()
            .env("XDG_CONFIG_HOME", folder.path())
            .args(["run", "--stay", "--json", "--policy", OFFICE])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, lines, folder };
        while !running.said("note")["text"].as_str().unwrap().contains("stays until interrupted") {}
        running
    }

    /// The next thing of that kind that it says.
    fn said(&mut self, event: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended before it said {event}");
            let said: Value = serde_json::from_str(&line).unwrap();
            if said["event"] == event {
                return said;
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("weir").join(name)
    }

    fn weir(&self, arguments: &[&str]) -> Command {
        let mut command = common::weir();
        command.env("XDG_CONFIG_HOME", self.folder.path()).args(arguments);
        command
    }

    /// What a command prints that is to succeed.
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.weir(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[&["ctl", "--json"], arguments].concat())).unwrap()
    }

    /// What a command complains of that is to fail.
    fn failure(&self, arguments: &[&str]) -> String {
        failed(&self.weir(arguments).output().unwrap(), 1)
    }

    /// Interrupts it; what it says in the end.
    fn end(mut self) -> Value {
        interrupt(&self.child);
        let summary = self.said("summary");
        let status = self.child.wait().unwrap();
        assert_eq!(summary["verifier"], serde_json::json!({ "leaks": 0, "violations": 0 }));
        assert!(status.success());
        assert!(!self.file("running.json").exists(), "it says that it is gone");
        summary
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only where a test has failed before.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// What a command complained of.
fn failed(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains("weir: ") || code == 2, "{error}");
    error
}

#[test]
fn a_driver_that_stays_is_looked_at_without_an_option() {
    let running = Running::start();
    let status = running.json(&["status"]);
    assert_eq!((&status["filters"], &status["policy"]), (&true.into(), &"confirmed".into()));
    assert_eq!((&status["generation"], &status["sessions"]), (&1.into(), &1.into()));
    let count = status["connections"].as_u64().unwrap();
    assert!(count > 0);
    let text = running.text(&["ctl", "status"]);
    assert!(text.contains("filters      in force"), "{text}");
    let settings = status["settings"].as_array().unwrap();
    let peers = settings.iter().find(|row| row["name"] == "ControlPeers").unwrap();
    assert_eq!((&peers["origin"], &peers["pending"]), (&"registry".into(), &false.into()));
    let line = text.lines().find(|line| line.trim_start().starts_with("ControlPeers")).unwrap();
    assert!(line.contains("Parameters"), "{text}");

    let counters = running.json(&["counters"]);
    let counter = |name: &str| {
        let rows = counters["counters"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"))["value"].clone()
    };
    assert_eq!(counter("connections.tracked"), count);
    assert!(counter("ring.delivered").as_u64() > Some(0));

    let rules = running.json(&["rules"]);
    assert_eq!(rules["rules"].as_array().unwrap().len() as u64, rules["total"].as_u64().unwrap());
    assert!(running.text(&["ctl", "rules"]).contains("no-telnet"));

    let connections = running.json(&["connections"]);
    assert_eq!(connections["connections"].as_array().unwrap().len() as u64, count);
    let web = &connections["connections"].as_array().unwrap().iter().find(|row| row["remote_port"] == 443);
    let web = web.unwrap();
    assert_eq!((&web["direction"], &web["verdict"]), (&"out".into(), &"allow".into()));
    assert!(web["bytes_in"].as_u64() > Some(0));
    assert!(running.text(&["ctl", "connections"]).contains(":443"));

    let sessions = running.json(&["sessions"]);
    let own = &sessions["sessions"][0];
    assert_eq!((&own["peer"], &own["role"]), (&"operator".into(), &"operator".into()));
    assert!(running.text(&["ctl", "sessions"]).contains("open (this one)"));
    assert!(running.json(&["extensions"])["extensions"].as_array().is_some_and(|rows| !rows.is_empty()));
    assert!(running.text(&["ctl", "extensions"]).contains("optional"));

    let explained = running.json(&[&["explain"], &TELNET[..]].concat());
    assert_eq!((&explained["action"], &explained["generation"]), (&"block".into(), &1.into()));
    let text = running.text(&[&["ctl", "explain"], &TELNET[..]].concat());
    assert!(text.contains("no-telnet matches\n") && text.contains("`no-telnet` of generation 1"), "{text}");
    assert!(!text.contains("default"), "{text}");

    // The snapshot alone, which ends by itself.
    let text = running.text(&["ctl", "events"]);
    assert_eq!(text.lines().filter(|line| line.contains("FlowOpened")).count() as u64, count, "{text}");
    running.end();
}

#[test]
fn a_policy_is_applied_for_now_and_kept_when_it_is_confirmed() {
    let running = Running::start();
    let verdict = || running.json(&[&["explain"], &TELNET[..]].concat())["action"].clone();
    assert_eq!(verdict(), "block");

    // Taken back at once.
    let applied = running.json(&["apply", DEFAULT, "--window", "600"]);
    assert_eq!((&applied["generation"], &applied["window"]), (&2.into(), &600.into()));
    assert_eq!(verdict(), "audit");
    assert!(running.text(&["ctl", "status"]).contains("provisional, generation 2"));
    let error = running.failure(&["ctl", "apply", DEFAULT]);
    assert!(error.contains("busy"), "{error}");
    running.json(&["rollback"]);
    assert_eq!(verdict(), "block");
    let error = running.failure(&["ctl", "rollback"]);
    assert!(error.contains("nothing is open"), "{error}");

    // Taken back by itself.
    running.json(&["apply", DEFAULT, "--window", "1"]);
    let begun = Instant::now();
    while verdict() != "block" {
        assert!(begun.elapsed() < Duration::from_secs(20), "never rolled back");
        thread::sleep(Duration::from_millis(200));
    }

    // Kept, over another connection.
    let generation = running.json(&["apply", DEFAULT])["generation"].as_u64().unwrap();
    let error = running.failure(&["ctl", "confirm", "999"]);
    assert!(error.contains("conflict") || error.contains("not-found"), "{error}");
    assert_eq!(running.json(&["confirm"])["generation"], generation);
    assert_eq!(running.json(&["status"])["policy"], "confirmed");
    assert_eq!(verdict(), "audit");

    // An image goes up as well, in chunks and confirmed in one go, and only in the place of the one that is meant.
    let image = running.folder.path().join("office.image");
    running.text(&["policy", "check", OFFICE, "--output", image.to_str().unwrap()]);
    let error = running.failure(&["ctl", "apply", image.to_str().unwrap(), "--replaces", "1"]);
    assert!(error.contains("conflict"), "{error}");
    for _ in 0..5 {
        let applied = running.json(&["apply", image.to_str().unwrap(), "--confirm"]);
        assert_eq!(applied["confirmed"], true);
    }
    assert_eq!(verdict(), "block");

    // What is no policy goes nowhere.
    let bad = common::file(".toml", b"version = 1\ndefault = \"maybe\"\n");
    let error = failed(&running.weir(&["ctl", "apply", bad.to_str().unwrap()]).output().unwrap(), 1);
    assert!(error.contains("maybe") && error.contains("1 fault"), "{error}");
    std::fs::write(&image, b"weirplcy, but nothing of it").unwrap();
    let error = running.failure(&["ctl", "apply", image.to_str().unwrap()]);
    assert!(error.contains("an image that no driver takes"), "{error}");
    running.end();
}

#[test]
fn events_are_followed_as_they_happen() {
    let running = Running::start();
    let mut following = running
        .weir(&["ctl", "--json", "events", "--follow", "--keywords", "policy", "--count", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It follows when its session has a subscription.
    let begun = Instant::now();
    let follows = || {
        let sessions = running.json(&["sessions"]);
        sessions["sessions"].as_array().unwrap().iter().any(|row| row["events"].is_u64())
    };
    while !follows() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    running.json(&["apply", DEFAULT]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let events: Vec<Value> =
        (0..2).map(|_| serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()).collect();
    assert!(following.wait().unwrap().success(), "it ends after as many as were asked for");
    let loaded = events.iter().find(|event| event["event"] == "PolicyLoaded").unwrap();
    assert_eq!((&loaded["fields"]["generation"], &loaded["level"]), (&2.into(), &"information".into()));
    assert!(loaded["time"].as_str().unwrap().ends_with('Z'));
    running.end();
}

#[test]
fn top_prints_one_look_where_there_is_no_terminal() {
    let running = Running::start();
    let text = running.text(&["top"]);
    assert!(text.contains("weir 0.1.0, up for") && text.contains("filters in force"), "{text}");
    assert!(text.contains(":443") && text.contains("none lost"), "{text}");
    let few = running.text(&["top", "--once", "--most", "2"]);
    assert!(few.contains("others (--most)"), "{few}");
    let look: Value = serde_json::from_str(&running.text(&["top", "--json", "--most", "3"])).unwrap();
    assert_eq!(look["talkers"].as_array().unwrap().len(), 3);
    assert_eq!((&look["ring"]["lost"], &look["filters"]), (&0.into(), &true.into()));
    assert!(look["seconds"].as_f64() > Some(0.9));
    assert!(text.contains(" builtin") && text.contains(" callbacks/s"), "{text}");
    let extensions = &look["extensions"];
    // Where it listens, and this connection.
    assert!(extensions["registered"]["builtin"].as_u64() >= Some(2), "{extensions}");
    assert_eq!((&extensions["modules"], &extensions["lost"]), (&0.into(), &0.into()));
    assert_eq!(extensions["last"], Value::Null);
    let carried = |place: usize| -> u64 {
        ["bytes_in", "bytes_out"].map(|way| look["talkers"][place][way].as_u64().unwrap()).iter().sum()
    };
    assert!(carried(0) >= carried(1) && carried(1) >= carried(2));
    running.end();
}

#[test]
fn a_client_written_from_the_page_in_another_language_works_with_the_driver() {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let checked = Command::new(&python).args(["-c", "import cbor2, noise.connection"]).output();
    if !checked.is_ok_and(|output| output.status.success()) {
        println!("skipped: no Python with the packages noiseprotocol and cbor2 (WEIR_TEST_PYTHON names one)");
        return;
    }
    let running = Running::start();
    let told: Value = serde_json::from_slice(&std::fs::read(running.file("running.json")).unwrap()).unwrap();
    let (host, port) = told["control"].as_str().unwrap().rsplit_once(':').unwrap();
    let private = std::fs::read_to_string(running.file("operator.key")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/protocol_client/client.py");
    let driver = told["driver_key"].as_str().unwrap();
    let client = |private: &str| {
        let arguments = [script, host, port, private.trim(), driver, "driver"];
        Command::new(&python).args(arguments).output().unwrap()
    };
    let output = client(&private);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done driver\n", "{error}");
    let stranger = client(&"77".repeat(32));
    let said = String::from_utf8_lossy(&stranger.stdout);
    assert_eq!((stranger.status.code(), &*said), (Some(3), "the driver has closed the connection\n"));
    running.end();
}

/// Runs `weir top` in a terminal of its own, by util-linux's `script`, and types into it. `None`: there is no `script`.
fn in_a_terminal(running: &Running, size: &str, typed: &[u8]) -> Option<(String, Option<i32>)> {
    let weir = env!("CARGO_BIN_EXE_weir");
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("stty {size}; exec {weir} top"), "/dev/null"])
        .env("XDG_CONFIG_HOME", running.folder.path())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = terminal.stdin.take().unwrap();
    thread::sleep(Duration::from_millis(2500));
    input.write_all(typed).unwrap();
    let output = terminal.wait_with_output().unwrap();
    drop(input);
    Some((String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code()))
}

#[test]
fn top_gives_the_terminal_back_however_it_ends() {
    let running = Running::start();
    for (size, typed) in
        [("cols 120 rows 40", &b"q"[..]), ("cols 20 rows 4", b"\x03"), ("cols 80 rows 24", b" s\x1b")]
    {
        let Some((screen, code)) = in_a_terminal(&running, size, typed) else {
            println!("skipped: there is no `script` to make a terminal with");
            return;
        };
        assert_eq!(code, Some(0), "{screen}");
        let (enter, leave) = (screen.find("\x1b[?1049h"), screen.rfind("\x1b[?1049l"));
        assert!(enter.is_some() && leave > enter, "the screen is given back: {screen:?}");
        assert!(screen.contains("weir 0.1.0"), "{screen:?}");
        assert!(screen.rfind("\x1b[?25h") > enter, "the cursor is shown again: {screen:?}");
    }
    running.end();
}

#[test]
fn a_key_is_made_once_and_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.key");
    let run = |arguments: &[&str]| common::weir().arg("keys").args(arguments).arg(&file).output().unwrap();
    let made = run(&["new"]);
    assert!(made.status.success());
    let public = String::from_utf8(made.stdout).unwrap();
    assert_eq!(public.trim().len(), 64);
    let private = std::fs::read_to_string(&file).unwrap();
    assert_eq!((private.len(), private.trim().len()), (65, 64));
    assert_ne!(private, public);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(String::from_utf8(run(&["show"]).stdout).unwrap(), public);
    let shown: Value = serde_json::from_slice(&run(&["show", "--json"]).stdout).unwrap();
    assert_eq!(shown["public"], public.trim());

    assert!(failed(&run(&["new"]), 1).contains("there is a file already"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), private);
    std::fs::write(&file, "0123").unwrap();
    assert!(failed(&run(&["show"]), 1).contains("64 hexadecimal digits on one line"));
    std::fs::remove_file(&file).unwrap();
    failed(&run(&["show"]), 1);
}

#[test]
fn a_registry_file_gives_a_driver_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = key_file(folder.path(), 0x5a);
    let output = folder.path().join("key.reg");
    let run = || common::weir().args(["keys", "registry", &key]).arg(&output).output().unwrap();
    assert!(run().status.success());
    let text = std::fs::read_to_string(&output).unwrap();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(lines[0], "Windows Registry Editor Version 5.00");
    assert_eq!(lines[2], r"[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\weir\Parameters\Key]");
    assert_eq!(lines[3], format!("\"PrivateKey\"=hex:5a{}", ",5a".repeat(31)));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(failed(&run(), 1).contains("there is a file already"));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), text);
}

/// A key file with 32 times the same byte.
fn key_file(folder: &Path, private: u8) -> String {
    let file = folder.join(format!("{private}.key"));
    std::fs::write(&file, format!("{private:02x}").repeat(32)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    file.to_str().unwrap().to_owned()
}

#[test]
fn what_keeps_a_command_from_its_driver_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![peer("eye", Role::Observer, 0x30)]);
    let (host, driver) = (server.address.to_string(), server.key.to_string());
    let (eye, stranger) = (key_file(folder.path(), 0x30), key_file(folder.path(), 0x77));
    let run = |arguments: &[&str]| {
        common::weir().env("XDG_CONFIG_HOME", folder.path()).arg("ctl").args(arguments).output().unwrap()
    };
    // Nobody runs, and nothing is said of who and where.
    let error = failed(&run(&["status"]), 2);
    assert!(error.contains("--key") && error.contains("weir run --stay"), "{error}");
    let error = failed(&run(&["--key", &eye, "--host", &host, "status"]), 2);
    assert!(error.contains("--driver-key"), "{error}");
    let error = failed(&run(&["--key", &eye, "--host", &host, "--driver-key", "nonsense", "status"]), 1);
    assert!(error.contains("nonsense") && error.contains("64 hexadecimal digits"), "{error}");

    let whole = ["--host", &host, "--driver-key", &driver];
    let with = |key: &str, command: &[&str]| run(&[&whole[..], &["--key", key], command].concat());
    assert!(with(&eye, &["status"]).status.success());
    let error = failed(&with(&stranger, &["status"]), 1);
    assert!(error.contains("among its peers"), "{error}");
    let error = failed(&with(&eye, &["apply", DEFAULT]), 1);
    assert!(error.contains("takes the role operator"), "{error}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = failed(&run(&["--host", &free, "--driver-key", &driver, "--key", &eye, "status"]), 1);
    assert!(error.contains("nothing listens at"), "{error}");
    // Usage is clap's.
    failed(&with(&eye, &["status", "--listen", "127.0.0.1:0"]), 2);
    failed(&with(&eye, &["events", "--follow", "--level", "loud"]), 2);
    failed(&with(&eye, &["explain", "--direction", "out", "--local", "::1", "--remote", "192.0.2.1"]), 2);
}

#[test]
fn a_driver_that_dials_out_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let hand = key_file(folder.path(), 0x31);
    let driver = Keys::new(&[0x22; 32]).public().to_string();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut waiting = common::weir()
        .env("XDG_CONFIG_HOME", folder.path())
        .args([
            "ctl",
            "--listen",
            &free.to_string(),
            "--key",
            &hand,
            "--driver-key",
            &driver,
            "--json",
            "status",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(waiting.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("waiting at"));
    let controller = peer("center", Role::Operator, 0x31);
    let dial =
        |private: u8| Served::dial(free, &Keys::new(&[private; 32]), &controller, &std::sync::Arc::default());
    assert!(dial(0x23).is_none());
    assert!(said.next().unwrap().unwrap().contains("is not the driver that is waited for"));
    dial(0x22).unwrap().serve();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success());
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["processors"], 8);
}

#[test]
fn every_list_of_the_stand_in_is_shown_to_the_last_row() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![peer("hand", Role::Operator, 0x31)]);
    let (host, driver) = (server.address.to_string(), server.key.to_string());
    let key = key_file(folder.path(), 0x31);
    let run = |arguments: &[&str]| {
        let options = ["ctl", "--host", &host, "--driver-key", &driver, "--key", &key];
        let output = common::weir().args(options).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&run(arguments)).unwrap() };
    assert_eq!(json(&["counters", "--json"])["counters"].as_array().unwrap().len(), 2000);
    assert_eq!(run(&["counters"]).lines().count(), 2001);
    let connections = json(&["connections", "--json"]);
    assert_eq!(connections["connections"].as_array().unwrap().len(), 5);
    assert_eq!(connections["connections"][0].get("rule"), None);
    assert!(run(&["connections"]).contains("198.51.100.7:443"));
    let extensions = json(&["extensions", "--json"]);
    assert_eq!(extensions["extensions"][0]["interface"], "{57465043-0001-0002-0303-030303030303}");
    assert_eq!(extensions["extensions"][0]["provider"], "builtin");
    assert_eq!(extensions["extensions"][0]["kind"], "listening");
    assert_eq!(extensions["extensions"][1]["kind"], "accepted");
    assert_eq!(extensions["extensions"][1]["module"], "{abcdef01-0005-0006-0707-070707070707}");
    let extensions = run(&["extensions"]);
    let rows: Vec<Vec<_>> = extensions.lines().map(|line| line.split_whitespace().collect()).collect();
    let unknown = "{57465043-0001-0002-0303-030303030303}";
    assert_eq!(rows[1], ["listening", unknown, "refused", "required", "builtin", "0xC00000BB", "0"]);
    let module = "{abcdef01-0005-0006-0707-070707070707}";
    assert_eq!(
        rows[2][1..8],
        ["accepted", "connection_v1", "registered", "optional", "nmr", module, rows[2][0]]
    );
    let rules = run(&["rules"]);
    assert!(rules.contains("what no rule matches: audit") && rules.contains('7'), "{rules}");
    let events = run(&["events", "--follow", "--only", "Fault", "--count", "3"]);
    assert_eq!(events.lines().filter(|line| line.contains("status=0xC000009A")).count(), 3, "{events}");
    assert!(events.contains("operation=opération"), "{events}");
    let lost = run(&["events", "--follow", "--credit", "1", "--count", "30", "--json"]);
    assert!(lost.contains("{\"event\":\"Fault\",\"id\":9,\"count\":20}"), "{lost}");
}

#[test]
fn who_provides_an_interface_is_asked_and_its_answer_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![peer("hand", Role::Operator, 0x31), peer("eye", Role::Observer, 0x30)]);
    let (host, driver) = (server.address.to_string(), server.key.to_string());
    let keys = [(true, 0x31), (false, 0x30)].map(|(operator, key)| {
        let folder = folder.path().join(if operator { "operator" } else { "observer" });
        std::fs::create_dir(&folder).unwrap();
        key_file(&folder, key)
    });
    // Each run is a connection of its own, and the server counts them.
    let run = |operator: bool, arguments: &[&str]| -> Output {
        let session = (server.driver.lock().unwrap().sessions + 1).to_string();
        let options =
            ["ctl", "--host", &host, "--driver-key", &driver, "--key", &keys[usize::from(!operator)]];
        let arguments = arguments.iter().map(|word| if *word == "OWN" { &session[..] } else { word });
        common::weir().args(options).arg("extension").args(arguments).output().unwrap()
    };
    let said = |output: &Output| {
        let (code, out) = (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned());
        (code.unwrap(), out + &String::from_utf8_lossy(&output.stderr))
    };
    let metric = "received    1.0 TiB\nsent        77 B\nround trip  1500 us\nsampled by  nmr\n";
    for interface in ["connection_v1", "{5EE5D4F1-9929-4633-8368-7BC7438B4140}"] {
        let output = run(false, &["metric", "OWN", "--interface", interface]);
        assert_eq!(said(&output), (0, metric.into()));
    }
    let output = run(false, &["metric", "OWN", "--json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "received": 1_u64 << 40, "sent": 77, "round_trip": 1500, "provider": "nmr"
    });
    assert_eq!(shown, expected);
    assert_eq!(said(&run(true, &["control", "OWN", "--code", "7"])), (0, "done by nmr\n".into()));
    let output = run(true, &["control", "OWN", "--code", "0x8", "--data", "aBcD", "--json"]);
    assert_eq!(said(&output), (0, "{\"provider\":\"nmr\"}\n".into()));
    for (operator, arguments, code, told) in [
        (false, &["metric", "OWN", "--interface", "label_v1"][..], 1, "not-found"),
        (false, &["metric", "77"], 1, "not-found"),
        (false, &["control", "OWN", "--code", "7"], 1, "operator"),
        (true, &["control", "OWN", "--code", "9"], 1, "0xC0000010"),
        (true, &["control", "OWN", "--code", "9", "--data", "abc"], 2, "half a byte is left"),
        (true, &["control", "OWN"], 2, "--code"),
        (true, &["control", "OWN", "--code", "-1"], 2, "--code"),
        (true, &["metric", "0"], 2, "0 is not in 1.."),
        (true, &["metric", "OWN", "--interface", "label"], 2, "connection_v1, label_v1"),
        (true, &["metric"], 2, "<SESSION>"),
    ] {
        let (ended, said) = said(&run(operator, arguments));
        assert_eq!(ended, code, "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
}

/// Types what a page has in lines of its own, from the top of the tree.
#[track_caller]
fn typed(running: &Running, page: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join(page)).unwrap();
    let examples: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("    weir ")).collect();
    assert!(examples.len() >= least);
    for example in examples.into_iter().filter(|example| !example.starts_with("run ")) {
        let words: Vec<_> = example.split_whitespace().collect();
        let mut command = running.weir(&words);
        command.current_dir(&root).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if words.contains(&"--follow") {
            // It has no end of its own here.
            thread::sleep(Duration::from_secs(1));
            child.kill().unwrap();
            assert_eq!(child.wait().unwrap().code(), None, "{example}");
            continue;
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{example}");
    }
}

#[test]
fn the_vendors_guide_says_what_can_be_typed() {
    let guide =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/GUIDE.md")).unwrap();
    let running = Running::start();
    typed(&running, "tools/sdk/GUIDE.md", 5);
    // What takes a vendor's driver is understood all the same: there is no such session.
    let asked: Vec<_> = guide.lines().filter_map(|line| line.strip_prefix("weir ctl extension ")).collect();
    assert_eq!(asked.len(), 3);
    for example in asked {
        let words: Vec<_> = ["ctl", "extension"].into_iter().chain(example.split_whitespace()).collect();
        let words: Vec<_> = words.into_iter().map(|word| if word == "3" { "999" } else { word }).collect();
        let error = running.failure(&words);
        assert!(error.contains("not-found"), "{example}: {error}");
    }
    running.end();
}

#[test]
fn shells_and_readers_of_manuals_get_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = common::weir().args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["driver-key", "rollback", "top"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = common::weir().arg("man").output().unwrap();
    assert!(String::from_utf8(page.stdout).unwrap().contains(".TH weir 1"));
    let folder = tempfile::tempdir().unwrap();
    assert!(common::weir().arg("man").arg(folder.path()).status().unwrap().success());
    for name in [
        "weir.1",
        "weir-ctl.1",
        "weir-ctl-apply.1",
        "weir-ctl-extension-metric.1",
        "weir-top.1",
        "weir-keys-new.1",
    ] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
}
