//! Functions of one number on the device, over their whole range.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#[path = "common/sim.rs"]
mod sim;

use paring_ptx_sim::Rounding;
use sim::{
    Sim,
    Value::{Pointer, U64},
};

const CHECKS: &str = include_str!("../../../kernels/ptx/checks.ptx");

fn values(entry: &str, rounding: Rounding, x: &[f32]) -> Vec<f32> {
    let mut sim = Sim::new();
    sim.options.rounding = rounding;
    sim.options.counters = false;
    let (from, to) = (sim.upload(x), sim.alloc(4 * x.len()));
    let blocks = x.len().div_ceil(256) as u32;
    let arguments = [Pointer(from), Pointer(to), U64(x.len() as u64)];
    sim.launch(CHECKS, entry, [blocks, 1, 1], [256, 1, 1], 0, &arguments);
    sim.download(to, x.len())
}

/// Every `step`-th f32 from zero to infinity, with both signs.
fn floats(step: usize) -> Vec<f32> {
    (0..=0x7f80_0000u32).step_by(step).flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]).collect()
}

const SPECIAL: [f32; 12] = [
    f32::NAN,
    -f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    -0.0,
    f32::MAX,
    f32::MIN,
    88.722_83, // the largest whose exponential is finite
    88.722_84,
    -87.336_55, // the exponential is subnormal beyond
    -103.972_08,
];

/// The distance in units of the last place of `want`, as f32 has it there.
fn ulps(got: f32, want: f64) -> f64 {
    let near = want as f32;
    if got == near || (got.is_nan() && near.is_nan()) {
        return 0.0;
    }
    let place = (f64::from(near.next_up()) - f64::from(near)).abs();
    (f64::from(got) - want).abs() / place
}

#[test]
fn exponentials_are_right_everywhere() {
    let mut x = floats(20_011);
    x.extend(SPECIAL);
    // Where the result is neither 0, 1 nor infinity.
    x.extend((-1040..=890).flat_map(|i| (0..50).map(move |j| i as f32 / 10.0 + j as f32 * 0.001_9)));
    // No approximate instruction takes part: the mode changes nothing.
    for rounding in [Rounding::Nearest, Rounding::ApproxDown] {
        let y = values("exp_values_f32", rounding, &x);
        let worst = x
            .iter()
            .zip(&y)
            .map(|(&x, &y)| (ulps(y, f64::from(x).exp()), x))
            .fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a });
        assert!(worst.0 <= 1.01, "{} ulp at {}", worst.0, worst.1);
    }
    let special = values("exp_values_f32", Rounding::Nearest, &SPECIAL);
    assert!(special[0].is_nan() && special[1].is_nan());
    assert_eq!(special[2..8], [f32::INFINITY, 0.0, 1.0, 1.0, f32::INFINITY, 0.0]);
    assert!(special[8].is_finite() && special[9].is_infinite() && special[10] > 0.0);
}

#[test]
fn sigmoids_are_right_until_they_vanish() {
    let mut x = floats(200_003);
    x.extend(SPECIAL);
    x.extend((-900..=200).flat_map(|i| (0..20).map(move |j| i as f32 / 10.0 + j as f32 * 0.004_9)));
    for rounding in [Rounding::Nearest, Rounding::ApproxUp, Rounding::ApproxDown] {
        let y = values("sigmoid_values_f32", rounding, &x);
        for (&x, &y) in x.iter().zip(&y) {
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            let near = (f64::from(y) - want).abs() <= 6e-7 * want + 1.2e-38;
            assert!(near || (x.is_nan() && y.is_nan()), "{x}: {y} {want} {rounding:?}");
        }
    }
}
