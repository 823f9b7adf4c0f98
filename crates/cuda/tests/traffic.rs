//! What kernels that are bound by memory move, counted by the simulator: on aligned shapes every byte once, in whole sectors, without bank
//! conflicts. Counts, not times.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#[path = "common/sim.rs"]
mod sim;

use sim::{
    Sim,
    Value::{F32, Pointer, U32, U64},
    text,
};

/// A launch to be counted.
struct Run<'a> {
    text: &'static str,
    entry: &'a str,
    grid: [u32; 3],
    block: [u32; 3],
    shared: usize,
}

/// A grid along x.
fn linear<'a>(text: &'static str, entry: &'a str, blocks: u32, threads: u32) -> Run<'a> {
    Run { text, entry, grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
}

impl Run<'_> {
    /// The kernel moves `bytes`, no sector more than they need.
    fn moves(&self, sim: &mut Sim, bytes: usize, arguments: &[sim::Value]) {
        let Run { text, entry, grid, block, shared } = *self;
        let counters = sim.launch(text, entry, grid, block, shared, arguments);
        assert_eq!(counters.coalescing(), 1.0, "{entry}: {:?}", counters.worst_lines(3));
        assert_eq!(counters.bank_conflicts(), 1.0, "{entry}: {:?}", counters.worst_lines(3));
        assert_eq!(counters.global_sectors * 32, bytes as u64, "{entry}");
    }
}

/// Elements: a whole number of blocks of 256 threads with 8 elements each.
const N: usize = 8 * 256 * 3;

/// Blocks for groups of `each` of [`N`] elements.
fn blocks(each: usize) -> u32 {
    (N / each / 256) as u32
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

#[test]
fn elements_are_moved_once() {
    let mut sim = Sim::new();
    let x = sim.upload(&numbers(N));
    let [a, b] = [0; 2].map(|_| sim.upload(&numbers(N)));
    let y = sim.alloc(4 * N);
    let short = sim.alloc(2 * N);
    let (n, p) = (U64(N as u64), Pointer);
    let groups = |each: usize| U64((N / each) as u64);
    linear(text("elementwise"), "convert_f32_bf16", blocks(4), 256).moves(
        &mut sim,
        6 * N,
        &[p(x), p(short), n, groups(4)],
    );
    linear(text("elementwise"), "convert_bf16_f16", blocks(8), 256).moves(
        &mut sim,
        4 * N,
        &[p(short), p(y), n, groups(8)],
    );
    linear(text("elementwise"), "convert_f16_f32", blocks(4), 256).moves(
        &mut sim,
        6 * N,
        &[p(short), p(y), n, groups(4)],
    );
    linear(text("elementwise"), "fill_f32", blocks(4), 256).moves(&mut sim, 4 * N, &[p(y), n, groups(4), F32(1.5)]);
    linear(text("elementwise"), "add_f32", blocks(4), 256).moves(&mut sim, 12 * N, &[p(a), p(b), p(y), n, groups(4)]);
    linear(text("elementwise"), "accumulate_f32", blocks(4), 256).moves(&mut sim, 12 * N, &[p(a), p(y), n, groups(4)]);
    linear(text("elementwise"), "scale_f32", blocks(4), 256).moves(&mut sim, 8 * N, &[p(y), n, groups(4), F32(0.5)]);
    let parts = sim.alloc(8 * 3);
    // A sector for each block's sum, and for the total.
    linear(text("elementwise"), "sum_squares_f32", 3, 256).moves(
        &mut sim,
        4 * N + 3 * 32,
        &[p(x), p(parts), n, U32(1)],
    );
    let total = sim.alloc(8);
    linear(text("elementwise"), "sum_parts_f64", 1, 256).moves(&mut sim, 2 * 32, &[p(parts), p(total), U32(3)]);
    for act in ["silu", "gelu", "gelu_tanh", "relu2"] {
        let run = |name: &str, bytes: usize, arguments: &[sim::Value], sim: &mut Sim| {
            linear(text("activation"), &format!("{name}_{act}"), blocks(4), 256).moves(sim, bytes, arguments);
        };
        run("activation", 8 * N, &[p(x), p(y), n, groups(4)], &mut sim);
        run("activation_backward", 12 * N, &[p(a), p(x), p(y), n, groups(4)], &mut sim);
        run("gated", 12 * N, &[p(a), p(b), p(y), n, groups(4)], &mut sim);
        let dup = sim.alloc(4 * N);
        run("gated_backward", 20 * N, &[p(x), p(a), p(b), p(y), p(dup), n, groups(4)], &mut sim);
    }
}

#[test]
fn weights_and_moments_are_moved_once() {
    let mut sim = Sim::new();
    let (n, p) = (U64(N as u64), Pointer);
    let (w, m, grad) = (sim.upload(&numbers(N)), sim.upload(&numbers(N)), sim.upload(&numbers(N)));
    let v = sim.upload(&numbers(N).iter().map(|x| x * x).collect::<Vec<f32>>());
    let ones = vec![0x3f80u16; N];
    let (m_short, v_short) = (sim.upload(&ones), sim.upload(&ones));
    let (high, low) = (sim.alloc(2 * N), sim.alloc(2 * N));
    let groups = |each: usize| U64((N / each) as u64);
    linear(text("optimizer"), "split_f32", blocks(4), 256).moves(
        &mut sim,
        8 * N,
        &[p(w), p(high), p(low), n, groups(4)],
    );
    linear(text("optimizer"), "join_f32", blocks(4), 256).moves(
        &mut sim,
        8 * N,
        &[p(high), p(low), p(w), n, groups(4)],
    );
    let step = [0.9, 0.1, 0.95, 0.05, 1e-8, 0.999, 1e-3, 0.4, 1.0].map(F32);
    let with = |pointers: &[u64]| {
        let pointers: Vec<_> = pointers.iter().map(|&x| p(x)).collect();
        [&pointers[..], &[n, groups(4)], &step].concat()
    };
    linear(text("optimizer"), "adamw_f32", blocks(4), 256).moves(&mut sim, 28 * N, &with(&[grad, w, m, v]));
    linear(text("optimizer"), "adamw_bf16", blocks(4), 256).moves(
        &mut sim,
        20 * N,
        &with(&[grad, w, m_short, v_short]),
    );
    linear(text("optimizer"), "adamw_split_f32", blocks(4), 256).moves(
        &mut sim,
        28 * N,
        &with(&[grad, high, low, m, v]),
    );
    let short = with(&[grad, high, low, m_short, v_short]);
    linear(text("optimizer"), "adamw_split_bf16", blocks(4), 256).moves(&mut sim, 20 * N, &short);
}

#[test]
fn rows_are_read_once() {
    let mut sim = Sim::new();
    let (t, d, p) = (6usize, 1024usize, Pointer);
    let (row, rows) = (4 * d, 4 * t * d);
    let [a, b, dy] = [0; 3].map(|_| sim.upload(&numbers(t * d)));
    let (w, bias, short) = (sim.upload(&numbers(d)), sim.upload(&numbers(d)), sim.upload(&vec![0x3f80u16; d]));
    let [sum, y, dx] = [0; 3].map(|_| sim.alloc(rows));
    let (mean, rstd) = (sim.alloc(4 * t), sim.alloc(4 * t));
    let kept = |entry, floats: usize| Run { shared: 4 * floats, ..linear(text("norm"), entry, t as u32, 128) };
    let tail = [U32(d as u32), U32(1), U32(1), F32(1e-5)];
    let with = |pointers: &[u64]| [&pointers.iter().map(|&x| p(x)).collect::<Vec<_>>()[..], &tail].concat();
    // A block reads the weights with its row, and writes a sector with the row's statistic.
    kept("rms_norm_f32", d).moves(&mut sim, 2 * rows + t * (row + 32), &with(&[a, w, y, rstd]));
    kept("rms_norm_bf16", d).moves(&mut sim, 2 * rows + t * (row / 2 + 32), &with(&[a, short, y, rstd]));
    kept("add_rms_norm_f32", d).moves(&mut sim, 4 * rows + t * (row + 32), &with(&[a, b, w, sum, y, rstd]));
    kept("layer_norm_f32", d).moves(&mut sim, 2 * rows + t * (2 * row + 64), &with(&[a, w, bias, y, mean, rstd]));
    let residual = with(&[a, b, w, bias, sum, y, mean, rstd]);
    kept("add_layer_norm_f32", d).moves(&mut sim, 4 * rows + t * (2 * row + 64), &residual);
    // Backward: two rows a block, a row of partial sums from each.
    let parts = sim.alloc(rows / 2);
    let half = |entry, floats: usize| Run { shared: 4 * floats, ..linear(text("norm"), entry, t as u32 / 2, 128) };
    let tail = [U32(t as u32), U32(d as u32), U32(2), U32(1), U32(0), U32(2)];
    let with = |pointers: &[u64]| [&pointers.iter().map(|&x| p(x)).collect::<Vec<_>>()[..], &tail].concat();
    let arguments = with(&[dy, a, w, rstd, dx, parts]);
    // Each warp reads the row's statistic, a sector.
    let (warps, sums) = (4, rows / 2);
    half("rms_norm_backward_f32", 3 * d).moves(&mut sim, 3 * rows + t * (row + warps * 32) + sums, &arguments);
    let dbias = sim.alloc(rows / 2);
    let arguments = with(&[dy, a, w, mean, rstd, dx, parts, dbias]);
    let bytes = 3 * rows + t * (row + 2 * warps * 32) + 2 * sums;
    half("layer_norm_backward_f32", 4 * d).moves(&mut sim, bytes, &arguments);
    let columns = Run { block: [32, 8, 1], ..linear(text("norm"), "add_columns_f32", d as u32 / 32, 1) };
    columns.moves(&mut sim, sums + 2 * row, &[p(parts), p(w), U32(t as u32 / 2), U32(d as u32)]);
    // Products of rows, f64 sums in one sector each.
    let products = sim.alloc(t * 32);
    let run = linear(text("statistics"), "row_products_f32", t as u32, 128);
    let counters =
        sim.launch(run.text, run.entry, run.grid, run.block, 0, &[p(a), p(b), p(products), U32(d as u32), U32(1)]);
    assert_eq!((counters.coalescing(), counters.bank_conflicts()), (1.0, 1.0));
    assert_eq!(counters.global_bytes_read, 2 * rows as u64);
}

#[test]
fn tables_and_rotations_are_moved_once() {
    let mut sim = Sim::new();
    let (t, v, d, p) = (4usize, 7usize, 512usize, Pointer);
    let rows = 4 * t * d;
    let (w, short) = (sim.upload(&numbers(v * d)), sim.upload(&vec![0x3f80u16; v * d]));
    let (ids, y) = (sim.upload(&[6u32, 0, 3, 3]), sim.alloc(rows));
    let tail = [U32(d as u32), U32(1)];
    // Each of 4 warps reads the id.
    let ids_read = t * 4 * 32;
    let with = |w: u64| [&[p(w), p(ids), p(y)][..], &tail].concat();
    linear(text("embed"), "embed_f32", t as u32, 128).moves(&mut sim, 2 * rows + ids_read, &with(w));
    linear(text("embed"), "embed_bf16", t as u32, 128).moves(&mut sim, 3 * rows / 2 + ids_read, &with(short));
    // Three distinct ids; each warp reads two starts, an id, and its tokens.
    let (tokens, starts, distinct) =
        (sim.upload(&[1u32, 2, 3, 0]), sim.upload(&[0u32, 1, 3, 4]), sim.upload(&[0u32, 3, 6]));
    let run = linear(text("embed"), "embed_backward_f32", 3, 128);
    let arguments = [&[p(y), p(tokens), p(starts), p(distinct), p(w)][..], &tail].concat();
    run.moves(&mut sim, rows + 2 * 3 * 4 * d + (3 * 3 + 4) * 4 * 32, &arguments);
    // Heads of 128: 16 threads along a head's pairs, 16 heads at once; a warp has two heads, which share the turn they read.
    let (heads, h) = (16usize, 128usize);
    let (x, table) = (sim.upload(&numbers(t * heads * h)), sim.upload(&numbers(9 * h)));
    let run = Run { block: [16, 16, 1], ..linear(text("rope"), "rope_f32", t as u32, 1) };
    let arguments = [p(x), p(table), p(ids), U32(heads as u32), U32(h as u32 / 2), U32(1), F32(-1.0)];
    let warps = 8;
    run.moves(&mut sim, 8 * t * heads * h + t * warps * (4 * h + 32), &arguments);
}

#[test]
fn rows_of_logits_are_read_twice() {
    let mut sim = Sim::new();
    let (t, v, p) = (3usize, 2048usize, Pointer);
    let rows = 4 * t * v;
    let (student, teacher) = (sim.upload(&numbers(t * v)), sim.upload(&numbers(t * v)));
    let (targets, sums) = (sim.upload(&[5u32, 2047, 0]), sim.alloc(t * 64));
    let (warps, tail) = (8, [U32(v as u32), U32(1)]);
    let clean = |name: &str, counters: paring_ptx_sim::Counters, bytes: usize| {
        assert_eq!(
            (counters.coalescing(), counters.bank_conflicts()),
            (1.0, 1.0),
            "{name}: {:?}",
            counters.worst_lines(3)
        );
        let rest = counters.global_bytes_read + counters.global_bytes_written - bytes as u64;
        // Targets, targets' logits (by each thread) and what a row amounts to.
        assert!(rest <= (t * (warps * 32 * 8 + 80)) as u64, "{name}: {rest}");
    };
    let run = |sim: &mut Sim, entry: &str, arguments: &[sim::Value]| {
        sim.launch(text("loss"), entry, [t as u32, 1, 1], [256, 1, 1], 0, arguments)
    };
    let arguments = [&[p(student), p(teacher), p(targets), p(sums)][..], &tail].concat();
    clean("compare", run(&mut sim, "compare_rows_f32", &arguments), 4 * rows);
    let arguments = [&[p(student), p(teacher), p(sums)][..], &tail, &[F32(0.5)]].concat();
    clean("kl", run(&mut sim, "kl_rows_f32", &arguments), 5 * rows);
    let arguments = [&[p(student), p(targets), p(sums)][..], &tail, &[F32(0.5)]].concat();
    clean("cross_entropy", run(&mut sim, "cross_entropy_rows_f32", &arguments), 3 * rows);
}

#[test]
fn columns_are_read_once() {
    let mut sim = Sim::new();
    let (t, c, p) = (512usize, 64usize, Pointer);
    let (x, parts, sums) = (sim.upload(&numbers(t * c)), sim.alloc(2 * 4 * c * 8), sim.alloc(4 * c * 8));
    let run = Run { grid: [2, 2, 1], block: [32, 8, 1], ..linear(text("statistics"), "column_statistics_f32", 1, 1) };
    // The rows, by each warp the first row, and the parts.
    let bytes = 4 * t * c + 2 * 2 * 8 * 128 + 2 * 4 * c * 8;
    run.moves(&mut sim, bytes, &[p(x), p(parts), U32(t as u32), U32(c as u32), U32(256)]);
    let run = linear(text("statistics"), "sum_columns_f64", 1, 256);
    run.moves(&mut sim, 3 * 4 * c * 8, &[p(parts), p(sums), U32(2), U32(4 * c as u32)]);
}
