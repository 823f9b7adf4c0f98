//! The table of `paring-conformance` on the CUDA backend, a test a group of operations so that they run side by side, and a test that they
//! are all there.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use paring_conformance::{Case, Failure, cases, check, check_refusals};
use std::{collections::BTreeSet, time::Instant};

/// Failures after which a test stops: what is wrong is known by then.
const MOST_FAILURES: usize = 3;

/// Checks the cases of some operations, and says how long it took and which were slowest.
fn group(names: &[&str], part: Option<(usize, usize)>) {
    let opened = common::open();
    let start = Instant::now();
    let mut times: Vec<(f64, String)> = Vec::new();
    let mut failures = Vec::new();
    let wanted = cases().into_iter().filter(|case| names.contains(&case.op.name())).enumerate();
    let wanted = wanted.filter(|(i, _)| part.is_none_or(|(at, of)| i % of == at));
    for (_, case) in wanted {
        let began = Instant::now();
        if let Err(failure) = check(&opened.cuda, &case) {
            failures.push(failure.to_string());
        }
        times.push((began.elapsed().as_secs_f64(), case.to_string()));
        if failures.len() == MOST_FAILURES {
            break;
        }
    }
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("{names:?}: {} cases in {:.1} s", times.len(), start.elapsed().as_secs_f64());
    for (seconds, case) in times.iter().take(3) {
        println!("  {seconds:.1} s: {case}");
    }
    assert!(failures.is_empty(), "{} failures of {}\n{}", failures.len(), times.len(), failures.join("\n"));
    opened.clean();
}

macro_rules! groups {
    ($($test:ident: [$($name:literal),+] $(part $at:literal of $of:literal)?;)+) => {
        $(#[test]
        fn $test() {
            let part: &[(usize, usize)] = &[$(($at, $of))?];
            group(&[$($name),+], part.first().copied());
        })+

        /// Operations, and which part of their cases.
        const GROUPS: &[(&[&str], &[(usize, usize)])] = &[$((&[$($name),+], &[$(($at, $of))?])),+];
    };
}

groups! {
    memory: ["alloc", "zeros", "upload", "upload_bytes", "convert", "fill", "write_rows"];
    sums: ["add", "accumulate", "scale", "sum_squares"];
    gated: ["gated", "gated_backward"];
    activations: ["activation", "activation_backward"];
    tables: ["embed", "embed_backward"];
    products: ["linear"] part 0 of 2;
    more_products: ["linear"] part 1 of 2;
    products_dx: ["linear_dx"];
    products_dw: ["linear_dw"];
    norms: ["rms_norm", "rms_norm_backward", "add_rms_norm", "rope"];
    attention: ["attention"] part 0 of 3;
    more_attention: ["attention"] part 1 of 3;
    most_attention: ["attention"] part 2 of 3;
    attention_backward_0: ["attention_backward"] part 0 of 6;
    attention_backward_1: ["attention_backward"] part 1 of 6;
    attention_backward_2: ["attention_backward"] part 2 of 6;
    attention_backward_3: ["attention_backward"] part 3 of 6;
    attention_backward_4: ["attention_backward"] part 4 of 6;
    attention_backward_5: ["attention_backward"] part 5 of 6;
    losses: ["cross_entropy_rows", "kl_rows", "compare_rows"];
    heads: ["head_cross_entropy", "head_kl", "head_compare"];
    optimizer: ["split", "join", "adamw", "adamw_split"];
}

/// No operation is left out, and none of the parts of one.
#[test]
fn every_operation_is_in_a_group() {
    let all: BTreeSet<&str> = cases().iter().map(|case: &Case| case.op.name()).collect();
    let grouped: BTreeSet<&str> = GROUPS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    assert_eq!(all, grouped);
    for name in all {
        let parts: Vec<(usize, usize)> = GROUPS
            .iter()
            .filter(|(names, _)| names.contains(&name))
            .flat_map(|(_, part)| part.iter().copied())
            .collect();
        let of = parts.first().map_or(0, |p| p.1);
        assert!(parts.len() == of && (0..of).all(|at| parts.contains(&(at, of))), "{name}: {parts:?}");
    }
}

#[test]
fn calls_that_have_to_be_refused() {
    let opened = common::open();
    let failures: Vec<String> = check_refusals(&opened.cuda).iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    opened.clean();
}
