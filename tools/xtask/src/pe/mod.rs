//! `cargo xtask lint-pe`: whether an image is what a kernel driver must be.
//!
//! Layers, each over the ones before: [`read`] (bounded reads), rows about the file ([`header`], [`config`],
//! [`version`], [`imports`] over [`exports`]), [`unwind`] and [`map`], instructions ([`x64`], [`arm64`], over
//! [`flow`], to [`code`]'s facts), the call graph ([`graph`]), rows over it ([`instructions`], [`panics`], [`stack`], with the
//! project's own table in [`explained`]), and the [`report`]. The catalogue of rows is [`rows`]. Nothing trusts the image: a
//! broken one is refused or fails rows.

mod arm64;
mod code;
mod config;
mod explained;
mod exports;
mod flow;
mod graph;
mod header;
mod imports;
mod instructions;
mod map;
mod panics;
mod read;
mod report;
mod rows;
mod stack;
mod unwind;
mod version;
mod x64;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use exports::Exports;
use graph::Graph;
use map::Map;
use read::Image;
use report::{Report, Sizes};
use rows::{Finding, ROWS};

use crate::step::root;

/// Behind `--help`.
const LONG: &str = "\
Rows are checked one by one: PASS, NOTE (for the reader to know) or FAIL. What failed is explained; --explain explains \
everything, and lists the deepest path of every root.

Functions are known by the linker's map (lld-link /MAP), beside the image by default. Imports are held against the \
lists in tests/abi/exports. Budgets of stack, and the cycles of calls that are known to end, are in \
tools/xtask/src/pe/explained.rs. The rows are listed in tools/xtask/LINT-PE.md.

Exit code: 0 no row failed; 1 a row failed, or the file was refused; 2 usage.";

#[derive(clap::Args)]
#[command(after_long_help = LONG)]
pub struct LintPeArgs {
    /// The image, a .sys file
    image: PathBuf,
    /// The linker's map; beside the image, with the extension .map, by default
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// The lists of exports; the project's own by default
    #[arg(long, value_name = "DIR")]
    exports: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "explain")]
    json: bool,
    /// Explain every row
    #[arg(long)]
    explain: bool,
}

/// Runs the command.
pub fn run(args: &LintPeArgs) -> ExitCode {
    let exports = args.exports.clone().unwrap_or_else(|| root().join("tests/abi/exports"));
    let map = args.map.clone().unwrap_or_else(|| args.image.with_extension("map"));
    let name = args.image.display().to_string();
    let report = fs::read(&args.image).map_err(|error| format!("cannot be read: {error}")).and_then(|data| {
        let map = fs::read(&map)
            .map(|map| String::from_utf8_lossy(&map).into_owned())
            .map_err(|error| format!("{}: {error}", map.display()));
        check(&data, map.as_deref().map_err(Clone::clone), &exports)
    });
    match report {
        Ok(report) => {
            if args.json {
                println!("{:#}", report.json(&name));
            } else {
                print!("{}", report.text(&name, args.explain));
            }
            if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("xtask: {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks an image, with its map or why there is none, against the lists of exports in a folder.
///
/// # Errors
/// Says why the file is not an image that can be checked.
pub fn check(data: &[u8], map: Result<&str, String>, exports: &Path) -> Result<Report, String> {
    let image = Image::parse(data)?;
    let map = map.and_then(|map| Map::parse(map, &image));
    let starts: Option<BTreeSet<u32>> =
        map.as_ref().ok().map(|map| map.code(&image).map(|(rva, _)| rva).collect());
    let mut findings = header::check(&image);
    findings.extend(config::check(&image, starts.as_ref()));
    findings.push(version::check(&image));
    findings.extend(imports::check(&image, &mut Exports::new(exports)));
    let imports = imports::read(&image).unwrap_or_default();
    let mut report = Report {
        arch: image.arch,
        findings: Vec::new(),
        panics: Vec::new(),
        depths: Vec::new(),
        sizes: Sizes {
            file: data.len(),
            sections: image.sections.iter().map(|section| (section.name.clone(), section.size)).collect(),
            call_targets: config::call_targets(&image).len(),
            imports: imports::count(&imports),
            ..Sizes::default()
        },
    };
    let unwound = unwind::read(&image);
    match (map, unwound) {
        (Ok(map), Ok(unwound)) => {
            findings.push(Finding::pass("code.map", "this image's"));
            let graph = Graph::build(&image, &map, &unwound, &imports);
            findings.extend(instructions::check(&graph, image.arch));
            report.panics = panics::find(&image, &graph);
            findings.push(panics::check(&report.panics));
            let measured = stack::measure(&graph, image.arch);
            findings.extend(stack::check(&graph, &measured, image.arch));
            report.depths = measured.depths;
            report.sizes.functions = graph.functions.len();
            report.sizes.instructions =
                graph.functions.iter().map(|function| function.facts.instructions).sum();
        }
        (Ok(_), Err(error)) => {
            findings.push(Finding::pass("code.map", "this image's"));
            findings.push(Finding::fail("stack.unwind", error));
        }
        (Err(error), _) => findings.push(Finding::fail("code.map", error)),
    }
    // Every row has its finding, in the catalogue's order.
    report.findings = ROWS
        .iter()
        .map(|row| {
            let found = findings.iter().position(|finding| finding.row == row.id);
            found.map_or_else(
                || Finding::note(row.id, "not checked: see the row that failed"),
                |index| findings.swap_remove(index),
            )
        })
        .collect();
    Ok(report)
}
