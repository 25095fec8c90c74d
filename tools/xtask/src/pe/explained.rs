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
    ("weir::config::watch::run", Kind::Thread),
    ("weir::control::worker::run", Kind::Thread),
    ("weir::dispatch::run", Kind::Thread),
    ("weir::guard::run", Kind::Thread),
    ("weir::policies::steward::run", Kind::Thread),
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

/// Destructors that are allowed in a cycle of calls. Which of them are functions of their own is the compiler's choice, so they
/// are known by what they drop.
#[derive(Debug)]
pub struct Recursion {
    /// Types, one of which is in the name of what is dropped.
    pub drops: &'static [&'static str],
    /// How often each can be on the stack at once.
    pub times: u32,
    pub why: &'static str,
}

/// Cycles of calls that end. Whoever is dropped last takes the other along, and types alone do not say that it ends there.
static RECURSIONS: &[Recursion] = &[
    Recursion {
        drops: &[
            "weir::control::session::Session",
            "weir::control::shared::Table",
            "weir::control::shared::Shared",
        ],
        times: 2,
        why: "a session keeps its table alive, so a table that goes has no session left in it; a request that goes with \
              its session has none of its own",
    },
    Recursion {
        drops: &["weir::control::listener::Listener"],
        times: 2,
        why: "a request keeps its listener alive while it is out, so one that goes with its listener has no owner",
    },
];

/// What a function drops, if it is a destructor.
fn dropped(name: &str) -> Option<&str> {
    name.strip_prefix("core::ptr::drop_in_place::")
        .or_else(|| name.strip_suffix(" as core::ops::drop::Drop>::drop"))
}

/// Why a cycle through a function ends, and how often the function can be on the stack: every name of it is allowed.
pub fn recursion(names: &[String]) -> Option<&'static Recursion> {
    let row = |name: &String| {
        let dropped = dropped(name)?;
        RECURSIONS.iter().find(|row| row.drops.iter().any(|of| dropped.contains(of)))
    };
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

    #[test]
    fn only_destructors_of_what_is_known_may_call_themselves() {
        let times = |name: &str| recursion(&[name.to_owned()]).map(|row| row.times);
        assert_eq!(times("core::ptr::drop_in_place::<weir::control::session::Session>"), Some(2));
        let request = "<weir::kernel::irp::Irp<weir::wsk::connection::Sending<weir::control::session::Session>> as \
                       core::ops::drop::Drop>::drop";
        assert_eq!(times(request), Some(2));
        assert_eq!(times("<weir::control::session::Session>::end"), None);
        assert_eq!(times("core::ptr::drop_in_place::<weir::flow::connection::Connection>"), None);
    }
}
