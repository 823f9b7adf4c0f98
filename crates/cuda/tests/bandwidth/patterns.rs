//! Conversions of every pattern of bits that a short float can have, and of f32 around them, by each thread's element and by groups: what a few
//! hard values cannot reach, the payloads of NaN and every exponent. The kernels are launched directly, because a download is a conversion.
use crate::{
    bits, numbers,
    sim::{
        Sim,
        Value::{Pointer, U32, U64},
        text,
    },
};
use paring_tensor::{
    DType::{self, BF16, F16, F32, Q4_0, Q4_1, Q8_0},
    from_f32, to_f32,
};

/// Every upper half of an f32 with lower halves that round down, up and to even.
fn floats() -> Vec<u8> {
    let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1000, 0x0fff, 0x3000, 0x2000, 0x5aaa];
    (0..=0xffffu32).flat_map(|i| (i << 16 | lower[i as usize % lower.len()]).to_le_bytes()).collect()
}

fn check(entry: &str, from: DType, to: DType) {
    let patterns: Vec<u8> = if from == F32 { floats() } else { (0..=0xffffu16).flat_map(u16::to_le_bytes).collect() };
    let want = from_f32(&to_f32(&patterns, from), to);
    let n = 0x1_0000_u64;
    let group = if from == F32 || to == F32 { 4 } else { 8 };
    for groups in [n / group, 0] {
        let mut sim = Sim::new();
        let (x, y) = (sim.upload(&patterns), sim.alloc(want.len()));
        let threads = if groups == 0 { n } else { groups };
        let arguments = [Pointer(x), Pointer(y), U64(n), U64(groups)];
        sim.launch(text("elementwise"), entry, [threads as u32 / 256, 1, 1], [256, 1, 1], 0, &arguments);
        let got: Vec<u8> = sim.download(y, want.len());
        let size = want.len() / n as usize;
        let place = got.chunks(size).zip(want.chunks(size)).position(|(got, want)| got != want);
        assert_eq!(place, None, "{entry}, {groups} groups");
    }
}

#[test]
fn f32_becomes_bf16() {
    check("convert_f32_bf16", F32, BF16);
}

#[test]
fn f32_becomes_f16() {
    check("convert_f32_f16", F32, F16);
}

#[test]
fn bf16_becomes_f32() {
    check("convert_bf16_f32", BF16, F32);
}

#[test]
fn bf16_becomes_f16() {
    check("convert_bf16_f16", BF16, F16);
}

#[test]
fn f16_becomes_f32() {
    check("convert_f16_f32", F16, F32);
}

#[test]
fn f16_becomes_bf16() {
    check("convert_f16_bf16", F16, BF16);
}

/// Blocks with scales of every kind and bytes of every kind.
#[test]
fn blocks_become_f32() {
    for (entry, dtype) in [("dequantise_q8_0", Q8_0), ("dequantise_q4_0", Q4_0), ("dequantise_q4_1", Q4_1)] {
        let (_, size) = dtype.block();
        let scales = if dtype == Q4_1 { 4 } else { 2 };
        let block = |i: u16| {
            let byte = move |j: usize| match j {
                0 | 1 => i.to_le_bytes()[j],
                2 | 3 if scales == 4 => i.wrapping_mul(40_503).to_le_bytes()[j - 2],
                _ => (usize::from(i) * 7 + j * 37) as u8,
            };
            (0..size).map(byte)
        };
        let blocks: Vec<u8> = (0..0x1000u16).map(|i| i * 16 + i % 13).flat_map(block).collect();
        let want = to_f32(&blocks, dtype);
        for vector in [0, 1] {
            let mut sim = Sim::new();
            let (x, y) = (sim.upload(&blocks), sim.alloc(4 * want.len()));
            let groups = want.len() / 4;
            let arguments = [Pointer(x), Pointer(y), U64(groups as u64), U32(vector)];
            sim.launch(text("elementwise"), entry, [groups as u32 / 256, 1, 1], [256, 1, 1], 0, &arguments);
            let got: Vec<f32> = sim.download(y, want.len());
            // Which NaN arithmetic makes is the device's choice.
            let plain = |x: &[f32]| bits(&x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect::<Vec<_>>());
            assert_eq!(plain(&got), plain(&want), "{entry}");
        }
    }
}

/// Blocks of numbers of every size, with an infinity, a NaN or zeros in some, and a last one that is not full.
#[test]
fn f32_becomes_blocks() {
    let n = 32 * 255 + 13;
    let mut values = numbers(21, n);
    for (i, x) in values.iter_mut().enumerate() {
        let block = i / 32;
        *x *= 2f32.powi(block as i32 - 128);
        match (block % 9, i % 32) {
            (3, place) if place == block % 32 => *x = f32::NAN,
            (4, _) => *x = 0.0,
            (5, place) if place == block % 32 => *x = f32::INFINITY,
            (6, place) if place == block % 32 => *x = f32::NEG_INFINITY,
            (7, _) => *x = x.abs(),
            (8, _) if block % 2 == 0 => *x = -x.abs(),
            _ => {}
        }
    }
    for (entry, dtype) in [("quantise_q8_0", Q8_0), ("quantise_q4_0", Q4_0), ("quantise_q4_1", Q4_1)] {
        let want = from_f32(&values, dtype);
        let mut sim = Sim::new();
        let (x, y) = (sim.upload(&values), sim.alloc(want.len()));
        let blocks = (n as u32).div_ceil(256);
        let arguments = [Pointer(x), Pointer(y), U64(n as u64)];
        sim.launch(text("elementwise"), entry, [blocks, 1, 1], [256, 1, 1], 0, &arguments);
        let got: Vec<u8> = sim.download(y, want.len());
        let (_, size) = dtype.block();
        for (block, (got, want)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
            assert_eq!(got, want, "{entry}, block {block}");
        }
    }
}
