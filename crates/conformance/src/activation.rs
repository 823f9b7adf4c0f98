//! Sizes (`size.rs`) of the activations of MLPs: of each the terms that its usual formula adds, and what their own rounding makes of it.
use crate::{call::Call, size::UNDERFLOW};
use paring_ops::Activation;
use std::f64::consts::{FRAC_2_PI, PI};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Sizes of `act(x)` and of its derivative.
fn sizes(act: Activation, x: f64) -> (f64, f64) {
    let size = x.abs();
    // Of `x sigmoid(z)` with `z` a sum of terms of one sign, of which `slope` is the derivative: a relative error of z is one of
    // `|z| (1 - s)` of s. And 1 - s has the rounding of s, which is 1 in f32 from 17 on.
    let of_sigmoid = |z: f64, slope: f64| {
        let s = sigmoid(z);
        let (steep, z_error) = ((x * slope).abs(), 1.0 + z.abs() * (1.0 - s));
        let derivative = s * (z_error + steep * (1.0 - s) * (1.0 + z.abs()) + steep.min(17.0) / 8.0);
        (size * (s * z_error + UNDERFLOW), derivative + (1.0 + steep) * UNDERFLOW)
    };
    match act {
        // z is x itself: there is no error in it.
        Activation::Silu => {
            let s = sigmoid(x);
            let derivative = s * (1.0 + size * (1.0 - s) + size.min(17.0) / 8.0);
            (size * (s + UNDERFLOW), derivative + (1.0 + size) * UNDERFLOW)
        }
        Activation::GeluTanh => {
            let scale = 2.0 * FRAC_2_PI.sqrt();
            of_sigmoid(scale * (x + 0.044715 * x.powi(3)), scale * (1.0 + 3.0 * 0.044715 * x.powi(2)))
        }
        // The tail of a normal distribution goes like exp(-x^2 / 2), which takes the error of its argument.
        Activation::Gelu => {
            let argument = 1.0 + x * x / 2.0;
            let tail = normal_tail(size) * argument;
            let normal = if x < 0.0 { tail } else { 1.0 };
            let density = (-x * x / 2.0).exp() / (2.0 * PI).sqrt() * argument;
            (size * (normal + UNDERFLOW), normal + size * density + (1.0 + size) * UNDERFLOW)
        }
        Activation::Relu2 => (x.max(0.0).powi(2), 2.0 * x.max(0.0)),
    }
}

/// Komatsu's bound of `1 - Phi(x)` from above, for `x >= 0`; from below it is this with `sqrt(x^2 + 4)`.
fn normal_tail(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * PI).sqrt() * 2.0 / (x + (x * x + 2.0).sqrt())
}

pub(crate) fn activation(call: &Call, act: Activation) -> Vec<f64> {
    call.input(0).iter().map(|&x| sizes(act, x).0).collect()
}

pub(crate) fn activation_backward(call: &Call, act: Activation) -> Vec<f64> {
    let (dy, x) = (call.input(0), call.input(1));
    dy.iter().zip(&x).map(|(dy, &x)| dy.abs() * sizes(act, x).1).collect()
}

pub(crate) fn gated(call: &Call, act: Activation) -> Vec<f64> {
    let (gate, up) = (call.input(0), call.input(1));
    gate.iter().zip(&up).map(|(&g, u)| u.abs() * sizes(act, g).0).collect()
}

/// Of dgate, then of dup.
pub(crate) fn gated_backward(call: &Call, act: Activation) -> Vec<Vec<f64>> {
    let (dy, gate, up) = (call.input(0), call.input(1), call.input(2));
    let dgate = |i: usize| (dy[i] * up[i]).abs() * sizes(act, gate[i]).1;
    let dup = |i: usize| dy[i].abs() * sizes(act, gate[i]).0;
    vec![(0..dy.len()).map(dgate).collect(), (0..dy.len()).map(dup).collect()]
}
