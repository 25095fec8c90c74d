//! The structures of a catalogue, as ASN.1.
//!
//! The envelope is PKCS #7 signed data (RFC 2315) around a certificate trust list (`CTL_INFO` of wincrypt.h, page "CTL_INFO
//! structure"). Members and attributes are those of mscat.h and wintrust.h: pages "CRYPTCATMEMBER structure",
//! "CRYPTCATATTRIBUTE structure", "CAT_NAMEVALUE", "CAT_MEMBERINFO2", and, for the digest of a member, "Windows Authenticode
//! Portable Executable Signature Format".

use der::asn1::{BitString, BmpString, Int, ObjectIdentifier, OctetString, SetOfVec};
use der::{Any, Choice, Sequence, ValueOrd};
use spki::AlgorithmIdentifierOwned;
use x509_cert::ext::Extensions;
use x509_cert::time::Time;

/// Identifiers, each with the header that defines it.
pub mod oid {
    use der::asn1::ObjectIdentifier;

    /// PKCS #7 signed data (RFC 2315, section 14).
    pub const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
    /// The attribute of a signer that has the content's digest (RFC 5652, section 11.2).
    pub const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
    /// A certificate trust list: `szOID_CTL` (wincrypt.h).
    pub const TRUST_LIST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.10.1");
    /// The usage of a trust list that is a catalogue: `szOID_CATALOG_LIST` (mscat.h).
    pub const CATALOG_LIST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.1");
    /// Members of version 1, by SHA-1: `szOID_CATALOG_LIST_MEMBER` (mscat.h).
    pub const MEMBERS_V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.2");
    /// Members of version 2, by SHA-256: `szOID_CATALOG_LIST_MEMBER_V2` (page "CryptCATCDFOpen function").
    pub const MEMBERS_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.3");
    /// A name and its value: `CAT_NAMEVALUE_OBJID` (wintrust.h).
    pub const NAME_VALUE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.1");
    /// What a member of version 2 is: `CAT_MEMBERINFO2_OBJID` (wintrust.h).
    pub const MEMBER_INFO_2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.3");
    /// A digest with what it is of: `SPC_INDIRECT_DATA_OBJID` (wintrust.h).
    pub const INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
    /// Of a PE image: `SPC_PE_IMAGE_DATA_OBJID` (wintrust.h).
    pub const PE_IMAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.15");
    /// Of any other file, as it is: `SPC_CAB_DATA_OBJID` (wintrust.h); its value is a link to the file.
    pub const FLAT_FILE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.25");
    /// SHA-1 (RFC 3279).
    pub const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
    /// SHA-256 (RFC 5754).
    pub const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
}

/// What the envelope has: the content as it is, and how large the rest is, which is looked at only if it is small.
#[derive(Clone, Debug, Sequence)]
pub struct SignedDataHead {
    pub version: u8,
    pub digest_algorithms: Any,
    pub content: Content,
    pub certificates_or_lists_or_signers: Option<Any>,
    pub lists_or_signers: Option<Any>,
    pub signers: Option<Any>,
}

/// A content with its type. Unlike CMS, PKCS #7 has it as it is, and not within an octet string.
#[derive(Clone, Debug, Sequence)]
pub struct Content {
    pub content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    pub content: Option<Any>,
}

const fn first_version() -> u8 {
    0
}

/// A certificate trust list, which a catalogue is.
#[derive(Clone, Debug, Sequence)]
pub struct TrustList {
    #[asn1(default = "first_version")]
    pub version: u8,
    pub usage: Vec<ObjectIdentifier>,
    pub identifier: Option<OctetString>,
    pub sequence_number: Option<Int>,
    pub this_update: Time,
    pub next_update: Option<Time>,
    /// Which version the members are of.
    pub algorithm: AlgorithmIdentifierOwned,
    pub subjects: Option<Vec<Subject>>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    pub extensions: Option<Extensions>,
}

/// A member.
#[derive(Clone, Debug, Sequence)]
pub struct Subject {
    pub identifier: OctetString,
    /// A set of [`SubjectAttribute`]. It is kept as it is: sets are sorted when they are read, by insertion, for which a hostile
    /// one can be too large.
    pub attributes: Option<Any>,
}

/// An attribute of a member.
#[derive(Clone, Debug, PartialEq, Eq, Sequence, ValueOrd)]
pub struct SubjectAttribute {
    pub kind: ObjectIdentifier,
    /// A set with one value.
    pub values: Any,
}

/// A name and its value: `CAT_NAMEVALUE`.
#[derive(Clone, Debug, Sequence)]
pub struct NameValue {
    pub name: BmpString,
    pub flags: u32,
    pub value: OctetString,
}

/// Where a file is, or what it is called: here it is always nowhere, and nothing.
#[derive(Clone, Debug, Choice)]
pub enum SpcLink {
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", constructed = "true")]
    File(SpcString),
}

#[derive(Clone, Debug, Choice)]
pub enum SpcString {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    Unicode(BmpString),
}

/// What is said of a PE image beside its digest.
#[derive(Clone, Debug, Sequence)]
pub struct SpcPeImageData {
    pub flags: BitString,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    pub file: SpcLink,
}

/// A set with one element.
pub fn set_of_one(element: Any) -> der::Result<Any> {
    Any::encode_from(&SetOfVec::try_from(vec![element])?)
}
