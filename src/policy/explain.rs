//! Which rule decides a connection, and why none before it did.
//!
//! Reads the rules as they were written, one after the other: this is the definition that the look-up is held
//! against. Its cost grows with the policy: for people who ask, not for the packet path.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use super::app::Apps;
use super::format::{ANY, Address, item, offset_at, rule, u8_at, u16_at, u32_at};
use super::image::{Image, Rule};
use super::{Decision, Family, Tuple};

bitflags::bitflags! {
    /// Fields of a rule.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Fields: u8 {
        /// `local`.
        const LOCAL = 1;
        /// `remote`.
        const REMOTE = 1 << 1;
        /// `local_port`.
        const LOCAL_PORT = 1 << 2;
        /// `remote_port`.
        const REMOTE_PORT = 1 << 3;
        /// `protocol`.
        const PROTOCOL = 1 << 4;
        /// `app`.
        const APP = 1 << 5;
        /// `direction`.
        const DIRECTION = 1 << 6;
    }
}

/// One rule, held against a connection.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The rule.
    pub rule: Rule<'a>,
    /// The fields that do not match; none if the rule decides.
    pub failed: Fields,
}

/// The rules up to the one that decides.
#[derive(Clone, Debug)]
pub struct Explain<'a, 't> {
    image: Image<'a>,
    tuple: Tuple<'t>,
    next: u32,
    done: bool,
}

impl<'a> Image<'a> {
    /// Holds rule after rule against `tuple`. The last step is the rule that decides; if that step has failed
    /// fields, or there is none, the default decides.
    pub fn explain<'t>(&self, tuple: &Tuple<'t>) -> Explain<'a, 't> {
        self.explain_from(tuple, 0)
    }

    /// As [`explain`](Self::explain), from the rule at `index` on.
    pub fn explain_from<'t>(&self, tuple: &Tuple<'t>, index: u32) -> Explain<'a, 't> {
        Explain { image: *self, tuple: *tuple, next: index, done: false }
    }

    /// What [`decide`](Self::decide) says, found by trying rule after rule.
    pub fn decide_by_rules(&self, tuple: &Tuple<'_>) -> Decision {
        match self.explain(tuple).find(|step| step.failed.is_empty()) {
            Some(step) => Decision { action: step.rule.action(), rule: Some(step.rule.index) },
            None => Decision { action: self.default_action(), rule: None },
        }
    }

    /// The fields of `rule` that do not match; all of them if the image is damaged.
    fn failed(&self, rule: &Rule<'_>, tuple: &Tuple<'_>) -> Option<Fields> {
        let mut failed = Fields::empty();
        failed.set(Fields::DIRECTION, rule.directions() & 1_u8.wrapping_shl(tuple.direction as u32) == 0);
        let (local_port, remote_port) = tuple.ports();
        let bytes = self.bytes();

        let protocols = rule.list(rule::PROTOCOLS)?;
        failed.set(
            Fields::PROTOCOL,
            protocols != ANY && !holds_protocol(bytes, protocols as usize, tuple.protocol)?,
        );
        for (field, list, address) in
            [(Fields::LOCAL, rule::LOCAL, tuple.local), (Fields::REMOTE, rule::REMOTE, tuple.remote)]
        {
            let list = rule.list(list)?;
            failed.set(field, list != ANY && !holds_address(bytes, list as usize, tuple.family, address)?);
        }
        for (field, list, port) in [
            (Fields::LOCAL_PORT, rule::LOCAL_PORTS, local_port),
            (Fields::REMOTE_PORT, rule::REMOTE_PORTS, remote_port),
        ] {
            let list = rule.list(list)?;
            failed.set(field, list != ANY && !holds_port(bytes, list as usize, port)?);
        }
        let apps = rule.list(rule::APPS)?;
        failed.set(Fields::APP, apps != ANY && !self.holds_app(apps as usize, tuple)?);
        Some(failed)
    }

    fn holds_app(&self, at: usize, tuple: &Tuple<'_>) -> Option<bool> {
        let Some(app) = tuple.app else {
            return Some(false);
        };
        let apps = Apps::new(self.bytes(), self.apps()?);
        for place in 0..offset_at(self.bytes(), at)? {
            if apps.is_match(u32_at(self.bytes(), item(at.wrapping_add(4), place, 4))?, app)? {
                return Some(true);
            }
        }
        Some(false)
    }
}

fn holds_protocol(bytes: &[u8], at: usize, protocol: Option<u8>) -> Option<bool> {
    let Some(protocol) = protocol else {
        return Some(false);
    };
    let byte = u8_at(bytes, at.wrapping_add(usize::from(protocol.wrapping_shr(3))))?;
    Some(byte.wrapping_shr(u32::from(protocol & 7)) & 1 != 0)
}

fn holds_address(bytes: &[u8], at: usize, family: Family, address: Option<[u8; 16]>) -> Option<bool> {
    let Some(address) = address else {
        return Some(false);
    };
    let (v4, v6) = (offset_at(bytes, at)?, offset_at(bytes, at.wrapping_add(4))?);
    let ranges = at.wrapping_add(8);
    match family {
        Family::V4 => in_ranges(bytes, ranges, v4, u32::of(&address)),
        Family::V6 => in_ranges(bytes, item(ranges, v4, 8), v6, u128::of(&address)),
    }
}

fn in_ranges<A: Address>(bytes: &[u8], at: usize, count: usize, address: A) -> Option<bool> {
    for place in 0..count {
        let range = item(at, place, A::SIZE.wrapping_mul(2));
        if A::read(bytes, range)? <= address && address <= A::read(bytes, range.wrapping_add(A::SIZE))? {
            return Some(true);
        }
    }
    Some(false)
}

fn holds_port(bytes: &[u8], at: usize, port: Option<u16>) -> Option<bool> {
    let Some(port) = port else {
        return Some(false);
    };
    for place in 0..offset_at(bytes, at)? {
        let range = item(at.wrapping_add(4), place, 4);
        if u16_at(bytes, range)? <= port && port <= u16_at(bytes, range.wrapping_add(2))? {
            return Some(true);
        }
    }
    Some(false)
}

impl<'a> Iterator for Explain<'a, '_> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if self.done {
            return None;
        }
        let rule = self.image.rule(self.next)?;
        let failed = self.image.failed(&rule, &self.tuple).unwrap_or(Fields::all());
        self.next = self.next.wrapping_add(1);
        self.done = failed.is_empty();
        Some(Step { rule, failed })
    }
}
