//! How much of the kernel's stack the code takes.

use std::collections::HashMap;

use petgraph::graph::{DiGraph, NodeIndex};
use serde::Serialize;

use super::explained::{self, Kind};
use super::graph::Graph;
use super::read::Arch;
use super::rows::{Finding, Status};

/// Frames over this are listed, and refused where a callback can reach them. Bytes.
pub const LARGE_FRAME: u32 = 1024;

/// A function on the way down.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub function: String,
    pub frame: u32,
}

/// The deepest path of a root.
#[derive(Clone, Debug, Serialize)]
pub struct Depth {
    pub root: String,
    pub kind: Kind,
    /// Bytes, return addresses included; what other drivers and the kernel take when called is not.
    pub bytes: u32,
    pub budget: u32,
    pub path: Vec<Step>,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Stack {
    /// Deepest first.
    pub depths: Vec<Depth>,
    /// Cycles of direct calls: the functions of each.
    pub cycles: Vec<Vec<usize>>,
}

/// Measures the deepest path of every root. A cycle counts once.
pub fn measure(graph: &Graph, arch: Arch) -> Stack {
    let mut calls = DiGraph::<(), ()>::with_capacity(graph.functions.len(), 0);
    let nodes: Vec<NodeIndex> = graph.functions.iter().map(|_| calls.add_node(())).collect();
    for (index, function) in graph.functions.iter().enumerate() {
        for edge in &function.edges {
            calls.add_edge(nodes[index], nodes[edge.to], ());
        }
    }
    let mut stack = Stack::default();
    // For each function the depth from it on, and where the deepest path goes on.
    let mut below: HashMap<usize, (u32, Option<usize>)> = HashMap::new();
    // Callees first.
    for component in petgraph::algo::kosaraju_scc(&calls) {
        let members: Vec<usize> = component.iter().map(|node| node.index()).collect();
        let itself =
            members.iter().any(|member| graph.functions[*member].edges.iter().any(|edge| edge.to == *member));
        // In a cycle, every member is taken as often as it can be there, on top of what leaves the cycle.
        let cyclic = members.len() > 1 || itself;
        if cyclic {
            stack.cycles.push(members.clone());
        }
        let times = |member: usize| {
            explained::recursion(&graph.functions[member].names).map_or(1, |recursion| recursion.times)
        };
        let all =
            members.iter().map(|member| graph.functions[*member].frame(arch).saturating_mul(times(*member)));
        let all = all.fold(0u32, u32::saturating_add);
        let mut found = Vec::new();
        for member in &members {
            let function = &graph.functions[*member];
            let own = function.frame(arch);
            let mut deepest = (own, None);
            for edge in function.edges.iter().filter(|edge| !members.contains(&edge.to)) {
                let under = below.get(&edge.to).map_or(0, |(depth, _)| *depth);
                // A jump gives the frame up first.
                let depth = if edge.jump { under } else { own.saturating_add(under) };
                if depth > deepest.0 {
                    deepest = (depth, Some(edge.to));
                }
            }
            found.push((*member, deepest));
        }
        let most = found.iter().map(|(_, (depth, _))| *depth).max().unwrap_or(0);
        for (member, (depth, next)) in found {
            // The member that leaves the cycle has its own frame in that depth.
            let own = graph.functions[member].frame(arch);
            let depth = if cyclic { most.saturating_add(all).saturating_sub(own) } else { depth };
            below.insert(member, (depth, next));
        }
    }
    for root in &graph.roots {
        let depth = below.get(&root.function).map_or(0, |(depth, _)| *depth);
        let mut path = Vec::new();
        let mut next = Some(root.function);
        while let Some(index) = next {
            let function = &graph.functions[index];
            path.push(Step { function: function.name().to_owned(), frame: function.frame(arch) });
            next = below.get(&index).and_then(|(_, next)| *next);
        }
        stack.depths.push(Depth {
            root: graph.functions[root.function].name().to_owned(),
            kind: root.kind,
            bytes: depth,
            budget: root.kind.budget().0,
            path,
        });
    }
    stack.depths.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.root.cmp(&b.root)));
    stack
}

/// All findings of this part.
pub fn check(graph: &Graph, stack: &Stack, arch: Arch) -> Vec<Finding> {
    vec![unwind(graph, arch), frames(graph, arch), recursion(graph, stack), depth(stack)]
}

fn unwind(graph: &Graph, arch: Arch) -> Finding {
    let mut faults = Vec::new();
    for function in &graph.functions {
        let name = function.name();
        let counted = function.facts.prologue_bytes;
        if let Some(site) = function.facts.variable {
            faults.push(format!("{name}: 0x{site:x} moves the stack pointer by what is not known"));
        }
        match &function.unwound {
            None if counted.saturating_add(function.facts.later_bytes) > 0 => {
                faults.push(format!("{name} takes {counted} bytes without unwind data"));
            }
            // On ARM64 the whole function was counted; what is taken below a frame pointer needs no unwind data.
            Some(unwound)
                if (arch == Arch::X64 && unwound.frame != counted)
                    || (arch == Arch::Arm64 && unwound.frame < counted && !unwound.frame_pointer) =>
            {
                faults.push(format!(
                    "{name}: {} bytes by unwind data, {counted} by its instructions",
                    unwound.frame
                ));
            }
            _ => {}
        }
    }
    let with = graph.functions.iter().filter(|function| function.unwound.is_some()).count();
    let found = format!("{with} of {} functions have it, and agree", graph.functions.len());
    Finding::from_faults("stack.unwind", found, faults)
}

fn frames(graph: &Graph, arch: Arch) -> Finding {
    const ROW: &str = "stack.frames";
    let reached = graph.reached(Kind::Callback);
    let mut large: Vec<_> = graph
        .functions
        .iter()
        .enumerate()
        .filter(|(_, function)| function.frame(arch) > LARGE_FRAME)
        .map(|(index, function)| (function.frame(arch), index, function))
        .collect();
    large.sort_by_key(|(frame, ..)| std::cmp::Reverse(*frame));
    let most = graph.functions.iter().map(|function| function.frame(arch)).max().unwrap_or(0);
    if large.is_empty() {
        return Finding::pass(ROW, format!("none over {LARGE_FRAME} bytes; the largest is {most}"));
    }
    let mut failed = false;
    let mut details = Vec::new();
    for (frame, index, function) in &large {
        let callback = reached[*index].is_some();
        failed |= callback;
        let from = if callback { "a callback reaches it" } else { "no callback reaches it" };
        details.push(format!("{frame:6} {}: {from}", function.name()));
    }
    let found = format!("{} frames over {LARGE_FRAME} bytes, the largest {most}", large.len());
    Finding { row: ROW, status: if failed { Status::Fail } else { Status::Note }, found, details }
}

fn recursion(graph: &Graph, stack: &Stack) -> Finding {
    const ROW: &str = "stack.recursion";
    let mut details = Vec::new();
    let mut failed = false;
    for cycle in &stack.cycles {
        let reasons: Option<Vec<_>> =
            cycle.iter().map(|index| explained::recursion(&graph.functions[*index].names)).collect();
        failed |= reasons.is_none();
        let reason = reasons.and_then(|reasons| reasons.first().copied());
        let reason =
            reason.map_or(String::new(), |row| format!("; {} times at most: {}", row.times, row.why));
        details.push(format!("{}{reason}", graph.names(cycle).join(", ")));
    }
    match (details.is_empty(), failed) {
        (true, _) => Finding::pass(ROW, "none"),
        (false, false) => {
            Finding::note(ROW, format!("{} cycles, all explained", details.len())).with(details)
        }
        (false, true) => Finding::fail(ROW, format!("{} cycles", details.len())).with(details),
    }
}

fn depth(stack: &Stack) -> Finding {
    const ROW: &str = "stack.depth";
    let mut found = Vec::new();
    let mut details = Vec::new();
    for kind in Kind::ALL {
        let (budget, why) = kind.budget();
        let Some(deepest) = stack.depths.iter().find(|depth| depth.kind == kind) else { continue };
        found.push(format!("{} {} of {budget}", kind.name(), deepest.bytes));
        let over = stack.depths.iter().filter(|depth| depth.kind == kind && depth.bytes > budget);
        for depth in over {
            let path = depth.path.iter().map(|step| format!("{} {}", step.function, step.frame));
            let path: Vec<_> = path.collect();
            details.push(format!("{} {}: {} bytes of {budget}", kind.name(), depth.root, depth.bytes));
            details.push(format!("    {}", path.join(" > ")));
        }
        if stack.depths.iter().any(|depth| depth.kind == kind && depth.bytes > budget) {
            details.push(format!("    budget of a {}: {why}", kind.name()));
        }
    }
    let status = if details.is_empty() { Status::Pass } else { Status::Fail };
    Finding { row: ROW, status, found: found.join(", "), details }
}
