//! `cargo xtask catalog`: security catalogues of any driver's package, by the library `driver_catalog`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use driver_catalog::{Builder, Catalog, Kind, Member, OS_ATTR, Package, Value, Version};
use serde_json::json;

use super::time::Moment;
use super::{hex, sign};
use crate::build::Arch;

#[derive(clap::Args)]
pub struct CatalogArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Makes a catalogue, not signed: of an INF and the files that it names, or of files
    ///
    /// Exit code: 0 done; 1 it could not be done; 2 usage.
    Make(MakeArgs),
    /// Lists what a catalogue says
    ///
    /// Exit code: 0 it is a catalogue; 1 it is none; 2 usage.
    List(ListArgs),
    /// Holds files against a catalogue
    ///
    /// Without --ca its signature is not checked, and the output says so.
    /// Exit code: 0 all files are in it; 1 one is not, or the signature does not hold; 2 usage.
    Check(CheckArgs),
}

#[derive(clap::Args)]
struct MakeArgs {
    /// The INF; its files are looked for in its folder
    #[arg(long, required_unless_present = "files")]
    inf: Option<PathBuf>,
    /// Whose files of the INF are listed
    #[arg(long, value_enum, default_value_t = Arch::X64)]
    arch: Arch,
    /// More files
    files: Vec<PathBuf>,
    /// The catalogue that is written
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The time that it is of, in seconds since 1970; by default SOURCE_DATE_EPOCH, or now
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct ListArgs {
    /// The catalogue
    catalog: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct CheckArgs {
    /// The catalogue
    catalog: PathBuf,
    /// The files
    #[arg(required_unless_present = "inf")]
    files: Vec<PathBuf>,
    /// An INF: it and the files that it names
    #[arg(long)]
    inf: Option<PathBuf>,
    /// Whose files of the INF are checked
    #[arg(long, value_enum, default_value_t = Arch::X64)]
    arch: Arch,
    /// Certificates to trust (PEM): has osslsigncode check the signature, too
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads a file, or says why not.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A file that an INF names, in the INF's folder.
fn beside(inf: &Path, file: &str) -> PathBuf {
    let folder = inf.parent().unwrap_or(Path::new(""));
    file.split('\\').fold(folder.to_owned(), |path, step| path.join(step))
}

fn make(args: &MakeArgs) -> Result<(), String> {
    let time = Moment::choose(args.time)?;
    let mut builder = Builder::new(time.seconds);
    if let Some(inf) = &args.inf {
        let load = |file: &str| fs::read(beside(inf, file));
        builder
            .package(&name(inf), &read(inf)?, args.arch.into(), load)
            .map_err(|error| format!("{}: {error}", inf.display()))?;
    }
    for file in &args.files {
        builder
            .file(&name(file), OS_ATTR, &read(file)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let bytes = builder.build().map_err(|error| error.to_string())?;
    fs::write(&args.output, &bytes).map_err(|error| format!("{}: {error}", args.output.display()))?;
    // What was written, read again.
    show(&args.output, &bytes, args.json)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Catalog, String> {
    Catalog::parse(bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Pe => "image".into(),
        Kind::Flat => "flat".into(),
        Kind::Other(oid) => oid.clone(),
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => hex(bytes),
    }
}

fn attributes(attributes: &[driver_catalog::Attribute]) -> BTreeMap<&str, String> {
    attributes.iter().map(|attribute| (attribute.name.as_str(), value(&attribute.value))).collect()
}

fn member_json(member: &Member) -> serde_json::Value {
    json!({
        "tag": hex(&member.tag),
        "attributes": attributes(&member.attributes),
        "digest": member.digest.as_ref().map(|digest| json!({
            "of": kind(&digest.kind),
            "algorithm": digest.algorithm,
            "value": hex(&digest.value),
        })),
    })
}

fn show(path: &Path, bytes: &[u8], as_json: bool) -> Result<(), String> {
    let catalog = parse(path, bytes)?;
    let version = match catalog.version {
        Version::V1 => 1,
        Version::V2 => 2,
    };
    if as_json {
        let members: Vec<_> = catalog.members.iter().map(member_json).collect();
        let signers: Vec<_> = catalog
            .signers
            .iter()
            .map(|signer| {
                json!({
                    "subject": signer.subject,
                    "algorithm": signer.algorithm,
                    "of_this_content": signer.of_this_content,
                })
            })
            .collect();
        let report = json!({
            "catalog": path.display().to_string(),
            "bytes": bytes.len(),
            "version": version,
            "identifier": hex(&catalog.identifier),
            "time": catalog.this_update,
            "attributes": attributes(&catalog.attributes),
            "members": members,
            "signers": signers,
        });
        println!("{report:#}");
        return Ok(());
    }
    println!(
        "{}: version {version}, {} bytes, of {} (identifier {})",
        path.display(),
        bytes.len(),
        Moment::fixed(catalog.this_update),
        hex(&catalog.identifier)
    );
    for attribute in &catalog.attributes {
        println!("   {} = {}", attribute.name, value(&attribute.value));
    }
    for member in &catalog.members {
        let of = member.digest.as_ref().map_or("without a digest".into(), |digest| kind(&digest.kind));
        println!("   {}  {of}", hex(&member.tag));
        for attribute in &member.attributes {
            println!("      {} = {}", attribute.name, value(&attribute.value));
        }
    }
    if catalog.signers.is_empty() {
        println!("   not signed");
    }
    for signer in &catalog.signers {
        println!(
            "   signed by {} ({}); the signature is {} (whether it is theirs: catalog check --ca)",
            signer.subject.as_deref().unwrap_or("somebody whose certificate is not in it"),
            signer.algorithm,
            if signer.of_this_content { "of this content" } else { "NOT of this content" }
        );
    }
    Ok(())
}

/// Whether all held.
fn check(args: &CheckArgs) -> Result<bool, String> {
    let catalog = parse(&args.catalog, &read(&args.catalog)?)?;
    let mut files = args.files.clone();
    if let Some(path) = &args.inf {
        let wrong = |error| format!("{}: {error}", path.display());
        let package = Package::of(&read(path)?, args.arch.into()).map_err(wrong)?;
        files.push(path.clone());
        files.extend(package.files.iter().map(|file| beside(path, file)));
    }
    let mut found = Vec::new();
    for file in &files {
        let listed = read(file).and_then(|data| {
            let member = catalog.check(&name(file), &data).map_err(|error| error.to_string())?;
            let digest = member.digest.as_ref().map(|digest| kind(&digest.kind));
            Ok(digest.unwrap_or_default())
        });
        found.push((file.display().to_string(), listed));
    }
    let signature = args.ca.as_ref().map(|ca| sign::verify(&args.catalog, ca));
    let passed =
        found.iter().all(|(_, listed)| listed.is_ok()) && signature.as_ref().is_none_or(Result::is_ok);
    if args.json {
        let files: Vec<_> = found
            .iter()
            .map(|(file, listed)| json!({"file": file, "listed": listed.is_ok(), "why_not": listed.as_ref().err()}))
            .collect();
        let signature =
            signature.as_ref().map(|held| json!({"held": held.is_ok(), "why_not": held.as_ref().err()}));
        println!("{:#}", json!({"passed": passed, "files": files, "signature": signature}));
        return Ok(passed);
    }
    for (file, listed) in &found {
        match listed {
            Ok(kind) => println!("PASS  {file}: in the catalogue ({kind})"),
            Err(why) => println!("FAIL  {file}: {why}"),
        }
    }
    match &signature {
        Some(Ok(())) => println!("PASS  the signature, as osslsigncode says"),
        Some(Err(why)) => println!("FAIL  the signature: {why}"),
        None => println!("NOTE  the signature was not checked (--ca FILE has it checked)"),
    }
    Ok(passed)
}

/// Runs the command.
pub fn run(args: &CatalogArgs) -> ExitCode {
    let done = match &args.command {
        Command::Make(args) => make(args).map(|()| true),
        Command::List(args) => {
            read(&args.catalog).and_then(|bytes| show(&args.catalog, &bytes, args.json)).map(|()| true)
        }
        Command::Check(args) => check(args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
