//! Makes catalogues.

use std::collections::BTreeMap;
use std::time::Duration;

use authenticode::{DigestInfo, SpcAttributeTypeAndOptionalValue, SpcIndirectDataContent};
use der::asn1::{BitString, BmpString, ContextSpecific, Null, ObjectIdentifier, OctetString, SetOfVec};
use der::{Any, Encode, Sequence, TagMode, TagNumber};
use sha2::{Digest as _, Sha256};
use spki::AlgorithmIdentifierOwned;
use x509_cert::ext::Extension;
use x509_cert::time::Time;

use crate::asn1::{
    Content, NameValue, SpcLink, SpcPeImageData, SpcString, Subject, SubjectAttribute, TrustList, oid,
    set_of_one,
};
use crate::digest::{FileDigest, Kind};
use crate::error::encoding;
use crate::inf::{Architecture, Package};
use crate::{Attribute, Error};

/// Makes a catalogue of version 2.
///
/// The same files and attributes, given in any order of the files, give the same bytes: members are sorted, and the list's
/// identifier, which is random elsewhere, is derived from the members.
#[derive(Clone, Debug)]
pub struct Builder {
    this_update: u64,
    attributes: Vec<(String, String)>,
    files: BTreeMap<[u8; 32], File>,
}

#[derive(Clone, Debug)]
struct File {
    name: String,
    os: String,
    digest: FileDigest,
}

/// Signed data that nobody has signed yet.
#[derive(Sequence)]
struct Unsigned {
    version: u8,
    digest_algorithms: SetOfVec<AlgorithmIdentifierOwned>,
    content: Content,
    signers: SetOfVec<Any>,
}

impl Builder {
    /// A catalogue without files yet. `this_update` is the time that it says it is of, in seconds since 1970 in UTC.
    #[must_use]
    pub fn new(this_update: u64) -> Self {
        Self { this_update, attributes: Vec::new(), files: BTreeMap::new() }
    }

    /// An attribute of the whole catalogue, after those that are there: `OS` and `HWID`*n* mean something to Windows.
    ///
    /// # Errors
    /// [`Error::Text`] if the name is empty or beyond the Basic Multilingual Plane, or if either contains a NUL.
    pub fn attribute(&mut self, name: &str, value: &str) -> Result<&mut Self, Error> {
        name_value(name, value)?;
        self.attributes.push((name.into(), value.into()));
        Ok(self)
    }

    /// The systems that the package is for, as Windows calls them (`_v100_X64`: Windows 10 and later, x64).
    ///
    /// # Errors
    /// As [`Self::attribute`].
    pub fn systems<S: AsRef<str>>(&mut self, names: &[S]) -> Result<&mut Self, Error> {
        let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
        self.attribute("OS", &names.join(","))
    }

    /// The devices that the package is for, by their hardware IDs; a primitive driver has none.
    ///
    /// # Errors
    /// As [`Self::attribute`].
    pub fn hardware_ids<S: AsRef<str>>(&mut self, ids: &[S]) -> Result<&mut Self, Error> {
        for (index, id) in ids.iter().enumerate() {
            self.attribute(&format!("HWID{}", index + 1), &id.as_ref().to_lowercase())?;
        }
        Ok(self)
    }

    /// Lists a file: its name, the systems that it is for (`2:10.0`: Windows NT 10.0), and its bytes.
    ///
    /// # Errors
    /// [`Error::SameContent`] if another file has the same bytes; [`Error::Text`]; or why it cannot be digested.
    pub fn file(&mut self, name: &str, os: &str, data: &[u8]) -> Result<FileDigest, Error> {
        name_value("File", name)?;
        name_value("OSAttr", os)?;
        if name.is_empty() {
            return Err(Error::Text { attribute: "File".into(), why: "is empty" });
        }
        let digest = FileDigest::of(data)?;
        if let Some(first) = self.files.get(&digest.sha256) {
            return Err(Error::SameContent { first: first.name.clone(), second: name.into() });
        }
        let file = File { name: name.into(), os: os.into(), digest: digest.clone() };
        self.files.insert(digest.sha256, file);
        Ok(digest)
    }

    /// Lists a driver's package: its INF, and the files that the INF names, which `load` reads; with the attributes that follow
    /// from the INF.
    ///
    /// # Errors
    /// What is wrong with the INF, or with a file.
    pub fn package<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &mut self,
        name: &str,
        inf: &[u8],
        architecture: Architecture,
        mut load: impl FnMut(&str) -> Result<Vec<u8>, E>,
    ) -> Result<&mut Self, Error> {
        let package = Package::of(inf, architecture)?;
        self.systems(&[architecture.system()])?;
        self.hardware_ids(&package.hardware_ids)?;
        self.file(name, OS_ATTR, inf)?;
        for path in package.files {
            let wrong =
                |source: Box<dyn std::error::Error + Send + Sync>| Error::File { name: path.clone(), source };
            let data = load(&path).map_err(|error| wrong(error.into()))?;
            let name = path.rsplit('\\').next().unwrap_or(&path);
            self.file(name, OS_ATTR, &data).map_err(|error| wrong(error.into()))?;
        }
        Ok(self)
    }

    /// The catalogue's bytes (DER), not signed.
    ///
    /// # Errors
    /// [`Error::Empty`] without a file, [`Error::Time`] for a time that is none.
    pub fn build(&self) -> Result<Vec<u8>, Error> {
        if self.files.is_empty() {
            return Err(Error::Empty);
        }
        self.encode()?.map_err(encoding("the catalogue"))
    }

    fn encode(&self) -> Result<der::Result<Vec<u8>>, Error> {
        let wrong = |_| Error::Time { seconds: self.this_update };
        let at = der::DateTime::from_unix_duration(Duration::from_secs(self.this_update)).map_err(wrong)?;
        // As in certificates (RFC 5280, section 4.1.2.5): the short form up to 2049.
        let this_update = der::asn1::UtcTime::from_date_time(at).map_or_else(
            |_| Time::GeneralTime(der::asn1::GeneralizedTime::from_date_time(at)),
            Time::UtcTime,
        );
        let mut extensions = Vec::new();
        for (name, value) in &self.attributes {
            extensions.push(name_value(name, value)?.to_der().map(|der| (oid::NAME_VALUE, der)));
        }
        let mut subjects = Vec::new();
        for file in self.files.values() {
            subjects.push(subject(file, true)?);
            subjects.push(subject(file, false)?);
        }
        Ok(envelope(this_update, subjects, extensions))
    }
}

/// Windows NT 10.0, in the form whose number is 2: what every driver for Windows 10 and 11 has.
pub const OS_ATTR: &str = "2:10.0";

fn name_value(name: &str, value: &str) -> Result<NameValue, Error> {
    let wrong = |why| Error::Text { attribute: name.into(), why };
    if name.is_empty() {
        return Err(wrong("has no name"));
    }
    if name.contains('\0') || value.contains('\0') {
        return Err(wrong("contains a NUL"));
    }
    let name =
        BmpString::from_utf8(name).map_err(|_| wrong("its name is beyond the Basic Multilingual Plane"))?;
    let value: Vec<u8> = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let value = OctetString::new(value).map_err(|_| wrong("is too long"))?;
    Ok(NameValue { name, flags: Attribute::SIGNED_TEXT, value })
}

/// A member: by SHA-256, with the digest; or by SHA-1, without.
fn subject(file: &File, main: bool) -> Result<der::Result<Subject>, Error> {
    let (os, name) = (name_value("OSAttr", &file.os)?, name_value("File", &file.name)?);
    Ok(subject_of(&file.digest, main, &os, &name))
}

fn subject_of(digest: &FileDigest, main: bool, os: &NameValue, name: &NameValue) -> der::Result<Subject> {
    // The tag alone says of what the digest is: an image (0), a cabinet (1), or another file (2).
    let info = ContextSpecific {
        tag_number: TagNumber::new(if digest.kind == Kind::Pe { 0 } else { 2 }),
        tag_mode: TagMode::Implicit,
        value: OctetString::new(Vec::new())?,
    };
    let attribute = |kind: ObjectIdentifier, value: Any| -> der::Result<SubjectAttribute> {
        Ok(SubjectAttribute { kind, values: set_of_one(value)? })
    };
    let mut attributes = vec![
        attribute(oid::MEMBER_INFO_2, Any::encode_from(&info)?)?,
        attribute(oid::NAME_VALUE, Any::encode_from(os)?)?,
        attribute(oid::NAME_VALUE, Any::encode_from(name)?)?,
    ];
    let tag = if main {
        attributes.push(attribute(oid::INDIRECT_DATA, Any::encode_from(&indirect_data(digest)?)?)?);
        &digest.sha256[..]
    } else {
        &digest.sha1[..]
    };
    let attributes = Any::encode_from(&SetOfVec::try_from(attributes)?)?;
    Ok(Subject { identifier: OctetString::new(tag)?, attributes: Some(attributes) })
}

fn indirect_data(digest: &FileDigest) -> der::Result<SpcIndirectDataContent> {
    let nowhere = SpcLink::File(SpcString::Unicode(BmpString::from_ucs2(Vec::new())?));
    let (value_type, value) = if digest.kind == Kind::Pe {
        // Resources and the import address table are in the digest: two of three flags, as Windows' own tool sets them.
        let flags = BitString::new(5, vec![0b1010_0000])?;
        (oid::PE_IMAGE, Any::encode_from(&SpcPeImageData { flags, file: nowhere })?)
    } else {
        (oid::FLAT_FILE, Any::encode_from(&nowhere)?)
    };
    let digest_algorithm = AlgorithmIdentifierOwned { oid: oid::SHA256, parameters: Some(Null.into()) };
    Ok(SpcIndirectDataContent {
        data: SpcAttributeTypeAndOptionalValue { value_type, value },
        message_digest: DigestInfo { digest_algorithm, digest: OctetString::new(digest.sha256)? },
    })
}

fn envelope(
    this_update: Time,
    subjects: Vec<der::Result<Subject>>,
    extensions: Vec<der::Result<(ObjectIdentifier, Vec<u8>)>>,
) -> der::Result<Vec<u8>> {
    let mut subjects = subjects.into_iter().collect::<der::Result<Vec<_>>>()?;
    subjects.sort_by(|one, other| one.identifier.as_bytes().cmp(other.identifier.as_bytes()));
    let mut extended = Vec::new();
    for extension in extensions {
        let (extn_id, value) = extension?;
        extended.push(Extension { extn_id, critical: false, extn_value: OctetString::new(value)? });
    }
    // 16 bytes, as a GUID has, which stands here elsewhere.
    let identity = Sha256::digest(subjects.to_der()?);
    let list = TrustList {
        version: 0,
        usage: vec![oid::CATALOG_LIST],
        identifier: Some(OctetString::new(&identity[..16])?),
        sequence_number: None,
        this_update,
        next_update: None,
        algorithm: AlgorithmIdentifierOwned { oid: oid::MEMBERS_V2, parameters: Some(Null.into()) },
        subjects: Some(subjects),
        extensions: (!extended.is_empty()).then_some(extended),
    };
    let content = Content { content_type: oid::TRUST_LIST, content: Some(Any::encode_from(&list)?) };
    let signed =
        Unsigned { version: 1, digest_algorithms: SetOfVec::new(), content, signers: SetOfVec::new() };
    Content { content_type: oid::SIGNED_DATA, content: Some(Any::encode_from(&signed)?) }.to_der()
}
