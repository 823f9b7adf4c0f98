//! Hardware may cut the sums of tensor cores, and return approximate functions two units off: results stay within the bounds that bf16
//! probabilities need anyway.
use crate::{
    problem::{Problem, TensorCores},
    sim::Sim,
};
use paring_ops::AttnSpec;
use paring_ptx_sim::Rounding;

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
        for rounding in
            [Rounding::Nearest, Rounding::TruncateAccumulate, Rounding::ApproxUp, Rounding::ApproxDown, Rounding::Mixed]
        {
            let mut run = TensorCores::new(&problem, Sim::rounding(rounding));
            let (forward, _) = run.forward();
            let (backward, _) = run.backward();
            problem.check(&format!("{rounding:?}"), &forward, Some(&backward));
        }
    }
}

#[test]
fn the_same_bits_every_time() {
    let problem = Problem::new(AttnSpec::packed(4, 2, 64, vec![0, 140]));
    let run = |rounding| {
        let mut run = TensorCores::new(&problem, Sim::rounding(rounding));
        let (forward, _) = run.forward();
        let (backward, _) = run.backward();
        [forward.y, forward.lse, backward.dq, backward.dk, backward.dv]
            .map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    assert!(run(Rounding::Nearest) == run(Rounding::Nearest));
    // The test can tell.
    assert!(run(Rounding::Nearest) != run(Rounding::ApproxUp));
}
