//! Where the driver's debug output goes.

use std::sync::Mutex;

use crate::verify::lock;

/// Called with component, level and message, on whatever thread prints.
pub type Sink = fn(component: u32, level: u32, message: &str);

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// Sets where debug output goes; nowhere by default.
pub fn set_sink(sink: Option<Sink>) {
    *lock(&SINK) = sink;
}

pub(crate) fn print(component: u32, level: u32, message: &str) {
    let sink = *lock(&SINK);
    if let Some(sink) = sink {
        sink(component, level, message);
    }
}
