//! The simulator's counters by name, for reports.
use paring_ptx_sim::{Class, Counters};
use std::collections::BTreeMap;

/// Every total, under the name of its field, and warp instructions by class (`warp_mma`, `warp_cpasync`, …).
pub(crate) fn named(c: &Counters) -> BTreeMap<String, u64> {
    macro_rules! fields {
        ($($field:ident)+) => { [$((stringify!($field), c.$field)),+] };
    }
    let totals = fields! {
        ctas warp_instructions lane_instructions f32_flops tensor_flops global_requests global_sectors global_ideal_sectors
        global_bytes_read global_bytes_written unique_sectors_read unique_sectors_written shared_requests shared_wavefronts
        shared_ideal_wavefronts barriers divergent_branches
    };
    let totals = totals.into_iter().map(|(name, value)| (name.to_owned(), value));
    let classes = Class::ALL.into_iter().map(|class| (format!("warp_{class:?}").to_lowercase(), c.warp(class)));
    totals.chain(classes).collect()
}
