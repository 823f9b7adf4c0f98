//! Hardware may cut the sums of tensor cores, and return approximate functions two units off: results stay within the bounds that bf16
//! probabilities need anyway.
use crate::{
    problem::{Problem, TensorCores, distance},
    sim::Sim,
};
use paring_ops::AttnSpec;
use paring_ptx_sim::Rounding;

/// Of y: probabilities are rounded by 2^-9 at most, all in one direction at worst.
const FORWARD: f64 = 1.0 / 512.0;
/// Of gradients: ds and p are rounded, and the sums of many of either sign are compared with the largest of them.
const BACKWARD: f64 = 1.0 / 256.0;

fn specs() -> [AttnSpec; 6] {
    let one = |heads, kv_heads, h, t| AttnSpec::packed(heads, kv_heads, h, vec![0, t]);
    [
        one(2, 1, 64, 130),
        one(1, 1, 128, 65),
        one(3, 1, 80, 33),
        one(1, 1, 96, 129),
        AttnSpec { window: Some(40), softcap: Some(3.0), ..one(2, 1, 64, 100) },
        AttnSpec { softcap: Some(50.0), ..one(1, 1, 20, 70) },
    ]
}

#[test]
fn results_do_not_lean_on_how_the_simulator_rounds() {
    for spec in specs() {
        let problem = Problem::new(spec.clone());
        let want = problem.reference();
        let want_backward = problem.reference_backward(&want);
        for rounding in [Rounding::Nearest, Rounding::TruncateAccumulate, Rounding::ApproxUp, Rounding::ApproxDown] {
            let what = format!("{rounding:?}, {spec:?}");
            let mut run = TensorCores::new(&problem, Sim::new(rounding));
            let (got, _) = run.forward();
            assert!(distance(&got.y, &want.y) < FORWARD, "y, {what}: {:e}", distance(&got.y, &want.y));
            assert!(distance(&got.lse, &want.lse) < 2e-6, "lse, {what}: {:e}", distance(&got.lse, &want.lse));
            let (got, _) = run.backward();
            let parts = [
                ("dq", &got.dq, &want_backward.dq),
                ("dk", &got.dk, &want_backward.dk),
                ("dv", &got.dv, &want_backward.dv),
            ];
            for (name, got, want) in parts {
                assert!(distance(got, want) < BACKWARD, "{name}, {what}: {:e}", distance(got, want));
            }
        }
    }
}

#[test]
fn the_same_bits_every_time() {
    let problem = Problem::new(AttnSpec::packed(4, 2, 64, vec![0, 140]));
    let run = |rounding| {
        let mut run = TensorCores::new(&problem, Sim::new(rounding));
        let (forward, _) = run.forward();
        let (backward, _) = run.backward();
        [forward.y, forward.lse, backward.dq, backward.dk, backward.dv]
            .map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    assert!(run(Rounding::Nearest) == run(Rounding::Nearest));
    // The test can tell.
    assert!(run(Rounding::Nearest) != run(Rounding::ApproxUp));
}
