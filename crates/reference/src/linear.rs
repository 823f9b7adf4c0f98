//! Matrix products. Factors arrive as f64, after they were rounded to the type that the product computes in.
use crate::elementwise::put;
use paring_ops::Accum;

/// Sizes of `y = x w^T`: `y` is `[t, n]`, `x` `[t, k]`, `w` `[n, k]`.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    pub(crate) t: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// `y[t, n] = sum_k x[t, k] w[n, k]`.
pub(crate) fn linear(y: &mut [f32], x: &[f64], w: &[f64], dims: Dims) {
    let Dims { t: t_len, n: n_len, k: k_len } = dims;
    for t in 0..t_len {
        for n in 0..n_len {
            let sum: f64 = (0..k_len).map(|k| x[t * k_len + k] * w[n * k_len + k]).sum();
            y[t * n_len + n] = sum as f32;
        }
    }
}

/// `dx[t, k] (+)= sum_n dy[t, n] w[n, k]`, since `d y[t, n] / d x[t, k] = w[n, k]`.
pub(crate) fn linear_dx(dx: &mut [f32], accum: Accum, dy: &[f64], w: &[f64], dims: Dims) {
    let Dims { t: t_len, n: n_len, k: k_len } = dims;
    for t in 0..t_len {
        for k in 0..k_len {
            let sum: f64 = (0..n_len).map(|n| dy[t * n_len + n] * w[n * k_len + k]).sum();
            put(&mut dx[t * k_len + k], accum, sum);
        }
    }
}

/// `dw[n, k] += sum_t dy[t, n] x[t, k]`, since `d y[t, n] / d w[n, k] = x[t, k]`.
pub(crate) fn linear_dw(dw: &mut [f32], dy: &[f64], x: &[f64], dims: Dims) {
    let Dims { t: t_len, n: n_len, k: k_len } = dims;
    for n in 0..n_len {
        for k in 0..k_len {
            let sum: f64 = (0..t_len).map(|t| dy[t * n_len + n] * x[t * k_len + k]).sum();
            put(&mut dw[n * k_len + k], Accum::Add, sum);
        }
    }
}
