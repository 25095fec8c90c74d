//! The panic machinery and the alloc crate, by demangled names.

use std::collections::BTreeSet;

use serde::Serialize;

use super::explained::Kind;
use super::graph::Graph;
use super::read::Image;
use super::rows::Finding;

/// Imports that stop Windows.
const STOPS: [&str; 3] =
    ["ntoskrnl.exe!KeBugCheckEx", "ntoskrnl.exe!KeBugCheck", "ntoskrnl.exe!ExRaiseStatus"];

/// Whether a function exists only to panic, or to carry a panic out.
pub fn is_panic(name: &str) -> bool {
    const PATHS: [&str; 4] = ["core::panicking::", "core::panic::", "std::panicking::", "std::panic::"];
    const HANDLERS: [&str; 6] = [
        "rust_begin_unwind",
        "rust_panic",
        "rust_eh_personality",
        "_Unwind_Resume",
        "__rust_start_panic",
        "__rust_foreign_exception",
    ];
    let path = without_arguments(name);
    let library = ["core::", "alloc::", "std::"].iter().any(|library| path.starts_with(library))
        || name.starts_with("<core::")
        || name.starts_with("<alloc::");
    let panics = |part: &str| {
        part.starts_with("panic")
            || part.ends_with("panic")
            || part.ends_with("_fail")
            || part.ends_with("_fail_rt")
            || part.ends_with("_failed")
    };
    PATHS.iter().any(|prefix| path.starts_with(prefix) || name.contains(&format!("<{prefix}")))
        || HANDLERS.contains(&path.rsplit("::").next().unwrap_or_default())
        || (library && path.split("::").any(panics))
}

/// Whether a function is the alloc crate's, or an allocator's.
pub fn is_alloc(name: &str) -> bool {
    const ALLOCATORS: [&str; 5] = ["__rust_", "__rg_", "__rdl_", "rust_oom", "_R__rust"];
    let path = without_arguments(name);
    let last = path.rsplit("::").next().unwrap_or_default();
    let allocator = |name: &str| {
        ALLOCATORS.iter().any(|prefix| name.starts_with(prefix))
            && (name.contains("alloc") || name.contains("oom"))
    };
    name.starts_with("alloc::") || name.contains("<alloc::") || name.contains(" alloc::") || allocator(last)
}

/// A path without the type arguments in it: `core::ptr::drop_in_place::<T>` to `core::ptr::drop_in_place`.
fn without_arguments(name: &str) -> String {
    let mut depth = 0usize;
    let mut path = String::new();
    for character in name.chars() {
        match character {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            other if depth == 0 => path.push(other),
            _ => {}
        }
    }
    while path.ends_with("::") {
        path.truncate(path.len() - 2);
    }
    path
}

/// A panic function that is in the image.
#[derive(Debug, Serialize)]
pub struct Panic {
    pub name: String,
    /// From which roots it can be reached.
    pub reached_from: Vec<Kind>,
    /// Functions from a root to it, from the strictest kind of root that reaches it.
    pub chain: Vec<String>,
    /// Calls from functions that are not panic functions themselves: who, and which place in the source panics.
    pub callers: Vec<Caller>,
}

#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    pub function: String,
    pub location: Option<String>,
}

/// The source location that a panic at this call would name, from the addresses that the code before it computes.
fn location(image: &Image<'_>, addresses: &[(u32, u32)], site: u32) -> Option<String> {
    // As far back as arguments are made.
    const NEAR: u32 = 64;
    let mut near = addresses.iter().rev().filter(|(at, _)| *at <= site && site - at <= NEAR);
    near.find_map(|(_, address)| read_location(image, *address))
}

/// `core::panic::Location`: pointer and length of the file's name, line, column.
fn read_location(image: &Image<'_>, at: u32) -> Option<String> {
    let field = |offset: u32| at.checked_add(offset);
    let file = image.rva(image.u64(at)?)?;
    let len = usize::try_from(image.u64(field(8)?)?).ok().filter(|len| (4..1024).contains(len))?;
    let (line, column) = (image.u32(field(16)?)?, image.u32(field(20)?)?);
    let file = image.bytes(file, len)?;
    let file = std::str::from_utf8(file).ok()?.trim_end_matches('\0');
    let source = std::path::Path::new(file).extension().is_some_and(|extension| extension == "rs");
    source.then(|| format!("{file}:{line}:{column}"))
}

/// Every panic function of the image.
pub fn find(image: &Image<'_>, graph: &Graph) -> Vec<Panic> {
    let reached: Vec<_> = Kind::ALL.into_iter().map(|kind| (kind, graph.reached(kind))).collect();
    let machinery = |index: usize| {
        graph.functions.get(index).is_some_and(|function| function.names.iter().any(|name| is_panic(name)))
    };
    // Where the machinery was inlined, what it ends in remains.
    let stops = |index: usize| {
        let imports = graph.functions.get(index).map(|function| &function.imports);
        imports.and_then(|imports| STOPS.into_iter().find(|stop| imports.contains(*stop)))
    };
    let is = |index: usize| machinery(index) || stops(index).is_some();
    let found = (0..graph.functions.len()).filter(|index| is(*index)).map(|index| {
        let function = &graph.functions[index];
        let from: Vec<_> = reached.iter().filter(|(_, before)| before[index].is_some()).collect();
        let chain = from.first().map_or_else(Vec::new, |(_, before)| Graph::chain(before, index));
        let mut callers = BTreeSet::new();
        for (_, caller) in graph.functions.iter().enumerate().filter(|(caller, _)| !is(*caller)) {
            for edge in caller.edges.iter().filter(|edge| edge.to == index) {
                let location = location(image, &caller.facts.addresses, edge.site);
                callers.insert(Caller { function: caller.name().to_owned(), location });
            }
        }
        Panic {
            name: match stops(index).filter(|_| !machinery(index)) {
                Some(stop) => format!("{}, which calls {stop}", function.names.join(" = ")),
                None => function.names.join(" = "),
            },
            reached_from: from.iter().map(|(kind, _)| *kind).collect(),
            chain: graph.names(&chain).into_iter().map(str::to_owned).collect(),
            callers: callers.into_iter().collect(),
        }
    });
    found.collect()
}

/// The finding about panics.
pub fn check(panics: &[Panic]) -> Finding {
    const ROW: &str = "code.panics";
    if panics.is_empty() {
        return Finding::pass(ROW, "none in the image");
    }
    let from = |kinds: &[Kind]| {
        panics.iter().filter(|panic| panic.reached_from.iter().any(|kind| kinds.contains(kind))).count()
    };
    let found = format!(
        "{} panic functions; reached from callbacks and threads {}, from start and stop {}",
        panics.len(),
        from(&[Kind::Callback, Kind::Thread]),
        from(&[Kind::Start, Kind::Stop])
    );
    let mut details = Vec::new();
    for panic in panics {
        let kinds: Vec<_> = panic.reached_from.iter().map(|kind| kind.name()).collect();
        let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
        details.push(format!("{}: reached from {kinds}", panic.name));
        if !panic.chain.is_empty() {
            details.push(format!("    {}", panic.chain.join(" > ")));
        }
        for caller in &panic.callers {
            let location = caller.location.as_deref().map_or(String::new(), |at| format!(" at {at}"));
            details.push(format!("    called by {}{location}", caller.function));
        }
    }
    Finding::fail(ROW, found).with(details)
}

#[cfg(test)]
mod tests {
    use super::super::map::demangle;
    use super::*;

    #[test]
    fn panics_are_known_in_both_manglings() {
        for symbol in [
            "_ZN4core9panicking5panic17h0123456789abcdefE",
            "_RNvNtCs8icZUrvfcq9_4core9panicking18panic_nounwind_fmt",
            "_RNvNtCsjsAiA4qDDQr_4core6result13unwrap_failed",
            "_ZN4core6option13expect_failed17h0123456789abcdefE",
            "_ZN4core5slice5index16slice_index_fail17h0123456789abcdefE",
            "_RNvCsfLfy6EI15iL_7___rustc17rust_begin_unwind",
            "rust_begin_unwind",
            "_ZN4core3str19slice_error_fail_rt17h0123456789abcdefE",
            "_ZN4core9panicking11panic_const24panic_const_add_overflow17h0123456789abcdefE",
            "_ZN4core4cell22panic_already_borrowed17h0123456789abcdefE",
            "_ZN4core5slice5index16slice_index_fail8do_panic7runtime17h0123456789abcdefE",
            "_ZN4core5slice20copy_from_slice_impl17len_mismatch_fail17h0123456789abcdefE",
            "_ZN70_$LT$core..panic..location..Location$u20$as$u20$core..fmt..Display$GT$3fmt17h0123456789abcdefE",
        ] {
            assert!(is_panic(&demangle(symbol)), "{}", demangle(symbol));
        }
        for symbol in [
            "_ZN4core3fmt5write17h0123456789abcdefE",
            "_ZN4weir6driver5start17h0123456789abcdefE",
            "_ZN4weir6driver11load_failed17h0123456789abcdefE",
            "memcpy",
            "DriverEntry",
        ] {
            assert!(!is_panic(&demangle(symbol)), "{}", demangle(symbol));
        }
    }

    #[test]
    fn the_alloc_crate_is_known_by_its_paths_and_hooks() {
        for name in [
            "alloc::raw_vec::handle_error",
            "<alloc::string::String as core::fmt::Write>::write_str",
            "core::ptr::drop_in_place::<alloc::string::String>",
            "__rustc::__rust_alloc",
            "__rust_no_alloc_shim_is_unstable_v2",
            "__rg_oom",
        ] {
            assert!(is_alloc(name), "{name}");
        }
        for name in ["weir::kernel::pool::alloc", "core::alloc::layout::Layout::new", "memset"] {
            assert!(!is_alloc(name), "{name}");
        }
    }
}
