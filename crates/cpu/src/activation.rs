//! Activations of MLPs, with and without a gate: bound by memory, so each element is read once and everything is computed on the way.
use crate::{
    elementwise::PIECE,
    exp::{normal, sigmoid},
    isa::{Isa, vectorised},
    pool::Threads,
};
use paring_ops::Activation;

/// Twice the constants of the approximation: `(1 + tanh(u)) / 2 = sigmoid(2 u)`, `2 u = A (x + B x^3)` with `A = 2 sqrt(2 / pi)`.
const GELU_A: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
const GELU_B: f32 = 0.044715;

/// `act(x)` and its derivative; what is not used of them the compiler leaves out.
trait Function {
    fn at<const FUSED: bool>(x: f32) -> (f32, f32);
}

struct Silu;
struct Gelu;
struct GeluTanh;
struct Relu2;

impl Function for Silu {
    #[inline(always)]
    fn at<const FUSED: bool>(x: f32) -> (f32, f32) {
        let s = sigmoid::<FUSED>(x);
        (x * s, s * (1.0 + x * (1.0 - s)))
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn at<const FUSED: bool>(x: f32) -> (f32, f32) {
        let (distribution, density) = normal::<FUSED>(x);
        (x * distribution, distribution + x * density)
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn at<const FUSED: bool>(x: f32) -> (f32, f32) {
        // Beyond 12 the sigmoid is 0 or 1, and a cube of x might overflow.
        let c = if x > 12.0 { 12.0 } else { x };
        let c = if c < -12.0 { -12.0 } else { c };
        let s = sigmoid::<FUSED>(GELU_A * (c + GELU_B * c * c * c));
        let slope = GELU_A * (1.0 + 3.0 * GELU_B * c * c);
        (x * s, s * (1.0 + c * slope * (1.0 - s)))
    }
}

impl Function for Relu2 {
    #[inline(always)]
    fn at<const FUSED: bool>(x: f32) -> (f32, f32) {
        // NaN stays NaN.
        let x = if x < 0.0 { 0.0 } else { x };
        (x * x, 2.0 * x)
    }
}

#[inline(always)]
fn plain_loop<F: Function, const FUSED: bool>(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = F::at::<FUSED>(x).0;
    }
}

#[inline(always)]
fn plain_backward_loop<F: Function, const FUSED: bool>(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    for ((dx, dy), &x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = dy * F::at::<FUSED>(x).1;
    }
}

#[inline(always)]
fn gated_loop<F: Function, const FUSED: bool>(y: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((y, &g), u) in y.iter_mut().zip(gate).zip(up) {
        *y = F::at::<FUSED>(g).0 * u;
    }
}

#[inline(always)]
fn gated_backward_loop<F: Function, const FUSED: bool>(
    dgate: &mut [f32],
    dup: &mut [f32],
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
) {
    for ((((dg, du), dy), &g), u) in dgate.iter_mut().zip(dup).zip(dy).zip(gate).zip(up) {
        let (value, slope) = F::at::<FUSED>(g);
        *du = dy * value;
        *dg = dy * u * slope;
    }
}

vectorised! {
    fn plain_piece(y: &mut [f32], act: Activation, x: &[f32]) {
        match act {
            Activation::Silu => plain_loop::<Silu, FUSED>(y, x),
            Activation::Gelu => plain_loop::<Gelu, FUSED>(y, x),
            Activation::GeluTanh => plain_loop::<GeluTanh, FUSED>(y, x),
            Activation::Relu2 => plain_loop::<Relu2, FUSED>(y, x),
        }
    }
}

vectorised! {
    fn plain_backward_piece(dx: &mut [f32], act: Activation, dy: &[f32], x: &[f32]) {
        match act {
            Activation::Silu => plain_backward_loop::<Silu, FUSED>(dx, dy, x),
            Activation::Gelu => plain_backward_loop::<Gelu, FUSED>(dx, dy, x),
            Activation::GeluTanh => plain_backward_loop::<GeluTanh, FUSED>(dx, dy, x),
            Activation::Relu2 => plain_backward_loop::<Relu2, FUSED>(dx, dy, x),
        }
    }
}

vectorised! {
    fn gated_piece(y: &mut [f32], act: Activation, gate: &[f32], up: &[f32]) {
        match act {
            Activation::Silu => gated_loop::<Silu, FUSED>(y, gate, up),
            Activation::Gelu => gated_loop::<Gelu, FUSED>(y, gate, up),
            Activation::GeluTanh => gated_loop::<GeluTanh, FUSED>(y, gate, up),
            Activation::Relu2 => gated_loop::<Relu2, FUSED>(y, gate, up),
        }
    }
}

vectorised! {
    fn gated_backward_piece(dgate: &mut [f32], dup: &mut [f32], act: Activation, dy: &[f32], gate: &[f32], up: &[f32]) {
        match act {
            Activation::Silu => gated_backward_loop::<Silu, FUSED>(dgate, dup, dy, gate, up),
            Activation::Gelu => gated_backward_loop::<Gelu, FUSED>(dgate, dup, dy, gate, up),
            Activation::GeluTanh => gated_backward_loop::<GeluTanh, FUSED>(dgate, dup, dy, gate, up),
            Activation::Relu2 => gated_backward_loop::<Relu2, FUSED>(dgate, dup, dy, gate, up),
        }
    }
}

pub(crate) fn activation(isa: Isa, threads: &Threads, y: &mut [f32], act: Activation, x: &[f32]) {
    threads.pieces(PIECE, (y, x), |_, (y, x)| plain_piece(isa, y, act, x));
}

pub(crate) fn activation_backward(isa: Isa, threads: &Threads, dx: &mut [f32], act: Activation, dy: &[f32], x: &[f32]) {
    threads.pieces(PIECE, (dx, dy, x), |_, (dx, dy, x)| plain_backward_piece(isa, dx, act, dy, x));
}

pub(crate) fn gated(isa: Isa, threads: &Threads, y: &mut [f32], act: Activation, gate: &[f32], up: &[f32]) {
    threads.pieces(PIECE, (y, gate, up), |_, (y, gate, up)| gated_piece(isa, y, act, gate, up));
}

pub(crate) fn gated_backward(
    isa: Isa,
    threads: &Threads,
    dgate: &mut [f32],
    dup: &mut [f32],
    act: Activation,
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
) {
    threads.pieces(PIECE, (dgate, dup, dy, gate, up), |_, (dgate, dup, dy, gate, up)| {
        gated_backward_piece(isa, dgate, dup, act, dy, gate, up);
    });
}
