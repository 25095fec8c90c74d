//! Reference pages that are made from tables in the code: the page in the tree is what the table says.

use std::fmt::Write as _;

#[path = "reference/events.rs"]
mod events;
#[path = "reference/protocol.rs"]
mod protocol;
#[path = "reference/sessions.rs"]
mod sessions;

use weir::config::interface::NAMES;
use weir::config::schema::{SPOKEN, TABLE};
use weir::trace::events::{Event, Level, RefusedKey, RefusedSetting, RollbackReason};
use weir_cli::config::form;

const KEY: &str = "
## The driver's key

The subkey `Key` of `Parameters` holds one value, `PrivateKey`: REG_BINARY, 32 bytes from a generator for keys. Without \
it, there is no control socket (event ControlKeyAbsent). The subkey must be closed to everybody but the system (S-1-5-18) \
and administrators (S-1-5-32-544): one of these owns it, it has a list of who may do what, and no entry of that allows \
anybody else more than KEY_ENUMERATE_SUB_KEYS, KEY_NOTIFY, READ_CONTROL and SYNCHRONIZE, conditions and entries that deny \
notwithstanding. Entries that are only inherited do not count. Otherwise, the key is refused (event ControlKeyRefused), for \
it may be known to others: make a new one. A subkey that is made below `Parameters` inherits that users may read it.

## Which policy decides

A policy that was confirmed over the control socket is kept in the directory of `PolicyStore`, together with the digest \
of `PolicyImage` at that time. After a start it decides for as long as `PolicyImage` is the same. Once that is another \
one, or gone, the registry has the newer policy, and the stored one waits (event PolicyStoreOutdated). If the registry's is \
damaged or cannot be read, the stored one decides.

While the driver runs, another `PolicyImage` is taken in the same way, at once: but one that is damaged leaves the decision \
where it is (event PolicyRefused), and a policy that awaits its confirmation is not disturbed. Once that one is confirmed, \
it is the newer one; if it is rolled back, the registry's decides.

## Taking effect

`ControlPeers`: connections of a peer that is not listed any more are ended; one whose role is another has the other's \
rights from its next request on. A key is who a peer is: with another name it stays the same one. `ControlListen`, \
`ControlDial` and `FailMode` are part of the filters that are made at the start, by which weir's own connections pass.
";

fn extensions() -> String {
    let mut page = String::from(
        "
## Extension interfaces

One entry of `ExtensionInterfaces` is an interface's NPIID in braces, `=`, one of `required`, `optional` and `off`, and any \
of the options below, in any order, each behind a `;` and at most once. Case does not matter; there are no blanks. An \
interface stands once. With one entry that is wrong none is taken.

| word | meaning |
| --- | --- |
| `required` | A socket that nobody provides the interface for is closed. |
| `optional` | It goes on without. |
| `off` | The interface is not asked for. |
| `;events=0xMASK` | The events to switch on, a bit each, in hexadecimal digits. Without it, the interface's own. |
| `;providers=KIND,…` | Who is asked, in this order, until one grants it: `wsk`, `nmr` (the modules of vendors, every one), \
`builtin` (weir itself). Without it, `wsk,nmr,builtin`. |
| `;speaks={NPIID}` | The interface has the tables of that one: a vendor's own NPIID for what weir knows. |

weir knows these:

| interface | NPIID |
| --- | --- |
",
    );
    for (name, interface) in NAMES.iter().zip(SPOKEN) {
        writeln!(page, "| {name} | `{interface}` |").unwrap();
    }
    page + "
An interface that weir does not know, and that speaks none that it knows, can be named all the same: nobody provides it, \
so that with `required` there is no control socket. Here connection_v1 is not asked of WSK, label_v1 of nobody, and a \
vendor's own interface, with the tables of label_v1, is required:

```
{5ee5d4f1-9929-4633-8368-7bc7438b4140}=optional;events=0x1;providers=nmr,builtin
{9d2c6a7e-41b5-4c0f-8e39-52a7d61f0b84}=off
{01234567-89ab-cdef-0123-456789abcdef}=required;providers=nmr;speaks={9d2c6a7e-41b5-4c0f-8e39-52a7d61f0b84}
```

SettingRefused says why an entry was not taken: `bad-interface` (it has another form; or an interface that has tables of \
its own is to speak another's), `unknown-interface` (it speaks one that weir does not know), `out-of-range` (events of more \
than 32 bits), `duplicate` (an interface, an option or a kind of provider stands twice), `too-many`, `too-long`, \
`embedded-nul`.
"
}

fn registry() -> String {
    let mut page = String::from(
        "# Registry values\n\n\
         Under `HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\weir\\Parameters`. A value of the wrong type, \
         size, form or range is refused whole: what held before holds on, at the start the default, and the event \
         SettingRefused says which value and why; a name that is not here gives SettingUnknown. The start never fails for \
         a value.\n\n\
         All values are read when the driver starts, and again when something in there has changed. What has changed is \
         told by the event SettingChanged, one for each setting, which says when it takes effect; `weir ctl status` says \
         what waits for the next start.\n\n\
         For managed fleets there is a second key, `HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Policies\\weir`, with the \
         same names and types. A value in there comes before that of `Parameters`. One that is refused leaves what that key \
         gave before, or, if it gave nothing, the value of `Parameters`. The driver's key is never taken from there. Make the \
         key with a list of who may write to it: whoever may, decides.\n\n\
         | name | type | range | default | takes effect | meaning |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for setting in TABLE {
        let (kind, range) = (form::types(setting.kind), form::range(setting.kind));
        let default =
            if setting.default.is_empty() { "none".into() } else { format!("`{}`", setting.default) };
        let doc = setting.doc.replace('\n', " ");
        let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
        let effect = form::changes(setting.applies).1;
        writeln!(page, "| `{}` | {kind} | {range} | {default} | {effect} | {doc} |", setting.name).unwrap();
    }
    page + &extensions() + KEY
}

/// Compares a page with what was made from the code, or writes it.
fn hold(path: &str, made: &str) {
    if std::env::var_os("WEIR_WRITE_REFERENCE").is_some() {
        std::fs::write(path, made).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(there == made, "run again with WEIR_WRITE_REFERENCE=1 to write {path}");
}

#[test]
fn the_registry_page_is_what_the_schema_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/inf/REGISTRY.md");
    hold(path, &registry());
}

#[test]
fn the_events_page_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/inf/EVENTS.md");
    hold(path, &events::page());
}

#[cfg(feature = "sim")]
#[test]
fn the_page_of_pool_tags_is_what_the_driver_allocates_with() {
    let mut page = String::from(
        "# Pool tags\n\nAll of weir's memory is non-paged pool, with these tags. In a kernel debugger, `!poolused 2 Wr*`; on \
         the host, `poolmon /iWr*`.\n\n| tag | what |\n| --- | --- |\n",
    );
    let mut seen = std::collections::BTreeSet::new();
    for (tag, what) in weir::kernel::pool::tags::ALL {
        let characters = String::from_utf8(tag.characters().to_vec()).unwrap();
        assert!(characters.starts_with("Wr") && seen.insert(characters.clone()), "{characters}");
        writeln!(page, "| `{characters}` | {} |", what.trim()).unwrap();
    }
    hold(concat!(env!("CARGO_MANIFEST_DIR"), "/inf/POOLTAGS.md"), &page);
}

#[test]
fn the_settings_of_trace_sessions_are_what_the_table_says() {
    let inf = concat!(env!("CARGO_MANIFEST_DIR"), "/inf");
    hold(&format!("{inf}/weir.wprp"), &sessions::profile());
    hold(&format!("{inf}/weir-autologger.reg"), &sessions::autologger());
}

#[test]
fn the_protocols_page_is_what_the_code_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/PROTOCOL.md");
    hold(path, &protocol::page(&std::fs::read_to_string(path).unwrap()));
}

/// What an administrator finds in a trace has a line in the page that says what to do about it.
#[test]
fn every_refusal_says_what_to_do_about_it() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/inf/TROUBLESHOOT.md");
    let page = std::fs::read_to_string(page).unwrap();
    let reasons = [RefusedSetting::NAMES, RefusedKey::NAMES, RollbackReason::NAMES].concat();
    let missing: Vec<_> =
        reasons.iter().map(|(_, name)| *name).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let told = |level| level <= Level::Warning;
    let missing: Vec<_> = Event::TABLE
        .iter()
        .filter(|event| told(event.level) && !page.contains(event.name))
        .map(|event| event.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
