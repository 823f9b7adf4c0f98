//! Products with quantised weights: what becomes of the activations. Like llama.cpp, they are rounded to 8 bits in blocks of 32, so that the
//! products of a block are integers and their sum is exact; unlike there, the scale of a block of activations stays f32 (ggml keeps an f16).
use crate::{Error, Result};
use paring_tensor::{DType, block::LEN};

/// Blocks of activations whose largest magnitude is below this (2^-100) count as zeros: one over their scale would not be an f32.
pub const SMALLEST_BLOCK: f32 = 1.0 / (1u128 << 100) as f32;

/// A block of activations as `scale * q`: `scale = max |x| / 127`, `q = x * (127 / max |x|)` rounded to nearest, ties to even, every
/// operation in f32. Below [`SMALLEST_BLOCK`] all is zero; with a NaN or an infinity among `x` the scale is NaN, and so is every product.
pub fn round_block(x: &[f32; LEN]) -> (f32, [i8; LEN]) {
    // Without the sign, bits are ordered as numbers are, and NaN lies above all of them.
    let largest = x.iter().map(|x| x.to_bits() << 1 >> 1).fold(0, u32::max);
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (f32::NAN, [0; LEN])
    } else if largest < SMALLEST_BLOCK {
        (0.0, [0; LEN])
    } else {
        let inverse = 127.0 / largest;
        (largest / 127.0, x.map(|x| (x * inverse).round_ties_even() as i8))
    }
}

/// Quantised weights have products and no gradients: `dtype` has to be a type without blocks.
///
/// # Errors
/// [`Error::Unsupported`].
pub fn want_gradients(op: &'static str, dtype: DType) -> Result<()> {
    if dtype.is_quantised() {
        let what = format!("a gradient with {dtype} weights (load the model as f32 or bf16)");
        return Err(Error::Unsupported { op, what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_the_largest_is_127() {
        let x: [f32; LEN] = std::array::from_fn(|i| [254.0, -254.0, 1.0, -1.0, 3.0, 2.9, 0.0, -0.0][i % 8]);
        // A level is 2: 1 is half way to 0, 3 half way to 2.
        let want: [i8; LEN] = std::array::from_fn(|i| [127, -127, 0, 0, 2, 1, 0, 0][i % 8]);
        assert_eq!(round_block(&x), (2.0, want));
    }

    #[test]
    fn blocks_without_a_scale() {
        let block = |first: f32| std::array::from_fn(|i| if i == 3 { first } else { 0.0 });
        for x in [0.0, -0.0, 1e-45, -7e-31] {
            assert_eq!(round_block(&block(x)), (0.0, [0; LEN]), "{x}");
        }
        for x in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(round_block(&block(x)).0.is_nan(), "{x}");
        }
        for x in [SMALLEST_BLOCK, 1e-30, 1.0, f32::MAX] {
            let (scale, q) = round_block(&block(-x));
            assert_eq!((q[3], q[4]), (-127, 0), "{x}");
            // In f64: 127 times the scale of the largest f32 may round beyond it.
            let (back, x) = (f64::from(scale) * 127.0, f64::from(x));
            assert!(scale.is_normal() && (back - x).abs() <= x * 1e-6, "{x}: {scale}");
        }
    }
}
