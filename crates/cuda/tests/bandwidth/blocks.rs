//! Blocks of 8 and 4 bits, each kernel launched directly, to the last bit: numbers on and beside ties, rows of blocks that begin anywhere in a
//! piece of 16 bytes and go around the ring of stages, and sums in the order that they have.
use crate::{
    bits,
    numbers::numbers,
    sim::{
        Sim,
        Value::{Pointer, U32, U64},
        text,
    },
};
use half::f16;
use paring_ops::round_block;
use paring_tensor::{
    DType::{self, Q4_0, Q4_1, Q8_0},
    from_f32,
};

/// Blocks of which one level is a power of two, with numbers half way between levels and next to there. `extreme` is what sets the level:
/// the largest of either sign, once or twice, or the least and the largest.
fn beside_ties(blocks: usize) -> Vec<f32> {
    let near = |x: f32, i: usize| match i % 4 {
        0 => x,
        1 => f32::from_bits(x.to_bits() + 1),
        2 => f32::from_bits(x.to_bits() - 1),
        _ => -x,
    };
    let block = |b: usize| {
        let (levels, extremes) = match b % 4 {
            0 => (127, [127.0, -126.5]),
            1 => (8, [-8.0, 8.0]),
            2 => (8, [8.0, -8.0]),
            _ => (4, [-8.0, 7.0]),
        };
        let places = [(b * 5 + 3) % 32, (b * 11 + 17) % 32];
        (0..32).map(move |i| {
            let x = match places.iter().position(|&place| place == i) {
                Some(which) => extremes[which],
                None => near(((b * 13 + i * 7) % levels) as f32 + 0.5, b / 4 + i),
            };
            x * 2f32.powi((b % 7) as i32 - 3)
        })
    };
    (0..blocks).flat_map(block).collect()
}

/// Blocks that have no level, one number, and numbers that are infinite, none, as large and as small as can be.
fn special() -> Vec<f32> {
    let one = [
        0.0,
        1e-45,
        -1e-39,
        7.88e-31,
        7.889e-31,
        2f32.powi(-100),
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
    ];
    let alone = |(n, x): (usize, f32)| (0..32).map(move |i| if i == (n * 7 + 5) % 32 { x } else { 0.0 });
    let among = |(n, x): (usize, f32)| {
        let others = numbers(n as u64 + 1, 32);
        (0..32).map(move |i| if i == (n * 11 + 2) % 32 { x } else { others[i] })
    };
    let each = || one.into_iter().enumerate();
    each().flat_map(alone).chain(each().flat_map(among)).chain([0.7; 32]).chain([f32::NAN; 32]).collect()
}

#[test]
fn numbers_become_blocks() {
    // The last warps of the last block of threads have nothing to do, and the last block of numbers is not full.
    let tail = numbers(9, 32 * 3 + 5);
    let values = [beside_ties(40), special(), tail].concat();
    for (entry, dtype) in [("quantise_q8_0", Q8_0), ("quantise_q4_0", Q4_0), ("quantise_q4_1", Q4_1)] {
        let want = from_f32(&values, dtype);
        let mut sim = Sim::new();
        let (x, y) = (sim.upload(&values), sim.alloc(want.len()));
        let arguments = [Pointer(x), Pointer(y), U64(values.len() as u64)];
        let grid = [values.len().div_ceil(256) as u32, 1, 1];
        assert_ne!(values.len().div_ceil(32) % 8, 0);
        sim.launch(text("elementwise"), entry, grid, [256, 1, 1], 0, &arguments);
        let got: Vec<u8> = sim.download(y, want.len());
        let (_, size) = dtype.block();
        for (block, (got, want)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
            assert_eq!(got, want, "{entry}, block {block}");
        }
    }
}

#[test]
fn activations_become_blocks() {
    let values = [beside_ties(40), special(), numbers(9, 32 * 3)].concat();
    let blocks = values.len() / 32;
    let rounded: Vec<(f32, [i8; 32])> = values.chunks(32).map(|x| round_block(x.try_into().unwrap())).collect();
    let want: Vec<u8> = rounded.iter().flat_map(|(_, q)| q.map(|q| q as u8)).collect();
    let sum = |q: &[i8; 32]| q.iter().map(|&q| i32::from(q)).sum::<i32>() as f32;
    let scales: Vec<f32> = rounded.iter().flat_map(|(scale, q)| [*scale, sum(q)]).collect();
    for late in [0, 1] {
        let mut sim = Sim::new();
        let x = sim.upload(&[&vec![0.5; late], &values[..]].concat()) + 4 * late as u64;
        let (q, to) = (sim.alloc(want.len()), sim.alloc(8 * blocks));
        let arguments = [Pointer(x), Pointer(q), Pointer(to), U32(blocks as u32), U32(1 - late as u32)];
        let grid = [(blocks * 8).div_ceil(256) as u32, 1, 1];
        sim.launch(text("gemv_quantised"), "quantise_rows_f32", grid, [256, 1, 1], 0, &arguments);
        let got: Vec<u8> = sim.download(q, want.len());
        for (block, (got, want)) in got.chunks(32).zip(want.chunks(32)).enumerate() {
            assert_eq!(got, want, "block {block}");
        }
        assert_eq!(bits(&sim.download(to, 2 * blocks)), bits(&scales));
    }
}

/// The product of a block of weights with one of activations, added to `sum`, as the kernels fuse it.
fn add_block(dtype: DType, block: &[u8], q: &[i8], [scale, levels]: [f32; 2], sum: f32) -> f32 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let d = half(0);
    if dtype == Q8_0 {
        let dot: i32 = block[2..].iter().zip(q).map(|(&w, &x)| i32::from(w as i8) * i32::from(x)).sum();
        return (d * scale).mul_add(dot as f32, sum);
    }
    let bytes = &block[block.len() - 16..];
    let level = |i: usize| i32::from(if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 });
    let dot = (0..32).map(|i| level(i) * i32::from(q[i])).sum::<i32>() as f32;
    match dtype {
        Q4_0 => (d * scale).mul_add((-8.0f32).mul_add(levels, dot), sum),
        _ => scale.mul_add(half(2).mul_add(levels, d * dot), sum),
    }
}

/// One product: lanes have every 32nd block, and are added in a butterfly.
fn product(dtype: DType, row: &[u8], q: &[i8], scales: &[f32]) -> f32 {
    let (_, size) = dtype.block();
    let mut lanes = [0.0f32; 32];
    for (i, block) in row.chunks(size).enumerate() {
        let (q, scales) = (&q[32 * i..][..32], [scales[2 * i], scales[2 * i + 1]]);
        lanes[i % 32] = add_block(dtype, block, q, scales, lanes[i % 32]);
    }
    for offset in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|l| lanes[l] + lanes[l ^ offset]);
    }
    lanes[0]
}

/// `n` rows of `blocks` with scales of a few sizes and any levels, `late` bytes behind a multiple of 16.
fn check_product(dtype: DType, at_once: usize, [n, blocks, tokens, late]: [usize; 4]) {
    let (_, size) = dtype.block();
    let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8;
    let scale = |i: usize| f16::from_f32((i % 23) as f32 * 0.013 - 0.1).to_le_bytes();
    let of_block = |b: usize| {
        let scales = if dtype == Q4_1 { 4 } else { 2 };
        (0..size).map(move |i| if i < scales { scale(b * 2 + i / 2)[i % 2] } else { byte(b * size + i) })
    };
    let w: Vec<u8> = (0..n * blocks).flat_map(of_block).collect();
    let q: Vec<i8> = (0..tokens * blocks * 32).map(|i| byte(i + 77) as i8).collect();
    let sums = q.chunks(32).map(|q| q.iter().map(|&q| i32::from(q)).sum::<i32>() as f32);
    let sizes = numbers(8, tokens * blocks);
    let scales: Vec<f32> = sizes.into_iter().zip(sums).flat_map(|(scale, sum)| [scale, sum]).collect();

    let mut sim = Sim::new();
    let pw = sim.upload(&[&vec![0xffu8; late], &w[..]].concat());
    let (px, ps, y) = (sim.upload(&q), sim.upload(&scales), sim.alloc(4 * tokens * n));
    let sizes = [n, blocks, tokens, late].map(|n| U32(n as u32));
    let arguments = [&[pw, px, ps, y].map(Pointer)[..], &sizes].concat();
    let entry = format!("gemv_{}_t{at_once}", dtype.to_string().to_lowercase());
    let grid = [n.div_ceil(8) as u32, tokens.div_ceil(at_once) as u32, 1];
    sim.launch(text("gemv_quantised"), &entry, grid, [256, 1, 1], 0, &arguments);
    let one = |(t, row): (usize, usize)| {
        let of_token = |len: usize| t * blocks * len..(t + 1) * blocks * len;
        product(dtype, &w[row * blocks * size..][..blocks * size], &q[of_token(32)], &scales[of_token(2)])
    };
    let want: Vec<f32> = (0..tokens).flat_map(|t| (0..n).map(move |row| (t, row))).map(one).collect();
    let got: Vec<f32> = sim.download(y, tokens * n);
    assert_eq!(bits(&got), bits(&want), "{entry}: {n} rows of {blocks} blocks, {tokens} tokens, {late} bytes late");
}

/// Rows that end in each third of a stage, in the first stage and behind the last of the ring, and with a stage; for one group of warps and
/// for two; tokens up to what a block takes and beyond.
fn check_products(dtype: DType, at_once: usize) {
    let step = if dtype == Q4_1 { 4 } else { 2 };
    let stages = if dtype == Q8_0 { 4 } else { 8 };
    let blocks = (0..stages + 2).flat_map(|stage| [7, 21, 31].map(|more| 32 * stage + more));
    for (i, blocks) in [1, 32, 64].into_iter().chain(blocks).enumerate() {
        let tokens = if at_once == 1 { 1 + i % 2 } else { 1 + i % 9 };
        check_product(dtype, at_once, [[3, 9, 1, 2][i % 4], blocks, tokens, step * (i * 3 % (16 / step))]);
    }
}

macro_rules! products {
    ($($test:ident: $dtype:ident $at_once:literal;)+) => {
        $(#[test]
        fn $test() {
            check_products($dtype, $at_once);
        })+
    };
}

products! {
    q8_0_against_a_row: Q8_0 1;
    q8_0_against_rows: Q8_0 8;
    q4_0_against_a_row: Q4_0 1;
    q4_0_against_rows: Q4_0 8;
    q4_1_against_a_row: Q4_1 1;
    q4_1_against_rows: Q4_1 8;
}
