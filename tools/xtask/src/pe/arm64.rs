//! ARM64 instructions, by `disarm64`; operands by their fields in the instruction's 32 bits, as the architecture
//! defines them.

use disarm64::{InsnOpcode, Opcode, decoder};
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
    let mut reader = Reader {
        start,
        end: u64::from(start) + bytes.len() as u64,
        facts: Facts::default(),
        steps: Vec::new(),
        by_register: Vec::new(),
        traps: Vec::new(),
        sums: Vec::new(),
        frame: Frame::default(),
        after_call: false,
    };
    for (index, chunk) in bytes.chunks(4).enumerate() {
        let Some(site) = u32::try_from(index * 4).ok().and_then(|offset| start.checked_add(offset)) else {
            break;
        };
        reader.facts.instructions += 1;
        let word = chunk.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let Some(decoded) =
            word.and_then(|word| Some(Decoded { site, word, instruction: decoder::decode(word)? }))
        else {
            reader.facts.undecoded.push(site);
            reader.steps.push(Step {
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
        let transfer = reader.transfer(&decoded);
        reader.needs(&decoded);
        reader.frame.take(&decoded, &mut reader.facts);
        reader.step(&decoded, transfer);
    }
    reader.finish()
}

/// An instruction and its place.
struct Decoded {
    site: u32,
    word: u32,
    instruction: Opcode,
}

impl Decoded {
    fn mnemonic(&self) -> &'static str {
        self.instruction.definition().mnemonic
    }

    fn class(&self) -> InsnClass {
        self.instruction.definition().class
    }

    fn text(&self) -> String {
        self.instruction.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn is_trap(&self) -> bool {
        matches!(self.mnemonic(), "brk" | "udf" | "hlt" | "dcps1" | "dcps2" | "dcps3")
    }

    /// A no-operation on processors that do not know it.
    fn is_hint(&self) -> bool {
        self.word & 0xFFFF_F01F == 0xD503_201F
    }

    /// The register of a field, by its lowest bit.
    fn register(&self, low: u32) -> u8 {
        u8::try_from(bits(self.word, low, 5)).unwrap_or(0)
    }
}

/// How an instruction goes on.
#[derive(Clone, Copy, Default)]
struct Going {
    /// It is a branch or a call.
    goes: bool,
    called: bool,
    /// Where in the function it branches to.
    target: Option<u32>,
    /// It jumps where a register says.
    computed: bool,
}

/// Reads a function's instructions one by one.
struct Reader {
    start: u32,
    end: u64,
    facts: Facts,
    steps: Vec<Step>,
    /// Transfers by a register: the step, the register, the place among the transfers.
    by_register: Vec<(usize, u8, usize)>,
    traps: Vec<Trap>,
    /// Sums, which are addresses where a page was known: the step.
    sums: Vec<(usize, Gives)>,
    frame: Frame,
    after_call: bool,
}

impl Reader {
    fn inside(&self, target: u32) -> bool {
        target >= self.start && u64::from(target) < self.end
    }

    /// Where it goes.
    fn transfer(&mut self, decoded: &Decoded) -> Going {
        let (site, word, mnemonic) = (decoded.site, decoded.word, decoded.mnemonic());
        let direct = |distance: i64| offset(site, distance * 4).map_or(To::Unknown, To::Direct);
        let (to, jump) = match decoded.class() {
            InsnClass::BRANCH_IMM => (direct(signed(bits(word, 0, 26), 26)), mnemonic != "bl"),
            InsnClass::CONDBRANCH | InsnClass::COMPBRANCH => (direct(signed(bits(word, 5, 19), 19)), true),
            InsnClass::TESTBRANCH => (direct(signed(bits(word, 5, 14), 14)), true),
            InsnClass::BRANCH_REG if mnemonic.starts_with("blr") => (To::Unknown, false),
            InsnClass::BRANCH_REG if mnemonic.starts_with("br") => (To::Unknown, true),
            _ => return Going::default(),
        };
        let going = Going { goes: true, called: !jump, computed: jump && to == To::Unknown, target: None };
        if let To::Direct(target) = to
            && jump
            && self.inside(target)
        {
            return Going { target: Some(target), ..going };
        }
        if decoded.class() == InsnClass::BRANCH_REG {
            self.by_register.push((self.steps.len(), decoded.register(5), self.facts.transfers.len()));
        }
        self.facts.transfers.push(Transfer { site, to, jump });
        going
    }

    /// Features and rights that it needs.
    fn needs(&mut self, decoded: &Decoded) {
        let site = decoded.site;
        let class: &'static str = decoded.class().into();
        let features = decoded.instruction.definition().feature_set;
        let feature = features.to_string();
        let foreign = |name: &str| name.contains("SVE") || name.contains("SME");
        if foreign(class) || foreign(&feature) {
            self.facts.vector.push((site, decoded.text()));
        } else if !BASELINE.contains(&features) && !decoded.is_hint() {
            self.facts.baseline.push((site, format!("{} ({feature})", decoded.text())));
        }
        system(decoded, &mut self.facts);
        if decoded.is_trap() && !self.after_call {
            self.traps.push(Trap { index: self.steps.len(), remark: (site, decoded.text()) });
        }
    }

    /// What it puts into its first register.
    fn gives(&mut self, decoded: &Decoded) -> Option<Gives> {
        let (site, word) = (decoded.site, decoded.word);
        match decoded.class() {
            InsnClass::PCRELADDR => {
                let distance = signed(bits(word, 5, 19) << 2 | bits(word, 29, 2), 21);
                if decoded.mnemonic() == "adrp" {
                    // A page alone is no address yet.
                    return offset(site & !0xFFF, distance << 12)
                        .map(|page| Gives::Value(Known::Address(page)));
                }
                let address = offset(site, distance);
                self.facts.addresses.extend(address.filter(|at| !self.inside(*at)).map(|at| (site, at)));
                address.map(|address| Gives::Value(Known::Address(address)))
            }
            // add xD, xN, #imm
            InsnClass::ADDSUB_IMM if word & 0xFF80_0000 == 0x9100_0000 => {
                let sum = Gives::Sum(decoded.register(5), immediate(word));
                self.sums.push((self.steps.len(), sum));
                Some(sum)
            }
            // ldr xT, [xN, #imm]
            InsnClass::LDST_POS if word & 0xFFC0_0000 == 0xF940_0000 => {
                Some(Gives::Loaded(decoded.register(5), bits(word, 10, 12) * 8))
            }
            // mov xD, xM
            InsnClass::LOG_SHIFT if word & 0xFFE0_FFE0 == 0xAA00_03E0 => {
                Some(Gives::Same(decoded.register(16)))
            }
            _ => None,
        }
    }

    /// What it leaves behind.
    fn step(&mut self, decoded: &Decoded, going: Going) {
        let (mnemonic, word) = (decoded.mnemonic(), decoded.word);
        let gives = self.gives(decoded);
        let stores = mnemonic.starts_with("st") && decoded.class() != InsnClass::LSE_ATOMIC;
        let mut kills = 0;
        // A load into a vector register has that register's number where others have a general one's.
        let loads_vector = word >> 25 & 0b101 == 0b100 && word >> 26 & 1 == 1;
        if !going.goes && !stores && !loads_vector {
            kills |= 1 << bits(word, 0, 5);
            if ["ldp", "ldxp", "ldaxp"].iter().any(|pair| mnemonic.starts_with(pair)) {
                kills |= 1 << bits(word, 10, 5);
            }
        }
        if going.called {
            kills |= VOLATILE | 1 << LR;
        }
        // Number 31 is the stack pointer or zero: neither is an address in the image.
        let gives = gives.map(|gives| (decoded.register(0), gives)).filter(|(to, _)| u32::from(*to) != SP);
        let ends = decoded.is_trap()
            || (decoded.class() == InsnClass::BRANCH_IMM && !going.called)
            || (decoded.class() == InsnClass::BRANCH_REG && !going.called);
        self.steps.push(Step {
            site: decoded.site,
            kills,
            gives,
            goes: going.target,
            falls: !ends,
            computed: going.computed,
            nothing: decoded.is_hint(),
        });
        if !decoded.is_hint() {
            self.after_call = going.called || (decoded.is_trap() && self.after_call);
        }
    }

    fn finish(mut self) -> Facts {
        let (start, end) = (self.start, self.end);
        let mut waiting = self.by_register.into_iter().peekable();
        let mut sums = self.sums.into_iter().peekable();
        flow::solve(&self.steps, |index, state| {
            while let Some((_, register, place)) = waiting.next_if(|(step, ..)| *step == index) {
                match state[usize::from(register)] {
                    Known::Slot(slot) => self.facts.transfers[place].to = To::Slot(slot),
                    Known::Address(address) => self.facts.transfers[place].to = To::Direct(address),
                    Known::Nothing => {}
                }
            }
            while let Some((_, sum)) = sums.next_if(|(step, _)| *step == index) {
                if let Known::Address(address) = flow::given(sum, state)
                    && (address <= start || u64::from(address) >= end)
                {
                    self.facts.addresses.push((self.steps[index].site, address));
                }
            }
        });
        self.facts.addresses.sort_unstable();
        sort_traps(&mut self.facts, &self.steps, self.traps);
        self.facts
    }
}

/// Instructions for the system.
fn system(decoded: &Decoded, facts: &mut Facts) {
    let (word, mnemonic) = (decoded.word, decoded.mnemonic());
    // op1 says from which exception level on: 3 is for applications.
    let for_applications = bits(word, 16, 3) == 3;
    let (odd, privileged) = match decoded.class() {
        // Registers; msr with a constant is for the kernel.
        InsnClass::IC_SYSTEM if mnemonic == "mrs" || mnemonic == "msr" => {
            let register = word & 0xFFD0_0000 == 0xD510_0000;
            (register && for_applications, !register || !for_applications)
        }
        // Maintenance of caches and translations
        InsnClass::IC_SYSTEM if matches!(mnemonic, "sys" | "sysl" | "at" | "dc" | "ic" | "tlbi") => {
            (for_applications, !for_applications)
        }
        InsnClass::EXCEPTION => (false, matches!(mnemonic, "svc" | "hvc" | "smc")),
        InsnClass::BRANCH_REG => (false, mnemonic.starts_with("eret") || mnemonic == "drps"),
        _ => return,
    };
    if privileged {
        facts.privileged.push((decoded.site, decoded.text()));
    } else if odd {
        facts.odd.push((decoded.site, decoded.text()));
    }
}

/// The constant of an addition or subtraction.
fn immediate(word: u32) -> u32 {
    bits(word, 10, 12) << (12 * bits(word, 22, 1))
}

/// How the stack pointer moves.
#[derive(Default)]
struct Frame {
    /// A register that holds the stack pointer less a constant, to be aligned.
    lower: Option<(u32, u32)>,
    /// What x15 holds when a large frame is taken by its size in 16 bytes.
    x15: Option<u32>,
}

impl Frame {
    /// Bytes that an instruction takes from the stack.
    fn take(&mut self, decoded: &Decoded, facts: &mut Facts) {
        let word = decoded.word;
        let (rd, rn) = (bits(word, 0, 5), bits(word, 5, 5));
        let taken = if word & 0xFF80_03E0 == 0xD100_03E0 {
            // sub sp, sp, #imm — or into another register
            if rd != SP {
                self.lower = Some((rd, immediate(word)));
                return;
            }
            Some(immediate(word))
        } else if word & 0xFF80_001F == 0x9200_001F {
            // and sp, xN, #-alignment: the ones of the constant are its high bits
            let ones = bits(word, 10, 6) + 1;
            let lower = self.lower.take().filter(|(register, _)| *register == rn);
            lower.filter(|_| ones > 48).map(|(_, constant)| constant + (1 << (64 - ones)))
        } else if word & 0x3A40_03E0 == 0x2800_03E0 && bits(word, 23, 2) == 3 {
            // stp …, [sp, #-imm]!
            let scale = match (bits(word, 26, 1), bits(word, 30, 2)) {
                (0, 2) | (1, 1) => 8,
                (1, 2) => 16,
                _ => 4,
            };
            Some(u32::try_from(-signed(bits(word, 15, 7), 7) * scale).unwrap_or(0))
        } else if word & 0x3B20_0FE0 == 0x3800_0FE0 {
            // str …, [sp, #-imm]!
            Some(u32::try_from(-signed(bits(word, 12, 9), 9)).unwrap_or(0))
        } else if word & 0xFFE0_03FF == 0xCB20_03FF {
            // sub sp, sp, x15, lsl #4: behind __chkstk
            self.x15
                .filter(|_| bits(word, 16, 5) == 15 && bits(word, 10, 3) == 4)
                .and_then(|size| size.checked_mul(16))
        } else {
            Some(0)
        };
        // movz x15, #imm; the call to __chkstk leaves it.
        if word & 0x7F80_001F == 0x5280_000F {
            self.x15 = bits(word, 5, 16).checked_shl(16 * bits(word, 21, 2));
        } else if rd == 15 && decoded.class() != InsnClass::BRANCH_IMM {
            self.x15 = None;
        }
        match taken {
            Some(taken) => facts.prologue_bytes = facts.prologue_bytes.saturating_add(taken),
            None => facts.variable = Some(decoded.site),
        }
    }
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
