//! Non-linearities of MLPs, with and without a gate. [`Activation`] says where each comes from.
use paring_ops::Activation;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI, PI};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `erfc(x) = 2 / sqrt(pi) int_x^inf exp(-t^2) dt`, with a small relative error also where it is small.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        // erf(x) = 2 / sqrt(pi) exp(-x^2) sum_n 2^n x^(2n + 1) / (1 3 5 .. (2n + 1)) (DLMF 7.6.2): all terms positive.
        let mut term = x;
        let mut sum = x;
        for n in 1..100 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    // sqrt(pi) exp(x^2) erfc(x) = 1 / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ..)))) (DLMF 7.9.1), from the inside out.
    let fraction = (1..200).rev().fold(x, |inner, n| x + f64::from(n) / 2.0 / inner);
    (-x * x).exp() / (PI.sqrt() * fraction)
}

/// The normal distribution: `Phi(x) = (1 + erf(x / sqrt(2))) / 2 = erfc(-x / sqrt(2)) / 2`.
fn normal(x: f64) -> f64 {
    erfc(-x * FRAC_1_SQRT_2) / 2.0
}

/// Its density: `phi(x) = exp(-x^2 / 2) / sqrt(2 pi)`.
fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * PI).sqrt()
}

/// `u = sqrt(2 / pi) (x + 0.044715 x^3)` and `du / dx`.
fn gelu_tanh_argument(x: f64) -> (f64, f64) {
    (FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3)), FRAC_2_PI.sqrt() * (1.0 + 3.0 * 0.044715 * x.powi(2)))
}

/// `max(x, 0)`; NaN stays NaN.
fn positive(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// `act(x)`.
fn value(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * normal(x),
        // (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel.
        Activation::GeluTanh => x * sigmoid(2.0 * gelu_tanh_argument(x).0),
        Activation::Relu2 => positive(x).powi(2),
    }
}

/// `d act(x) / dx`. With `s = sigmoid(z)`, `ds/dz = s (1 - s)`.
fn slope(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Silu => sigmoid(x) + x * sigmoid(x) * sigmoid(-x),
        Activation::Gelu => normal(x) + x * density(x),
        Activation::GeluTanh => {
            let (u, du) = gelu_tanh_argument(x);
            sigmoid(2.0 * u) + x * sigmoid(2.0 * u) * sigmoid(-2.0 * u) * 2.0 * du
        }
        Activation::Relu2 => 2.0 * positive(x),
    }
}

/// `y = act(x)`.
pub(crate) fn activation(y: &mut [f32], act: Activation, x: &[f64]) {
    for i in 0..y.len() {
        y[i] = value(act, x[i]) as f32;
    }
}

/// `dx = dy act'(x)`.
pub(crate) fn activation_backward(dx: &mut [f32], act: Activation, dy: &[f64], x: &[f64]) {
    for i in 0..dx.len() {
        dx[i] = (dy[i] * slope(act, x[i])) as f32;
    }
}

/// `y = act(g) u` (Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202).
pub(crate) fn gated(y: &mut [f32], act: Activation, gate: &[f64], up: &[f64]) {
    for i in 0..y.len() {
        y[i] = (value(act, gate[i]) * up[i]) as f32;
    }
}

/// - `du = dy act(g)`
/// - `dg = dy u act'(g)`
pub(crate) fn gated_backward(
    dgate: &mut [f32],
    dup: &mut [f32],
    act: Activation,
    dy: &[f64],
    gate: &[f64],
    up: &[f64],
) {
    for i in 0..dy.len() {
        dup[i] = (dy[i] * value(act, gate[i])) as f32;
        dgate[i] = (dy[i] * up[i] * slope(act, gate[i])) as f32;
    }
}
