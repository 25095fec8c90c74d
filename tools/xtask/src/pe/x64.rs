//! x64 instructions, by `iced-x86`.

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, InstructionInfoFactory,
    IntelFormatter, Mnemonic, OpAccess, OpKind, Register,
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
    let end = u64::from(start) + bytes.len() as u64;
    let mut decoder = Decoder::with_ip(64, bytes, u64::from(start), DecoderOptions::NONE);
    let mut infos = InstructionInfoFactory::new();
    let mut formatter = IntelFormatter::new();
    let mut facts = Facts::default();
    let mut steps = Vec::new();
    // Transfers by a register: the step, the register, the place among the transfers.
    let mut by_register = Vec::new();
    let mut traps = Vec::new();
    let mut instruction = Instruction::default();
    let mut after_call = false;
    // What eax holds when a large frame is taken by its size.
    let mut eax = None;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let Some(site) = narrow(instruction.ip()) else { break };
        facts.instructions += 1;
        if instruction.is_invalid() {
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
        }
        let mut text = || {
            let mut text = String::new();
            formatter.format(&instruction, &mut text);
            text
        };
        let inside = |target: u32| target > start && u64::from(target) < end;

        // Where it goes
        let slot = match instruction.op0_kind() {
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
                narrow(instruction.ip_rel_memory_address()).map_or(To::Unknown, To::Slot)
            }
            _ => To::Unknown,
        };
        let near = narrow(instruction.near_branch_target()).map_or(To::Unknown, To::Direct);
        let flow = instruction.flow_control();
        let mut goes = None;
        let (to, jump) = match flow {
            FlowControl::Call => (Some(near), false),
            FlowControl::IndirectCall => (Some(slot), false),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => match near {
                To::Direct(target) if inside(target) || target == start => {
                    goes = Some(target);
                    (None, true)
                }
                near => (Some(near), true),
            },
            FlowControl::IndirectBranch => (Some(slot), true),
            _ => (None, false),
        };
        if let Some(to) = to {
            if to == To::Unknown
                && instruction.op0_kind() == OpKind::Register
                && let Some(register) = number(instruction.op0_register())
            {
                by_register.push((steps.len(), register, facts.transfers.len()));
            }
            facts.transfers.push(Transfer { site, to, jump });
        }

        // Addresses
        if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
            let address = narrow(instruction.ip_rel_memory_address()).filter(|address| !inside(*address));
            facts.addresses.extend(address.map(|address| (site, address)));
        }

        // What it needs
        let info = infos.info(&instruction);
        let foreign = info.used_registers().iter().any(|used| {
            let register = used.register();
            register.is_ymm() || register.is_zmm() || register.is_k() || register.is_mm() || register.is_st()
        });
        let features = instruction.cpuid_features();
        if foreign || features.iter().any(|feature| FOREIGN_STATE.contains(feature)) {
            facts.vector.push((site, text()));
        } else if features.iter().any(|feature| !BASELINE.contains(feature))
            && !SAME_ON_OLDER.contains(&instruction.mnemonic())
        {
            facts.baseline.push((site, format!("{} ({features:?})", text())));
        }
        let irql = (0..instruction.op_count()).any(|index| instruction.op_register(index) == Register::CR8);
        let segment = instruction.segment_prefix();
        if instruction.is_privileged() && !irql {
            facts.privileged.push((site, text()));
        } else if irql
            || ODD.contains(&instruction.mnemonic())
            || matches!(segment, Register::FS | Register::GS)
        {
            facts.odd.push((site, text()));
        }
        let trap = matches!(
            instruction.mnemonic(),
            Mnemonic::Int3 | Mnemonic::Int | Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Int1
        );
        if trap && !after_call {
            traps.push(Trap { index: steps.len(), remark: (site, text()) });
        }

        // The stack
        let taken = match instruction.code() {
            Code::Push_r64 | Code::Push_rm64 | Code::Pushq_imm8 | Code::Pushq_imm32 | Code::Pushfq => Some(8),
            Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 if instruction.op0_register() == Register::RSP => {
                u32::try_from(instruction.immediate(1).cast_signed()).ok()
            }
            Code::Sub_r64_rm64 | Code::Sub_rm64_r64 if instruction.op0_register() == Register::RSP => {
                let known = eax.filter(|_| instruction.op1_register() == Register::RAX);
                if known.is_none() {
                    facts.variable = Some(site);
                }
                known
            }
            _ => None,
        };
        let in_prologue = site - start < prologue;
        let sum = if in_prologue { &mut facts.prologue_bytes } else { &mut facts.later_bytes };
        *sum = sum.saturating_add(taken.unwrap_or(0));

        // What is known afterwards
        let called = matches!(flow, FlowControl::Call | FlowControl::IndirectCall);
        if instruction.code() == Code::Mov_r32_imm32 && instruction.op0_register() == Register::EAX {
            eax = Some(instruction.immediate32());
        } else if !called
            && info.used_registers().iter().any(|used| {
                used.register().full_register() == Register::RAX && used.access() != OpAccess::Read
            })
        {
            eax = None;
        }
        let mut kills = 0;
        let changed = info.used_registers().iter().filter(|used| {
            matches!(
                used.access(),
                OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
            )
        });
        for register in changed.filter_map(|used| number(used.register())) {
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
                    number(instruction.op1_register())
                        .filter(|_| instruction.op1_kind() == OpKind::Register)
                        .map(Gives::Same)
                };
                number(instruction.op0_register()).zip(from)
            }
            _ => None,
        };
        let ends = trap
            || matches!(
                flow,
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
            );
        let computed = flow == FlowControl::IndirectBranch;
        let nothing = instruction.mnemonic() == Mnemonic::Nop;
        steps.push(Step { site, kills, gives, goes, falls: !ends, computed, nothing });
        if instruction.mnemonic() != Mnemonic::Nop {
            after_call = called || (trap && after_call);
        }
    }
    let mut waiting = by_register.into_iter().peekable();
    flow::solve(&steps, |index, state| {
        while let Some((_, register, place)) = waiting.next_if(|(step, ..)| *step == index) {
            if let Known::Slot(slot) = state[usize::from(register)] {
                facts.transfers[place].to = To::Slot(slot);
            }
        }
    });
    sort_traps(&mut facts, &steps, traps);
    facts
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
