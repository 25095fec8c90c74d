//! What a run has found: lines for people as it goes, and one JSON object at the end.

use std::time::Instant;

use serde_json::{Value, json};

use super::wait;

/// A part of the run.
struct Phase {
    name: &'static str,
    start: Instant,
    seconds: f64,
    checks: Vec<String>,
    facts: serde_json::Map<String, Value>,
    failure: Option<String>,
}

/// The run so far.
pub struct Report {
    start: Instant,
    json: bool,
    phases: Vec<Phase>,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self { start: Instant::now(), json, phases: Vec::new() }
    }

    /// A line about what goes on.
    pub fn say(&self, text: &str) {
        let line = format!("[{:6.1} s] {text}", self.start.elapsed().as_secs_f64());
        // Standard output is the summary's.
        if self.json { eprintln!("{line}") } else { println!("{line}") }
    }

    /// Runs a part; its failure is told, and does not end the run. Nothing runs once the run is interrupted.
    pub fn phase<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Option<T> {
        self.say(&format!("== {name}"));
        let (checks, facts) = (Vec::new(), serde_json::Map::new());
        let start = Instant::now();
        self.phases.push(Phase { name, start, seconds: 0.0, checks, facts, failure: None });
        let outcome = wait::check().and_then(|()| work(self));
        if let Err(error) = &outcome {
            self.say(&format!("   FAILED: {error}"));
        }
        if let Some(phase) = self.phases.last_mut() {
            phase.seconds = phase.start.elapsed().as_secs_f64();
            phase.failure = outcome.as_ref().err().cloned();
        }
        outcome.ok()
    }

    /// Something was looked at, and held.
    pub fn held(&mut self, what: &str) {
        self.say(&format!("   {what}"));
        if let Some(phase) = self.phases.last_mut() {
            phase.checks.push(what.to_owned());
        }
    }

    /// A figure of the part that runs.
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        if let Some(phase) = self.phases.last_mut() {
            phase.facts.insert(name.to_owned(), value.into());
        }
    }

    /// Tells the end; true if nothing failed.
    pub fn finish(&self, logs: &str) -> bool {
        let failed: Vec<_> = self.phases.iter().filter(|phase| phase.failure.is_some()).collect();
        let checks: usize = self.phases.iter().map(|phase| phase.checks.len()).sum();
        for phase in &failed {
            self.say(&format!("FAILED: {}: {}", phase.name, phase.failure.as_deref().unwrap_or_default()));
        }
        let end = if failed.is_empty() { "passed" } else { "FAILED" };
        self.say(&format!(
            "{end}: {checks} checks held, {} of {} phases failed",
            failed.len(),
            self.phases.len()
        ));
        if self.json {
            let phases: Vec<_> = self.phases.iter().map(Phase::json).collect();
            let summary = json!({
                "passed": failed.is_empty(),
                "seconds": rounded(self.start.elapsed().as_secs_f64()),
                "phases": phases,
                "logs": logs,
            });
            println!("{summary}");
        }
        failed.is_empty()
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

impl Phase {
    fn json(&self) -> Value {
        let mut value = json!({
            "name": self.name,
            "passed": self.failure.is_none(),
            "seconds": rounded(self.seconds),
            "checks": self.checks,
        });
        if let Some(failure) = &self.failure {
            value["failure"] = failure.as_str().into();
        }
        for (name, fact) in &self.facts {
            value[name] = fact.clone();
        }
        value
    }
}
