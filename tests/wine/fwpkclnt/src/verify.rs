//! Breaches of the kernel's rules, and what a driver leaves behind. Each breach is a line of the log that begins with
//! `VIOLATION:`.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use wine_support::sync::Mutex;

use crate::irql;

/// A rule that the documentation states.
pub(crate) struct Rule {
    name: &'static str,
    /// The page; empty where it is that of the function called.
    page: &'static str,
}

impl Rule {
    pub const fn new(name: &'static str, page: &'static str) -> Self {
        Self { name, page }
    }
}

/// Defines rules as statics; they are public unless a visibility is given.
#[macro_export]
macro_rules! rules {
    ($($visibility:vis $name:ident = ($text:literal, $page:literal);)+) => {
        $($visibility static $name: $crate::verify::Rule = $crate::verify::Rule::new($text, $page);)+
    };
}

/// Something still held.
#[derive(Clone, Debug)]
pub(crate) struct Leak {
    pub kind: &'static str,
    pub id: usize,
    pub made_by: String,
}

impl Leak {
    pub fn new(kind: &'static str, id: usize, made_by: String) -> Self {
        Self { kind, id, made_by }
    }
}

/// How many breaches are kept in words.
const KEPT: usize = 200;

static COUNT: AtomicU64 = AtomicU64::new(0);
static VIOLATIONS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Records a breach of `rule` that `api` noticed.
#[cold]
pub(crate) fn violation(rule: &'static Rule, api: &'static str, detail: impl Into<String>) {
    let page = if rule.page.is_empty() { api } else { rule.page };
    let text =
        alloc::format!("{}: {api}: {} (page \"{page}\", IRQL {})", rule.name, detail.into(), irql::current());
    wine_support::log!("VIOLATION: {text}");
    COUNT.fetch_add(1, Ordering::Relaxed);
    let mut kept = VIOLATIONS.lock();
    if kept.len() < KEPT {
        kept.push(text);
    }
}

/// How many breaches there were, and the first of them.
pub(crate) fn violations() -> (u64, Vec<String>) {
    (COUNT.load(Ordering::Relaxed), VIOLATIONS.lock().clone())
}
