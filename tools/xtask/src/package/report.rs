//! What was made, for people and for programs; and which Windows will load it.

use serde_json::{Value, json};

use super::Package;
use super::sign::Signer;
use super::time::Moment;
use super::verify::Check;
use crate::build::Arch;

/// The test certificate, beside a package that it has signed.
pub const TEST_CERTIFICATE: &str = "weir-test.cer";

/// What a test signature is good for (pages "Loading Test Signed Code", "Installing Test Certificates").
const TEST: &str = "test-signed: it loads only on a Windows whose boot option TESTSIGNING is on (bcdedit /set testsigning on, \
                    with Secure Boot off), and installs only where weir-test.cer is trusted. Nothing else loads it.";
/// What a developer's signature is good for (pages "Driver Signing Policy": since Windows 10, version 1607; "Attestation sign
/// Windows drivers").
const OWN: &str = "signed by its developer, for which alone no new installation of Windows 10 or later loads a driver. Submit \
                   the weir.cab of each architecture to the Hardware Dev Center: what it returns is loaded by Windows 10 and \
                   11 (attestation, which is meant for testing); Windows Server wants the HLK's tests passed.";

/// A run's report.
pub struct Report {
    pub json: bool,
    time: Moment,
    checks: Vec<(Arch, Vec<Check>)>,
    reproduced: bool,
}

impl Report {
    pub const fn new(json: bool, time: Moment) -> Self {
        Self { json, time, checks: Vec::new(), reproduced: false }
    }

    /// Says what is going on.
    pub fn say(&self, what: &str) {
        if self.json {
            eprintln!("{what}");
        } else {
            println!("{what}");
        }
    }

    /// Takes what programs of others have said.
    pub fn verified(&mut self, arch: Arch, checks: Vec<Check>) {
        for check in &checks {
            match &check.failure {
                None => self.say(&format!("PASS  {}: {}", arch.name(), check.what)),
                Some(why) => self.say(&format!("FAIL  {}: {}: {why}", arch.name(), check.what)),
            }
        }
        self.checks.push((arch, checks));
    }

    /// Takes that a second run has made the same.
    pub const fn reproduced(&mut self) {
        self.reproduced = true;
    }

    /// Writes the report; true if all checks held.
    pub fn finish(&self, packages: &[Package], signer: &Signer) -> bool {
        let all = || self.checks.iter().flat_map(|(_, checks)| checks);
        let failed = all().filter(|check| check.failure.is_some()).count();
        let loads = if signer.test_certificate().is_some() { TEST } else { OWN };
        if self.json {
            println!("{:#}", self.value(packages, signer, loads, failed == 0));
            return failed == 0;
        }
        for package in packages {
            println!("\n{}  ({})", package.folder.display(), package.arch.name());
            for file in &package.files {
                println!("   {:14} {:9}  {}", file.name, file.bytes, file.sha256);
            }
        }
        println!();
        if let Some(package) = packages.first() {
            println!("signed by   {}", package.signer);
        }
        println!("with        {}", signer.source());
        println!("of          {}", self.time);
        println!("the same    {}", self.repeats(signer));
        if !self.checks.is_empty() {
            println!(
                "verified    {} checks by other programs held, {failed} did not",
                all().count() - failed
            );
        }
        println!("loads       {loads}");
        println!("            No Windows has loaded it here.");
        failed == 0
    }

    fn repeats(&self, signer: &Signer) -> &'static str {
        if self.reproduced {
            "a second time: yes, byte for byte"
        } else if signer.repeats() {
            "each time, if the key's signatures are (RSA's are)"
        } else {
            "never: the time is another each time (--time, or SOURCE_DATE_EPOCH, fixes it; a time stamp is never fixed)"
        }
    }

    fn value(&self, packages: &[Package], signer: &Signer, loads: &str, passed: bool) -> Value {
        let packages: Vec<_> = packages
            .iter()
            .map(|package| {
                let files: Vec<_> = package
                    .files
                    .iter()
                    .map(|file| json!({"name": file.name, "bytes": file.bytes, "sha256": file.sha256}))
                    .collect();
                json!({"arch": package.arch.name(), "folder": package.folder, "files": files, "signer": package.signer})
            })
            .collect();
        let checks: Vec<_> = self
            .checks
            .iter()
            .flat_map(|(arch, checks)| {
                checks.iter().map(|check| {
                    json!({
                        "arch": arch.name(),
                        "what": check.what,
                        "passed": check.failure.is_none(),
                        "failure": check.failure,
                    })
                })
            })
            .collect();
        json!({
            "passed": passed,
            "packages": packages,
            "signed_with": signer.source(),
            "test_signed": signer.test_certificate().is_some(),
            "time": self.time.seconds,
            "time_fixed": self.time.fixed,
            "reproduced": self.reproduced,
            "checks": checks,
            "loads": loads,
        })
    }
}
