//! The report, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use super::panics::Panic;
use super::read::Arch;
use super::rows::{self, Finding, Status};
use super::stack::Depth;

/// The figures of an image.
#[derive(Debug, Default, Serialize)]
pub struct Sizes {
    pub file: usize,
    /// Bytes in memory by section.
    pub sections: Vec<(String, u32)>,
    pub functions: usize,
    pub instructions: usize,
    /// Rows of control flow guard's table.
    pub call_targets: usize,
    /// Functions by library.
    pub imports: BTreeMap<String, usize>,
}

/// All that was found.
#[derive(Debug)]
pub struct Report {
    pub arch: Arch,
    /// One a row, in the catalogue's order.
    pub findings: Vec<Finding>,
    pub panics: Vec<Panic>,
    pub depths: Vec<Depth>,
    pub sizes: Sizes,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.findings.iter().all(|finding| finding.status != Status::Fail)
    }

    /// For programs.
    pub fn json(&self, image: &str) -> serde_json::Value {
        let rows: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let row = rows::find(finding.row);
                json!({
                    "row": finding.row,
                    "status": finding.status,
                    "found": finding.found,
                    "details": finding.details,
                    "asks": row.map(|row| row.asks),
                    "why": row.map(|row| row.why),
                })
            })
            .collect();
        json!({
            "image": image,
            "arch": self.arch.name(),
            "passed": self.passed(),
            "rows": rows,
            "panics": self.panics,
            "stack": self.depths,
            "sizes": {
                "file": self.sizes.file,
                "sections": self.sizes.sections.iter().map(|(name, size)| json!({"name": name, "bytes": size})).collect::<Vec<_>>(),
                "functions": self.sizes.functions,
                "instructions": self.sizes.instructions,
                "call_targets": self.sizes.call_targets,
                "imports": self.sizes.imports,
            },
        })
    }

    /// For people: a table; then what did not pass, explained, or with `explain` everything.
    pub fn text(&self, image: &str, explain: bool) -> String {
        let mut text = format!("{image}: {}\n\n", self.arch.name());
        let width = self.findings.iter().map(|finding| finding.row.len()).max().unwrap_or(0);
        for finding in &self.findings {
            let _ = writeln!(text, "{}  {:width$}  {}", finding.status.word(), finding.row, finding.found);
        }
        let chosen = |finding: &&Finding| match finding.status {
            Status::Fail => true,
            Status::Note => explain || !finding.details.is_empty(),
            Status::Pass => explain,
        };
        for finding in self.findings.iter().filter(chosen) {
            let _ = writeln!(text, "\n{} {}: {}", finding.status.word(), finding.row, finding.found);
            for detail in &finding.details {
                let _ = writeln!(text, "    {detail}");
            }
            if let Some(row) = rows::find(finding.row).filter(|_| explain || finding.status == Status::Fail) {
                let _ = writeln!(text, "  wanted: {}\n  why: {}", row.asks, row.why);
            }
        }
        self.write_depths(&mut text, explain);
        self.write_sizes(&mut text);
        let count = |status| self.findings.iter().filter(|finding| finding.status == status).count();
        let _ = writeln!(
            text,
            "\n{} passed, {} noted, {} failed",
            count(Status::Pass),
            count(Status::Note),
            count(Status::Fail)
        );
        text
    }

    fn write_depths(&self, text: &mut String, all: bool) {
        const FEW: usize = 5;
        if self.depths.is_empty() {
            return;
        }
        let _ = writeln!(text, "\nstack, deepest first (bytes, return addresses included):");
        let shown = if all { self.depths.len() } else { FEW };
        for depth in self.depths.iter().take(shown) {
            let _ = writeln!(text, "{:7}  {:8}  {}", depth.bytes, depth.kind.name(), depth.root);
            let steps = depth.path.iter().skip(1).map(|step| format!("{} {}", step.function, step.frame));
            let steps: Vec<_> = steps.collect();
            if !steps.is_empty() {
                let _ = writeln!(text, "                   > {}", steps.join(" > "));
            }
        }
        if shown < self.depths.len() {
            let _ = writeln!(text, "         and {} more (--explain)", self.depths.len() - shown);
        }
    }

    fn write_sizes(&self, text: &mut String) {
        let sizes = &self.sizes;
        let sections: Vec<_> = sizes.sections.iter().map(|(name, size)| format!("{name} {size}")).collect();
        let imports: Vec<_> = sizes.imports.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let _ = writeln!(
            text,
            "\nsizes: file {} bytes; sections {}; {} functions, {} instructions; {} call targets; imports {}",
            sizes.file,
            sections.join(", "),
            sizes.functions,
            sizes.instructions,
            sizes.call_targets,
            imports.join(", ")
        );
    }
}
