//! Single operations of the CPU backend at the shapes of SmolLM2-135M (hidden 576, FFN 1536, 9 heads on 3, vocabulary 49152), as cases of
//! the table that the backend is checked with: operands, operations and bytes are what `paring_conformance` says.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench stops at the first surprise; criterion's macros make public items"
)]
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paring_conformance::{Case, Op, Values, Wanted};
use paring_cpu::Cpu;
use paring_ops::{Accum, Activation, AttnSpec};
use paring_tensor::DType;

/// Tokens of a step, and by how much shapes shrink: in the gate every bench runs once, in a profile that is not optimised throughout.
fn scale() -> (usize, usize) {
    // `cargo bench` passes `--bench`; without it criterion runs each bench once.
    if std::env::args().any(|a| a == "--bench") { (512, 1) } else { (20, 6) }
}

/// Benches `op` as `name` of its method's group, by operations or, where memory is the limit, by bytes.
fn bench(c: &mut Criterion, cpu: &Cpu, name: &str, op: Op) {
    let case = Case::new(op, Values::Normal);
    let by_bytes = case.flops() < 8.0 * case.bytes().unwrap();
    let mut group = c.benchmark_group(format!("{} ({})", case.op.name(), if by_bytes { "bytes/s" } else { "FLOP/s" }));
    // Criterion's "elements" are operations here.
    group.throughput(match by_bytes {
        true => Throughput::Bytes(case.bytes().unwrap() as u64),
        false => Throughput::Elements(case.flops() as u64),
    });
    group.sample_size(10);
    let mut prepared = case.prepare(cpu).unwrap();
    group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| prepared.run().unwrap()));
    group.finish();
}

fn products(c: &mut Criterion) {
    let (cpu, (t, s)) = (Cpu::new(None).unwrap(), scale());
    for (name, n, k) in [("gate_proj", 1536, 576), ("down_proj", 576, 1536), ("lm_head", 49152, 576)] {
        // Whole blocks of quantised types.
        let (n, k) = (n / s / 32 * 32, k / s / 32 * 32);
        for dtype in [DType::F32, DType::BF16] {
            let name = format!("{name} {dtype}");
            bench(c, &cpu, &name, Op::Linear { t, k, n, dtype });
            bench(c, &cpu, &name, Op::LinearDx { t, k, n, dtype, accum: Accum::Set });
            bench(c, &cpu, &name, Op::LinearDw { t, k, n, dtype });
            bench(c, &cpu, &format!("{name}, one row"), Op::Linear { t: 1, k, n, dtype });
        }
        for dtype in DType::QUANTISED {
            bench(c, &cpu, &format!("{name} {dtype}"), Op::Linear { t, k, n, dtype });
            bench(c, &cpu, &format!("{name} {dtype}, one row"), Op::Linear { t: 1, k, n, dtype });
        }
    }
}

fn attention(c: &mut Criterion) {
    let (cpu, (t, _)) = (Cpu::new(None).unwrap(), scale());
    let spec = AttnSpec::packed(9, 3, 64, vec![0, t]);
    let decode = AttnSpec { past: t - 1, ..AttnSpec::packed(9, 3, 64, vec![0, 1]) };
    bench(c, &cpu, "one sequence", Op::Attention { spec: spec.clone(), spare: 0 });
    bench(c, &cpu, "one query", Op::Attention { spec: decode, spare: 0 });
    bench(c, &cpu, "one sequence", Op::AttentionBackward { spec });
    bench(c, &cpu, "queries", Op::Rope { t, heads: 9, h: 64, inverse: false });
}

fn heads(c: &mut Criterion) {
    let (cpu, (t, s)) = (Cpu::new(None).unwrap(), scale());
    let (v, d, e, dtype) = (49152 / s, 576 / s, 576 / s, DType::BF16);
    for (name, wanted) in [("value", Wanted::Loss), ("value and gradients", Wanted::DxDw)] {
        bench(c, &cpu, name, Op::HeadCrossEntropy { t, d, v, dtype, wanted, ignore_every: 0 });
        bench(c, &cpu, name, Op::HeadKl { t, d, e, v, dtype, wanted });
    }
}

fn rows(c: &mut Criterion) {
    let (cpu, (t, s)) = (Cpu::new(None).unwrap(), scale());
    let (d, dtype, n, act) = (576 / s, DType::F32, t * 1536 / s, Activation::Silu);
    bench(c, &cpu, "hidden", Op::RmsNorm { t, d, dtype });
    bench(c, &cpu, "hidden", Op::RmsNormBackward { t, d, dtype, accum: Accum::Set });
    bench(c, &cpu, "hidden", Op::AddRmsNorm { t, d, dtype });
    bench(c, &cpu, "ffn", Op::Gated { n, act });
    bench(c, &cpu, "ffn", Op::GatedBackward { n, act });
    bench(c, &cpu, "embedding", Op::Embed { t, v: 49152 / s, d, dtype });
    let n = 576 * 1536 / s;
    bench(c, &cpu, "f32", Op::AdamW { n, moments: DType::F32 });
    bench(c, &cpu, "bf16 and what it lacks", Op::AdamWSplit { n, moments: DType::F32 });
    bench(c, &cpu, "a matrix", Op::SumSquares { n });
}

criterion_group!(benches, products, attention, heads, rows);
criterion_main!(benches);
