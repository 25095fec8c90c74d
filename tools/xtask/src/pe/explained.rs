//! The project's own table: which functions run on whose stack, how much of it each may take, and which cycles of
//! calls end, each with its reason. Of panics none is allowed, so there is no table of them.

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

/// A function that is allowed in a cycle of calls.
#[derive(Debug)]
pub struct Recursion {
    pub path: &'static str,
    /// How often it can be on the stack at once.
    pub times: u32,
    pub why: &'static str,
}

/// Whoever is dropped last takes the other along, and types alone do not say that it ends there.
const SESSIONS: &str = "a session keeps its table alive, so a table that goes has no session left in it; a request that \
                        goes with its session has none of its own";

/// Cycles of calls that end.
static RECURSIONS: &[Recursion] = &[
    Recursion {
        path: "core::ptr::drop_in_place::<weir::control::session::Session>",
        times: 2,
        why: SESSIONS,
    },
    Recursion {
        path: "core::ptr::drop_in_place::<weir::kernel::lock::SpinLock<weir::control::shared::Table>>",
        times: 2,
        why: SESSIONS,
    },
    Recursion {
        path: "<weir::kernel::pool::PoolBox<weir::kernel::irp::Block<weir::wsk::socket::Receiving<\
               weir::control::session::Session>>> as core::ops::drop::Drop>::drop",
        times: 2,
        why: SESSIONS,
    },
    Recursion {
        path: "<weir::kernel::pool::PoolBox<weir::kernel::irp::Block<weir::wsk::socket::Accepting<\
               weir::control::listener::Listener>>> as core::ops::drop::Drop>::drop",
        times: 2,
        why: "a request keeps its listener alive while it is out, so one that goes with its listener has no owner",
    },
];

/// Why a cycle through a function ends, and how often the function can be on the stack: every name of it is allowed.
pub fn recursion(names: &[String]) -> Option<&'static Recursion> {
    let row = |name: &String| RECURSIONS.iter().find(|row| is(name, row.path));
    let rows: Option<Vec<_>> = names.iter().map(row).collect();
    rows.and_then(|rows| rows.into_iter().max_by_key(|row| row.times))
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
