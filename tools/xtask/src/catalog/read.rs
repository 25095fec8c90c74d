//! Reads catalogues, and holds files against them. Nothing trusts the bytes: whatever they are, there is a catalogue or an
//! [`Error`].

use authenticode::SpcIndirectDataContent;
use cms::cert::CertificateChoices;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use der::asn1::{BmpString, ObjectIdentifier, OctetString};
use der::{Any, Decode, Encode, Reader, SliceReader, Tag, Tagged};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::asn1::{NameValue, SignedDataHead, Subject, SubjectAttribute, TrustList, oid};
use crate::digest::{FileDigest, Kind, hex};
use crate::error::encoding;
use crate::{Attribute, Catalog, Digest, Error, MAX_CATALOG, Member, Signer, Value, Version};

/// The largest part of a catalogue that is not the list itself, in bytes: certificates and signatures.
const MAX_SIGNATURES: usize = 256 << 10;
/// The most bytes of attributes of one member, a digest with page hashes of a large image among them.
const MAX_ATTRIBUTES: usize = 4 << 20;

impl Catalog {
    /// Reads a catalogue, signed or not. That a signature is its signer's is not checked: see [`Signer`].
    ///
    /// # Errors
    /// What keeps the bytes from being a catalogue, and where.
    pub fn parse(data: &[u8]) -> Result<Self, Error> {
        if data.len() > MAX_CATALOG {
            return Err(Error::TooLarge { part: "the file", size: data.len(), limit: MAX_CATALOG });
        }
        let envelope =
            cms::content_info::ContentInfo::from_der(data).map_err(encoding("the envelope (PKCS #7)"))?;
        if envelope.content_type != oid::SIGNED_DATA {
            return Err(Error::NotCatalog { found: format!("PKCS #7 content {}", envelope.content_type) });
        }
        let signed = envelope.content.to_der().map_err(encoding("the signed data"))?;
        let head = SignedDataHead::from_der(&signed).map_err(encoding("the signed data"))?;
        if head.content.content_type != oid::TRUST_LIST {
            return Err(Error::NotCatalog {
                found: format!("signed data of type {}", head.content.content_type),
            });
        }
        let Some(content) = head.content.content else {
            return Err(Error::NotCatalog { found: "a signature without the list that it is of".into() });
        };
        let besides = signed.len() - content.value().len();
        if besides > MAX_SIGNATURES {
            return Err(Error::TooLarge {
                part: "certificates and signatures",
                size: besides,
                limit: MAX_SIGNATURES,
            });
        }
        let list: TrustList = content.decode_as().map_err(encoding("the trust list"))?;
        if !list.usage.contains(&oid::CATALOG_LIST) {
            return Err(Error::NotCatalog { found: "a trust list of another usage".into() });
        }
        let version = match list.algorithm.oid {
            oid::MEMBERS_V1 => Version::V1,
            oid::MEMBERS_V2 => Version::V2,
            other => return Err(Error::UnknownVersion { algorithm: other.to_string() }),
        };
        let mut attributes = Vec::new();
        for extension in list.extensions.unwrap_or_default() {
            if extension.extn_id == oid::NAME_VALUE {
                let value = NameValue::from_der(extension.extn_value.as_bytes());
                attributes.push(attribute(&value.map_err(encoding("an attribute of the catalogue"))?));
            }
        }
        let subjects = list.subjects.unwrap_or_default();
        let members = subjects.iter().enumerate().map(|(index, subject)| member(index, subject));
        let mut members = members.collect::<Result<Vec<_>, _>>()?;
        if version == Version::V1 {
            for member in &mut members {
                if let Some(digest) = text(&member.tag).and_then(|digits| unhex(&digits)) {
                    member.tag = digest;
                }
            }
        }
        let signed = SignedData::from_der(&signed).map_err(encoding("certificates and signatures"))?;
        Ok(Self {
            identifier: list.identifier.map(OctetString::into_bytes).unwrap_or_default(),
            this_update: list.this_update.to_unix_duration().as_secs(),
            version,
            attributes,
            members,
            signers: signed
                .signer_infos
                .0
                .iter()
                .map(|info| signer(info, &signed, content.value()))
                .collect(),
        })
    }

    /// The member that is a file of this content, whatever its name; `None` if there is none.
    #[must_use]
    pub fn find(&self, file: &FileDigest) -> Option<&Member> {
        self.members.iter().find(|member| match self.version {
            Version::V2 => {
                member.tag == file.sha256 && member.digest.as_ref().is_some_and(|digest| digest.is(file))
            }
            Version::V1 => member.digest.as_ref().is_some_and(|digest| digest.is(file)),
        })
    }

    /// Holds a file against the catalogue.
    ///
    /// # Errors
    /// [`Error::NotListed`] if no member has this content, with what the catalogue has under the file's name; or why the file
    /// cannot be digested.
    pub fn check(&self, name: &str, data: &[u8]) -> Result<&Member, Error> {
        let file = FileDigest::of(data)?;
        self.find(&file).ok_or_else(|| {
            let namesake = self.members.iter().filter(|member| {
                member.file().is_some_and(|file| file.eq_ignore_ascii_case(name)) && member.digest.is_some()
            });
            let listed =
                namesake.filter_map(|member| member.digest.as_ref()).map(|digest| hex(&digest.value)).next();
            Error::NotListed { digest: hex(&file.sha256), listed }
        })
    }
}

impl Digest {
    /// Whether it is of a file of this content.
    fn is(&self, file: &FileDigest) -> bool {
        self.kind == file.kind
            && match self.algorithm.as_str() {
                "SHA-256" => self.value == file.sha256,
                "SHA-1" => self.value == file.sha1,
                _ => false,
            }
    }
}

fn attribute(value: &NameValue) -> Attribute {
    let text = (value.flags & Attribute::TEXT != 0).then(|| text(value.value.as_bytes())).flatten();
    let bytes = || Value::Bytes(value.value.as_bytes().to_vec());
    Attribute { name: name(&value.name), flags: value.flags, value: text.map_or_else(bytes, Value::Text) }
}

fn name(name: &BmpString) -> String {
    char::decode_utf16(name.codepoints()).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// UTF-16LE with a zero at its end.
fn text(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let units: Vec<_> = units.iter().copied().map(u16::from_le_bytes).collect();
    let (0, units) = units.split_last()? else { return None };
    if !rest.is_empty() || units.contains(&0) {
        return None;
    }
    String::from_utf16(units).ok()
}

fn algorithm(oid: ObjectIdentifier) -> String {
    match oid {
        oid::SHA1 => "SHA-1".into(),
        oid::SHA256 => "SHA-256".into(),
        other => other.to_string(),
    }
}

/// Bytes of their hexadecimal digits.
fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok();
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

/// The elements of a set, in the order that they have.
fn elements<'a, T: Decode<'a>>(set: &'a Any) -> der::Result<Vec<T>> {
    set.tag().assert_eq(Tag::Set)?;
    let mut reader = SliceReader::new(set.value())?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        elements.push(T::decode(&mut reader)?);
    }
    Ok(elements)
}

fn member(index: usize, subject: &Subject) -> Result<Member, Error> {
    let wrong = |why: String| Error::Member { index, why };
    let mut member =
        Member { tag: subject.identifier.as_bytes().to_vec(), attributes: Vec::new(), digest: None };
    let Some(set) = &subject.attributes else { return Ok(member) };
    if set.value().len() > MAX_ATTRIBUTES {
        return Err(wrong(format!("{} bytes of attributes, more than {MAX_ATTRIBUTES}", set.value().len())));
    }
    let broken = |error: der::Error| wrong(format!("its attributes: {error}"));
    for SubjectAttribute { kind, values } in elements(set).map_err(broken)? {
        if kind != oid::NAME_VALUE && kind != oid::INDIRECT_DATA {
            continue;
        }
        let [value] = elements::<Any>(&values).map_err(broken)?.try_into().map_err(|values: Vec<_>| {
            wrong(format!("attribute {kind} has {} values, not one", values.len()))
        })?;
        if kind == oid::NAME_VALUE {
            member.attributes.push(attribute(&value.decode_as().map_err(broken)?));
            continue;
        }
        let data: SpcIndirectDataContent = value.decode_as().map_err(broken)?;
        let digest = Digest {
            kind: match data.data.value_type {
                oid::PE_IMAGE => Kind::Pe,
                oid::FLAT_FILE => Kind::Flat,
                other => Kind::Other(other.to_string()),
            },
            algorithm: algorithm(data.message_digest.digest_algorithm.oid),
            value: data.message_digest.digest.into_bytes(),
        };
        if member.digest.replace(digest).is_some() {
            return Err(wrong("two digests".into()));
        }
    }
    Ok(member)
}

fn signer(info: &SignerInfo, signed: &SignedData, content: &[u8]) -> Signer {
    let digest = match info.digest_alg.oid {
        oid::SHA1 => Sha1::digest(content).to_vec(),
        oid::SHA256 => Sha256::digest(content).to_vec(),
        _ => Vec::new(),
    };
    let attributes = info.signed_attrs.iter().flat_map(|attributes| attributes.iter());
    let claimed = attributes
        .filter(|attribute| attribute.oid == oid::MESSAGE_DIGEST)
        .filter_map(|attribute| attribute.values.get(0)?.decode_as::<OctetString>().ok())
        .map(OctetString::into_bytes)
        .next();
    let certificates = signed.certificates.iter().flat_map(|certificates| certificates.0.iter());
    let subject = certificates
        .filter_map(|choice| match choice {
            CertificateChoices::Certificate(certificate) => Some(&certificate.tbs_certificate),
            CertificateChoices::Other(_) => None,
        })
        .find(|certificate| match &info.sid {
            SignerIdentifier::IssuerAndSerialNumber(who) => {
                who.issuer == certificate.issuer && who.serial_number == certificate.serial_number
            }
            SignerIdentifier::SubjectKeyIdentifier(_) => false,
        })
        .map(|certificate| certificate.subject.to_string());
    Signer {
        subject,
        algorithm: algorithm(info.digest_alg.oid),
        of_this_content: claimed.is_some_and(|claimed| claimed == digest && !digest.is_empty()),
    }
}
