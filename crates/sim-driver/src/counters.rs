//! The simulator's counters by name, for reports.
use paring_ptx_sim::Counters;
use std::collections::BTreeMap;

pub(crate) fn named(counters: &Counters) -> BTreeMap<String, u64> {
    let all = [("warp_instructions", counters.warp_instructions), ("global_bytes", counters.global_bytes)];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
