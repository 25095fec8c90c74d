//! The commands `package` and `catalog`, as they are run: with images made by hand, and the signing program of others.

#[path = "../src/catalog/tests/image.rs"]
mod image;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use driver_catalog::Catalog;
use serde_json::Value;

/// 2026-01-01
const TIME: &str = "1767225600";
/// What signs and verifies; `cargo xtask test` installs them.
const PROGRAMS: [(&str, &str); 3] =
    [("osslsigncode", "--version"), ("openssl", "version"), ("cabextract", "--version")];

fn has(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

/// A folder of one test, with images; `None`, said, where the programs are not there.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Option<Self> {
        if let Some((program, _)) = PROGRAMS.iter().find(|(program, argument)| !has(program, argument)) {
            println!("skipped: no {program}");
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        for (arch, content) in [("x64", 0x90), ("arm64", 0xd5)] {
            let images = folder.join("images").join(arch);
            fs::create_dir_all(&images).unwrap();
            fs::write(images.join("weir.sys"), image::image(content, &[])).unwrap();
            fs::write(images.join("weir.pdb"), vec![content; 70_000]).unwrap();
        }
        Some(Self(folder))
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }

    /// `cargo xtask`, in the test's folder, so that nothing else is named by a short name.
    fn xtask<S: AsRef<OsStr>>(&self, arguments: &[S], settings: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(arguments).current_dir(&self.0).env_remove("SOURCE_DATE_EPOCH");
        command.envs(settings.iter().copied()).output().unwrap()
    }

    /// `cargo xtask package` of these images, at a fixed time.
    fn package(&self, output: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
        let fixed = ["package", "--images", "images", "--output", output, "--time", TIME, "--json"];
        self.xtask(&[&fixed[..], arguments].concat(), settings)
    }

    /// The same with a test certificate of the test's own.
    fn test_signed(&self, output: &str, arguments: &[&str]) -> Output {
        self.package(output, &[&["--test-signing", "keys"], arguments].concat(), &[])
    }
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The exit code, and what was said of it.
fn refused(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

const FILES: [&str; 7] =
    ["weir.sys", "weir.inf", "weir.cat", "weir.pdb", "weir.wprp", "weir-autologger.reg", "weir.cab"];

#[test]
fn a_package_is_made_verified_and_the_same_each_time() {
    let Some(place) = Place::new("made") else { return };
    // signify and its Python are asked where the area `package` runs; here, what needs them not.
    let made = report(&place.test_signed("out", &["--reproduce"]));
    assert_eq!(
        (&made["passed"], &made["test_signed"], &made["reproduced"]),
        (&true.into(), &true.into(), &true.into())
    );
    assert!(made["loads"].as_str().unwrap().contains("TESTSIGNING"), "{made}");
    assert!(
        made["signed_with"].as_str().unwrap().starts_with("a test certificate, made for this: "),
        "{made}"
    );
    for (package, arch) in made["packages"].as_array().unwrap().iter().zip(["x64", "arm64"]) {
        assert_eq!(package["arch"], arch);
        let names: Vec<_> =
            package["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
        for name in FILES {
            assert!(names.contains(&name), "{names:?}");
        }
        let inf = String::from_utf8(place.read(&format!("out/{arch}/weir.inf"))).unwrap();
        let decoration = if arch == "x64" { "NTamd64" } else { "NTarm64" };
        assert!(
            inf.contains(&format!("[DefaultInstall.{decoration}]\r\n")) && inf.contains("01/01/2026,"),
            "{inf}"
        );
        let catalog = Catalog::parse(&place.read(&format!("out/{arch}/weir.cat"))).unwrap();
        catalog.check("weir.inf", inf.as_bytes()).unwrap();
        // The digest leaves the signature out: the image as it was built, and as it was signed.
        catalog.check("weir.sys", &place.read(&format!("out/{arch}/weir.sys"))).unwrap();
        catalog.check("weir.sys", &place.read(&format!("images/{arch}/weir.sys"))).unwrap();
        assert!(catalog.signers[0].of_this_content);
    }
    // Another run, of one architecture, over what is there: the same key, the same bytes. Nothing else is left in the folder.
    let again = report(&place.test_signed("again", &["--arch", "x64"]));
    assert_eq!(again["packages"][0]["files"], made["packages"][0]["files"]);
    assert!(
        again["signed_with"].as_str().unwrap().starts_with("a test certificate, made earlier: "),
        "{again}"
    );
    report(&place.test_signed("again", &["--arch", "x64"]));
    assert_eq!(fs::read_dir(place.at("again")).unwrap().count(), 1);
    // Of what was signed before, too.
    let signed = place.xtask(
        &[
            "package",
            "--images",
            "out",
            "--output",
            "third",
            "--time",
            TIME,
            "--json",
            "--test-signing",
            "keys",
        ],
        &[],
    );
    assert_eq!(report(&signed)["packages"][1]["files"], made["packages"][1]["files"]);
    // The time counts.
    let later = place.xtask(
        &["package", "--images", "images", "--output", "later", "--json", "--test-signing", "keys"],
        &[("SOURCE_DATE_EPOCH", "1767225602")],
    );
    let later = report(&later);
    let of = |made: &Value| made["packages"][0]["files"].as_array().unwrap().clone();
    for (one, other) in of(&made).iter().zip(&of(&later)) {
        let name = one["name"].as_str().unwrap();
        assert_eq!(other["name"], name);
        let signed = ["weir.sys", "weir.cat", "weir.cab"].contains(&name);
        assert_eq!(one["sha256"] != other["sha256"], signed, "{name}");
    }
}

#[test]
fn whatever_has_the_key_makes_the_same_signatures() {
    let Some(place) = Place::new("keys") else { return };
    let made = report(&place.test_signed("out", &[]));
    let own = |made: &Value| {
        let files = made["packages"][0]["files"].as_array().unwrap().clone();
        files.into_iter().filter(|file| file["name"] != "weir-test.cer").collect::<Vec<_>>()
    };
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(&place.0).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // A key and a certificate, PEM.
    let pem = ["--certificate", "keys/certificate.pem", "--key", "keys/key.pem"];
    let signed = report(&place.package("pem", &pem, &[]));
    assert_eq!(own(&signed), own(&made));
    assert_eq!(signed["test_signed"], false);
    // Over a package that was test-signed: that certificate goes.
    report(&place.package("out", &pem, &[]));
    assert!(!place.0.join("out/x64/weir-test.cer").exists());
    assert!(signed["loads"].as_str().unwrap().contains("Hardware Dev Center"), "{signed}");
    // The key under a password.
    openssl(&["pkcs8", "-topk8", "-in", "keys/key.pem", "-out", "locked.pem", "-passout", "pass:a b;c"]);
    fs::write(place.at("password"), "a b;c").unwrap();
    let locked = ["--certificate", "keys/certificate.pem", "--key", "locked.pem"];
    let by_file = place.package("locked", &[&locked[..], &["--password-file", "password"]].concat(), &[]);
    assert_eq!(own(&report(&by_file)), own(&made));
    // Both in one file, under a password.
    openssl(&[
        "pkcs12",
        "-export",
        "-in",
        "keys/certificate.pem",
        "-inkey",
        "keys/key.pem",
        "-out",
        "both.pfx",
        "-passout",
        "pass:a b;c",
    ]);
    let pfx = ["--certificate", "both.pfx", "--password-env", "WEIR_TEST_PASSWORD"];
    assert_eq!(own(&report(&place.package("pfx", &pfx, &[("WEIR_TEST_PASSWORD", "a b;c")]))), own(&made));
    let (code, said) = refused(&place.package("pfx", &pfx, &[("WEIR_TEST_PASSWORD", "wrong")]));
    assert!(code == 1 && said.contains("osslsigncode cannot sign it"), "{code} {said}");
    assert!(!said.contains("wrong"), "{said}");
    // A token.
    let module = "/usr/lib/softhsm/libsofthsm2.so";
    if !has("softhsm2-util", "--version") || !Path::new(module).exists() {
        println!("skipped in part: no softhsm2");
        return;
    }
    fs::create_dir(place.at("tokens")).unwrap();
    fs::write(place.at("softhsm2.conf"), format!("directories.tokendir = {}\n", place.at("tokens"))).unwrap();
    let conf = place.at("softhsm2.conf");
    let settings = [("SOFTHSM2_CONF", conf.as_str()), ("WEIR_TEST_PIN", "1234")];
    let softhsm = |arguments: &str| {
        let mut command = Command::new("softhsm2-util");
        command.args(arguments.split(' ')).envs(settings).current_dir(&place.0);
        assert!(command.output().unwrap().status.success(), "{arguments}");
    };
    softhsm("--init-token --free --label weir --pin 1234 --so-pin 5678");
    softhsm("--import keys/key.pem --token weir --label release --id 01 --pin 1234");
    let token = [
        "--pkcs11-module",
        module,
        "--key",
        "pkcs11:token=weir;object=release",
        "--certificate",
        "keys/certificate.pem",
        "--password-env",
        "WEIR_TEST_PIN",
    ];
    assert_eq!(own(&report(&place.package("token", &token, &settings))), own(&made));
    let (code, _) = refused(&place.package("token", &token, &[settings[0], ("WEIR_TEST_PIN", "4321")]));
    assert_eq!(code, 1);
}

#[test]
fn the_test_key_is_its_owners_alone_and_the_certificate_signs_code() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(place) = Place::new("test-key") else { return };
    let arch = ["--arch", "x64"];
    report(&place.test_signed("out", &arch));
    let key = place.read("keys/key.pem");
    assert_eq!(fs::metadata(place.at("keys/key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let openssl =
        |arguments: &[&str]| Command::new("openssl").args(arguments).current_dir(&place.0).output().unwrap();
    let verified =
        openssl(&["verify", "-x509_strict", "-CAfile", "keys/certificate.pem", "keys/certificate.pem"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let text = openssl(&["x509", "-in", "out/x64/weir-test.cer", "-inform", "DER", "-noout", "-text"]).stdout;
    let text = String::from_utf8(text).unwrap();
    for line in [
        "Version: 3 (0x2)",
        "Signature Algorithm: sha256WithRSAEncryption",
        "Not Before: Jan  1 00:00:00 2020 GMT",
        "Not After : Dec 31 00:00:00 2049 GMT",
        "Public-Key: (3072 bit)",
        "X509v3 Key Usage: critical",
        "Digital Signature",
        "Code Signing",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    fs::set_permissions(place.at("keys/key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    let (code, said) = refused(&place.test_signed("out", &arch));
    assert!(code == 1 && said.contains("others can read this key"), "{code} {said}");
    report(&place.test_signed("out", &["--arch", "x64", "--new-test-certificate"]));
    assert_ne!(place.read("keys/key.pem"), key);
}

#[test]
fn what_does_not_go_together_is_usage_and_what_fails_is_not() {
    let Some(place) = Place::new("usage") else { return };
    for (arguments, said) in [
        (&["--certificate", "nowhere.pem", "--key", "nowhere.key"][..], "no such file: nowhere.pem"),
        (&["--certificate", "images/x64/weir.sys"], "a PEM certificate needs its key"),
        (&["--key", "images/x64/weir.sys"], "--key needs --certificate, or --pkcs11-module"),
        (&["--pkcs11-module", "x.so"], "--key"),
        (&["--pkcs11-module", "images/x64/weir.sys", "--key", "pkcs11:a"], "needs --pkcs11-certificate"),
        (&["--password-env", "WEIR_NOT_SET"], "WEIR_NOT_SET is not set"),
        (&["--password-file", "nowhere"], "no such file: nowhere"),
        (&["--arch", "x86"], "invalid value 'x86'"),
        (&["--driver-version", "1.2.3.4.5"], "1.2.3.4.5"),
        (&["--reproduce", "--timestamp", "http://127.0.0.1:1"], "cannot be used with"),
        (&["--trust", "x"], "--verify"),
    ] {
        let (code, text) = refused(&place.package("out", arguments, &[]));
        assert!(code == 2 && text.contains(said), "{arguments:?}: {code} {text}");
    }
    let unfixed = ["package", "--images", "images", "--output", "out", "--reproduce"];
    let (code, text) = refused(&place.xtask(&unfixed, &[]));
    assert!(code == 2 && text.contains("needs a fixed time"), "{code} {text}");
    let (code, text) = refused(&place.xtask(&unfixed, &[("SOURCE_DATE_EPOCH", "tomorrow")]));
    assert!(code == 1 && text.contains("\"tomorrow\" is no number"), "{code} {text}");
    fs::remove_file(place.at("images/arm64/weir.pdb")).unwrap();
    let (code, text) = refused(&place.test_signed("out", &[]));
    assert!(code == 1 && text.contains("images/arm64/weir.pdb: "), "{code} {text}");
    fs::write(place.at("images/arm64/weir.pdb"), "").unwrap();
    fs::write(place.at("images/arm64/weir.sys"), "MZ").unwrap();
    let (code, text) = refused(&place.test_signed("out", &[]));
    assert!(code == 1 && text.contains("osslsigncode cannot sign it"), "{code} {text}");
    // The package of which something failed is not there in part.
    assert!(!place.0.join("out/arm64").exists() && !place.0.join("out/.staging").exists());
}

/// A service that stamps times (RFC 3161), of OpenSSL, on a port of this machine; it answers until the test ends.
fn stamp_service(place: &Place) -> String {
    use std::io::{Read as _, Write as _};
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(&place.0).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "tsa.key",
        "-out",
        "tsa.pem",
        "-days",
        "2",
        "-subj",
        "/CN=stamps",
        "-addext",
        "extendedKeyUsage=critical,timeStamping",
    ]);
    fs::write(
        place.at("tsa.cnf"),
        "[tsa]\ndefault_tsa=t\n[t]\nserial=tsa.serial\nsigner_cert=tsa.pem\nsigner_key=tsa.key\nsigner_digest=sha256\n\
         default_policy=1.2.3.4\ndigests=sha256\ness_cert_id_alg=sha256\n",
    )
    .unwrap();
    fs::write(place.at("tsa.serial"), "01\n").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let folder = place.0.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut part = [0; 4096];
                let count = stream.read(&mut part).unwrap();
                request.extend(&part[..count]);
                let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
                let length: usize = length.trim().parse().unwrap();
                if request.len() >= end + 4 + length {
                    break request[end + 4..].to_vec();
                }
            };
            fs::write(folder.join("stamp.tsq"), body).unwrap();
            let reply = Command::new("openssl")
                .args(["ts", "-reply", "-config", "tsa.cnf", "-section", "t", "-queryfile", "stamp.tsq"])
                .current_dir(&folder)
                .output()
                .unwrap()
                .stdout;
            let head = format!(
                "HTTP/1.0 200 OK\r\nContent-Type: application/timestamp-reply\r\nContent-Length: {}\r\n\r\n",
                reply.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
    url
}

#[test]
fn a_time_stamp_is_asked_for_and_counts() {
    let Some(place) = Place::new("stamped") else { return };
    let url = stamp_service(&place);
    report(&place.test_signed("out", &["--arch", "x64", "--timestamp", &url]));
    for name in ["weir.sys", "weir.cat", "weir.cab"] {
        let output = Command::new("osslsigncode")
            .args([
                "verify",
                "-CAfile",
                "keys/certificate.pem",
                "-TSA-CAfile",
                "tsa.pem",
                "-in",
                &format!("out/x64/{name}"),
            ])
            .current_dir(&place.0)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("Timestamp Server Signature verification: ok"),
            "{name}: {said}"
        );
    }
    let (code, said) =
        refused(&place.test_signed("out", &["--arch", "x64", "--timestamp", "http://127.0.0.1:9/"]));
    assert!(code == 1 && said.contains("osslsigncode cannot sign it"), "{code} {said}");
}

#[test]
fn catalogues_are_made_listed_and_checked() {
    let Some(place) = Place::new("catalog") else { return };
    report(&place.test_signed("out", &["--arch", "x64"]));
    let folder = "out/x64";
    let of = |name: &str| format!("{folder}/{name}");
    let (inf, image, signed) = (of("weir.inf"), of("weir.sys"), of("weir.cat"));
    // As the package's own was, before it was signed.
    let command = ["catalog", "make", "--inf", &inf, "--time", TIME, "--output", "made.cat", "--json"];
    let made = report(&place.xtask(&command, &[]));
    assert_eq!(
        (&made["version"], &made["time"], &made["signers"]),
        (&2.into(), &1_767_225_600_u64.into(), &serde_json::json!([]))
    );
    assert_eq!(made["attributes"], serde_json::json!({"OS": "_v100_X64"}));
    let listed = report(&place.xtask(&["catalog", "list", &signed, "--json"], &[]));
    assert_eq!((&listed["members"], &listed["identifier"]), (&made["members"], &made["identifier"]));
    assert_eq!(listed["signers"][0]["of_this_content"], true);
    let text = place.xtask(&["catalog", "list", &signed], &[]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("File = weir.inf") && text.contains("signed by CN=weir test signing"), "{text}");
    // Held against it: good ones, with the signature, and changed ones.
    let check = |arguments: &[&str]| {
        let output = place.xtask(&[&["catalog", "check"], arguments].concat(), &[]);
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = check(&[&signed, "--inf", &inf]);
    assert!(code == 0 && said.matches("PASS").count() == 2 && said.contains("was not checked"), "{said}");
    let (code, said) = check(&[&signed, &image, "--ca", "keys/certificate.pem"]);
    assert!(code == 0 && said.contains("PASS  the signature"), "{said}");
    let (code, said) = check(&["made.cat", &image, "--ca", "keys/certificate.pem"]);
    assert!(code == 1 && said.contains("FAIL  the signature"), "{said}");
    fs::write(place.at("weir.inf"), "[Version]\r\n").unwrap();
    let (code, said) = check(&[&signed, "weir.inf", &image]);
    assert!(
        code == 1 && said.contains("FAIL  weir.inf: changed: its SHA-256 is ") && said.contains("PASS"),
        "{said}"
    );
    let (code, said) = check(&[&signed, "nowhere", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(code == 1 && said["passed"] == false && said["files"][0]["listed"] == false, "{said}");
    // What is no catalogue, and what is no question.
    let (code, said) = refused(&place.xtask(&["catalog", "list", &inf], &[]));
    assert!(code == 1 && said.contains("weir.inf: the envelope (PKCS #7): "), "{code} {said}");
    assert_eq!(refused(&place.xtask(&["catalog", "check", &signed], &[])).0, 2);
    assert_eq!(refused(&place.xtask(&["catalog", "make", "--output", "x.cat"], &[])).0, 2);
}
