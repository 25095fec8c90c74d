//! Connections by the thousand, on many threads: what a driver is unloaded under.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use wine_support::drive::{self, Outcome, Request};
use wine_support::json::{Value, json};
use wine_support::sync::{Condvar, Mutex};
use wine_support::thread;
use wine_support::time::Instant;

use super::identity::identity;
use super::traffic::{self, Live, Spec};
use crate::irql;
use crate::tcpip::{Connection, Identity, Verdict};

/// What each thread does.
struct Plan {
    /// Per thread; 0: until it is stopped.
    connections: u64,
    send: u64,
    receive: u64,
    /// How many connections each thread keeps open before it closes the oldest.
    hold: usize,
    remotes: Vec<SocketAddr>,
    identity: Identity,
}

/// A load and its counters.
struct Load {
    plan: Plan,
    stop: AtomicBool,
    permitted: AtomicU64,
    blocked: AtomicU64,
    packets: AtomicU64,
    suppressed: AtomicU64,
    running: AtomicUsize,
    started: Instant,
    ended: Mutex<Option<Instant>>,
    done: Condvar,
}

static LOADS: Mutex<Vec<Arc<Load>>> = Mutex::new(Vec::new());

impl Load {
    fn count(&self, closed: Option<&Connection>) {
        if let Some(connection) = closed {
            self.packets.fetch_add(connection.packets.iter().sum(), Ordering::Relaxed);
            self.suppressed.fetch_add(connection.suppressed, Ordering::Relaxed);
        }
    }

    fn run(&self) {
        let mut held = VecDeque::new();
        let mut made = 0;
        while !self.stop.load(Ordering::Relaxed)
            && (self.plan.connections == 0 || made < self.plan.connections)
        {
            let index = usize::try_from(made).unwrap_or(0) % self.plan.remotes.len().max(1);
            let Some(remote) = self.plan.remotes.get(index).copied() else {
                break;
            };
            made += 1;
            let spec = Spec {
                protocol: 6,
                local: traffic::local_endpoint(remote),
                remote,
                outbound: made % 2 == 1,
                identity: self.plan.identity.clone(),
            };
            let mut live = Live::open(spec, 0);
            if live.verdict == Verdict::Block {
                self.blocked.fetch_add(1, Ordering::Relaxed);
                self.count(live.close(false).as_ref());
                continue;
            }
            self.permitted.fetch_add(1, Ordering::Relaxed);
            live.transfer(self.plan.send, self.plan.receive);
            held.push_back(live);
            if held.len() > self.plan.hold
                && let Some(oldest) = held.pop_front()
            {
                self.count(oldest.close(made % 8 == 0).as_ref());
            }
        }
        for live in held {
            self.count(live.close(false).as_ref());
        }
        irql::leave("the load's thread");
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.ended.lock() = Some(Instant::now());
            self.done.notify_all();
        }
    }

    fn describe(&self) -> Value {
        let ended = *self.ended.lock();
        let time = ended.unwrap_or_else(Instant::now).saturating_duration_since(self.started);
        json!({
            "running": ended.is_none(),
            "permitted": self.permitted.load(Ordering::Relaxed),
            "blocked": self.blocked.load(Ordering::Relaxed),
            "packets": self.packets.load(Ordering::Relaxed),
            "suppressed": self.suppressed.load(Ordering::Relaxed),
            "milliseconds": u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

pub(super) fn start(request: &Request) -> Outcome {
    const MOST_THREADS: u64 = 64;
    let threads = drive::number(request, "threads", 2, MOST_THREADS)?;
    let (send, receive) = traffic::amounts(request)?;
    let remotes: Vec<SocketAddr> = match request.get("remotes") {
        None | Some(Value::Null) => Vec::from([SocketAddr::from(([198, 51, 100, 1], 443))]),
        Some(Value::Array(all)) if !all.is_empty() => all
            .iter()
            .map(|remote| remote.as_str().and_then(|text| text.parse().ok()))
            .collect::<Option<_>>()
            .ok_or("\"remotes\" must be addresses with ports")?,
        Some(_) => return Err("\"remotes\" must be a list of addresses with ports".into()),
    };
    let hold = drive::number(request, "hold", 16, 100_000)?;
    let load = Arc::new(Load {
        plan: Plan {
            connections: drive::number(request, "connections", 0, u64::MAX)?,
            send,
            receive,
            hold: usize::try_from(hold).unwrap_or(0),
            remotes,
            identity: identity(request)?,
        },
        stop: AtomicBool::new(false),
        permitted: AtomicU64::new(0),
        blocked: AtomicU64::new(0),
        packets: AtomicU64::new(0),
        suppressed: AtomicU64::new(0),
        running: AtomicUsize::new(usize::try_from(threads.max(1)).unwrap_or(1)),
        started: Instant::now(),
        ended: Mutex::new(None),
        done: Condvar::new(),
    });
    for _ in 0..threads.max(1) {
        let load = Arc::clone(&load);
        drop(thread::spawn(move || load.run()));
    }
    let mut loads = LOADS.lock();
    loads.push(load);
    Ok(json!({ "load": loads.len() }))
}

fn find(request: &Request) -> Result<Arc<Load>, String> {
    let number = drive::number(request, "load", 0, u64::MAX)?;
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    let load = index.and_then(|index| LOADS.lock().get(index).cloned());
    load.ok_or_else(|| alloc::format!("no load has the number {number}"))
}

pub(super) fn status(request: &Request) -> Outcome {
    Ok(find(request)?.describe())
}

/// Waits until a load has ended; with "stop", ends it.
pub(super) fn wait(request: &Request) -> Outcome {
    let load = find(request)?;
    if drive::flag(request, "stop", true)? {
        load.stop.store(true, Ordering::Relaxed);
    }
    let mut ended = load.ended.lock();
    while ended.is_none() {
        ended = load.done.wait(ended);
    }
    drop(ended);
    Ok(load.describe())
}
