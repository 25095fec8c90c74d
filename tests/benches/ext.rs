//! Extension interfaces, in the simulated kernel: what registering a socket costs, what a callback costs its provider, and
//! how long it is under way to the consumer and how many get there, beside calls without any of it.
//!
//! `ours` is in the unit that the row names; `direct` is the same without weir: an empty `extern "system"` function for
//! the callback, the consumer called on the caller's own thread for latency and rate. Registering has the simulated
//! WSK, or registrar, in it: the row with 0 interfaces says what there is without any. Medians over the rounds.

#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

#[path = "../control_support/mod.rs"]
mod control_support;
#[path = "../ext_support/mod.rs"]
mod ext_support;
#[path = "../wsk_support/mod.rs"]
mod wsk_support;

use ext_support::{Attachment, Form, Interface, Module};
use ntsim::sys::nt::{DISPATCH_LEVEL, GUID};
use ntsim::wsk::extension::{self, Script};
use std::ffi::c_void;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use weir::config::schema::RingOrder;
use weir::config::{Live, Page, Settings};
use weir::dispatch::{Dispatching, Memory};
use weir::ext::{Attached, Ends, Marks, Plan, SocketKind, Sockets};
use weir::flow::Flows;
use weir::kernel::pool::{PoolArc, tags};
use weir::trace::{self, Guid, Keywords, Level, sink};
use weir::wsk::WSK_VERSION;
use wsk_support::{Connection, Listening, passive};

const ROUNDS: usize = 15;
/// Registrations in a round.
const SOCKETS: usize = 40;
/// Callbacks in a row: a ring has room for so many.
const BATCH: u64 = 100;
/// Callbacks in a sample.
const CALLBACKS: u64 = 20_000;

/// The `index`-th identifier, and the interface whose tables it has.
fn npi(index: usize) -> (GUID, Interface) {
    match index {
        0 => (Interface::Connection.npi(), Interface::Connection),
        1 => (Interface::Label.npi(), Interface::Label),
        _ => (GUID { Data1: u32::try_from(index).unwrap(), ..Interface::Label.npi() }, Interface::Label),
    }
}

/// So many interfaces, of that kind of provider.
fn settings(count: usize, kind: &str) -> Settings {
    let entries: Vec<_> = (0..count.max(2))
        .map(|index| {
            let (npi, interface) = npi(index);
            let npi = Guid::from(npi);
            if index >= count {
                format!("{npi}=off")
            } else if index < 2 {
                format!("{npi}=optional;providers={kind}")
            } else {
                format!("{npi}=optional;providers={kind};speaks={}", interface.guid())
            }
        })
        .collect();
    ext_support::settings(&entries)
}

/// The rings, and the thread that empties them.
struct Dispatcher {
    memory: Memory,
    thread: Dispatching,
}

fn start(count: usize, kind: &str) -> (PoolArc<Sockets>, Dispatcher) {
    let plan = Plan::try_new(&settings(count, kind).extension_interfaces, Marks::default()).unwrap();
    let Settings { ring_records, ring_order, .. } = Settings::DEFAULT;
    let memory = Memory::start(&passive(), ring_records, ring_order).unwrap();
    let rings = memory.rings();
    let flows = PoolArc::try_new(tags::FLOW_TABLE, Flows::try_new(&passive(), 16).unwrap()).unwrap();
    let sockets = Sockets::try_new(&passive(), SOCKETS * 2, plan, rings.clone()).unwrap();
    let thread = {
        let live = Live::try_new(&Page::of(&Settings::DEFAULT).unwrap()).unwrap();
        Dispatching::start(
            &passive(),
            rings.clone(),
            flows,
            Some(sockets.clone()),
            live,
            RingOrder::Processor,
        )
    }
    .unwrap();
    sockets.connect(&passive());
    (sockets, Dispatcher { memory, thread })
}

fn stop(sockets: PoolArc<Sockets>, dispatcher: Dispatcher) {
    sockets.disconnect(&passive());
    drop(sockets);
    dispatcher.thread.stop(&passive(), dispatcher.memory.rings());
    drop(dispatcher.memory.stop(&passive()));
}

fn attach(sockets: &PoolArc<Sockets>, session: u64) -> Attached {
    let mut irql = passive();
    Sockets::attach(sockets, &mut irql, SocketKind::Accepted, session, Ends::default()).unwrap()
}

/// Nanoseconds that a socket's registration takes.
fn registering(listening: &Listening, count: usize, kind: &str) -> f64 {
    let (sockets, dispatcher) = start(count, kind);
    let pairs: Vec<(PoolArc<Connection>, _)> = (0..SOCKETS).map(|_| listening.pair()).collect();
    let mut took = Vec::new();
    for (session, (connection, _peer)) in (1..).zip(&pairs) {
        let attached = attach(&sockets, session);
        let mut passive = passive();
        let call = connection.socket.call().unwrap();
        let began = Instant::now();
        attached.register(&mut passive, &call, WSK_VERSION).unwrap();
        took.push(began.elapsed().as_nanos() as f64);
        drop(call);
        connection.close();
        attached.end(&passive);
    }
    stop(sockets, dispatcher);
    median(&took)
}

unsafe extern "system" fn empty(context: *mut c_void, label: u64, text: *const c_void, length: u32) {
    black_box((context, label, text, length));
}

static CONSUMED: AtomicU64 = AtomicU64::new(0);

/// What takes the callbacks in the end.
fn consume(event: &trace::Event<'_>) {
    if let trace::Event::ExtensionCallback { value, .. } = *event {
        black_box(value);
        CONSUMED.fetch_add(1, Ordering::Release);
    }
}

fn wait(count: u64) {
    while CONSUMED.load(Ordering::Acquire) < count {
        std::hint::spin_loop();
    }
}

/// Nanoseconds for a callback: into the ring; and an empty function called in the same way.
fn callback(attachment: &Attachment) -> [f64; 2] {
    let tell = |context, dispatch, value| {
        // SAFETY: weir's context and table, while the socket is attached.
        unsafe { Interface::Label.tell(context, dispatch, value) };
    };
    let mut into_ring = Vec::new();
    for _ in 0..CALLBACKS / BATCH {
        let before = CONSUMED.load(Ordering::Acquire);
        attachment.call(DISPATCH_LEVEL, |context, dispatch| {
            let began = Instant::now();
            for value in 0..BATCH {
                tell(context, dispatch, value);
            }
            into_ring.push(began.elapsed().as_nanos() as f64 / BATCH as f64);
        });
        wait(before + BATCH);
    }
    let table =
        weir::ext::label_v1::LABEL_V1_CLIENT_DISPATCH { Size: 16, Version: 1, Reserved: 0, Label: empty };
    let table = black_box(std::ptr::from_ref(&table).cast());
    let mut direct = Vec::new();
    for _ in 0..CALLBACKS / BATCH {
        let began = Instant::now();
        for value in 0..BATCH {
            tell(std::ptr::null_mut(), table, value);
        }
        direct.push(began.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    [median(&into_ring), median(&direct)]
}

/// The event as the consumer gets it.
fn event(value: u64) -> trace::Event<'static> {
    trace::Event::ExtensionCallback {
        session: 1,
        interface: Interface::Label.guid(),
        code: 1,
        value,
        provider: trace::events::Provider::Nmr,
        data: b"label",
    }
}

/// Nanoseconds from the call until the consumer has it: one callback at a time.
fn latency(attachment: &Attachment) -> [f64; 2] {
    let mut ours = Vec::new();
    let mut direct = Vec::new();
    for value in 0..CALLBACKS / 20 {
        let before = CONSUMED.load(Ordering::Acquire);
        let began = Instant::now();
        attachment.tell(DISPATCH_LEVEL, value);
        wait(before + 1);
        ours.push(began.elapsed().as_nanos() as f64);
        let began = Instant::now();
        consume(&black_box(event(value)));
        direct.push(began.elapsed().as_nanos() as f64);
    }
    [median(&ours), median(&direct)]
}

/// Millions of callbacks a second that reach the consumer; none is lost, for the provider waits for room.
fn rate(attachment: &Attachment) -> [f64; 2] {
    let first = CONSUMED.load(Ordering::Acquire);
    let began = Instant::now();
    for batch in 0..CALLBACKS / BATCH {
        attachment.call(DISPATCH_LEVEL, |context, dispatch| {
            for value in 0..BATCH {
                // SAFETY: weir's context and table, while the socket is attached.
                unsafe { Interface::Label.tell(context, dispatch, value) };
            }
        });
        // Two batches at most are under way.
        wait(first + batch * BATCH);
    }
    wait(first + CALLBACKS);
    let ours = CALLBACKS as f64 / began.elapsed().as_micros() as f64;
    let began = Instant::now();
    for value in 0..CALLBACKS {
        consume(&black_box(event(value)));
    }
    let direct = CALLBACKS as f64 / began.elapsed().as_secs_f64() / 1e6;
    [ours, direct]
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(json: bool, bench: &str, unit: &str, ours: f64, direct: Option<f64>) {
    let ratio = direct.map(|direct| if unit == "ns" { ours / direct } else { direct / ours });
    if json {
        let peers = direct.map(|direct| format!("\"direct\":{direct:.2}")).unwrap_or_default();
        let ratio = ratio.map_or("null".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{{\"bench\":{bench:?},\"ours\":{ours:.2},\"unit\":{unit:?},\"peers\":{{{peers}}},\"ratio_to_best\":{ratio}}}"
        );
    } else {
        let beside =
            direct.zip(ratio).map(|(direct, ratio)| format!("   direct {direct:>10.2}   x {ratio:.2}"));
        println!("{bench:<18} {ours:>10.2} {unit:<4}{}", beside.unwrap_or_default());
    }
}

/// How many interfaces sockets are registered for.
const COUNTS: [usize; 4] = [0, 1, 4, 16];

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let mut costs: [[Vec<f64>; 4]; 2] = Default::default();
    let mut others: [[Vec<f64>; 2]; 3] = Default::default();
    wsk_support::listening(wsk_support::plain(ntsim::wsk::Completion::Inline), |_, _, listening| {
        for (index, costs) in costs.iter_mut().enumerate() {
            let kind = ["wsk", "nmr"][index];
            let mut modules = Vec::new();
            for (npi, interface) in (0..16).map(npi) {
                match kind {
                    "wsk" => extension::script(npi, Script::Supported(interface.offer())),
                    _ => modules.push(Module::register_as(interface, npi, Form::Proper)),
                }
            }
            for round in 0..ROUNDS {
                for row in 0..COUNTS.len() {
                    // Another one first in each round.
                    let row = (row + round) % COUNTS.len();
                    costs[row].push(registering(listening, COUNTS[row], kind));
                }
            }
        }
        let _sink = sink::install(Level::Verbose, Keywords::all(), consume);
        let module = Module::register(Interface::Label);
        let (sockets, dispatcher) = start(2, "nmr");
        let (connection, _peer) = listening.pair();
        let attached = attach(&sockets, 1);
        let call = connection.socket.call().unwrap();
        attached.register(&mut passive(), &call, WSK_VERSION).unwrap();
        drop(call);
        let attachment: Arc<Attachment> = module.attachments().remove(0);
        for _ in 0..ROUNDS {
            let figures = [callback(&attachment), latency(&attachment), rate(&attachment)];
            for (others, figures) in others.iter_mut().zip(figures) {
                others.iter_mut().zip(figures).for_each(|(all, figure)| all.push(figure));
            }
        }
        assert_eq!(sockets.totals().lost, 0);
        connection.close();
        attached.end(&passive());
        drop(attached);
        stop(sockets, dispatcher);
    });
    for (kind, costs) in ["wsk", "nmr"].iter().zip(&costs) {
        for (count, costs) in COUNTS.iter().zip(costs) {
            print(json, &format!("register_{kind}_{count}"), "ns", median(costs), None);
        }
    }
    for ((bench, unit), [ours, direct]) in
        [("callback", "ns"), ("latency", "ns"), ("rate", "M/s")].iter().zip(&others)
    {
        print(json, bench, unit, median(ours), Some(median(direct)));
    }
}
