//! Products of few rows, as decoding has them: bound by reading the weight, which is read once, straight into registers.
use crate::{
    device::Device,
    driver::Address,
    grid::{THREADS, aligned, size},
    kernel::{Launch, arguments},
};
use paring_ops::Result;
use paring_tensor::DType;

arguments! {
    /// `y[t, n] = sum_k x[t, k] w[n, k]` for up to 8 or 16 rows t.
    pub(crate) struct Gemv in "gemv" for [
        "gemv_bf16_t8", "gemv_bf16_t16", "gemv_bf16_any", "gemv_f32_t1", "gemv_f32_t8", "gemv_f32_any",
    ] { w: Address, x: Address, y: Address, n: u32, k: u32, tokens: u32 }
}

/// The launch for `tokens` rows of x against `w[n, k]`, f32 or bf16; `None` when tiles of the general product do it better.
pub(crate) fn kernel(dtype: DType, w: Address, x: Address, tokens: usize, n: usize, k: usize) -> Option<Launch> {
    let per_piece = if dtype == DType::BF16 { 8 } else { 4 };
    let vector = k.is_multiple_of(per_piece) && aligned(&[(w, 16), (x, 16)]);
    // Rows of w of a block.
    let (entry, rows) = match (dtype, vector, tokens) {
        (DType::BF16, true, ..=8) => ("gemv_bf16_t8", 16),
        (DType::BF16, true, ..=16) => ("gemv_bf16_t16", 16),
        (DType::BF16, false, ..=8) => ("gemv_bf16_any", 8),
        (DType::F32, true, ..=1) => ("gemv_f32_t1", 8),
        (DType::F32, true, ..=8) => ("gemv_f32_t8", 8),
        (DType::F32, false, ..=8) => ("gemv_f32_any", 8),
        _ => return None,
    };
    Some(Launch::linear(entry, u32::try_from(n.div_ceil(rows)).unwrap_or(u32::MAX), THREADS))
}

/// Carries it out.
pub(crate) fn launch(
    device: &Device,
    op: &'static str,
    launch: Launch,
    [y, x, w]: [Address; 3],
    [tokens, n, k]: [usize; 3],
) -> Result<()> {
    device.launch(op, launch, Gemv { w, x, y, n: size(op, n)?, k: size(op, k)?, tokens: size(op, tokens)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_where_everything_is_aligned() {
        let entry =
            |dtype, at: u64, tokens, k| kernel(dtype, Address(at), Address(512), tokens, 100, k).map(|l| l.entry);
        assert_eq!(entry(DType::BF16, 256, 1, 64), Some("gemv_bf16_t8"));
        assert_eq!(entry(DType::BF16, 256, 9, 64), Some("gemv_bf16_t16"));
        assert_eq!(entry(DType::BF16, 256, 8, 60), Some("gemv_bf16_any"));
        assert_eq!(entry(DType::BF16, 264, 8, 64), Some("gemv_bf16_any"));
        assert_eq!(entry(DType::BF16, 256, 9, 60), None);
        assert_eq!(entry(DType::F32, 256, 1, 60), Some("gemv_f32_t1"));
        assert_eq!(entry(DType::F32, 256, 2, 62), Some("gemv_f32_any"));
        assert_eq!(entry(DType::F32, 256, 9, 64), None);
        let launch = kernel(DType::BF16, Address(0), Address(0), 1, 17, 8);
        assert_eq!(launch.map(|l| l.grid), Some([2, 1, 1]));
    }
}
