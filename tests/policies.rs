//! Which policy decides: applied, confirmed, rolled back, stored; whatever fails, and whenever the power goes.
#![cfg(feature = "sim")]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Machine, PARAMETERS};
use ntsim::fault::Plan;
use ntsim::file::{Contents, after_power_loss};
use ntsim::registry::Value as Registry;
use ntsim::{Clock, Config};
use weir::config::schema::Place;
use weir::config::{self, Loaded, Rereads};
use weir::control::protocol::message::{ErrorCode, PolicyState};
use weir::kernel::Status;
use weir::kernel::event::{Event, Kind};
use weir::kernel::irql::Passive;
use weir::kernel::pool::{PoolArc, PoolSlice, tags};
use weir::policies::slot::{HEADER, digest};
use weir::policies::store::Store;
use weir::policies::{
    Desk, Done, Order, Outcome, Policies, PolicyStatus, Refusal, Sources, Steward, Ticket, What,
};
use weir::policy::Action;

/// Where tests store policies unless they say otherwise: what there is without a directory of the driver's.
const DIRECTORY: &str = r"\SystemRoot\System32\drivers\DriverData\weir";
const SERVICE: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\weir";

/// A policy that blocks one port.
fn blocks(port: u16) -> Vec<u8> {
    let text = format!(
        "version = 1\ndefault = \"allow\"\n[[rule]]\nname = \"port\"\naction = \"block\"\nprotocol = \"tcp\"\n\
         remote_port = {port}\n"
    );
    weir_cli::policy::compile(&text).expect("the policy compiles").image
}

/// Test threads run at PASSIVE_LEVEL.
fn passive() -> Passive {
    // SAFETY: nothing has raised this thread's level; the token stays in the test.
    unsafe { Passive::assume() }
}

fn utf16(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn boot() -> Machine {
    Machine::boot_with(Config { clock: Clock::Virtual, ..Config::default() })
}

/// What a driver has of policies, running.
struct House<'m> {
    machine: &'m Machine,
    policies: PoolArc<Policies>,
    steward: Option<Steward>,
    desk: PoolArc<Desk>,
    /// How many places of policies could not be used.
    unusable: u32,
}

impl<'m> House<'m> {
    fn try_start(machine: &'m Machine, store: Place<'_>) -> Result<Self, Status> {
        let mut passive = passive();
        let Loaded { book, policy_image, .. } = config::load(&passive, &utf16(SERVICE))?;
        let policies = PoolArc::try_new(tags::POLICY, Policies::try_new(&passive)?)?;
        let fail_mode = book.page().settings.fail_mode;
        let service = utf16(SERVICE);
        let sources = Sources { service: &service, registry: policy_image, store, driver: None, fail_mode };
        let (steward, unusable) = Steward::start(&mut passive, policies.clone(), sources)?;
        let desk = steward.desk();
        Ok(Self { machine, policies, steward: Some(steward), desk, unusable })
    }

    #[track_caller]
    fn start(machine: &'m Machine) -> Self {
        Self::try_start(machine, Place::Own).expect("the steward starts")
    }

    /// Stops; so does a test that fails.
    fn stop(self) {
        drop(self);
    }

    fn status(&self) -> PolicyStatus {
        self.desk.status(&mut passive())
    }

    /// The digest of the policy that decides.
    fn digest(&self) -> Option<[u8; 32]> {
        let digest =
            self.policies.with_current(&mut passive(), |policy| policy.map(|policy| *policy.digest()));
        assert_eq!(digest, self.status().digest, "the status is of another policy");
        digest
    }

    /// The same while the thread is at work, which tells it after it is so.
    fn digest_now(&self) -> Option<[u8; 32]> {
        self.policies.with_current(&mut passive(), |policy| policy.map(|policy| *policy.digest()))
    }

    #[track_caller]
    fn decides(&self, image: &[u8]) {
        assert_eq!(self.digest(), Some(digest(image)));
    }

    fn submit(&self, what: What) -> Result<(), Order> {
        let ticket = Ticket { session: 7, request: Some(1) };
        self.desk.submit(&mut passive(), Order { ticket, what })
    }

    #[track_caller]
    fn outcome(&self) -> Outcome {
        let (start, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(20));
        loop {
            if let Some(outcome) = self.desk.next_outcome(&mut passive()) {
                return outcome;
            }
            if start.elapsed() > Duration::from_millis(500) && ntsim::clock::is_virtual() {
                // The thread pauses when it could not wait.
                self.machine.sim.advance(Duration::from_millis(50));
            }
            assert!(Instant::now() < deadline, "no outcome");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Moves the clock on bit by bit: the thread counts from when it looks at it, which may be late.
    #[track_caller]
    fn pass_time_until(&self, what: &str, happened: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !happened() {
            assert!(Instant::now() < deadline, "{what}: never. {:#?}", self.machine.events.all());
            self.machine.sim.advance(Duration::from_millis(100));
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    #[track_caller]
    fn order(&self, what: What) -> Result<Done, Refusal> {
        self.submit(what).expect("the desk has room");
        let outcome = self.outcome();
        assert_eq!(outcome.ticket, Ticket { session: 7, request: Some(1) });
        outcome.result
    }

    fn apply_if(&self, image: &[u8], replaces: Option<u32>) -> Result<Done, Refusal> {
        let (digest, image) =
            (digest(image), PoolSlice::try_from_fn(tags::POLICY, image.len(), |at| image[at]));
        let image = image.expect("there is memory");
        self.order(What::Apply { image, digest, window: 60, replaces })
    }

    #[track_caller]
    fn apply(&self, image: &[u8]) -> u32 {
        match self.apply_if(image, None) {
            Ok(Done::Applied { generation, rules: 1, window: 60 }) => generation,
            other => panic!("{other:?}"),
        }
    }

    fn confirm(&self, generation: u32) -> Result<Done, Refusal> {
        self.order(What::Confirm { generation })
    }

    #[track_caller]
    fn apply_and_confirm(&self, image: &[u8]) -> u32 {
        let generation = self.apply(image);
        assert_eq!(self.confirm(generation), Ok(Done::Confirmed { generation }));
        generation
    }

    fn roll_back(&self, generation: u32) -> Result<Done, Refusal> {
        self.order(What::Rollback { generation })
    }
}

impl Drop for House<'_> {
    fn drop(&mut self) {
        if let Some(steward) = self.steward.take() {
            steward.stop(&mut passive());
        }
    }
}

/// Starts, and says which policy decides; stops again.
#[track_caller]
fn restart_finds(machine: &Machine) -> Option<[u8; 32]> {
    let house = House::start(machine);
    let found = house.digest();
    house.stop();
    found
}

fn code(result: Result<Done, Refusal>) -> ErrorCode {
    result.expect_err("it is refused").code
}

fn slot(number: u8) -> String {
    format!(r"{DIRECTORY}\policy.{number}")
}

#[test]
fn the_registrys_policy_decides_while_nothing_is_stored() {
    let machine = boot();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    let house = House::start(&machine);
    house.decides(&blocks(23));
    let status = house.status();
    assert_eq!((status.state, status.generation, status.rules), (PolicyState::Confirmed, 1, 1));
    assert_eq!(status.size as usize, blocks(23).len());
    assert_eq!((status.rollback_in, status.default_action), (None, Some(Action::Allow)));
    assert_eq!(house.unusable, 0);
    house.stop();
    machine.finish();
}

#[test]
fn without_any_policy_the_fail_mode_decides() {
    let machine = boot();
    let house = House::start(&machine);
    assert_eq!(house.status(), PolicyStatus::ABSENT);
    assert_eq!(house.digest(), None);
    // The first one of all can be rolled back too.
    let first = house.apply(&blocks(23));
    assert_eq!(house.roll_back(first), Ok(Done::RolledBack { generation: 0 }));
    assert_eq!(house.status(), PolicyStatus::ABSENT);
    house.stop();
    assert_eq!(machine.finish().named("PolicyAbsent").len(), 1);
}

#[test]
fn an_applied_policy_decides_at_once_and_is_rolled_back_when_its_window_is_over() {
    let machine = boot();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    let house = House::start(&machine);
    let generation = house.apply(&blocks(24));
    house.decides(&blocks(24));
    assert_eq!(house.status().state, PolicyState::Provisional);
    assert_eq!(house.status().rollback_in, Some(60_000));
    machine.sim.advance(Duration::from_millis(20_500));
    assert_eq!(house.status().rollback_in, Some(39_500));
    machine.sim.advance(Duration::from_millis(39_499));
    assert_eq!(house.status().rollback_in, Some(1));
    house.decides(&blocks(24));
    machine.sim.advance(Duration::from_millis(1));
    house.pass_time_until("the policy is rolled back", || {
        !machine.events.named("PolicyRolledBack").is_empty()
    });
    let rolled_back = &machine.events.named("PolicyRolledBack")[0];
    house.decides(&blocks(23));
    let status = house.status();
    assert_eq!((status.state, status.generation, status.rollback_in), (PolicyState::Confirmed, 1, None));
    assert_eq!(rolled_back.text("reason"), "expired");
    assert_eq!((rolled_back.number("generation"), rolled_back.number("restored")), (generation.into(), 1));
    // It is too late to confirm it.
    assert_eq!(code(house.confirm(generation)), ErrorCode::Conflict);
    house.stop();
    assert!(machine.sim.files().read(&slot(0)).is_none(), "what was not confirmed is not stored");
    machine.finish();
}

#[test]
fn a_confirmed_policy_stays_and_survives_a_restart() {
    let machine = boot();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    let house = House::start(&machine);
    assert!(house.desk.stores(&mut passive()));
    let generation = house.apply_and_confirm(&blocks(24));
    assert_eq!(house.status().state, PolicyState::Confirmed);
    machine.sim.advance(Duration::from_hours(1));
    house.decides(&blocks(24));
    house.stop();
    let confirmed = &machine.events.named("PolicyConfirmed")[0];
    assert_eq!((confirmed.number("generation"), confirmed.text("stored")), (generation.into(), "true"));
    assert_eq!(confirmed.number("session"), 7);

    let house = House::start(&machine);
    house.decides(&blocks(24));
    assert_eq!((house.status().state, house.status().generation), (PolicyState::Confirmed, 1));
    assert_eq!(machine.events.wait_for("PolicyStoreRead", 1)[0].number("sequence"), 1);
    // And so does the next one, and the one after, in the two files by turns.
    for port in 25..30 {
        house.apply_and_confirm(&blocks(port));
    }
    house.stop();
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(29))));
    assert_eq!(machine.events.named("PolicyStoreRead")[1].number("sequence"), 6);
    machine.finish();
}

#[test]
fn a_provisional_policy_ends_with_the_driver() {
    let machine = boot();
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    house.apply(&blocks(25));
    house.stop();
    let rolled_back = &machine.events.named("PolicyRolledBack")[0];
    assert_eq!((rolled_back.text("reason"), rolled_back.number("session")), ("stopped", 0));
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(24))));
    machine.finish();
}

#[test]
fn a_policy_is_rolled_back_at_once_when_somebody_asks() {
    let machine = boot();
    let house = House::start(&machine);
    let first = house.apply_and_confirm(&blocks(24));
    let second = house.apply(&blocks(25));
    assert_eq!(code(house.roll_back(first)), ErrorCode::Conflict);
    house.decides(&blocks(25));
    assert_eq!(house.roll_back(second), Ok(Done::RolledBack { generation: first }));
    house.decides(&blocks(24));
    assert_eq!(machine.events.named("PolicyRolledBack")[0].text("reason"), "asked");
    // What is confirmed is not rolled back, and the window of what is gone does nothing any more.
    assert_eq!(code(house.roll_back(first)), ErrorCode::NotFound);
    machine.sim.advance(Duration::from_mins(2));
    house.decides(&blocks(24));
    // A number is never used again.
    assert_eq!(house.apply(&blocks(26)), second + 1);
    house.stop();
    machine.finish();
}

#[test]
fn orders_that_come_at_the_wrong_time_change_nothing() {
    let machine = boot();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    let house = House::start(&machine);
    assert_eq!(code(house.confirm(1)), ErrorCode::NotFound);
    assert_eq!(code(house.confirm(2)), ErrorCode::Conflict);
    assert_eq!(code(house.apply_if(&blocks(24), Some(0))), ErrorCode::Conflict);
    assert_eq!(code(house.apply_if(&blocks(24), Some(2))), ErrorCode::Conflict);
    house.decides(&blocks(23));
    let applied = house.apply_if(&blocks(24), Some(1)).unwrap();
    assert_eq!(applied, Done::Applied { generation: 2, rules: 1, window: 60 });
    assert_eq!(code(house.apply_if(&blocks(25), None)), ErrorCode::Busy);
    assert_eq!(code(house.confirm(1)), ErrorCode::Conflict);
    house.decides(&blocks(24));
    assert_eq!(house.confirm(2), Ok(Done::Confirmed { generation: 2 }));
    // A confirmation that comes twice, because its reply was lost, finds nothing to do.
    assert_eq!(code(house.confirm(2)), ErrorCode::NotFound);
    house.stop();
    machine.finish();
}

#[test]
fn a_damaged_policy_is_refused_with_the_reason_and_uses_up_no_generation() {
    let machine = boot();
    let house = House::start(&machine);
    for (at, reason) in [(0, "not a policy image"), (blocks(24).len() - 1, "checksum")] {
        let mut image = blocks(24);
        image[at] ^= 1;
        let refusal = house.apply_if(&image, None).unwrap_err();
        assert_eq!((refusal.code, refusal.text), (ErrorCode::PolicyRefused, reason));
        assert!(refusal.status.is_some());
    }
    assert_eq!(code(house.apply_if(&[], None)), ErrorCode::PolicyRefused);
    assert_eq!(house.status(), PolicyStatus::ABSENT);
    assert_eq!(house.apply(&blocks(24)), 1);
    house.stop();
    machine.finish();
}

#[test]
fn the_registrys_policy_decides_again_once_it_is_another_one() {
    let machine = boot();
    let registry = |image: Option<Vec<u8>>| match image {
        Some(image) => machine.set("PolicyImage", Registry::Binary(image)),
        None => drop(machine.sim.registry().remove(PARAMETERS, "PolicyImage")),
    };
    registry(Some(blocks(23)));
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    house.stop();
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(24))));
    assert!(machine.events.named("PolicyStoreOutdated").is_empty());

    registry(Some(blocks(25)));
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(25))));
    assert_eq!(machine.events.named("PolicyStoreOutdated")[0].number("sequence"), 1);
    // Taking it away is a change too.
    registry(None);
    assert_eq!(restart_finds(&machine), None);
    // As it was when the stored one was confirmed.
    registry(Some(blocks(23)));
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(24))));

    // What is confirmed while the registry has another one already, for the next start, is the later word.
    let house = House::start(&machine);
    registry(Some(blocks(27)));
    house.apply_and_confirm(&blocks(28));
    house.stop();
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(28))));

    // What is confirmed under the new one is kept beside it.
    registry(Some(blocks(25)));
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(26));
    house.stop();
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(26))));
    machine.finish();
}

#[test]
fn a_damaged_policy_in_the_registry_leaves_the_decision_to_the_stored_one() {
    let machine = boot();
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    house.stop();
    let mut damaged = blocks(25);
    damaged[40] ^= 1;
    machine.set("PolicyImage", Registry::Binary(damaged));
    let house = House::start(&machine);
    house.decides(&blocks(24));
    assert_eq!(house.unusable, 1);
    house.stop();
    machine.finish();
}

#[test]
fn a_policy_in_the_registry_that_cannot_be_read_is_not_one_that_is_gone() {
    let machine = boot();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    house.stop();
    for value in [Registry::Sz("policy".into()), Registry::Binary(Vec::new())] {
        machine.set("PolicyImage", value);
        assert_eq!(restart_finds(&machine), Some(digest(&blocks(24))));
    }
    machine.sim.registry().remove(PARAMETERS, "PolicyImage");
    assert_eq!(restart_finds(&machine), None);
    machine.finish();
}

#[test]
fn a_damaged_slot_leaves_the_decision_to_the_other_and_then_to_the_registry() {
    let machine = boot();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    house.apply_and_confirm(&blocks(25));
    house.stop();
    let files = machine.sim.files();
    let spoil = |number, at| {
        let mut file = files.read(&slot(number)).unwrap();
        file[at] ^= 0x10;
        files.write(&slot(number), &file);
    };
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(25))));
    spoil(1, HEADER + 3);
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(24))));
    let refused = &machine.events.named("PolicyStoreRefused")[0];
    assert_eq!((refused.number("slot"), refused.text("reason")), (1, "digest of the image"));
    // The damaged one is written over, and is the newer one then.
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(26));
    house.stop();
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(26))));
    spoil(1, 17);
    spoil(0, 90);
    machine.events.clear();
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(23))));
    assert_eq!(machine.events.named("PolicyStoreRefused").len(), 2);
    machine.finish();
}

#[test]
fn whenever_the_power_goes_a_restart_finds_the_new_policy_or_the_one_before() {
    let machine = boot();
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(1));
    let files = machine.sim.files();
    let mut states = 0;
    // Into each of the two slots, over nothing and over an older policy, shorter and longer.
    for port in 2..6 {
        let before: Contents = files.contents();
        files.record();
        house.apply_and_confirm(&blocks(port));
        let (after, journal) = (files.contents(), files.journal());
        let (old, new) = (digest(&blocks(port - 1)), digest(&blocks(port)));
        let mut found = Vec::new();
        for disk in after_power_loss(&before, &journal) {
            files.set_contents(&disk);
            let mut store = Store::at(Place::Own, None).unwrap().expect("there is one");
            found.push(store.read(&passive()).unwrap().map(|stored| digest(stored.image.as_slice())));
        }
        let other = found.iter().position(|&found| found != Some(old) && found != Some(new));
        assert_eq!(other, None, "neither is found");
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 2, "one of both is never found");
        // The last ones are those after the confirmation: as it is, and whatever was not flushed lost.
        assert!(found.iter().rev().take(4).all(|&found| found == Some(new)), "it was confirmed, and is lost");
        states += found.len();
        files.set_contents(&after);
    }
    assert!(states > 2000, "{states} states");
    house.stop();
    machine.finish();
}

#[test]
fn what_cannot_be_stored_is_not_confirmed() {
    let machine = boot();
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    let generation = house.apply(&blocks(25));
    let files = machine.sim.files();
    let used = files.contents().values().flatten().map(Vec::len).sum::<usize>();
    for room in [0, 1, HEADER, HEADER + 1, HEADER + blocks(25).len() - 1] {
        files.set_capacity(Some(used + room));
        let refusal = house.confirm(generation).unwrap_err();
        assert_eq!((refusal.code, refusal.status.unwrap().code()), (ErrorCode::Failed, 0xC000_007F));
        assert_eq!(house.status().state, PolicyState::Provisional);
        house.decides(&blocks(25));
    }
    assert_eq!(machine.events.named("PolicyStoreRefused")[0].text("reason"), "not written");
    // The one before is still what a restart would find.
    let mut store = Store::at(Place::Own, None).unwrap().expect("there is one");
    let found = store.read(&passive()).unwrap().expect("a policy");
    assert_eq!(digest(found.image.as_slice()), digest(&blocks(24)));
    drop((found, store));
    files.set_capacity(None);
    assert_eq!(house.confirm(generation), Ok(Done::Confirmed { generation }));
    house.stop();
    assert_eq!(restart_finds(&machine), Some(digest(&blocks(25))));
    machine.finish();
}

#[test]
fn without_a_store_a_confirmed_policy_ends_with_the_driver() {
    let machine = boot();
    let house = House::try_start(&machine, Place::Nowhere).unwrap();
    assert!(!house.desk.stores(&mut passive()));
    house.apply_and_confirm(&blocks(24));
    house.decides(&blocks(24));
    house.stop();
    assert_eq!(machine.events.named("PolicyConfirmed")[0].text("stored"), "false");
    assert!(machine.sim.files().contents().values().all(Option::is_none), "there is a file");
    machine.finish();
}

#[test]
fn the_store_is_where_the_setting_says() {
    let machine = boot();
    let path = utf16(r"\??\C:\ProgramData\weir");
    let house = House::try_start(&machine, Place::At(&path)).unwrap();
    house.apply_and_confirm(&blocks(24));
    house.stop();
    assert!(machine.sim.files().read(r"\??\C:\ProgramData\weir\policy.0").is_some());
    let house = House::try_start(&machine, Place::At(&path)).unwrap();
    house.decides(&blocks(24));
    house.stop();

    // A directory whose own is missing is no place, which is told and degrades nothing else.
    let nowhere = utf16(r"\??\C:\Missing\weir");
    let house = House::try_start(&machine, Place::At(&nowhere)).unwrap();
    assert_eq!((house.unusable, house.digest()), (1, None));
    let generation = house.apply(&blocks(25));
    let refusal = house.confirm(generation).unwrap_err();
    assert_eq!(refusal.status.map(Status::code), Some(0xC000_003A));
    house.stop();
    let refused = &machine.events.named("PolicyStoreRefused")[0];
    assert_eq!((refused.number("slot"), refused.text("reason")), (255, "directory"));
    machine.finish();
}

#[test]
fn a_volume_that_comes_later_brings_its_policy_after_one_that_was_rolled_back() {
    let machine = boot();
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    house.stop();
    machine.sim.files().set_present(false);
    let house = House::start(&machine);
    assert_eq!((house.unusable, house.digest()), (1, None));
    let generation = house.apply(&blocks(25));
    assert!(house.roll_back(generation).is_ok());
    machine.sim.files().set_present(true);
    house.pass_time_until("the stored policy decides", || house.status().digest == Some(digest(&blocks(24))));
    house.stop();
    machine.finish();
}

#[test]
fn a_store_that_cannot_be_read_for_a_moment_is_read_later_and_nothing_older_takes_its_place() {
    let machine = boot();
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(24));
    house.apply_and_confirm(&blocks(25));
    house.stop();
    let mut late = 0;
    for seed in 0..400 {
        // From so many faults that hardly anything starts to so few that the store is rarely hit.
        machine.sim.fault(Plan::Seeded { seed, one_in: 3 + seed % 8 });
        let house = House::try_start(&machine, Place::Own);
        machine.sim.fault(Plan::None);
        let Ok(house) = house else { continue };
        let found = house.digest();
        assert_ne!(found, Some(digest(&blocks(24))), "seed {seed}: an older one decides");
        if found.is_none() {
            late += 1;
            house.pass_time_until("the stored policy decides", || {
                house.status().digest == Some(digest(&blocks(25)))
            });
        }
        house.stop();
    }
    assert!(late > 0);
    machine.finish();
}

#[test]
fn a_volume_that_comes_later_brings_its_policy_unless_one_was_applied() {
    for applied in [false, true] {
        let machine = boot();
        machine.set("PolicyImage", Registry::Binary(blocks(23)));
        let house = House::start(&machine);
        house.apply_and_confirm(&blocks(24));
        house.stop();
        machine.sim.files().set_present(false);
        let house = House::start(&machine);
        assert_eq!(house.unusable, 1);
        house.decides(&blocks(23));
        let generation = applied.then(|| house.apply(&blocks(25)));
        machine.sim.advance(Duration::from_millis(1500));
        machine.events.wait_for("PolicyStoreRefused", if applied { 1 } else { 2 });
        machine.sim.files().set_present(true);
        if let Some(generation) = generation {
            machine.sim.advance(Duration::from_secs(30));
            for _ in 0..2 {
                // Each time, the thread has done before what was due.
                assert_eq!(code(house.confirm(99)), ErrorCode::Conflict);
                house.decides(&blocks(25));
            }
            assert_eq!(house.confirm(generation), Ok(Done::Confirmed { generation }));
            machine.sim.advance(Duration::from_mins(2));
            house.decides(&blocks(25));
            house.stop();
            assert_eq!(restart_finds(&machine), Some(digest(&blocks(25))));
        } else {
            house.pass_time_until("the stored policy decides", || {
                house.status().digest == Some(digest(&blocks(24)))
            });
            assert_eq!(machine.events.named("PolicyStoreRead").len(), 1);
            house.stop();
        }
        machine.finish();
    }
}

/// A house in which the registry's policy, `blocks(23)`, decides over one that was confirmed while there was none.
fn overruled(machine: &Machine) -> House<'_> {
    let house = House::start(machine);
    house.apply_and_confirm(&blocks(24));
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    house.desk.reread(&mut passive());
    house
        .pass_time_until("the registry's policy decides", || house.digest_now() == Some(digest(&blocks(23))));
    machine.events.clear();
    house
}

#[test]
fn a_policy_that_is_taken_out_of_the_registry_decides_on_while_the_store_cannot_be_read() {
    let machine = boot();
    let house = overruled(&machine);
    let files = machine.sim.files();
    let held = files.read(&slot(0)).unwrap();
    // The whole directory, and the one file: again and again.
    for whole in [true, false] {
        if whole {
            files.set_present(false);
        } else {
            machine.set("PolicyImage", Registry::Binary(blocks(23)));
            house.desk.reread(&mut passive());
            let again = || house.digest_now() == Some(digest(&blocks(23)));
            house.pass_time_until("the registry's policy decides", again);
            machine.events.clear();
            files.remove(&slot(0));
            files.create_directory(&slot(0));
        }
        machine.sim.registry().remove(PARAMETERS, "PolicyImage");
        house.desk.reread(&mut passive());
        house.pass_time_until("the store is tried several times", || {
            machine.events.named("PolicyStoreRefused").len() > 7
        });
        house.decides(&blocks(23));
        if whole {
            files.set_present(true);
        } else {
            files.remove(&slot(0));
            files.write(&slot(0), &held);
        }
        house.pass_time_until("the stored one decides", || house.digest_now() == Some(digest(&blocks(24))));
        assert!(machine.events.named("PolicyAbsent").is_empty());
    }
    house.stop();
    machine.finish();
}

#[test]
fn an_older_stored_policy_does_not_take_the_place_of_one_that_cannot_be_read() {
    let machine = boot();
    let house = House::start(&machine);
    house.apply_and_confirm(&blocks(22));
    house.apply_and_confirm(&blocks(24));
    let files = machine.sim.files();
    let newest = files.read(&slot(1)).unwrap();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    house.desk.reread(&mut passive());
    let registrys = || house.digest_now() == Some(digest(&blocks(23)));
    house.pass_time_until("the registry's policy decides", registrys);
    machine.events.clear();
    files.remove(&slot(1));
    files.create_directory(&slot(1));
    machine.sim.registry().remove(PARAMETERS, "PolicyImage");
    house.desk.reread(&mut passive());
    house.pass_time_until("the store is tried several times", || {
        machine.events.named("PolicyStoreRefused").len() > 7
    });
    house.decides(&blocks(23));
    files.remove(&slot(1));
    files.write(&slot(1), &newest);
    house.pass_time_until("the newest one decides", || house.digest_now() == Some(digest(&blocks(24))));
    house.stop();
    machine.finish();
}

#[test]
fn a_policy_that_is_taken_out_of_the_registry_is_gone_once_the_store_has_none() {
    let machine = boot();
    machine.set("PolicyImage", Registry::Binary(blocks(23)));
    let house = House::start(&machine);
    machine.sim.files().set_present(false);
    machine.events.clear();
    machine.sim.registry().remove(PARAMETERS, "PolicyImage");
    house.desk.reread(&mut passive());
    machine.events.wait_for("PolicyStoreRefused", 1);
    house.decides(&blocks(23));
    machine.sim.files().set_present(true);
    house.pass_time_until("nothing decides", || house.digest_now().is_none());
    machine.events.wait_for("PolicyAbsent", 1);
    house.stop();
    machine.finish();
}

#[test]
fn whatever_call_fails_while_the_registrys_policy_is_taken_away_one_decides() {
    each_call_fails("follow", 10, |plan| {
        let machine = boot();
        let house = overruled(&machine);
        machine.sim.registry().remove(PARAMETERS, "PolicyImage");
        under(&machine, plan, || {
            house.desk.reread(&mut passive());
            house.pass_time_until("the stored one decides", || {
                house.digest_now() == Some(digest(&blocks(24)))
            });
        });
        assert!(machine.events.named("PolicyAbsent").is_empty(), "{plan:?}");
        house.stop();
        machine.finish();
    });
}

#[test]
fn the_driver_stores_where_the_system_keeps_its_data() {
    for absent in [&[][..], &["IoGetDriverDirectory"]] {
        let mut machine = Machine::boot_with(Config { absent_routines: absent, ..Config::default() });
        let image = blocks(24);
        let house = House::start(&machine);
        house.apply_and_confirm(&image);
        house.stop();
        machine.events.clear();
        machine.load().expect("the driver starts");
        let loaded = machine.events.wait_for("PolicyStoreRead", 1);
        assert_eq!(loaded[0].number("sequence"), 1);
        assert_eq!(machine.events.wait_for("DriverStarted", 1)[0].number("degraded"), 0);
        machine.finish();
    }
}

#[test]
fn the_desk_takes_what_it_has_room_for_and_answers_all_of_it() {
    let machine = boot();
    let house = House::start(&machine);
    let mut passive = passive();
    let wake = PoolArc::try_new(tags::SYNC, Event::try_new(Kind::Synchronization).unwrap()).unwrap();
    house.desk.set_wake(&mut passive, Some(wake.clone()));
    let submit = |session| {
        let order =
            Order { ticket: Ticket { session, request: None }, what: What::Confirm { generation: 9 } };
        house.desk.submit(&mut passive_of_test(), order)
    };
    for round in 0..3 {
        let mut taken = 0;
        // Outcomes that are not fetched take room too.
        while submit(round * 100 + taken).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 16);
        for session in 0..taken {
            let outcome = house.outcome();
            assert_eq!(outcome.ticket, Ticket { session: round * 100 + session, request: None });
            assert_eq!(code(outcome.result), ErrorCode::Conflict);
        }
        assert!(wake.is_set());
        wake.clear();
    }
    house.desk.set_wake(&mut passive, None);
    submit(1).unwrap();
    house.outcome();
    assert!(!wake.is_set(), "it was taken back");
    // What is not fetched goes with the desk.
    submit(2).unwrap();
    drop(wake);
    house.stop();
    machine.finish();
}

fn passive_of_test() -> Passive {
    passive()
}

/// Runs `body` once with no fault, to count the calls, and then once with each call failing.
fn each_call_fails(name: &str, least: u64, body: impl Fn(Plan)) {
    body(Plan::None);
    let calls = CALLS.with(std::cell::Cell::get);
    assert!(calls >= least, "{name}: {calls} calls");
    for call in 1..=calls {
        body(Plan::Nth(call));
    }
}

thread_local! {
    static CALLS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Does something under a plan, and counts its calls.
fn under<T>(machine: &Machine, plan: Plan, body: impl FnOnce() -> T) -> T {
    machine.sim.fault(plan);
    let result = body();
    CALLS.with(|calls| calls.set(machine.sim.fault_calls()));
    machine.sim.fault(Plan::None);
    result
}

#[test]
fn whatever_call_of_the_start_fails_a_policy_decides_or_the_start_fails_whole() {
    each_call_fails("start", 20, |plan| {
        let machine = boot();
        machine.set("PolicyImage", Registry::Binary(blocks(23)));
        let house = House::start(&machine);
        house.apply_and_confirm(&blocks(24));
        house.stop();
        match under(&machine, plan, || House::try_start(&machine, Place::Own)) {
            Ok(house) => {
                // One that failed for a moment is tried again, now or later.
                house.pass_time_until("the stored policy decides", || {
                    house.status().digest == Some(digest(&blocks(24)))
                });
                house.stop();
            }
            Err(status) => assert_eq!(status, Status::INSUFFICIENT_RESOURCES, "{plan:?}"),
        }
        machine.finish();
    });
}

#[test]
fn whatever_call_of_applying_fails_the_policy_before_stays() {
    each_call_fails("apply", 1, |plan| {
        let machine = boot();
        machine.set("PolicyImage", Registry::Binary(blocks(23)));
        let house = House::start(&machine);
        let image = blocks(24);
        let copy = PoolSlice::try_from_fn(tags::POLICY, image.len(), |at| image[at]).unwrap();
        let what = What::Apply { image: copy, digest: digest(&image), window: 60, replaces: None };
        match under(&machine, plan, || house.order(what)) {
            Ok(done) => {
                assert_eq!(done, Done::Applied { generation: 2, rules: 1, window: 60 });
                house.decides(&image);
            }
            Err(refusal) => {
                assert_eq!(
                    (refusal.code, refusal.status),
                    (ErrorCode::Failed, Some(Status::INSUFFICIENT_RESOURCES))
                );
                house.decides(&blocks(23));
                assert_eq!(house.status().state, PolicyState::Confirmed);
                assert_eq!(house.apply(&image), 2);
            }
        }
        house.stop();
        machine.finish();
    });
}

#[test]
fn whatever_call_of_confirming_fails_the_policy_is_stored_or_still_provisional() {
    each_call_fails("confirm", 6, |plan| {
        let machine = boot();
        let house = House::start(&machine);
        house.apply_and_confirm(&blocks(24));
        let generation = house.apply(&blocks(25));
        match under(&machine, plan, || house.confirm(generation)) {
            Ok(done) => {
                assert_eq!((done, plan), (Done::Confirmed { generation }, Plan::None));
                assert_eq!(house.status().state, PolicyState::Confirmed);
            }
            Err(refusal) => {
                assert_eq!(refusal.code, ErrorCode::Failed);
                assert_eq!(house.status().state, PolicyState::Provisional);
                house.decides(&blocks(25));
                // Until then the one before is what a restart would find.
                let mut store = Store::at(Place::Own, None).unwrap().expect("there is one");
                let found = store.read(&passive()).unwrap().expect("a policy");
                assert_eq!(digest(found.image.as_slice()), digest(&blocks(24)), "{plan:?}");
                drop((found, store));
                assert_eq!(house.confirm(generation), Ok(Done::Confirmed { generation }));
            }
        }
        house.stop();
        assert_eq!(restart_finds(&machine), Some(digest(&blocks(25))));
        machine.finish();
    });
}

#[test]
fn what_was_written_in_vain_does_not_count_once_it_is_rolled_back() {
    for call in 1.. {
        let machine = boot();
        let house = House::start(&machine);
        house.apply_and_confirm(&blocks(24));
        let generation = house.apply(&blocks(25));
        // Nor can it be taken back at once.
        let confirmed = under(&machine, Plan::From(call), || house.confirm(generation));
        if confirmed.is_ok() {
            assert!(call > 6, "{call} calls");
            house.stop();
            machine.finish();
            break;
        }
        house.roll_back(generation).unwrap();
        house.stop();
        assert_eq!(restart_finds(&machine), Some(digest(&blocks(24))), "from call {call} on");
        machine.finish();
    }
}

#[test]
fn what_decides_can_be_read_while_others_are_applied() {
    let machine = boot();
    let house = House::start(&machine);
    let images: Vec<_> = (1..4).map(blocks).collect();
    std::thread::scope(|scope| {
        let (policies, images) = (&house.policies, &images);
        scope.spawn(move || {
            let mut passive = passive();
            for _ in 0..2000 {
                policies.with_current(&mut passive, |policy| {
                    let Some(policy) = policy else { return };
                    let bytes = policy.image().bytes();
                    assert!(images.iter().any(|image| image == bytes && digest(image) == *policy.digest()));
                });
            }
        });
        for round in 0..30 {
            let generation = house.apply(&images[round % 3]);
            house.roll_back(generation).unwrap();
        }
    });
    house.stop();
    machine.finish();
}
