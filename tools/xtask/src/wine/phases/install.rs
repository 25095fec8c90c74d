//! The driver's INF, by a reader that nobody here wrote: Wine's setupapi installs it, and the registry is compared with
//! what the driver's table of settings says, value by value.
//!
//! Wine knows no driver store, so what is installed goes to system32/drivers instead (12 for 13), and it sets no security
//! on keys.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use weir::config::schema::{REG_DWORD, TABLE};
use weir::trace::PROVIDER_ID;
use weir::trace::events::{Keywords, Level};

use super::super::Run;
use super::super::logs::GAP;
use super::super::prefix::failed;
use super::super::registry::{Value, Values};
use super::super::report::Report;
use super::super::session::{Netio, SERVICE, Session};
use super::super::trace::{self, Traced};
use super::{ensure, registration, told, unload};
use crate::build::Arch;
use crate::inf::{self, stamp};
use crate::step::root;

/// Where the package is, in the prefix.
const PACKAGE: &str = "weir-package";
/// What Wine shows of a service, and the INF says nothing of.
const WINES: [&str; 2] = ["ObjectName", "PreshutdownTimeout"];
/// A setting that an administrator changes, and the value.
const CHANGED: (&str, u32) = ("RingRecords", 1024);
const AUTOLOGGER: &str = r"HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Control\WMI\Autologger\Weir";

pub fn install(run: &Run, report: &mut Report) {
    let logs = run.logs.join("install");
    let _told = report.phase("the INF", |report| told(&logs, by_inf(run, logs.clone(), report)));
}

fn by_inf(run: &Run, logs: PathBuf, report: &mut Report) -> Result<(), String> {
    let mut session = Session::start(&run.wine, &run.prefix, &run.files, Netio::StandIn, logs)?;
    // A service that Wine starts by itself is not for other sessions.
    run.prefix.is_changed()?;
    session.delete_service()?;
    session.configure_stand_ins()?;
    let image = run.prefix.drivers().join("weir.sys");
    fs::remove_file(&image).map_err(failed(&image))?;
    package(run)?;
    run_section(&session)?;

    let copied = fs::read(&image).map_err(failed(&image))?;
    ensure(fs::read(&run.files.image).is_ok_and(|it| it == copied), || {
        "another image was copied".to_owned()
    })?;
    let keys = session.service_keys()?;
    let expected = expected();
    compare(&keys, &expected)?;
    let values: usize = expected.values().map(Values::len).sum();
    report.held(&format!(
        "Wine's setupapi has copied the image, made the service and set {values} values in {} keys, each as the driver's \
         table has it, and no other",
        expected.len()
    ));
    report.fact("values", values);

    let settings = u64::try_from(defaults().len()).unwrap_or_default();
    session.events.mark()?;
    session.load()?;
    let read = session.events.one("SettingsRead", |_| true)?;
    ensure(read.number("taken") == Some(settings) && read.number("refused") == Some(0), || {
        format!("{read:?}")
    })?;
    session.events.one("ControlKeyAbsent", |_| true)?;
    session.events.one("FiltersInForce", |_| true)?;
    let started = session.events.one("DriverStarted", |_| true)?;
    ensure(started.number("degraded") == Some(0), || format!("{started:?}"))?;
    let unknown = session.events.since(|event| event.is("SettingUnknown"))?;
    ensure(unknown.is_empty(), || format!("{unknown:?}"))?;
    unload(&mut session)?;
    report.held(&format!(
        "the driver that was installed starts, takes all {settings} settings, waits for a key, and stops with nothing left"
    ));

    autologger(&session)?;
    report.held("Wine's reg import takes the autologger's settings, and its values are the table's");
    let Traced { events, read, .. } = trace::check(&session.logs)?;
    report
        .held(&format!("the trace of its {events} events is read by etl-parser ({read} of them) as by weir"));

    let (name, value) = CHANGED;
    session.set_number(name, value)?;
    run_section(&session)?;
    let mut changed = expected;
    changed.entry("Parameters".to_owned()).or_default().insert(name.to_owned(), Value::Number(value));
    compare(&session.service_keys()?, &changed)?;
    report.held("installed again, it leaves the setting that an administrator has changed");

    session.delete_service()?;
    let left = session.program(&["sc", "query", SERVICE]);
    ensure(left.is_err() && session.service_keys().is_err(), || format!("the service is there: {left:?}"))?;
    registration::run(&session, report)?;
    let searched = super::super::logs::search(&session.logs, &[GAP])?;
    report.held(&format!("the service is removed, with all below its key; {searched} logs tell of no crash"));
    // With the session the registry is written.
    drop(session);
    run.prefix.is_whole()
}

/// Has Wine read the settings of the autologger, and compares them with the table of events.
fn autologger(session: &Session) -> Result<(), String> {
    session.import_file(&root().join("inf/weir-autologger.reg"))?;
    let keys = session.keys(AUTOLOGGER)?;
    let values = |name: &str| keys.get(name).ok_or_else(|| format!("no key {name}: {keys:?}"));
    let (own, provider) = (values("")?, values(&PROVIDER_ID.to_string())?);
    let guid = matches!(own.get("Guid"), Some(Value::Text(text)) if text.len() == 38);
    ensure(guid && own.get("Start") == Some(&Value::Number(1)), || format!("{own:?}"))?;
    let wanted: Values = [
        ("Enabled", Value::Number(1)),
        ("EnableLevel", Value::Number(Level::Information as u32)),
        ("MatchAnyKeyword", Value::Long(Keywords::all().bits())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    ensure(*provider == wanted && keys.len() == 2, || format!("{keys:?}"))?;
    session.program(&["reg", "delete", AUTOLOGGER, "/f"]).map(drop)
}

/// Puts the package's files into the prefix.
pub(super) fn package(run: &Run) -> Result<(), String> {
    let folder = run.prefix.root.join("drive_c").join(PACKAGE);
    fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let image = folder.join("weir.sys");
    fs::copy(&run.files.image, &image).map_err(failed(&image))?;
    let inx = inf::inx();
    let text = fs::read_to_string(&inx).map_err(failed(&inx))?;
    let version = env!("CARGO_PKG_VERSION").parse().map_err(|error: stamp::Error| error.to_string())?;
    let text = stamp::stamp(&text, Arch::X64, version, inf::today()?).map_err(|error| error.to_string())?;
    let drivers = text.replace("DefaultDestDir = 13", "DefaultDestDir = 12").replace("%13%", "%12%");
    ensure(drivers.matches("12").count() > text.matches("12").count() + 1, || "no 13 in the INF".to_owned())?;
    let inf = folder.join("weir.inf");
    fs::write(&inf, drivers).map_err(failed(&inf))
}

pub(super) fn run_section(session: &Session) -> Result<(), String> {
    let inf = format!(r"C:\{PACKAGE}\weir.inf");
    let arguments = ["rundll32", "setupapi,InstallHinfSection", "DefaultInstall", "128", &inf];
    session.program(&arguments).map(drop)
}

/// The settings that have a default, as the registry has them.
fn defaults() -> Values {
    let settings = TABLE.iter().filter(|setting| !setting.default.is_empty());
    let value = |kind: &[u32], default: &str| match default.parse() {
        Ok(number) if kind.first() == Some(&REG_DWORD) => Value::Number(number),
        _ => Value::Text(default.to_owned()),
    };
    let settings = settings
        .map(|setting| (setting.name.to_owned(), value(setting.kind.registry_types(), setting.default)));
    settings.collect()
}

/// What is to be there: the service's key, and those below it.
fn expected() -> BTreeMap<String, Values> {
    let text = |text: &str| Value::Text(text.to_owned());
    let service = [
        ("Description", text("Decides on every connection by policy, and counts what passes")),
        ("DisplayName", text("weir")),
        ("ErrorControl", Value::Number(1)),
        ("ImagePath", text(r"C:\windows\system32\drivers\weir.sys")),
        ("Start", Value::Number(1)),
        ("Type", Value::Number(1)),
    ];
    let service = service.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let keys = [("", service), ("Parameters", defaults()), (r"Parameters\Key", Values::new())];
    keys.into_iter().map(|(key, values)| (key.to_owned(), values)).collect()
}

fn compare(found: &BTreeMap<String, Values>, expected: &BTreeMap<String, Values>) -> Result<(), String> {
    let keys = |keys: &BTreeMap<String, Values>| keys.keys().cloned().collect::<Vec<_>>();
    ensure(keys(found) == keys(expected), || {
        format!("the keys are {:?}, and should be {:?}", keys(found), keys(expected))
    })?;
    for (key, values) in expected {
        let found = found.get(key).into_iter().flatten().filter(|(name, _)| !WINES.contains(&name.as_str()));
        let found: BTreeMap<_, _> = found.collect();
        for (name, value) in values {
            let is = found.get(name);
            ensure(is == Some(&value), || format!("{key}\\{name} is {is:?}, and should be {value:?}"))?;
        }
        let other = found.keys().find(|name| !values.contains_key(**name));
        ensure(other.is_none(), || format!("{key} has {other:?}, which nobody asked for"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_from_what_the_inf_is_to_do_is_told() {
        assert_eq!(compare(&expected(), &expected()), Ok(()));
        let wrong = |change: &dyn Fn(&mut BTreeMap<String, Values>)| {
            let mut found = expected();
            change(&mut found);
            compare(&found, &expected()).unwrap_err()
        };
        let told = [
            wrong(&|keys| drop(keys.remove(r"Parameters\Key"))),
            wrong(&|keys| drop(keys.insert("Security".into(), Values::new()))),
            wrong(&|keys| drop(keys.get_mut("").unwrap().insert("Start".into(), Value::Number(2)))),
            wrong(&|keys| drop(keys.get_mut("").unwrap().insert("Group".into(), Value::Text("NDIS".into())))),
            wrong(&|keys| drop(keys.get_mut("Parameters").unwrap().remove("FailMode"))),
            wrong(&|keys| {
                drop(keys.get_mut("Parameters").unwrap().insert("FailMode".into(), Value::Text("0".into())));
            }),
        ];
        let words =
            ["keys are", "keys are", "Start is", "Group", "FailMode is None", "FailMode is Some(Text"];
        for (told, word) in told.iter().zip(words) {
            assert!(told.contains(word), "{told}");
        }
    }
}
