//! Rows about instructions, over all functions.

use super::code::{Facts, Remark};
use super::graph::{Function, Graph};
use super::panics;
use super::read::Arch;
use super::rows::{Finding, Status};

/// All findings of this part but those about panics.
pub fn check(graph: &Graph, arch: Arch) -> Vec<Finding> {
    let vector = match arch {
        Arch::X64 => "no ymm, zmm, mask, x87 or MMX",
        Arch::Arm64 => "no SVE, no SME",
    };
    vec![
        decodes(graph),
        refused(graph, "code.vector", vector, |facts| &facts.vector),
        refused(graph, "code.baseline", "all of them", |facts| &facts.baseline),
        privileged(graph),
        traps(graph),
        indirect(graph),
        targets(graph),
        alloc(graph),
    ]
}

fn decodes(graph: &Graph) -> Finding {
    let mut faults = Vec::new();
    for function in &graph.functions {
        if let Some(first) = function.facts.undecoded.first() {
            let count = function.facts.undecoded.len();
            faults.push(format!("{}: {count} places, the first 0x{first:x}", function.name()));
        }
        if function.names.is_empty() {
            faults.push(format!("0x{:x} has unwind data, but no symbol", function.start));
        }
    }
    faults.extend(graph.faults.iter().cloned());
    let instructions: usize = graph.functions.iter().map(|function| function.facts.instructions).sum();
    let found = format!("{} functions, {instructions} instructions", graph.functions.len());
    Finding::from_faults("code.decodes", found, faults)
}

/// A line for each function with remarks.
fn lines<'a>(graph: &'a Graph, remarks: impl Fn(&'a Facts) -> &'a [Remark]) -> Vec<(&'a Function, String)> {
    let mut lines = Vec::new();
    for function in &graph.functions {
        let all = remarks(&function.facts);
        let Some((site, text)) = all.first() else { continue };
        let more = if all.len() > 1 { format!(" and {} more", all.len() - 1) } else { String::new() };
        lines.push((function, format!("{}: 0x{site:x} {text}{more}", function.name())));
    }
    lines
}

fn refused(graph: &Graph, row: &'static str, passed: &str, remarks: impl Fn(&Facts) -> &[Remark]) -> Finding {
    let details: Vec<_> = lines(graph, remarks).into_iter().map(|(_, line)| line).collect();
    if details.is_empty() {
        return Finding::pass(row, passed);
    }
    Finding::fail(row, format!("{} functions use others", details.len())).with(details)
}

fn privileged(graph: &Graph) -> Finding {
    const ROW: &str = "code.privileged";
    let privileged: Vec<_> =
        lines(graph, |facts| &facts.privileged).into_iter().map(|(_, line)| line).collect();
    let mut odd: Vec<_> = lines(graph, |facts| &facts.odd).into_iter().map(|(_, line)| line).collect();
    if !privileged.is_empty() {
        let found = format!("{} functions use privileged instructions", privileged.len());
        return Finding::fail(ROW, found).with(privileged);
    }
    if odd.is_empty() {
        return Finding::pass(ROW, "none");
    }
    odd.sort();
    Finding::note(ROW, format!("none; {} functions use others out of the ordinary", odd.len())).with(odd)
}

fn traps(graph: &Graph) -> Finding {
    const ROW: &str = "code.traps";
    let traps = lines(graph, |facts| &facts.traps);
    let holes = lines(graph, |facts| &facts.holes);
    let mut failed = 0;
    let mut details = Vec::new();
    for (function, line) in traps {
        // The panic machinery is a row of its own.
        let machinery = function.names.iter().all(|name| panics::is_panic(name));
        failed += usize::from(!machinery);
        details.push(line);
    }
    details.extend(holes.into_iter().map(|(_, line)| format!("{line}; behind a switch only")));
    match (failed, details.is_empty()) {
        (0, true) => Finding::pass(ROW, "none"),
        (0, false) => {
            let found = format!("none that code runs into; {} functions have others", details.len());
            Finding::note(ROW, found).with(details)
        }
        _ => Finding::fail(ROW, format!("in {failed} functions")).with(details),
    }
}

fn indirect(graph: &Graph) -> Finding {
    const ROW: &str = "code.indirect";
    let sum = |count: fn(&Function) -> usize| graph.functions.iter().map(count).sum::<usize>();
    let guarded = sum(|function| function.guarded);
    let unguarded = sum(|function| function.unguarded);
    let computed = sum(|function| function.computed);
    let found = format!("{guarded} guarded, {unguarded} not; {computed} jumps by a register (switches)");
    let mut details = Vec::new();
    for function in &graph.functions {
        if function.guarded + function.unguarded + function.computed > 0 {
            details.push(format!(
                "{}: {} guarded, {} not, {} jumps",
                function.name(),
                function.guarded,
                function.unguarded,
                function.computed
            ));
        }
    }
    // Without the load configuration, another row fails, and the guard cannot be told from a pointer.
    let status = if unguarded > 0 && graph.guard_known {
        Status::Fail
    } else if details.is_empty() {
        Status::Pass
    } else {
        Status::Note
    };
    Finding { row: ROW, status, found, details }
}

fn targets(graph: &Graph) -> Finding {
    const ROW: &str = "code.targets";
    if graph.call_targets.is_empty() {
        return Finding::note(ROW, "not checked: config.functions");
    }
    let mut taken = 0;
    let mut faults = Vec::new();
    for function in &graph.functions {
        for (site, target) in function.taken(graph) {
            taken += 1;
            if !graph.call_targets.contains(&target.start) {
                faults.push(format!(
                    "{}, whose address {} takes at 0x{site:x}",
                    target.name(),
                    function.name()
                ));
            }
        }
    }
    Finding::from_faults(ROW, format!("taken in {taken} places"), faults)
}

fn alloc(graph: &Graph) -> Finding {
    let names = graph.functions.iter().flat_map(|function| &function.names);
    let faults: Vec<_> = names.filter(|name| panics::is_alloc(name)).cloned().collect();
    if faults.is_empty() {
        return Finding::pass("code.alloc", "none");
    }
    Finding::fail("code.alloc", format!("{} symbols", faults.len())).with(faults)
}
