//! Security catalogues of Windows (`.cat`): makes them, reads them, and holds files against them, on any system.
//!
//! A catalogue lists digests of files, and a signature of the catalogue is thereby one of each of them. Windows takes a driver's
//! package only with a catalogue that lists every file of it (page "Catalog Files and Digital Signatures"). What is made here is
//! what Inf2Cat makes on Windows: a catalogue of version 2, in which a file has two members.
//!
//! | member | found by | attributes |
//! | --- | --- | --- |
//! | main | SHA-256 | `OSAttr`, `File`, what it is (a PE image, or a flat file), and the digest |
//! | second | SHA-1 | `OSAttr`, `File`, what it is |
//!
//! The catalogue itself has the attributes `OS` (systems) and `HWID1`… (devices). It is made unsigned; any program that signs
//! catalogues signs it (osslsigncode, SignTool).
//!
//! ```
//! use driver_catalog::{Builder, Catalog, OS_ATTR};
//!
//! let mut builder = Builder::new(1_767_225_600); // 2026-01-01
//! builder.systems(&["_v100_X64"])?;
//! builder.file("weir.inf", OS_ATTR, b"[Version]\r\n")?;
//! let bytes = builder.build()?;
//!
//! let catalog = Catalog::parse(&bytes)?;
//! assert_eq!(catalog.check("weir.inf", b"[Version]\r\n")?.file(), Some("weir.inf"));
//! assert!(catalog.check("weir.inf", b"[Version]\n").is_err());
//! # Ok::<(), driver_catalog::Error>(())
//! ```
//!
//! # What it does not do
//! It checks no signature: [`Signer`] says whether a signature is of this list, and not whether it is the signer's. It has no
//! page hashes, and digests neither cabinets nor installer packages. Nothing that it makes was given to Windows; osslsigncode
//! and signify, which share no code with it or with each other, read it.
//!
//! # Sources
//! RFC 2315 for the envelope, the pages "CTL_INFO structure" and "CryptCATCDFOpen function" for the list, mscat.h and wintrust.h
//! for attributes and identifiers, and "Windows Authenticode Portable Executable Signature Format" for digests. How they are
//! filled in is not documented: two members a file, the tags that say what a member is, the flags of a PE image and the order
//! of members are as catalogues have them that Windows brings, and that MakeCat and Inf2Cat make.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod asn1;
mod digest;
mod error;
mod inf;
#[path = "../inf/parse.rs"]
pub mod parse;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use digest::{FileDigest, Kind};
pub use error::Error;
pub use inf::{Architecture, Package};
pub use write::{Builder, OS_ATTR};

/// The largest catalogue that is read, in bytes. One of a driver has a few KiB, the largest of Windows itself a few MiB.
pub const MAX_CATALOG: usize = 32 << 20;

/// A catalogue that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// What tells it from others; 16 bytes as a rule.
    pub identifier: Vec<u8>,
    /// The time that it says it is of, in seconds since 1970 in UTC.
    pub this_update: u64,
    /// How its members are found.
    pub version: Version,
    /// What is said of all of it.
    pub attributes: Vec<Attribute>,
    /// The members, in the catalogue's order.
    pub members: Vec<Member>,
    /// Who says to have signed it; nobody before it is signed.
    pub signers: Vec<Signer>,
}

/// How members are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// By SHA-1, in hexadecimal digits.
    V1,
    /// By SHA-256, in bytes.
    V2,
}

/// A member of a catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// By which it is found: a digest. (Catalogues of version 1 have its hexadecimal digits; they are decoded.)
    pub tag: Vec<u8>,
    /// What is said of the file.
    pub attributes: Vec<Attribute>,
    /// The file's digest; members by SHA-1 have none in a catalogue of version 2.
    pub digest: Option<Digest>,
}

impl Member {
    /// The file's name, if it is given.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.text("File")
    }

    /// The text of an attribute.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|attribute| attribute.name == name).and_then(|attribute| match &attribute
            .value
        {
            Value::Text(text) => Some(text.as_str()),
            Value::Bytes(_) => None,
        })
    }
}

/// A digest of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// What it is of.
    pub kind: Kind,
    /// `SHA-256`, `SHA-1`, or another's object identifier.
    pub algorithm: String,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// How it is to be read, `CRYPTCAT_ATTR_*` (page "CRYPTCATATTRIBUTE structure").
    pub flags: u32,
    /// Its value.
    pub value: Value,
}

impl Attribute {
    /// The value is text: `CRYPTCAT_ATTR_DATAASCII`.
    pub const TEXT: u32 = 0x0001_0000;
    /// The signature covers it: `CRYPTCAT_ATTR_AUTHENTICATED`.
    pub const SIGNED: u32 = 0x1000_0000;
    /// The name is text: `CRYPTCAT_ATTR_NAMEASCII`.
    pub const NAME_TEXT: u32 = 0x0000_0001;
    /// As all attributes of a driver's catalogue are.
    pub const SIGNED_TEXT: u32 = Self::SIGNED | Self::TEXT | Self::NAME_TEXT;
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, without the NUL that ends it in a catalogue.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

/// Who says to have signed a catalogue. Whether it is their signature is for a program that has certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The subject of the certificate that is given for it (RFC 4514), if it is there.
    pub subject: Option<String>,
    /// The digest's algorithm: `SHA-256`, `SHA-1`, or another's object identifier.
    pub algorithm: String,
    /// What is signed has the digest of this list: nobody has changed the list after it was signed, unless they changed this,
    /// too, which breaks the signature itself.
    pub of_this_content: bool,
}
