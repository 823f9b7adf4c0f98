//! The table of `paring-conformance` where hardware rounds in other ways than the simulator does by default: sums of tensor cores cut off,
//! approximate functions two units in the last place above or below, and all of it mixed. The results have to stay inside the tolerance,
//! because nobody knows how a GPU will round. Races and bounds are what `conformance.rs` looks for; here the checkers are off.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use paring_conformance::{Failure, cases, check};
use paring_cuda::Allocation;
use ptx_sim_driver::{Config, Rounding};
use std::time::Instant;

/// Of the cases of attention, which take most of the time, every so many.
const ATTENTION: usize = 3;

fn rounded(rounding: Rounding, seed: u64) {
    let mut config = Config::default();
    (config.rounding, config.seed) = (rounding, seed);
    (config.shared_races, config.global_races, config.uninitialised, config.counters) = (false, false, false, false);
    let opened = common::open_with(&config, Allocation::Pooled);
    let start = Instant::now();
    let cases = cases().into_iter().enumerate();
    let cases = cases
        .filter(|(i, case)| !case.op.name().starts_with("attention") || (i + seed as usize).is_multiple_of(ATTENTION));
    let mut checked = 0;
    let failures: Vec<Failure> = cases
        .filter_map(|(_, case)| {
            checked += 1;
            check(&opened.cuda, &case).err()
        })
        .collect();
    println!("{rounding:?}: {checked} cases in {:.1} s", start.elapsed().as_secs_f64());
    let text: Vec<String> = failures.iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), text.join("\n"));
}

#[test]
fn sums_of_tensor_cores_are_cut_off() {
    rounded(Rounding::TruncateAccumulate, 1);
}

#[test]
fn approximate_functions_are_above() {
    rounded(Rounding::ApproxUp, 2);
}

#[test]
fn approximate_functions_are_below() {
    rounded(Rounding::ApproxDown, 3);
}

#[test]
fn everything_is_mixed_and_blocks_run_in_another_order() {
    rounded(Rounding::Mixed, 4);
}
