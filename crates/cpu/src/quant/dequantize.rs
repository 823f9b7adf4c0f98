//! Blocks to f32: rows of an embedding.
use super::{LEN, Q4_0, Q4_1, Q8_0, format};
use crate::isa::{Isa, vectorised};
use paring_tensor::{
    DType,
    block::{dequantize_q4_0, dequantize_q4_1, dequantize_q8_0},
};

/// The numbers in `blocks`, to the bit what `paring_tensor::to_f32` makes of them.
///
/// # Panics
/// If `dtype` has no blocks, or the sizes differ.
pub(crate) fn dequantize_into(isa: Isa, dtype: DType, blocks: &[u8], out: &mut [f32]) {
    assert!(dtype.is_quantised() && blocks.len() == dtype.bytes(out.len()), "blocks are not of the output's size");
    match format(dtype) {
        Q8_0 => q8_0(isa, blocks, out),
        Q4_0 => q4_0(isa, blocks, out),
        Q4_1 => q4_1(isa, blocks, out),
        _ => {}
    }
}

macro_rules! each {
    ($name:ident, $block:ident, $doc:literal) => {
        vectorised! {
            #[doc = $doc]
            fn $name(blocks: &[u8], out: &mut [f32]) {
                for (out, block) in out.as_chunks_mut::<LEN>().0.iter_mut().zip(blocks.as_chunks().0) {
                    *out = $block(block);
                }
            }
        }
    };
}

each!(q8_0, dequantize_q8_0, "`d * q`.");
each!(q4_0, dequantize_q4_0, "`d * (q - 8)`.");
each!(q4_1, dequantize_q4_1, "`d * q + m`.");
