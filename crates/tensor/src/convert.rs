//! Conversions between f32 and the other types. Short floats: round to nearest, ties to even, NaN kept a NaN (IEEE 754, section 4.3.1).
//! Blocks: see [`crate::block`].
use crate::{DType, block};
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// `values` as bytes of `dtype`. Of a type with blocks, a last block that `values` do not fill is filled with zeros.
pub fn from_f32(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::BF16 => {
            let mut out = vec![bf16::ZERO; values.len()];
            out.convert_from_f32_slice(values);
            bytemuck::cast_slice(&out).to_vec()
        }
        DType::F16 => {
            let mut out = vec![f16::ZERO; values.len()];
            out.convert_from_f32_slice(values);
            bytemuck::cast_slice(&out).to_vec()
        }
        DType::Q8_0 => quantized(values, block::quantize_q8_0),
        DType::Q4_0 => quantized(values, block::quantize_q4_0),
        DType::Q4_1 => quantized(values, block::quantize_q4_1),
    }
}

/// Little-endian bytes of `dtype` as f32. Any alignment; a trailing part of an element or block is dropped.
pub fn to_f32(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        DType::BF16 => bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        DType::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        DType::Q8_0 => dequantized(bytes, block::dequantize_q8_0),
        DType::Q4_0 => dequantized(bytes, block::dequantize_q4_0),
        DType::Q4_1 => dequantized(bytes, block::dequantize_q4_1),
    }
}

fn quantized<const N: usize>(values: &[f32], quantize: fn(&[f32; block::LEN]) -> [u8; N]) -> Vec<u8> {
    let (blocks, rest) = values.as_chunks();
    let mut out = Vec::with_capacity(values.len().div_ceil(block::LEN) * N);
    blocks.iter().for_each(|x| out.extend_from_slice(&quantize(x)));
    if !rest.is_empty() {
        let mut last = [0.0; block::LEN];
        last[..rest.len()].copy_from_slice(rest);
        out.extend_from_slice(&quantize(&last));
    }
    out
}

fn dequantized<const N: usize>(bytes: &[u8], dequantize: fn(&[u8; N]) -> [f32; block::LEN]) -> Vec<f32> {
    bytes.as_chunks().0.iter().flat_map(dequantize).collect()
}

/// The value of `dtype` nearest to `x`. In a type with blocks no number has a nearest one of its own: there it is `x` itself.
pub fn round_to(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 | DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => x,
        DType::BF16 => bf16::from_f32(x).to_f32(),
        DType::F16 => f16::from_f32(x).to_f32(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_even_and_specials_stay_special() {
        // 1 + 2^-8 lies half way between two bf16 values: the even one is 1.
        assert_eq!(round_to(1.0 + 1.0 / 256.0, DType::BF16), 1.0);
        assert_eq!(round_to(1.0 + 3.0 / 256.0, DType::BF16), 1.0 + 4.0 / 256.0);
        assert_eq!(round_to(f32::MAX, DType::BF16), f32::INFINITY);
        assert!(round_to(f32::NAN, DType::BF16).is_nan() && round_to(f32::NAN, DType::F16).is_nan());
    }

    #[test]
    fn blocks_are_filled_up_with_zeros_and_parts_of_them_dropped() {
        let values: Vec<f32> = (0..40u8).map(f32::from).collect();
        for dtype in DType::QUANTISED {
            let bytes = from_f32(&values, dtype);
            assert_eq!(bytes.len(), dtype.bytes(40));
            assert_eq!(bytes.len(), 2 * dtype.block().1);
            let mut padded = values.clone();
            padded.resize(64, 0.0);
            assert_eq!(bytes, from_f32(&padded, dtype));
            let back = to_f32(&bytes, dtype);
            assert_eq!(back.len(), 64);
            assert!(padded.iter().zip(&back).all(|(x, y)| (x - y).abs() <= 39.0 / 8.0), "{dtype}: {back:?}");
            assert_eq!(to_f32(&bytes[..bytes.len() - 1], dtype), back[..32]);
        }
    }

    proptest! {
        #[test]
        fn slices_agree_with_single_values(values in proptest::collection::vec(-1e6f32..1e6, 0..40)) {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let one_by_one: Vec<f32> = values.iter().map(|&x| round_to(x, dtype)).collect();
                prop_assert_eq!(to_f32(&from_f32(&values, dtype), dtype), one_by_one);
            }
        }
    }
}
