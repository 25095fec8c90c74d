//! The test certificate: what a package is signed with if nobody gives a certificate.
//!
//! Its key is kept, readable by its owner alone, and is nobody else's: whoever has it can sign what a machine loads that trusts
//! it. The certificate follows from the key, so that the same key gives the same bytes: the serial number is a digest of it,
//! and the validity is fixed. RSA with 3072 bits and SHA-256, which the kernel's loader takes (page "Driver code signing
//! requirements": SHA2; signatures of elliptic curves are not among what is documented for drivers).

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr as _;

use der::asn1::{BitString, Null, ObjectIdentifier, OctetString, UtcTime};
use der::flagset::FlagSet;
use der::pem::LineEnding;
use der::{DateTime, Decode as _, Encode as _};
use sha2::{Digest as _, Sha256};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::certificate::{Certificate, TbsCertificate, Version};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};

const SUBJECT: &str = "CN=weir test signing (this machine only)";
/// sha256WithRSAEncryption (RFC 4055).
const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
/// id-kp-codeSigning (RFC 5280, section 4.2.1.12).
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
const SUBJECT_KEY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");

/// A test certificate with its key, in files of one folder.
#[derive(Debug)]
pub struct TestCertificate {
    folder: PathBuf,
    /// Its key was made for this.
    pub made: bool,
}

impl TestCertificate {
    /// The key, PEM.
    pub fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// The certificate as Windows takes it, DER.
    pub fn cer(&self) -> PathBuf {
        self.folder.join("certificate.cer")
    }

    /// Takes the key that is in the folder, or makes one; and makes the certificate, which is the same each time.
    ///
    /// # Errors
    /// Files that cannot be written, or what OpenSSL says.
    pub fn make_or_keep(folder: &Path) -> Result<Self, String> {
        let mut made = Self { folder: folder.to_owned(), made: false };
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let path = made.key();
        if path.exists() {
            let there = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            if there.permissions().mode() & 0o077 != 0 {
                return Err(format!(
                    "{}: others can read this key; make another one (--new-test-certificate)",
                    path.display()
                ));
            }
        } else {
            let key = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"], &[])?;
            write_private(&path, &key)?;
            made.made = true;
        }
        let certificate = made.certificate()?;
        let der = certificate.to_der().map_err(|error| error.to_string())?;
        let pem = der::pem::encode_string("CERTIFICATE", LineEnding::LF, &der)
            .map_err(|error| error.to_string())?;
        for (path, content) in [(made.pem(), pem.as_bytes()), (made.cer(), &der[..])] {
            fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(made)
    }

    /// Removes a key, so that a new one is made.
    ///
    /// # Errors
    /// It is there and stays.
    pub fn remove(folder: &Path) -> Result<(), String> {
        let path = folder.join("key.pem");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn certificate(&self) -> Result<Certificate, String> {
        let path = self.key();
        let key = path.to_string_lossy();
        let public = openssl(&["pkey", "-in", &key, "-pubout", "-outform", "DER"], &[])?;
        let unsigned = unsigned(&public).map_err(|error| format!("the test certificate: {error}"))?;
        let signed = unsigned.to_der().map_err(|error| error.to_string())?;
        let signature = openssl(&["dgst", "-sha256", "-sign", &key], &signed)?;
        let signature = BitString::from_bytes(&signature).map_err(|error| error.to_string())?;
        Ok(Certificate { tbs_certificate: unsigned, signature_algorithm: algorithm(), signature })
    }
}

fn algorithm() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: SHA256_WITH_RSA, parameters: Some(Null.into()) }
}

/// A certificate that signs itself and code, and nothing else.
fn unsigned(public: &[u8]) -> der::Result<TbsCertificate> {
    let subject = Name::from_str(SUBJECT)?;
    let day = |year, month, day| -> der::Result<Time> {
        Ok(Time::UtcTime(UtcTime::from_date_time(DateTime::new(year, month, day, 0, 0, 0)?)?))
    };
    let identity = Sha256::digest(public);
    let mut serial = identity[..16].to_vec();
    // Positive, and not shorter than it looks.
    serial[0] = serial[0] & 0x7F | 0x40;
    let extension = |extn_id, critical, value: Vec<u8>| -> der::Result<Extension> {
        Ok(Extension { extn_id, critical, extn_value: OctetString::new(value)? })
    };
    let usage = KeyUsage(FlagSet::from(KeyUsages::DigitalSignature));
    Ok(TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial)?,
        signature: algorithm(),
        issuer: subject.clone(),
        validity: Validity { not_before: day(2020, 1, 1)?, not_after: day(2049, 12, 31)? },
        subject,
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(public)?,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(vec![
            extension(KEY_USAGE, true, usage.to_der()?)?,
            extension(EXTENDED_KEY_USAGE, false, ExtendedKeyUsage(vec![CODE_SIGNING]).to_der()?)?,
            extension(
                SUBJECT_KEY_IDENTIFIER,
                false,
                SubjectKeyIdentifier(OctetString::new(&identity[..20])?).to_der()?,
            )?,
        ]),
    })
}

/// Writes a file that nobody else may read, in one step.
fn write_private(path: &Path, content: &[u8]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(content).map_err(failed)
}

/// What OpenSSL writes, given arguments and an input.
fn openssl(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("openssl: {error}");
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let what = arguments.first().unwrap_or(&"");
        Err(format!("openssl {what}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
