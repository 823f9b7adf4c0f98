//! Operations on each element alone, AdamW among them; in pieces of a fixed size that threads share out.
use crate::{
    exp::sigmoid,
    gemm::round_bf16,
    isa::{Isa, vectorised},
};
use half::bf16;
use paring_ops::AdamWStep;
use rayon::prelude::*;

/// Elements of a piece: large enough to be worth a task, small enough for the cache.
const PIECE: usize = 1 << 14;

pub(crate) fn fill(y: &mut [f32], value: f32) {
    y.par_chunks_mut(PIECE).for_each(|y| y.fill(value));
}

vectorised! {
    fn bf16_piece(y: &mut [bf16], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = bf16::from_bits((round_bf16(x).to_bits() >> 16) as u16);
        }
    }
}

pub(crate) fn to_bf16(isa: Isa, y: &mut [bf16], x: &[f32]) {
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| bf16_piece(isa, y, x));
}

vectorised! {
    fn add_piece(y: &mut [f32], a: &[f32], b: &[f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

pub(crate) fn add(isa: Isa, y: &mut [f32], a: &[f32], b: &[f32]) {
    y.par_chunks_mut(PIECE)
        .zip(a.par_chunks(PIECE))
        .zip(b.par_chunks(PIECE))
        .for_each(|((y, a), b)| add_piece(isa, y, a, b));
}

vectorised! {
    fn accumulate_piece(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

pub(crate) fn accumulate(isa: Isa, y: &mut [f32], add: bool, x: &[f32]) {
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| {
        if add {
            accumulate_piece(isa, y, x);
        } else {
            y.copy_from_slice(x);
        }
    });
}

vectorised! {
    fn scale_piece(y: &mut [f32], factor: f32) {
        y.iter_mut().for_each(|y| *y *= factor);
    }
}

pub(crate) fn scale(isa: Isa, y: &mut [f32], factor: f32) {
    y.par_chunks_mut(PIECE).for_each(|y| scale_piece(isa, y, factor));
}

vectorised! {
    fn sum_squares_piece(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (head, tail) = x.as_chunks::<8>();
        for x in head {
            for i in 0..8 {
                lanes[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        lanes.iter().sum::<f64>() + tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// Pieces are summed in their order, whoever made them.
pub(crate) fn sum_squares(isa: Isa, x: &[f32]) -> f64 {
    x.par_chunks(PIECE).map(|x| sum_squares_piece(isa, x)).collect::<Vec<f64>>().iter().sum()
}

vectorised! {
    fn swiglu_piece(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, &g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * sigmoid(g) * u;
        }
    }
}

pub(crate) fn swiglu(isa: Isa, y: &mut [f32], gate: &[f32], up: &[f32]) {
    let inputs = gate.par_chunks(PIECE).zip(up.par_chunks(PIECE));
    y.par_chunks_mut(PIECE).zip(inputs).for_each(|(y, (gate, up))| swiglu_piece(isa, y, gate, up));
}

vectorised! {
    fn swiglu_backward_piece(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
        // silu'(g) = s + g s (1 - s) with s = sigmoid(g).
        for ((((dg, du), &dy), &g), &u) in dgate.iter_mut().zip(dup).zip(dy).zip(gate).zip(up) {
            let s = sigmoid(g);
            *du = dy * g * s;
            *dg = dy * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

pub(crate) fn swiglu_backward(isa: Isa, dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
    let inputs = dy.par_chunks(PIECE).zip(gate.par_chunks(PIECE)).zip(up.par_chunks(PIECE));
    dgate
        .par_chunks_mut(PIECE)
        .zip(dup.par_chunks_mut(PIECE))
        .zip(inputs)
        .for_each(|((dgate, dup), ((dy, gate), up))| swiglu_backward_piece(isa, dgate, dup, dy, gate, up));
}

vectorised! {
    // The same formula, in the same order, as `paring_optim::adamw_update`.
    fn adamw_piece(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], step: &AdamWStep) {
        let decay = 1.0 - step.lr * step.weight_decay;
        let size = step.lr / step.bias1;
        for (((w, m), v), &grad) in w.iter_mut().zip(m).zip(v).zip(grad) {
            let grad = grad * step.grad_scale;
            *m = step.beta1 * *m + (1.0 - step.beta1) * grad;
            *v = step.beta2 * *v + (1.0 - step.beta2) * grad * grad;
            let denominator = v.sqrt() / step.bias2_sqrt + step.eps;
            *w = *w * decay - size * *m / denominator;
        }
    }
}

pub(crate) fn adamw(isa: Isa, w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], step: &AdamWStep) {
    w.par_chunks_mut(PIECE)
        .zip(m.par_chunks_mut(PIECE))
        .zip(v.par_chunks_mut(PIECE))
        .zip(grad.par_chunks(PIECE))
        .for_each(|(((w, m), v), grad)| adamw_piece(isa, w, m, v, grad, step));
}
