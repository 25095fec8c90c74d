//! Writing a verdict: the one place that knows the rights of arbitration.
//!
//! IRQL <= DISPATCH_LEVEL. Documentation: `ns-fwpstypes-fwps_classify_out0_`, "Filter Arbitration".

use crate::policy::Action;
use crate::sys::fwp::{
    FWP_ACTION_BLOCK, FWP_ACTION_CONTINUE, FWP_ACTION_PERMIT, FWPS_CLASSIFY_OUT0,
    FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT, FWPS_RIGHT_ACTION_WRITE,
};

/// What a callout answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Softly: a later sublayer may still block.
    Permit,
    /// Nobody may permit it any more.
    Block,
    /// No opinion: lower filters of the sublayer are asked next.
    Continue,
}

impl From<Action> for Verdict {
    /// An audited connection passes without being permitted: PERMIT would end the sublayer and hide lower filters.
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Permit,
            Action::Block => Self::Block,
            Action::Audit => Self::Continue,
        }
    }
}

/// Writes `verdict` as far as the right to write allows: without it, only a block over an earlier permit, the veto.
/// A block takes the right from all that follow; a permit only where the filter asks for it.
pub fn write(out: &mut FWPS_CLASSIFY_OUT0, verdict: Verdict, filter_flags: u16) {
    if out.rights & FWPS_RIGHT_ACTION_WRITE == 0 {
        if verdict == Verdict::Block && out.actionType == FWP_ACTION_PERMIT {
            out.actionType = FWP_ACTION_BLOCK;
        }
        return;
    }
    match verdict {
        Verdict::Permit => {
            out.actionType = FWP_ACTION_PERMIT;
            if filter_flags & FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT != 0 {
                out.rights &= !FWPS_RIGHT_ACTION_WRITE;
            }
        }
        Verdict::Block => {
            out.actionType = FWP_ACTION_BLOCK;
            out.rights &= !FWPS_RIGHT_ACTION_WRITE;
        }
        Verdict::Continue => out.actionType = FWP_ACTION_CONTINUE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(before: u32, rights: u32, verdict: Verdict, flags: u16) -> (u32, u32) {
        let mut out = FWPS_CLASSIFY_OUT0 { actionType: before, rights, ..FWPS_CLASSIFY_OUT0::ZERO };
        write(&mut out, verdict, flags);
        (out.actionType, out.rights)
    }

    #[test]
    fn with_the_right_to_write_each_verdict_is_written_and_only_a_block_takes_the_right() {
        let right = FWPS_RIGHT_ACTION_WRITE;
        assert_eq!(written(0, right, Verdict::Permit, 0), (FWP_ACTION_PERMIT, right));
        assert_eq!(written(0, right, Verdict::Continue, 0), (FWP_ACTION_CONTINUE, right));
        assert_eq!(written(0, right, Verdict::Block, 0), (FWP_ACTION_BLOCK, 0));
    }

    #[test]
    fn a_permit_is_hard_where_the_filter_says_so() {
        let hard = FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT;
        assert_eq!(written(0, FWPS_RIGHT_ACTION_WRITE, Verdict::Permit, hard), (FWP_ACTION_PERMIT, 0));
    }

    #[test]
    fn without_the_right_only_a_veto_is_written() {
        assert_eq!(written(FWP_ACTION_PERMIT, 0, Verdict::Block, 0), (FWP_ACTION_BLOCK, 0));
        assert_eq!(written(FWP_ACTION_PERMIT, 0, Verdict::Continue, 0), (FWP_ACTION_PERMIT, 0));
        assert_eq!(written(FWP_ACTION_BLOCK, 0, Verdict::Permit, 0), (FWP_ACTION_BLOCK, 0));
        assert_eq!(written(FWP_ACTION_CONTINUE, 0, Verdict::Block, 0), (FWP_ACTION_CONTINUE, 0));
    }
}
