//! What the driver promises of a machine that does not come up: after so many starts in a row that did not end well, and
//! in safe mode, it passes everything.
#![cfg(feature = "sim")]

mod common;

use std::time::{Duration, Instant};

use common::{Machine, Peer, TCP};
use ntsim::Config;
use ntsim::fault::Plan;
use ntsim::file::{Contents, after_losing_power, after_power_loss};
use ntsim::registry::Value as Registry;
use ntsim::sys::fwp::{FWP_ACTION_BLOCK, FWP_ACTION_PERMIT};
use ntsim::sys::nt::{
    DELETE, FILE_READ_DATA, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_TRAVERSE,
    FILE_WRITE_DATA, STATUS_SHARING_VIOLATION,
};
use weir::guard::count::{self, Count};

const BLOCK_ALL: &str = "version = 1\ndefault = \"block\"\n";
const FILE: &str = r"\SystemRoot\System32\drivers\DriverData\weir\guard";

/// A machine that blocks everything, and would go on doing so without a policy.
fn boot(disk: &Contents) -> Machine {
    boot_with(disk, Config::default())
}

fn boot_with(disk: &Contents, config: Config) -> Machine {
    let machine = Machine::boot_with(config);
    let files = machine.sim.files();
    if !disk.is_empty() {
        files.set_contents(disk);
    }
    files.record();
    machine.policy(BLOCK_ALL);
    machine.set("FailMode", Registry::Dword(1));
    machine
}

/// The power goes: what is on the disk. The machine ends, which changes nothing of that.
#[track_caller]
fn cut(disk: &Contents, mut machine: Machine) -> Contents {
    let left = after_losing_power(&present(disk, &machine), &machine.sim.files().journal());
    machine.unload();
    machine.assert_clean();
    left
}

/// What was on the disk when the machine was booted.
fn present(disk: &Contents, machine: &Machine) -> Contents {
    let mut before = disk.clone();
    if before.is_empty() {
        // As every machine has it.
        before = machine.sim.files().contents().into_iter().filter(|(_, data)| data.is_none()).collect();
    }
    before
}

fn action() -> u32 {
    Peer::new(TCP, "192.0.2.1", 50_000, "198.51.100.7", 443).connect().action
}

#[track_caller]
fn assert_whole(machine: &Machine) {
    assert_eq!(action(), FWP_ACTION_BLOCK, "{:#?}", machine.events.all());
    assert!(machine.events.named("GuardTripped").is_empty());
}

#[track_caller]
fn assert_passing(machine: &Machine) {
    assert_eq!(action(), FWP_ACTION_PERMIT, "{:#?}", machine.events.all());
    assert_eq!(machine.events.named("DriverStarted")[0].number("degraded"), 1);
    assert!(machine.events.named("SettingsRead").is_empty(), "it does what it need not do");
}

/// Starts, and crashes at once, so often.
#[track_caller]
fn crash(disk: Contents, times: u32) -> Contents {
    (1..=times).fold(disk, |disk, starts| {
        let mut machine = boot(&disk);
        machine.load().unwrap();
        assert_whole(&machine);
        let counted = &machine.events.named("GuardCounted")[0];
        assert_eq!((counted.number("starts"), counted.number("limit")), (starts.into(), 3));
        cut(&disk, machine)
    })
}

fn ends(machine: &Machine) -> Vec<String> {
    machine.events.named("GuardCleared").iter().map(|told| told.text("end").to_owned()).collect()
}

fn starts(disk: &Contents) -> u32 {
    let file = disk.get(FILE).cloned().flatten().expect("there is a file");
    Count::decode(&file).unwrap().starts
}

#[test]
fn after_three_crashes_in_a_row_everything_passes_until_the_driver_is_stopped() {
    let mut disk = crash(Contents::new(), 3);
    assert_eq!(starts(&disk), 3);
    // However often the machine is started anew, and however it goes down.
    for shut_down in [false, true, false] {
        let mut machine = boot(&disk);
        machine.load().unwrap();
        assert_passing(&machine);
        let tripped = &machine.events.named("GuardTripped")[0];
        assert_eq!((tripped.number("starts"), tripped.number("limit")), (3, 3));
        if shut_down {
            machine.sim.shut_down();
        }
        disk = cut(&disk, machine);
        assert_eq!(starts(&disk), 3);
    }
    let mut machine = boot(&disk);
    machine.load().unwrap();
    assert_passing(&machine);
    machine.unload();
    assert_eq!(ends(&machine), ["stopped"]);
    machine.events.clear();
    machine.load().unwrap();
    assert_whole(&machine);
    machine.finish();
}

#[test]
fn two_crashes_are_not_enough_and_a_stop_ends_the_row() {
    let disk = crash(Contents::new(), 2);
    let mut machine = boot(&disk);
    machine.load().unwrap();
    assert_whole(&machine);
    machine.unload();
    assert_eq!(ends(&machine), ["stopped"]);
    let disk = after_losing_power(&disk, &machine.sim.files().journal());
    machine.finish();
    assert_eq!(starts(&disk), 0);
    assert_eq!(starts(&crash(disk, 2)), 2);
}

#[test]
fn a_start_that_has_run_for_its_settling_time_ends_the_row() {
    let disk = crash(Contents::new(), 2);
    let mut machine = boot_with(&disk, Config { clock: ntsim::Clock::Virtual, ..Config::default() });
    machine.load().unwrap();
    machine.sim.advance(Duration::from_secs(299));
    assert!(ends(&machine).is_empty());
    pass_time_until(&machine, 2, || machine.events.named("GuardCleared").len() == 1);
    assert_eq!(ends(&machine), ["settled"]);
    // A crash after that is another matter.
    let disk = cut(&disk, machine);
    assert_eq!(starts(&disk), 0);
}

#[test]
fn a_shutdown_in_good_order_ends_the_row() {
    let disk = crash(Contents::new(), 2);
    let mut machine = boot(&disk);
    machine.load().unwrap();
    machine.sim.shut_down();
    // The shutdown has waited for it.
    assert_eq!(ends(&machine), ["shut-down"]);
    let disk = cut(&disk, machine);
    assert_eq!(starts(&disk), 0);
}

#[test]
fn shutdowns_and_stops_may_meet() {
    for round in 0..20 {
        let mut machine = boot(&Contents::new());
        machine.load().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(ntsim::shutdown::tell);
            std::thread::sleep(Duration::from_micros(round * 100));
            machine.unload();
        });
        assert_eq!(ends(&machine).len(), 1);
        machine.finish();
    }
}

/// Any user's way to keep others from it: to open it to read, and to share it with nobody.
fn hold(machine: &Machine) -> Result<ntsim::file::User, i32> {
    machine.sim.files().open(FILE, FILE_READ_DATA, 0)
}

fn virtual_clock() -> Config {
    Config { clock: ntsim::Clock::Virtual, ..Config::default() }
}

/// Until the guard's thread has the file.
#[track_caller]
fn wait_until_held(machine: &Machine) {
    let begun = Instant::now();
    while machine.sim.files().users(FILE) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody holds it");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Until the count has been taken back.
#[track_caller]
fn try_again(machine: &Machine) {
    pass_time_until(machine, 61, || !ends(machine).is_empty());
}

/// Lets time pass, so many seconds at a time: a thread that has yet to begin its wait has not waited through any of it.
fn pass_time_until(machine: &Machine, seconds: u64, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "time passes in vain");
        machine.sim.advance(Duration::from_secs(seconds));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn while_it_waits_nobody_else_can_open_the_file() {
    let mut machine = boot_with(&Contents::new(), virtual_clock());
    machine.load().unwrap();
    wait_until_held(&machine);
    for access in [FILE_READ_DATA, FILE_WRITE_DATA, FILE_TRAVERSE, DELETE] {
        let all = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
        let opened = machine.sim.files().open(FILE, access, all).map(drop);
        assert_eq!(opened, Err(STATUS_SHARING_VIOLATION), "{access:#x}");
    }
    pass_time_until(&machine, 301, || machine.events.named("GuardCleared").len() == 1);
    machine.unload();
    // It is given back.
    assert!(hold(&machine).is_ok());
    machine.finish();
}

#[test]
fn a_count_that_could_not_be_taken_back_is_tried_again() {
    for end in ["settled", "stopped", "shut-down"] {
        let disk = crash(Contents::new(), 2);
        let mut machine = boot_with(&disk, virtual_clock());
        machine.load().unwrap();
        wait_until_held(&machine);
        machine.sim.fault(Plan::Api { name: "ZwFlushBuffersFile", nth: 1 });
        machine.sim.files().set_present(false);
        pass_time_until(&machine, 301, || machine.events.named("GuardBlind").len() == 1);
        machine.sim.fault(Plan::None);
        if end == "settled" {
            for _ in 0..3 {
                machine.sim.advance(Duration::from_secs(61));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(ends(&machine).is_empty());
        machine.sim.files().set_present(true);
        match end {
            "settled" => try_again(&machine),
            "stopped" => machine.unload(),
            _ => machine.sim.shut_down(),
        }
        // Told once.
        assert_eq!(machine.events.named("GuardBlind").len(), 1);
        assert_eq!(ends(&machine), [end]);
        let disk = cut(&disk, machine);
        assert_eq!(starts(&disk), 0, "{end}");
    }
}

#[test]
fn a_user_who_was_there_before_keeps_the_count_only_as_long_as_he_stays() {
    // He has it open for reading as the driver does, when that is started by hand.
    for end in ["settled", "stopped", "shut-down"] {
        let disk = crash(Contents::new(), 2);
        let mut machine = boot_with(&disk, virtual_clock());
        let user = hold(&machine).unwrap();
        machine.load().unwrap();
        assert_whole(&machine);
        pass_time_until(&machine, 301, || machine.events.named("GuardBlind").len() == 2);
        assert_eq!(machine.events.named("GuardBlind")[1].text("operation"), "clear");
        drop(user);
        match end {
            "settled" => try_again(&machine),
            "stopped" => machine.unload(),
            _ => machine.sim.shut_down(),
        }
        assert_eq!(ends(&machine), [end]);
        let disk = cut(&disk, machine);
        assert_eq!(starts(&disk), 0, "{end}");
    }
}

#[test]
fn switched_off_it_leaves_no_count_for_later() {
    let disk = crash(Contents::new(), 3);
    let mut machine = boot(&disk);
    machine.set("GuardStarts", Registry::Dword(0));
    machine.load().unwrap();
    assert_whole(&machine);
    assert_eq!(ends(&machine), ["off"]);
    let disk = cut(&disk, machine);
    assert_eq!(starts(&disk), 0);
    let mut machine = boot(&disk);
    machine.load().unwrap();
    assert_whole(&machine);
    machine.finish();
}

#[test]
fn another_version_starts_anew() {
    let mut disk = crash(Contents::new(), 3);
    let mut count = Count::decode(&disk[FILE].clone().unwrap()).unwrap();
    count.version = count::version("0.0.1");
    disk.insert(FILE.into(), Some(count.encode().to_vec()));
    let mut machine = boot(&disk);
    machine.load().unwrap();
    assert_whole(&machine);
    assert_eq!(ends(&machine), ["other-version"]);
    assert_eq!(machine.events.named("GuardCounted")[0].number("starts"), 1);
    machine.finish();
}

#[test]
fn without_the_file_it_starts_anew() {
    let mut disk = crash(Contents::new(), 3);
    disk.remove(FILE);
    let mut machine = boot(&disk);
    machine.load().unwrap();
    assert_whole(&machine);
    machine.finish();
}

#[test]
fn a_file_that_is_no_count_is_refused_told_and_counts_as_zero() {
    let whole = crash(Contents::new(), 3)[FILE].clone().unwrap();
    let changed = |at: usize| {
        let mut file = whole.clone();
        file[at] ^= 1;
        file
    };
    let hostile = [
        (vec![], "size"),
        (whole[..63].to_vec(), "size"),
        ([&whole[..], b"x"].concat(), "size"),
        (vec![0xFF; 1 << 20], "size"),
        (vec![0; 64], "half-written"),
        (changed(12), "half-written"),
        (changed(63), "half-written"),
    ];
    for (file, reason) in hostile {
        let machine = boot(&Contents::new());
        machine.sim.files().write(FILE, &file);
        let mut machine = machine;
        machine.load().unwrap();
        assert_whole(&machine);
        assert_eq!(machine.events.named("GuardRefused")[0].text("reason"), reason, "{} bytes", file.len());
        machine.finish();
    }
}

#[test]
fn its_settings_say_how_many_and_whether_at_all() {
    let disk = crash(Contents::new(), 3);
    for (limit, passes) in [(3, true), (2, true), (4, false), (0, false), (1000, true)] {
        // 1000 is refused, and 3 holds.
        let mut machine = boot(&disk);
        machine.set("GuardStarts", Registry::Dword(limit));
        machine.load().unwrap();
        if passes {
            assert_passing(&machine);
        } else {
            assert_whole(&machine);
        }
        let counted = machine.events.named("GuardCounted").len();
        assert_eq!(counted, usize::from(limit == 4), "limit {limit}");
        machine.finish();
    }
}

#[test]
fn without_a_volume_it_starts_as_usual_and_tells_that_it_is_blind() {
    let mut machine = boot(&Contents::new());
    machine.sim.files().set_present(false);
    machine.load().unwrap();
    assert_whole(&machine);
    let told = machine.events.named("GuardBlind");
    assert_eq!(told[0].text("operation"), "read");
    machine.unload();
    assert_eq!(machine.events.named("GuardBlind").last().unwrap().text("operation"), "clear");
    machine.finish();
}

#[test]
fn a_full_disk_leaves_it_blind() {
    let mut machine = boot(&Contents::new());
    machine.sim.files().set_capacity(Some(10));
    machine.load().unwrap();
    assert_whole(&machine);
    assert_eq!(machine.events.named("GuardBlind")[0].text("operation"), "write");
    machine.finish();
}

#[test]
fn wherever_the_power_goes_the_next_start_is_whole_and_three_crashes_trip() {
    // Every state of the disk in between: each is a start that may have been counted or not.
    let mut disk = Contents::new();
    for starts_before in 0..3 {
        let mut machine = boot(&disk);
        machine.load().unwrap();
        let before = present(&disk, &machine);
        let journal = machine.sim.files().journal();
        let found: Vec<Option<u32>> = after_power_loss(&before, &journal)
            .map(|disk| match disk.get(FILE).cloned().flatten() {
                None => Some(0),
                Some(file) => Count::decode(&file).ok().map(|count| count.starts),
            })
            .collect();
        assert!(
            found.iter().flatten().all(|&found| found <= starts_before + 1),
            "{found:?} after {starts_before}"
        );
        // Once DriverEntry has returned it is counted, whatever was not flushed.
        assert!(found.iter().rev().take(4).all(|&found| found == Some(starts_before + 1)), "{found:?}");
        disk = cut(&disk, machine);
    }
    let mut machine = boot(&disk);
    machine.load().unwrap();
    assert_passing(&machine);
    machine.finish();
}

#[test]
fn in_safe_mode_everything_passes_and_nothing_is_counted() {
    for mode in [1, 2, 3] {
        let mut machine = boot_with(&Contents::new(), Config { safe_boot: mode, ..Config::default() });
        machine.load().unwrap();
        assert_passing(&machine);
        assert_eq!(machine.events.named("SafeMode")[0].number("mode"), u64::from(mode));
        assert!(machine.sim.files().read(FILE).is_none());
        machine.finish();
    }
}

/// Starts and stops under `plan`. Returns whether a call was made to fail.
#[track_caller]
fn under(disk: &Contents, passes: bool, plan: Plan) -> bool {
    let mut machine = boot(disk);
    machine.sim.fault(plan);
    let started = machine.load();
    let told = machine.events.all();
    if started.is_ok() && passes && !machine.events.named("GuardTripped").is_empty() {
        assert_eq!(action(), FWP_ACTION_PERMIT, "{plan:?}: {told:#?}");
    } else if passes {
        // It could not know.
        let blind = !machine.events.named("GuardBlind").is_empty();
        assert!(blind || started.is_err(), "{plan:?}: {told:#?}");
    }
    machine.unload();
    let injected = machine.sim.faults_injected();
    machine.sim.fault(Plan::None);
    let report = machine.sim.report();
    assert!(report.is_clean(), "{plan:?} ({injected:#?}):\n{report}\n{told:#?}");
    !injected.is_empty()
}

#[test]
fn whatever_fails_a_passing_driver_starts_and_stops() {
    let disk = crash(Contents::new(), 3);
    let last = (1..10_000).find(|&k| !under(&disk, true, Plan::Nth(k))).unwrap();
    assert!(last > 10, "{last} calls");
    for k in 1..last {
        under(&disk, true, Plan::From(k));
    }
}

#[test]
fn no_failure_of_the_guards_own_keeps_the_driver_from_starting() {
    for api in [
        "IoGetDriverDirectory",
        "ZwCreateFile",
        "ZwReadFile",
        "ZwWriteFile",
        "ZwFlushBuffersFile",
        "IoRegisterShutdownNotification",
    ] {
        // The first file that is written is the guard's, and it opens its directory first.
        let mut machine = boot(&crash(Contents::new(), 1));
        machine.sim.fault(Plan::Api { name: api, nth: 1 });
        machine.load().unwrap();
        assert_whole(&machine);
        assert_eq!(machine.events.named("GuardBlind").len(), 1, "{api}: {:#?}", machine.events.all());
        machine.sim.fault(Plan::None);
        machine.finish();
    }
}

#[test]
fn a_start_that_nobody_can_watch_is_not_counted() {
    // As many as there were before it, which it neither adds to nor takes away from.
    let disk = crash(Contents::new(), 2);
    let mut machine = boot(&disk);
    machine.sim.fault(Plan::Api { name: "PsCreateSystemThread", nth: 1 });
    machine.load().unwrap();
    machine.sim.fault(Plan::None);
    assert_whole(&machine);
    let disk = cut(&disk, machine);
    assert_eq!(starts(&disk), 2);
    // It ends as well as any other.
    let mut machine = boot(&disk);
    machine.sim.fault(Plan::Api { name: "PsCreateSystemThread", nth: 1 });
    machine.load().unwrap();
    machine.sim.fault(Plan::None);
    machine.unload();
    assert_eq!(ends(&machine), ["unwatched", "stopped"]);
    let disk = after_losing_power(&disk, &machine.sim.files().journal());
    machine.finish();
    assert_eq!(starts(&disk), 0);
}
