//! What `conformance.rs` does not ask of the operations that are bound by memory: pointers that are aligned to an element only, rows too long
//! for shared memory, blocks, bits, ties, inexact instructions, and LayerNorm and sums for calibration, which its table has not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod bits; // results that are right to the last bit
#[path = "../common/mod.rs"]
mod common;
mod layer_norm;
mod losses; // ties, and how inexact instructions round
#[path = "../common/odd.rs"]
mod odd;
mod statistics;
mod table; // more of conformance

use paring_tensor::Shape;

pub(crate) fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).unwrap()
}

/// `n` numbers between -1 and 1, always the same for a seed.
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}
