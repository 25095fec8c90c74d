//! `weir run`: what a replay counts, and how it ends.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::*;

const LOCAL: [&str; 2] = ["--local", "192.168.1.10"];

/// Two TCP connections and a ping: 20 packets, 3 flows.
fn traffic() -> Vec<Vec<u8>> {
    let mut packets = session(50_000, 443);
    packets.extend(session(50_001, 80));
    packets.extend([ping(true), ping(false)]);
    packets
}

#[test]
fn every_container_and_link_type_gives_the_same_account() {
    for container in CONTAINERS {
        for (name, link_type, wrap) in links() {
            let frames: Vec<_> = traffic().iter().map(|packet| wrap(packet)).collect();
            let run = replay(&capture(container, link_type, &frames), &[]);
            let summary = run.clean();
            assert_eq!(summary["packets"], 20, "{container:?} {name}");
            assert_eq!(summary["flows"], 3, "{container:?} {name}");
            assert_eq!(summary["skipped"], 0, "{container:?} {name}");
            assert_eq!(summary["by_direction"]["out"]["flows"], 3, "{container:?} {name}");
            let first =
                run.all("closed").into_iter().find(|closed| closed["remote"] == "203.0.113.5:443").unwrap();
            // Nine TCP headers of 20 bytes, 100 bytes sent, 1,000 received.
            assert_eq!(
                (&first["packets_out"], &first["packets_in"]),
                (&5.into(), &4.into()),
                "{container:?} {name}"
            );
            assert_eq!(
                (&first["bytes_out"], &first["bytes_in"]),
                (&200.into(), &1080.into()),
                "{container:?} {name}"
            );
        }
    }
}

#[test]
fn time_stamps_are_read_in_every_container() {
    for container in CONTAINERS {
        let run = replay(&capture(container, 101, &traffic()), &[]);
        let verdict = run.all("verdict")[1]["time"].as_f64().unwrap();
        assert!((verdict - 1_700_000_000.009).abs() < 1e-6, "{container:?}: {verdict}");
    }
}

#[test]
fn the_carried_capture_under_the_office_policy() {
    let office = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/office.toml");
    let run = Run::of(weir().args(["run", "--json", "--policy", office]));
    let summary = run.clean();
    assert_eq!(summary["skipped"], 0);
    let telnet = run.all("closed").into_iter().find(|closed| closed["remote"] == "203.0.113.23:23").unwrap();
    assert_eq!(telnet["verdict"], "block");
    assert_eq!(telnet["rule"], "no-telnet");
    assert_eq!((&telnet["packets"], &telnet["suppressed"]), (&3.into(), &2.into()));
    assert_eq!(
        summary["allowed"].as_u64().unwrap()
            + summary["blocked"].as_u64().unwrap()
            + summary["audited"].as_u64().unwrap(),
        summary["flows"].as_u64().unwrap()
    );
}

#[test]
fn without_arguments_everything_passes_and_what_deserves_a_look_is_audited() {
    let run = Run::of(weir().args(["run", "--json"]));
    let summary = run.clean();
    assert_eq!(summary["blocked"], 0);
    assert_eq!(summary["by_rule"]["clear-text-login"]["flows"], 1);
    assert_eq!(summary["audited"], 3);
}

#[test]
fn for_people_it_prints_verdicts_and_tables() {
    let office = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/office.toml");
    let output = weir().args(["run", "--policy", office]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("203.0.113.23:23  no-telnet"), "{text}");
    assert!(text.contains("verifier  0 leaks, 0 violations"), "{text}");
    assert!(text.contains("127.0.0.1:"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn a_blocked_connection_is_one_flow_and_its_later_packets_are_suppressed() {
    let policy = file(".toml", b"version = 1\ndefault = \"allow\"\n[[rule]]\nname = \"web\"\naction = \"block\"\nremote_port = 443\nprotocol = \"tcp\"\n");
    let run = replay(&raw(&traffic()), &["--policy", policy.to_str().unwrap()]);
    let summary = run.clean();
    assert_eq!((&summary["blocked"], &summary["allowed"]), (&1.into(), &2.into()));
    let web = &summary["by_rule"]["web"];
    assert_eq!((&web["flows"], &web["packets"], &web["suppressed"]), (&1.into(), &9.into(), &8.into()));
}

#[test]
fn a_new_connection_on_closed_endpoints_counts_anew() {
    let mut packets = session(50_000, 443);
    packets.extend(session(50_000, 443));
    // Reset, and once more; the retransmission of a SYN is no new connection.
    packets.push(tcp(true, 50_000, 443, "S", 0));
    packets.push(tcp(true, 50_000, 443, "S", 0));
    packets.push(tcp(false, 50_000, 443, "RA", 0));
    packets.push(tcp(true, 50_000, 443, "S", 0));
    let run = replay(&raw(&packets), &[]);
    assert_eq!(run.clean()["flows"], 4);
    let counts: Vec<_> = run.all("closed").iter().map(|closed| closed["packets"].as_u64().unwrap()).collect();
    assert_eq!(counts, [9, 9, 3, 1]);
}

#[test]
fn late_packets_of_a_closed_connection_still_count_for_it() {
    let mut packets = session(50_000, 443);
    packets.push(tcp(false, 50_000, 443, "A", 0));
    packets.push(tcp(false, 50_000, 443, "R", 0));
    let run = replay(&raw(&packets), &[]);
    assert_eq!(run.clean()["flows"], 1);
    assert_eq!(run.all("closed")[0]["packets"], 11);
}

#[test]
fn who_speaks_first_says_the_direction_and_local_says_who_is_who() {
    let packets = [udp(false, 53, 4000, 10), udp(true, 53, 4000, 10), udp(true, 5000, 53, 10)];
    let run = replay(&raw(&packets), &LOCAL);
    assert_eq!(run.clean()["by_direction"]["in"]["flows"], 1);
    assert_eq!(run.all("verdict")[0]["local"], "192.168.1.10:53");
    let run = replay(&raw(&packets), &["--local", "203.0.113.0/24"]);
    assert_eq!(run.clean()["by_direction"]["in"]["flows"], 1);
    assert_eq!(run.all("verdict")[0]["local"], "203.0.113.5:4000");
}

/// An IPv4 packet cut into fragments of `size` bytes.
fn fragments(packet: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(index, part)| {
            let mut fragment = [header, part].concat();
            let length = u16::try_from(fragment.len()).unwrap();
            fragment[2..4].copy_from_slice(&length.to_be_bytes());
            fragment[4..6].copy_from_slice(&id.to_be_bytes());
            let more = if index + 1 < count { 0x2000 } else { 0 };
            let offset = u16::try_from(index * size / 8).unwrap() | more;
            fragment[6..8].copy_from_slice(&offset.to_be_bytes());
            fragment
        })
        .collect()
}

#[test]
fn fragments_belong_to_the_flow_of_their_first() {
    let mut packets = fragments(&udp(true, 5000, 53, 3000), 1480, 7);
    assert_eq!(packets.len(), 3);
    let run = replay(&raw(&packets), &LOCAL);
    assert_eq!(run.clean()["flows"], 1);
    assert_eq!(run.all("closed")[0]["bytes"], 3008);
    // In reverse they wait for it.
    packets.reverse();
    let run = replay(&raw(&packets), &LOCAL);
    assert_eq!(run.clean()["flows"], 1);
    assert_eq!(run.all("closed")[0]["packets"], 3);
    // Without it they are skipped.
    packets.pop();
    let run = replay(&raw(&packets), &LOCAL);
    assert_eq!((&run.clean()["flows"], &run.clean()["skipped_by"]["fragment"]), (&0.into(), &2.into()));
}

#[test]
fn ipv6_extension_headers_are_passed() {
    let plain = udp6(true, 5000, 53, 16);
    let (header, payload) = plain.split_at(40);
    // Hop-by-hop options, destination options, then a fragment header that does not fragment.
    let extensions =
        [[60, 0, 1, 4, 0, 0, 0, 0], [44, 0, 1, 4, 0, 0, 0, 0], [17, 0, 0, 0, 0, 0, 0, 9]].concat();
    let mut packet = [header, &extensions, payload].concat();
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet[6] = 0;
    let run = replay(&raw(&[packet, udp6(false, 5000, 53, 16)]), &["--local", "2001:db8:1::/64"]);
    assert_eq!(run.clean()["flows"], 1);
    let closed = run.all("closed")[0];
    assert_eq!((&closed["remote"], &closed["bytes"]), (&"[2001:db8:2::5]:53".into(), &48.into()));
}

#[test]
fn ipv4_options_are_passed() {
    let plain = udp(true, 5000, 53, 16);
    let mut packet = [&plain[..20], &[1, 1, 1, 1], &plain[20..]].concat();
    packet[0] = 0x46;
    packet[2..4].copy_from_slice(&48u16.to_be_bytes());
    let run = replay(&raw(&[packet]), &LOCAL);
    assert_eq!(run.clean()["flows"], 1);
    assert_eq!(run.all("closed")[0]["bytes"], 24);
}

#[test]
fn malformed_and_truncated_packets_are_counted_and_skipped() {
    let good = udp(true, 5000, 53, 16);
    let mut long = good.clone();
    long[2..4].copy_from_slice(&900u16.to_be_bytes());
    let mut short_header = good.clone();
    short_header[0] = 0x44;
    let mut tcp_offset = tcp(true, 1, 2, "S", 0);
    tcp_offset[32] = 0xf0;
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 28]].concat();
    let frames: Vec<_> = [&good, &long, &short_header, &tcp_offset]
        .iter()
        .map(|packet| ethernet(packet, &[]))
        .chain([arp, vec![1, 2, 3], vec![]])
        .collect();
    let mut bytes = capture(Container::Micro, 1, &frames);
    // A frame of 100 bytes on the wire of which 20 were captured.
    for value in [1u32, 1, 20, 100] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&ethernet(&good, &[])[..20]);
    let run = replay(&bytes, &LOCAL);
    let summary = run.clean();
    assert_eq!((&summary["packets"], &summary["flows"]), (&8.into(), &1.into()));
    let by = &summary["skipped_by"];
    assert_eq!((&by["malformed"], &by["truncated"], &by["not_ip"]), (&5.into(), &1.into(), &1.into()));
}

#[test]
fn a_capture_cut_at_a_snapshot_length_counts_what_the_wire_carried() {
    let packet = tcp(true, 5000, 443, "A", 1000);
    let mut bytes = raw(&[]);
    for value in [1u32, 1, 64, 1040] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&packet[..64]);
    let run = replay(&bytes, &LOCAL);
    run.clean();
    assert_eq!(run.all("closed")[0]["bytes"], 1020);
}

#[test]
fn a_damaged_file_is_reported_after_what_came_before_it() {
    for container in CONTAINERS {
        let whole = capture(container, 101, &traffic());
        let cut = &whole[..whole.len() - 10];
        let run = replay(cut, &[]);
        assert_eq!(run.output.status.code(), Some(1));
        assert_eq!(run.summary()["packets"], 19, "{container:?}");
        let offset = run.summary()["damage"]["offset"].as_u64().unwrap();
        let one_less = capture(container, 101, &traffic()[..19]);
        assert_eq!(offset, one_less.len() as u64, "{container:?}");
        assert!(run.stderr().contains(&format!("damaged at offset {offset}")), "{}", run.stderr());
    }
}

#[test]
fn what_is_no_capture_is_refused_with_a_reason() {
    for (bytes, expected) in
        [(&b""[..], "empty"), (b"hello, world", "neither pcap nor pcapng"), (b"\x1f\x8b\x08\0\0\0", "gzip")]
    {
        let run = replay(bytes, &[]);
        assert_eq!(run.output.status.code(), Some(1));
        assert!(run.stderr().contains(expected), "{}", run.stderr());
    }
    let output = weir().args(["run", "--capture", "/no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/file"));
}

#[test]
fn application_rules_match_with_a_side_file_only_and_weir_says_so() {
    let policy = file(
        ".toml",
        br#"
version = 1
default = "allow"
[[rule]]
name = "no-browser"
action = "block"
app = '\Device\HarddiskVolume3\*\browser.exe'
"#,
    );
    let policy = policy.to_str().unwrap();
    let run = replay(&raw(&traffic()), &["--policy", policy]);
    assert_eq!(run.clean()["blocked"], 0);
    assert!(run.all("note")[0]["text"].as_str().unwrap().contains("--hosts"));
    let hosts = file(
        ".toml",
        br#"
[[endpoint]]
remote_port = 443
app = '\device\harddiskvolume3\Program Files\Browser.exe'
user = "S-1-5-21-1-2-3-1001"
interface = { index = 3 }
"#,
    );
    let run = replay(&raw(&traffic()), &["--policy", policy, "--hosts", hosts.to_str().unwrap()]);
    assert_eq!(run.clean()["by_rule"]["no-browser"]["flows"], 1);
    assert!(run.all("note").is_empty());
}

#[test]
fn faults_of_policy_and_side_file_are_refused_with_their_place() {
    let policy =
        file(".toml", b"version = 1\ndefault = \"allow\"\n[[rule]]\nname = \"x\"\naction = \"perhaps\"\n");
    let run = replay(&raw(&traffic()), &["--policy", policy.to_str().unwrap()]);
    assert_eq!(run.output.status.code(), Some(1));
    assert!(run.stderr().contains(":5:"), "{}", run.stderr());
    let hosts = file(".toml", b"[[endpoint]]\nlocal = \"here\"\napp = 'x'\n");
    let run = replay(&raw(&traffic()), &["--hosts", hosts.to_str().unwrap()]);
    assert_eq!(run.output.status.code(), Some(1));
    assert!(run.stderr().contains("line 2"), "{}", run.stderr());
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in
        [&["run", "--no-such"][..], &["run", "--listen", "here"], &["run", "--local", "300.1.1.1"], &[]]
    {
        assert_eq!(weir().args(arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn idle_connections_end_when_asked_to() {
    let mut frames = vec![udp(true, 5000, 53, 8)];
    // Two thousand packets of another flow, a millisecond apart: two seconds.
    frames.extend((0..2000).map(|_| udp(true, 5001, 53, 8)));
    frames.push(udp(true, 5000, 53, 8));
    assert_eq!(replay(&raw(&frames), &LOCAL).clean()["flows"], 2);
    let run = replay(&raw(&frames), &["--local", "192.168.1.10", "--idle-timeout", "1"]);
    assert_eq!(run.clean()["flows"], 3);
    assert_eq!(run.all("closed")[0]["reason"], "idle");
}

#[test]
fn standard_input_is_a_capture_too() {
    let mut child = weir()
        .args(["run", "--json", "--capture", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&raw(&traffic())).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains(r#""flows":3"#));
}

#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn it_stays_with_its_control_port_open_until_interrupted_and_unloads_clean() {
    let mut child = weir().args(["run", "--json", "--stay"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let control: std::net::SocketAddr = started["control"].as_str().unwrap().parse().unwrap();
    assert_ne!(control.port(), 0);
    let end = Instant::now() + Duration::from_secs(20);
    while !lines.next().unwrap().unwrap().contains(r#""event":"note""#) {
        assert!(Instant::now() < end);
    }
    let mut session = TcpStream::connect(control).unwrap();
    session.write_all(b"hello").unwrap();
    interrupt(&child);
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    let summary: serde_json::Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    assert_eq!(summary["verifier"]["leaks"], 0);
    assert_eq!(summary["verifier"]["violations"], 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // The session that was open at the unload is gone.
    session.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(!matches!(session.read(&mut [0; 8]), Ok(1..)));
}

#[test]
fn a_control_port_that_is_taken_is_a_clear_failure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = weir().args(["run", "--listen", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&address), "{stderr}");
}

#[cfg(unix)]
#[test]
fn interrupted_half_way_it_reports_what_it_has() {
    let mut frames = Vec::new();
    for port in 1024..60_000 {
        frames.push(tcp(true, port, 443, "S", 0));
        frames.push(tcp(false, port, 443, "RA", 0));
    }
    let path = file(".pcap", &raw(&frames));
    let mut child = weir()
        .args(["run", "--json", "--capture"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..20 {
        lines.next().unwrap().unwrap();
    }
    interrupt(&child);
    let last = lines.last().unwrap().unwrap();
    let summary: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["interrupted"], true);
    assert!(summary["packets"].as_u64().unwrap() < frames.len() as u64);
    assert_eq!((&summary["verifier"]["leaks"], &summary["verifier"]["violations"]), (&0.into(), &0.into()));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    let frames: Vec<_> = (1024..30_000).map(|port| udp(true, port, 53, 8)).collect();
    let path = file(".pcap", &raw(&frames));
    let mut child = weir()
        .args(["run", "--json", "--capture"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

#[test]
fn real_captures_are_counted_as_other_tools_count_them() {
    // Packets and connections as nDPI's own results for these files have them, where its notion of a flow is ours.
    for (name, packets, flows) in [
        ("reddit.pcap", 1942, 60),
        ("teams.pcap", 1540, 83),
        ("synscan.pcap", 2011, 1994),
        ("ftp.pcap", 209, 3),
        ("youtube_quic.pcap", 289, 3),
        ("tor.pcap", 514, 11),
    ] {
        let Some(path) = shared(&format!("captures/{name}")) else { return };
        let run = Run::of(weir().args(["run", "--json", "--capture"]).arg(path));
        let summary = run.clean();
        assert_eq!(
            (summary["packets"].as_u64(), summary["flows"].as_u64()),
            (Some(packets), Some(flows)),
            "{name}"
        );
    }
}
