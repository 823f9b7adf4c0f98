//! Operations and bytes of a shape, beside its parameters: what budgets of memory and speed are counted in. The formulas are held against
//! the table of parameters in the tests of `paring-search`.
use crate::{Dims, count_params};

/// Floating-point operations of one token's forward, a multiply-add as two: twice the matrices, the head among them, and attention over
/// `context` keys, on average half of them seen: `2 (L (2 H Nq d + 2 H Nkv d + 3 H F) + V H) + 2 L Nq d context`.
pub fn flops_per_token(dims: &Dims, context: usize) -> f64 {
    let [l, h, f, q, kv, d, v] =
        [dims.layers, dims.hidden, dims.ffn, dims.heads, dims.kv_groups, dims.head_dim, dims.vocab].map(|n| n as f64);
    let layer = 2.0 * h * q * d + 2.0 * h * kv * d + 3.0 * h * f;
    2.0 * (l * layer + v * h) + 2.0 * l * q * d * context as f64
}

/// Bytes of keys and values of one sequence of `context` tokens, `bytes` for each number: `2 L Nkv d context bytes`. Saturates.
pub fn kv_bytes(dims: &Dims, context: usize, bytes: usize) -> u64 {
    let n = [2, dims.layers, dims.kv_groups, dims.head_dim, context, bytes];
    n.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64)).unwrap_or(u64::MAX)
}

/// Bytes of the weights: matrices with `bytes` for each number, gains of norms in f32. Saturates.
pub fn weight_bytes(dims: &Dims, bytes: usize) -> u64 {
    let gains = (2 * dims.layers as u64 + 1) * dims.hidden as u64;
    let matrices = count_params(dims).total.saturating_sub(gains);
    matrices.saturating_mul(bytes as u64).saturating_add(4 * gains)
}
