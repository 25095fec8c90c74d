//! The headers for vendors (tools/sdk/include) say what the driver is compiled with, in every size, place, type and number.
//!
//! A C compiler says so: the assertions that it is given are made from the Rust side. And the sample of a vendor's driver
//! (tools/sdk/sample) keeps the rules, on this host's threads. What is missing on this machine is skipped, with a message;
//! `cargo xtask test ext` installs it.
#![cfg(feature = "sim")]

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use weir::ext::{connection_v1, label_v1, module};
use weir::sys::nt::GUID;

/// A field: name, offset, size, type as Rust spells it.
struct Field(&'static str, usize, usize, &'static str);

struct Structure {
    name: &'static str,
    size: usize,
    alignment: usize,
    fields: Vec<Field>,
}

fn type_of<S, F>(_: fn(&S) -> &F) -> (usize, &'static str) {
    (size_of::<F>(), std::any::type_name::<F>())
}

/// The rows of structures with all of their fields.
macro_rules! structures {
    ($($module:ident::$name:ident { $($field:ident),* $(,)? })*) => {
        vec![$({
            // A field that is left out does not compile.
            let _ = |whole: &$module::$name| {
                let $module::$name { $($field: _),* } = whole;
            };
            let fields = vec![$({
                let (size, kind) = type_of(|whole: &$module::$name| &whole.$field);
                Field(stringify!($field), std::mem::offset_of!($module::$name, $field), size, kind)
            }),*];
            Structure {
                name: stringify!($name),
                size: size_of::<$module::$name>(),
                alignment: align_of::<$module::$name>(),
                fields,
            }
        }),*]
    };
}

macro_rules! constants {
    ($($module:ident { $($name:ident),* $(,)? })*) => {
        vec![$($((stringify!($name), u64::from($module::$name))),*),*]
    };
}

fn structures() -> Vec<Structure> {
    structures! {
        module::EXTENSION_CONNECTION {
            Size, Version, Kind, Session, EventMask, Family, LocalPort, RemotePort, Reserved, Reserved2, LocalAddress,
            RemoteAddress,
        }
        module::EXTENSION_MODULE_PROVIDER_DISPATCH { Size, Version, Reserved, AttachConnection, DetachConnection }
        module::EXTENSION_MODULE_CLIENT_DISPATCH { Size, Version, Reserved, DetachComplete }
        connection_v1::CONNECTION_METRIC_V1 {
            Size, Version, Flags, BytesReceived, BytesSent, RoundTripTime, Reserved,
        }
        connection_v1::CONNECTION_V1_CLIENT_DISPATCH { Size, Version, Reserved, State, Backlog, Metric, Vendor }
        connection_v1::CONNECTION_V1_PROVIDER_DISPATCH { Size, Version, Reserved, QueryMetric, SetMarks, Control }
        label_v1::LABEL_V1_CLIENT_DISPATCH { Size, Version, Reserved, Label }
        label_v1::LABEL_V1_PROVIDER_DISPATCH { Size, Version, Reserved, Refresh }
    }
}

fn constants() -> Vec<(&'static str, u64)> {
    let mut constants = constants! {
        module {
            EXTENSION_MODULE_V1, EXTENSION_CONNECTION_LISTENING, EXTENSION_CONNECTION_ACCEPTED,
            EXTENSION_CONNECTION_DIALLED,
        }
        connection_v1 {
            CONNECTION_V1, CONNECTION_EVENT_STATE, CONNECTION_EVENT_BACKLOG, CONNECTION_EVENT_METRIC,
            CONNECTION_EVENT_VENDOR, CONNECTION_STATE_ESTABLISHED, CONNECTION_STATE_CLOSED, CONNECTION_REASON_NONE,
            CONNECTION_REASON_PEER_FINISHED, CONNECTION_REASON_PEER_RESET, CONNECTION_REASON_LOCAL,
            CONNECTION_REASON_TIMED_OUT, CONNECTION_REASON_PROVIDER_LEAVES, CONNECTION_DIRECTION_RECEIVE,
            CONNECTION_DIRECTION_SEND, CONNECTION_METRIC_ROUND_TRIP, CONNECTION_VENDOR_DATA_MAX,
        }
        label_v1 { LABEL_V1, LABEL_EVENT_LABEL, LABEL_TEXT_MAX }
    };
    constants.push(("EXTENSION_FAMILY_UNKNOWN", 0));
    constants.push(("EXTENSION_FAMILY_INET", weir::sys::wsk::AF_INET.into()));
    constants.push(("EXTENSION_FAMILY_INET6", weir::sys::wsk::AF_INET6.into()));
    constants
}

fn ids() -> [(&'static str, GUID); 2] {
    [
        ("NPI_CONNECTION_V1_INIT", connection_v1::NPI_CONNECTION_V1),
        ("NPI_LABEL_V1_INIT", label_v1::NPI_LABEL_V1),
    ]
}

/// A type of Rust's as C declares `inner` to have it. `inner` is a declarator: a name, or what stands in its place.
fn declared(rust: &str, inner: &str) -> String {
    let rust = rust.trim();
    if let Some(optional) = rust.strip_prefix("core::option::Option<").and_then(|rest| rest.strip_suffix('>'))
    {
        return declared(optional, inner);
    }
    if let Some(target) = rust.strip_prefix("*mut ") {
        return declared(target, &format!("*{inner}"));
    }
    if let Some(target) = rust.strip_prefix("*const ") {
        // What is constant is what it points to.
        return if target.starts_with('*') {
            declared(target, &format!("*const {inner}"))
        } else {
            format!("const {}", declared(target, &format!("*{inner}")))
        };
    }
    if let Some((element, count)) =
        rust.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')?.split_once("; "))
    {
        return declared(element, &format!("({inner})[{count}]"));
    }
    if let Some(signature) = rust.strip_prefix("unsafe extern \"system\" fn(") {
        let (parameters, result) = signature.split_once(')').expect("a function's type");
        let parameters: Vec<_> = parameters.split(", ").map(|kind| declared(kind, "")).collect();
        let result = result.strip_prefix(" -> ").unwrap_or("()");
        return declared(result, &format!("(*{inner})({})", parameters.join(", ")));
    }
    let name = match rust {
        "()" => "void",
        "u8" => "UINT8",
        "u16" => "UINT16",
        "u32" => "UINT32",
        "u64" => "UINT64",
        "i32" => "NTSTATUS",
        path => match path.rsplit("::").next().expect("a path") {
            "c_void" => "void",
            name => name,
        },
    };
    format!("{name} {inner}")
}

#[test]
fn types_are_translated() {
    let function = "core::option::Option<unsafe extern \"system\" fn(*mut core::ffi::c_void, u32) -> i32>";
    assert_eq!(declared(function, "*"), "NTSTATUS (**)(void *, UINT32 )");
    assert_eq!(declared("[u8; 16]", "*"), "UINT8 (*)[16]");
    assert_eq!(declared("*const a::B", ""), "const B *");
    assert_eq!(declared("*mut *const core::ffi::c_void", ""), "const void **");
}

/// The assertions, in what C11 and C++11 have in common.
fn assertions() -> String {
    let mut text = String::from(
        "#include \"weir_connection_v1.h\"\n#include \"weir_label_v1.h\"\n\
         #ifdef __cplusplus\n\
         #define CHECK(condition) static_assert(condition, #condition)\n\
         #define ALIGNMENT(type) alignof(type)\n\
         template <class A, class B> struct same { static const bool value = false; };\n\
         template <class A> struct same<A, A> { static const bool value = true; };\n\
         #define TYPE(place, ...) CHECK((same<decltype(place), __VA_ARGS__>::value))\n\
         #else\n\
         #define CHECK(condition) _Static_assert(condition, #condition)\n\
         #define ALIGNMENT(type) _Alignof(type)\n\
         #define TYPE(place, ...) CHECK(_Generic(place, __VA_ARGS__: 1, default: 0))\n\
         #endif\n",
    );
    for Structure { name, size, alignment, fields } in structures() {
        let _ = writeln!(text, "CHECK(sizeof({name}) == {size});");
        let _ = writeln!(text, "CHECK(ALIGNMENT({name}) == {alignment});");
        for Field(field, offset, size, kind) in fields {
            let _ = writeln!(text, "CHECK(offsetof({name}, {field}) == {offset});");
            let _ = writeln!(text, "CHECK(sizeof((({name} *)0)->{field}) == {size});");
            let _ = writeln!(text, "TYPE(&(({name} *)0)->{field}, {});", declared(kind, "*"));
        }
    }
    for (name, value) in constants() {
        let _ = writeln!(text, "CHECK({name} == {value});");
    }
    text
}

/// What only C++ evaluates when it compiles.
fn assertions_of_ids() -> String {
    let mut text = String::new();
    for (name, id) in ids() {
        let variable = name.to_lowercase();
        let _ = writeln!(text, "constexpr GUID {variable} = {name};");
        for (field, value) in [("Data1", id.Data1), ("Data2", id.Data2.into()), ("Data3", id.Data3.into())] {
            let _ = writeln!(text, "CHECK({variable}.{field} == {value});");
        }
        for (index, byte) in id.Data4.iter().enumerate() {
            let _ = writeln!(text, "CHECK({variable}.Data4[{index}] == {byte});");
        }
    }
    text
}

/// A way to compile.
#[derive(Clone, Copy)]
struct Compiler {
    program: &'static str,
    arguments: &'static [&'static str],
    cpp: bool,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.arguments.join(" "))
    }
}

const HOST: &[Compiler] = &[
    Compiler { program: "cc", arguments: &["-x", "c", "-std=c11"], cpp: false },
    Compiler { program: "cc", arguments: &["-x", "c++", "-std=c++11"], cpp: true },
    Compiler { program: "clang", arguments: &["-x", "c", "-std=c11"], cpp: false },
    Compiler { program: "clang", arguments: &["-x", "c++", "-std=c++20"], cpp: true },
];

const X64: [Compiler; 2] = [
    Compiler {
        program: "clang",
        arguments: &["--target=x86_64-pc-windows-msvc", "-x", "c", "-std=c11"],
        cpp: false,
    },
    Compiler {
        program: "clang",
        arguments: &["--target=x86_64-pc-windows-msvc", "-x", "c++", "-std=c++14"],
        cpp: true,
    },
];

const ARM64: [Compiler; 2] = [
    Compiler {
        program: "clang",
        arguments: &["--target=aarch64-pc-windows-msvc", "-x", "c", "-std=c11"],
        cpp: false,
    },
    Compiler {
        program: "clang",
        arguments: &["--target=aarch64-pc-windows-msvc", "-x", "c++", "-std=c++14"],
        cpp: true,
    },
];

/// C99, which has no assertions: the headers' own alone.
const C99: &[Compiler] = &[
    Compiler { program: "cc", arguments: &["-x", "c", "-std=c99"], cpp: false },
    Compiler { program: "clang", arguments: &["-x", "c", "-std=c99"], cpp: false },
    Compiler {
        program: "clang",
        arguments: &["--target=x86_64-pc-windows-msvc", "-x", "c", "-std=c99"],
        cpp: false,
    },
];

fn headers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/sdk/include")
}

fn written(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

impl Compiler {
    /// Whether it is on this machine, and knows its language: a C compiler may be installed without its C++ part.
    fn is_there(self) -> bool {
        let probe = written(&format!("probe-{}-{}", self.program, self.cpp), "int probe;\n");
        let mut command = Command::new(self.program);
        command.args(self.arguments).arg("-fsyntax-only").arg(probe);
        let there = command.output().is_ok_and(|output| output.status.success());
        if !there {
            eprintln!("skipped, as this is not installed: {self}");
        }
        there
    }

    /// Compiles: what the compiler says against it, if it does.
    fn compile(self, source: &Path, more: &[&str]) -> Result<(), String> {
        let mut command = Command::new(self.program);
        command.args(self.arguments).args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]);
        // Without the host's own headers: its types are none of Windows'.
        command.arg("-ffreestanding").args(more).arg("-I").arg(headers()).arg(source);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{self}: {said}")) }
    }
}

#[track_caller]
fn holds(compilers: &[Compiler], name: &str, before: &str, more: &[&str]) {
    for compiler in compilers.iter().filter(|compiler| compiler.is_there()) {
        let ids = if compiler.cpp { assertions_of_ids() } else { String::new() };
        let source = written(name, &format!("{before}{}{ids}", assertions()));
        if let Err(said) = compiler.compile(&source, more) {
            panic!("{said}");
        }
    }
}

#[test]
fn the_headers_say_what_the_driver_is_compiled_with() {
    holds(HOST, "host.c", "", &[]);
}

#[test]
fn the_headers_say_the_same_for_windows() {
    holds(&[X64, ARM64].concat(), "windows.c", "", &[]);
}

/// As in a driver: Windows' headers come first, and bring the types.
#[test]
fn the_headers_say_the_same_after_windows_own() {
    let windows = Path::new("/usr/share/mingw-w64/include");
    if !windows.join("ddk/ntddk.h").exists() {
        eprintln!("skipped, as mingw-w64-common is not installed");
        return;
    }
    let system = ["-isystem", "/usr/share/mingw-w64/include/ddk", "-isystem", "/usr/share/mingw-w64/include"];
    // Clang claims no GCC for this target, and these headers then miss vector types.
    let more = [&system[..], &["-fgnuc-version=4.2.1"]].concat();
    holds(&X64[..1], "driver.c", "#include <ntddk.h>\n", &more);
}

#[test]
fn the_headers_compile_alone_and_as_c99() {
    for header in ["weir_extension.h", "weir_connection_v1.h", "weir_label_v1.h"] {
        let source =
            written(&format!("alone-{header}.c"), &format!("#include \"{header}\"\n#include \"{header}\"\n"));
        for compiler in [C99, HOST].concat().into_iter().filter(|compiler| compiler.is_there()) {
            if let Err(said) = compiler.compile(&source, &[]) {
                panic!("{said}");
            }
        }
    }
}

/// Else the tests above could hold nothing.
#[test]
fn a_changed_assertion_does_not_compile() {
    let compilers: Vec<_> =
        [HOST, &X64].concat().into_iter().filter(|compiler| compiler.is_there()).collect();
    for (old, new) in [
        (
            "offsetof(CONNECTION_V1_CLIENT_DISPATCH, Vendor) == 32",
            "offsetof(CONNECTION_V1_CLIENT_DISPATCH, Vendor) == 24",
        ),
        ("sizeof(EXTENSION_CONNECTION) == 64", "sizeof(EXTENSION_CONNECTION) == 72"),
        ("CONNECTION_EVENT_VENDOR == 8", "CONNECTION_EVENT_VENDOR == 16"),
        // A parameter less.
        ("(**)(void *, UINT64 , const void *, UINT32 )", "(**)(void *, UINT64 , const void *)"),
        ("EventMask, UINT32 *", "EventMask, NTSTATUS *"),
    ] {
        let text = assertions();
        assert!(text.contains(old), "{old}");
        for compiler in &compilers {
            let source = written("changed.c", &text.replacen(old, new, 1));
            let said = compiler.compile(&source, &[]).expect_err(new);
            assert!(
                said.contains("static assertion failed") || said.contains("static_assert failed"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_header_with_fields_in_another_order_does_not_compile() {
    let header = fs::read_to_string(headers().join("weir_connection_v1.h")).unwrap();
    let (state, backlog) = ("    CONNECTION_STATE_FN *State;\n", "    CONNECTION_BACKLOG_FN *Backlog;\n");
    let changed = header.replace(&format!("{state}{backlog}"), &format!("{backlog}{state}"));
    assert_ne!(header, changed);
    let source = written("changed_header.c", &changed);
    for compiler in [C99, HOST, &X64].concat().into_iter().filter(|compiler| compiler.is_there()) {
        compiler.compile(&source, &[]).expect_err("the header's own assertions");
    }
}

/// What the Rust side has and the rows above do not.
#[test]
fn nothing_is_left_out() {
    let names: Vec<_> = constants()
        .into_iter()
        .map(|(name, _)| name)
        .chain(structures().iter().map(|row| row.name))
        .collect();
    for file in ["module.rs", "connection_v1.rs", "label_v1.rs"] {
        let source =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ext").join(file)).unwrap();
        for line in source.lines() {
            let found = ["pub const ", "pub struct "].iter().find_map(|start| line.strip_prefix(start));
            let Some(name) = found.and_then(|rest| rest.split([':', ' ', ';']).next()) else { continue };
            // A structure of the interface is spelt as in C; others are Rust's own.
            if name.contains('_') {
                assert!(names.contains(&name), "{file}: {name}");
            }
        }
    }
}

/// A way to run the sample on this host: the arguments that make it.
const RUNS: [&[&str]; 3] = [&[], &["-fsanitize=address,undefined"], &["-fsanitize=thread"]];

/// Ends with an error's message. Threads' sanitizer does not stand randomised addresses everywhere.
fn run(program: &Path) -> Result<(), String> {
    let fixed =
        Command::new("setarch").args(["-R", "true"]).output().is_ok_and(|output| output.status.success());
    let mut command = Command::new(if fixed { "setarch" } else { "env" });
    if fixed {
        command.arg("-R");
    }
    // Far more than it takes under any of the sanitizers.
    let output = command.args(["timeout", "120"]).arg(program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{:?}: {said}", output.status.code())) }
}

/// Compiles C for this host, with threads.
fn program(name: &str, arguments: &[&str], sources: &[&Path]) -> Result<PathBuf, String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk").join(name);
    let mut command = Command::new("cc");
    command
        .args([
            "-std=c11",
            "-D_GNU_SOURCE",
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-multichar",
            "-pthread",
        ])
        .args(arguments)
        .arg("-I")
        .arg(top.join("tests/sdk_support"))
        .arg("-I")
        .arg(top.join("tools/sdk/sample"))
        .arg("-I")
        .arg(headers())
        .args(sources)
        .arg("-o")
        .arg(&program);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(program) } else { Err(said) }
}

/// The sanitizers that this host can run.
fn runs() -> Vec<&'static [&'static str]> {
    if !HOST[0].is_there() {
        return Vec::new();
    }
    let there = |arguments: &&&[&str]| {
        let source = written("empty.c", "int main(void) { return 0; }\n");
        let there = program("empty", arguments, &[&source]).is_ok_and(|program| run(&program).is_ok());
        if !there {
            eprintln!("skipped, as this does not run here: cc {}", arguments.join(" "));
        }
        there
    };
    RUNS.iter().filter(there).copied().collect()
}

fn sample() -> (PathBuf, PathBuf) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    (top.join("tools/sdk/sample/sample.c"), top.join("tests/sdk_support/host.c"))
}

/// Detaching with calls in progress, unloading in the midst of a storm, memory that runs out: on this host's threads, with a
/// registrar and a weir that look at each step.
#[test]
#[cfg(unix)]
fn the_sample_keeps_the_rules() {
    let (sample, host) = sample();
    for (index, arguments) in runs().into_iter().enumerate() {
        let made = program(&format!("sample-{index}"), arguments, &[&sample, &host]).unwrap();
        if let Err(said) = run(&made) {
            panic!("cc {}: {said}", arguments.join(" "));
        }
    }
}

/// Else the test above could hold nothing.
#[test]
#[cfg(unix)]
fn a_sample_that_breaks_a_rule_is_found_out() {
    let (sample, host) = sample();
    let text = fs::read_to_string(sample).unwrap();
    let last = runs().into_iter().rfind(|arguments| arguments.concat().contains("address"));
    let Some(arguments) = last else { return };
    for (index, (old, new)) in [
        // Does not wait for calls that are in progress when the binding, or a socket, is detached.
        ("return Pending ? STATUS_PENDING : STATUS_SUCCESS;", "return STATUS_SUCCESS;"),
        ("Pending = Connection->Calls != 0;", "Pending = FALSE;"),
        // Calls weir after the binding was detached.
        ("Tell = !Binding->Detached;", "Tell = TRUE;"),
        ("if (Connection->Detached || Connection->Binding->Detached)", "if (Connection->Detached)"),
        // Completes a detach more than once.
        ("if (Binding->Calls == 0 && Binding->Completes)", "if (Binding->Completes)"),
        // Leaves a socket in the list that was let go of.
        ("    RemoveEntryList(&Connection->Entry);\n    Connection->Detached", "    Connection->Detached"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(text.matches(old).count(), 1, "{old}");
        let source = written(&format!("broken-{index}.c"), &text.replace(old, new));
        // What is left unused by the change is not what this is about.
        let arguments = [arguments, &["-w"]].concat();
        let made = program(&format!("broken-{index}"), &arguments, &[&source, &host]).unwrap();
        // Some of it takes threads that meet.
        assert!((0..5).any(|_| run(&made).is_err()), "{new}");
    }
}

/// What the guide has operators write into the registry is taken.
#[test]
fn the_guides_settings_are_taken() {
    const SERVICE: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet\Services\weir";
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/sdk/GUIDE.md")).unwrap();
    let lines: Vec<_> = guide.lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect();
    assert_eq!(lines.len(), 3);
    let commands =
        guide.lines().filter_map(|line| line.split_once("/v ExtensionInterfaces /t REG_MULTI_SZ /d "));
    let commands: Vec<_> = commands.map(|(_, entry)| entry.to_owned()).collect();
    assert_eq!(commands.len(), 1);
    for entries in [lines, commands] {
        let count = entries.len();
        let sim = ntsim::boot(ntsim::Config::default());
        let parameters = format!(r"{SERVICE}\Parameters");
        sim.registry().create_key(&parameters);
        sim.registry().set(&parameters, "ExtensionInterfaces", ntsim::registry::Value::MultiSz(entries));
        // SAFETY: nothing has raised this thread's level; the token stays in the test.
        let passive = unsafe { weir::kernel::irql::Passive::assume() };
        let name: Vec<_> = SERVICE.encode_utf16().collect();
        let loaded = weir::config::load(&passive, &name).unwrap();
        assert_eq!(loaded.book.page().settings.extension_interfaces.as_slice().len(), count);
    }
}
