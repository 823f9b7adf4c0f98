//! Ten steps of AdamW against PyTorch's (`fixtures/golden`), through the trainer, on every backend; and the first loss of distillation.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{FAMILIES, Figures, Golden, backends, model};
use paring_ops::Backend;
use paring_optim::{AdamW, Schedule};
use paring_tensor::DType;
use paring_train::{Error, Objective, TrainConfig, Trainer};

/// Relative. Adam turns the rounding of gradients that are nearly zero into steps of full size; in ten steps that gives 1.2e-6.
const BOUND: f64 = 5e-6;

/// Settings of make_golden.py: decay on every parameter, no clipping, a constant rate.
fn config(recompute: bool) -> TrainConfig {
    TrainConfig {
        schedule: Schedule { peak: 1e-3, floor: 1e-3, warmup: 0, total: 10 },
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 },
        decay_vectors: true,
        clip: 0.0,
        dtype: DType::F32,
        moments: DType::F32,
        recompute,
    }
}

fn trainer<'b>(backend: &'b dyn Backend, golden: &Golden, recompute: bool) -> Trainer<'b> {
    let read =
        |p: &paring_model::ParamSpec| golden.opened.source().read_checked(&p.name).map_err(|e| Error::Model(e.into()));
    Trainer::new(backend, golden.arch().clone(), config(recompute), read).unwrap()
}

#[test]
fn ten_steps_have_the_losses_of_pytorch() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        let want = golden.get("adamw_losses");
        assert_eq!(want.len(), 10);
        for (name, backend) in backends() {
            let mut figures = Figures::new(&format!("{family}, {name}"));
            let mut losses = Vec::new();
            for recompute in [false, true] {
                let mut trainer = trainer(&*backend, &golden, recompute);
                for (i, &want) in want.iter().enumerate() {
                    let report = trainer.train_step(&[golden.batch()], Objective::NextToken).unwrap();
                    let off = ((report.loss - f64::from(want)) / f64::from(want)).abs();
                    figures.check("AdamW losses", &format!("step {i}"), off, BOUND);
                    assert_eq!((report.lr, report.tokens), (1e-3, 96));
                    losses.push(report.loss.to_bits());
                }
            }
            let (kept, recomputed) = losses.split_at(10);
            assert_eq!(kept, recomputed, "{family}, {name}");
        }
    }
}

#[test]
fn the_first_loss_of_distillation_is_the_divergence_of_pytorch() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        for (name, backend) in backends() {
            let mut scaled = golden.values();
            scaled.iter_mut().flat_map(|(_, values)| values).for_each(|v| *v *= 1.05);
            let teacher = model(&*backend, golden.arch(), &scaled, DType::F32);
            let report = trainer(&*backend, &golden, false)
                .train_step(&[golden.batch()], Objective::ForwardKl(&teacher))
                .unwrap();
            let want = golden.scalar("kd_loss");
            let off = ((report.loss - want) / want).abs();
            Figures::new(&format!("{family}, {name}")).check("KL", "of the trainer", off, 1e-5);
        }
    }
}
