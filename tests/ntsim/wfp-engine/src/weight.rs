//! Weights of filters (*Filter Weight Assignment*, *Filter Weight Identifiers*).

use crate::condition::Group;
use crate::{Error, Result, Weight};

/// `FWPM_AUTO_WEIGHT_BITS`.
const AUTO_WEIGHT_BITS: u32 = 60;
/// `FWPM_AUTO_WEIGHT_MAX`.
const AUTO_WEIGHT_MAX: u64 = u64::MAX >> 4;
/// `FWPM_WEIGHT_RANGE_MAX`.
const WEIGHT_RANGE_MAX: u8 = 15;

/// The effective weight of a filter.
pub(crate) fn effective(weight: Weight, conditions: &[Group]) -> Result<u64> {
    match weight {
        Weight::Exact(weight) => Ok(weight),
        Weight::Auto => Ok(automatic(conditions)),
        Weight::Range(range) if range <= WEIGHT_RANGE_MAX => {
            Ok(u64::from(range) << AUTO_WEIGHT_BITS | automatic(conditions))
        }
        Weight::Range(_) => Err(Error::InvalidWeight),
    }
}

/// "BFE will automatically assign a weight based on the filter conditions" (*FWPM_FILTER0*), below 2^60. How is not
/// documented; here the number of conditions counts first, then how narrow they are, so that the more specific
/// filter comes first.
fn automatic(conditions: &[Group]) -> u64 {
    let count = u64::try_from(conditions.len()).unwrap_or(u64::MAX).min(0xFF);
    let narrow: u64 = conditions.iter().map(|group| u64::from(group.specificity())).sum();
    (count << 32 | narrow.min(u64::from(u32::MAX))).min(AUTO_WEIGHT_MAX)
}
