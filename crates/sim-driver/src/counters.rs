//! The simulator's counters by name, for reports.
use paring_ptx_sim::{Class, Counters};
use std::collections::BTreeMap;

/// Counters by the names of their fields; of the classes of warp instructions by theirs.
pub(crate) fn named(counters: &Counters) -> BTreeMap<String, u64> {
    let fields = [
        ("ctas", counters.ctas),
        ("warp_instructions", counters.warp_instructions),
        ("lane_instructions", counters.lane_instructions),
        ("f32_flops", counters.f32_flops),
        ("tensor_flops", counters.tensor_flops),
        ("global_requests", counters.global_requests),
        ("global_sectors", counters.global_sectors),
        ("global_ideal_sectors", counters.global_ideal_sectors),
        ("global_bytes", counters.global_bytes_read + counters.global_bytes_written),
        ("global_bytes_read", counters.global_bytes_read),
        ("global_bytes_written", counters.global_bytes_written),
        ("unique_sectors_read", counters.unique_sectors_read),
        ("unique_sectors_written", counters.unique_sectors_written),
        ("shared_requests", counters.shared_requests),
        ("shared_wavefronts", counters.shared_wavefronts),
        ("shared_ideal_wavefronts", counters.shared_ideal_wavefronts),
        ("barriers", counters.barriers),
        ("divergent_branches", counters.divergent_branches),
    ];
    let classes = [("mma", Class::Mma), ("ldmatrix", Class::Ldmatrix), ("cp_async", Class::CpAsync)];
    let classes = classes.map(|(name, class)| (name, counters.warp(class)));
    fields.into_iter().chain(classes).map(|(name, value)| (name.to_owned(), value)).collect()
}
