//! Signatures, by osslsigncode: with a certificate that is given as a file or by a token, or with a test certificate.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::certificate::TestCertificate;
use super::time::Moment;
use crate::install;
use crate::step::{has, root};

/// The signing program, and its package.
const SIGNER: &str = "osslsigncode";
/// Where Debian has OpenSSL's engine for tokens (libengine-pkcs11-openssl), by architecture.
const ENGINES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so", "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so"];

/// How a package is to be signed, as the command line says it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SignArgs {
    /// The certificate to sign with, and its chain: PEM, or PKCS #12 (.pfx, .p12) with its key
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The key of a PEM certificate; with --pkcs11-module, the key's pkcs11: URI
    #[arg(long, value_name = "FILE|URI")]
    key: Option<String>,
    /// The environment variable that has the password of the key, or the token's PIN
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    password_env: Option<String>,
    /// The file that has the password of the key, or the token's PIN
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The PKCS #11 module of the token that has the key
    #[arg(long, value_name = "FILE", requires = "key")]
    pkcs11_module: Option<PathBuf>,
    /// The pkcs11: URI of the certificate on the token, where --certificate does not name a file
    #[arg(long, value_name = "URI", requires = "pkcs11_module", conflicts_with = "certificate")]
    pkcs11_certificate: Option<String>,
    /// OpenSSL's engine for PKCS #11; Debian's libengine-pkcs11-openssl by default
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pkcs11_engine: Option<PathBuf>,
    /// The URL of an RFC 3161 time stamp service. The output is another each time, then
    #[arg(long, value_name = "URL")]
    pub timestamp: Option<String>,
    /// Where the test certificate and its key are kept; target/test-signing by default
    #[arg(long, value_name = "DIR", conflicts_with_all = ["certificate", "pkcs11_module"])]
    test_signing: Option<PathBuf>,
    /// Makes a new test certificate in place of the one that is kept
    #[arg(long, conflicts_with_all = ["certificate", "pkcs11_module"])]
    new_test_certificate: bool,
}

/// Who signs.
enum Who {
    /// A certificate with its key, in files.
    Files { certificate: PathBuf, key: String },
    /// Both in one file.
    Container(PathBuf),
    /// A key on a token.
    Token { module: PathBuf, engine: Option<PathBuf>, key: String, certificate: TokenCertificate },
    /// A certificate that was made here.
    Test(TestCertificate),
}

enum TokenCertificate {
    File(PathBuf),
    OnToken(String),
}

/// Where a password is.
enum Password {
    None,
    Text(String),
    File(PathBuf),
}

/// What signs.
pub struct Signer {
    who: Who,
    password: Password,
    timestamp: Option<String>,
    time: Moment,
}

/// A failure of the command line, or of what it names.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    Usage(String),
    Failed(String),
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

impl SignArgs {
    /// What was asked for: a test certificate if nothing was, which is made if there is none yet.
    ///
    /// # Errors
    /// Arguments that do not go together, or files that are not there.
    pub fn signer(&self, time: Moment) -> Result<Signer, Error> {
        let password = match (&self.password_env, &self.password_file) {
            (Some(name), _) => Password::Text(
                std::env::var(name)
                    .map_err(|_| Error::Usage(format!("--password-env: {name} is not set")))?,
            ),
            (None, Some(path)) => Password::File(there(path)?.to_owned()),
            (None, None) => Password::None,
        };
        let who = match (&self.certificate, &self.key, &self.pkcs11_module) {
            (certificate, Some(key), Some(module)) => {
                let certificate = match (certificate, &self.pkcs11_certificate) {
                    (Some(path), _) => TokenCertificate::File(there(path)?.to_owned()),
                    (None, Some(uri)) => TokenCertificate::OnToken(uri.clone()),
                    (None, None) => {
                        let why = "--pkcs11-module needs --pkcs11-certificate, or --certificate with a file";
                        return Err(Error::Usage(why.into()));
                    }
                };
                let engine =
                    self.pkcs11_engine.as_deref().map(|path| there(path).map(Path::to_owned)).transpose()?;
                if engine.is_none() {
                    install_engine()?;
                }
                Who::Token { module: there(module)?.to_owned(), engine, key: key.clone(), certificate }
            }
            (Some(certificate), key, _) => {
                let certificate = there(certificate)?.to_owned();
                let extension = certificate.extension().unwrap_or_default().to_ascii_lowercase();
                match (extension == "pfx" || extension == "p12", key) {
                    (true, None) => Who::Container(certificate),
                    (true, Some(_)) => {
                        return Err(Error::Usage(
                            "a PKCS #12 file has its key in it: leave --key out".into(),
                        ));
                    }
                    (false, Some(key)) => {
                        there(Path::new(key))?;
                        Who::Files { certificate, key: key.clone() }
                    }
                    (false, None) => {
                        return Err(Error::Usage("a PEM certificate needs its key: --key FILE".into()));
                    }
                }
            }
            (None, Some(_), None) => {
                return Err(Error::Usage("--key needs --certificate, or --pkcs11-module".into()));
            }
            (None, None, _) => {
                let folder = self.test_signing.clone().unwrap_or_else(|| root().join("target/test-signing"));
                if self.new_test_certificate {
                    TestCertificate::remove(&folder)?;
                }
                Who::Test(TestCertificate::make_or_keep(&folder)?)
            }
        };
        Ok(Signer { who, password, timestamp: self.timestamp.clone(), time })
    }
}

fn there(path: &Path) -> Result<&Path, Error> {
    if path.is_file() { Ok(path) } else { Err(Error::Usage(format!("no such file: {}", path.display()))) }
}

/// Installs the engine of Debian's, which OpenSSL finds by its name.
fn install_engine() -> Result<(), Error> {
    if ENGINES.iter().any(|path| Path::new(path).exists()) {
        return Ok(());
    }
    install::packages(&["libengine-pkcs11-openssl"], true)
        .map_err(|missing| Error::Failed(missing.to_string()))
}

/// Installs the programs that make and check signatures, where they are not there.
///
/// # Errors
/// They cannot be installed.
pub fn install_programs() -> Result<(), String> {
    let programs = [(SIGNER, "--version", SIGNER), ("openssl", "version", "openssl")];
    let missing: Vec<_> = programs.iter().filter(|(program, argument, _)| !has(program, argument)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|(.., package)| *package).collect();
    install::packages(&packages, true).map_err(|missing| missing.to_string())
}

impl Signer {
    /// The test certificate, if that is what signs.
    pub fn test_certificate(&self) -> Option<&TestCertificate> {
        if let Who::Test(certificate) = &self.who { Some(certificate) } else { None }
    }

    /// Where key and certificate come from.
    pub fn source(&self) -> String {
        match &self.who {
            Who::Files { certificate, key } => format!("{} with the key {key}", certificate.display()),
            Who::Container(path) => path.display().to_string(),
            Who::Token { module, .. } => format!("a token, by {}", module.display()),
            Who::Test(certificate) if certificate.made => {
                format!("a test certificate, made for this: {}", certificate.pem().display())
            }
            Who::Test(certificate) => {
                format!("a test certificate, made earlier: {}", certificate.pem().display())
            }
        }
    }

    /// The same bytes come of the same bytes.
    pub fn repeats(&self) -> bool {
        self.time.fixed && self.timestamp.is_none()
    }

    /// Signs a file (an image, a catalogue or a cabinet), in place.
    ///
    /// # Errors
    /// What the signing program says.
    pub fn sign(&self, file: &Path) -> Result<(), String> {
        let signed = file.with_added_extension("signed");
        if signed.exists() {
            fs::remove_file(&signed).map_err(|error| format!("{}: {error}", signed.display()))?;
        }
        let mut command = Command::new(SIGNER);
        // No page hashes (-ph): Microsoft's article KB3194715 says that images linked with /INTEGRITYCHECK, as weir.sys is,
        // and signed with them are refused.
        command.args(["sign", "-h", "sha256", "-n", "weir"]);
        match &self.who {
            Who::Files { certificate, key } => {
                command.arg("-certs").arg(certificate).arg("-key").arg(key);
            }
            Who::Container(path) => {
                command.arg("-pkcs12").arg(path);
            }
            Who::Token { module, engine, key, certificate } => {
                if let Some(engine) = engine {
                    command.arg("-pkcs11engine").arg(engine);
                }
                command.arg("-pkcs11module").arg(module).arg("-key").arg(key);
                match certificate {
                    TokenCertificate::File(path) => command.arg("-certs").arg(path),
                    TokenCertificate::OnToken(uri) => command.arg("-pkcs11cert").arg(uri),
                };
            }
            Who::Test(certificate) => {
                command.arg("-certs").arg(certificate.pem()).arg("-key").arg(certificate.key());
            }
        }
        match &self.password {
            Password::None => {}
            // Not among the arguments, which everybody on the machine can read.
            Password::Text(_) => {
                command.args(["-readpass", "/dev/stdin"]);
            }
            Password::File(path) => {
                command.arg("-readpass").arg(path);
            }
        }
        if let Some(url) = &self.timestamp {
            command.args(["-ts", url]);
        }
        command.args(["-time", &self.time.seconds.to_string()]);
        command.arg("-in").arg(file).arg("-out").arg(&signed);
        let input = if let Password::Text(text) = &self.password { text.as_str() } else { "" };
        let output = run(&mut command, input)?;
        if !output.status.success() || !signed.is_file() {
            return Err(format!("{}: osslsigncode cannot sign it: {}", file.display(), said(&output)));
        }
        fs::rename(&signed, file).map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// Runs a command with a text as its standard input.
fn run(command: &mut Command, input: &str) -> Result<Output, String> {
    let failed = |error: std::io::Error| format!("{SIGNER}: {error}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input has ended, and says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(failed)
}

/// What a program has said, on one line.
fn said(output: &Output) -> String {
    let text = [&output.stderr[..], &output.stdout[..]].map(String::from_utf8_lossy).concat();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

/// Has osslsigncode verify the signature of a file against certificates to trust.
///
/// # Errors
/// What it says.
pub fn verify(file: &Path, trusted: &Path) -> Result<(), String> {
    verified(&[], file, trusted)
}

/// Has osslsigncode verify that a signed catalogue is of a file.
///
/// # Errors
/// What it says.
pub fn verify_by_catalog(file: &Path, catalog: &Path, trusted: &Path) -> Result<(), String> {
    verified(&["-catalog".as_ref(), catalog.as_os_str()], file, trusted)
}

fn verified(arguments: &[&std::ffi::OsStr], file: &Path, trusted: &Path) -> Result<(), String> {
    let mut command = Command::new(SIGNER);
    command.arg("verify").args(arguments).arg("-CAfile").arg(trusted).arg("-in").arg(file);
    let output = run(&mut command, "")?;
    if output.status.success() {
        return Ok(());
    }
    // The line that says it, and not what leads there.
    let all = said(&output);
    let telling = ["mismatch", "not found", "error", "failed", "Failed"];
    let why: Vec<_> = all.split("; ").filter(|line| telling.iter().any(|word| line.contains(word))).collect();
    Err(if why.is_empty() { all } else { why.join("; ") })
}
