//! What the model counts, against what the simulator counts when it executes the kernels' PTX.
//!
//! mma, ldmatrix, bytes and wavefronts have to agree. Instructions cannot: the model counts those of the machine, which ptxas makes out of
//! PTX; they have to be near.
use crate::{
    attention::Attention,
    cost::Counts,
    gemm::{Product, TILES, Tile, Weights, tiled, vectors},
    gpu::A100,
};
use paring_ptx_sim::{Class, Counters, Launch, Memory, Module, Options, run};

/// One argument of a kernel.
enum Arg {
    /// A buffer of so many bytes, all of them written.
    Buffer(usize),
    /// No buffer.
    Null,
    U32(u32),
    F32(f32),
}
use Arg::{Buffer, F32, Null, U32};

/// Executes a kernel on buffers of a small value, and returns what it counted; there are no findings.
fn execute(ptx: &str, kernel: &str, grid: [u32; 3], threads: u32, shared: usize, arguments: &[Arg]) -> Counters {
    let module = Module::parse(ptx).unwrap_or_else(|e| panic!("{kernel}: {e}"));
    let kernel = module.kernel(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
    let mut memory = Memory::new();
    let mut params = vec![0; kernel.param_bytes()];
    assert_eq!(kernel.params().len(), arguments.len(), "{}", kernel.name());
    for (param, argument) in kernel.params().iter().zip(arguments) {
        let bytes = match argument {
            Buffer(bytes) => {
                let address = memory.alloc(*bytes);
                // 0x3c3c is a small bf16, 0x3c3c3c3c a small f32.
                memory.fill(address, 0x3c, *bytes).unwrap_or_else(|e| panic!("{e}"));
                address.to_le_bytes().to_vec()
            }
            Null => vec![0; 8],
            U32(n) => n.to_le_bytes().to_vec(),
            F32(x) => x.to_le_bytes().to_vec(),
        };
        assert_eq!(param.size, bytes.len(), "{} {}", kernel.name(), param.name);
        params[param.offset..param.offset + bytes.len()].copy_from_slice(&bytes);
    }
    let launch = Launch { grid, block: [threads, 1, 1], dynamic_shared: shared, params };
    // Correctness has its own tests.
    let options = Options { shared_races: false, global_races: false, ..Options::default() };
    let report = run(kernel, &launch, &mut memory, &options);
    assert!(report.findings.is_empty(), "{}: {:?}", kernel.name(), report.findings);
    report.counters
}

fn near(what: &str, got: f64, model: f64, within: [f64; 2]) {
    let ratio = got / model;
    assert!((within[0]..=within[1]).contains(&ratio), "{what}: {got} counted, {model} in the model: {ratio}");
}

/// A product of whole tiles.
fn gemm(tile: &Tile, layout: &str, [m, n, k]: [u32; 3]) -> Counters {
    let name = tile.name.trim_start_matches("gemm ");
    let kernel = format!("gemm_{layout}_bf16_{name}");
    let stages = if name == "128x128" { 3 } else { 4 };
    let shared = stages * (tile.m + tile.n) as usize * 64;
    let (lda, ldb) = match layout {
        "nt" => (k, k),
        "nn" => (k, n),
        _ => (m, n),
    };
    let aligned = 16;
    let bytes = |a: u32, b: u32, size: usize| Buffer(a as usize * b as usize * size);
    let arguments = [
        bytes(m, k, 2),
        bytes(n, k, 2),
        bytes(m, n, 4),
        Null,
        Null,
        Null,
        U32(m),
        U32(n),
        U32(k),
        U32(lda),
        U32(ldb),
        U32(k),
        U32(0),
        U32(aligned),
    ];
    let grid = [m / tile.m, n / tile.n, 1];
    execute(include_str!("../../../kernels/ptx/gemm_bf16.ptx"), &kernel, grid, tile.warps() * 32, shared, &arguments)
}

#[test]
fn tiles_do_what_the_model_says() {
    for tile in &TILES {
        for layout in ["nt", "nn", "tn"] {
            let size = |k| [tile.m, tile.n, k];
            let [short, long] = [4, 12].map(|steps| gemm(tile, layout, size(steps * tile.k)));
            // Eight more steps of the hot loop.
            let step = tile.step();
            let more = |f: fn(&Counters) -> u64| (f(&long) - f(&short)) as f64 / 8.0;
            let name = format!("{} {layout}", tile.name);
            assert_eq!(more(|c| c.warp(Class::Mma)), step.mma, "{name}: mma");
            assert_eq!(more(|c| c.warp(Class::Ldmatrix)), step.ldmatrix, "{name}: ldmatrix");
            assert_eq!(more(|c| c.global_bytes_read), step.bytes, "{name}: bytes");
            assert_eq!(more(|c| c.shared_wavefronts), step.shared_clocks, "{name}: wavefronts");
            near(&format!("{name}: instructions"), more(|c| c.warp_instructions), step.instructions, [0.9, 1.3]);

            // The whole product.
            let k = f64::from(12 * tile.k);
            let product = Product { m: tile.m.into(), n: tile.n.into(), k, accumulate: false };
            let model = tiled(&A100, tile, &product, 1.0).counts;
            assert_eq!(long.warp(Class::Mma) as f64, model.mma, "{name}: all mma");
            assert_eq!(long.tensor_flops as f64, model.flops, "{name}: operations");
            assert_eq!(long.compulsory_bytes() as f64, model.dram_bytes, "{name}: all bytes");
            near(&format!("{name}: all wavefronts"), long.shared_wavefronts as f64, model.shared_clocks, [0.95, 1.1]);
            // What comes before the loop is not in the model.
            near(&format!("{name}: all instructions"), long.warp_instructions as f64, model.issue_clocks, [0.9, 1.6]);
        }
    }
}

/// A weight of 128 rows of `k` against some rows of activations.
fn few_rows(weights: Weights, kernel: &str, rows: u32, k: u32) -> (Counters, Counts) {
    let n = 128;
    let w = Buffer((f64::from(n * k) * weights.bytes()) as usize);
    let block_rows = if weights == Weights::Bf16 { 16 } else { 8 };
    let (x, y) = ((rows * k) as usize, Buffer((rows * n * 4) as usize));
    let (ptx, arguments) = if weights.is_quantised() {
        let arguments = vec![w, Buffer(x), Buffer(x / 32 * 8), y, U32(n), U32(k / 32), U32(rows), U32(0)];
        (include_str!("../../../kernels/ptx/gemv_quantised.ptx"), arguments)
    } else {
        (include_str!("../../../kernels/ptx/gemv.ptx"), vec![w, Buffer(x * 4), y, U32(n), U32(k), U32(rows)])
    };
    let counters = execute(ptx, kernel, [n / block_rows, 1, 1], 256, 0, &arguments);
    let product = Product { m: rows.into(), n: n.into(), k: k.into(), accumulate: false };
    (counters, vectors(&A100, weights, &product).1.counts)
}

#[test]
fn few_rows_do_what_the_model_says() {
    for (weights, kernel, rows) in [
        (Weights::Bf16, "gemv_bf16_t8", 8),
        (Weights::Bf16, "gemv_bf16_t16", 16),
        (Weights::F32, "gemv_f32_t1", 1),
        (Weights::F32, "gemv_f32_t8", 8),
        (Weights::Q8_0, "gemv_q8_0_t1", 1),
        (Weights::Q8_0, "gemv_q8_0_t8", 8),
        (Weights::Q4_0, "gemv_q4_0_t1", 1),
        (Weights::Q4_0, "gemv_q4_0_t8", 8),
        (Weights::Q4_1, "gemv_q4_1_t1", 1),
        (Weights::Q4_1, "gemv_q4_1_t8", 8),
    ] {
        let [(short, short_model), (long, long_model)] = [4096, 8192].map(|k| few_rows(weights, kernel, rows, k));
        near(&format!("{kernel}: bytes"), long.compulsory_bytes() as f64, long_model.dram_bytes, [0.99, 1.01]);
        assert_eq!(long.warp(Class::Mma) as f64, long_model.mma, "{kernel}: mma");
        let instructions = (long.warp_instructions - short.warp_instructions) as f64;
        let model = long_model.issue_clocks - short_model.issue_clocks;
        near(&format!("{kernel}: instructions of the loop"), instructions, model, [0.8, 1.3]);
    }
}

const HEADS: u32 = 2;

/// One sequence of two heads that share their keys.
fn attention(head_dim: u32, queries: u32) -> Attention {
    let [queries, heads, head_dim] = [queries, HEADS, head_dim].map(f64::from);
    Attention { sequences: 1.0, queries, past: 0.0, heads, kv_heads: 1.0, head_dim, tensor: true }
}

/// The forward, dq, and dk and dv: what the simulator counts and what the model does.
fn attention_kernels(d: u32, queries: u32) -> [(String, Counters, Counts); 3] {
    let forward = include_str!("../../../kernels/ptx/attention_mma.ptx");
    let backward = include_str!("../../../kernels/ptx/attention_mma_backward.ptx");
    let (q, kv, rows) = ((queries * HEADS * d) as usize, (queries * d) as usize, (queries * HEADS) as usize * 4);
    let sizes = || [U32(queries), U32(HEADS), U32(1), U32(d)];
    let (any_window, scale, no_cap) = (i32::MAX as u32, 0.125, 0.0);
    let model = attention(d, queries);

    let block = if d <= 96 { 128 } else { 64 };
    let mut arguments = vec![Buffer(q * 2), Buffer(kv * 2), Buffer(kv * 2), Null, Buffer(q * 4), Buffer(rows)];
    arguments.extend(sizes());
    arguments.extend([U32(0), U32(any_window), F32(scale), F32(no_cap)]);
    let name = format!("attention_mma_{d}");
    let counters = execute(forward, &name, [queries / block, HEADS, 1], 128, 0, &arguments);
    let first = (name, counters, model.forward().counts);

    let gradient = |name: String, outputs: Vec<Arg>, heads: u32, shared: usize, model: Counts| {
        let mut arguments =
            vec![Buffer(q * 2), Buffer(kv * 2), Buffer(kv * 2), Buffer(q * 2), Buffer(rows), Buffer(rows), Null];
        arguments.extend(outputs);
        arguments.extend(sizes());
        arguments.extend([U32(any_window), F32(scale), F32(no_cap), F32(1.0)]);
        let counters = execute(backward, &name, [queries / 64, heads, 1], 128, shared, &arguments);
        (name, counters, model)
    };
    let name = format!("attention_backward_q_mma_{d}");
    let second = gradient(name, vec![Buffer(q * 4)], HEADS, 0, model.backward_q().counts);
    let name = format!("attention_backward_kv_mma_{d}");
    let shared = (2 * 64 * d * 2 + 2 * (2 * 32 * d * 2 + 2 * 32 * 4)) as usize;
    let third = gradient(name, vec![Buffer(kv * 4), Buffer(kv * 4)], 1, shared, model.backward_kv().counts);
    [first, second, third]
}

#[test]
fn attention_does_what_the_model_says() {
    for d in [64, 96, 128] {
        let [short, long] = [256, 512].map(|queries| attention_kernels(d, queries));
        for ((name, short, short_model), (_, long, long_model)) in short.into_iter().zip(long) {
            assert_eq!(long.warp(Class::Mma) as f64, long_model.mma, "{name}: mma");
            // Fragments of a block's own rows are loaded once, which the model leaves out.
            let all = |f: fn(&Counters) -> u64| f(&long) as f64;
            near(&format!("{name}: ldmatrix"), all(|c| c.warp(Class::Ldmatrix)), long_model.ldmatrix, [1.0, 1.1]);
            near(&format!("{name}: wavefronts"), all(|c| c.shared_wavefronts), long_model.shared_clocks, [0.95, 1.2]);
            near(&format!("{name}: bytes"), all(Counters::compulsory_bytes), long_model.dram_bytes, [0.97, 1.03]);
            // Twice as long a sequence has twice the blocks and tiles on the diagonal, and more tiles below it: those are left.
            let below = long.warp_instructions as f64 - 2.0 * short.warp_instructions as f64;
            let model = long_model.issue_clocks - 2.0 * short_model.issue_clocks;
            near(&format!("{name}: instructions below the diagonal"), below, model, [0.8, 1.4]);
        }
    }
}
