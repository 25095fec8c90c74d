//! What registers hold, along the branches of a function: enough to tell a call through the import table from one
//! through a pointer.
//!
//! A forward analysis over basic blocks. Where ways meet, what they agree on stays known. The places that a switch
//! jumps to are those that nothing else leads to.

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Nothing,
    /// It holds this address.
    Address(u32),
    /// It was loaded from this address.
    Slot(u32),
}

/// What is known of all registers, by number.
pub type State = [Known; 32];

/// What an instruction puts into a register.
#[derive(Clone, Copy, Debug)]
pub enum Gives {
    Value(Known),
    /// A register and a constant.
    Sum(u8, u32),
    /// What is at a register plus a constant.
    Loaded(u8, u32),
    /// What another register holds.
    Same(u8),
}

/// An instruction.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub site: u32,
    /// Registers that it changes, a bit each.
    pub kills: u32,
    pub gives: Option<(u8, Gives)>,
    /// Where in the function it branches to.
    pub goes: Option<u32>,
    /// The next instruction may follow it.
    pub falls: bool,
    /// It jumps where a register says.
    pub computed: bool,
    /// It does nothing: padding, where nothing leads to it.
    pub nothing: bool,
}

/// What a step gives, if it is known.
pub fn given(gives: Gives, state: &State) -> Known {
    let of = |register: u8| state.get(usize::from(register)).copied().unwrap_or(Known::Nothing);
    let add = |register: u8, constant: u32| match of(register) {
        Known::Address(base) => base.checked_add(constant),
        _ => None,
    };
    match gives {
        Gives::Value(known) => known,
        Gives::Same(register) => of(register),
        Gives::Sum(register, constant) => add(register, constant).map_or(Known::Nothing, Known::Address),
        Gives::Loaded(register, constant) => add(register, constant).map_or(Known::Nothing, Known::Slot),
    }
}

fn apply(step: &Step, state: &mut State) {
    let given = step.gives.map(|(register, gives)| (register, given(gives, state)));
    for (register, known) in state.iter_mut().enumerate() {
        if step.kills & (1 << register) != 0 {
            *known = Known::Nothing;
        }
    }
    if let Some((register, known)) = given
        && let Some(slot) = state.get_mut(usize::from(register))
    {
        *slot = known;
    }
}

/// Keeps what both agree on; true if that changed something.
fn merge(into: &mut Option<State>, from: &State) -> bool {
    let Some(into) = into else {
        *into = Some(*from);
        return true;
    };
    let mut changed = false;
    for (known, other) in into.iter_mut().zip(from) {
        if *known != *other && *known != Known::Nothing {
            *known = Known::Nothing;
            changed = true;
        }
    }
    changed
}

/// Calls `visit` for each step, in order, with what is known before it.
pub fn solve(steps: &[Step], mut visit: impl FnMut(usize, &State)) {
    const NOTHING: State = [Known::Nothing; 32];
    let index_of = |site: u32| steps.binary_search_by_key(&site, |step| step.site).ok();
    let mut leads = vec![false; steps.len()];
    let mut targeted = vec![false; steps.len()];
    for (index, step) in steps.iter().enumerate() {
        leads[index] |= index == 0;
        if let Some(target) = step.goes.and_then(index_of) {
            leads[target] = true;
            targeted[target] = true;
        }
        if (!step.falls || step.goes.is_some())
            && let Some(next) = leads.get_mut(index + 1)
        {
            *next = true;
        }
    }
    let starts: Vec<usize> = (0..steps.len()).filter(|index| leads[*index]).collect();
    let block_of = |index: usize| starts.binary_search(&index).ok();
    let range = |block: usize| starts[block]..starts.get(block + 1).copied().unwrap_or(steps.len());
    let padding = |block: usize| {
        let first = starts[block];
        let behind_end = first.checked_sub(1).is_some_and(|before| !steps[before].falls);
        behind_end && !targeted[first] && steps[range(block)].iter().all(|step| step.nothing)
    };
    let mut entered = vec![false; starts.len()];
    let mut after: Vec<(Vec<usize>, bool)> = Vec::with_capacity(starts.len());
    for block in 0..starts.len() {
        let Some(last) = steps.get(range(block)).and_then(<[Step]>::last).filter(|_| !padding(block)) else {
            after.push((Vec::new(), false));
            continue;
        };
        let next = (last.falls && block + 1 < starts.len()).then_some(block + 1);
        let target = last.goes.and_then(index_of).and_then(block_of);
        let known: Vec<usize> = next.into_iter().chain(target).collect();
        for block in &known {
            entered[*block] = true;
        }
        after.push((known, last.computed));
    }
    let alone: Vec<usize> = (1..starts.len()).filter(|block| !entered[*block] && !padding(*block)).collect();
    let switches = after.iter().any(|(_, computed)| *computed);
    let mut before: Vec<Option<State>> = vec![None; starts.len()];
    let mut work = Vec::new();
    if let Some(first) = before.first_mut() {
        *first = Some(NOTHING);
        work.push(0);
    }
    if !switches {
        for block in &alone {
            before[*block] = Some(NOTHING);
            work.push(*block);
        }
    }
    while let Some(block) = work.pop() {
        let Some(mut state) = before[block] else { continue };
        steps[range(block)].iter().for_each(|step| apply(step, &mut state));
        let (known, computed) = &after[block];
        let others = if *computed { alone.as_slice() } else { &[] };
        for next in known.iter().chain(others) {
            if merge(&mut before[*next], &state) {
                work.push(*next);
            }
        }
    }
    for (block, before) in before.iter().enumerate() {
        let mut state = before.unwrap_or(NOTHING);
        for index in range(block) {
            visit(index, &state);
            apply(&steps[index], &mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(site: u32) -> Step {
        Step { site, kills: 0, gives: None, goes: None, falls: true, computed: false, nothing: false }
    }

    fn load(site: u32, register: u8, slot: u32) -> Step {
        Step { kills: 1 << register, gives: Some((register, Gives::Value(Known::Slot(slot)))), ..step(site) }
    }

    fn before(steps: &[Step], site: u32, register: usize) -> Known {
        let mut found = Known::Nothing;
        solve(steps, |index, state| {
            if steps[index].site == site {
                found = state[register];
            }
        });
        found
    }

    #[test]
    fn what_both_ways_agree_on_stays_known() {
        // 0: r3 = [0x10]; 1: branch to 4; 2: r3 = [..]; 3: jump to 5 or fall; 4: …; 5: here
        let steps = |other: u32| {
            [
                load(0, 3, 0x10),
                Step { goes: Some(4), ..step(1) },
                load(2, 3, other),
                Step { goes: Some(5), falls: false, ..step(3) },
                step(4),
                step(5),
            ]
        };
        assert_eq!(before(&steps(0x10), 5, 3), Known::Slot(0x10));
        assert_eq!(before(&steps(0x18), 5, 3), Known::Nothing);
        assert_eq!(before(&steps(0x18), 4, 3), Known::Slot(0x10));
    }

    #[test]
    fn an_epilogue_does_not_reach_the_code_behind_it() {
        let steps = [
            load(0, 3, 0x10),
            Step { goes: Some(3), ..step(1) },
            Step { kills: 1 << 3, falls: false, ..step(2) },
            step(3),
        ];
        assert_eq!(before(&steps, 3, 3), Known::Slot(0x10));
    }

    #[test]
    fn a_switch_leads_to_what_nothing_else_leads_to() {
        let steps = [
            load(0, 3, 0x10),
            Step { computed: true, falls: false, ..step(1) },
            Step { falls: false, ..step(2) },
            step(3),
        ];
        assert_eq!(before(&steps, 2, 3), Known::Slot(0x10));
        assert_eq!(before(&steps, 3, 3), Known::Slot(0x10));
    }

    #[test]
    fn padding_before_a_loop_leads_nowhere() {
        let steps = [
            load(0, 3, 0x10),
            Step { goes: Some(3), falls: false, ..step(1) },
            Step { nothing: true, ..step(2) },
            Step { goes: Some(3), ..step(3) },
        ];
        assert_eq!(before(&steps, 3, 3), Known::Slot(0x10));
    }

    #[test]
    fn a_loop_that_changes_a_register_forgets_it() {
        let steps = [load(0, 3, 0x10), step(1), Step { kills: 1 << 3, goes: Some(1), ..step(2) }, step(3)];
        assert_eq!(before(&steps, 1, 3), Known::Nothing);
    }
}
