//! Whole steps of a small model: calibration, distillation, decoding; and the closed-form repair of one layer.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench stops at the first surprise; criterion's macros make public items"
)]
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use paring_calibrate::Importance;
use paring_cpu::Cpu;
use paring_engine::{Request, generate};
use paring_exec::Ctx;
use paring_model::{Arch, Batch, Model, params};
use paring_ops::Backend;
use paring_optim::{AdamW, Schedule};
use paring_sampling::{Sampler, rng::Rng};
use paring_tensor::{DType, Shape};
use paring_train::{Objective, TrainConfig, Trainer, initial_values};

/// The architecture of the embedded teacher; in the gate a smaller one, for every bench runs once there.
fn arch() -> (Arch, usize) {
    let full = std::env::args().any(|a| a == "--bench");
    let (layers, hidden, ffn, context) = if full { (8, 192, 576, 256) } else { (2, 48, 96, 32) };
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": hidden / 6, "vocab_size": 4096, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 1024, "tie_word_embeddings": true,
    });
    (Arch::from_config(&config).unwrap(), context)
}

fn model(cpu: &Cpu, arch: &Arch, seed: u64) -> Model {
    let tensors = params(arch).into_iter().map(|p| {
        let dtype = if p.shape.len() == 1 { DType::F32 } else { DType::BF16 };
        cpu.upload(&initial_values(arch, &p, seed), dtype, Shape::new(&p.shape).unwrap()).unwrap()
    });
    Model::from_tensors(arch.clone(), cpu, tensors.collect()).unwrap()
}

fn batch(windows: usize, context: usize) -> Batch {
    let rng = Rng::new(7);
    let ids: Vec<u32> = (0..windows * context).map(|i| rng.below(0, i as u64, 4096) as u32).collect();
    Batch::pack(ids.chunks(context))
}

fn steps(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let (arch, context) = arch();
    let (teacher, batch) = (model(&cpu, &arch, 1), batch(8, context));
    let mut group = c.benchmark_group("steps (tokens/s)");
    group.sample_size(10);
    group.throughput(Throughput::Elements(batch.n_tokens() as u64));
    group.bench_function("plain forward", |b| b.iter(|| teacher.hidden(&mut Ctx::infer(&cpu), &batch, None).unwrap()));
    group.bench_function("calibration", |b| {
        b.iter(|| {
            let mut importance = Importance::new(&arch).unwrap();
            importance.begin(&batch);
            teacher.hidden(&mut Ctx::infer(&cpu).observe(&mut importance), &batch, None).unwrap();
            importance.into_set()
        });
    });
    for dtype in [DType::F32, DType::BF16] {
        let config = TrainConfig {
            schedule: Schedule { peak: 1e-4, floor: 1e-5, warmup: 0, total: 1000 },
            adamw: AdamW::default(),
            decay_vectors: false,
            clip: 1.0,
            dtype,
            moments: DType::F32,
            recompute: false,
        };
        let values = |p: &paring_model::ParamSpec| Ok::<_, paring_train::Error>(initial_values(&arch, p, 2));
        let mut student = Trainer::new(&cpu, arch.clone(), config, values).unwrap();
        let batches = [batch.clone()];
        group.bench_function(format!("distillation, equal-size student, {dtype}"), |b| {
            b.iter(|| student.train_step(&batches, Objective::ForwardKl(&teacher)).unwrap());
        });
    }
    let tokens = context.min(64);
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function("decode, greedy, bf16", |b| {
        let request =
            Request { prompt: vec![1, 2, 3], max_tokens: tokens, sampler: Sampler::greedy(), stop: Vec::new() };
        b.iter(|| generate(&cpu, &teacher, &request, &mut |_| true).unwrap());
    });
    group.finish();
}

fn repair(c: &mut Criterion) {
    let full = std::env::args().any(|a| a == "--bench");
    let (inputs, outputs) = if full { (576, 192) } else { (48, 16) };
    let rng = Rng::new(3);
    let x = ndarray::Array2::from_shape_fn((4 * inputs, inputs), |(t, f)| rng.normal(f as u64, t as u64) as f32);
    let gram: Vec<f32> = x.t().dot(&x).into_iter().collect();
    let w: Vec<f32> = (0..inputs * outputs).map(|i| rng.normal(99, i as u64) as f32).collect();
    let kept: Vec<usize> = (0..inputs).step_by(2).collect();
    c.bench_function("least squares of one layer", |b| {
        b.iter(|| paring_prune::least_squares(&gram, inputs, &w, &kept, &paring_prune::Ridge::default()).unwrap());
    });
}

criterion_group!(benches, steps, repair);
criterion_main!(benches);
