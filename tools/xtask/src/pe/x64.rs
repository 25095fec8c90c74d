//! x64 instructions, by `iced-x86`.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, InstructionInfoFactory,
    IntelFormatter, Mnemonic, OpAccess, OpKind, Register, UsedRegister,
};

use super::code::{Facts, To, Transfer, Trap, sort_traps};
use super::flow::{self, Gives, Known, Step};

/// What every x64 processor that runs Windows 10 has.
const BASELINE: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CPUID,
    CpuidFeature::CX8,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::FXSR,
    CpuidFeature::PAUSE,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PREFETCHW,
    CpuidFeature::CLFSH,
    CpuidFeature::TSC,
    CpuidFeature::MSR,
    CpuidFeature::SYSCALL,
    // A no-operation where the processor does not know it.
    CpuidFeature::CET_IBT,
];

/// tzcnt is encoded as `rep bsf`, which is what older processors run: with the same result for any number but zero,
/// and compilers use it in place of bsf where the number is not zero.
const SAME_ON_OLDER: &[Mnemonic] = &[Mnemonic::Tzcnt];

/// Features whose registers belong to the interrupted thread.
const FOREIGN_STATE: &[CpuidFeature] = &[
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU287XL_ONLY,
    CpuidFeature::FPU387,
    CpuidFeature::MMX,
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::AVX512F,
    CpuidFeature::FMA,
    CpuidFeature::F16C,
];

/// Allowed everywhere, and rare in compiled code.
const ODD: &[Mnemonic] = &[
    Mnemonic::Rdtsc,
    Mnemonic::Rdtscp,
    Mnemonic::Rdpmc,
    Mnemonic::Cpuid,
    Mnemonic::Xgetbv,
    Mnemonic::Pushfq,
    Mnemonic::Popfq,
    Mnemonic::Syscall,
    Mnemonic::Sysenter,
    Mnemonic::Iretq,
    Mnemonic::Sgdt,
    Mnemonic::Sidt,
    Mnemonic::Sldt,
    Mnemonic::Str,
    Mnemonic::Smsw,
];

/// Registers that a call may change.
const VOLATILE: [Register; 7] =
    [Register::RAX, Register::RCX, Register::RDX, Register::R8, Register::R9, Register::R10, Register::R11];

fn narrow(address: u64) -> Option<u32> {
    u32::try_from(address).ok()
}

/// The number of a general register's 64-bit form.
fn number(register: Register) -> Option<u8> {
    let full = register.full_register();
    full.is_gpr64().then(|| u8::try_from(full.number()).ok()).flatten()
}

/// Reads the instructions of a function: `bytes` from `start`, its prologue so many bytes.
pub fn decode(start: u32, bytes: &[u8], prologue: u32) -> Facts {
    let mut decoder = Decoder::with_ip(64, bytes, u64::from(start), DecoderOptions::NONE);
    let mut infos = InstructionInfoFactory::new();
    let mut reader = Reader {
        start,
        end: u64::from(start) + bytes.len() as u64,
        prologue,
        facts: Facts::default(),
        steps: Vec::new(),
        by_register: Vec::new(),
        traps: Vec::new(),
        eax: None,
        after_call: false,
    };
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let Some(site) = narrow(instruction.ip()) else { break };
        reader.facts.instructions += 1;
        if instruction.is_invalid() {
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
        }
        let used = infos.info(&instruction).used_registers();
        let goes = reader.transfer(site, &instruction);
        reader.needs(site, &instruction, used);
        reader.stack(site, &instruction, used);
        reader.step(site, &instruction, used, goes);
    }
    reader.finish()
}

fn writes(used: UsedRegister) -> bool {
    matches!(
        used.access(),
        OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
    )
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
}

fn is_trap(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Int3 | Mnemonic::Int | Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Int1
    )
}

fn text(instruction: &Instruction) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(instruction, &mut text);
    text
}

/// Reads a function's instructions one by one.
struct Reader {
    start: u32,
    end: u64,
    prologue: u32,
    facts: Facts,
    steps: Vec<Step>,
    /// Transfers by a register: the step, the register, the place among the transfers.
    by_register: Vec<(usize, u8, usize)>,
    traps: Vec<Trap>,
    /// What eax holds when a large frame is taken by its size.
    eax: Option<u32>,
    after_call: bool,
}

impl Reader {
    fn inside(&self, target: u32) -> bool {
        target > self.start && u64::from(target) < self.end
    }

    /// Where it goes; the target if it is a branch in the function.
    fn transfer(&mut self, site: u32, instruction: &Instruction) -> Option<u32> {
        let slot = match instruction.op0_kind() {
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
                narrow(instruction.ip_rel_memory_address()).map_or(To::Unknown, To::Slot)
            }
            _ => To::Unknown,
        };
        let near = narrow(instruction.near_branch_target()).map_or(To::Unknown, To::Direct);
        let (to, jump) = match instruction.flow_control() {
            FlowControl::Call => (near, false),
            FlowControl::IndirectCall => (slot, false),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => match near {
                To::Direct(target) if self.inside(target) || target == self.start => return Some(target),
                near => (near, true),
            },
            FlowControl::IndirectBranch => (slot, true),
            _ => return None,
        };
        if to == To::Unknown
            && instruction.op0_kind() == OpKind::Register
            && let Some(register) = number(instruction.op0_register())
        {
            self.by_register.push((self.steps.len(), register, self.facts.transfers.len()));
        }
        self.facts.transfers.push(Transfer { site, to, jump });
        None
    }

    /// Addresses, registers, features and rights that it needs.
    fn needs(&mut self, site: u32, instruction: &Instruction, used: &[UsedRegister]) {
        if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
            let address =
                narrow(instruction.ip_rel_memory_address()).filter(|address| !self.inside(*address));
            self.facts.addresses.extend(address.map(|address| (site, address)));
        }
        let foreign = used.iter().map(UsedRegister::register).any(|register| {
            register.is_ymm() || register.is_zmm() || register.is_k() || register.is_mm() || register.is_st()
        });
        let features = instruction.cpuid_features();
        if foreign || features.iter().any(|feature| FOREIGN_STATE.contains(feature)) {
            self.facts.vector.push((site, text(instruction)));
        } else if features.iter().any(|feature| !BASELINE.contains(feature))
            && !SAME_ON_OLDER.contains(&instruction.mnemonic())
        {
            self.facts.baseline.push((site, format!("{} ({features:?})", text(instruction))));
        }
        let irql = (0..instruction.op_count()).any(|index| instruction.op_register(index) == Register::CR8);
        let segment = instruction.segment_prefix();
        if instruction.is_privileged() && !irql {
            self.facts.privileged.push((site, text(instruction)));
        } else if irql
            || ODD.contains(&instruction.mnemonic())
            || matches!(segment, Register::FS | Register::GS)
        {
            self.facts.odd.push((site, text(instruction)));
        }
        if is_trap(instruction) && !self.after_call {
            self.traps.push(Trap { index: self.steps.len(), remark: (site, text(instruction)) });
        }
    }

    /// Bytes that it takes from the stack.
    fn stack(&mut self, site: u32, instruction: &Instruction, used: &[UsedRegister]) {
        let on_stack = instruction.op0_register() == Register::RSP;
        let constant = instruction.op_count() == 2
            && matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64);
        let constant = constant.then(|| instruction.immediate(1).cast_signed());
        let taken = match (instruction.mnemonic(), constant) {
            (Mnemonic::Push | Mnemonic::Pushfq, _) => 8,
            (Mnemonic::Sub, Some(constant)) if on_stack => constant,
            // Adds a negative number, or aligns, which takes as much at most.
            (Mnemonic::Add | Mnemonic::And, Some(constant)) if on_stack => constant.saturating_neg(),
            (Mnemonic::Sub, None) if on_stack => {
                let known = self.eax.filter(|_| instruction.op1_register() == Register::RAX);
                if known.is_none() {
                    self.facts.variable = Some(site);
                }
                known.map_or(0, i64::from)
            }
            _ => 0,
        };
        let in_prologue = site - self.start < self.prologue;
        let sum = if in_prologue { &mut self.facts.prologue_bytes } else { &mut self.facts.later_bytes };
        *sum = sum.saturating_add(u32::try_from(taken.max(0)).unwrap_or(u32::MAX));
        if instruction.code() == Code::Mov_r32_imm32 && instruction.op0_register() == Register::EAX {
            self.eax = Some(instruction.immediate32());
        } else if !is_call(instruction)
            && used.iter().any(|used| used.register().full_register() == Register::RAX && writes(*used))
        {
            self.eax = None;
        }
    }

    /// What it leaves behind.
    fn step(&mut self, site: u32, instruction: &Instruction, used: &[UsedRegister], goes: Option<u32>) {
        let (called, trap) = (is_call(instruction), is_trap(instruction));
        let mut kills = 0;
        for register in used.iter().filter(|used| writes(**used)).filter_map(|used| number(used.register())) {
            kills |= 1 << register;
        }
        if called {
            VOLATILE.into_iter().filter_map(number).for_each(|register| kills |= 1 << register);
        }
        let gives = match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if instruction.op0_kind() == OpKind::Register => {
                let from = if instruction.is_ip_rel_memory_operand() {
                    narrow(instruction.ip_rel_memory_address()).map(|slot| Gives::Value(Known::Slot(slot)))
                } else {
                    let register = instruction.op1_kind() == OpKind::Register;
                    number(instruction.op1_register()).filter(|_| register).map(Gives::Same)
                };
                number(instruction.op0_register()).zip(from)
            }
            _ => None,
        };
        let flow = instruction.flow_control();
        let ends = trap
            || matches!(
                flow,
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
            );
        let nothing = instruction.mnemonic() == Mnemonic::Nop;
        let computed = flow == FlowControl::IndirectBranch;
        self.steps.push(Step { site, kills, gives, goes, falls: !ends, computed, nothing });
        if !nothing {
            self.after_call = called || (trap && self.after_call);
        }
    }

    fn finish(mut self) -> Facts {
        let mut waiting = self.by_register.into_iter().peekable();
        flow::solve(&self.steps, |index, state| {
            while let Some((_, register, place)) = waiting.next_if(|(step, ..)| *step == index) {
                if let Known::Slot(slot) = state[usize::from(register)] {
                    self.facts.transfers[place].to = To::Slot(slot);
                }
            }
        });
        sort_traps(&mut self.facts, &self.steps, self.traps);
        self.facts
    }
}

/// Whether bytes between functions are padding: breakpoints and no-operations.
pub fn is_padding(bytes: &[u8]) -> bool {
    let decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    decoder.into_iter().all(|instruction| {
        !instruction.is_invalid()
            && (instruction.mnemonic() == Mnemonic::Int3
                || instruction.mnemonic() == Mnemonic::Nop
                || instruction.code() == Code::Xchg_r16_AX)
    }) || bytes.iter().all(|byte| *byte == 0)
}

/// The length of a function without the padding behind it.
pub fn without_padding(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0xCC).map_or(0, |last| last + 1)
}
