//! How much of the kernel's stack the code takes.

use petgraph::graph::{DiGraph, NodeIndex};
use serde::Serialize;

use super::explained::{self, Kind};
use super::graph::{Graph, Root};
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
    /// If it calls by pointer on the way: that far, and the deepest function of the driver that could be called so.
    pub by_pointer: Option<u32>,
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

/// The way down from a function.
#[derive(Clone, Copy)]
struct Below {
    bytes: u32,
    /// The callee on the deepest path.
    next: Option<usize>,
    /// Bytes on the stack at the deepest call by pointer.
    pointer: Option<u32>,
}

/// The way down from a function of a component, by callees that are known and no members of it.
fn below_function(
    graph: &Graph,
    arch: Arch,
    index: usize,
    members: &[usize],
    below: &[Option<Below>],
) -> Below {
    let function = &graph.functions[index];
    let own = function.frame(arch);
    let calls_by_pointer = function.guarded + function.unguarded > 0;
    let mut deepest = Below { bytes: own, next: None, pointer: calls_by_pointer.then_some(own) };
    for edge in function.edges.iter().filter(|edge| !members.contains(&edge.to)) {
        let Some(under) = below[edge.to] else { continue };
        // A jump gives the frame up first.
        let kept = if edge.jump { 0 } else { own };
        let bytes = kept.saturating_add(under.bytes);
        if bytes > deepest.bytes {
            (deepest.bytes, deepest.next) = (bytes, Some(edge.to));
        }
        deepest.pointer = deepest.pointer.max(under.pointer.map(|pointer| kept.saturating_add(pointer)));
    }
    deepest
}

/// Measures the deepest path of every root. A cycle counts as often as it is explained to run.
pub fn measure(graph: &Graph, arch: Arch) -> Stack {
    let mut calls = DiGraph::<(), ()>::with_capacity(graph.functions.len(), 0);
    let nodes: Vec<NodeIndex> = graph.functions.iter().map(|_| calls.add_node(())).collect();
    for (index, function) in graph.functions.iter().enumerate() {
        for edge in &function.edges {
            calls.add_edge(nodes[index], nodes[edge.to], ());
        }
    }
    let mut stack = Stack::default();
    let mut below: Vec<Option<Below>> = vec![None; graph.functions.len()];
    // Callees first.
    for component in petgraph::algo::kosaraju_scc(&calls) {
        let members: Vec<usize> = component.iter().map(|node| node.index()).collect();
        let itself =
            members.iter().any(|member| graph.functions[*member].edges.iter().any(|edge| edge.to == *member));
        let found: Vec<_> =
            members.iter().map(|member| below_function(graph, arch, *member, &members, &below)).collect();
        let cyclic = members.len() > 1 || itself;
        // Of a cycle, every member is taken as often as it can be there, on top of what leaves the cycle with one of
        // their frames.
        let mut more = 0u32;
        if cyclic {
            stack.cycles.push(members.clone());
            let frames = members.iter().map(|member| (*member, graph.functions[*member].frame(arch)));
            let times = |member: usize| {
                explained::recursion(&graph.functions[member].names).map_or(1, |recursion| recursion.times)
            };
            let all = frames.clone().map(|(member, frame)| frame.saturating_mul(times(member)));
            let least = frames.map(|(_, frame)| frame).min().unwrap_or(0);
            more = all.fold(0u32, u32::saturating_add).saturating_sub(least);
        }
        let bytes = found.iter().map(|below| below.bytes).max().unwrap_or(0);
        let pointer = found.iter().filter_map(|below| below.pointer).max();
        for (member, own) in members.into_iter().zip(found) {
            below[member] = Some(if cyclic {
                let pointer = pointer.map(|pointer| pointer.saturating_add(more));
                Below { bytes: bytes.saturating_add(more), next: own.next, pointer }
            } else {
                own
            });
        }
    }
    stack.depths = depths(graph, arch, &below);
    stack
}

fn depths(graph: &Graph, arch: Arch, below: &[Option<Below>]) -> Vec<Depth> {
    let bytes = |root: &Root| below[root.function].map_or(0, |below| below.bytes);
    // What a call by pointer can lead to: a thread's function from a thread alone.
    let deepest =
        |kinds: &[Kind]| graph.roots.iter().filter(|root| kinds.contains(&root.kind)).map(bytes).max();
    let mut depths = Vec::new();
    for root in &graph.roots {
        let mut path = Vec::new();
        let mut next = Some(root.function);
        while let Some(index) = next {
            let function = &graph.functions[index];
            path.push(Step { function: function.name().to_owned(), frame: function.frame(arch) });
            next = below[index].and_then(|below| below.next);
        }
        let called: &[Kind] =
            if root.kind == Kind::Thread { &[Kind::Callback, Kind::Thread] } else { &[Kind::Callback] };
        let pointer = below[root.function].and_then(|below| below.pointer);
        depths.push(Depth {
            root: graph.functions[root.function].name().to_owned(),
            kind: root.kind,
            bytes: bytes(root),
            by_pointer: pointer.zip(deepest(called)).map(|(pointer, more)| pointer.saturating_add(more)),
            budget: root.kind.budget().0,
            path,
        });
    }
    depths.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.root.cmp(&b.root)));
    depths
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
        let of_kind: Vec<_> = stack.depths.iter().filter(|depth| depth.kind == kind).collect();
        let Some(deepest) = of_kind.first() else { continue };
        let pointer = of_kind.iter().filter_map(|depth| depth.by_pointer).max();
        let pointer = pointer.map_or(String::new(), |bytes| format!(" (by pointer {bytes})"));
        found.push(format!("{} {}{pointer} of {budget}", kind.name(), deepest.bytes));
        let over: Vec<_> = of_kind
            .into_iter()
            .filter(|depth| depth.bytes.max(depth.by_pointer.unwrap_or(0)) > budget)
            .collect();
        for depth in &over {
            let path = depth.path.iter().map(|step| format!("{} {}", step.function, step.frame));
            let path: Vec<_> = path.collect();
            let pointer = depth.by_pointer.map_or(String::new(), |bytes| format!(", {bytes} by pointer,"));
            details.push(format!(
                "{} {}: {} bytes{pointer} of {budget}",
                kind.name(),
                depth.root,
                depth.bytes
            ));
            details.push(format!("    {}", path.join(" > ")));
        }
        if !over.is_empty() {
            details.push(format!("    budget of a {}: {why}", kind.name()));
        }
    }
    let status = if details.is_empty() { Status::Pass } else { Status::Fail };
    Finding { row: ROW, status, found: found.join(", "), details }
}
