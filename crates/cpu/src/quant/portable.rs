//! Tiles of products in plain Rust: what other processors run, and what the vectors are tested against.
use super::{Blocks, LEN, MOST, TOGETHER, activations::Rounded};
use half::f16;
use paring_tensor::DType;

/// See [`super::tile`].
pub(super) fn tile(sums: &mut [[f32; TOGETHER]; MOST], x: Rounded<'_>, rows: usize, w: Blocks<'_>, columns: usize) {
    for (r, sums) in sums.iter_mut().enumerate().take(rows) {
        for (c, sum) in sums.iter_mut().enumerate().take(columns) {
            let row = &w.bytes[c * w.row_bytes()..][..w.row_bytes()];
            let mut total = 0.0f32;
            for b in 0..w.row {
                let (scale, q) = x.block(r, b);
                total += scale * block(w.dtype, row, b, q);
            }
            *sum = total;
        }
    }
}

/// See [`super::row`].
pub(super) fn rows(y: &mut [f32], x: Rounded<'_>, w: Blocks<'_>) {
    for (c, y) in y.iter_mut().enumerate() {
        let mut sums = [[0.0; TOGETHER]; MOST];
        tile(&mut sums, x, 1, Blocks { bytes: &w.bytes[c * w.row_bytes()..], ..w }, 1);
        *y = sums[0][0];
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The product of block `b` of a row and 32 integers.
#[inline(always)]
fn block(dtype: DType, row: &[u8], b: usize, x: &[i8; LEN]) -> f32 {
    let bytes = dtype.block().1;
    let block = &row[b * bytes..][..bytes];
    let d = half_at(block, 0);
    let nibbles = |q: &[u8], offset: i32| -> i32 {
        let low = (0..16).map(|i| (i32::from(q[i] & 15) - offset) * i32::from(x[i])).sum::<i32>();
        low + (0..16).map(|i| (i32::from(q[i] >> 4) - offset) * i32::from(x[16 + i])).sum::<i32>()
    };
    match dtype {
        DType::Q4_0 => d * nibbles(&block[2..18], 8) as f32,
        DType::Q4_1 => {
            let sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
            d * nibbles(&block[4..20], 0) as f32 + half_at(block, 2) * sum as f32
        }
        _ => {
            let q = &block[2..34];
            d * (0..LEN).map(|i| i32::from(q[i] as i8) * i32::from(x[i])).sum::<i32>() as f32
        }
    }
}
