//! What the instructions of a function do, whatever the processor.

use std::collections::HashSet;

use super::flow::Step;

/// A kind of call or jump, by where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To this address.
    Direct(u32),
    /// To where the pointer at this address points: an import, or the guard's function.
    Slot(u32),
    /// Nobody knows from the code alone.
    Unknown,
}

/// A call, or a jump that leaves the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub site: u32,
    pub to: To,
    /// It does not come back: the frame is gone already.
    pub jump: bool,
}

/// A trap, by its place among the steps. One behind a call is none: the call does not return.
#[derive(Clone, Debug)]
pub struct Trap {
    pub index: usize,
    pub remark: Remark,
}

/// Tells traps that code runs into from those that only a switch leads to.
pub fn sort_traps(facts: &mut Facts, steps: &[Step], traps: Vec<Trap>) {
    let targets: HashSet<u32> = steps.iter().filter_map(|step| step.goes).collect();
    for trap in traps {
        let before = trap.index.checked_sub(1).and_then(|index| steps.get(index));
        let run_into = before.is_none_or(|step| step.falls) || targets.contains(&trap.remark.0);
        let list = if run_into { &mut facts.traps } else { &mut facts.holes };
        list.push(trap.remark);
    }
}

/// An instruction worth telling.
pub type Remark = (u32, String);

/// All that is known of a function from its instructions. Addresses are RVAs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub instructions: usize,
    pub transfers: Vec<Transfer>,
    /// Addresses outside of the function that an instruction computes: site, address.
    pub addresses: Vec<(u32, u32)>,
    pub undecoded: Vec<u32>,
    pub vector: Vec<Remark>,
    pub baseline: Vec<Remark>,
    pub privileged: Vec<Remark>,
    pub odd: Vec<Remark>,
    /// Traps that code runs or branches into.
    pub traps: Vec<Remark>,
    /// Traps that only a switch can lead to: the values that its compiler knows to be none.
    pub holes: Vec<Remark>,
    /// Bytes that the prologue (x64) or the function (ARM64) takes from the stack by constants.
    pub prologue_bytes: u32,
    /// Bytes taken elsewhere (x64).
    pub later_bytes: u32,
    /// The stack pointer is moved by what is not a constant.
    pub variable: Option<u32>,
}
