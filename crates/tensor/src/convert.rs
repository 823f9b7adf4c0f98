//! Conversions between f32 and the short floats: round to nearest, ties to even, NaN kept a NaN (IEEE 754, section 4.3.1).
use crate::DType;
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// `values` as bytes of `dtype`.
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
    }
}

/// Little-endian bytes of `dtype` as f32. Any alignment; a trailing part of an element is dropped.
pub fn to_f32(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        DType::BF16 => bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        DType::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
    }
}

/// The value of `dtype` nearest to `x`.
pub fn round_to(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => x,
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
