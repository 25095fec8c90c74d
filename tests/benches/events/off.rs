//! What an event costs that nobody wants, beside another crate's, and one that is wanted.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber, span};
use weir::policy::{Action, Direction};
use weir::trace::recorded::Recorded;
use weir::trace::{self, Event, Keywords, Level, sink};

use super::{each, median};

/// Nanoseconds that an event may cost that nobody wants.
const AIM: f64 = 2.0;
const EVENTS: u64 = 2_000_000;
const ROUNDS: usize = 15;

/// What a connection's verdict is made of, as the compiler does not know it.
#[derive(Clone, Copy)]
struct Known {
    connection: u64,
    local: IpAddr,
    remote: IpAddr,
    local_port: u16,
    remote_port: u16,
}

fn event(known: &Known) -> Event<'static> {
    Event::ConnectionVerdict {
        connection: known.connection,
        verdict: Action::Allow,
        rule: 7,
        generation: 1,
        direction: Direction::Out,
        protocol: 6,
        local: known.local,
        local_port: known.local_port,
        remote: known.remote,
        remote_port: known.remote_port,
        reauthorized: false,
    }
}

/// As a classification does: it asks before it makes anything.
fn ours(known: &Known) {
    if trace::enabled(Level::Information, Keywords::VERDICT) {
        trace::emit(&event(known));
    }
}

/// As everything does that is rare: the event is made, and nobody wants it.
fn unasked(known: &Known) {
    trace::emit(&event(known));
}

fn theirs(known: &Known) {
    tracing::event!(
        tracing::Level::INFO,
        connection = known.connection,
        local = %known.local,
        local_port = known.local_port,
        remote = %known.remote,
        remote_port = known.remote_port,
    );
}

/// Somebody who wants errors alone.
struct Errors;

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::ERROR
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        panic!("nobody wants {event:?}");
    }

    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Nanoseconds of a call.
fn round(mut call: impl FnMut(&Known)) -> f64 {
    let known = black_box(Known {
        connection: 123_456,
        local: [192, 0, 2, 1].into(),
        remote: [198, 51, 100, 7].into(),
        local_port: 50_000,
        remote_port: 443,
    });
    let begun = Instant::now();
    for _ in 0..EVENTS {
        call(black_box(&known));
    }
    each(begun, EVENTS)
}

/// Medians of ours and of theirs, the rounds interleaved.
fn beside() -> [f64; 2] {
    let rounds: Vec<_> = (0..ROUNDS).map(|_| [round(ours), round(theirs)]).collect();
    [0, 1].map(|which| median(rounds.iter().map(|round| round[which]).collect()))
}

fn print(json: bool, bench: &str, [ours, theirs]: [f64; 2]) {
    let met = ours < AIM;
    if json {
        let ratio = theirs / ours;
        println!(
            "{{\"bench\":{bench:?},\"ours\":{ours:.2},\"unit\":\"ns/event\",\"peers\":{{\"tracing\":{theirs:.2}}},\
             \"ratio_to_best\":{ratio:.2},\"aim\":[{{\"aim\":\"< {AIM} ns\",\"is\":{ours:.2},\"met\":{met}}}],\"met\":{met}}}"
        );
    } else {
        let met = if met { "met" } else { "missed" };
        println!("{bench:<30} {ours:>12.2} ns/event   (tracing {theirs:.2})   aim: < {AIM} ns: {met}");
    }
}

/// Measures and prints.
pub fn measure(json: bool) {
    print(json, "event_off", beside());
    let session = sink::install(Level::Error, Keywords::all(), |event| panic!("nobody wants {event:?}"));
    let _subscriber = tracing::subscriber::set_global_default(Errors);
    print(json, "event_below_level", beside());
    drop(session);
    let made = median((0..ROUNDS).map(|_| round(unasked)).collect());
    let recorded = median(
        (0..ROUNDS)
            .map(|_| {
                round(|known| {
                    black_box(Recorded::of(&event(known)));
                })
            })
            .collect(),
    );
    for (bench, figure) in [("event_made_and_off", made), ("event_recorded", recorded)] {
        if json {
            println!(
                "{{\"bench\":{bench:?},\"ours\":{figure:.2},\"unit\":\"ns/event\",\"peers\":{{}},\"ratio_to_best\":null}}"
            );
        } else {
            println!("{bench:<30} {figure:>12.2} ns/event");
        }
    }
}
