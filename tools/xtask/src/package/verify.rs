//! Has programs of others verify what was made, and refuse copies of it that somebody has changed: osslsigncode, signify (in
//! Python), cabextract.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Package;
use super::catalog::read;
use super::sign;
use crate::install;
use crate::step::has;

/// Asks signify (see there).
const SCRIPT: &str = include_str!("verify.py");

/// A thing that was asked.
#[derive(Debug)]
pub struct Check {
    /// What must hold.
    pub what: String,
    /// Why it does not.
    pub failure: Option<String>,
}

/// Installs what verifies.
pub fn install_programs() -> Result<(), String> {
    sign::install_programs()?;
    if !has("cabextract", "--version") {
        install::packages(&["cabextract"], true).map_err(|missing| missing.to_string())?;
    }
    install::python().map_err(|missing| missing.to_string())
}

/// The questions of a run: what must hold, asked of programs, most of them of one program all at once.
struct Run<'run> {
    package: &'run Package,
    trusted: &'run Path,
    /// Where changed copies are.
    folder: PathBuf,
    checks: Vec<Check>,
    /// What must hold, whether it must be accepted, and the question.
    signify: Vec<(String, bool, Value)>,
}

/// Verifies a package, in `folder`, against a certificate to trust.
///
/// # Errors
/// A program that does not run, or a file that cannot be written. That something does not hold is in the checks.
pub fn verify(package: &Package, trusted: &Path, folder: &Path) -> Result<Vec<Check>, String> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut run =
        Run { package, trusted, folder: folder.to_owned(), checks: Vec::new(), signify: Vec::new() };
    run.good();
    run.cabinet()?;
    run.changed_image()?;
    run.changed_inf()?;
    run.changed_catalog()?;
    run.changed_cabinet()?;
    run.ask_signify()?;
    fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(run.checks)
}

/// Where some bytes are in others.
fn find(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    bytes
        .windows(part.len())
        .enumerate()
        .filter(|(_, window)| *window == part)
        .map(|(index, _)| index)
        .collect()
}

impl Run<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.package.folder.join(name)
    }

    /// Notes what a program has said.
    fn note(&mut self, what: impl Into<String>, accepted: bool, said: Result<(), String>) {
        let failure = match (accepted, said) {
            (true, Err(why)) => Some(why),
            (false, Ok(())) => Some("it was accepted".into()),
            _ => None,
        };
        self.checks.push(Check { what: what.into(), failure });
    }

    fn ask(&mut self, what: impl Into<String>, accepted: bool, file: &Path, catalog: Option<&Path>) {
        self.signify.push((what.into(), accepted, json!({"file": file, "catalog": catalog})));
    }

    /// What was made is accepted.
    fn good(&mut self) {
        let catalog = self.path("weir.cat");
        for name in ["weir.sys", "weir.cat", "weir.cab"] {
            let said = sign::verify(&self.path(name), self.trusted);
            self.note(format!("osslsigncode verifies the signature of {name}"), true, said);
        }
        let image = self.path("weir.sys");
        let said = sign::verify_by_catalog(&image, &catalog, self.trusted);
        self.note("osslsigncode finds weir.sys in weir.cat", true, said);
        self.ask("signify verifies the signature of weir.sys", true, &image, None);
        self.ask("signify verifies the signature of weir.cat", true, &catalog, None);
        for file in self.package.listed() {
            self.ask(format!("signify finds {file} in weir.cat"), true, &self.path(&file), Some(&catalog));
        }
    }

    /// The cabinet has the package's files, and nothing at its root.
    fn cabinet(&mut self) -> Result<(), String> {
        let extracted = self.folder.join("cabinet");
        let output = Command::new("cabextract")
            .args(["--quiet", "--directory"])
            .arg(&extracted)
            .arg(self.path("weir.cab"))
            .output()
            .map_err(|error| format!("cabextract: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        self.note(
            "cabextract reads weir.cab",
            true,
            if output.status.success() { Ok(()) } else { Err(said) },
        );
        let inside = extracted.join(self.package.arch.name());
        for name in self.package.submitted() {
            let same = read(&inside.join(&name)).and_then(|there| {
                if there == read(&self.path(&name))? { Ok(()) } else { Err("it is another".to_owned()) }
            });
            self.note(format!("weir.cab has the package's {name}"), true, same);
        }
        let count = |folder: &Path| folder.read_dir().map_or(0, Iterator::count);
        let right = count(&extracted) == 1 && count(&inside) == self.package.submitted().len();
        let right = if right { Ok(()) } else { Err("it has other files".to_owned()) };
        self.note("weir.cab has these in one folder, and nothing else", true, right);
        Ok(())
    }

    /// A copy with one bit turned.
    fn change(&self, name: &str, region: &str, place: usize) -> Result<PathBuf, String> {
        let mut bytes = read(&self.path(name))?;
        let byte = bytes.get_mut(place).ok_or_else(|| format!("{name} has no byte {place}"))?;
        *byte ^= 1;
        let folder = self.folder.join(region);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    fn changed_image(&mut self) -> Result<(), String> {
        let catalog = self.path("weir.cat");
        // A byte of the first section's, and one of the signature's, which ends the file but for padding.
        let length = read(&self.path("weir.sys"))?.len();
        let code = self.change("weir.sys", "image-code", 0x1000)?;
        let said = sign::verify(&code, self.trusted);
        self.note("osslsigncode refuses weir.sys with another byte of code", false, said);
        let said = sign::verify_by_catalog(&code, &catalog, self.trusted);
        self.note("osslsigncode does not find weir.sys with another byte of code in weir.cat", false, said);
        self.ask("signify refuses weir.sys with another byte of code", false, &code, None);
        self.ask(
            "signify does not find weir.sys with another byte of code in weir.cat",
            false,
            &code,
            Some(&catalog),
        );
        let signature = self.change("weir.sys", "image-signature", length - 64)?;
        let said = sign::verify(&signature, self.trusted);
        self.note("osslsigncode refuses weir.sys with another byte of its signature", false, said);
        self.ask("signify refuses weir.sys with another byte of its signature", false, &signature, None);
        Ok(())
    }

    fn changed_inf(&mut self) -> Result<(), String> {
        let catalog = self.path("weir.cat");
        let length = read(&self.path("weir.inf"))?.len();
        for (where_, place) in [("first", 0), ("last", length - 1)] {
            let changed = self.change("weir.inf", &format!("inf-{where_}"), place)?;
            let what = format!("signify does not find weir.inf with another {where_} byte in weir.cat");
            self.ask(what, false, &changed, Some(&catalog));
        }
        Ok(())
    }

    /// Each region of a catalogue: by which a member is found, its digest, what is said of it, and the signature.
    fn changed_catalog(&mut self) -> Result<(), String> {
        let bytes = read(&self.path("weir.cat"))?;
        let image = self.path("weir.sys");
        let digest = driver_catalog::FileDigest::of(&read(&image)?).map_err(|error| error.to_string())?;
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let tags = find(&bytes, &digest.sha256);
        let [tag, value] = tags[..] else {
            return Err(format!("weir.cat has the digest of weir.sys {} times, not twice", tags.len()));
        };
        let one = |what: &str, part: &[u8]| {
            find(&bytes, part).first().copied().ok_or_else(|| format!("weir.cat has no {what}"))
        };
        let regions = [
            ("member", tag),
            ("digest", value),
            ("second member", one("member by SHA-1", &digest.sha1)?),
            ("attribute of a member", one("OSAttr", &wide("2:10.0"))?),
            ("attribute of its own", one("OS", &wide("_v100_"))?),
            ("signature", bytes.len() - 64),
        ];
        for (region, place) in regions {
            let changed = self.change("weir.cat", &format!("cat-{}", region.replace(' ', "-")), place)?;
            let said = sign::verify(&changed, self.trusted);
            self.note(format!("osslsigncode refuses weir.cat with another {region}"), false, said);
            let said = sign::verify_by_catalog(&image, &changed, self.trusted);
            self.note(
                format!("osslsigncode refuses weir.sys by weir.cat with another {region}"),
                false,
                said,
            );
            self.ask(format!("signify refuses weir.cat with another {region}"), false, &changed, None);
            let what = format!("signify refuses weir.sys by weir.cat with another {region}");
            self.ask(what, false, &image, Some(&changed));
        }
        Ok(())
    }

    fn changed_cabinet(&mut self) -> Result<(), String> {
        let length = read(&self.path("weir.cab"))?.len();
        for (region, place) in [("content", length / 4), ("signature", length - 64)] {
            let changed = self.change("weir.cab", &format!("cab-{region}"), place)?;
            let said = sign::verify(&changed, self.trusted);
            self.note(
                format!("osslsigncode refuses weir.cab with another byte of its {region}"),
                false,
                said,
            );
        }
        Ok(())
    }

    /// Asks all questions of signify's at once: it takes longer to start than to answer.
    fn ask_signify(&mut self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("python: {error}");
        let questions: Vec<_> = self.signify.iter().map(|(.., question)| question).collect();
        let mut child = Command::new(install::python_path())
            .args(["-c", SCRIPT])
            .arg(self.trusted)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(json!(questions).to_string().as_bytes()).map_err(failed)?;
        }
        let output = child.wait_with_output().map_err(failed)?;
        let answers: Vec<Option<String>> = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("signify: {error}: {}", String::from_utf8_lossy(&output.stderr)))?;
        let asked = std::mem::take(&mut self.signify);
        if answers.len() != asked.len() {
            return Err(format!("signify: {} answers to {} questions", answers.len(), asked.len()));
        }
        for ((what, accepted, _), answer) in asked.into_iter().zip(answers) {
            self.note(what, accepted, answer.map_or(Ok(()), Err));
        }
        Ok(())
    }
}
