//! The functions of an image and the calls between them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::code::{Facts, To};
use super::config::{self, GuardSlots};
use super::explained::{self, Kind};
use super::imports::Import;
use super::map::{Map, demangle};
use super::read::{Arch, Image};
use super::unwind::Unwound;
use super::{arm64, x64};

/// A function.
#[derive(Debug)]
pub struct Function {
    pub start: u32,
    pub end: u32,
    /// Demangled; several where the linker folded equal functions.
    pub names: Vec<String>,
    pub unwound: Option<Unwound>,
    pub facts: Facts,
    /// Calls and jumps to other functions.
    pub edges: Vec<Edge>,
    /// Imports that it calls.
    pub imports: BTreeSet<String>,
    /// Calls that the graph cannot follow, through the guard or not.
    pub guarded: usize,
    pub unguarded: usize,
    /// Jumps by a register: a switch, or a call at the end of a function.
    pub computed: usize,
}

impl Function {
    pub fn name(&self) -> &str {
        self.names.first().map_or("(no name)", String::as_str)
    }

    /// Addresses of functions that it takes: site, address.
    pub fn taken<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = (u32, &'a Function)> {
        self.facts.addresses.iter().filter_map(|(site, address)| {
            let function = graph.functions.get(graph.at(*address)?)?;
            (function.start == *address).then_some((*site, function))
        })
    }

    /// Bytes of stack while it runs, with the return address where the call pushes it.
    pub fn frame(&self, arch: Arch) -> u32 {
        let pushed = match arch {
            Arch::X64 => 8,
            Arch::Arm64 => 0,
        };
        let unwound = self.unwound.as_ref().map_or(0, |unwound| unwound.frame);
        let counted = match arch {
            Arch::X64 => self.facts.prologue_bytes.max(unwound).saturating_add(self.facts.later_bytes),
            Arch::Arm64 => self.facts.prologue_bytes.max(unwound),
        };
        counted.saturating_add(pushed)
    }
}

/// A call to, or a jump to the start of, another function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    pub site: u32,
    /// The place in [`Graph::functions`].
    pub to: usize,
    pub jump: bool,
}

/// Where code is entered from outside of the call graph.
#[derive(Clone, Debug)]
pub struct Root {
    pub function: usize,
    pub kind: Kind,
}

#[derive(Debug)]
pub struct Graph {
    pub functions: Vec<Function>,
    pub roots: Vec<Root>,
    /// The image says where the guard's functions are.
    pub guard_known: bool,
    /// The functions that the guard allows to be called, sorted.
    pub call_targets: Vec<u32>,
    /// What keeps the graph from being whole: bytes of no function, calls to none.
    pub faults: Vec<String>,
}

impl Graph {
    /// Reads all code of an image.
    pub fn build(image: &Image<'_>, map: &Map, unwound: &[Unwound], imports: &[Import]) -> Self {
        let mut graph = Self {
            functions: Vec::new(),
            roots: Vec::new(),
            guard_known: GuardSlots::of(image).check.is_some(),
            call_targets: config::call_targets(image),
            faults: Vec::new(),
        };
        graph.find_functions(image, map, unwound);
        graph.link(image, imports);
        graph.find_roots(image, unwound);
        graph
    }

    /// The function that an address is in.
    pub fn at(&self, rva: u32) -> Option<usize> {
        let after = self.functions.partition_point(|function| function.start <= rva);
        let index = after.checked_sub(1)?;
        (rva < self.functions.get(index)?.end).then_some(index)
    }

    fn find_functions(&mut self, image: &Image<'_>, map: &Map, unwound: &[Unwound]) {
        let by_start: HashMap<u32, &Unwound> = unwound.iter().map(|part| (part.start, part)).collect();
        let symbols: BTreeMap<u32, &[String]> = map.code(image).collect();
        // A symbol in the middle of a function that unwind data delimits is a label.
        let inside = |rva: u32| {
            let after = unwound.partition_point(|part| part.start < rva);
            after.checked_sub(1).and_then(|index| unwound.get(index)).is_some_and(|part| rva < part.end)
        };
        let mut starts: BTreeSet<u32> = symbols.keys().copied().filter(|rva| !inside(*rva)).collect();
        starts.extend(unwound.iter().map(|part| part.start));
        for section in image.sections.iter().filter(|section| section.executable()) {
            let bytes = image.stored(section);
            let end = section.start.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            let slice = |from: u32, to: u32| {
                let at = |rva: u32| rva.saturating_sub(section.start) as usize;
                bytes.get(at(from)..at(to)).unwrap_or_default()
            };
            let mut reached = section.start;
            let own: Vec<u32> = starts.range(section.start..end).copied().collect();
            for (index, start) in own.iter().copied().enumerate() {
                self.gap(image.arch, reached, slice(reached, start));
                let next = own.get(index + 1).copied().unwrap_or(end);
                let part = by_start.get(&start).copied();
                let all = slice(start, next);
                let len = match (part, image.arch) {
                    (Some(part), _) => (part.end - start) as usize,
                    (None, Arch::X64) => x64::without_padding(all),
                    (None, Arch::Arm64) => arm64::without_padding(all),
                };
                let code = all.get(..len).unwrap_or(all);
                reached = start + u32::try_from(code.len()).unwrap_or(0);
                let facts = match image.arch {
                    Arch::X64 => x64::decode(start, code, part.map_or(0, |part| part.prologue)),
                    Arch::Arm64 => arm64::decode(start, code),
                };
                let names = symbols.get(&start).copied().unwrap_or_default();
                self.functions.push(Function {
                    start,
                    end: reached,
                    names: names.iter().map(|name| demangle(name)).collect(),
                    unwound: part.cloned(),
                    facts,
                    edges: Vec::new(),
                    imports: BTreeSet::new(),
                    guarded: 0,
                    unguarded: 0,
                    computed: 0,
                });
            }
            self.gap(image.arch, reached, slice(reached, end));
        }
        self.functions.sort_by_key(|function| function.start);
    }

    /// Bytes between functions must be padding: code that no symbol names is not checked.
    fn gap(&mut self, arch: Arch, start: u32, bytes: &[u8]) {
        let padding = match arch {
            Arch::X64 => x64::is_padding(bytes),
            Arch::Arm64 => arm64::is_padding(bytes),
        };
        if !padding {
            self.faults.push(format!("0x{start:x}: {} bytes belong to no function of the map", bytes.len()));
        }
    }

    fn link(&mut self, image: &Image<'_>, imports: &[Import]) {
        let slots: HashMap<u32, &Import> = imports.iter().map(|import| (import.slot, import)).collect();
        let guard = GuardSlots::of(image);
        for index in 0..self.functions.len() {
            let mut edges = Vec::new();
            let mut faults = Vec::new();
            let mut called = BTreeSet::new();
            let (mut guarded, mut unguarded, mut computed, mut checks) = (0, 0, 0, 0);
            let function = &self.functions[index];
            for transfer in &function.facts.transfers {
                let target = match transfer.to {
                    To::Direct(target) => Some(target),
                    To::Slot(slot) if guard.dispatch == Some(slot) => {
                        guarded += 1;
                        None
                    }
                    // The check comes before the call, which is counted by itself.
                    To::Slot(slot) if guard.check == Some(slot) => {
                        checks += 1;
                        None
                    }
                    To::Slot(slot) => {
                        if let Some(import) = slots.get(&slot) {
                            called.insert(format!("{}!{}", import.library, import.name));
                            None
                        } else if image.section(slot).is_some_and(|section| !section.writable()) {
                            // A pointer that cannot change: what it points to is called.
                            let target = image.u64(slot).and_then(|va| image.rva(va));
                            if target.is_none() {
                                unguarded += 1;
                            }
                            target
                        } else {
                            unguarded += 1;
                            None
                        }
                    }
                    To::Unknown if transfer.jump => {
                        computed += 1;
                        None
                    }
                    To::Unknown => {
                        unguarded += 1;
                        None
                    }
                };
                let Some(target) = target else { continue };
                match self.at(target) {
                    // A part of the same function, or a jump in it
                    Some(to) if transfer.jump && to == index => {}
                    Some(to) => {
                        // A part of another function has that function's frame.
                        let part = self.functions[to]
                            .unwound
                            .as_ref()
                            .is_some_and(|unwound| unwound.part_of.is_some());
                        edges.push(Edge { site: transfer.site, to, jump: transfer.jump && !part });
                    }
                    None => faults.push(format!(
                        "0x{:x} in {} calls 0x{target:x}, which is in no function",
                        transfer.site,
                        function.name()
                    )),
                }
            }
            // Where calls are checked, not dispatched, each check is for one of the calls, or for a jump in place of one.
            let checked = unguarded.min(checks);
            let jumps = computed.min(checks - checked);
            let function = &mut self.functions[index];
            (function.edges, function.imports) = (edges, called);
            (function.guarded, function.unguarded) = (guarded + checked + jumps, unguarded - checked);
            function.computed = computed - jumps;
            self.faults.extend(faults);
        }
    }

    fn find_roots(&mut self, image: &Image<'_>, unwound: &[Unwound]) {
        let entry = image.optional().address_of_entry_point.get(object::LittleEndian);
        let slots = GuardSlots::of(image);
        let mut taken: BTreeSet<u32> = self.call_targets.iter().copied().collect();
        taken.extend(
            image.pointers().into_iter().filter(|(site, _)| !slots.contains(*site)).map(|(_, to)| to),
        );
        taken.extend(unwound.iter().filter_map(|part| part.handler));
        for function in &self.functions {
            taken.extend(function.facts.addresses.iter().map(|(_, address)| *address));
        }
        taken.insert(entry);
        let mut roots = BTreeMap::new();
        for address in taken.into_iter().filter(|address| image.is_code(*address)) {
            let Some(index) = self.at(address) else { continue };
            // What is entered both by the kernel's call and by others is a callback.
            let kind =
                if address == entry { Kind::Start } else { explained::kind(&self.functions[index].names) };
            roots.entry(index).or_insert(kind);
        }
        self.roots = roots.into_iter().map(|(function, kind)| Root { function, kind }).collect();
    }

    /// For each function the way that leads to it from the roots of a kind, if there is one: the function before.
    /// A root is reached from itself.
    pub fn reached(&self, kind: Kind) -> Vec<Option<usize>> {
        let mut before = vec![None; self.functions.len()];
        let mut queue = VecDeque::new();
        for root in self.roots.iter().filter(|root| root.kind == kind) {
            before[root.function] = Some(root.function);
            queue.push_back(root.function);
        }
        while let Some(index) = queue.pop_front() {
            for edge in &self.functions[index].edges {
                if before[edge.to].is_none() {
                    before[edge.to] = Some(index);
                    queue.push_back(edge.to);
                }
            }
        }
        before
    }

    /// The functions from a root to this one, by what [`reached`](Self::reached) found.
    pub fn chain(before: &[Option<usize>], mut index: usize) -> Vec<usize> {
        let mut chain = vec![index];
        while let Some(previous) = before.get(index).copied().flatten() {
            if previous == index {
                break;
            }
            chain.push(previous);
            index = previous;
        }
        chain.reverse();
        chain
    }

    /// Names of a chain, for people.
    pub fn names(&self, chain: &[usize]) -> Vec<&str> {
        chain.iter().filter_map(|index| Some(self.functions.get(*index)?.name())).collect()
    }
}
