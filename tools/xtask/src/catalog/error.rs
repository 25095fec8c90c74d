//! What can be wrong with a catalogue, and with what one is made of.

use std::fmt;

/// Why there is no catalogue, or why a file is not what a catalogue says.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A part of a catalogue is not the ASN.1 that it must be.
    Encoding {
        /// The part.
        part: &'static str,
        /// What is wrong with it, and at which byte of it.
        source: der::Error,
    },
    /// The file is larger than a reader takes.
    TooLarge {
        /// What is too large.
        part: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The largest that is taken, in bytes.
        limit: usize,
    },
    /// The file is well formed, and no catalogue.
    NotCatalog {
        /// What it is instead.
        found: String,
    },
    /// The members are of a version that is not known.
    UnknownVersion {
        /// The object identifier of the version.
        algorithm: String,
    },
    /// A member that is not what the format says.
    Member {
        /// Which one, counted from 0.
        index: usize,
        /// What is wrong.
        why: String,
    },
    /// A file starts like a PE image and cannot be digested like one.
    Image {
        /// What is wrong.
        why: String,
    },
    /// A file of a kind whose digest is neither that of a PE image nor that of its bytes.
    Kind {
        /// The kind.
        kind: &'static str,
    },
    /// Two files with the same content: a catalogue lists contents, each once.
    SameContent {
        /// The name that is listed.
        first: String,
        /// The name that was to be listed, too.
        second: String,
    },
    /// A text that an attribute cannot hold.
    Text {
        /// The attribute.
        attribute: String,
        /// What is wrong with its name or its value.
        why: &'static str,
    },
    /// A time that no catalogue can have.
    Time {
        /// Seconds since 1970.
        seconds: u64,
    },
    /// A catalogue without a member says nothing.
    Empty,
    /// The catalogue does not list a file.
    NotListed {
        /// The file's SHA-256, as it is digested for catalogues.
        digest: String,
        /// The digest that the catalogue lists under the file's name, if it lists another.
        listed: Option<String>,
    },
    /// An INF does not say what a catalogue needs.
    Inf {
        /// The line, from 1, if it is one.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// A file of the package cannot be read.
    File {
        /// Its name in the INF.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding { part, source } => write!(f, "{part}: {source}"),
            Self::TooLarge { part, size, limit } => {
                write!(f, "{part}: {size} bytes, more than the {limit} that are read")
            }
            Self::NotCatalog { found } => write!(f, "no catalogue: {found}"),
            Self::UnknownVersion { algorithm } => {
                write!(f, "members of a version that is not known ({algorithm})")
            }
            Self::Member { index, why } => write!(f, "member {index} (from 0): {why}"),
            Self::Image { why } => write!(f, "starts like a PE image (MZ), but {why}"),
            Self::Kind { kind } => {
                write!(
                    f,
                    "a {kind}, whose digest is of a kind that is not supported: put its content beside it"
                )
            }
            Self::SameContent { first, second } => {
                write!(f, "{second} has the same content as {first}, and a catalogue lists each content once")
            }
            Self::Text { attribute, why } => write!(f, "attribute {attribute:?}: {why}"),
            Self::Time { seconds } => {
                write!(
                    f,
                    "{seconds} seconds since 1970 are beyond the year 9999, which a catalogue cannot have"
                )
            }
            Self::Empty => f.write_str("a catalogue without a file"),
            Self::NotListed { digest, listed: Some(listed) } => {
                write!(f, "changed: its SHA-256 is {digest}, and the catalogue has {listed} under its name")
            }
            Self::NotListed { digest, listed: None } => write!(f, "not in the catalogue (SHA-256 {digest})"),
            Self::Inf { line: Some(line), why } => write!(f, "line {line}: {why}"),
            Self::Inf { line: None, why } => f.write_str(why),
            Self::File { name, source } => write!(f, "{name}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Encoding { source, .. } => Some(source),
            Self::File { source, .. } => Some(&**source),
            _ => None,
        }
    }
}

/// Turns an error of the coder into one that says of which part.
pub(crate) fn encoding(part: &'static str) -> impl FnOnce(der::Error) -> Error {
    move |source| Error::Encoding { part, source }
}
