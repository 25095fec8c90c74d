//! Policies: from TOML text to the image that the driver looks up in, with every fault named. `POLICY.md` is
//! the language's reference.

mod analysis;
mod builder;
mod command;
mod finding;
mod fold;
mod model;
mod parser;

pub use crate::source::Severity;
pub use command::{CheckArgs, Command, ExplainArgs, TupleArgs, failed_fields, image, run};
pub use finding::Finding;

use crate::source::Source;
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
    /// The rules' names, in file order.
    pub rules: Vec<String>,
    /// How many rules name an application.
    pub app_rules: usize,
    /// How many rules were too much work to check for being covered by earlier ones.
    pub unchecked: usize,
    /// Where in the text each rule's name stands.
    pub lines: Vec<usize>,
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
        Ok((_, stats)) => {
            let (never, unchecked) = analysis::warnings(&policy, &source);
            findings.extend(never);
            findings.sort_by_key(|finding| (finding.line, finding.column));
            Ok(Compiled {
                warnings: findings,
                stats,
                app_rules: policy.rules.iter().filter(|rule| rule.apps.is_some()).count(),
                unchecked,
                lines: policy.rules.iter().map(|rule| rule.span.start).collect(),
                rules: policy.rules.into_iter().map(|rule| rule.name).collect(),
                image,
            })
        }
        Err(invalid) => {
            let message = format!(
                "the compiler made an image that the driver refuses ({invalid:?}): this is a defect of weir"
            );
            findings.push(source.finding(Severity::Fault, 0..0, message));
            Err(findings)
        }
    }
}

/// An application path as [`weir::policy::App`] takes it: the little-endian bytes of its UTF-16 units.
pub fn app_bytes(path: &str) -> Vec<u8> {
    path.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
