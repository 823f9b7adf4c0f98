//! Matrix products. Factors arrive as f64, after they were rounded to the type that the product computes in: beside quantised weights that
//! is `scale * q` for activations, and what the blocks say for weights, so that a block's products, two scales times integers, are exact.
use crate::elementwise::put;
use paring_ops::{Accum, Error, Result, round_block};
use paring_tensor::{DType, HostBuffer, Tensor, block};

/// Activations rounded to 8 bits in blocks, as f64; a last part of a block, which no product has, is left out.
pub(crate) fn rounded_to_int8(x: &[f32]) -> Vec<f64> {
    let block = |x: &[f32; block::LEN]| {
        let (scale, q) = round_block(x);
        q.map(|q| f64::from(scale) * f64::from(q))
    };
    x.as_chunks().0.iter().flat_map(block).collect()
}

/// A weight of any type as f64: not rounded to f32 on the way, as `d * q + m` of Q4_1 is.
pub(crate) fn weight(op: &'static str, w: &Tensor) -> Result<Vec<f64>> {
    let error = Error::in_op(op);
    if w.dtype() != DType::Q4_1 {
        return Ok(HostBuffer::gather_f32(w).map_err(error)?.into_iter().map(f64::from).collect());
    }
    let bytes = HostBuffer::tensor_bytes(w).map_err(error)?;
    let exact = |b: &[u8; 20]| {
        let (d, m, q) = block::parts_q4_1(b);
        q.map(|q| f64::from(d) * f64::from(q) + f64::from(m))
    };
    Ok(bytes.as_chunks().0.iter().flat_map(exact).collect())
}

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
