//! Files, random numbers: what the driver builds its store and its handshakes on.
#![cfg(feature = "sim")]

use ntsim::fault::Plan;
use weir::kernel::file::Directory;
use weir::kernel::irql::Passive;
use weir::kernel::{Status, random};

const PATH: &str = r"\??\C:\ProgramData\files";

/// Test threads run at PASSIVE_LEVEL.
fn passive() -> Passive {
    // SAFETY: nothing has raised this thread's level; the token stays in the test.
    unsafe { Passive::assume() }
}

fn utf16(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

#[track_caller]
fn assert_clean(sim: &ntsim::Sim) {
    let report = sim.report();
    assert!(report.is_clean(), "{report}");
}

/// Writes a file anew, and reads it.
fn round(bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let passive = passive();
    let directory = Directory::open(&passive, &utf16(PATH))?;
    let file = directory.replace_file(&passive, &utf16("data"))?;
    // The end first: what is between is zeros until it is written.
    let (front, end) = bytes.split_at(bytes.len() / 3);
    file.write(front.len() as u64, end)?;
    file.write(0, front)?;
    file.flush()?;
    drop(file);
    let file = directory.open_file(&passive, &utf16("data"))?;
    assert_eq!(file.size()?, bytes.len() as u64);
    let mut read = vec![0xEE; bytes.len() + 10];
    let length = file.read(0, &mut read)?;
    read.truncate(length);
    Ok(read)
}

#[test]
fn what_is_written_is_read_however_long_it_is() {
    let sim = ntsim::boot(ntsim::Config::default());
    for length in [0, 1, 3, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let bytes: Vec<u8> = (0..length).map(|at: u32| at.wrapping_mul(167).to_le_bytes()[1]).collect();
        assert!(round(&bytes).unwrap() == bytes, "{length} bytes");
    }
    assert_clean(&sim);
}

#[test]
fn a_part_is_read_from_anywhere() {
    let sim = ntsim::boot(ntsim::Config::default());
    round(b"0123456789").unwrap();
    let passive = passive();
    let directory = Directory::open(&passive, &utf16(PATH)).unwrap();
    let file = directory.open_file(&passive, &utf16("DATA")).unwrap();
    let mut part = [0; 4];
    assert_eq!((file.read(3, &mut part), &part), (Ok(4), b"3456"));
    assert_eq!((file.read(8, &mut part), &part), (Ok(2), b"8956"));
    assert_eq!(file.read(10, &mut part), Ok(0));
    assert_eq!(file.read(u64::MAX, &mut part), Err(Status::INVALID_PARAMETER));
    drop((file, directory));
    assert_clean(&sim);
}

#[test]
fn a_file_that_is_not_there_is_an_error_and_nothing_is_made() {
    let sim = ntsim::boot(ntsim::Config::default());
    let passive = passive();
    let directory = Directory::open(&passive, &utf16(PATH)).unwrap();
    let missing = directory.open_file(&passive, &utf16("data"));
    assert_eq!(missing.map(drop), Err(Status::OBJECT_NAME_NOT_FOUND));
    assert_eq!(sim.files().read(&format!(r"{PATH}\data")), None);
    drop(directory);
    let nowhere = Directory::open(&passive, &utf16(r"\??\C:\No\where"));
    assert_eq!(nowhere.map(drop).map_err(Status::code), Err(0xC000_003A));
    assert_clean(&sim);
}

#[test]
fn whatever_call_fails_is_told_and_leaves_no_handle() {
    let sim = ntsim::boot(ntsim::Config::default());
    sim.fault(Plan::None);
    round(b"0123456789").unwrap();
    let calls = sim.fault_calls();
    assert!(calls >= 7, "{calls} calls");
    for call in 1..=calls {
        sim.fault(Plan::Nth(call));
        assert_eq!(round(b"0123456789"), Err(Status::INSUFFICIENT_RESOURCES), "call {call}");
        sim.fault(Plan::None);
        assert_clean(&sim);
    }
}

#[test]
fn random_bytes_are_other_ones_each_time_or_an_error() {
    let sim = ntsim::boot(ntsim::Config::default());
    let passive = passive();
    let mut drawn = [[0; 32]; 3];
    for bytes in &mut drawn {
        random::fill(&passive, bytes).unwrap();
    }
    assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2]);
    random::fill(&passive, &mut []).unwrap();
    sim.fault(Plan::Nth(1));
    assert_eq!(random::fill(&passive, &mut drawn[0]), Err(Status::UNSUCCESSFUL));
    sim.fault(Plan::None);
    assert_clean(&sim);
}

#[test]
fn who_holds_an_oplock_keeps_nobody_waiting() {
    let sim = ntsim::boot(ntsim::Config::default());
    round(b"0123456789").unwrap();
    let (passive, files) = (passive(), sim.files());
    let directory = Directory::open(&passive, &utf16(PATH)).unwrap();
    let path = format!(r"{PATH}\data");
    files.oplock(&path, true);
    let broken = Status(0x108);
    assert_eq!(directory.open_file(&passive, &utf16("data")).err(), Some(broken));
    assert_eq!(directory.open_or_make_file(&passive, &utf16("data")).err(), Some(broken));
    assert_eq!(directory.hold_file(&passive, &utf16("data")).err(), Some(broken));
    assert_eq!(files.users(&path), 0, "what was opened is closed");
    files.oplock(&path, false);
    assert_eq!(directory.open_file(&passive, &utf16("data")).unwrap().size(), Ok(10));
    drop(directory);
    assert_clean(&sim);
}
