//! Calls that are to fail, or never to end by themselves, on request.

use crate::sync::Mutex;
use crate::sys::nt::NTSTATUS;
use alloc::string::String;
use alloc::vec::Vec;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its request is completed with this status.
    Fail(NTSTATUS),
    /// Its request stays pending until it is cancelled or its socket closed.
    Stall,
}

struct Fault {
    function: String,
    /// Calls that pass first.
    skip: u64,
    /// Calls that are left to fail.
    left: u64,
    fate: Fate,
}

/// Faults that are to come.
#[derive(Default)]
pub struct Faults(Mutex<Vec<Fault>>);

/// Those of this process.
pub static FAULTS: Faults = Faults::new();

impl Faults {
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Has the `nth` call of `function` from now on, and `count` in all, meet `fate`.
    pub fn add(&self, function: &str, nth: u64, count: u64, fate: Fate) {
        let fault = Fault { function: function.into(), skip: nth.saturating_sub(1), left: count, fate };
        self.0.lock().push(fault);
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// Calls that are to meet a fate yet.
    pub fn left(&self) -> u64 {
        self.0.lock().iter().map(|fault| fault.left).sum()
    }

    /// A call of `function`: its fate, if it has one.
    pub fn call(&self, function: &str) -> Option<Fate> {
        let mut faults = self.0.lock();
        let mut met = None;
        for fault in faults.iter_mut().filter(|fault| fault.function == function) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if met.is_none() && fault.left > 0 {
                fault.left -= 1;
                met = Some(fault.fate);
            }
        }
        faults.retain(|fault| fault.left > 0);
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_that_was_named_fails_and_no_other() {
        let faults = Faults::new();
        faults.add("WskBind", 2, 2, Fate::Fail(-5));
        faults.add("WskSend", 1, 1, Fate::Stall);
        assert_eq!(faults.left(), 3);
        assert_eq!(faults.call("WskBind"), None, "the first passes");
        assert_eq!(faults.call("WskReceive"), None);
        assert_eq!(faults.call("WskBind"), Some(Fate::Fail(-5)));
        assert_eq!(faults.call("WskSend"), Some(Fate::Stall));
        assert_eq!(faults.call("WskBind"), Some(Fate::Fail(-5)));
        assert_eq!((faults.call("WskBind"), faults.left()), (None, 0));
    }

    #[test]
    fn faults_can_be_taken_back() {
        let faults = Faults::new();
        faults.add("WskBind", 1, 5, Fate::Stall);
        faults.clear();
        assert_eq!((faults.left(), faults.call("WskBind")), (0, None));
    }
}
