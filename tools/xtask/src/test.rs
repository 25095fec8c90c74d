//! `cargo xtask test`.

use std::path::Path;
use std::process::{Command, ExitCode};

use clap::ValueEnum;

use crate::install;
use crate::step::{Step, has};

/// A part of weir that can be tested alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Area {
    /// Formatting, lints, documentation, the build without the simulated kernel
    Style,
    /// The ABI, the simulated kernel and its verifier, the driver's kernel primitives and configuration
    Sys,
    /// The filter engine, callouts, flows, start and stop, faults on the start path
    Wfp,
    /// Winsock Kernel sockets, the control port and its protocol, policies from remote
    Control,
    /// Extension interfaces
    Ext,
    /// The dispatch ring, with its models, under ThreadSanitizer and Miri
    Ring,
    /// The operator's commands: policies, captures, `weir run`, `weir ctl`, traces; a replay under valgrind; the documents
    Run,
    /// The image for Windows: built, checked, built again elsewhere
    Image,
    /// The driver's package: the catalogue library, signatures, and what other programs say of them
    Package,
    /// The image in Wine
    Wine,
}

#[derive(clap::Args)]
pub struct TestArgs {
    /// Areas to test; all of them without any
    #[arg(value_enum)]
    areas: Vec<Area>,
}

const LOOM: &[(&str, &str)] =
    &[("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom"), ("LOOM_MAX_PREEMPTIONS", "3")];

/// Nothing but what the ring's tests need is built for these two.
const TSAN: &[(&str, &str)] = &[
    ("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --cfg ring_alone"),
    ("TSAN_OPTIONS", "suppressions=tests/ring.tsan"),
    ("CARGO_TARGET_DIR", "target/tsan"),
];
const MIRI: &[(&str, &str)] = &[
    ("RUSTFLAGS", "--cfg ring_alone"),
    ("MIRIFLAGS", "-Zmiri-strict-provenance"),
    ("CARGO_TARGET_DIR", "target/miri"),
];

/// The stand-ins are a workspace of their own.
const STAND_INS: &[(&str, &str)] = &[("CARGO_TARGET_DIR", "target/wine/stand-ins")];

const MEMCHECK: &str = "valgrind --quiet --error-exitcode=3 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite";
const VALGRIND: &[(&str, &str)] = &[
    ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", MEMCHECK),
    ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", MEMCHECK),
];

#[expect(clippy::too_many_lines, reason = "a list")]
fn steps(area: Area) -> Vec<Step> {
    let step = |what, command| Step { what, command, env: &[], finds: None };
    match area {
        Area::Style => vec![
            step("the code is formatted", "cargo fmt --all -- --check"),
            step("no lint warns", "cargo clippy --workspace --all-targets --locked -- -D warnings"),
            step("no lint warns in the image", "cargo xtask build --lint"),
            step(
                "the stand-ins for Wine are formatted",
                "cargo fmt --manifest-path tests/wine/Cargo.toml --all -- --check",
            ),
            Step {
                what: "no lint warns in the stand-ins for Wine",
                command: "cargo clippy --manifest-path tests/wine/Cargo.toml --workspace --locked --target \
                          x86_64-pc-windows-msvc -- -D warnings",
                env: STAND_INS,
                finds: None,
            },
            step("the tree compiles without the simulated kernel", "cargo check --locked"),
            Step {
                what: "the documentation builds without a warning",
                command: "cargo doc --workspace --no-deps --document-private-items --locked",
                // Private items are documented here, so links to them work.
                env: &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")],
                finds: None,
            },
        ],
        Area::Sys => vec![
            step("the simulated kernel keeps its rules", "cargo test --locked -p ntsim"),
            step(
                "kernel primitives, configuration and the driver's units hold",
                "cargo test --locked -p weir --lib --test abi --test kernel --test kernel_irp --test config \
                 --test files --test reference",
            ),
            Step {
                what: "misuse of IRQL does not compile, and for the stated reason",
                command: "cargo test --locked -p weir --doc",
                // Stable rustdoc takes the error codes of compile_fail examples, but does not check them.
                env: &[("RUSTC_BOOTSTRAP", "1")],
                finds: None,
            },
        ],
        Area::Wfp => vec![
            step("the filter engine keeps its rules", "cargo test --locked -p wfp-engine"),
            step(
                "the driver starts, filters, survives faults and unloads",
                "cargo test --locked -p weir --test driver --test start_path --test unload \
                 --test processors --test guard --test dump",
            ),
        ],
        Area::Control => vec![
            step(
                "sockets keep the rules of Winsock Kernel and their life cycles",
                "cargo test --locked -p weir --test wsk --test wsk_rules",
            ),
            step(
                "the control port and its protocol, as operators, strangers and another ecosystem see them",
                "cargo test --locked -p weir --test control --test control_protocol --test protocol_client",
            ),
            step(
                "a policy is applied, confirmed, rolled back and stored, whatever fails",
                "cargo test --locked -p weir --test policies",
            ),
        ],
        Area::Ext => vec![
            step(
                "extension interfaces are registered as documented",
                "cargo test --locked -p weir --test ext",
            ),
            step(
                "providers of every kind come, answer, storm and go, in 6000 schedules by seed (about a minute)",
                "cargo test --locked -p weir --test ext_conformance",
            ),
            step(
                "vendors' headers say what the driver is compiled with, and their sample holds to the rules",
                "cargo test --locked -p weir --test sdk",
            ),
        ],
        Area::Ring => vec![
            step("the ring keeps its promises", "cargo test --locked -p weir --test ring"),
            Step {
                what: "no interleaving breaks the ring or the policy's swap",
                command: "cargo test --locked -p weir --release --lib loom",
                env: LOOM,
                finds: None,
            },
            Step {
                what: "ThreadSanitizer finds no race in the ring",
                command: "cargo +nightly test --locked -p weir --test ring --target x86_64-unknown-linux-gnu -- \
                          --test-threads=1",
                env: TSAN,
                finds: None,
            },
            Step {
                what: "ThreadSanitizer finds a race that is there",
                command: "cargo +nightly test --locked -p weir --test ring --target x86_64-unknown-linux-gnu -- \
                          --ignored --exact a_relaxed_publication_is_a_race",
                env: TSAN,
                finds: Some("ThreadSanitizer: data race"),
            },
            Step {
                what: "Miri finds nothing in the ring (fewer and shorter calls)",
                command: "cargo +nightly miri test --locked -p weir --test ring",
                env: MIRI,
                finds: None,
            },
            Step {
                what: "Miri finds a race that is there",
                command: "cargo +nightly miri test --locked -p weir --test ring -- --ignored --exact \
                          a_relaxed_publication_is_a_race",
                env: MIRI,
                finds: Some("Undefined Behavior: Data race"),
            },
        ],
        Area::Run => vec![
            step(
                "policies, captures, replays, traces, keys and control connections",
                "cargo test --locked -p weir-cli",
            ),
            Step {
                what: "a replay is clean under valgrind",
                command: "cargo run --locked --release -p weir-cli -- run --quiet --policy \
                          tools/weir/examples/office.toml",
                env: VALGRIND,
                finds: None,
            },
            step("what the documents tell people to type works", "cargo xtask docs"),
        ],
        Area::Image => vec![
            step("the commands of this folder hold", "cargo test --locked -p xtask"),
            step(
                "the image is built for both architectures, and alike elsewhere",
                "cargo xtask build --reproduce",
            ),
            step("the image for x64 is sound", "cargo xtask lint-pe target/dist/x64/weir.sys"),
            step("the image for ARM64 is sound", "cargo xtask lint-pe target/dist/arm64/weir.sys"),
        ],
        Area::Package => vec![
            step(
                "catalogues, keys of every kind, time stamps and cabinets hold",
                "cargo test --locked -p xtask --lib --test package",
            ),
            step("the catalogue library's example works", "cargo test --locked -p xtask --doc"),
            step(
                "osslsigncode, signify and cabextract take the package and refuse changed copies; it can be made again",
                "cargo xtask package --time 1767225600 --verify --reproduce",
            ),
            step(
                "the INF sets what the driver reads, and every rule for INFs finds what breaks it",
                "cargo test --locked -p xtask --bin xtask inf::",
            ),
            step(
                "the packages' INFs break no rule of Windows",
                "cargo xtask inf lint target/dist/x64/weir.inf target/dist/arm64/weir.inf",
            ),
        ],
        Area::Wine => vec![
            Step {
                what: "what the stand-ins share holds",
                command: "cargo test --manifest-path tests/wine/Cargo.toml --locked --workspace",
                env: STAND_INS,
                finds: None,
            },
            step("the image runs in Wine", "cargo xtask wine"),
        ],
    }
}

/// Whether a line of a document is one of the steps, or all of them. A step may have more words than the line.
///
/// # Errors
/// It is none.
pub fn is_step(line: &str) -> Result<(), String> {
    const ALL: &str = "cargo xtask test";
    let mut steps = Area::value_variants().iter().flat_map(|area| steps(*area));
    let begins = |step: &Step| {
        step.command.strip_prefix(line).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    if line == ALL || steps.any(|step| begins(&step)) {
        Ok(())
    } else {
        Err(format!("`{line}` is no step of `{ALL}`"))
    }
}

/// What the tests need besides Rust's own tools: program, the argument by which it answers, Debian package.
const PROGRAMS: [(&str, &str, &str); 8] = [
    ("cc", "--version", "gcc"),
    ("c++", "--version", "g++"),
    ("clang", "--version", "clang"),
    ("valgrind", "--version", "valgrind"),
    ("osslsigncode", "--version", "osslsigncode"),
    ("openssl", "version", "openssl"),
    ("cabextract", "--version", "cabextract"),
    ("softhsm2-util", "--version", "softhsm2"),
];

/// Windows' headers, and their package.
const HEADERS: (&str, &str) = ("/usr/share/mingw-w64/include/ddk/ntddk.h", "mingw-w64-common");

/// Installs what is missing, or says how.
fn install() -> Result<(), String> {
    for (component, tool) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !has("cargo", tool) && !has(&format!("cargo-{tool}"), "--version") {
            install::rustup(&["component", "add", component], component, true)
                .map_err(|error| error.to_string())?;
        }
    }
    install::python().map_err(|error| error.to_string())?;
    let mut missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, argument, _)| !has(program, argument))
        .map(|(.., package)| *package)
        .collect();
    let (header, package) = HEADERS;
    if !Path::new(header).exists() {
        missing.push(package);
    }
    if missing.is_empty() {
        return Ok(());
    }
    install::packages(&missing, true).map_err(|error| error.to_string())
}

/// Installs what looks for races: a nightly toolchain, as the sanitizer and the interpreter are in no other.
fn install_nightly() -> Result<(), install::Missing> {
    let there = Command::new("rustup")
        .args(["component", "list", "--toolchain", "nightly", "--installed"])
        .output()
        .is_ok_and(|output| {
            let components = String::from_utf8_lossy(&output.stdout);
            ["miri-", "rust-src"].iter().all(|needed| components.lines().any(|line| line.starts_with(needed)))
        });
    if there {
        return Ok(());
    }
    let arguments = [
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "miri",
        "--component",
        "rust-src",
    ];
    install::rustup(&arguments, "a nightly toolchain with Miri", true)
}

/// Runs the command.
pub fn run(args: &TestArgs) -> ExitCode {
    if let Err(message) = install() {
        eprintln!("xtask: {message}");
        return ExitCode::FAILURE;
    }
    let areas = if args.areas.is_empty() { Area::value_variants().to_vec() } else { args.areas.clone() };
    if areas.contains(&Area::Ring)
        && let Err(missing) = install_nightly()
    {
        eprintln!("xtask: {missing}");
        return ExitCode::FAILURE;
    }
    let steps: Vec<_> = areas.into_iter().flat_map(steps).collect();
    let failed: Vec<_> = steps.iter().filter(|step| !step.run()).map(|step| step.what).collect();
    println!();
    for what in &failed {
        println!("FAILED: {what}");
    }
    println!("{} passed, {} failed", steps.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
