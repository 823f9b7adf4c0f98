//! The blocks of 32 numbers in ggml's quantised types, one function each way.
//!
//! The values are ggml's own, bit for bit: f32 arithmetic in the order of `quantize_row_*_ref` and `dequantize_row_*` of ggml-quants.c.
//! Undoing a quantisation is exact, because an f16 times a small integer has at most 18 significant bits (and the sum that Q4_1 needs
//! is rounded once, fused or not). Scales are little-endian f16; in the 4-bit types the low halves of the bytes are elements 0 to 15,
//! the high halves 16 to 31.
//!
//! ```
//! use paring_tensor::block::{dequantize_q8_0, quantize_q8_0};
//! let x: [f32; 32] = std::array::from_fn(|i| i as f32);
//! let y = dequantize_q8_0(&quantize_q8_0(&x));
//! // Half a level, and what 127 levels lose by a scale of 11 bits.
//! assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= (0.5 + 127.0 / 2048.0) * 31.0 / 127.0));
//! ```
use half::f16;

/// Elements of a block.
pub const LEN: usize = 32;

/// `d * q`: f16 scale, 32 signed bytes.
pub fn dequantize_q8_0(block: &[u8; 34]) -> [f32; LEN] {
    let d = half_at(block, 0);
    std::array::from_fn(|i| d * f32::from(block[2 + i] as i8))
}

/// The largest magnitude becomes 127; ties round away from zero.
pub fn quantize_q8_0(x: &[f32; LEN]) -> [u8; 34] {
    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = largest / 127.0;
    let inverse = inverse(d);
    let mut block = [0; 34];
    put_half(&mut block, 0, d);
    for (q, v) in block[2..].iter_mut().zip(x) {
        *q = (v * inverse).round() as i8 as u8;
    }
    block
}

/// `d * (q - 8)`: f16 scale, 32 halves of bytes.
pub fn dequantize_q4_0(block: &[u8; 18]) -> [f32; LEN] {
    let d = half_at(block, 0);
    nibbles(&block[2..]).map(|q| d * (f32::from(q) - 8.0))
}

/// The element of the largest magnitude becomes -8, which 4 bits have and 8 they have not: its sign is the negated scale's.
pub fn quantize_q4_0(x: &[f32; LEN]) -> [u8; 18] {
    let mut extreme = 0.0f32;
    for &v in x {
        if extreme.abs() < v.abs() {
            extreme = v;
        }
    }
    let d = extreme / -8.0;
    let inverse = inverse(d);
    let mut block = [0; 18];
    put_half(&mut block, 0, d);
    put_nibbles(&mut block[2..], x, |v| v * inverse + 8.5);
    block
}

/// `d * q + m`: f16 scale, f16 minimum, 32 halves of bytes.
pub fn dequantize_q4_1(block: &[u8; 20]) -> [f32; LEN] {
    let (d, m, q) = parts_q4_1(block);
    q.map(|q| d * f32::from(q) + m)
}

/// `d`, `m` and `q` of a block: for who needs `d * q + m` unrounded.
pub fn parts_q4_1(block: &[u8; 20]) -> (f32, f32, [u8; LEN]) {
    (half_at(block, 0), half_at(block, 2), nibbles(&block[4..]))
}

/// The smallest element becomes 0, the largest 15.
pub fn quantize_q4_1(x: &[f32; LEN]) -> [u8; 20] {
    let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(min, max), &v| (min.min(v), max.max(v)));
    let d = (max - min) / 15.0;
    let inverse = inverse(d);
    let mut block = [0; 20];
    put_half(&mut block, 0, d);
    put_half(&mut block, 2, min);
    put_nibbles(&mut block[4..], x, |v| (v - min) * inverse + 0.5);
    block
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// The 32 halves of 16 bytes, in the order of the elements.
fn nibbles(bytes: &[u8]) -> [u8; LEN] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// `level` gives what to cut to an integer between 0 and 15.
fn put_nibbles(bytes: &mut [u8], x: &[f32; LEN], level: impl Fn(f32) -> f32) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        let q = |v| (level(v) as u8).min(15);
        *byte = q(x[i]) | q(x[i + 16]) << 4;
    }
}
