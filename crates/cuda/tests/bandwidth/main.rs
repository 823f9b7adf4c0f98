//! What `conformance.rs` does not ask of the operations that are bound by memory: pointers that are aligned to an element only, rows too long
//! for shared memory, blocks, bits, ties, inexact instructions, and LayerNorm and sums for calibration, which its table has not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod bits; // results that are right to the last bit
mod blocks; // of 8 and 4 bits
#[path = "../common/mod.rs"]
mod common;
mod layer_norm;
mod losses; // ties, and how inexact instructions round
#[path = "../common/numbers.rs"]
mod numbers;
#[path = "../common/odd.rs"]
mod odd;
mod order; // sums in the order that they have
mod patterns; // every pattern of bits
#[path = "../common/sim.rs"]
mod sim;
mod statistics;
mod table; // more of conformance
mod updates; // weights in halves, AdamW

pub(crate) use numbers::numbers;
use paring_tensor::Shape;

pub(crate) fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).unwrap()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}
