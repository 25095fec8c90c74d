//! Spin lock discipline. Locks tell the verifier when they are taken and released.
//!
//! Checked: a lock taken below DISPATCH_LEVEL, taken twice by one thread, released by another or not at all, held
//! while IRQL is lowered or the thread blocks, and two locks taken in both orders by any threads at any time
//! (pages "Introduction to Spin Locks" and "Preventing Errors and Deadlocks While Using Spin Locks").
//!
//! Order is kept by lock name, and by address among locks of the same name. A thread remembers the pairs it has already
//! shown, so that the common case takes no shared lock.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::irql;
use crate::rules;
use crate::sys::nt::DISPATCH_LEVEL;
use crate::verify::{lock, violation};

const PAGE: &str = "Preventing Errors and Deadlocks While Using Spin Locks";

rules! {
    LOCK_IRQL = ("spin lock taken below DISPATCH_LEVEL", "Introduction to Spin Locks");
    LOCK_RECURSION = ("spin lock taken twice by one thread", PAGE);
    LOCK_ORDER = ("spin locks taken in both orders", PAGE);
    LOCK_NOT_HELD = ("spin lock released by a thread that does not hold it", PAGE);
    LOCK_HELD_LOWERING = ("IRQL lowered with a spin lock held", "KeReleaseSpinLock");
    LOCK_HELD_BLOCKING = ("thread blocks with a spin lock held", PAGE);
    LOCK_FREED = ("memory freed with a spin lock in it that is held", "ExFreePoolWithTag");
    LOCK_DEPTH = ("too many spin locks held at once", PAGE);
}

/// How many locks one thread may hold.
const DEPTH: usize = 16;
const REMEMBERED: usize = 64;

#[derive(Clone, Copy)]
struct Held {
    address: usize,
    name: &'static str,
}

struct Thread {
    depth: Cell<usize>,
    held: [Cell<Held>; DEPTH],
    /// Hashes of the pairs that are in the graph already.
    seen: [Cell<u64>; REMEMBERED],
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            depth: Cell::new(0),
            held: [const { Cell::new(Held { address: 0, name: "" }) }; DEPTH],
            seen: [const { Cell::new(0) }; REMEMBERED],
        }
    };
}

/// A lock in the graph: by name, with the address only where two of one name meet.
type Node = (&'static str, usize);

static GRAPH: Mutex<Option<HashMap<Node, HashSet<Node>>>> = Mutex::new(None);
/// Changes with every boot, so that what threads remember is forgotten.
static GENERATION: AtomicU64 = AtomicU64::new(1);

pub(crate) fn reset() {
    *lock(&GRAPH) = None;
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Called before a lock is waited for: notices recursion while it can still be reported rather than hang.
#[inline]
pub fn lock_acquiring(address: usize, name: &'static str) {
    THREAD.with(|thread| {
        if thread.depth.get() != 0 && thread.position(address).is_some() {
            violation(&LOCK_RECURSION, "spin lock", format!("{name} at {address:#x}"));
        }
    });
}

/// Called once a lock is held.
#[inline]
pub fn lock_acquired(address: usize, name: &'static str) {
    if irql::current() < DISPATCH_LEVEL {
        violation(&LOCK_IRQL, "spin lock", format!("{name} at IRQL {}", irql::current()));
    }
    THREAD.with(|thread| {
        let depth = thread.depth.get();
        if depth != 0 {
            thread.check_order(address, name);
        }
        match thread.held.get(depth) {
            Some(slot) => {
                slot.set(Held { address, name });
                thread.depth.set(depth + 1);
            }
            None => violation(&LOCK_DEPTH, "spin lock", format!("{name} is number {}", depth + 1)),
        }
    });
}

/// Called before a lock is let go.
#[inline]
pub fn lock_released(address: usize) {
    THREAD.with(|thread| {
        let depth = thread.depth.get();
        if let Some(last) = depth.checked_sub(1)
            && thread.held[last].get().address == address
        {
            thread.depth.set(last);
        } else {
            thread.release_out_of_order(address);
        }
    });
}

/// How many spin locks the calling thread holds.
pub fn held() -> usize {
    THREAD.with(|thread| thread.depth.get())
}

/// What the calling thread holds was lost by a callback that did not come back as it should.
pub(crate) fn forget_held() {
    THREAD.with(|thread| thread.depth.set(0));
}

/// The name of a lock in this range that the calling thread holds.
pub(crate) fn held_within(start: usize, size: usize) -> Option<&'static str> {
    THREAD.with(|thread| {
        let mut held = thread.held.iter().take(thread.depth.get()).map(Cell::get);
        held.find(|held| (start..start + size).contains(&held.address)).map(|held| held.name)
    })
}

#[inline]
pub(crate) fn require_none_held(api: &'static str) {
    if held() != 0 {
        violation(&LOCK_HELD_LOWERING, api, names());
    }
}

/// Called where a thread may block.
pub(crate) fn require_none_held_blocking(api: &'static str) {
    if held() != 0 {
        violation(&LOCK_HELD_BLOCKING, api, names());
    }
}

fn names() -> String {
    THREAD.with(|thread| {
        let names: Vec<_> = thread.held.iter().take(thread.depth.get()).map(|held| held.get().name).collect();
        format!("holding {}", names.join(", "))
    })
}

impl Thread {
    fn position(&self, address: usize) -> Option<usize> {
        self.held.iter().take(self.depth.get()).position(|held| held.get().address == address)
    }

    #[cold]
    fn release_out_of_order(&self, address: usize) {
        let Some(position) = self.position(address) else {
            violation(&LOCK_NOT_HELD, "spin lock", format!("{address:#x}"));
            return;
        };
        let last = self.depth.get() - 1;
        for index in position..last {
            self.held[index].set(self.held[index + 1].get());
        }
        self.depth.set(last);
    }

    fn check_order(&self, address: usize, name: &'static str) {
        let generation = GENERATION.load(Ordering::Relaxed);
        for index in 0..self.depth.get() {
            let before = self.held[index].get();
            let (from, to) = if before.name == name {
                ((name, before.address), (name, address))
            } else {
                ((before.name, 0), (name, 0))
            };
            let hash = pair_hash(from, to, generation);
            let slot = &self.seen[usize::try_from(hash >> 58).unwrap_or(0)];
            if slot.get() != hash {
                slot.set(hash);
                add_edge(from, to);
            }
        }
    }
}

/// FNV over the pair; never 0, which marks an empty slot.
fn pair_hash(from: Node, to: Node, generation: u64) -> u64 {
    let words = [from.0.as_ptr().addr(), from.0.len(), from.1, to.0.as_ptr().addr(), to.0.len(), to.1];
    let hash = words.iter().fold(generation, |hash, &word| {
        (hash ^ word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    hash | 1
}

fn add_edge(from: Node, to: Node) {
    let backwards = {
        let mut graph = lock(&GRAPH);
        let graph = graph.get_or_insert_default();
        if !graph.entry(from).or_default().insert(to) {
            return;
        }
        reaches(graph, to, from)
    };
    if backwards {
        let text = |node: Node| {
            if node.1 == 0 { node.0.to_owned() } else { format!("{} at {:#x}", node.0, node.1) }
        };
        violation(
            &LOCK_ORDER,
            "spin lock",
            format!("{} taken with {} held, and before the other way round", text(to), text(from)),
        );
    }
}

fn reaches(graph: &HashMap<Node, HashSet<Node>>, from: Node, target: Node) -> bool {
    let mut visited = HashSet::new();
    let mut open = vec![from];
    while let Some(node) = open.pop() {
        if node == target {
            return true;
        }
        if visited.insert(node)
            && let Some(next) = graph.get(&node)
        {
            open.extend(next.iter().copied());
        }
    }
    false
}
