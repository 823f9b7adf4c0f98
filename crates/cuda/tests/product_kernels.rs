//! The kernels of matrix products, each launched directly on shapes around its tile, also where tensor cores and approximate functions round
//! otherwise than here; and what they move and multiply, counted. Counts, not times.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#[path = "common/numbers.rs"]
mod generated;
#[path = "common/sim.rs"]
mod sim;

use half::bf16;
use paring_cuda::{Compute, Layout, plan};
use paring_ptx_sim::{Class, Counters, Rounding};
use sim::{
    Sim,
    Value::{self, Pointer, U32, U64},
    text,
};

const LAYOUTS: [Layout; 3] = [Layout::Nt, Layout::Nn, Layout::Tn];
/// Of `flags`: c is added to; rows of c, of a, of b begin at multiples of 16 bytes.
const ADD: u32 = 8;
const ALIGNED: u32 = 16;
const A_VECTOR: u32 = 32;
const B_VECTOR: u32 = 64;

/// Numbers between -1 and 1 that are the same every time, and that bf16 has.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    generated::numbers(seed, n).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect()
}

/// A matrix of `rows` whose rows are `ld` apart; what is between them is zero.
fn padded(values: &[f32], columns: usize, ld: usize) -> Vec<f32> {
    let row = |row: &[f32]| row.iter().copied().chain(std::iter::repeat_n(0.0, ld - columns)).collect::<Vec<_>>();
    values.chunks(columns.max(1)).flat_map(row).collect()
}

fn as_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
}

/// The normal distribution, as the series of its density; beyond 6 it is 0 or 1 to 1e-9.
fn normal(x: f64) -> f64 {
    if 6.0 < x.abs() {
        return if x < 0.0 { 0.0 } else { 1.0 };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / (2.0 * f64::from(n));
        sum += term / f64::from(2 * n + 1);
    }
    0.5 + sum / (2.0 * std::f64::consts::PI).sqrt()
}

/// A product to be made by one kernel.
#[derive(Clone, Copy, Debug)]
struct Case {
    compute: Compute,
    layout: Layout,
    tile: (usize, usize),
    size: [usize; 3],
    split_bits: u32,
    /// Elements by which the operands begin late (f32 only).
    late: usize,
    activation: u32,
    /// Whether there are a bias, a residual, and a second output in bf16.
    full: bool,
    rounding: Rounding,
}

impl Case {
    fn entry(&self) -> String {
        let (layout, (m, n)) = (format!("{:?}", self.layout).to_lowercase(), self.tile);
        let compute = if self.compute == Compute::Bf16 { "bf16" } else { "f32" };
        format!("gemm_{layout}_{compute}_{m}x{n}")
    }

    /// Runs it beside plain loops, adding to what is there.
    fn run(&self) -> Counters {
        let Case { compute, layout, tile: (tm, tn), size: [m, n, k], late, .. } = *self;
        let is_bf16 = compute == Compute::Bf16;
        let (a_rows, a_columns) = if layout == Layout::Tn { (k, m) } else { (m, k) };
        let (b_rows, b_columns) = if layout == Layout::Nt { (n, k) } else { (k, n) };
        let (a, b) = (numbers(a_rows * a_columns, 1), numbers(b_rows * b_columns, 2));
        let mut sim = Sim::new();
        sim.options.rounding = self.rounding;
        let mut upload = |values: &[f32], columns: usize| {
            let ld = if is_bf16 { columns.next_multiple_of(8) } else { columns };
            if is_bf16 {
                (sim.upload(&as_bf16(&padded(values, columns, ld))), ld as u32)
            } else {
                (sim.upload(&[&vec![0.0; late], values].concat()) + 4 * late as u64, ld as u32)
            }
        };
        let ((pa, lda), (pb, ldb)) = (upload(&a, a_columns), upload(&b, b_columns));
        let splits = 1 << self.split_bits;
        let before = numbers(m * n, 3);
        let pc = if splits == 1 { sim.upload(&before) } else { sim.alloc(4 * m * n * splits) };
        let (bias, residual) =
            if self.full { (numbers(n, 4), numbers(m * n, 5)) } else { (vec![0.0; n], vec![0.0; m * n]) };
        let [short, p_bias, p_residual] = match self.full {
            true => [sim.alloc(2 * m * n), sim.upload(&bias), sim.upload(&residual)],
            false => [0; 3],
        };
        let k_tile = if is_bf16 { 32 } else { 16 };
        let k_split = k.div_ceil(k_tile).div_ceil(splits) * k_tile;
        let tiles_m = m.div_ceil(tm);
        let groups = tiles_m.div_ceil(2);
        let grid = [tiles_m.div_ceil(groups) as u32, n.div_ceil(tn) as u32, (groups * splits) as u32];
        let (threads, shared) = match (is_bf16, tn) {
            (true, 256) => (256, 98_304),
            (true, 128) => (128, 49_152),
            (true, _) => (128, 32_768),
            (false, _) => (256, 0),
        };
        let vector = |columns: usize, flag| if columns.is_multiple_of(4) && late == 0 && !is_bf16 { flag } else { 0 };
        let flags = if splits == 1 { ADD | self.activation } else { 0 }
            | if n.is_multiple_of(4) { ALIGNED } else { 0 }
            | vector(a_columns, A_VECTOR)
            | vector(b_columns, B_VECTOR);
        let mut arguments: Vec<Value> = [pa, pb, pc, short, p_bias, p_residual].map(Pointer).into();
        let sizes = [m as u32, n as u32, k as u32, lda, ldb, k_split as u32, self.split_bits, flags];
        arguments.extend(sizes.map(U32));
        let module = text(if is_bf16 { "gemm_bf16" } else { "gemm_f32" });
        let counters = sim.launch(module, &self.entry(), grid, [threads, 1, 1], shared, &arguments);
        let parts: Vec<f32> = sim.download(pc, m * n * splits);
        for i in 0..m {
            for j in 0..n {
                let at = i * n + j;
                let term = |q: usize| {
                    let a = if layout == Layout::Tn { a[q * m + i] } else { a[i * k + q] };
                    let b = if layout == Layout::Nt { b[j * k + q] } else { b[q * n + j] };
                    f64::from(a) * f64::from(b)
                };
                let sum = (0..k).map(term).sum::<f64>() + f64::from(bias[j]);
                let size = ((0..k).map(|q| term(q).abs()).sum::<f64>() + 1.0) * (1.0 + sum.abs()) + 1.0;
                let want = match self.activation {
                    1 => sum / (1.0 + (-sum).exp()),
                    2 => sum * normal(sum),
                    3 => sum / (1.0 + (-1.595_769_121_605_730_8 * (sum + 0.044_715 * sum.powi(3))).exp()),
                    4 => sum.max(0.0).powi(2),
                    _ => sum,
                } + if splits == 1 { f64::from(before[at]) } else { 0.0 }
                    + f64::from(residual[at]);
                let got: f64 = (0..splits).map(|s| f64::from(parts[s * m * n + at])).sum();
                assert!((got - want).abs() <= 1.9e-6 * size, "{self:?} [{i}, {j}] is {got}, expected {want}");
            }
        }
        if self.full {
            assert_eq!(sim.download::<u16>(short, m * n), as_bf16(&parts), "{self:?}");
        }
        counters
    }
}

fn tiles(compute: Compute) -> &'static [(usize, usize)] {
    match compute {
        Compute::Bf16 => &[(128, 256), (128, 128), (64, 64)],
        Compute::F32 => &[(128, 128), (64, 64)],
    }
}

fn cases(compute: Compute, layouts: &[Layout]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &tile in tiles(compute) {
        for &layout in layouts {
            // Each of 1, 15, 16, 17, 127, 128, 129 in each place, the tile and one more, k of nothing and around its tiles.
            let sizes = [
                [1, 1, 1],
                [15, 129, 16],
                [16, 15, 17],
                [17, 16, 127],
                [127, 17, 15],
                [128, 127, 31],
                [129, 128, 33],
                [5, 12, 0],
                [tile.0, tile.1, 129],
                [tile.0 + 1, tile.1 + 1, 64],
                [2 * tile.0 + 1, 8, 8],
                [2 * tile.0 + 1, 9, 21],
            ];
            for (i, size) in sizes.into_iter().enumerate() {
                let late = if compute == Compute::F32 { i % 2 } else { 0 };
                let activation = [0, 1, 2, 3, 4][i % 5];
                let (split_bits, full, rounding) = (0, false, Rounding::Nearest);
                cases.push(Case { compute, layout, tile, size, split_bits, late, activation, full, rounding });
            }
            // All that can become of a sum, in pieces of 16 bytes and not.
            for (n, activation) in [20, 19].into_iter().flat_map(|n| (0..5).map(move |activation| (n, activation))) {
                let (size, split_bits, late, full, rounding) = ([9, n, 40], 0, 0, true, Rounding::Nearest);
                cases.push(Case { compute, layout, tile, size, split_bits, late, activation, full, rounding });
            }
            // Parts of k, the last of them shorter, and one of nothing.
            let several = [2 * tile.0 + 1, 11, 70];
            for (size, split_bits) in [([20, 24, 200], 1), ([20, 23, 130], 2), ([9, 8, 33], 2), (several, 1)] {
                let rounding = Rounding::Nearest;
                let (late, activation, full) = (0, 0, false);
                cases.push(Case { compute, layout, tile, size, split_bits, late, activation, full, rounding });
            }
        }
    }
    cases
}

/// Products of 16 x 8 x 16 that a launch without parts makes: those of whole tiles, whatever lies outside.
fn products(case: &Case) -> u64 {
    let (tm, tn) = case.tile;
    let [m, n, k] = case.size;
    (m.div_ceil(tm) * n.div_ceil(tn) * (tm / 16) * (tn / 8) * k.div_ceil(32) * 2) as u64
}

/// A kernel on every shape.
fn check_shapes(compute: Compute, layout: Layout, tile: (usize, usize)) {
    for case in cases(compute, &[layout]).into_iter().filter(|case| case.tile == tile) {
        let counters = case.run();
        if case.split_bits == 0 && compute == Compute::Bf16 {
            assert_eq!(counters.warp(Class::Mma), products(&case), "{case:?}");
        }
        assert_eq!(counters.bank_conflicts(), 1.0, "{case:?}: {:?}", counters.worst_lines(4));
    }
}

macro_rules! every_shape {
    ($($test:ident: $compute:ident $layout:ident $m:literal $n:literal;)+) => {
        $(#[test]
        fn $test() {
            check_shapes(Compute::$compute, Layout::$layout, ($m, $n));
        })+

        /// A test a kernel.
        const EVERY_SHAPE: &[(Compute, Layout, (usize, usize))] =
            &[$((Compute::$compute, Layout::$layout, ($m, $n))),+];
    };
}

every_shape! {
    nt_on_tensor_cores_128x256: Bf16 Nt 128 256;
    nt_on_tensor_cores_128x128: Bf16 Nt 128 128;
    nt_on_tensor_cores_64x64: Bf16 Nt 64 64;
    nn_on_tensor_cores_128x256: Bf16 Nn 128 256;
    nn_on_tensor_cores_128x128: Bf16 Nn 128 128;
    nn_on_tensor_cores_64x64: Bf16 Nn 64 64;
    tn_on_tensor_cores_128x256: Bf16 Tn 128 256;
    tn_on_tensor_cores_128x128: Bf16 Tn 128 128;
    tn_on_tensor_cores_64x64: Bf16 Tn 64 64;
    nt_in_f32_128x128: F32 Nt 128 128;
    nt_in_f32_64x64: F32 Nt 64 64;
    nn_in_f32_128x128: F32 Nn 128 128;
    nn_in_f32_64x64: F32 Nn 64 64;
    tn_in_f32_128x128: F32 Tn 128 128;
    tn_in_f32_64x64: F32 Tn 64 64;
}

#[test]
fn every_kernel_has_a_test() {
    for compute in [Compute::Bf16, Compute::F32] {
        for layout in LAYOUTS {
            for &tile in tiles(compute) {
                assert!(EVERY_SHAPE.contains(&(compute, layout, tile)), "{compute:?} {layout:?} {tile:?}");
            }
        }
    }
}

fn check_rounding(layout: Layout) {
    for rounding in [Rounding::TruncateAccumulate, Rounding::ApproxUp, Rounding::ApproxDown] {
        for compute in [Compute::Bf16, Compute::F32] {
            for case in cases(compute, &[layout]).into_iter().filter(|case| 16 <= case.size[2]).step_by(3) {
                Case { rounding, ..case }.run();
            }
        }
    }
}

#[test]
fn nt_where_devices_round_otherwise() {
    check_rounding(Layout::Nt);
}

#[test]
fn nn_where_devices_round_otherwise() {
    check_rounding(Layout::Nn);
}

#[test]
fn tn_where_devices_round_otherwise() {
    check_rounding(Layout::Tn);
}

#[test]
fn aligned_operands_move_in_whole_sectors_as_often_as_the_tiles_say() {
    for (compute, tile, bytes) in [
        (Compute::Bf16, (128, 256), 2),
        (Compute::Bf16, (128, 128), 2),
        (Compute::Bf16, (64, 64), 2),
        (Compute::F32, (128, 128), 4),
        (Compute::F32, (64, 64), 4),
    ] {
        for layout in LAYOUTS {
            let (tm, tn) = tile;
            let size @ [m, n, k] = [2 * tm, 2 * tn, 96];
            let (split_bits, late, activation, full, rounding) = (0, 0, 0, false, Rounding::Nearest);
            let case = Case { compute, layout, tile, size, split_bits, late, activation, full, rounding };
            let counters = case.run();
            assert_eq!(counters.coalescing(), 1.0, "{case:?}: {:?}", counters.worst_lines(4));
            assert_eq!(counters.bank_conflicts(), 1.0, "{case:?}: {:?}", counters.worst_lines(4));
            // Each operand once for each tile of the other side; c is read, to be added to, and written.
            let read = (m * k * (n / tn) + n * k * (m / tm)) * bytes + m * n * 4;
            assert_eq!(counters.global_bytes_read as usize, read, "{case:?}");
            assert_eq!(counters.global_bytes_written as usize, m * n * 4, "{case:?}");
        }
    }
}

#[test]
fn a_weight_is_read_once_against_few_rows() {
    let (n, k) = (64, 1024);
    for (entry, bytes, rows, most) in [
        ("gemv_bf16_t8", 2, 16, 8),
        ("gemv_bf16_t16", 2, 16, 16),
        ("gemv_bf16_any", 2, 8, 8),
        ("gemv_f32_t1", 4, 8, 1),
        ("gemv_f32_t8", 4, 8, 8),
        ("gemv_f32_any", 4, 8, 8),
    ] {
        for tokens in [1, most] {
            let (x, w) = (numbers(tokens * k, 4), numbers(n * k, 5));
            let mut sim = Sim::new();
            sim.options.rounding = Rounding::TruncateAccumulate;
            let pw = if bytes == 2 { sim.upload(&as_bf16(&w)) } else { sim.upload(&w) };
            let (px, py) = (sim.upload(&x), sim.alloc(tokens * n * 4));
            let arguments = [Pointer(pw), Pointer(px), Pointer(py), U32(n as u32), U32(k as u32), U32(tokens as u32)];
            let counters = sim.launch(text("gemv"), entry, [(n / rows) as u32, 1, 1], [256, 1, 1], 0, &arguments);
            for (i, &got) in sim.download::<f32>(py, tokens * n).iter().enumerate() {
                let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
                let want: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                assert!((f64::from(got) - want).abs() < 1e-3, "{entry} {tokens} [{i}]: {got} {want}");
            }
            // What a block has in common is read by each of its blocks; those of gemv_f32 and gemv_any are warps.
            let readers = if rows == 16 { n / 16 } else { n };
            let read = n * k * bytes + readers * tokens * k * 4;
            assert_eq!(counters.global_bytes_read as usize, read, "{entry} {tokens}");
            assert_eq!(counters.global_bytes_written as usize, tokens * n * 4, "{entry} {tokens}");
            assert_eq!(counters.bank_conflicts(), 1.0, "{entry}: {:?}", counters.worst_lines(4));
        }
    }
}

#[test]
fn blocks_are_read_once_against_few_rows() {
    let (n, blocks) = (16, 64);
    for (entry, bytes) in [("gemv_q8_0_t1", 34), ("gemv_q4_0_t1", 18), ("gemv_q4_1_t1", 20)] {
        let mut sim = Sim::new();
        let (w, q) = (sim.upload(&vec![0x11u8; n * blocks * bytes]), sim.upload(&vec![1u8; blocks * 32]));
        let (scales, y) = (sim.upload(&vec![1.0f32; blocks * 2]), sim.alloc(n * 4));
        let mut arguments: Vec<Value> = [w, q, scales, y].map(Pointer).into();
        arguments.extend([n as u32, blocks as u32, 1, 0].map(U32));
        let counters = sim.launch(text("gemv_quantised"), entry, [n as u32 / 8, 1, 1], [256, 1, 1], 0, &arguments);
        // Rows that begin within a piece of 16 bytes read the piece whole, and each stage one piece more than its blocks have.
        let read = counters.global_bytes_read as usize - n * blocks * (32 + 8);
        let w = n * blocks * bytes;
        assert!((w..w + n * (16 + 16 * blocks / 32)).contains(&read), "{entry}: {read} for {w}");
        let warps: usize = 16;
        assert_eq!(counters.global_bytes_written as usize, warps * 4);
    }
}

#[test]
fn a_cast_and_a_sum_of_parts_move_what_they_must() {
    let (rows, columns, splits) = (33, 256, 4);
    let mut sim = Sim::new();
    let x = numbers(rows * columns, 6);
    let (px, py) = (sim.upload(&x), sim.alloc(rows * columns * 2));
    let chunks = (rows * columns / 8) as u32;
    let mut arguments: Vec<Value> = [px, py].map(Pointer).into();
    arguments.extend([chunks, columns as u32, columns as u32, 1].map(U32));
    let counters =
        sim.launch(text("gemm_passes"), "cast_rows_f32", [chunks.div_ceil(256), 1, 1], [256, 1, 1], 0, &arguments);
    assert_eq!(sim.download::<u16>(py, rows * columns), as_bf16(&x));
    assert_eq!(
        (counters.global_bytes_read, counters.global_bytes_written),
        (u64::from(chunks) * 32, u64::from(chunks) * 16)
    );

    let size = rows * columns;
    let parts = numbers(size * splits, 7);
    let (pp, pc) = (sim.upload(&parts), sim.alloc(size * 4));
    let mut arguments: Vec<Value> = [pp, pc, 0, 0, 0].map(Pointer).into();
    arguments.extend([U64(size as u64), U32(columns as u32), U32(splits as u32), U32(ALIGNED)]);
    let blocks = (size as u32 / 4).div_ceil(256);
    let counters = sim.launch(text("gemm_passes"), "gemm_reduce_f32", [blocks, 1, 1], [256, 1, 1], 0, &arguments);
    let sum = |i: usize| (1..splits).fold(parts[i], |sum, s| sum + parts[s * size + i]);
    assert_eq!(sim.download::<f32>(pc, size), (0..size).map(sum).collect::<Vec<_>>());
    assert_eq!(counters.coalescing(), 1.0);
    assert_eq!(
        (counters.global_bytes_read, counters.global_bytes_written),
        ((4 * size * splits) as u64, 4 * size as u64)
    );
}

/// The plan names kernels that exist.
#[test]
fn plans_are_kernels() {
    for (compute, module) in [(Compute::Bf16, "gemm_bf16"), (Compute::F32, "gemm_f32")] {
        for layout in LAYOUTS {
            for (m, n) in [(8192, 8192), (1500, 1500), (64, 64)] {
                let plan = plan(compute, layout, m, n, 256, 108);
                assert!(text(module).contains(&format!(".entry {}(", plan.entry)), "{plan:?}");
            }
        }
    }
}
