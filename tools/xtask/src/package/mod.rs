//! `cargo xtask package`: the driver's package, signed, and the cabinet for the Hardware Dev Center. PACKAGE.md says how.
//!
//! 1. The images are built (`build`), or taken from a folder.
//! 2. For each architecture: the image is signed ([`sign`], with [`certificate`] if no other is given), the INF is made of
//!    inf/weir.inx (`inf::stamp`), the catalogue of both (the library `driver_catalog`), signed; and all of it is put into a
//!    [`cabinet`], signed.
//! 3. On request programs of others [`verify`] it, and it is made again and compared.

mod cabinet;
pub mod catalog;
mod certificate;
mod report;
mod sign;
mod time;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use driver_catalog::{Architecture, Builder, Catalog};
use sha2::{Digest as _, Sha256};

use crate::build::Arch;
use crate::inf;
use crate::inf::stamp::{Date, Version};
use crate::step::root;
use catalog::read;
use report::Report;
use sign::{Error, SignArgs, Signer};
use time::Moment;

#[derive(clap::Args)]
pub struct PackageArgs {
    /// The architectures; both without any
    #[arg(long, value_enum)]
    arch: Vec<Arch>,
    /// Takes the images (weir.sys, weir.pdb) from the folders x64 and arm64 of DIR, and builds none
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Where the packages are left; target/dist by default
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The package's version; by default the driver's
    #[arg(long, value_name = "W.X.Y.Z", default_value = env!("CARGO_PKG_VERSION"))]
    driver_version: Version,
    /// The time of package and signatures, in seconds since 1970; by default SOURCE_DATE_EPOCH, or now. With either, and
    /// without --timestamp, the output is the same each time
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    #[command(flatten)]
    sign: SignArgs,
    /// Then has osslsigncode, signify and cabextract verify all of it, and refuse changed copies
    #[arg(long)]
    verify: bool,
    /// What to trust in that, PEM; the test certificate by default
    #[arg(long, value_name = "FILE", requires = "verify")]
    trust: Option<PathBuf>,
    /// Then makes all of it again, elsewhere, and compares; needs a fixed time
    #[arg(long, conflicts_with = "timestamp")]
    reproduce: bool,
    /// Print one JSON object; progress is on standard error
    #[arg(long)]
    json: bool,
}

/// A file of a package.
#[derive(Clone, Debug)]
pub struct File {
    pub name: String,
    pub bytes: usize,
    pub sha256: String,
}

/// What was made for one architecture.
#[derive(Debug)]
pub struct Package {
    pub arch: Arch,
    pub folder: PathBuf,
    pub files: Vec<File>,
    /// The subject of the certificate that has signed.
    pub signer: String,
    /// Files that the catalogue lists.
    listed: Vec<String>,
}

impl Package {
    /// The files that the catalogue lists.
    pub fn listed(&self) -> Vec<String> {
        self.listed.clone()
    }

    /// The files of the cabinet: what the catalogue lists, the catalogue, the symbols, by which Microsoft analyses crashes, and what
    /// asks for traces.
    pub fn submitted(&self) -> Vec<String> {
        let others = ["weir.cat", "weir.pdb"].into_iter().chain(PROFILES).map(str::to_owned);
        self.listed.iter().cloned().chain(others).collect()
    }
}

impl From<Arch> for Architecture {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::X64 => Self::Amd64,
            Arch::Arm64 => Self::Arm64,
        }
    }
}

/// What all packages of a run are made with.
struct Maker<'run> {
    images: &'run Path,
    signer: &'run Signer,
    version: Version,
    time: Moment,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    fs::write(path, content).map_err(io(path))
}

/// Bytes as people compare them.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What else belongs to a package and is in inf/: what asks for traces. The INF does not install it.
pub const PROFILES: [&str; 2] = ["weir-autologger.reg", "weir.wprp"];

impl Maker<'_> {
    /// Makes the package of an architecture in a folder, which gets nothing if something fails.
    fn make(&self, arch: Arch, output: &Path, report: &Report) -> Result<Package, String> {
        let staging = output.join(".staging");
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(io(&staging))?;
        }
        fs::create_dir_all(&staging).map_err(io(&staging))?;
        let made = self.fill(arch, &staging, report).and_then(|mut package| {
            package.folder = output.join(arch.name());
            package.files = publish(&staging, &package.folder)?;
            Ok(package)
        });
        fs::remove_dir_all(&staging).map_err(io(&staging))?;
        made
    }

    /// Makes the files of a package in a folder of their own.
    fn fill(&self, arch: Arch, staging: &Path, report: &Report) -> Result<Package, String> {
        let name = arch.name();
        let at = |name: &str| staging.join(name);
        for file in ["weir.sys", "weir.pdb"] {
            write(&at(file), &read(&self.images.join(name).join(file))?)?;
        }
        report.say(&format!("   {name}: signing weir.sys"));
        self.signer.sign(&at("weir.sys"))?;
        let inf = self.inf(arch)?;
        write(&at("weir.inf"), inf.as_bytes())?;

        report.say(&format!("   {name}: the catalogue"));
        let mut builder = Builder::new(self.time.seconds);
        builder
            .package("weir.inf", inf.as_bytes(), arch.into(), |file| fs::read(at(file)))
            .map_err(|error| format!("weir.inf: {error}"))?;
        write(&at("weir.cat"), &builder.build().map_err(|error| error.to_string())?)?;
        self.signer.sign(&at("weir.cat"))?;
        let (listed, signer) = look(&at("weir.cat"))?;
        let package = Package { arch, folder: staging.to_owned(), files: Vec::new(), signer, listed };

        for profile in PROFILES {
            write(&at(profile), &read(&root().join("inf").join(profile))?)?;
        }
        report.say(&format!("   {name}: the cabinet"));
        let contents =
            package.submitted().into_iter().map(|file| read(&at(&file)).map(|content| (file, content)));
        let contents = contents.collect::<Result<Vec<_>, _>>()?;
        write(&at("weir.cab"), &cabinet::make(name, &contents, self.time)?)?;
        self.signer.sign(&at("weir.cab"))?;

        if let Some(certificate) = self.signer.test_certificate() {
            write(&at(report::TEST_CERTIFICATE), &read(&certificate.cer())?)?;
        }
        Ok(package)
    }

    /// The INF, which InfVerif would take.
    fn inf(&self, arch: Arch) -> Result<String, String> {
        let inx = inf::inx();
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", inx.display());
        let text = fs::read_to_string(&inx).map_err(|error| wrong(&error))?;
        let date = Date::from_unix(self.time.seconds);
        let date = date.ok_or_else(|| format!("no package can be of {}", self.time))?;
        let inf = inf::stamp::stamp(&text, arch, self.version, date).map_err(|error| wrong(&error))?;
        let errors = inf::errors(inf.as_bytes());
        if errors.is_empty() { Ok(inf) } else { Err(wrong(&errors.join("; "))) }
    }
}

/// Puts the files of a folder into another one, in the order of their names.
fn publish(from: &Path, to: &Path) -> Result<Vec<File>, String> {
    fs::create_dir_all(to).map_err(io(to))?;
    // Of an earlier run: it may be another's, or of no use now.
    let certificate = to.join(report::TEST_CERTIFICATE);
    if certificate.exists() {
        fs::remove_file(&certificate).map_err(io(&certificate))?;
    }
    let mut files = Vec::new();
    for entry in from.read_dir().map_err(io(from))? {
        let path = entry.map_err(io(from))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = read(&path)?;
        write(&to.join(&name), &content)?;
        files.push(File { name, bytes: content.len(), sha256: hex(&Sha256::digest(&content)) });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// The files that a signed catalogue lists, and who has signed it.
fn look(path: &Path) -> Result<(Vec<String>, String), String> {
    let catalog = Catalog::parse(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
    let main = catalog.members.iter().filter(|member| member.digest.is_some());
    let mut files: Vec<_> = main.filter_map(|member| member.file().map(str::to_owned)).collect();
    files.sort();
    match &catalog.signers[..] {
        [signer] if signer.of_this_content => {
            Ok((files, signer.subject.clone().unwrap_or_else(|| "nobody who is named".into())))
        }
        _ => Err(format!("{}: the signature that was made is not of it", path.display())),
    }
}

/// Builds the images.
fn build(archs: &[Arch], report: &Report) -> Result<PathBuf, String> {
    report.say("building the images (minutes, if they are not up to date)");
    // In a process of its own, so that what it prints does not get into the report.
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.arg("build").current_dir(root()).stdin(Stdio::null());
    for arch in archs {
        command.args(["--arch", arch.name()]);
    }
    if report.json {
        command.stdout(std::io::stderr());
    }
    let status = command.status().map_err(|error| format!("cargo xtask build: {error}"))?;
    if status.success() {
        Ok(root().join("target/dist"))
    } else {
        Err("the images could not be built: see above".into())
    }
}

/// Makes all again in another folder, and says which files differ.
fn reproduce(maker: &Maker<'_>, packages: &[Package], output: &Path, report: &Report) -> Result<(), String> {
    report.say("making all of it again");
    let folder = output.join(".again");
    let mut different = Vec::new();
    for package in packages {
        let again = maker.make(package.arch, &folder, report)?;
        for (one, other) in package.files.iter().zip(&again.files) {
            if (&one.name, &one.sha256) != (&other.name, &other.sha256) {
                different.push(format!("{}/{}", package.arch.name(), one.name));
            }
        }
    }
    if !different.is_empty() {
        return Err(format!(
            "not the same a second time: {} (see {})",
            different.join(", "),
            folder.display()
        ));
    }
    fs::remove_dir_all(&folder).map_err(io(&folder))
}

/// Whether all held that was to be verified.
fn package(args: &PackageArgs) -> Result<bool, Error> {
    let time = Moment::choose(args.time)?;
    let mut report = Report::new(args.json, time);
    if args.reproduce && !time.fixed {
        return Err(Error::Usage("--reproduce needs a fixed time: --time, or SOURCE_DATE_EPOCH".into()));
    }
    sign::install_programs()?;
    if args.verify {
        verify::install_programs()?;
    }
    let signer = args.sign.signer(time)?;
    let trusted = match (&args.trust, signer.test_certificate()) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(certificate)) => Some(certificate.pem()),
        (None, None) if args.verify => {
            return Err(Error::Usage(
                "--verify needs what to trust for this certificate: --trust FILE".into(),
            ));
        }
        (None, None) => None,
    };
    let archs = if args.arch.is_empty() { vec![Arch::X64, Arch::Arm64] } else { args.arch.clone() };
    let images = match &args.images {
        Some(folder) => folder.clone(),
        None => build(&archs, &report)?,
    };
    let output = args.output.clone().unwrap_or_else(|| root().join("target/dist"));
    report.say(&format!("signing with {}", signer.source()));
    let maker = Maker { images: &images, signer: &signer, version: args.driver_version, time };
    let packages: Vec<_> =
        archs.iter().map(|arch| maker.make(*arch, &output, &report)).collect::<Result<_, _>>()?;
    if let Some(trusted) = trusted.filter(|_| args.verify) {
        for package in &packages {
            report.say(&format!("verifying the package for {}", package.arch.name()));
            let folder = output.join(".changed");
            report.verified(package.arch, verify::verify(package, &trusted, &folder)?);
        }
    }
    if args.reproduce {
        reproduce(&maker, &packages, &output, &report)?;
        report.reproduced();
    }
    Ok(report.finish(&packages, &signer))
}

/// Runs the command.
pub fn run(args: &PackageArgs) -> ExitCode {
    match package(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Error::Failed(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
        Err(Error::Usage(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::from(2)
        }
    }
}
