//! Policies: from TOML text to the image that the driver looks up in, with every fault named. `POLICY.md` is the
//! language's reference.

mod builder;
mod finding;
mod fold;
mod model;
mod parser;

pub use finding::{Finding, Severity};

use finding::Source;
use weir::policy::{Image, Stats};

/// What is used where no policy is named.
pub const DEFAULT_TOML: &str = include_str!("../../examples/default.toml");

/// A compiled policy.
#[derive(Debug)]
pub struct Compiled {
    /// The image, as the driver takes it.
    pub image: Vec<u8>,
    /// What the policy says that it hardly means.
    pub warnings: Vec<Finding>,
    /// What is in the image.
    pub stats: Stats,
}

/// Compiles a policy, or names all its faults (and the warnings on the way), in the order of the text.
pub fn compile(text: &str) -> Result<Compiled, Vec<Finding>> {
    let source = Source::new(text);
    let (policy, mut findings) = parser::parse(&source);
    if findings.iter().any(|finding| finding.severity == Severity::Fault) {
        return Err(findings);
    }
    let too_large = |error: builder::TooLarge| {
        let rule = error.rule.and_then(|rule| policy.rules.get(rule));
        let span = rule.map_or(0..0, |rule| rule.span.clone());
        let mut finding = source.finding(Severity::Fault, span, error.message);
        finding.rule = rule.map(|rule| rule.name.clone());
        finding
    };
    let image = match builder::image(&policy, text) {
        Ok(image) => image,
        Err(error) => {
            findings.push(too_large(error));
            return Err(findings);
        }
    };
    match Image::validate_with_stats(&image) {
        Ok((_, stats)) => Ok(Compiled { image, warnings: findings, stats }),
        Err(invalid) => {
            let message = format!("the compiler made an image that the driver refuses ({invalid:?}): this is a defect of weir");
            findings.push(source.finding(Severity::Fault, 0..0, message));
            Err(findings)
        }
    }
}

/// An application path as [`weir::policy::App`] takes it: the little-endian bytes of its UTF-16 units.
pub fn app_bytes(path: &str) -> Vec<u8> {
    path.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
