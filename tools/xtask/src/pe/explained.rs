//! The project's own table: which functions run on whose stack, how much of it each may take, and what is allowed
//! though a row would fail for it, each with its reason.

/// Who enters a function from outside of the call graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Windows, in any thread, at any time: the default for a function whose address is taken.
    Callback,
    /// A system thread of the driver's own.
    Thread,
    /// Windows, once, when the driver is stopped.
    Stop,
    /// Windows, once, when the driver is loaded.
    Start,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Callback, Self::Thread, Self::Stop, Self::Start];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Thread => "thread",
            Self::Stop => "stop",
            Self::Start => "start",
        }
    }

    /// Bytes of stack that the deepest path may take, and why so many.
    pub const fn budget(self) -> (u32, &'static str) {
        match self {
            Self::Callback => (
                4096,
                "a third of the \"approximately three pages\" that \"Using the Kernel Stack\" grants a driver, a \
                 sixth of the 24 KiB there are: the application's system call, afd.sys, tcpip.sys and callouts of \
                 others are on it already, and what the driver calls in the kernel comes on top",
            ),
            Self::Thread | Self::Stop | Self::Start => (
                12288,
                "half of the 24 KiB there are: nothing else is on the stack of a system thread, and the other half \
                 is for what the driver calls in the kernel",
            ),
        }
    }
}

/// Functions that are not callbacks, by their path.
const ROOTS: &[(&str, Kind)] = &[
    // What the entry point calls.
    ("weir::DriverEntry", Kind::Start),
    ("weir::unload", Kind::Stop),
    // The first routine of every thread, and what it calls by pointer.
    ("weir::kernel::thread::start", Kind::Thread),
    ("weir::control::worker::run", Kind::Thread),
    ("weir::dispatch::run", Kind::Thread),
    ("weir::ext::events::run", Kind::Thread),
    ("weir::wfp::keeper::run", Kind::Thread),
];

/// Whether a demangled name is this path, with any type arguments.
fn is(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::<"))
}

/// Who enters a function whose address is taken. Where the linker folded several, the strictest.
pub fn kind(names: &[String]) -> Kind {
    let kind = |name: &String| {
        ROOTS.iter().find(|(path, _)| is(name, path)).map_or(Kind::Callback, |(_, kind)| *kind)
    };
    names.iter().map(kind).min().unwrap_or(Kind::Callback)
}

/// What a row would fail for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    Panic,
    Trap,
    Recursion,
    Frame,
}

/// A function that is allowed.
#[derive(Debug)]
pub struct Explained {
    pub path: &'static str,
    pub what: Exception,
    pub why: &'static str,
}

/// All that is allowed.
pub static EXPLAINED: &[Explained] = &[];

/// Why this is allowed, if it is: every name of the function must be.
pub fn reason(names: &[String], what: Exception) -> Option<&'static str> {
    let reason = |name: &String| {
        EXPLAINED.iter().find(|row| row.what == what && is(name, row.path)).map(|row| row.why)
    };
    let reasons: Option<Vec<_>> = names.iter().map(reason).collect();
    reasons.and_then(|reasons| reasons.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_a_callback_unless_every_name_is_another_kind() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(kind(&names(&["weir::unload"])), Kind::Stop);
        assert_eq!(kind(&names(&["weir::kernel::thread::start::<weir::dispatch::Work>"])), Kind::Thread);
        assert_eq!(kind(&names(&["weir::unloaded"])), Kind::Callback);
        assert_eq!(kind(&names(&["weir::dispatch::run", "weir::wfp::callout::notify"])), Kind::Callback);
        assert_eq!(kind(&[]), Kind::Callback);
    }
}
