//! Single operations of the CPU backend at the shapes of SmolLM2-135M (hidden 576, FFN 1536, 9 heads on 3, vocabulary 49152).
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench stops at the first surprise; criterion's macros make public items"
)]
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paring_cpu::Cpu;
use paring_ops::{Accum, Activation, AttnSpec, Backend, HeadGrads};
use paring_sampling::rng::Rng;
use paring_tensor::{DType, Shape, Tensor};
use std::hint::black_box;

/// Tokens of a step, and by how much shapes shrink: in the gate every bench runs once, in a profile that is not optimised throughout.
fn scale() -> (usize, usize) {
    // `cargo bench` passes `--bench`; without it criterion runs each bench once.
    if std::env::args().any(|a| a == "--bench") { (512, 1) } else { (16, 8) }
}

fn tensor(cpu: &Cpu, stream: u64, dtype: DType, dims: [usize; 2]) -> Tensor {
    let rng = Rng::new(1);
    let values: Vec<f32> = (0..dims[0] * dims[1]).map(|i| rng.normal(stream, i as u64) as f32).collect();
    cpu.upload(&values, dtype, Shape::new(&dims).unwrap()).unwrap()
}

/// Throughput in floating-point operations: criterion's "elements" are operations here.
fn flops(n: usize) -> Throughput {
    Throughput::Elements(n as u64)
}

fn linear(c: &mut Criterion) {
    let (cpu, (t, s)) = (Cpu::new(None).unwrap(), scale());
    let mut group = c.benchmark_group("linear (FLOP/s)");
    for (name, n, k) in
        [("gate_proj", 1536 / s, 576 / s), ("down_proj", 576 / s, 1536 / s), ("lm_head", 49152 / s, 576 / s)]
    {
        for dtype in [DType::F32, DType::BF16] {
            let (x, w, dy) = (
                tensor(&cpu, 1, DType::F32, [t, k]),
                tensor(&cpu, 2, dtype, [n, k]),
                tensor(&cpu, 3, DType::F32, [t, n]),
            );
            let mut y = cpu.alloc(DType::F32, dy.shape()).unwrap();
            let mut dx = cpu.alloc(DType::F32, x.shape()).unwrap();
            let mut dw = cpu.zeros(DType::F32, w.shape()).unwrap();
            group.throughput(flops(2 * t * n * k));
            group.bench_function(format!("{name} forward {dtype}"), |b| {
                b.iter(|| cpu.linear(&mut y, black_box(&x), &w).unwrap())
            });
            group.bench_function(format!("{name} dx {dtype}"), |b| {
                b.iter(|| cpu.linear_dx(&mut dx, Accum::Set, black_box(&dy), &w).unwrap());
            });
            group.bench_function(format!("{name} dw {dtype}"), |b| {
                b.iter(|| cpu.linear_dw(&mut dw, black_box(&dy), &x, dtype).unwrap());
            });
        }
        // One row: decoding.
        let (x, w) = (tensor(&cpu, 1, DType::F32, [1, k]), tensor(&cpu, 2, DType::BF16, [n, k]));
        let mut y = cpu.alloc(DType::F32, Shape::new(&[1, n]).unwrap()).unwrap();
        group.throughput(flops(2 * n * k));
        group.bench_function(format!("{name} one row bf16"), |b| {
            b.iter(|| cpu.linear(&mut y, black_box(&x), &w).unwrap())
        });
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let (cpu, (t, _)) = (Cpu::new(None).unwrap(), scale());
    let spec = AttnSpec::packed(9, 3, 64, vec![0, t]);
    let [q, y0, dy] = [1, 2, 3].map(|i| tensor(&cpu, i, DType::F32, [t, spec.q_cols()]));
    let [k, v] = [4, 5].map(|i| tensor(&cpu, i, DType::F32, [t, spec.kv_cols()]));
    let mut lse = cpu.alloc(DType::F32, Shape::new(&[t, spec.heads]).unwrap()).unwrap();
    let mut y = y0;
    let mut group = c.benchmark_group("attention (FLOP/s)");
    // Half of the scores are masked and never computed.
    group.throughput(flops(2 * t * t * spec.q_cols()));
    group.bench_function("forward", |b| {
        b.iter(|| cpu.attention(&mut y, &mut lse, black_box(&q), &k, &v, &spec).unwrap())
    });
    let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| cpu.alloc(DType::F32, x.shape()).unwrap());
    group.throughput(flops(5 * t * t * spec.q_cols()));
    group.bench_function("backward", |b| {
        b.iter(|| {
            cpu.attention_backward(&mut dq, &mut dk, &mut dv, black_box(&dy), &y, &lse, &q, &k, &v, &spec).unwrap()
        });
    });
    group.finish();
}

fn head(c: &mut Criterion) {
    let (cpu, (t, s)) = (Cpu::new(None).unwrap(), scale());
    let (v, d) = (49152 / s, 576 / s);
    let [x, tx] = [1, 2].map(|i| tensor(&cpu, i, DType::F32, [t, d]));
    let [w, tw] = [3, 4].map(|i| tensor(&cpu, i, DType::BF16, [v, d]));
    let mut dx = cpu.alloc(DType::F32, x.shape()).unwrap();
    let mut dw = cpu.zeros(DType::F32, w.shape()).unwrap();
    let mut group = c.benchmark_group("head (tokens/s)");
    group.throughput(Throughput::Elements(t as u64));
    group.sample_size(10);
    group.bench_function("KL with gradients", |b| {
        b.iter(|| {
            let grads = HeadGrads { dx_td: &mut dx, dw_vd: Some(&mut dw) };
            cpu.head_kl(Some(grads), black_box(&x), &w, &tx, &tw, 1.0).unwrap()
        });
    });
    let targets: Vec<u32> = (0..t as u32).map(|i| i * 7 % v as u32).collect();
    group.bench_function("cross-entropy, value only", |b| {
        b.iter(|| cpu.head_cross_entropy(None, black_box(&x), &w, &targets, 1.0).unwrap());
    });
    group.finish();
}

fn rows(c: &mut Criterion) {
    let (cpu, (t, _)) = (Cpu::new(None).unwrap(), scale());
    let [x, up] = [1, 2].map(|i| tensor(&cpu, i, DType::F32, [t, 1536]));
    let w = tensor(&cpu, 3, DType::F32, [1, 1536]);
    let [mut y, mut other] = [0; 2].map(|_| cpu.zeros(DType::F32, x.shape()).unwrap());
    let mut rstd = cpu.alloc(DType::F32, Shape::new(&[t, 1]).unwrap()).unwrap();
    let mut group = c.benchmark_group("rows (bytes/s)");
    group.throughput(Throughput::Bytes((3 * 4 * t * 1536) as u64));
    group.bench_function("swiglu", |b| b.iter(|| cpu.gated(&mut y, Activation::Silu, black_box(&x), &up).unwrap()));
    group.throughput(Throughput::Bytes((2 * 4 * t * 1536) as u64));
    group.bench_function("rms_norm", |b| b.iter(|| cpu.rms_norm(&mut y, &mut rstd, black_box(&x), &w, 1e-5).unwrap()));
    group.throughput(Throughput::Bytes((7 * 4 * t * 1536) as u64));
    let (mut m, mut v) = (cpu.zeros(DType::F32, x.shape()).unwrap(), cpu.zeros(DType::F32, x.shape()).unwrap());
    let step = paring_optim::AdamW::default().step(1e-4, 1);
    group.bench_function("adamw", |b| b.iter(|| cpu.adamw(&mut other, &mut m, &mut v, black_box(&x), &step).unwrap()));
    group.finish();
}

criterion_group!(benches, linear, attention, head, rows);
criterion_main!(benches);
