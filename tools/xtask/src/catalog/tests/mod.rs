//! What the library promises, of files made here. What programs of others say of catalogues made by it is asked where they are
//! signed (`package`).

mod image;

use image::{CHECKSUM, SECTION_HEADER, SECURITY, image};
use proptest::prelude::*;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::{
    Architecture, Attribute, Builder, Catalog, Error, FileDigest, Kind, OS_ATTR, Package, Value, Version,
};

const TIME: u64 = 1_767_225_600;
fn package() -> Builder {
    let mut builder = Builder::new(TIME);
    builder.systems(&["_v100_X64"]).unwrap().hardware_ids(&[r"ROOT\Weir"]).unwrap();
    builder.file("weir.sys", OS_ATTR, &image(7, &[])).unwrap();
    builder.file("weir.inf", OS_ATTR, b"[Version]\r\n").unwrap();
    builder
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute { name: name.into(), flags: 0x1001_0001, value: Value::Text(value.into()) }
}

#[test]
fn what_is_put_in_comes_out() {
    let catalog = Catalog::parse(&package().build().unwrap()).unwrap();
    assert_eq!((catalog.this_update, catalog.version), (TIME, Version::V2));
    assert_eq!(catalog.identifier.len(), 16);
    assert_eq!(catalog.attributes, [text("OS", "_v100_X64"), text("HWID1", r"root\weir")]);
    assert_eq!(catalog.signers, []);
    assert_eq!(catalog.members.len(), 4);
    assert!(catalog.members.is_sorted_by_key(|member| member.tag.clone()));
    for (name, kind, data) in
        [("weir.sys", Kind::Pe, image(7, &[])), ("weir.inf", Kind::Flat, b"[Version]\r\n".to_vec())]
    {
        let file = FileDigest::of(&data).unwrap();
        assert_eq!(file.kind, kind);
        let main = catalog.check(name, &data).unwrap();
        assert_eq!((main.file(), main.text("OSAttr")), (Some(name), Some("2:10.0")));
        let digest = main.digest.as_ref().unwrap();
        assert_eq!((&digest.kind, digest.algorithm.as_str()), (&kind, "SHA-256"));
        assert_eq!((&main.tag, &digest.value), (&file.sha256.to_vec(), &file.sha256.to_vec()));
        let second = catalog.members.iter().find(|member| member.tag == file.sha1).unwrap();
        assert_eq!((second.file(), &second.digest), (Some(name), &None));
    }
}

#[test]
fn the_order_of_files_makes_no_difference() {
    let mut builder = Builder::new(TIME);
    builder.systems(&["_v100_X64"]).unwrap().hardware_ids(&[r"root\weir"]).unwrap();
    builder.file("weir.inf", OS_ATTR, b"[Version]\r\n").unwrap();
    builder.file("weir.sys", OS_ATTR, &image(7, &[])).unwrap();
    assert_eq!(builder.build().unwrap(), package().build().unwrap());
}

/// The pieces as documents have them, byte for byte.
#[test]
fn structures_are_encoded_as_documented() {
    let catalog = package().build().unwrap();
    let contains = |bytes: &[u8]| catalog.windows(bytes.len()).any(|window| window == bytes);
    // PKCS #7 signed data, version 1, no digest algorithm yet, a trust list.
    assert_eq!(catalog[0], 0x30);
    assert!(contains(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0"));
    assert!(contains(b"\x02\x01\x01\x31\x00\x30"));
    assert!(contains(b"\x06\x09\x2b\x06\x01\x04\x01\x82\x37\x0a\x01\xa0"));
    // A catalogue of 2026-01-01, members of version 2.
    assert!(contains(b"\x30\x0c\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x0c\x01\x01\x04\x10"));
    assert!(contains(
        b"\x17\x0d260101000000Z\x30\x0e\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x0c\x01\x03\x05\x00\x30"
    ));
    // What members are: an image, twice, and a flat file, twice.
    let count = |bytes: &[u8]| catalog.windows(bytes.len()).filter(|window| *window == bytes).count();
    assert_eq!(count(b"\x30\x10\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x0c\x02\x03\x31\x02\x80\x00"), 2);
    assert_eq!(count(b"\x30\x10\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x0c\x02\x03\x31\x02\x82\x00"), 2);
    // What digests are of: an image, and a flat file.
    assert!(contains(
        b"\x30\x18\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x0f\x30\x0a\x03\x02\x05\xa0\xa0\x04\xa2\x02\x80\x00"
    ));
    assert!(contains(b"\x30\x10\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x19\xa2\x02\x80\x00"));
    // A name and its value.
    assert!(contains(b"\x1e\x04\x00O\x00S\x02\x04\x10\x01\x00\x01\x04\x14_\x00v\x001\x000\x000\x00_\x00X\x006\x004\x00\x00\x00"));
    // SHA-256 of a file that anybody can digest.
    assert!(contains(&Sha256::digest(b"[Version]\r\n")));
    assert!(contains(&Sha1::digest(b"[Version]\r\n")));
}

#[test]
fn an_image_has_one_digest_whatever_its_signature_and_its_checksum() {
    let plain = image(7, &[]);
    let mut other_checksum = plain.clone();
    other_checksum[CHECKSUM] ^= 1;
    let digest = FileDigest::of(&plain).unwrap();
    assert_eq!(FileDigest::of(&other_checksum).unwrap(), digest);
    assert_eq!(FileDigest::of(&image(7, &[1; 64])).unwrap(), digest);
    assert_eq!(FileDigest::of(&image(7, &[2; 128])).unwrap(), digest);
    assert_ne!(FileDigest::of(&image(8, &[])).unwrap(), digest);
    // As the page says: all but the checksum and the directory's entry.
    let mut sum = Sha256::new();
    for part in [&plain[..CHECKSUM], &plain[CHECKSUM + 4..SECURITY], &plain[SECURITY + 8..]] {
        sum.update(part);
    }
    assert_eq!(digest.sha256, <[u8; 32]>::from(sum.finalize()));
}

#[test]
fn every_byte_of_a_file_counts() {
    let catalog = Catalog::parse(&package().build().unwrap()).unwrap();
    let inf = b"[Version]\r\n";
    for index in 0..inf.len() {
        let mut changed = inf.to_vec();
        changed[index] ^= 1;
        let refused = catalog.check("WEIR.INF", &changed).unwrap_err();
        let Error::NotListed { listed: Some(listed), .. } = &refused else { panic!("{refused}") };
        assert_eq!(listed, &crate::digest::hex(&Sha256::digest(inf)));
    }
    let good = image(7, &[]);
    // What a signature changes later.
    let outside = |index: &usize| {
        !(CHECKSUM..CHECKSUM + 4).contains(index) && !(SECURITY..SECURITY + 8).contains(index)
    };
    for index in (0..good.len()).filter(outside) {
        let mut changed = good.clone();
        changed[index] ^= 1;
        assert!(catalog.check("weir.sys", &changed).is_err(), "byte {index}");
    }
    let unknown = catalog.check("other", b"other").unwrap_err();
    assert!(matches!(unknown, Error::NotListed { listed: None, .. }), "{unknown}");
}

#[test]
fn what_cannot_be_listed_is_refused_with_its_reason() {
    let mut builder = package();
    let refused = |result: Result<FileDigest, Error>| result.unwrap_err().to_string();
    assert_eq!(
        refused(builder.file("copy.inf", OS_ATTR, b"[Version]\r\n")),
        "copy.inf has the same content as weir.inf, and a catalogue lists each content once"
    );
    assert_eq!(refused(builder.file("a\0", OS_ATTR, b"1")), "attribute \"File\": contains a NUL");
    assert_eq!(refused(builder.file("", OS_ATTR, b"1")), "attribute \"File\": is empty");
    assert!(refused(builder.file("a.cab", OS_ATTR, b"MSCF\0")).starts_with("a cabinet, whose digest"));
    assert!(refused(builder.file("a.sys", OS_ATTR, b"MZ")).starts_with("starts like a PE image (MZ), but "));
    let mut cut = image(7, &[1; 64]);
    cut.pop();
    assert_eq!(
        refused(builder.file("a.sys", OS_ATTR, &cut)),
        "starts like a PE image (MZ), but its signature (64 bytes from 8704) does not end the file (8767 bytes)"
    );
    let mut wide = image(7, &[]);
    wide[SECTION_HEADER + 17] = 0x90;
    assert!(refused(builder.file("a.sys", OS_ATTR, &wide)).contains("its sections have 36864 bytes"));
    assert!(matches!(builder.attribute("", "x"), Err(Error::Text { .. })));
    assert!(matches!(builder.attribute("\u{1F600}", "x"), Err(Error::Text { .. })));
    assert!(matches!(Builder::new(TIME).build(), Err(Error::Empty)));
    let mut late = Builder::new(u64::MAX);
    late.file("a", OS_ATTR, b"1").unwrap();
    assert!(matches!(late.build(), Err(Error::Time { seconds: u64::MAX })));
}

#[test]
fn times_beyond_2049_have_the_long_form() {
    for (time, form) in
        [(2_524_607_999, &b"\x17\x0d491231235959Z"[..]), (2_524_608_000, b"\x18\x0f20500101000000Z")]
    {
        let mut builder = Builder::new(time);
        builder.file("a", OS_ATTR, b"1").unwrap();
        let bytes = builder.build().unwrap();
        assert!(bytes.windows(form.len()).any(|window| window == form));
        assert_eq!(Catalog::parse(&bytes).unwrap().this_update, time);
    }
}

#[test]
fn what_is_no_catalogue_is_refused_with_its_reason() {
    let refused = |bytes: &[u8]| Catalog::parse(bytes).unwrap_err().to_string();
    assert!(refused(b"").starts_with("the envelope (PKCS #7): "));
    assert!(refused(b"[Version]").starts_with("the envelope (PKCS #7): "));
    let good = package().build().unwrap();
    let change = |from: &[u8], to: &[u8]| {
        let place = good.windows(from.len()).position(|window| window == from).unwrap();
        let mut bytes = good.clone();
        bytes[place..place + to.len()].copy_from_slice(to);
        refused(&bytes)
    };
    assert_eq!(
        change(b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"),
        "no catalogue: PKCS #7 content 1.2.840.113549.1.7.3"
    );
    assert_eq!(
        change(b"\x2b\x06\x01\x04\x01\x82\x37\x0a\x01", b"\x2b\x06\x01\x04\x01\x82\x37\x0a\x02"),
        "no catalogue: signed data of type 1.3.6.1.4.1.311.10.2"
    );
    assert_eq!(
        change(b"\x2b\x06\x01\x04\x01\x82\x37\x0c\x01\x01", b"\x2b\x06\x01\x04\x01\x82\x37\x0c\x01\x09"),
        "no catalogue: a trust list of another usage"
    );
    assert_eq!(
        change(b"\x2b\x06\x01\x04\x01\x82\x37\x0c\x01\x03", b"\x2b\x06\x01\x04\x01\x82\x37\x0c\x01\x04"),
        "members of a version that is not known (1.3.6.1.4.1.311.12.1.4)"
    );
    let mut longer = good.clone();
    longer.push(0);
    assert!(refused(&longer).starts_with("the envelope (PKCS #7): "));
    assert!(refused(&vec![0x30; crate::MAX_CATALOG + 1]).starts_with("the file: 33554433 bytes, more than"));
}

/// A set is sorted when it is read, in time that grows with the square of its size.
#[test]
fn a_catalogue_that_is_made_to_be_slow_is_refused() {
    use der::{Any, Encode};
    let many: Vec<u8> =
        (0..200_000_u32).rev().flat_map(|n| [&[4, 3][..], &n.to_be_bytes()[1..]].concat()).collect();
    let good = Catalog::parse(&package().build().unwrap());
    assert!(good.is_ok());
    let bytes = package().build().unwrap();
    let envelope: crate::asn1::Content = der::Decode::from_der(&bytes).unwrap();
    let mut head: crate::asn1::SignedDataHead = envelope.content.unwrap().decode_as().unwrap();
    head.digest_algorithms = Any::new(der::Tag::Set, many).unwrap();
    let slow = crate::asn1::Content {
        content_type: crate::asn1::oid::SIGNED_DATA,
        content: Some(Any::encode_from(&head).unwrap()),
    };
    let refused = Catalog::parse(&slow.to_der().unwrap()).unwrap_err().to_string();
    assert!(refused.starts_with("certificates and signatures: 1"), "{refused}");
}

const INF: &str = "; a package for two architectures\n[Version]\nSignature=\"$WINDOWS NT$\" ; not the end\nCatalogFile=all.cat\n\
    CatalogFile.ntarm64 = %Cat%\n[manufacturer]\n%Maker% = Models, NTamd64.10.0...18362 ,NTarm64\n\
    [Models.NTamd64.10.0...18362]\n\"A; device\" = Install, ROOT\\Weir, %Other%\nB = Install , root\\WEIR\n\
    [Models.NTarm64]\nC = Install, ROOT\\Arm\n\
    [SourceDisksNames]\n1 = %Disk%,,,\n2 = \"Disk, two\",,,\\data\n[SourceDisksFiles]\nweir.sys = 1\n\
    [SourceDisksFiles.amd64]\n\"table.bin\" = 2, \\\n sub\n[Strings]\nCat=\"arm\"\".cat\"\nOther=\"USB\\VID_1\"\n\
    [SourceDisksFiles]\nWEIR.SYS = 1\n";

#[test]
fn the_package_of_an_inf_is_read() {
    let package = Package::of(INF.as_bytes(), Architecture::Amd64).unwrap();
    assert_eq!(package.catalog, "all.cat");
    assert_eq!(package.files, [r"data\sub\table.bin", "weir.sys"]);
    assert_eq!(package.hardware_ids, [r"root\weir", r"usb\vid_1"]);
    let package = Package::of(INF.as_bytes(), Architecture::Arm64).unwrap();
    assert_eq!((package.catalog.as_str(), &package.files[..]), ("arm\".cat", &["weir.sys".to_owned()][..]));
    assert_eq!(package.hardware_ids, [r"root\arm"]);
    // In every encoding that Windows takes.
    let wide: Vec<u8> = [0xFEFF].into_iter().chain(INF.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xEF\xBB\xBF", INF.as_bytes()].concat();
    for data in [wide, marked] {
        assert_eq!(Package::of(&data, Architecture::Arm64).unwrap(), package);
    }
}

#[test]
fn an_inf_that_says_too_little_or_too_much_is_refused() {
    let refused = |text: &[u8]| Package::of(text, Architecture::Amd64).unwrap_err().to_string();
    assert_eq!(refused(b"\n[Version"), "line 2: a section's name without its closing bracket (0xE0000001)");
    assert_eq!(refused(b"[Version]\nA=b"), "no CatalogFile in [Version], for amd64 or for all");
    assert_eq!(refused(b"\xFF\xFEa"), "UTF-16 that is not whole");
    assert_eq!(refused(b"\xEF\xBB\xBF\xFF"), "UTF-8 that is not whole");
    for entry in [r"weir.sys = 1, ..\x", r"..\weir.sys = 1", r"c:\weir.sys = 1"] {
        let inf = format!("[Version]\nCatalogFile=a\n[SourceDisksFiles]\n{entry}\n");
        let said = refused(inf.as_bytes());
        assert!(
            said.starts_with("line 4: ") && said.ends_with("is not a file in the INF's folder"),
            "{said}"
        );
    }
}

#[test]
fn a_package_is_listed_with_what_its_inf_says() {
    let mut builder = Builder::new(TIME);
    let load = |path: &str| match path {
        "weir.sys" => Ok(image(1, &[])),
        r"data\sub\table.bin" => Ok(b"table".to_vec()),
        other => Err(format!("no {other}")),
    };
    builder.package("weir.inf", INF.as_bytes(), Architecture::Amd64, load).unwrap();
    let catalog = Catalog::parse(&builder.build().unwrap()).unwrap();
    assert_eq!(
        catalog.attributes,
        [text("OS", "_v100_X64"), text("HWID1", r"root\weir"), text("HWID2", r"usb\vid_1")]
    );
    assert_eq!(catalog.members.len(), 6);
    assert_eq!(catalog.check("table.bin", b"table").unwrap().file(), Some("table.bin"));
    catalog.check("weir.inf", INF.as_bytes()).unwrap();
    let missing = Builder::new(TIME)
        .package("weir.inf", INF.as_bytes(), Architecture::Amd64, |_| Err("gone"))
        .unwrap_err()
        .to_string();
    assert_eq!(missing, r"data\sub\table.bin: gone");
}

/// A catalogue of version 1, as older tools of Windows make them: one member for each file, by hexadecimal digits.
#[test]
fn catalogues_of_version_1_are_read() {
    use der::asn1::OctetString;
    use der::{Any, Decode, Encode};
    let mut builder = Builder::new(TIME);
    builder.file("weir.inf", OS_ATTR, b"[Version]\r\n").unwrap();
    let mut envelope: crate::asn1::Content = Decode::from_der(&builder.build().unwrap()).unwrap();
    let mut head: crate::asn1::SignedDataHead = envelope.content.unwrap().decode_as().unwrap();
    let mut list: crate::asn1::TrustList = head.content.content.unwrap().decode_as().unwrap();
    list.algorithm.oid = crate::asn1::oid::MEMBERS_V1;
    let subjects = list.subjects.as_mut().unwrap();
    let digest = Sha256::digest(b"[Version]\r\n");
    subjects.retain(|subject| subject.identifier.as_bytes() == &digest[..]);
    let digits = crate::digest::hex(&digest).to_uppercase();
    let wide: Vec<u8> = digits.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    subjects[0].identifier = OctetString::new(wide).unwrap();
    head.content.content = Some(Any::encode_from(&list).unwrap());
    envelope.content = Some(Any::encode_from(&head).unwrap());
    let catalog = Catalog::parse(&envelope.to_der().unwrap()).unwrap();
    assert_eq!((catalog.version, &catalog.members[0].tag), (Version::V1, &digest.to_vec()));
    catalog.check("weir.inf", b"[Version]\r\n").unwrap();
    assert!(catalog.check("weir.inf", b"[Version]\n").is_err());
}

fn a_name() -> impl Strategy<Value = String> {
    // Characters beyond the Basic Multilingual Plane, too: values take them.
    proptest::string::string_regex("[a-z0-9_.é漢😀 -]{1,40}").unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_files_and_attributes_come_back(
        files in proptest::collection::btree_map(a_name(), proptest::collection::vec(any::<u8>(), 0..300), 1..20),
        values in proptest::collection::vec(a_name(), 0..5),
        time in 0_u64..253_402_300_800,
    ) {
        let mut builder = Builder::new(time);
        for (index, value) in values.iter().enumerate() {
            builder.attribute(&format!("A{index}"), value).unwrap();
        }
        let mut listed = Vec::new();
        for (name, data) in &files {
            match builder.file(name, OS_ATTR, data) {
                Ok(_) => listed.push((name, data)),
                Err(Error::SameContent { .. } | Error::Image { .. } | Error::Kind { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        prop_assume!(!listed.is_empty());
        let bytes = builder.build().unwrap();
        prop_assert_eq!(&bytes, &builder.build().unwrap());
        let catalog = Catalog::parse(&bytes).unwrap();
        prop_assert_eq!(catalog.this_update, time);
        let expected: Vec<_> =
            values.iter().enumerate().map(|(index, value)| text(&format!("A{index}"), value)).collect();
        prop_assert_eq!(&catalog.attributes, &expected);
        prop_assert_eq!(catalog.members.len(), 2 * listed.len());
        for (name, data) in listed {
            prop_assert_eq!(catalog.check(name, data).unwrap().file(), Some(name.as_str()));
        }
    }

    /// A file that somebody has changed anywhere is read as something, or refused; it never ends the program.
    #[test]
    fn a_reader_survives_any_change(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = package().build().unwrap();
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(catalog) = Catalog::parse(&bytes) {
            let _ = catalog.check("weir.sys", &image(7, &[]));
        }
    }

    #[test]
    fn a_reader_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Catalog::parse(&bytes);
        let _ = FileDigest::of(&[b"MZ", &bytes[..]].concat());
        let _ = Package::of(&bytes, Architecture::Amd64);
    }

    /// Lines that mean something to a reader of an INF, in any order.
    #[test]
    fn a_reader_survives_any_inf(lines in proptest::collection::vec(
        proptest::sample::select(vec![
            "[Version]", "CatalogFile = x", "[SourceDisksFiles]", "[SourceDisksNames]", "1 = a,,,b", "f = 1,\\", "\\", "\"", "%",
            "%a% = %a%", "[Strings]", "a = %a%", "[Manufacturer]", "m = m, NTamd64", "[m.NTamd64]", "= , ,", "[", "]", ";",
        ]), 0..30)) {
        let _ = Package::of(lines.join("\n").as_bytes(), Architecture::Amd64);
    }

    #[test]
    fn an_image_that_somebody_changed_is_digested_or_refused(
        changes in proptest::collection::vec((0_usize..0x200, any::<u8>()), 1..6),
    ) {
        let mut bytes = image(7, &[3; 64]);
        for (index, value) in changes {
            bytes[index] = value;
        }
        let _ = FileDigest::of(&bytes);
    }
}

/// Each byte of a catalogue, with each bit of it turned: never a panic, and never a catalogue that lists another content.
#[test]
fn every_bit_can_be_turned() {
    let good = package().build().unwrap();
    let changed = image(9, &[]);
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[index] ^= 1 << bit;
            if let Ok(catalog) = Catalog::parse(&bytes) {
                assert!(catalog.check("weir.sys", &changed).is_err());
            }
        }
    }
}
