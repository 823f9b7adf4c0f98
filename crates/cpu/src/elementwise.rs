//! Operations on each element alone, AdamW among them; in pieces of a fixed size that threads share out.
use crate::{
    gemm::round_bf16,
    isa::{Isa, vectorised},
    pool::Threads,
};
use half::bf16;
use paring_ops::AdamWStep;

/// Elements of a piece: large enough to be worth a task, small enough for the cache.
pub(crate) const PIECE: usize = 1 << 14;

pub(crate) fn fill(threads: &Threads, y: &mut [f32], value: f32) {
    threads.pieces(PIECE, y, |_, y| y.fill(value));
}

vectorised! {
    fn bf16_piece(y: &mut [bf16], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = bf16::from_bits((round_bf16(x).to_bits() >> 16) as u16);
        }
    }
}

pub(crate) fn to_bf16(isa: Isa, threads: &Threads, y: &mut [bf16], x: &[f32]) {
    threads.pieces(PIECE, (y, x), |_, (y, x)| bf16_piece(isa, y, x));
}

vectorised! {
    fn add_piece(y: &mut [f32], a: &[f32], b: &[f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

pub(crate) fn add(isa: Isa, threads: &Threads, y: &mut [f32], a: &[f32], b: &[f32]) {
    threads.pieces(PIECE, (y, a, b), |_, (y, a, b)| add_piece(isa, y, a, b));
}

vectorised! {
    fn accumulate_piece(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

pub(crate) fn accumulate(isa: Isa, threads: &Threads, y: &mut [f32], add: bool, x: &[f32]) {
    threads.pieces(PIECE, (y, x), |_, (y, x)| {
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

pub(crate) fn scale(isa: Isa, threads: &Threads, y: &mut [f32], factor: f32) {
    threads.pieces(PIECE, y, |_, y| scale_piece(isa, y, factor));
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
pub(crate) fn sum_squares(isa: Isa, threads: &Threads, x: &[f32]) -> f64 {
    let piece = |i: usize| &x[i * PIECE..x.len().min((i + 1) * PIECE)];
    threads.map(x.len().div_ceil(PIECE), |i| sum_squares_piece(isa, piece(i))).iter().sum()
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

pub(crate) fn adamw(
    isa: Isa,
    threads: &Threads,
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    grad: &[f32],
    step: &AdamWStep,
) {
    threads.pieces(PIECE, (w, m, v, grad), |_, (w, m, v, grad)| adamw_piece(isa, w, m, v, grad, step));
}
