//! The table of `paring-conformance` where hardware rounds in other ways than the simulator does by default: sums of tensor cores cut off,
//! approximate functions two units in the last place above or below, and all of it mixed. The results have to stay inside the tolerance,
//! because nobody knows how a GPU will round. Races and bounds are what `conformance.rs` looks for; here the checkers are off.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use paring_conformance::{Failure, Reason, cases, check};
use paring_cuda::Allocation;
use ptx_sim_driver::{Config, Rounding};
use std::collections::BTreeSet;

/// Operations that all err to one side have errors that add up where rounding to nearest lets them cancel: together the elements may be this
/// much further off than the table allows. Each element has to be within its own bound. Measured: 1.7 (`lse` of tiny scores), 1.3 (a product).
const ONE_SIDED: f64 = 2.0;

/// Of the cases of attention, which take most of the time and have tests of their own, every so many.
const ATTENTION: usize = 9;

/// Failures after which a test stops: what is wrong is known by then.
const MOST_FAILURES: usize = 3;

fn rounded(names: &[&str], rounding: Rounding, seed: u64) {
    let mut config = Config::default();
    (config.rounding, config.seed) = (rounding, seed);
    (config.shared_races, config.global_races, config.uninitialised, config.counters) = (false, false, false, false);
    let opened = common::open_with(&config, Allocation::Pooled);
    let cases = cases().into_iter().enumerate().filter(|(_, case)| names.contains(&case.op.name()));
    let cases = cases
        .filter(|(i, case)| !case.op.name().starts_with("attention") || (i + seed as usize).is_multiple_of(ATTENTION));
    let failures: Vec<Failure> = cases
        .filter_map(|(_, case)| {
            check(&opened.cuda, &case).err().filter(|failure| match *failure.reason {
                Reason::Sum { got, bound, .. } => got > ONE_SIDED * bound,
                _ => true,
            })
        })
        .take(MOST_FAILURES)
        .collect();
    let text: Vec<String> = failures.iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "{}", text.join("\n"));
}

/// For each group of operations a test of every way to round: those of one kernel are quick.
macro_rules! groups {
    ($($group:ident: $($name:literal),+;)+) => {
        $(mod $group {
            use super::{Rounding, rounded};

            #[test]
            fn sums_of_tensor_cores_are_cut_off() {
                rounded(&[$($name),+], Rounding::TruncateAccumulate, 1);
            }

            #[test]
            fn approximate_functions_are_above() {
                rounded(&[$($name),+], Rounding::ApproxUp, 2);
            }

            #[test]
            fn approximate_functions_are_below() {
                rounded(&[$($name),+], Rounding::ApproxDown, 3);
            }

            #[test]
            fn everything_is_mixed_and_blocks_run_in_another_order() {
                rounded(&[$($name),+], Rounding::Mixed, 4);
            }
        })+

        const GROUPED: &[&str] = &[$($($name),+),+];
    };
}

groups! {
    memory: "alloc", "zeros", "upload", "upload_bytes", "convert", "fill", "write_rows";
    sums: "add", "accumulate", "scale", "sum_squares";
    gated: "gated", "gated_backward";
    activations: "activation", "activation_backward";
    tables: "embed", "embed_backward";
    products: "linear";
    products_dx: "linear_dx";
    products_dw: "linear_dw";
    norms: "rms_norm", "rms_norm_backward", "add_rms_norm", "rope";
    attention: "attention";
    attention_backward: "attention_backward";
    losses: "cross_entropy_rows", "kl_rows", "compare_rows";
    heads: "head_cross_entropy", "head_kl", "head_compare";
    optimizer: "split", "join", "adamw", "adamw_split";
}

#[test]
fn every_operation_is_in_a_group() {
    let all: BTreeSet<&str> = cases().iter().map(|case| case.op.name()).collect();
    assert_eq!(all, GROUPED.iter().copied().collect());
}
