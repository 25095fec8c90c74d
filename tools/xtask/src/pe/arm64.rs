//! ARM64 instructions, by `disarm64`; operands by their fields in the instruction's 32 bits, as the architecture
//! defines them.

use disarm64::{InsnOpcode, decoder};
use disarm64_defn::{InsnClass, InsnFeatureSet};

use super::code::{Facts, To, Transfer, Trap, sort_traps};
use super::flow::{self, Gives, Known, Step};

/// What every ARM64 processor that runs Windows 10 has: ARMv8.0 with NEON. Hints are no-operations elsewhere.
const BASELINE: &[InsnFeatureSet] = &[InsnFeatureSet::V8, InsnFeatureSet::FP, InsnFeatureSet::SIMD];

/// Registers that a call may change, but for x18, which Windows keeps.
const VOLATILE: u32 = (1 << 18) - 1;
const LR: u32 = 30;
const SP: u32 = 31;

fn bits(word: u32, low: u32, count: u32) -> u32 {
    (word >> low) & ((1 << count) - 1)
}

/// The low `count` bits as a signed number.
fn signed(value: u32, count: u32) -> i64 {
    let shift = 64 - count;
    (i64::from(value) << shift) >> shift
}

fn offset(site: u32, distance: i64) -> Option<u32> {
    u32::try_from(i64::from(site) + distance).ok()
}

/// Reads the instructions of a function: `bytes` from `start`.
pub fn decode(start: u32, bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    let mut steps = Vec::new();
    // Transfers by a register: the step, the register, the place among the transfers.
    let mut by_register = Vec::new();
    let mut traps = Vec::new();
    // Sums, which are addresses where a page was known.
    let mut sums = Vec::new();
    let mut after_call = false;
    let end = u64::from(start) + bytes.len() as u64;
    for (index, chunk) in bytes.chunks(4).enumerate() {
        let Some(site) = u32::try_from(index * 4).ok().and_then(|offset| start.checked_add(offset)) else {
            break;
        };
        facts.instructions += 1;
        let word = chunk.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let Some((word, instruction)) = word.and_then(|word| Some((word, decoder::decode(word)?))) else {
            facts.undecoded.push(site);
            steps.push(Step {
                site,
                kills: u32::MAX,
                gives: None,
                goes: None,
                falls: true,
                computed: false,
                nothing: false,
            });
            continue;
        };
        let definition = instruction.definition();
        let text = || instruction.to_string().replace('\t', " ").replace("  ", " ");
        let inside = |target: u32| target >= start && u64::from(target) < end;
        let (rd, rn) = (bits(word, 0, 5) as usize, bits(word, 5, 5) as usize);
        let mnemonic = definition.mnemonic;

        // Where it goes
        let direct = |target: Option<u32>| target.map_or(To::Unknown, To::Direct);
        let mut called = false;
        let transfer = match definition.class {
            InsnClass::BRANCH_IMM => {
                called = mnemonic == "bl";
                Some((direct(offset(site, signed(bits(word, 0, 26), 26) * 4)), !called))
            }
            InsnClass::CONDBRANCH | InsnClass::COMPBRANCH => {
                Some((direct(offset(site, signed(bits(word, 5, 19), 19) * 4)), true))
            }
            InsnClass::TESTBRANCH => Some((direct(offset(site, signed(bits(word, 5, 14), 14) * 4)), true)),
            InsnClass::BRANCH_REG if mnemonic.starts_with("blr") => {
                called = true;
                Some((To::Unknown, false))
            }
            InsnClass::BRANCH_REG if mnemonic.starts_with("br") => Some((To::Unknown, true)),
            _ => None,
        };
        let mut goes = None;
        match transfer {
            Some((To::Direct(target), true)) if inside(target) => goes = Some(target),
            Some((to, jump)) => {
                if definition.class == InsnClass::BRANCH_REG {
                    by_register.push((steps.len(), rn, facts.transfers.len()));
                }
                facts.transfers.push(Transfer { site, to, jump });
            }
            None => {}
        }

        // What it needs
        let class = format!("{:?}", definition.class);
        let features = definition.feature_set;
        let feature = format!("{features:?}");
        let hint = mnemonic == "hint" || word & 0xFFFF_F01F == 0xD503_201F;
        if class.starts_with("SVE")
            || class.starts_with("SME")
            || feature.contains("SVE")
            || feature.contains("SME")
        {
            facts.vector.push((site, text()));
        } else if !BASELINE.contains(&features) && !hint {
            facts.baseline.push((site, format!("{} ({feature})", text())));
        }
        system(word, mnemonic, definition.class, site, &text, &mut facts);
        let trap = matches!(mnemonic, "brk" | "udf" | "hlt" | "dcps1" | "dcps2" | "dcps3");
        if trap && !after_call {
            traps.push(Trap { index: steps.len(), remark: (site, text()) });
        }

        // The stack and addresses
        stack(word, site, &mut facts);
        let register = |number: u32| u8::try_from(number).unwrap_or(0);
        let source = register(bits(word, 5, 5));
        let gives = match definition.class {
            InsnClass::PCRELADDR => {
                let distance = signed(bits(word, 5, 19) << 2 | bits(word, 29, 2), 21);
                let base = if mnemonic == "adrp" {
                    offset(site & !0xFFF, distance << 12)
                } else {
                    offset(site, distance)
                };
                // A page alone is no address yet.
                if mnemonic == "adr" {
                    facts.addresses.extend(base.filter(|base| !inside(*base)).map(|base| (site, base)));
                }
                base.map(|base| Gives::Value(Known::Address(base)))
            }
            // add xD, xN, #imm
            InsnClass::ADDSUB_IMM if word & 0xFF80_0000 == 0x9100_0000 => {
                let sum = Gives::Sum(source, bits(word, 10, 12) << (12 * bits(word, 22, 1)));
                sums.push((steps.len(), sum));
                Some(sum)
            }
            // ldr xT, [xN, #imm]
            InsnClass::LDST_POS if word & 0xFFC0_0000 == 0xF940_0000 => {
                Some(Gives::Loaded(source, bits(word, 10, 12) * 8))
            }
            // mov xD, xM
            InsnClass::LOG_SHIFT if word & 0xFFE0_FFE0 == 0xAA00_03E0 => {
                Some(Gives::Same(register(bits(word, 16, 5))))
            }
            _ => None,
        };
        let stores = mnemonic.starts_with("st") && definition.class != InsnClass::LSE_ATOMIC;
        let mut kills = 0;
        if transfer.is_none() && !stores {
            kills |= 1 << rd;
            if ["ldp", "ldxp", "ldaxp"].iter().any(|pair| mnemonic.starts_with(pair)) {
                kills |= 1 << bits(word, 10, 5);
            }
        }
        if called {
            kills |= VOLATILE | 1 << LR;
        }
        // Number 31 is the stack pointer or zero: neither is an address in the image.
        let gives =
            gives.map(|gives| (register(bits(word, 0, 5)), gives)).filter(|(to, _)| u32::from(*to) != SP);
        let ends = trap
            || mnemonic.starts_with("ret")
            || mnemonic.starts_with("eret")
            || matches!((definition.class, mnemonic), (InsnClass::BRANCH_IMM, "b"))
            || (definition.class == InsnClass::BRANCH_REG && !called);
        let computed = matches!(transfer, Some((To::Unknown, true)));
        steps.push(Step { site, kills, gives, goes, falls: !ends, computed, nothing: hint });
        if !hint {
            after_call = called || (trap && after_call);
        }
    }
    let mut waiting = by_register.into_iter().peekable();
    let mut sums = sums.into_iter().peekable();
    flow::solve(&steps, |index, state| {
        while let Some((_, register, place)) = waiting.next_if(|(step, ..)| *step == index) {
            match state[register] {
                Known::Slot(slot) => facts.transfers[place].to = To::Slot(slot),
                Known::Address(address) => facts.transfers[place].to = To::Direct(address),
                Known::Nothing => {}
            }
        }
        while let Some((_, sum)) = sums.next_if(|(step, _)| *step == index) {
            if let Known::Address(address) = flow::given(sum, state)
                && (address <= start || u64::from(address) >= end)
            {
                facts.addresses.push((steps[index].site, address));
            }
        }
    });
    facts.addresses.sort_unstable();
    sort_traps(&mut facts, &steps, traps);
    facts
}

/// Instructions for the system.
fn system(
    word: u32,
    mnemonic: &str,
    class: InsnClass,
    site: u32,
    text: &dyn Fn() -> String,
    facts: &mut Facts,
) {
    match class {
        // mrs and msr: op1 says from which exception level on. 3 is for applications.
        InsnClass::IC_SYSTEM if mnemonic == "mrs" || mnemonic == "msr" => {
            let register = word & 0xFFD0_0000 == 0xD510_0000;
            if register && bits(word, 16, 3) == 3 {
                facts.odd.push((site, text()));
            } else {
                facts.privileged.push((site, text()));
            }
        }
        // Cache and address translation maintenance, with op1 3 for applications.
        InsnClass::IC_SYSTEM if matches!(mnemonic, "sys" | "sysl" | "at" | "dc" | "ic" | "tlbi") => {
            let list = if bits(word, 16, 3) == 3 { &mut facts.odd } else { &mut facts.privileged };
            list.push((site, text()));
        }
        InsnClass::EXCEPTION if matches!(mnemonic, "svc" | "hvc" | "smc") => {
            facts.privileged.push((site, text()))
        }
        InsnClass::BRANCH_REG if mnemonic.starts_with("eret") || mnemonic == "drps" => {
            facts.privileged.push((site, text()));
        }
        _ => {}
    }
}

/// Bytes that an instruction takes from the stack.
fn stack(word: u32, site: u32, facts: &mut Facts) {
    let taken = if word & 0xFF80_03FF == 0xD100_03FF {
        // sub sp, sp, #imm
        bits(word, 10, 12) << (12 * bits(word, 22, 1))
    } else if word & 0x3E40_03E0 == 0x2800_03E0 && bits(word, 23, 2) == 3 {
        // stp …, [sp, #-imm]!
        let scale = match (bits(word, 26, 1), bits(word, 30, 2)) {
            (0, 2) | (1, 1) => 8,
            (1, 2) => 16,
            _ => 4,
        };
        u32::try_from(-signed(bits(word, 15, 7), 7) * scale).unwrap_or(0)
    } else if word & 0x3B20_0FE0 == 0x3800_0FE0 {
        // str …, [sp, #-imm]!
        u32::try_from(-signed(bits(word, 12, 9), 9)).unwrap_or(0)
    } else {
        // sub sp, sp, xN, lsl #4: behind __chkstk, with the size in x15
        if word & 0xFFE0_03FF == 0xCB20_03FF {
            facts.variable = Some(site);
        }
        0
    };
    facts.prologue_bytes = facts.prologue_bytes.saturating_add(taken);
}

/// Whether bytes between functions are padding: nothing, no-operations or breakpoints.
pub fn is_padding(bytes: &[u8]) -> bool {
    bytes.chunks(4).all(|chunk| match chunk.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) {
        Some(word) => matches!(word, 0 | 0xD503_201F) || word & 0xFFE0_001F == 0xD420_0000,
        None => chunk.iter().all(|byte| *byte == 0),
    })
}

/// The length of a function without the padding behind it.
pub fn without_padding(bytes: &[u8]) -> usize {
    let last = bytes.chunks_exact(4).rposition(|word| word != [0; 4]);
    last.map_or(0, |last| (last + 1) * 4)
}
